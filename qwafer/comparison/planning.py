"""How many seeds a comparison needs, by simulating the test that will decide it."""

import math
from dataclasses import dataclass

import numpy as np

from qwafer._checks import check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer.comparison.design import FEWEST_SEEDS, Design
from qwafer.comparison.statistics import ALPHA, check_margin, equivalence_level
from qwafer.experiment import MARGIN

MOST_SEEDS = 1000
"""No more seeds than these are planned."""


@dataclass(frozen=True)
class Plan:
    """How many seeds show an effect, or that there is none, with a given probability."""

    effect: float
    """The difference that is to be shown; 0: equivalence is."""
    sd: float
    """Standard deviation of the differences over seeds."""
    power: float
    """The probability that was asked for."""
    n_comparisons: int
    """Arms compared with the baseline."""
    margin: float
    """Differences that are no larger count as equivalent."""
    design: Design
    """What the seeds repeat."""
    seeds: int | None
    """The fewest seeds, at least six, whose simulated power reaches `power`; None where up to 1,000 do not."""
    reached: float
    """The simulated power at `seeds`, or at 1,000."""

    @property
    def sentence(self) -> str:
        """The plan in words."""
        what = f"a difference of {self.effect:g}" if self.effect else f"equivalence within {self.margin:g}"
        against = f" among {self.n_comparisons} comparisons" if self.n_comparisons > 1 else ""
        where = f"to show {what}{against}, where differences over seeds have a standard deviation of {self.sd:g}"
        if self.seeds is not None:
            return f"{self.seeds} seeds {where} (simulated power {self.reached:.2f}; {self.design.kind})."
        reason = (
            ": the seeds share one data set, whose part of the variance only more data takes away"
            if self.design.overlap
            else ""
        )
        return f"up to {MOST_SEEDS:,} seeds do not suffice {where} (simulated power {self.reached:.2f}){reason}."


def simulated_power(
    effect: float,
    sd: float,
    n: int,
    *,
    design: Design,
    n_comparisons: int = 1,
    margin: float = MARGIN,
    n_simulations: int = 20_000,
    seed: int = 0,
) -> float:
    """Return how often the verdict that `compare_arms` gives is the true one, for one arm of `n_comparisons`.

    The difference of the arm's seed s is effect + sd (sqrt(overlap) c + e_s) with standard normal c, shared by the
    seeds, and e_s; the other arms differ from the baseline, which they share, by nothing. The verdict is right where
    it is `better` for effect > 0, `equivalent` for effect = 0. Where the data bring folds, only folds count: what the
    initial values add to the spread, and more seeds per fold take away, is not known before.
    """
    from scipy.special import stdtr, stdtrit

    n = len(design.units(range(n)))

    rng = np.random.default_rng(seed)
    rows = max(1, n_simulations)
    p = np.empty((rows, n_comparisons))
    base = rng.standard_normal((rows, n + 1))
    means, sds = np.empty(rows), np.empty(rows)
    for arm in range(n_comparisons):
        noise = (rng.standard_normal((rows, n + 1)) - base) / math.sqrt(2)
        d = sd * (noise[:, :n] + math.sqrt(design.overlap) * noise[:, n:]) + (effect if arm == 0 else 0.0)
        mean, spread = d.mean(axis=1), d.std(axis=1, ddof=1)
        scale = spread * math.sqrt(1 / n + design.overlap)
        p[:, arm] = 2 * stdtr(n - 1, -np.abs(mean) / scale)
        if arm == 0:
            means, sds = mean, scale
    order = np.argsort(p, axis=1, kind="stable")
    rejected = np.take_along_axis(p, order, axis=1) <= ALPHA / np.arange(n_comparisons, 0, -1)
    n_rejected = np.cumprod(rejected, axis=1).sum(axis=1)
    step = np.argmax(order == 0, axis=1)
    levels = ALPHA / (n_comparisons - np.minimum(step, n_rejected))
    levels = np.minimum(levels, 1 - equivalence_level(n_comparisons))
    equivalent = np.abs(means) - stdtrit(n - 1, levels / 2) * sds <= margin
    if effect == 0:
        return float(equivalent.mean())
    return float(((step < n_rejected) & (means > 0) & ~equivalent).mean())


def plan_seeds(
    effect: float,
    sd: float,
    *,
    design: Design,
    power: float = 0.8,
    n_comparisons: int = 1,
    margin: float = MARGIN,
    n_simulations: int = 20_000,
    seed: int = 0,
) -> Plan:
    """Return the fewest seeds that show a difference of size `effect` with probability `power`.

    For `effect` = 0, those that show equivalence within `margin`.

    Raises InputError for a power that is no probability, a spread that is not positive, or an effect that the margin
    calls none.
    """
    check_margin(margin)
    check_interval("power", power, 0, 1, open_low=True, open_high=True)
    check_interval("sd", sd, 0, math.inf, open_low=True, open_high=True)
    check_interval("effect", effect, 0, math.inf, open_high=True)
    check_positive_int("n_comparisons", n_comparisons)
    if 0 < effect <= margin:
        raise InputError(
            f"`effect` must be 0 (plan for equivalence) or larger than the margin {margin:g}, got {effect:g}"
        )

    def at(n: int) -> float:
        return simulated_power(
            effect,
            sd,
            n,
            design=design,
            n_comparisons=n_comparisons,
            margin=margin,
            n_simulations=n_simulations if n <= 100 else max(2000, n_simulations * 100 // n),
            seed=seed,
        )

    def plan(seeds: int | None, reached: float) -> Plan:
        return Plan(effect, sd, power, n_comparisons, margin, design, seeds, reached)

    low, high, reached = FEWEST_SEEDS - 1, FEWEST_SEEDS, at(FEWEST_SEEDS)
    while reached < power:
        if high == MOST_SEEDS:
            return plan(None, reached)
        low, high = high, min(2 * high, MOST_SEEDS)
        reached = at(high)
    while high - low > 1:
        middle = (low + high) // 2
        found = at(middle)
        if found < power:
            low = middle
        else:
            high, reached = middle, found
    return plan(high, reached)


def detectable_effect(n: int, *, design: Design, n_comparisons: int = 1, power: float = 0.8) -> float:
    """Return the difference, in standard deviations over seeds, that n seeds show with probability `power`.

    By the noncentral t distribution at Holm's first step alpha / m, whatever the margin: a bound from above.
    """
    from scipy.special import nctdtrinc, stdtrit

    check_positive_int("n", n, minimum=2)
    critical = -float(stdtrit(n - 1, ALPHA / n_comparisons / 2))
    return float(nctdtrinc(n - 1, 1 - power, critical)) * math.sqrt(1 / n + design.overlap)
