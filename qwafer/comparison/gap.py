"""How much of the gap between two methods a third one closes, from paired scores."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_interval
from qwafer._errors import InputError


@dataclass(frozen=True)
class RecoveredGap:
    """Means over n pairs, and the share with its interval; None where the gap is not shown to be positive."""

    n: int
    gap: float
    """Mean of ceiling - baseline."""
    gain: float
    """Mean of arm - baseline."""
    share: float | None
    """`gain` / `gap`."""
    low: float | None
    high: float | None
    level: float


@shaped()
def recovered_gap(
    baseline: Float[np.ndarray, " n"],
    arm: Float[np.ndarray, " n"],
    ceiling: Float[np.ndarray, " n"],
    *,
    level: float = 0.95,
) -> RecoveredGap:
    """Return the share (arm - baseline) / (ceiling - baseline) of the gap that `arm` closes, for scores of n pairs.

    With d_i = arm_i - baseline_i and g_i = ceiling_i - baseline_i the share is mean(d) / mean(g), and its interval the
    values r for which Student's test does not reject that d_i - r g_i has mean 0 (Fieller 1954): a ratio of means has
    no interval where its denominator may be 0. A ceiling that is one number for all pairs, as the score of one teacher,
    is taken as known: the interval says nothing of other teachers.

    Raises InputError for fewer than two pairs.
    """
    from scipy.special import stdtrit

    check_interval("level", level, 0, 1, open_low=True, open_high=True)
    n = len(baseline)
    if n < 2:
        raise InputError(f"`baseline` must hold at least 2 scores, got {n}")
    gains, gaps = arm - baseline, ceiling - baseline
    unit = float(max(np.abs(gains).max(), np.abs(gaps).max())) or 1.0  # the share has none, and squares may overflow
    d, g = gains / unit, gaps / unit
    (s_dd, s_dg), (_, s_gg) = np.cov(d, g).tolist()
    t2 = float(stdtrit(n - 1, (1 - level) / 2)) ** 2 / n
    gain, gap = float(d.mean()), float(g.mean())
    a, b, c = gap**2 - t2 * s_gg, gain * gap - t2 * s_dg, gain**2 - t2 * s_dd
    if gap <= 0 or a <= 0:
        return RecoveredGap(n, gap * unit, gain * unit, None, None, None, level)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return RecoveredGap(n, gap * unit, gain * unit, gain / gap, (b - root) / a, (b + root) / a, level)
