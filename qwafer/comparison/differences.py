"""Paired differences between heads: over seeds (exact tests), and over the test examples of each seed (bootstrap)."""

from collections.abc import Mapping, Sequence
from typing import Any

from qwafer._records import to_json
from qwafer.comparison.analysis import tuned
from qwafer.comparison.runs import HeadRun
from qwafer.comparison.statistics import compare_arms
from qwafer.evaluation import bca_metric_differences

EXAMPLE_METRICS = ("f1", "roc_auc")


def seed_differences(
    analyses: Mapping[str, Mapping[int, Mapping[str, Any]]], baseline: str, seeds: Sequence[int], exclusive: bool
) -> dict[str, list[dict[str, Any]]]:
    """Return, a metric, the comparisons (`ablation.Comparison`) of every head with `baseline` over seeds.

    Macro F1 at tuned thresholds (arg max for exclusive classes) and macro ROC-AUC, both on test. Holm's adjustment
    counts the heads.
    """
    names = ("f1" if exclusive else "f1_tuned", "roc_auc")
    comparisons = {}
    for name in names:
        values = {
            head: {seed: analysis["test"]["macro"].get(name) for seed, analysis in by_seed.items()}
            for head, by_seed in analyses.items()
        }
        found = compare_arms(values, baseline=baseline, metric=f"test.{name}", seeds=seeds)
        comparisons[name] = [to_json(comparison) for comparison in found]
    return comparisons


def example_differences(
    runs: Mapping[str, Mapping[int, HeadRun]], baseline: str, *, n_resamples: int = 2000
) -> dict[str, dict[int, dict[str, Any]]]:
    """Return, a head and a seed, the BCa 95 % intervals over test examples of metric(head) - metric(baseline).

    Macro F1 at each head's own thresholds from validation, and macro ROC-AUC; both heads are read on the same
    resampled examples.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for head, by_seed in runs.items():
        if head == baseline:
            continue
        found[head] = {}
        for seed, run in by_seed.items():
            other = runs[baseline].get(seed)
            if other is None:
                continue
            limits = [None if thresholds is None else thresholds.values for thresholds in (tuned(run), tuned(other))]
            intervals = bca_metric_differences(
                run.logits["test"],
                other.logits["test"],
                run.labels["test"],
                metrics=EXAMPLE_METRICS,
                thresholds_a=limits[0],
                thresholds_b=limits[1],
                exclusive=run.exclusive,
                n_resamples=n_resamples,
            )
            found[head][seed] = {name: to_json(interval) for name, interval in intervals.items()}
    return found
