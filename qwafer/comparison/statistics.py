"""Paired statistics on per-seed differences, and the verdict in words that follows from them.

One test decides, its intervals invert it, and the figures draw those. With n differences d_s, mean m, standard
deviation s (n - 1) and a design of overlap rho (`Design`),

    t = m / (s sqrt(1/n + rho)),  n - 1 degrees of freedom,  m +- t_{1-a/2, n-1} s sqrt(1/n + rho):

Student's paired test where every seed has the same split (rho = 0), a corrected resampled test after Nadeau and Bengio
(2003) where each draws its own (`resampling_overlap`). Where the data bring folds, the n differences are the means of
the seeds of each fold (`Design.units`).
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qwafer._arrays import real_array, shaped
from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.comparison.design import FEWEST_FOLDS, FEWEST_SEEDS, Design
from qwafer.experiment import MARGIN

ALPHA = 0.05
"""Two-sided significance level of every test, and of the simultaneous intervals."""

EXACT_LIMIT = 40
"""Largest number of non-zero differences for which the sign-flip p is exact; beyond it, it is estimated."""

MOST_UNCONVERGED = 0.25
"""Largest share of an arm's runs that may not have converged in a comparison that has a verdict."""

COLLAPSE = 8.0
"""A run has collapsed where its metric is worse than its arm's median by more than so many robust standard deviations
(1.4826 median |x - median|) and by more than 0.05."""


def paired_t_p(mean: float, sd: float, n: int, overlap: float = 0.0) -> float:
    """Return the two-sided p of t = mean / (sd sqrt(1/n + overlap)) with n - 1 degrees of freedom.

    `overlap` = 0: Student's paired t test; else a corrected resampled t test. 1 where mean and sd are 0, 0 where only
    sd is.

    Nadeau and Bengio 2003, Machine Learning 52, 239-281.
    """
    from scipy.special import stdtr

    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) / (sd * math.sqrt(1 / n + overlap))))


