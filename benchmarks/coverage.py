"""Do verdicts err as rarely as they say, and do intervals cover? Simulations through qwafer's own code.

    python benchmarks/coverage.py            # writes results/coverage.json and the tables of docs/statistics.md
    python benchmarks/coverage.py --quick    # a tenth of the replications, within three standard errors; writes nothing

Exit status: 0 every bound holds, 1 one is missed.

What is trained is a linear discriminant in closed form (Gaussian classes, one block of features per arm, the blocks
exchangeable), so that the truth is known: every arm has the same expected ROC-AUC, and every verdict `better` or
`worse` is false. Splits are those of `qwafer.data`, the verdicts those of `qwafer.comparison.compare_arms` under the
design that `planned_design` reads from the options of the data.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from qwafer.comparison import compare_arms
from qwafer.comparison.design import Design, planned_design
from qwafer.comparison.planning import plan_seeds
from qwafer.comparison.statistics import Comparison
from qwafer.config import DataConfig
from qwafer.data import make_fold, make_split

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PAGE = ROOT / "docs" / "statistics.md"
BEGIN, END = "<!-- coverage.py: begin -->", "<!-- coverage.py: end -->"

SEEDS = (6, 8, 10, 20)
COMPARISONS = (1, 4)
ERROR, COVERED, POWER_OFF = 0.06, 0.93, 0.05
"""Most errors of a verdict and least coverage of an interval (nominal 0.05 and 0.95); most that a power is off."""
NEGLIGIBLE = 1e-6
"""A margin that no difference of equals comes under, so that every verdict of a difference counts as an error."""
FIXED = Design("fixed split", 0.0)
POOL = 20
"""Sets of 20 splits that the replications take in turns: drawing them takes longer than training."""


@dataclass(frozen=True)
class Cell:
    """One measured rate."""

    part: str
    """`errors`, `equivalent`, `coverage`, `examples` or `power`."""
    case: str
    """What was simulated."""
    seeds: int
    """Seeds per comparison, or test examples where `part` is `examples`."""
    comparisons: int
    """Arms compared with the baseline."""
    rate: float
    """False verdicts, coverage or power, as a fraction."""
    bound: tuple[float, float]
    """Where the rate must lie."""
    replications: int

    @property
    def error(self) -> float:
        """Standard error of `rate`, that of the nearer bound where the rate itself has none."""
        rate = min(max(self.rate, 0.5 / self.replications), 1 - 0.5 / self.replications)
        return math.sqrt(rate * (1 - rate) / self.replications)

    def holds(self, slack: float = 0.0) -> bool:
        """Return whether the rate lies within its bound, or within `slack` standard errors of it."""
        return self.bound[0] - slack * self.error <= self.rate <= self.bound[1] + slack * self.error


@dataclass(frozen=True)
class Population:
    """N examples of two classes of d normal features per arm, whose means are `separation` apart, and maybe lots.

    A lot shifts all features of an arm by a normal effect, `icc` of their variance, and the rate of positives.
    """

    name: str
    n: int
    d: int
    separation: float
    positive: float = 0.4
    lots: int = 0
    icc: float = 0.0

    def labels(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (N,) of 0 and 1, and the (N,) lots."""
        if not self.lots:
            return (np.arange(self.n) < self.positive * self.n).astype(float), None
        lots = np.arange(self.n) % self.lots
        effect = math.sqrt(self.icc / (1 - self.icc)) * rng.standard_normal(self.lots)
        return (rng.standard_normal(self.n) < stats.norm.ppf(self.positive) + effect[lots]).astype(float), lots

    def features(self, labels: np.ndarray, lots: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """Return the (N, d) features of one arm."""
        x = rng.standard_normal((self.n, self.d))
        if lots is not None:
            x = math.sqrt(1 - self.icc) * x + math.sqrt(self.icc) * rng.standard_normal((self.lots, self.d))[lots]
        return x + self.separation / math.sqrt(self.d) * (labels[:, None] - 0.5)


NEAR_CHANCE = Population("near chance", 300, 2, 0.3)
CLEAR = Population("clear signal", 300, 8, 1.5)
LARGER = Population("clear signal", 1000, 8, 1.5)
WIDE = Population("many features", 300, 32, 0.5)
FEW_LOTS = Population("20 lots, strong", 400, 8, 1.5, lots=20, icc=0.4)
MANY_LOTS = Population("100 lots, weak", 400, 8, 1.5, lots=100, icc=0.05)
BY_SEED = DataConfig()
DESIGNS: tuple[tuple[Population, DataConfig], ...] = (
    (NEAR_CHANCE, BY_SEED),
    (WIDE, BY_SEED),
    (CLEAR, BY_SEED),
    (LARGER, BY_SEED),
    (NEAR_CHANCE, DataConfig(n_folds=5)),
    (CLEAR, DataConfig(n_folds=5)),
    (CLEAR, DataConfig(n_folds=10)),
    (FEW_LOTS, DataConfig(split_by="group")),
    (MANY_LOTS, DataConfig(split_by="group")),
    (FEW_LOTS, DataConfig(split_by="group", n_folds=5)),
    (CLEAR, DataConfig(split_seed=0)),
)


def discriminants(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return (n, d) the linear discriminants of x (N, d) and y (N,) on each of the training sets `train` (n, N)."""
    found = np.empty((len(train), x.shape[1]))
    for s, rows in enumerate(train):
        positive, negative = x[rows & (y > 0)], x[rows & (y == 0)]
        step = positive.mean(axis=0) - negative.mean(axis=0)
        centred = np.concatenate([positive - positive.mean(axis=0), negative - negative.mean(axis=0)])
        found[s] = np.linalg.solve(centred.T @ centred + 1e-3 * len(centred) * np.eye(x.shape[1]), step)
    return found


def roc_aucs(scores: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return (n,) the ROC-AUC of the scores (n, N) on each of the test sets `test` (n, N); no ties."""
    ranks = np.argsort(np.argsort(np.where(test, scores, -np.inf), axis=1), axis=1) + 1 - (~test).sum(axis=1)[:, None]
    positive = test & (y > 0)
    n_pos = positive.sum(axis=1)
    n_neg = test.sum(axis=1) - n_pos
    return ((ranks * positive).sum(axis=1) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def split_pool(y: np.ndarray, lots: np.ndarray | None, data: DataConfig, n_sets: int) -> np.ndarray:
    """Return (n_sets, 20, 2, N): for each set, what trains and what tests in the splits of 20 consecutive seeds."""
    ids, labels = np.array([f"{i:06d}" for i in range(len(y))]), y[:, None].astype(np.uint8)
    groups = None if lots is None else lots.astype(str)
    pool = np.zeros((n_sets, max(SEEDS), 2, len(y)), dtype=bool)
    for s in range(n_sets * max(SEEDS)):
        seed = s if data.split_seed is None else data.split_seed
        if data.n_folds is None:
            split = make_split(labels, ids, seed=seed, by=data.split_by, groups=groups)
        else:
            split = make_fold(labels, ids, seed=seed, n_folds=data.n_folds, by=data.split_by, groups=groups)
        member = pool[s // max(SEEDS), s % max(SEEDS)]
        member[0, split.train] = member[1, split.test] = True
    return pool


def trained_values(population: Population, data: DataConfig, replications: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (5, 20) test ROC-AUC of five arms on 20 seeds, each time on new data.

    Where the split is fixed, the initial values are what differs between seeds and between arms: noise on the
    discriminant, and all arms see the same features, so that they are equal on that split and not only on average.
    """
    rng = np.random.default_rng(seed)
    n_arms, n_sets = max(COMPARISONS) + 1, min(replications, POOL)
    while True:
        y, lots = population.labels(rng)
        pool = split_pool(y, lots, data, n_sets)
        defined = all(0 < y[test].sum() < test.sum() for test in pool[:, :, 1].reshape(-1, len(y)))
        if defined:
            break
    for r in range(replications):
        train, test = pool[r % n_sets].transpose(1, 0, 2)
        values = np.empty((n_arms, max(SEEDS)))
        shared = population.features(y, lots, rng) if data.split_seed is not None else None
        for arm in range(n_arms):
            x = population.features(y, lots, rng) if shared is None else shared
            w = discriminants(x, y, train)
            if shared is not None:
                w = w + 0.3 * np.linalg.norm(w, axis=1, keepdims=True) * rng.standard_normal(w.shape)
            values[arm] = roc_aucs(w @ x.T, y, test)
        yield values


def compared(values: np.ndarray, design: Design, margin: float = NEGLIGIBLE) -> list[Comparison]:
    """Return the comparisons of the rows 1, 2, ... of `values` (arms, seeds) with row 0."""
    arms = {f"arm{i}": dict(enumerate(row.tolist())) for i, row in enumerate(values)}
    seeds = range(values.shape[1])
    return compare_arms(arms, baseline="arm0", metric="test.roc_auc", seeds=seeds, design=design, margin=margin)


def named(design: Design) -> str:
    """Return the design in words."""
    return f"{design.kind}{' of lots' if design.unit == 'lots' else ''}"


def verdict_errors(replications: int) -> Iterator[Cell]:
    """Yield how often at least one verdict is `better` or `worse`, where all arms are equal."""
    for index, (population, data) in enumerate(DESIGNS):
        design = planned_design(data)
        false = dict.fromkeys([(n, m) for n in SEEDS for m in COMPARISONS], 0)
        for values in trained_values(population, data, replications, index):
            for n, m in false:
                verdicts = {c.verdict for c in compared(values[: m + 1, :n], design)}
                false[n, m] += bool(verdicts & {"better", "worse"})
        folds = "" if data.n_folds is None else f" ({data.n_folds})"
        case = f"{named(design)}{folds}; {population.name}, N = {population.n:,}, {population.d} features"
        for (n, m), count in false.items():
            yield Cell("errors", case, n, m, count / replications, (0.0, ERROR), replications)


@dataclass(frozen=True)
class Model:
    """Differences over seeds, of variance 1: one part `noise`, independent, and one part normal, of the data.

    The part of the data is a mean over many examples; `overlap` times its variance is shared by all seeds.
    """

    name: str
    design: Design
    noise: str
    """`normal` or `t3`: the distribution of what initial values and batches contribute."""
    from_data: float
    """The part of the variance that the data contribute."""
    least_coverage: float = COVERED

    def values(self, truth: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return (1 + m, n) values of a baseline, 0 throughout, and of m arms whose true differences are `truth`."""
        shape = (len(truth), n)
        noise = rng.standard_normal(shape) if self.noise == "normal" else rng.standard_t(3, shape) / math.sqrt(3)
        of_data = rng.standard_normal(shape) if self.noise == "normal" or self.from_data < 1 else noise
        shared = math.sqrt(self.design.overlap) * rng.standard_normal((len(truth), 1))
        d = math.sqrt(1 - self.from_data) * noise + math.sqrt(self.from_data) * (of_data + shared)
        return np.concatenate([np.zeros((1, n)), truth[:, None] + d])


NEW_SPLITS = planned_design(BY_SEED)
MODELS = (
    Model("normal", FIXED, "normal", 0.0),
    Model("t3", FIXED, "t3", 0.0),
    Model("normal", NEW_SPLITS, "normal", 1.0),
    Model("half of the variance t3", NEW_SPLITS, "t3", 0.5),
    # Heavy tails from the data themselves, which no mean over many examples has: what the test does not cover.
    Model("t3 (adverse)", NEW_SPLITS, "t3", 1.0, 0.88),
)


def interval_coverage(replications: int) -> Iterator[Cell]:
    """Yield how often an interval covers the true difference: one arm, or four of which some differ."""
    for model in MODELS:
        rng = np.random.default_rng(1)
        for n in SEEDS:
            for truth in (np.zeros(1), np.array([0.0, 0.5, 1.5, 4.0])):
                covered = total = 0
                for _ in range(replications):
                    for c, mean in zip(compared(model.values(truth, n, rng), model.design), truth, strict=True):
                        if c.interval is not None:
                            total += 1
                            covered += c.interval[0] <= mean <= c.interval[1]
                case = f"{named(model.design)}, differences {model.name}"
                yield Cell("coverage", case, n, len(truth), covered / total, (model.least_coverage, 1.0), total)


def false_equivalents(replications: int) -> Iterator[Cell]:
    """Yield how often at least one arm at the margin's edge is called equivalent."""
    margin = 5.0
    for model in MODELS:
        if model.least_coverage < COVERED:
            continue
        rng = np.random.default_rng(2)
        for n in SEEDS:
            for m in COMPARISONS:
                false = 0
                for _ in range(replications):
                    values = model.values(np.full(m, margin), n, rng)
                    false += any(c.verdict == "equivalent" for c in compared(values, model.design, margin))
                case = f"{named(model.design)}, differences {model.name}"
                yield Cell("equivalent", case, n, m, false / replications, (0.0, ERROR), replications)


def planned_power(replications: int) -> Iterator[Cell]:
    """Yield how often the verdict is the true one with as many seeds as were planned for a power of 0.8."""
    cases = ((FIXED, 0.9, 0.1), (NEW_SPLITS, 2.6, 0.1), (FIXED, 0.0, 0.7), (NEW_SPLITS, 0.0, 2.8))
    for design, effect, margin in cases:
        draw = np.random.default_rng(3).standard_normal
        for m in COMPARISONS:
            plan = plan_seeds(effect, 1.0, design=design, n_comparisons=m, margin=margin)
            assert plan.seeds is not None
            right = 0
            for _ in range(replications):
                # The arms share the baseline's part of the noise, as arms of one experiment do.
                noise = draw((m + 1, plan.seeds)) + math.sqrt(design.overlap) * draw((m + 1, 1))
                truth = np.zeros((m + 1, 1))
                truth[1] = effect
                first = compared(truth + noise / math.sqrt(2), design, margin)[0]
                right += first.verdict == ("better" if effect else "equivalent")
            case = f"{named(design)}, " + (
                f"a difference of {effect:g} sd" if effect else f"equality within {margin:g} sd"
            )
            bound = (plan.power - POWER_OFF, plan.power + POWER_OFF)
            yield Cell("power", case, plan.seeds, m, right / replications, bound, replications)


PARTS: dict[str, tuple[Callable[[int], Iterator[Cell]], int, str]] = {
    "errors": (verdict_errors, 2000, "False verdicts where all arms are equal (at most 0.06)"),
    "coverage": (interval_coverage, 2000, "Coverage of the intervals of the mean difference (at least 0.93)"),
    "equivalent": (false_equivalents, 2000, "False `equivalent` at the margin's edge (at most 0.06)"),
    "power": (planned_power, 2000, "Power at the planned number of seeds (0.75 to 0.85)"),
}
