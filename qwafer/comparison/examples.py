"""The interval of a difference over test examples, the trained heads held fixed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qwafer.evaluation.metric_intervals import METRICS, jackknife_difference
from qwafer.training.result import RunResult


@dataclass(frozen=True)
class ExampleInterval:
    """95% interval of the mean difference over seeds that other test examples would give, the trained heads fixed."""

    estimate: float
    """Mean over seeds of metric(arm) - metric(baseline)."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    n_clusters: int
    """What was taken as independent: test lots where they are known, else distinct examples."""
    unit: str
    """`lots` or `examples`."""


def example_interval(
    arm: Mapping[int, RunResult], baseline: Mapping[int, RunResult], metric: str
) -> ExampleInterval | None:
    """Return the interval of the mean over common seeds of metric(arm) - metric(baseline) over test examples.

    With theta_s the difference in seed s and theta_s(-i) that without example i, the influence of example i is
    u_si = (n_s - 1) (mean_j theta_s(-j) - theta_s(-i)) / n_s; the influences of an example, or of a lot where lots are
    known, are summed over seeds, u_c = sum_s sum_{i in c} u_si / S, and the interval is
    mean theta_s +- t_{0.975, D} sqrt(sum_c u_c^2): the jackknife of clusters (Efron 1981), which counts an
    example that several seeds test once. The influences of a seed that tests C_s clusters, which add up to 0, are
    larger by sqrt(C_s / (C_s - 1)), and D = (sum_c k_c^2)^2 / sum_c k_c^4 - 1 for clusters that k_c seeds test
    (Satterthwaite 1946).

    None for metrics without influences of examples, arms of different labels or decisions, fewer than two common seeds'
    outputs, or two clusters.
    """
    from scipy.special import stdtrit

    part, _, name = metric.partition(".")
    tuned = name.endswith("_tuned")
    base = name.removesuffix("_tuned")
    if part != "test" or base not in METRICS:
        return None
    total: dict[object, float] = {}
    times: dict[object, int] = {}
    estimates = []
    grouped = True
    for seed in sorted(arm.keys() & baseline.keys()):
        first, second = arm[seed], baseline[seed]
        ids = first.ids.get("test")
        other = second.ids.get("test")
        if ids is None or other is None or not np.array_equal(ids, other):
            return None
        if first.exclusive != second.exclusive or not np.array_equal(first.labels["test"], second.labels["test"]):
            return None
        limits = [run.test.thresholds if tuned else None for run in (first, second)]
        estimate, left_out = jackknife_difference(
            first.logits["test"],
            second.logits["test"],
            first.labels["test"],
            metric=base,
            thresholds_a=limits[0],
            thresholds_b=limits[1],
            exclusive=first.exclusive,
        )
        if not (math.isfinite(estimate) and np.isfinite(left_out).all()):
            return None
        n = len(left_out)
        influence = (n - 1) * (left_out.mean() - left_out) / n
        groups = first.groups.get("test")
        grouped = grouped and groups is not None
        keys = ids if groups is None else groups
        own = len(np.unique(keys))
        influence *= math.sqrt(own / max(own - 1, 1))  # they add up to 0 within each seed
        for key, value in zip(keys.tolist(), influence.tolist(), strict=True):
            total[key] = total.get(key, 0.0) + value
        for key in set(keys.tolist()):
            times[key] = times.get(key, 0) + 1
        estimates.append(estimate)
    count = len(total)
    if not estimates or count < 3:
        return None
    u = np.fromiter(total.values(), np.float64, count) / len(estimates)
    spread = math.sqrt(float(np.sum(u**2)))
    weight = np.fromiter(times.values(), np.float64, count)
    degrees = max(1.0, float(np.sum(weight**2) ** 2 / np.sum(weight**4)) - 1)
    half = -float(stdtrit(degrees, 0.025)) * spread
    mean = float(np.mean(estimates))
    return ExampleInterval(mean, mean - half, mean + half, count, "lots" if grouped else "examples")
