"""What reviews say of all answers: engineers see the doubtful ones and a draw of the others, each weighed as it is."""

import math
from dataclasses import dataclass

import numpy as np

from qwafer.evaluation.intervals import clopper_pearson
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


def accuracy_of(tally: np.ndarray, alpha: float = 0.05, *, to_come: bool = False) -> Reviewed:
    """Return the accuracy of all answers of a tally (2, 3), with an interval of level 1 - `alpha`; see
    `accuracy_bounds`.
    """
    estimate, low, high = (float(value) for value in accuracy_bounds(tally, alpha, to_come=to_come))
    return Reviewed(int(tally[:, 0].sum()), int(tally[:, 1].sum()), estimate, low, high)


def accuracy_bounds(
    tally: np.ndarray, alpha: float = 0.05, *, to_come: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return estimate, lower and upper end, each (...), for tallies (..., 2, 3): of the answers that were not flagged
    and of those that were, how many there are, how many reviews of them count, and how many of these say right.

    Each stratum has a Clopper-Pearson interval, and the ends add up with the shares of the strata; a stratum without a
    review has (0, 1). The intervals share `alpha` (Bonferroni): evenly among the strata with answers, where the
    accuracy is that of these very answers. That of answers `to_come` depends on their share of flagged ones, too, which
    is drawn as well: the strata have two fifths of `alpha` each, and the share has a Clopper-Pearson interval of level
    1 - alpha / 5, of which the end counts that makes the interval longer.
    """
    answers, n, hits = np.moveaxis(np.asarray(tally, np.float64), -1, 0)
    total = answers.sum(axis=-1)
    flagged = answers[..., 1] / np.maximum(total, 1)
    rate = np.where(n > 0, hits / np.maximum(n, 1), np.where(answers > 0, math.nan, 0.0))
    strata = np.maximum((answers > 0).sum(axis=-1), 1)
    tail = 0.2 * alpha if to_come else alpha / 2 / strata[..., None]
    lows, highs = clopper_pearson(hits, n, tail)
    shares = clopper_pearson(answers[..., 1], total, 0.05 * alpha) if to_come else (flagged, flagged)
    low, high = (_mixed(ends, shares, longer) for ends, longer in ((lows, np.minimum), (highs, np.maximum)))
    estimate = _mixed(rate, (flagged, flagged), np.maximum)
    return np.where(total > 0, estimate, math.nan), np.where(total > 0, low, 0.0), np.where(total > 0, high, 1.0)


def _mixed(values: np.ndarray, shares: tuple[np.ndarray, np.ndarray], longer: np.ufunc) -> np.ndarray:
    """Return (1 - w) values[0] + w values[1] at the share w of flagged answers that makes an interval longer."""
    first, second = ((1 - w) * values[..., 0] + w * values[..., 1] for w in shares)
    return np.asarray(longer(first, second))


def below(tally: np.ndarray, baseline: float, number: int) -> tuple[Reviewed, bool]:
    """Return the accuracy that a tally (2, 3) shows at the look `number`, and whether it is below `baseline`.

    The upper end of `accuracy_bounds` for answers `to_come` is to be below, one-sided at `look_alpha`: all looks
    together are wrong with a probability of at most `ALPHA`, if wafers are independent.
    """
    found = accuracy_of(tally, 2 * look_alpha(number), to_come=True)
    return found, found.high < baseline


def look(n: int) -> int | None:
    """Return the number 0, 1, ... of the look that is taken at `n` reviews: at 50, 100, 200, ...; None: none is."""
    number = math.log2(n / FIRST_LOOK) if n >= FIRST_LOOK else -1
    return int(number) if number >= 0 and number == int(number) else None


def look_alpha(number: int, alpha: float = ALPHA) -> float:
    """Return the level of the look `number`: alpha / ((k + 1) (k + 2)), which add up to `alpha` over all looks."""
    return alpha / ((number + 1) * (number + 2))
