"""`bench_{head}.json`: everything about one head in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.comparison.analysis import Distribution, RunAnalysis, main_metric, over_seeds
from qwafer.evaluation import Interval, bca_class_metric
from qwafer.sweeps.inference import InferenceTiming
from qwafer.training.result import Environment, ParameterCount, RunResult


@dataclass(frozen=True)
class FeatureSource:
    """The features that a head was trained on."""

    file: str
    """Name of the file."""
    digest: str
    """Of features, labels and content ids."""
    n_examples: int
    """Examples in the file."""
    n_features: int
    """Features of an example."""
    provenance: dict[str, Any]
    """Data, backbone and weights that the features come from."""


@dataclass(frozen=True)
class HeadRecord:
    """One head of a benchmark: its runs, what they share, and how it compares over seeds."""

    SCHEMA: ClassVar[str] = "qwafer/bench-head/2"

    head: str
    """Name of the arm."""
    label_names: tuple[str, ...]
    """Labels of the task, in the order of every list of one value per label."""
    exclusive: bool
    """Whether exactly one class applies to an example."""
    parameters: ParameterCount
    """Numbers in the head."""
    val: dict[str, Distribution]
    """Every average on validation, over seeds."""
    test: dict[str, Distribution]
    """Every average on test, over seeds."""
    runs: dict[int, RunAnalysis]
    """By seed."""
    inference: InferenceTiming
    """How fast the head of the first seed answers."""
    source: FeatureSource
    """The features."""
    config: dict[str, Any]
    """Every option of the first run."""
    engine: dict[str, Any]
    """What executed the circuit; empty where none runs."""
    environment: Environment
    """What the first run was made with."""
    average_precision: tuple[Interval, ...] = ()
    """Average precision of each class in the first seed, with its 95% BCa interval over test examples."""

    @property
    def seed(self) -> int:
        """The first seed: single runs are shown of it."""
        return next(iter(self.runs))

    @property
    def first(self) -> RunAnalysis:
        """The run of the first seed."""
        return self.runs[self.seed]

    @property
    def main_metric(self) -> str:
        """The F1 that heads are compared by."""
        return main_metric(exclusive=self.exclusive)


def head_record(
    head: str,
    runs: Mapping[int, RunResult],
    analyses: Mapping[int, RunAnalysis],
    inference: InferenceTiming,
    source: FeatureSource,
    *,
    n_resamples: int = 2000,
) -> HeadRecord:
    """Return the record of one head from its runs and their analyses by seed; `n_resamples` of each interval."""
    first = next(iter(runs.values()))
    return HeadRecord(
        head=head,
        label_names=first.label_names,
        exclusive=first.exclusive,
        parameters=first.n_parameters,
        val=over_seeds(analysis.val.macro for analysis in analyses.values()),
        test=over_seeds(analysis.test.macro for analysis in analyses.values()),
        runs=dict(analyses),
        inference=inference,
        source=source,
        config=dict(first.config),
        engine=first.engine,
        environment=first.environment,
        average_precision=bca_class_metric(
            first.logits["test"],
            first.labels["test"],
            metric="average_precision",
            exclusive=first.exclusive,
            n_resamples=n_resamples,
        ),
    )
