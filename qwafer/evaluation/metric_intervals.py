"""BCa intervals of macro metrics over test examples, and of their difference between two heads on the same examples.

A resample is a vector of counts, how often each example is drawn. Every metric here is a function of weighted counts,
so that thousands of resamples are matrix products and cumulative sums, and its leave-one-out values follow from the
full data in O(N log N). Predictions and thresholds stay as they are: the interval is that of the test set, not of
training or tuning.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array
from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.evaluation import exclusive as exclusive_metrics
from qwafer.evaluation import metrics as metric_functions
from qwafer.evaluation.intervals import Interval, bca_from_replicates, check_options, resample_counts
from qwafer.evaluation.metrics import Floats

METRICS = ("f1", "roc_auc", "average_precision", "exact_match")

Counts = NDArray[np.int32]


@dataclass(frozen=True)
class _Statistic:
    """A metric of N examples: its value in resamples (counts (N, B) to (B,)) and with each example left out (N,)."""

    replicates: Callable[[Counts], Floats]
    jackknife: Floats

    def estimate(self, n: int) -> float:
        return float(self.replicates(np.ones((n, 1), np.int32))[0])


def bca_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    metrics: Sequence[str] = ("f1", "roc_auc"),
    thresholds: ArrayLike | None = None,
    exclusive: bool = False,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> dict[str, Interval]:
    """Return the BCa interval over examples of each of `metrics`: `f1`, `roc_auc`, `average_precision`, `exact_match`.

    `logits`, `labels` (N, K); the first three are macro averages over the classes that the resample defines, as in
    `evaluate`. F1 and exact match are of l > `thresholds` ((K,), default 0), or of the arg max with `exclusive`. All
    metrics share the same resamples. Degenerate data give marked intervals, see `Interval`; InputError is for
    arrays of wrong shape and unknown metrics.
    """
    check_options(level, n_resamples)
    statistics, n = _statistics(logits, labels, metrics, thresholds, exclusive)
    return _intervals(statistics, n, level, n_resamples, seed)


def bca_class_metric(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    metric: str,
    exclusive: bool = False,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> tuple[Interval, ...]:
    """Return the BCa interval over examples of `metric` (`roc_auc` or `average_precision`) of each of the K classes.

    `logits`, `labels` (N, K); exclusive classes are ranked one against the rest. All classes share the same resamples.
    """
    check_options(level, n_resamples)
    builders = {"roc_auc": _roc_auc, "average_precision": _average_precision}
    check_choice("metric", metric, builders)
    scores, truth = _columns(logits, labels, exclusive)
    statistics = {str(k): builders[metric](s, y) for k, (s, y) in enumerate(zip(scores.T, truth.T, strict=True))}
    return tuple(_intervals(statistics, len(scores), level, n_resamples, seed).values())


def _columns(logits: ArrayLike, labels: ArrayLike, exclusive: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the scores and labels (N, K) by which the classes are ranked."""
    values = real_array("logits", logits, ("N", "K")).astype(np.float64)
    if exclusive:
        labels = np.eye(values.shape[1], dtype=bool)[exclusive_metrics.class_indices(labels, values.shape)]
        values = exclusive_metrics.one_vs_rest_logits(values)
    scores, truth, _ = metric_functions.as_columns(values, labels, "logits")
    return scores, truth


def bca_metric_differences(
    logits_a: ArrayLike,
    logits_b: ArrayLike,
    labels: ArrayLike,
    *,
    metrics: Sequence[str] = ("f1", "roc_auc"),
    thresholds_a: ArrayLike | None = None,
    thresholds_b: ArrayLike | None = None,
    exclusive: bool = False,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int | np.random.Generator = 0,
) -> dict[str, Interval]:
    """Return the BCa interval of metric(a) - metric(b), paired: both heads are read on the same resampled examples.

    Arguments as in `bca_metrics`; the logits of both heads are those of the same N examples in the same order.
    """
    check_options(level, n_resamples)
    first, n, second = _both(logits_a, logits_b, labels, metrics, thresholds_a, thresholds_b, exclusive)
    return _intervals({name: _difference(first[name], second[name]) for name in first}, n, level, n_resamples, seed)


