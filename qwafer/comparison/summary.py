"""`Summary` and `SweepTimings`: everything that an experiment shows, and apart from it how long it took.

A summary holds no time of day and no duration: equal runs give equal bytes, whatever the number of workers and however
often the sweep was killed and resumed.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from qwafer._notebook import as_html
from qwafer.comparison.caveats import collect_warnings
from qwafer.comparison.design import FEWEST_SEEDS, Design, design_of, paired_designs
from qwafer.comparison.examples import ExampleInterval, example_interval
from qwafer.comparison.metrics import SCORED_PARTS, higher_is_better, metric_value
from qwafer.comparison.pairing import Pairing, check_circuits, check_pairing, identical_arms
from qwafer.comparison.planning import detectable_effect
from qwafer.comparison.statistics import Comparison, compare_arms
from qwafer.execution import Failure
from qwafer.experiment import Experiment, Searched
from qwafer.heads import PARAMETER_GROUPS
from qwafer.sweeps.directory import Addition, DirectoryRecord, Note, SweepResults
from qwafer.sweeps.sources import SourceRecord
from qwafer.training.result import Environment, ParameterCount, RunResult, Runs, Timings

T = TypeVar("T")

COPIED = ("name", "title", "reference", "written_for", "baseline", "metric", "margin", "seeds", "searched")
"""Fields of `Experiment` that a summary repeats."""
VOLATILE = ("seconds", "time", "timings", "cache")
"""Parts of the names of `RunResult.engine` entries that depend on when or after what a run ran."""


@dataclass(frozen=True)
class ExperimentFacts:
    """The experiment, without its configurations; fields as in `Experiment`, description and expectation as they were
    before the first run.
    """

    name: str
    title: str
    description: str
    expected: str
    written: str
    """UTC day on which description and expectation were first seen, before the first run."""
    noted: tuple[Note, ...]
    """Every later wording of them."""
    written_for: tuple[str, ...]
    reference: str
    digest: str
    """`Experiment.digest`: equal experiments have equal ones."""
    baseline: str
    metric: str
    margin: float
    higher_is_better: bool
    """Whether a larger `metric` is the better one."""
    seeds: tuple[int, ...]
    additions: tuple[Addition, ...] = ()
    """Arms and seeds that joined after the first claim."""
    searched: Searched | None = None


@dataclass(frozen=True)
class MetricSummary:
    """A metric over seeds; None where it is undefined."""

    mean: float | None
    sd: float | None
    """Standard deviation with n - 1."""


@dataclass(frozen=True)
class LearningSummary:
    """How strong the gradient of a group of parameters was and how far it moved: means over seeds, None without one."""

    first_grad_norm: float | None
    """At the first evaluation."""
    last_grad_norm: float | None
    """At the last."""
    first_distance: float | None
    """From the initial values, at the first evaluation."""
    last_distance: float | None


@dataclass(frozen=True)
class ArmSummary:
    """What the runs of one arm gave."""

    changes: dict[str, Any]
    """Options against the baseline's."""
    values: dict[int, float | None]
    """The experiment's metric by seed; None where it is undefined."""
    mean: float | None
    """Mean of `values`."""
    sd: float | None
    """Standard deviation of `values`, with n - 1."""
    complete: tuple[int, ...]
    """Seeds that have a run."""
    failed: dict[int, Failure]
    """What became of the others, without tracebacks."""
    best_epochs: dict[int, int]
    """`RunResult.best_epoch` by seed."""
    metrics: dict[str, MetricSummary]
    """Every average of `Evaluation.macro`, as `test.NAME` and `val.NAME`."""
    learning: dict[str, LearningSummary]
    """By group of parameters."""
    n_parameters: ParameterCount | None
    """None without a run."""
    engine: dict[str, Any] | None
    """`RunResult.engine` of the first run, without what is volatile; None without a run."""