def paired_t_interval(mean: float, sd: float, n: int, overlap: float = 0.0, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the mean difference that inverts `paired_t_p`: it excludes 0 where p < 1 - level."""
    from scipy.special import stdtrit

    half = -float(stdtrit(n - 1, (1 - level) / 2)) * sd * math.sqrt(1 / n + overlap)
    return mean - half, mean + half


@shaped(empty=True)
def sign_flip_p(differences: Float[np.ndarray, " n"], *, n_flips: int = 200_000, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip permutation test that the differences are symmetric about zero.

    p = #{s in {-1, 1}^n : |sum_i s_i d_i| >= |sum_i d_i|} / 2^n, exact up to 40 non-zero differences: the sums of each
    half of the differences are enumerated, and pairs of them counted by bisection. Beyond that, `n_flips` random flips
    with p = (count + 1) / (n_flips + 1), which never underestimates on average. Sums that agree to 1e-12 of sum |d_i|
    are ties.

    It tests symmetry about zero of independent differences, not a mean of zero: where one run in ten collapses, the two
    are not the same. Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth 2010 for the estimate.
    """
    values = np.abs(differences)
    observed = abs(math.fsum(differences))
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


@shaped()
def pseudomedian(values: Float[np.ndarray, " n"]) -> float:
    """Return the median of all (v_i + v_j) / 2 with i <= j, a location that single outliers do not move.

    Hodges and Lehmann 1963, Annals of Mathematical Statistics 34, 598-611.
    """
    first, second = np.triu_indices(values.size)
    return float(np.median((values[first] + values[second]) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values, in the order given: max_{j <= i} min(1, (m - j) p_(j)) over the sorted
    ones.

    Holm 1979, Scandinavian Journal of Statistics 6, 65-70. The adjusted values keep the family-wise error below alpha.
    """
    p = real_array("p_values", p_values, ("m",), finite=True).astype(np.float64)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted.tolist()


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """Return for each p value the confidence level of an interval that excludes zero exactly where Holm rejects.

    1 - alpha / (m - j) for the one that Holm rejects at its step j = 0, 1, ..., and 1 - alpha / (m - r) for those that
    are left after r rejections. Every level is at least 1 - alpha.
    """
    p = np.asarray(p_values, np.float64)
    n_rejected = sum(adjusted <= alpha for adjusted in holm(p_values))
    levels = np.empty_like(p)
    for step, index in enumerate(np.argsort(p, kind="stable")):
        levels[index] = 1 - alpha / (p.size - min(step, n_rejected))
    return levels.tolist()


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
    """Mean over seeds; over the folds that the data bring, where each counts once."""
    sd: float | None
    """Standard deviation of the differences, or of their means by fold, with n - 1."""
    pseudomedian: float | None
    """Hodges-Lehmann location of the differences, which single collapsed runs do not move."""
    interval: tuple[float, float] | None
    """Interval of the mean difference at `level`, which inverts the test that decides; None with fewer than six
    seeds."""
    level: float | None
    """Confidence level of `interval`: at least 95%, and higher as Holm's step or equivalence asks among several
    comparisons."""
    p: float | None
    """Two-sided p of the paired t test under the design's overlap; None with fewer than six seeds, as for the rest."""
    p_holm: float | None
    """The same, Holm-adjusted over all comparisons of the experiment: the verdict rests on it."""
    sign_flip_p: float | None
    """Two-sided p of the exact sign-flip test of symmetry, which does not decide; None where the differences depend on
    each other (`Design.overlap`), for it takes them for independent."""
    n_comparisons: int
    """How many comparisons the adjustment counts."""
    design: Design
    """What the seeds repeat."""
    margin: float
    """Differences that are no larger are equivalent."""
    collapsed: dict[str, tuple[int, ...]]
    """By arm, the seeds of `seeds` whose run has collapsed; see `COLLAPSE`."""
    not_converged: dict[str, int]
    """By arm, how many of its runs had not converged."""
    verdict: str
    """`better`, `worse`, `equivalent`, `undecided`; or why there is none: `too few seeds`, `not converged`,
    `collapsed`, `identical`, `no spread`, `no data`."""
    sentence: str
    """The verdict in words, and what it is about."""

    @property
    def n_units(self) -> int:
        """What the test counts: the seeds, or the folds that the data bring."""
        return len(self.design.units(self.seeds))


def compare_arms(
    values: Mapping[str, Mapping[int, float | None]],
    *,
    baseline: str,
    metric: str,
    seeds: Sequence[int],
    design: Design,
    higher_is_better: bool = True,
    margin: float = MARGIN,
    unconverged: Mapping[str, Collection[int]] | None = None,
    designs: Mapping[str, Design] | None = None,
) -> list[Comparison]:
    """Compare every arm with `baseline` on the metric of its runs, `values[arm][seed]`, and correct for the number of
    arms.

    A seed enters a comparison only where both arms have a finite value; the others are listed as dropped. Holm's
    correction counts the comparisons that have at least two seeds. The verdict is `equivalent` where the interval, at
    no less than `equivalence_level`, lies within +-`margin`, else better or worse where it excludes 0, else undecided.
    `unconverged[arm]` are the seeds whose training had not converged; `designs` are those of single arms against the
    baseline, where they are not `design`.

    Raises InputError without such an arm, or for a margin that is not positive.
    """
    if baseline not in values:
        raise InputError(f"`baseline` must be one of the arms {', '.join(values)}, got {baseline!r}")
    check_margin(margin)
    unconverged, designs = unconverged or {}, designs or {}
    drafts = [
        _describe(values, arm, baseline, metric, seeds, designs.get(arm, design), higher_is_better, margin, unconverged)
        for arm in values
        if arm != baseline
    ]
    p_values = [draft.p for draft in drafts if draft.p is not None]
    adjusted, levels = iter(holm(p_values)), iter(holm_levels(p_values))
    finished = []
    for draft in drafts:
        draft = dataclasses.replace(draft, n_comparisons=max(1, len(p_values)))
        if draft.p is not None and draft.mean is not None and draft.sd is not None:
            p_holm, level, n = next(adjusted), next(levels), draft.n_units
            interval = paired_t_interval(draft.mean, draft.sd, n, draft.design.overlap, level)
            wide = max(level, equivalence_level(draft.n_comparisons))
            wider = paired_t_interval(draft.mean, draft.sd, n, draft.design.overlap, wide)
            if p_holm > ALPHA or _within(wider, margin):
                level, interval = wide, wider
            shown = _enough(draft)
            decided = {"p_holm": p_holm, "level": level, "interval": interval}
            draft = dataclasses.replace(draft, **decided if shown else {"p": None})
        verdict, sentence = _judge(draft, higher_is_better)
        finished.append(dataclasses.replace(draft, verdict=verdict, sentence=sentence))
    return finished


def equivalence_level(n_comparisons: int, alpha: float = ALPHA) -> float:
    """Return 1 - 2 alpha / m, the least level of the intervals that show equivalence among m comparisons.

    Each of 2 m one-sided tests is at alpha / m (Schuirmann 1987, with Bonferroni's correction): Holm's steps go by how
    far the arms lie from 0, so that the arm left with the shortest interval is the one that happens to lie nearest.
    """
    return 1 - 2 * alpha / n_comparisons


def _enough(c: Comparison) -> bool:
    return len(c.seeds) >= FEWEST_SEEDS and (c.design.n_folds is None or c.n_units >= FEWEST_FOLDS)


def _within(interval: tuple[float, float], margin: float) -> bool:
    return -margin <= interval[0] and interval[1] <= margin


def check_margin(margin: float) -> None:
    """Raise InputError unless `margin` lies in (0, 0.5]: beyond that, anything would be equivalent."""
    check_interval("margin", margin, 0, 0.5, open_low=True)


def _describe(
    values: Mapping[str, Mapping[int, float | None]],
    arm: str,
    baseline: str,
    metric: str,
    seeds: Sequence[int],
    design: Design,
    higher_is_better: bool,
    margin: float,
    unconverged: Mapping[str, Collection[int]],
) -> Comparison:
    pairs = {seed: (values[arm].get(seed), values[baseline].get(seed)) for seed in seeds}
    kept = {s: (a, b) for s, (a, b) in pairs.items() if a is not None and b is not None and math.isfinite(a - b)}
    d = np.array([a - b for a, b in kept.values()], np.float64)
    by_seed = dict(zip(kept, d.tolist(), strict=True))
    units = np.array([np.mean([by_seed[seed] for seed in unit]) for unit in design.units(kept)], np.float64)
    n = units.size
    mean = float(np.mean(units)) if n else None
    sd = float(np.std(units, ddof=1)) if n > 1 else None
    if sd is not None and mean is not None and sd <= 1e-12 * abs(mean):
        sd = 0.0  # equal differences up to rounding
    sides = {arm: [a for a, _ in kept.values()], baseline: [b for _, b in kept.values()]}
    sign = 1 if higher_is_better else -1
    collapsed = {name: _collapsed(tuple(kept), sign * np.array(found)) for name, found in sides.items()}
    return Comparison(
        arm=arm,
        baseline=baseline,
        metric=metric,
        seeds=tuple(kept),
        dropped_seeds=tuple(s for s in seeds if s not in kept),
        differences=tuple(d.tolist()),
        mean=mean,
        sd=sd,
        pseudomedian=pseudomedian(d) if n else None,
        interval=None,
        level=None,
        p=None if mean is None or sd is None else paired_t_p(mean, sd, n, design.overlap),
        p_holm=None,
        sign_flip_p=sign_flip_p(d) if n and not design.overlap else None,
        n_comparisons=0,
        design=design,
        margin=margin,
        collapsed={name: found for name, found in collapsed.items() if found},
        not_converged={
            name: count for name in sides if (count := len(set(kept).intersection(unconverged.get(name, ()))))
        },
        verdict="",
        sentence="",
    )


def _collapsed(seeds: tuple[int, ...], values: np.ndarray) -> tuple[int, ...]:
    """Return the seeds whose value, larger being better, lies far below the median of all."""
    if len(seeds) < FEWEST_SEEDS:
        return ()
    below = np.median(values) - values
    robust_sd = 1.4826 * float(np.median(np.abs(below)))
    return tuple(seed for seed, gap in zip(seeds, below, strict=True) if gap > max(COLLAPSE * robust_sd, 0.05))


def _judge(c: Comparison, higher_is_better: bool) -> tuple[str, str]:
    """Return the verdict and its sentence."""
    n = len(c.seeds)
    if c.mean is None:
        return (
            "no data",
            f"{c.arm} against {c.baseline}: no seed has both runs with a defined {c.metric}, so nothing can be said.",
        )
    planned = n + len(c.dropped_seeds)
    over = f"over {n} seed{'s' if n > 1 else ''}" if planned == n else f"over {n} of {planned} seeds"
    if c.design.n_folds is not None:
        over += f" on {c.n_units} fold{'s' if c.n_units > 1 else ''}"
    effect = f"{c.metric} of {c.arm} differs from {c.baseline} by {c.mean:+.4g} {over}"
    if not any(c.differences):
        return "identical", f"{c.metric} of {c.arm} equals {c.baseline} exactly {over}."
    if not _enough(c) or c.interval is None or c.p_holm is None or c.level is None:
        folds = "" if c.design.n_folds is None else f" on at least {FEWEST_FOLDS} folds"
        return "too few seeds", f"{effect}: too few seeds for a verdict, which takes at least {FEWEST_SEEDS}{folds}."
    if c.sd == 0:
        return (
            "no spread",
            f"{effect}, and by the same in every one of them: the seeds repeat one result, so that there is nothing to "
            "test it against, and no verdict.",
        )
    late = [f"{count} of {n} runs of {arm}" for arm, count in c.not_converged.items() if count > MOST_UNCONVERGED * n]
    if late:
        return (
            "not converged",
            f"{effect}, but {' and '.join(late)} had not converged when training ended: no verdict. Train longer "
            "(training.epochs, training.max_doublings).",
        )
    if c.collapsed:
        lost = " and ".join(
            f"{len(found)} of {n} runs of {arm} collapsed (seed {', '.join(map(str, found))})"
            for arm, found in c.collapsed.items()
        )
        return (
            "collapsed",
            f"{effect}, but {lost}: the mean describes neither kind of run, and there is no verdict on it. The "
            f"pseudomedian, which single runs do not move, is {c.pseudomedian:+.4g}.",
        )
    low, high = c.interval
    p_name = "p" if c.n_comparisons == 1 else "Holm-adjusted p"
    measured = f"{effect} [{low:+.4g}, {high:+.4g}]"
    margin = f"{c.margin:g}"
    if _within(c.interval, c.margin) and c.level >= equivalence_level(c.n_comparisons):
        verdict, why = "equivalent", f"the interval lies within the margin of {margin}"
    elif c.p_holm <= ALPHA:
        verdict = "better" if (c.mean > 0) == higher_is_better else "worse"
        why = f"{p_name} = {c.p_holm:.3g}"
    else:
        verdict = "undecided"
        why = f"{p_name} = {c.p_holm:.3g}, and differences beyond the margin of {margin} are not excluded"
    return verdict, f"{c.design.about}, {measured}: {verdict} ({why})."