def jackknife_difference(
    logits_a: ArrayLike,
    logits_b: ArrayLike,
    labels: ArrayLike,
    *,
    metric: str,
    thresholds_a: ArrayLike | None = None,
    thresholds_b: ArrayLike | None = None,
    exclusive: bool = False,
) -> tuple[float, Floats]:
    """Return metric(a) - metric(b), and its values (N,) with each example left out; NaN where undefined.

    Arguments as in `bca_metric_differences`.
    """
    first, n, second = _both(logits_a, logits_b, labels, (metric,), thresholds_a, thresholds_b, exclusive)
    difference = _difference(first[metric], second[metric])
    return difference.estimate(n), difference.jackknife


def _both(
    logits_a: ArrayLike,
    logits_b: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    thresholds_a: ArrayLike | None,
    thresholds_b: ArrayLike | None,
    exclusive: bool,
) -> tuple[dict[str, _Statistic], int, dict[str, _Statistic]]:
    """Return the statistics of two heads on the same examples, and N between them."""
    lengths: dict[str, int] = {}
    for name, logits in (("logits_a", logits_a), ("logits_b", logits_b)):
        real_array(name, logits, ("N", "K"), lengths)
    first, n = _statistics(logits_a, labels, names, thresholds_a, exclusive)
    return first, n, _statistics(logits_b, labels, names, thresholds_b, exclusive)[0]


def _intervals(
    statistics: dict[str, _Statistic], n: int, level: float, n_resamples: int, seed: int | np.random.Generator
) -> dict[str, Interval]:
    parts: dict[str, list[Floats]] = {name: [] for name in statistics}
    for counts in resample_counts(n, n_resamples, seed):
        for name, statistic in statistics.items():
            parts[name].append(statistic.replicates(counts))
    return {
        name: bca_from_replicates(statistic.estimate(n), np.concatenate(parts[name]), statistic.jackknife, level)
        for name, statistic in statistics.items()
    }


def _difference(first: _Statistic, second: _Statistic) -> _Statistic:
    return _Statistic(
        lambda counts: first.replicates(counts) - second.replicates(counts), first.jackknife - second.jackknife
    )


def _statistics(
    logits: ArrayLike, labels: ArrayLike, names: Sequence[str], thresholds: ArrayLike | None, exclusive: bool
) -> tuple[dict[str, _Statistic], int]:
    """Return the statistic of each name, and N."""
    for name in names:
        check_choice("metrics", name, METRICS)
    values = real_array("logits", logits, ("N", "K")).astype(np.float64)
    n_classes = values.shape[1]
    scores, truth = _columns(values, labels, exclusive)
    if exclusive:
        if thresholds is not None:
            raise InputError(
                "`thresholds` have no effect on exclusive classes (the largest logit is predicted): leave them out"
            )
        predictions = np.eye(n_classes, dtype=bool)[values.argmax(axis=1)]
    else:
        limits = np.zeros(n_classes) if thresholds is None else thresholds
        predictions = values > real_array("thresholds", limits, (n_classes,), finite=True)
    if not np.isfinite(values).all():  # a mean over the other classes, or a NaN below its threshold, would hide it
        return dict.fromkeys(names, _undefined(len(scores))), len(scores)
    builders: dict[str, Callable[[], _Statistic]] = {
        "f1": lambda: _macro_f1(predictions, truth),
        "roc_auc": lambda: _macro([_roc_auc(s, y) for s, y in zip(scores.T, truth.T, strict=True)]),
        "average_precision": lambda: _macro([_average_precision(s, y) for s, y in zip(scores.T, truth.T, strict=True)]),
        "exact_match": lambda: _mean((predictions == truth).all(axis=1)),
    }
    return {name: builders[name]() for name in names}, len(scores)


def _mean(values: NDArray[np.bool_]) -> _Statistic:
    """The mean of one value per example."""
    n, total = len(values), int(values.sum())
    return _Statistic(lambda counts: (values.astype(np.float64) @ counts) / n, (total - values) / max(n - 1, 1))


def _macro_f1(predictions: NDArray[np.bool_], labels: NDArray[np.bool_]) -> _Statistic:
    """Mean over classes with a positive example of 2 tp / (predicted + actual); inputs (N, K)."""
    n_classes = labels.shape[1]
    rows = np.concatenate([predictions & labels, predictions, labels], axis=1).astype(np.float64)  # (N, 3 K)

    def from_counts(counts: Floats) -> Floats:
        tp, predicted, actual = np.split(counts, (n_classes, 2 * n_classes), axis=1)  # each (B, K)
        present = actual > 0
        scores = np.where(present, metric_functions.divide(2 * tp, predicted + actual, 0.0), 0.0)
        return metric_functions.divide(scores.sum(axis=1), present.sum(axis=1), np.nan)

    return _Statistic(lambda counts: from_counts(counts.T @ rows), from_counts(rows.sum(axis=0) - rows))


