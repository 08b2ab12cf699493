"""When a metric of one label means nothing: what is looked at, within which bounds, and the words for it.

Degenerate scores never abort anything. Ranking metrics of constant scores stay valid (they say 0.5); metrics at
thresholds do not, and are marked.
"""

import numpy as np
from numpy.typing import NDArray

from qwafer.evaluation.metrics import Floats

EXTREME_RATE = 0.005
"""A predicted-positive rate below this, or above 1 minus it, is extreme unless the prevalence is extreme too."""
PREVALENCE_SHARE = 0.1
"""Of a rare class (or of a rare rest) at least this share of its prevalence must be predicted."""
CONSTANT_RANGE = 1e-6
"""Scores whose range is at most this, relative to max(1, largest magnitude), are constant."""

LARGEST = 1e100
"""Scores beyond this overflow in the sums of squares that calibration takes."""


def score_reasons(scores: Floats, labels: NDArray[np.bool_]) -> list[str]:
    """Return what makes the scores (N,) of one label with truth `labels` (N,) degenerate, whatever the threshold."""
    reasons = []
    n_pos = int(labels.sum())
    if n_pos == 0:
        reasons.append("no positive example")
    if n_pos == len(labels):
        reasons.append("no negative example")
    if not np.isfinite(scores).all():
        reasons.append("scores are not finite")
    elif np.abs(scores).max() > LARGEST:
        reasons.append(f"scores are beyond {LARGEST:g}")
    elif np.ptp(scores) <= CONSTANT_RANGE * max(1.0, float(np.abs(scores).max())):
        reasons.append("scores are constant")
    return reasons


def rate_reasons(rate: float, labels: NDArray[np.bool_], what: str) -> list[str]:
    """Return whether the predicted-positive rate is extreme: below min(0.005, prevalence / 10), or the same of the
    negatives.

    So a class of prevalence 5% or more may not be predicted for fewer than 0.5% of the examples, and of a rarer class
    at least a tenth of its prevalence must be predicted; the share that is predicted negative has the same bounds. A
    class that is absent has no bound.
    """
    prevalence = float(np.mean(labels))
    if prevalence > 0 and rate < min(EXTREME_RATE, PREVALENCE_SHARE * prevalence):
        return [f"predicted-positive rate {rate:.2%} at {what}, prevalence {prevalence:.2%}"]
    if prevalence < 1 and 1 - rate < min(EXTREME_RATE, PREVALENCE_SHARE * (1 - prevalence)):
        return [f"predicted-positive rate {rate:.2%} at {what}, prevalence {prevalence:.2%}"]
    return []
