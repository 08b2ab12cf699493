"""Do verdicts err as rarely as they say, and do intervals cover? Simulations through qwafer's own code.

    python benchmarks/coverage.py            # writes results/coverage.json and the tables of docs/statistics.md
    python benchmarks/coverage.py --quick    # a tenth of the replications, within three standard errors; writes nothing

Exit status: 0 every bound holds, 1 one is missed.

What is trained is a linear discriminant in closed form (Gaussian classes, one block of features per arm, the blocks
exchangeable), so that the truth is known: every arm has the same expected ROC-AUC, and every verdict `better` or
`worse` is false. Splits are those of `qwafer.data`, the verdicts those of `qwafer.comparison.compare_arms` under the
design that `planned_design` reads from the options of the data.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from qwafer._io import write_json
from qwafer.comparison import compare_arms
from qwafer.comparison.design import Design, planned_design
from qwafer.comparison.examples import example_interval
from qwafer.comparison.planning import plan_seeds
from qwafer.comparison.statistics import Comparison
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import make_fold, make_given_fold, make_split
from qwafer.evaluation import bca_metric_differences, bca_metrics
from qwafer.features import FeatureSet, SourceFacts
from qwafer.heads import LinearOptions
from qwafer.training import RunResult, train

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
UNIT = 0.01
"""The standard deviation of differences over seeds where a margin has a part, which is at most 0.5."""
FIXED = Design("fixed split", 0.0)
POOL = 20
"""Sets of 20 splits that the replications take in turns: drawing them takes longer than training."""


@dataclass(frozen=True)
class Cell:
    """One measured rate."""

    part: str
    """A name in `PARTS`."""
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
SOME_LOTS = Population("30 lots, strong", 600, 8, 1.5, lots=30, icc=0.4)
MANY_LOTS = Population("100 lots, weak", 400, 8, 1.5, lots=100, icc=0.05)
BY_SEED = DataConfig()
ONE_SPLIT = DataConfig(split_seed=0)
GIVEN = SourceFacts("features", n_folds=5)
"""Data that bring five folds, which only `split_by = "fold"` reads."""
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
    (CLEAR, ONE_SPLIT),
    (NEAR_CHANCE, DataConfig(split_by="fold")),
)
EXAMPLE_DESIGNS: tuple[tuple[Population, DataConfig, float], ...] = (
    (CLEAR, BY_SEED, COVERED),
    (CLEAR, ONE_SPLIT, COVERED),
    (FEW_LOTS, DataConfig(split_by="group"), 0.9),  # falls short, as docs/statistics.md says
    (SOME_LOTS, DataConfig(split_by="group"), COVERED),
    (MANY_LOTS, DataConfig(split_by="group"), COVERED),
    (MANY_LOTS, DataConfig(split_by="group", split_seed=0), COVERED),
)
"""Population, splits, and the least coverage of the interval over test examples."""


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
    given = (np.random.default_rng(0).permutation(len(y)) % (GIVEN.n_folds or 1)).astype(str)
    pool = np.zeros((n_sets, max(SEEDS), 2, len(y)), dtype=bool)
    for s in range(n_sets * max(SEEDS)):
        seed = s if data.split_seed is None else data.split_seed
        if data.split_by == "fold":
            split = make_given_fold(labels, ids, given, seed=seed)
        elif data.n_folds is None:
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
        design = planned_design(data, GIVEN)
        n_drawn = replications if design.overlap else 3 * replications  # the error is just the nominal one
        false = dict.fromkeys([(n, m) for n in SEEDS for m in COMPARISONS], 0)
        for values in trained_values(population, data, n_drawn, index):
            for n, m in false:
                verdicts = {c.verdict for c in compared(values[: m + 1, :n], design)}
                false[n, m] += bool(verdicts & {"better", "worse"})
        n_folds = design.n_folds or data.n_folds
        folds = "" if n_folds is None else f" ({n_folds})"
        case = f"{named(design)}{folds}; {population.name}, N = {population.n:,}, {population.d} features"
        for (n, m), count in false.items():
            yield Cell("errors", case, n, m, count / n_drawn, (0.0, ERROR), n_drawn)


def alternatives(replications: int) -> Iterator[Cell]:
    """Yield the errors of one comparison under other overlaps than ours, near chance, where they matter most; and of
    one that counts every run of a fold that the data bring.
    """
    population = Population("near chance", 300, 2, 0.15)
    for data, others in (
        (BY_SEED, {"0 (uncorrected)": 0.0, "g/f (Nadeau and Bengio)": 0.2 / 0.7}),
        (DataConfig(n_folds=5), {"0 (uncorrected)": 0.0, "1/(K - 1) (Bouckaert and Frank)": 0.25}),
        (DataConfig(split_by="fold"), {"0 (uncorrected)": 0.0, "ours, and every run counted": None}),
    ):
        ours = planned_design(data, GIVEN)
        designs = {
            name: dataclasses.replace(ours, overlap=ours.overlap if overlap is None else overlap, n_folds=None)
            for name, overlap in others.items()
        }
        designs["ours"] = ours
        false = dict.fromkeys([(name, n) for name in designs for n in SEEDS], 0)
        for values in trained_values(population, data, replications, 100):
            for name, n in false:
                (found,) = compared(values[:2, :n], designs[name])
                false[name, n] += found.verdict in ("better", "worse")
        for (name, n), count in false.items():
            yield Cell("alternatives", f"{named(ours)}, rho = {name}", n, 1, count / replications, (0, 1), replications)


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
    margin = 5.0  # in standard deviations
    for model in MODELS:
        if model.least_coverage < COVERED:
            continue
        rng = np.random.default_rng(2)
        for n in SEEDS:
            for m in COMPARISONS:
                false = 0
                for _ in range(replications):
                    values = model.values(np.full(m, margin), n, rng)
                    false += any(
                        c.verdict == "equivalent" for c in compared(UNIT * values, model.design, UNIT * margin)
                    )
                case = f"{named(model.design)}, differences {model.name}"
                yield Cell("equivalent", case, n, m, false / replications, (0.0, ERROR), replications)


def planned_power(replications: int) -> Iterator[Cell]:
    """Yield how often the verdict is the true one with as many seeds as were planned for a power of 0.8."""
    cases = ((FIXED, 0.9, 0.1), (NEW_SPLITS, 2.6, 0.1), (FIXED, 0.0, 0.7), (NEW_SPLITS, 0.0, 2.8))
    for design, effect, margin in cases:
        draw = np.random.default_rng(3).standard_normal
        for m in COMPARISONS:
            plan = plan_seeds(UNIT * effect, UNIT, design=design, n_comparisons=m, margin=UNIT * margin)
            assert plan.seeds is not None
            right = 0
            for _ in range(replications):
                # The arms share the baseline's part of the noise, as arms of one experiment do.
                noise = draw((m + 1, plan.seeds)) + math.sqrt(design.overlap) * draw((m + 1, 1))
                truth = np.zeros((m + 1, 1))
                truth[1] = effect
                first = compared(UNIT * (truth + noise / math.sqrt(2)), design, UNIT * margin)[0]
                right += first.verdict == ("better" if effect else "equivalent")
            case = f"{named(design)}, " + (
                f"a difference of {effect:g} sd" if effect else f"equality within {margin:g} sd"
            )
            bound = (plan.power - POWER_OFF, plan.power + POWER_OFF)
            yield Cell("power", case, plan.seeds, m, right / replications, bound, replications)


def a_run() -> RunResult:
    """Return a run of one epoch, whose outputs are replaced by simulated ones."""
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 2).astype(np.uint8)[:, None]
    ids = np.array([f"{i:06d}" for i in range(60)])
    data = FeatureSet(rng.standard_normal((60, 2)).astype(np.float32), labels, ("defect",), ids, {})
    return train(RunConfig(head=LinearOptions(), training=TrainingConfig(epochs=1)), data, seed=0)


def example_coverage(replications: int) -> Iterator[Cell]:
    """Yield how often the intervals over test examples cover, the trained heads held fixed.

    Bench's BCa intervals of one run, and `example_interval` of six seeds that test on parts of one data set. The
    truth is in closed form: with unit weights w and classes `mu` apart, the ROC-AUC of w.x is Phi(w.mu / sqrt(2)).
    """
    bound = (COVERED, 1.0)
    phi, rng, n = stats.norm.cdf, np.random.default_rng(4), 200
    apart = (1.5, 1.2)
    truth = {f"roc_auc of {i}": phi(mu / math.sqrt(2)) for i, mu in enumerate(apart)}
    for i, mu in enumerate(apart):
        hit, false = 0.3 * phi(mu / 2), 0.7 * phi(-mu / 2)
        truth[f"f1 of {i}"] = 2 * hit / (hit + false + 0.3)
    covered: dict[str, int] = {}
    few = max(1, replications // 2)
    for _ in range(few):
        y = (rng.random(n) < 0.3).astype(np.uint8)
        noise = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], n)
        first, second = (noise[:, i : i + 1] + mu * (y[:, None] - 0.5) for i, mu in enumerate(apart))
        one = bca_metrics(first, y[:, None], n_resamples=1000, seed=rng)
        both = bca_metric_differences(first, second, y[:, None], n_resamples=1000, seed=rng)
        for name in ("f1", "roc_auc"):
            found, true = one[name], truth[f"{name} of 0"]
            covered[name] = covered.get(name, 0) + (found.low <= true <= found.high)
            found, true = both[name], true - truth[f"{name} of 1"]
            key = f"difference in {name}"
            covered[key] = covered.get(key, 0) + (found.low <= true <= found.high)
    for name, count in covered.items():
        yield Cell("examples", f"one run, {name} (BCa)", n, 1, count / few, bound, few)

    template, n_seeds = a_run(), 6
    for population, data, least in EXAMPLE_DESIGNS:
        d = population.d
        mu = np.full(d, population.separation / math.sqrt(d))
        count = 0
        for r in range(replications):
            y, lots = population.labels(rng)
            if r % 10 == 0:  # splits take longer than scores
                ids = np.array([f"{i:06d}" for i in range(population.n)])
                labels, groups = y[:, None].astype(np.uint8), None if lots is None else lots.astype(str)
                tests = [
                    make_split(
                        labels, ids, seed=s if data.split_seed is None else 0, by=data.split_by, groups=groups
                    ).test
                    for s in range(r, r + n_seeds)
                ]
            runs: list[dict[int, RunResult]] = []
            truths = []
            for _ in range(2):
                x = population.features(y, lots, rng)
                w = mu + 0.5 * np.linalg.norm(mu) * rng.standard_normal((n_seeds, d))
                truths.append(np.mean(phi(w @ mu / np.linalg.norm(w, axis=1) / math.sqrt(2))))
                outputs = [
                    {"test_logits": (x[rows] @ w[s])[:, None], "test_labels": y[rows, None].astype(np.uint8)}
                    | {"test_ids": rows.astype(np.uint64)}
                    | ({} if lots is None else {"test_groups": lots[rows]})
                    for s, rows in enumerate(tests)
                ]
                runs.append({s: dataclasses.replace(template, outputs=found) for s, found in enumerate(outputs)})
            interval = example_interval(runs[0], runs[1], "test.roc_auc")
            assert interval is not None
            count += interval.low <= truths[0] - truths[1] <= interval.high
        case = f"6 seeds, {named(planned_design(data))}, difference in roc_auc ({population.name})"
        yield Cell("examples", case, len(tests[0]), 1, count / replications, (least, 1.0), replications)


PARTS: dict[str, tuple[Callable[[int], Iterator[Cell]], int, str]] = {
    "errors": (verdict_errors, 1000, "False `better` or `worse` where all arms are equal (at most 0.06)"),
    "alternatives": (alternatives, 1500, "The same near chance (N = 300, two features) under other rho (no bound)"),
    "equivalent": (false_equivalents, 1500, "False `equivalent` at the margin's edge (at most 0.06)"),
    "coverage": (interval_coverage, 1500, "Coverage of the intervals of the mean difference (at least 0.93)"),
    "examples": (example_coverage, 1000, "Coverage of the intervals over test examples (at least 0.93)"),
    "power": (planned_power, 1500, "Power at the planned number of seeds (0.75 to 0.85)"),
}
"""By part: the simulation, its replications, and the title of its table."""


def measured(quick: bool, progress: Callable[[Cell], None] = lambda cell: None) -> list[Cell]:
    """Return every cell; a tenth of the replications with `quick`."""
    found = []
    for simulate, replications, _ in PARTS.values():
        for cell in simulate(replications // 10 if quick else replications):
            progress(cell)
            found.append(cell)
    return found


def tables(cells: list[Cell]) -> str:
    """Return the Markdown tables: one row per case and number of comparisons, one column per number of seeds."""
    blocks = []
    for part, (_, replications, title) in PARTS.items():
        own = [cell for cell in cells if cell.part == part]
        blocks.append(f"**{title}**, {replications:,} replications.")
        if part in ("examples", "power"):
            unit = "test examples" if part == "examples" else "planned seeds"
            rows = [f"| case | comparisons | {unit} | measured |", "|---|--:|--:|--:|"]
            rows += [f"| {c.case} | {c.comparisons} | {c.seeds} | {shown(c)} |" for c in own]
        else:
            rows = [
                "| case | comparisons | " + " | ".join(f"{n} seeds" for n in SEEDS) + " |",
                "|---|--:" + "|--:" * 4 + "|",
            ]
            for case, m in dict.fromkeys((cell.case, cell.comparisons) for cell in own):
                values = [shown(cell) for cell in own if (cell.case, cell.comparisons) == (case, m)]
                rows.append(f"| {case} | {m} | {' | '.join(values)} |")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def shown(cell: Cell) -> str:
    """Return the rate of a cell, bold where it misses its bound."""
    return f"{cell.rate:.3f}" if cell.holds() else f"**{cell.rate:.3f}**"


def read_cells(path: Path = RESULTS) -> list[Cell]:
    """Return the cells of a file of results."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [Cell(**{**cell, "bound": tuple(cell["bound"])}) for cell in found]


def with_tables(page: str, cells: list[Cell]) -> str:
    """Return the text of a page with the tables between the markers."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(cells)}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Run the simulations; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the replications, nothing written")
    quick = parser.parse_args(argv).quick
    start = time.process_time()

    def progress(cell: Cell) -> None:
        mark = "" if cell.holds(3.0 if quick else 0.0) else "  MISSED"
        print(f"{cell.part:10s} {cell.rate:.3f}  {cell.case}, {cell.seeds}, {cell.comparisons}{mark}", flush=True)

    cells = measured(quick, progress)
    missed = [cell for cell in cells if not cell.holds(3.0 if quick else 0.0)]
    if not quick:
        seconds = round(time.process_time() - start)
        write_json(RESULTS, {"processor_seconds": seconds, "cells": [dataclasses.asdict(cell) for cell in cells]})
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), cells), encoding="utf-8")
    print(f"{len(cells) - len(missed)} of {len(cells)} bounds hold ({time.process_time() - start:.0f} s)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