@dataclass(frozen=True)
class Summary:
    """`summary.json`."""

    SCHEMA: ClassVar[str] = "qwafer/summary/3"

    experiment: ExperimentFacts
    comparisons: tuple[Comparison, ...]
    """Every arm against the baseline."""
    design: Design
    """What the seeds repeat, as the digests of their splits prove."""
    detectable: float | None
    """The difference, in standard deviations over seeds, that so many seeds show with a probability of 80%; None with
    too few."""
    examples: dict[str, ExampleInterval]
    """By arm, the interval of its difference over test examples; without those where it is not defined."""
    arms: dict[str, ArmSummary]
    pairing: Pairing
    identical_arms: tuple[tuple[str, str], ...]
    """Pairs of arms with bit-identical results."""
    warnings: tuple[str, ...]
    """One sentence each, the gravest first."""
    data: dict[str, SourceRecord]
    """What each arm was trained on."""
    environments: tuple[Environment, ...]
    """The distinct environments that the runs were made in."""

    def to_pandas(self) -> Any:
        """Return the comparisons as a `pandas.DataFrame`, a row for each arm against the baseline: mean difference, the
        interval that decides with its level, p adjusted by Holm, the seeds that entered, the verdict.
        """
        import pandas

        rows = {
            c.arm: {
                "difference": c.mean,
                "low": None if c.interval is None else c.interval[0],
                "high": None if c.interval is None else c.interval[1],
                "level": c.level,
                "p": c.p_holm,
                "seeds": len(c.seeds),
                "verdict": c.verdict,
            }
            for c in self.comparisons
        }
        table = pandas.DataFrame.from_dict(rows, orient="index")
        numbers = ["difference", "low", "high", "level", "p"]
        return table.astype(dict.fromkeys(numbers, "float64")).rename_axis(index="arm")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: every warning, the table of comparisons, and the verdicts in words."""
        said = [*self.warnings, *(comparison.sentence for comparison in self.comparisons)]
        title = f"{self.experiment.title or self.experiment.name}: {self.experiment.metric}, difference from "
        return as_html(title + self.experiment.baseline, said, self.to_pandas())


@dataclass(frozen=True)
class ArmTimings:
    """How long the runs of one arm took."""

    sum: Timings
    """Over all runs; `steps_per_second` is that of all steps in all training seconds."""
    runs: dict[int, Timings]
    """By seed."""


@dataclass(frozen=True)
class SweepTimings:
    """`timings.json`: the wall seconds of every run."""

    SCHEMA: ClassVar[str] = "qwafer/timings/2"

    arms: dict[str, ArmTimings]


def summarize(
    experiment: Experiment, sweep: SweepResults, record: DirectoryRecord, where: str = "the results"
) -> Summary:
    """Return the summary of the runs of `sweep`, which lie in the directory of `record`.

    Raises PairingError, naming `where` they lie, where two arms cannot be compared, or the seeds of one.
    """
    digests = {arm: {seed: run.digests for seed, run in runs.items()} for arm, runs in sweep.results.items()}
    pairing = check_pairing(digests, experiment.arms, experiment.facts, where)
    check_circuits(sweep.results, experiment.arms, {}, where)
    identical = identical_arms(sweep.results)
    values = {
        arm: {seed: metric_value(run, experiment.metric) for seed, run in runs.items()}
        for arm, runs in sweep.results.items()
    }
    upwards = higher_is_better(experiment.metric)
    design = design_of(experiment, sweep.results)
    comparisons = compare_arms(
        values,
        baseline=experiment.baseline,
        metric=experiment.metric,
        seeds=experiment.seeds,
        design=design,
        higher_is_better=upwards,
        margin=experiment.margin,
        unconverged=unconverged_seeds(sweep.results),
        designs=paired_designs(experiment, design),
    )
    n = min((len(c.seeds) for c in comparisons), default=0)
    examples = {
        arm: example_interval(runs, sweep.results[experiment.baseline], experiment.metric)
        for arm, runs in sweep.results.items()
        if arm != experiment.baseline
    }
    return Summary(
        experiment=ExperimentFacts(
            digest=experiment.digest(),
            higher_is_better=upwards,
            description=record.notes[0].description,
            expected=record.notes[0].expected,
            written=record.notes[0].date,
            noted=record.notes[1:],
            additions=record.additions,
            **{name: getattr(experiment, name) for name in COPIED},
        ),
        comparisons=tuple(comparisons),
        design=design,
        detectable=detectable_effect(n, design=design, n_comparisons=len(comparisons)) if n >= FEWEST_SEEDS else None,
        examples={arm: found for arm, found in examples.items() if found is not None},
        arms={
            arm: _arm(experiment.changes(arm), values[arm], runs, sweep.failures[arm])
            for arm, runs in sweep.results.items()
        },
        pairing=pairing,
        identical_arms=identical,
        warnings=collect_warnings(experiment, sweep, pairing, identical, record),
        data=record.data,
        environments=distinct(run.environment for runs in sweep.results.values() for run in runs.values()),
    )


def unconverged_seeds(runs: Runs) -> dict[str, set[int]]:
    """Return by arm the seeds whose training had not converged; what is not trained in epochs has none."""
    return {arm: {seed for seed, run in by_seed.items() if run.converged is False} for arm, by_seed in runs.items()}


def sum_timings(sweep: SweepResults) -> SweepTimings:
    """Return the wall seconds of every run of `sweep`, and their sums per arm."""
    return SweepTimings(
        {
            arm: ArmTimings(_sum([run.timings for run in runs.values()]), {s: run.timings for s, run in runs.items()})
            for arm, runs in sweep.results.items()
        }
    )


def _sum(timings: list[Timings]) -> Timings:
    names = ("compile", "training", "evaluation", "total")
    seconds = {name: math.fsum(getattr(timing, name) for timing in timings) for name in names}
    steps, training = sum(timing.steps for timing in timings), seconds["training"]
    lanes = max((timing.lanes for timing in timings), default=1)
    return Timings(**seconds, steps=steps, steps_per_second=steps / training if training else 0.0, lanes=lanes)


def _arm(
    changes: dict[str, Any],
    values: dict[int, float | None],
    runs: Mapping[int, RunResult],
    failures: Mapping[int, Failure],
) -> ArmSummary:
    first = next(iter(runs.values()), None)
    over_seeds = mean_and_sd(values.values())
    names = [f"{part}.{name}" for part in SCORED_PARTS for name in sorted(_averages(runs, part))]
    engine = None if first is None else first.engine
    return ArmSummary(
        changes=changes,
        values=values,
        mean=over_seeds.mean,
        sd=over_seeds.sd,
        complete=tuple(sorted(runs)),
        failed={seed: dataclasses.replace(failure, details="") for seed, failure in failures.items()},
        best_epochs={seed: run.best_epoch for seed, run in runs.items()},
        metrics={name: mean_and_sd(metric_value(run, name) for run in runs.values()) for name in names},
        learning=_learning(runs),
        n_parameters=None if first is None else first.n_parameters,
        engine=engine and {name: value for name, value in engine.items() if not any(part in name for part in VOLATILE)},
    )


def _averages(runs: Mapping[int, RunResult], part: str) -> set[str]:
    return {name for run in runs.values() for name in getattr(run, part).macro}


def _learning(runs: Mapping[int, RunResult]) -> dict[str, LearningSummary]:
    def mean(curve: str, index: int) -> float | None:
        found = [run.curve(curve) for run in runs.values()]
        return mean_and_sd(values[index] for values in found if values.size).mean

    return {
        group: LearningSummary(
            first_grad_norm=mean(f"grad_norm.{group}", 0),
            last_grad_norm=mean(f"grad_norm.{group}", -1),
            first_distance=mean(f"distance.{group}", 0),
            last_distance=mean(f"distance.{group}", -1),
        )
        for group in ordered_groups(group for run in runs.values() for group in run.parameter_groups("grad_norm"))
    }


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Return the distinct parameter groups in the order of the data's way through a head, others after them by name."""
    known = list(PARAMETER_GROUPS)
    return sorted(set(groups), key=lambda group: (known.index(group) if group in known else len(known), group))


def mean_and_sd(values: Iterable[float | None]) -> MetricSummary:
    """Return mean and standard deviation (n - 1) of the finite ones among `values`."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)
    mean = float(np.mean(finite)) if finite.size else None
    return MetricSummary(mean, float(np.std(finite, ddof=1)) if finite.size > 1 else None)


def distinct(values: Iterable[T]) -> tuple[T, ...]:
    """Return the distinct values in the order of their first occurrence."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return tuple(found)
