"""What reviews say of all answers: engineers see the doubtful ones and a draw of the others, each weighed as it is."""

import math
from dataclasses import dataclass

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
    """Lower end of the interval; see `reviewed_accuracy`."""
    high: float
    """Upper end."""


def reviewed_accuracy(window: Window, alpha: float = 0.05) -> Reviewed:
    """Return the accuracy of all answers of a window, with an interval of level 1 - `alpha`.

    Reviews of flagged answers tell of flagged ones alone, which are the hard ones: their share of right answers is not
    that of the model. Answers that were not flagged are judged by those that were drawn for the audit; reviews that
    somebody volunteered do not count. Each stratum has a Clopper-Pearson interval of level 1 - alpha / 2 (1 - alpha
    for one stratum), and the ends add up with the weights (Bonferroni); a stratum without a review has (0, 1).
    """
    from scipy.special import betaincinv

    counted = window.counted
    right = counted & (window.predictions == window.labels)
    total, estimate, low, high = len(window), 0.0, 0.0, 0.0
    strata = [part for part in (window.flagged, ~window.flagged) if part.any()]
    for part in strata:
        share, n, hits = part.sum() / total, int((counted & part).sum()), int((right & part).sum())
        tail = alpha / 2 / len(strata)
        estimate += share * (hits / n if n else math.nan)
        low += share * (float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0)
        high += share * (float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0)
    if not total:
        return Reviewed(0, 0, math.nan, 0.0, 1.0)
    return Reviewed(total, int(counted.sum()), float(estimate), float(low), float(high))


def look(n: int) -> int | None:
    """Return the number 0, 1, ... of the look that is taken at `n` reviews: at 50, 100, 200, ...; None: none is."""
    number = math.log2(n / FIRST_LOOK) if n >= FIRST_LOOK else -1
    return int(number) if number >= 0 and number == int(number) else None


def look_alpha(number: int, alpha: float = ALPHA) -> float:
    """Return the level of the look `number`: alpha / ((k + 1) (k + 2)), which add up to `alpha` over all looks."""
    return alpha / ((number + 1) * (number + 2))


def falls_below(window: Window, baseline: float) -> Reviewed | None:
    """Return the accuracy of a window where its reviews show, at the look that is due, that it is below `baseline`.

    None where no look is due, or the upper end of the interval at the level of the look is not below. Whatever the
    number of looks, it is wrong with a probability of at most `ALPHA`.
    """
    number = look(int(window.counted.sum()))
    if number is None:
        return None
    found = reviewed_accuracy(window, 2 * look_alpha(number))  # one-sided
    return found if found.high < baseline else None