def _macro(classes: list[_Statistic]) -> _Statistic:
    """Mean over the classes that are defined."""

    def average(columns: list[Floats]) -> Floats:
        values = np.stack(columns, axis=1)
        defined = ~np.isnan(values)
        return metric_functions.divide(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1), np.nan)

    return _Statistic(
        lambda counts: average([statistic.replicates(counts) for statistic in classes]),
        average([statistic.jackknife for statistic in classes]),
    )


def _undefined(n: int) -> _Statistic:
    return _Statistic(lambda counts: np.full(counts.shape[1], np.nan), np.full(n, np.nan))


def _roc_auc(scores: Floats, labels: NDArray[np.bool_]) -> _Statistic:
    """ROC-AUC of one class: sum over positives of the weight of negatives below and not above, over 2 w_pos w_neg."""
    n = len(scores)
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    if not (len(positive) and len(negative) and np.isfinite(scores).all()):
        return _undefined(n)
    positive, negative = (group[np.argsort(scores[group], kind="stable")] for group in (positive, negative))
    below = np.searchsorted(scores[negative], scores[positive], side="left")
    not_above = np.searchsorted(scores[negative], scores[positive], side="right")

    def replicates(counts: Counts) -> Floats:
        drawn = counts[positive]  # (n_pos, B)
        weight = np.zeros((len(negative) + 1, counts.shape[1]), np.int32)
        np.cumsum(counts[negative], axis=0, out=weight[1:])  # of the negatives below a position
        twice = np.einsum("ib,ib->b", drawn, weight[below] + weight[not_above], dtype=np.int64)
        return metric_functions.divide(
            twice, 2 * drawn.sum(axis=0, dtype=np.int64) * weight[-1].astype(np.int64), np.nan
        )

    wins = below + not_above  # twice the negatives that each positive beats
    losses = 2 * len(positive) - (
        np.searchsorted(scores[positive], scores[negative], side="left")
        + np.searchsorted(scores[positive], scores[negative], side="right")
    )  # twice the positives that beat each negative
    total = int(wins.sum())
    jackknife = np.empty(n)
    jackknife[positive] = metric_functions.divide(total - wins, 2 * (len(positive) - 1) * len(negative), np.nan)
    jackknife[negative] = metric_functions.divide(total - losses, 2 * len(positive) * (len(negative) - 1), np.nan)
    return _Statistic(replicates, jackknife)


def _average_precision(scores: Floats, labels: NDArray[np.bool_]) -> _Statistic:
    """Average precision of one class: the weighted mean over positives of tp / (tp + fp) at their score."""
    n = len(scores)
    if not (labels.any() and np.isfinite(scores).all()):
        return _undefined(n)
    order = np.argsort(-scores, kind="stable")  # from the highest score down
    ordered, truth = -scores[order], labels[order]
    last = np.searchsorted(ordered, ordered, side="right") - 1  # the last example of equal score
    first = np.searchsorted(ordered, ordered, side="left")
    hits = np.flatnonzero(truth)

    def replicates(counts: Counts) -> Floats:
        drawn = counts[order]
        every = np.cumsum(drawn, axis=0, dtype=np.int32)
        found = np.cumsum(drawn * truth[:, None], axis=0, dtype=np.int32)
        ends = last[hits]
        precision = metric_functions.divide(found[ends], every[ends], 0.0)
        return metric_functions.divide(np.einsum("ib,ib->b", drawn[hits], precision), found[-1], np.nan)

    every, found = last + 1, np.cumsum(truth)[last]  # at each example's score, examples and positives at or above it
    n_pos = int(found[-1])
    now = np.where(truth, found / every, 0.0)
    # An example that is left out lowers the counts at every positive whose score is not above its own.
    without_positive = np.where(truth, metric_functions.divide(found - 1, every - 1, 0.0), 0.0)
    without_negative = np.where(truth, metric_functions.divide(found, every - 1, 0.0), 0.0)
    before = np.concatenate([[0.0], np.cumsum(now)])[first]  # positives with a higher score keep their precision
    tails = [np.cumsum(part[::-1])[::-1][first] for part in (without_positive, without_negative)]
    left = np.where(
        truth,
        metric_functions.divide(before + tails[0] - without_positive, n_pos - 1, np.nan),
        (before + tails[1]) / n_pos,
    )
    jackknife = np.empty(n)
    jackknife[order] = left
    return _Statistic(replicates, jackknife)
