"""Paired statistics on per-seed differences, and the verdict in words that follows from them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qwafer._checks import check_interval
from qwafer._errors import InputError

ALPHA = 0.05
"""Two-sided significance level of every test, and of the power that `seeds_for_power` asks for."""

EXACT_LIMIT = 40
"""Largest number of non-zero differences for which the sign-flip p is exact; beyond it, it is estimated."""


def sign_flip_p(differences: Float[np.ndarray, " n"], *, n_flips: int = 200_000, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip permutation test that the differences are symmetric about zero.

    p = #{s in {-1, 1}^n : |sum_i s_i d_i| >= |sum_i d_i|} / 2^n, exact up to 40 non-zero differences: the sums of each
    half of the differences are enumerated, and pairs of them counted by bisection. Beyond that, `n_flips` random flips
    with p = (count + 1) / (n_flips + 1), which never underestimates on average. Sums that agree to 1e-12 of sum |d_i|
    are ties.

    Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth 2010 for the estimate.
    """
    values = np.abs(np.asarray(differences, np.float64))
    observed = abs(math.fsum(np.asarray(differences, np.float64)))
    values = values[values > 0]  # the sign of a zero changes no sum
    if values.size == 0:
        return 1.0
    threshold = observed - 1e-12 * math.fsum(values)
    if values.size > EXACT_LIMIT:
        return _estimated_sign_flip_p(values, threshold, n_flips, seed)
    left, right = _signed_sums(values[::2]), np.sort(_signed_sums(values[1::2]))
    # A pair (l, r) counts where r >= threshold - l; by symmetry the lower tail holds as many pairs.
    upper = int(np.sum(right.size - np.searchsorted(right, threshold - left, side="left"), dtype=np.int64))
    return min(1.0, 2.0 * upper / 2.0**values.size)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """Return all 2^n sums of +-values."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _estimated_sign_flip_p(values: np.ndarray, threshold: float, n_flips: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    count = done = 0
    while done < n_flips:
        rows = min(10_000, n_flips - done)
        signs = generator.integers(0, 2, (rows, values.size), np.int8) * 2.0 - 1.0
        count += int(np.sum(np.abs(signs @ values) >= threshold))
        done += rows
    return (count + 1) / (n_flips + 1)


def wilcoxon_p(differences: Float[np.ndarray, " n"]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; zero differences are dropped, ties share their mean rank.

    Exact: the null distribution of the signed rank sum is that of `sign_flip_p` on the signed ranks, with or without
    ties, and equals `scipy.stats.wilcoxon(method="exact")` where there are none.
    """
    from scipy.stats import rankdata

    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    return sign_flip_p(np.sign(values) * rankdata(np.abs(values)))


def paired_power(effect_size: float, n: int, *, alpha: float = ALPHA) -> float:
    """Return the power of the two-sided paired t test at d_z = `effect_size` with `n` pairs.

    power = P(|T| > t_{1-alpha/2, n-1}), T noncentral t with n - 1 degrees of freedom and noncentrality d_z sqrt(n).
    """
    from scipy import stats

    degrees = n - 1
    shift = abs(effect_size) * math.sqrt(n)
    critical = float(stats.t.isf(alpha / 2, degrees))
    power = float(stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift))
    if math.isfinite(power):
        return power
    # scipy's series fails far out in the tails, where the normal approximation is exact to many digits.
    return float(stats.norm.sf(critical - shift) + stats.norm.cdf(-critical - shift))


