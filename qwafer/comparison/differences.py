"""Paired differences between heads: over seeds (`compare_arms`), and the test examples of each seed (bootstrap)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from qwafer.comparison.analysis import RunAnalysis, main_metric
from qwafer.comparison.design import Design
from qwafer.comparison.statistics import Comparison, compare_arms
from qwafer.evaluation import Interval, bca_metric_differences
from qwafer.experiment import MARGIN
from qwafer.training.result import Runs

EXAMPLE_METRICS = ("f1", "roc_auc")

SeedDifferences = dict[str, tuple[Comparison, ...]]
"""By metric, the comparisons of every head with the baseline."""
ExampleDifferences = dict[str, dict[int, dict[str, Interval]]]
"""By head, seed and metric, the interval of metric(head) - metric(baseline)."""


@dataclass(frozen=True)
class Differences:
    """`differences.json`: how every head differs from the baseline, on test."""

    SCHEMA: ClassVar[str] = "qwafer/bench-differences/3"

    seeds: SeedDifferences
    """Over seeds; see `seed_differences`."""
    examples: ExampleDifferences
    """Over the test examples of each seed; see `example_differences`."""


def seed_differences(
    analyses: Mapping[str, Mapping[int, RunAnalysis]],
    baseline: str,
    seeds: Sequence[int],
    *,
    exclusive: bool,
    design: Design,
    margin: float = MARGIN,
    unconverged: Mapping[str, Collection[int]] | None = None,
) -> SeedDifferences:
    """Return, by metric, the comparison of every head with `baseline` over seeds; see `compare_arms`.

    Macro F1 at tuned thresholds (arg max for exclusive classes) and macro ROC-AUC, both on test. Holm's adjustment
    counts the heads.
    """
    comparisons = {}
    for name in (main_metric(exclusive=exclusive), "roc_auc"):
        values = {
            head: {seed: analysis.test.macro.get(name) for seed, analysis in by_seed.items()}
            for head, by_seed in analyses.items()
        }
        comparisons[name] = tuple(
            compare_arms(
                values,
                baseline=baseline,
                metric=f"test.{name}",
                seeds=seeds,
                design=design,
                margin=margin,
                unconverged=unconverged,
            )
        )
    return comparisons


def example_differences(runs: Runs, baseline: str, *, n_resamples: int = 2000) -> ExampleDifferences:
    """Return, by head and seed, the 95% BCa intervals over test examples of metric(head) - metric(baseline).

    Macro F1 at each head's own thresholds from validation, and macro ROC-AUC; both heads are read on the same
    resampled examples.
    """
    found: ExampleDifferences = {}
    for head, by_seed in runs.items():
        if head == baseline:
            continue
        found[head] = {}
        for seed, run in by_seed.items():
            other = runs[baseline].get(seed)
            if other is None:
                continue
            intervals = bca_metric_differences(
                run.logits["test"],
                other.logits["test"],
                run.labels["test"],
                metrics=EXAMPLE_METRICS,
                thresholds_a=run.test.thresholds,
                thresholds_b=other.test.thresholds,
                exclusive=run.exclusive,
                n_resamples=n_resamples,
            )
            found[head][seed] = dict(intervals)
    return found
