"""BCa bootstrap intervals (Efron 1987), equal to SciPy's on the same resamples, and exact ones of a share."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._checks import check_interval, check_positive_int
from qwafer.evaluation.metrics import Floats

_CHUNK = 1 << 21  # resampled values held at once: bounds the memory, does not change a number


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    estimate: float
    """The statistic of the data."""
    low: float
    """Lower end; NaN where the interval is not defined."""
    high: float
    """Upper end; NaN where the interval is not defined."""
    level: float
    """Nominal coverage."""
    n_resamples: int
    """Bootstrap resamples drawn."""
    standard_error: float
    """Standard deviation of the statistic over the resamples."""
    degenerate: bool
    """Whether the interval is undefined, has no width, or rests on fewer resamples than drawn."""
    reason: str
    """Why; empty where nothing is wrong."""


def bca_from_replicates(estimate: float, replicates: Floats, jackknife: Floats, level: float = 0.95) -> Interval:
    """Return the BCa interval from theta, its bootstrap replicates (B,) and its leave-one-out values (n,).

    Replicates that are NaN (a resample without one of the classes, say) are left out, and that is marked.
    """
    from scipy.special import ndtr, ndtri

    drawn = len(replicates)
    defined = replicates[~np.isnan(replicates)]
    jackknife = jackknife[~np.isnan(jackknife)]
    if np.isnan(estimate) or len(defined) < 2 or len(jackknife) < 2:
        return Interval(estimate, np.nan, np.nan, level, drawn, np.nan, True, "the statistic is not defined")
    error = float(np.std(defined, ddof=1))
    if np.ptp(defined) <= 8 * np.finfo(np.float64).eps * np.abs(defined).max():
        return Interval(
            estimate, estimate, estimate, level, drawn, error, True, "the statistic is equal in all resamples"
        )
    reasons = []
    if len(defined) < drawn:
        reasons.append(f"{drawn - len(defined)} of {drawn} resamples have no value")
    below = (np.count_nonzero(defined < estimate) + np.count_nonzero(defined <= estimate)) / (2 * len(defined))
    if not 0 < below < 1:
        reasons.append("the estimate lies outside its bootstrap distribution")
        return Interval(estimate, np.nan, np.nan, level, drawn, error, True, "; ".join(reasons))
    z0 = float(ndtri(below))
    n = len(jackknife)
    influence = (n - 1) * (jackknife.mean() - jackknife)
    spread = float(np.sum(influence**2) / n**2)
    if spread > 0:
        acceleration = float(np.sum(influence**3) / n**3) / 6 / spread**1.5
    else:
        acceleration = 0.0
        reasons.append("no observation changes the statistic when left out: no acceleration")
    z = z0 + float(ndtri((1 - level) / 2)) * np.array([1.0, -1.0])
    ends = np.quantile(defined, ndtr(z0 + z / (1 - acceleration * z)))
    return Interval(estimate, float(ends[0]), float(ends[1]), level, drawn, error, bool(reasons), "; ".join(reasons))


def resample_indices(n: int, n_resamples: int, seed: int | np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the bootstrap indices, in all (n_resamples, n), a chunk of rows at a time."""
    generator = np.random.default_rng(seed)
    for part in _chunks(n_resamples, n):
        yield generator.integers(0, n, (len(part), n))


def resample_counts(n: int, n_resamples: int, seed: int | np.random.Generator) -> Iterator[NDArray[np.int32]]:
    """Yield how often each observation is drawn, in all (n, n_resamples), a chunk of columns at a time."""
    for rows in resample_indices(n, n_resamples, seed):
        size = len(rows)
        flat = np.bincount((rows * size + np.arange(size)[:, None]).ravel(), minlength=n * size)
        yield flat.reshape(n, size).astype(np.int32)


def clopper_pearson(
    hits: ArrayLike, n: ArrayLike, tail: float | NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends beyond each of which a share of `hits` of `n` independent trials lies with a probability of at
    most `tail`; (0, 1) without a trial. Arrays are broadcast.

    Source: Clopper and Pearson 1934, Biometrika 26, 404-413.
    """
    from scipy.special import betaincinv

    k, total = np.asarray(hits, np.float64), np.asarray(n, np.float64)
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), total - k + 1, tail), 0.0)
    return low, np.where(k < total, betaincinv(k + 1, np.maximum(total - k, 1), 1 - tail), 1.0)


def check_options(level: float, n_resamples: int) -> None:
    """Raise InputError unless `level` lies in (0, 1) and at least two resamples are asked for."""
    check_interval("level", level, 0, 1, open_low=True, open_high=True)
    check_positive_int("n_resamples", n_resamples, minimum=2)


def _chunks(rows: int, width: int) -> Iterator[range]:
    """Yield ranges that cover `rows`, each of about `_CHUNK` values of `width`."""
    size = max(1, _CHUNK // width)
    for start in range(0, rows, size):
        yield range(start, min(start + size, rows))
