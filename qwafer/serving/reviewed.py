"""What reviews say of all answers: engineers see the doubtful ones and a draw of the others, each weighed as it is."""

import math
from dataclasses import dataclass

import numpy as np

from qwafer.serving.store import Window

FIRST_LOOK = 50
"""Reviews at the first look of a sequence; each next one is at twice as many."""
ALPHA = 0.01
"""Probability that any look of a sequence is wrong."""


@dataclass(frozen=True)
class Reviewed:
    """The share of right answers, over all answers, from reviews of some."""

    n_answers: int
    """Answers."""
    n_reviews: int
    """Reviews that count: of flagged answers, and of those that were drawn."""
    estimate: float
    """sum_h W_h r_h / n_h over the strata flagged and not flagged, W_h the share of the answers; NaN where a stratum
    with answers has no review."""
    low: float
    """Lower end of the interval; see `accuracy_bounds`."""
    high: float
    """Upper end."""


def reviewed_accuracy(window: Window, alpha: float = 0.05) -> Reviewed:
    """Return the accuracy of all answers of a window, with an interval of level 1 - `alpha`.

    Reviews of flagged answers tell of flagged ones alone, which are the hard ones: their share of right answers is not
    that of the model. Answers that were not flagged are judged by those that were drawn for the audit; reviews that
    somebody volunteered do not count.
    """
    right = window.counted & (window.predictions == window.labels)
    strata = [~window.flagged, window.flagged]
    return accuracy_of(
        np.array([[(part & of).sum() for of in (part, window.counted, right)] for part in strata]), alpha
    )


def accuracy_of(tally: np.ndarray, alpha: float = 0.05) -> Reviewed:
    """Return the accuracy of all answers of a tally (2, 3), with an interval of level 1 - `alpha`; see
    `accuracy_bounds`.
    """
    estimate, low, high = (float(value) for value in accuracy_bounds(tally, alpha))
    return Reviewed(int(tally[:, 0].sum()), int(tally[:, 1].sum()), estimate, low, high)


def accuracy_bounds(tally: np.ndarray, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return estimate, lower and upper end, each (...), for tallies (..., 2, 3): of the answers that were not flagged
    and of those that were, how many there are, how many reviews of them count, and how many of these say right.

    Each stratum has a Clopper-Pearson interval of level 1 - alpha / 2 (1 - alpha for one stratum with answers alone),
    and the ends add up with the shares of the answers (Bonferroni); a stratum without a review has (0, 1).
    """
    from scipy.special import betaincinv

    answers, n, hits = np.moveaxis(np.asarray(tally, np.float64), -1, 0)
    total = answers.sum(axis=-1)
    share = answers / np.maximum(total, 1)[..., None]
    tail = alpha / 2 / np.maximum((answers > 0).sum(axis=-1), 1)[..., None]
    rate = np.where(n > 0, hits / np.maximum(n, 1), np.where(answers > 0, math.nan, 0.0))
    lows = np.where(hits > 0, betaincinv(np.maximum(hits, 1), n - hits + 1, tail), 0.0)
    highs = np.where(hits < n, betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - tail), 1.0)
    estimate, low, high = ((share * part).sum(axis=-1) for part in (rate, lows, highs))
    return np.where(total > 0, estimate, math.nan), low, np.where(total > 0, high, 1.0)


def look(n: int) -> int | None:
    """Return the number 0, 1, ... of the look that is taken at `n` reviews: at 50, 100, 200, ...; None: none is."""
    number = math.log2(n / FIRST_LOOK) if n >= FIRST_LOOK else -1
    return int(number) if number >= 0 and number == int(number) else None


def look_alpha(number: int, alpha: float = ALPHA) -> float:
    """Return the level of the look `number`: alpha / ((k + 1) (k + 2)), which add up to `alpha` over all looks."""
    return alpha / ((number + 1) * (number + 2))