def seeds_for_power(effect_size: float, *, power: float = 0.8, alpha: float = ALPHA) -> int | None:
    """Return the least number of paired seeds at which `paired_power` reaches `power`; None for a zero or undefined
    effect.

    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2. The effect size is the observed
    one, so the number is an estimate with the uncertainty of that effect.
    """
    check_interval("power", power, 0, 1, open_low=True, open_high=True)
    if not math.isfinite(effect_size) or effect_size == 0:
        return None
    # The normal approximation brackets the answer; an effect that needs more than 10^9 seeds is not one.
    if abs(effect_size) < 1e-4:
        return None
    low, high = 1, 2
    while paired_power(effect_size, high, alpha=alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if paired_power(effect_size, middle, alpha=alpha) < power:
            low = middle
        else:
            high = middle
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values, in the order given: max_{j <= i} min(1, (m - j) p_(j)) over the sorted
    ones.

    Holm 1979, Scandinavian Journal of Statistics 6, 65-70. The adjusted values keep the family-wise error below alpha.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted.tolist()


def fewest_seeds(n_comparisons: int, *, alpha: float = ALPHA) -> int:
    """Return the fewest seeds whose smallest sign-flip p, 2^(1-n), passes Holm's first step alpha / `n_comparisons`."""
    return 1 + math.ceil(math.log2(n_comparisons / alpha) - 1e-12)


@dataclass(frozen=True)
class Comparison:
    """What n paired differences `arm` - `baseline` of a metric say. Fields that are undefined are None."""

    arm: str
    baseline: str
    metric: str
    seeds: tuple[int, ...]
    """The seeds that entered: those where both arms have a finite metric."""
    dropped_seeds: tuple[int, ...]
    """The planned seeds that did not: one of the two runs failed or its metric is undefined."""
    differences: tuple[float, ...]
    """arm - baseline, one per seed of `seeds`."""
    mean: float | None
    sd: float | None
    """Standard deviation of the differences, with n - 1."""
    interval: tuple[float, float] | None
    """95% BCa bootstrap interval of the mean difference."""
    sign_flip_p: float | None
    """Two-sided p of the exact sign-flip permutation test."""
    sign_flip_p_holm: float | None
    """The same, Holm-adjusted over all comparisons of the experiment: the verdict rests on it."""
    n_comparisons: int
    """How many comparisons the adjustment counts."""
    smallest_p: float | None
    """2^(1-n): the smallest p that so many seeds can reach, whatever the data."""
    wilcoxon_p: float | None
    """Two-sided p of Wilcoxon's signed-rank test, zero differences dropped."""
    effect_size: float | None
    """d_z = mean / sd."""
    seeds_for_power: int | None
    """Seeds at which a paired t test at 5% shows the observed d_z with a probability of 80%."""
    verdict: str
    """`better`, `worse`, `no difference shown`, `too few seeds`, `identical` or `no data`."""
    sentence: str
    """The verdict in words."""


def compare_arms(
    values: Mapping[str, Mapping[int, float | None]],
    *,
    baseline: str,
    metric: str,
    seeds: Sequence[int],
    higher_is_better: bool = True,
) -> list[Comparison]:
    """Compare every arm with `baseline` on the metric of its runs, `values[arm][seed]`, and correct for the number of
    arms.

    A seed enters a comparison only where both arms have a finite value; the others are listed as dropped. Holm's
    correction counts the comparisons that have at least one seed. Raises InputError without such an arm.
    """
    if baseline not in values:
        raise InputError(f"`baseline` must be one of the arms {', '.join(values)}, got {baseline!r}")
    drafts = [
        _describe(values[arm], values[baseline], arm, baseline, metric, seeds) for arm in values if arm != baseline
    ]
    tested = [draft for draft in drafts if draft.sign_flip_p is not None]
    adjusted = iter(holm([draft.sign_flip_p for draft in tested if draft.sign_flip_p is not None]))
    finished = []
    for draft in drafts:
        p = None if draft.sign_flip_p is None else next(adjusted)
        draft = dataclasses.replace(draft, sign_flip_p_holm=p, n_comparisons=max(1, len(tested)))
        verdict, sentence = _judge(draft, higher_is_better)
        finished.append(dataclasses.replace(draft, verdict=verdict, sentence=sentence))
    return finished


def _describe(
    arm_values: Mapping[int, float | None],
    baseline_values: Mapping[int, float | None],
    arm: str,
    baseline: str,
    metric: str,
    seeds: Sequence[int],
) -> Comparison:
    from qwafer.evaluation import bca_mean_interval

    pairs = {seed: (arm_values.get(seed), baseline_values.get(seed)) for seed in seeds}
    kept = {s: (a, b) for s, (a, b) in pairs.items() if a is not None and b is not None and math.isfinite(a - b)}
    d = np.array([a - b for a, b in kept.values()], np.float64)
    n = d.size
    mean = float(np.mean(d)) if n else None
    sd = float(np.std(d, ddof=1)) if n > 1 else None
    if sd is not None and mean is not None and sd <= 1e-12 * abs(mean):
        sd = 0.0  # equal differences up to rounding
    effect = mean / sd if mean is not None and sd else (0.0 if mean == 0 and sd == 0 else None)
    bootstrap = bca_mean_interval(d, level=0.95, n_resamples=10_000, seed=0) if n > 1 else None
    defined = bootstrap is not None and math.isfinite(bootstrap.low) and math.isfinite(bootstrap.high)
    return Comparison(
        arm=arm,
        baseline=baseline,
        metric=metric,
        seeds=tuple(kept),
        dropped_seeds=tuple(s for s in seeds if s not in kept),
        differences=tuple(d.tolist()),
        mean=mean,
        sd=sd,
        interval=(bootstrap.low, bootstrap.high) if bootstrap is not None and defined else None,
        sign_flip_p=sign_flip_p(d) if n else None,
        sign_flip_p_holm=None,
        n_comparisons=0,
        smallest_p=2.0 ** (1 - n) if n else None,
        wilcoxon_p=wilcoxon_p(d) if n else None,
        effect_size=effect,
        seeds_for_power=None if effect is None else seeds_for_power(effect),
        verdict="",
        sentence="",
    )


def _judge(c: Comparison, higher_is_better: bool) -> tuple[str, str]:
    """Return the verdict and its sentence."""
    n = len(c.seeds)
    if c.mean is None or c.sign_flip_p_holm is None:
        return "no data", f"{c.arm} against {c.baseline}: no seed has both runs, so nothing can be said."
    effect = f"{c.metric} of {c.arm} differs from {c.baseline} by {c.mean:+.4g} over {n} seed{'s' if n > 1 else ''}"
    p_name = "p" if c.n_comparisons == 1 else "Holm-adjusted p"
    if not any(c.differences):
        return "identical", f"{c.metric} of {c.arm} equals {c.baseline} exactly on {n} seed{'s' if n > 1 else ''}."
    if c.sign_flip_p_holm <= ALPHA:
        better = (c.mean > 0) == higher_is_better
        word = "better" if better else "worse"
        return word, f"{effect}: {word}, {p_name} = {c.sign_flip_p_holm:.3g}."
    least = fewest_seeds(c.n_comparisons)
    needed = None if c.seeds_for_power is None else max(c.seeds_for_power, least)
    if n < least:
        return (
            "too few seeds",
            f"{effect}; with so few seeds, no difference can reach significance (the smallest p is "
            f"{c.smallest_p:.3g}): "
            + (
                f"use at least {least}."
                if needed is None or needed <= least
                else f"at least {least} are needed, and {_about(needed)} to show this effect."
            ),
        )
    shown = "" if needed is None else f": it would take {_about(needed)} seeds to show this effect with 80% power"
    return "no difference shown", f"{effect}, {p_name} = {c.sign_flip_p_holm:.3g}: no difference shown{shown}."


def _about(seeds: int) -> str:
    """Return seeds in words; beyond some thousands it says only that the effect is too small to be shown."""
    return f"about {seeds:,}" if seeds <= 10_000 else "more than 10,000"
