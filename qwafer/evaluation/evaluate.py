"""All metrics of one set of logits, per class and on average, with every degenerate value marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array
from qwafer._errors import InputError
from qwafer.evaluation import degeneracy, metrics
from qwafer.evaluation import exclusive as exclusive_metrics
from qwafer.evaluation.metrics import Floats

_NEED_BOTH_CLASSES = ("roc_auc", "separation", "balanced_accuracy")
_NEED_POSITIVES = ("average_precision", "f1", "precision", "recall")


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split. A value that is not defined is NaN (null in JSON), and its class is marked."""

    label_names: tuple[str, ...]
    """Names of the K classes, in column order."""
    n_examples: int
    """Examples evaluated."""
    n_positive: tuple[int, ...]
    """Positive examples of each class."""
    exclusive: bool
    """Whether exactly one class applies to an example (softmax) or each on its own (sigmoid)."""
    thresholds: tuple[float, ...] | None
    """Thresholds in logit units behind the metrics whose names end in `_tuned`; none: not given."""
    per_class: dict[str, tuple[float, ...]]
    """Metric name to K values: `roc_auc`, `average_precision`, `separation`, `loss`, `brier`, `ece`; `f1`,
    `precision`, `recall`, `balanced_accuracy` and `predicted_positive_rate` at p = 0.5 (exclusive: of the arg-max
    prediction); the same five with the suffix `_tuned` where thresholds are given. A class without a positive
    example has no ROC-AUC, average precision, separation, F1, precision or recall."""
    macro: dict[str, float]
    """Metric name to the mean over the classes where it is defined, which depends on the split alone, so that two heads
    on one split are averaged over the same classes; and `f1_micro`, `exact_match` (both also `_tuned`); exclusive:
    `accuracy`, `top_label_ece`, and `loss` is the softmax cross-entropy."""
    degenerate: tuple[bool, ...]
    """Whether the metrics of a class at thresholds cannot be trusted, or are undefined."""
    reasons: tuple[str, ...]
    """Why, one text per class; empty where nothing is wrong."""

    @property
    def any_degenerate(self) -> bool:
        """Whether any class is degenerate."""
        return any(self.degenerate)


def evaluate(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_names: Sequence[str],
    thresholds: ArrayLike | None = None,
    exclusive: bool = False,
) -> Evaluation:
    """Return every metric of `logits` (N, K) against `labels` (N, K) of 0 and 1, per class and averaged; see
    `Evaluation`.

    `thresholds` (K,) in logit units, tuned on the validation split, add the metrics `*_tuned`. With `exclusive` the
    labels are one-hot (N, K) or class indices (N,), predictions are the arg max, per-class metrics are one against the
    rest (log-odds of the softmax), and thresholds are refused. Degenerate data (a class absent, constant or non-finite
    logits, extreme predicted-positive rates) are marked and never raise; InputError is for arrays of wrong shape or
    content.
    """
    values = real_array("logits", logits, ("N", "K")).astype(np.float64, copy=False)
    n_classes = values.shape[1]
    if len(label_names) != n_classes:
        raise InputError(
            f"`label_names` must name each of the {n_classes} columns of `logits`, got {len(label_names)} names"
        )
    if exclusive:
        if thresholds is not None:
            raise InputError("`thresholds` have no effect on exclusive classes (arg max): leave them out")
        truth = np.eye(n_classes, dtype=bool)[exclusive_metrics.class_indices(labels, values.shape)]
        scores = exclusive_metrics.one_vs_rest_logits(values)
        at_half = np.eye(n_classes, dtype=bool)[values.argmax(axis=1)]
    else:
        truth = real_array("labels", labels)
        scores = values
        at_half = values > 0
    # Columns are contiguous from here on: every metric reads one class at a time.
    scores, truth, _ = metrics.as_columns(np.asfortranarray(scores), np.asfortranarray(truth), "logits")

    per_class = _ranking_metrics(scores, truth)
    summary: dict[str, float] = {}
    decisions = {"": at_half}
    limits: Floats | None = None
    if thresholds is not None:
        limits = real_array("thresholds", thresholds, (n_classes,), finite=True).astype(np.float64)
        decisions["_tuned"] = values > limits
    for suffix, predictions in decisions.items():
        per_class |= {name + suffix: value for name, value in _threshold_metrics(predictions, truth).items()}
        summary |= {name + suffix: value for name, value in _joint_metrics(predictions, truth).items()}
    macro = _class_means(per_class, truth) | summary
    if exclusive:
        macro["accuracy"] = exclusive_metrics.accuracy(values, truth)
        macro["loss"] = exclusive_metrics.cross_entropy(values, truth)
        macro["top_label_ece"] = exclusive_metrics.top_label_ece(values, truth)

    decided = "_tuned" if thresholds is not None else ""
    what = "the largest logit" if exclusive else "the tuned threshold" if thresholds is not None else "p = 0.5"
    reasons = [
        "; ".join(
            degeneracy.score_reasons(scores[:, k], truth[:, k]) + degeneracy.rate_reasons(rate, truth[:, k], what)
        )
        for k, rate in enumerate(per_class["predicted_positive_rate" + decided])
    ]
    return Evaluation(
        label_names=tuple(str(name) for name in label_names),
        n_examples=len(truth),
        n_positive=tuple(int(count) for count in truth.sum(axis=0)),
        exclusive=exclusive,
        thresholds=None if limits is None else tuple(limits.tolist()),
        per_class={name: tuple(np.asarray(value, np.float64).tolist()) for name, value in per_class.items()},
        macro={name: float(value) for name, value in macro.items()},
        degenerate=tuple(bool(reason) for reason in reasons),
        reasons=tuple(reasons),
    )


def _class_means(per_class: Mapping[str, Floats], labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return the mean of each metric over the classes for which `labels` define it; NaN of bad scores stays visible."""
    positive, negative = labels.any(axis=0), ~labels.all(axis=0)
    means = {}
    for name, values in per_class.items():
        base = name.removesuffix("_tuned")
        if base in _NEED_BOTH_CLASSES:
            values = values[positive & negative]
        elif base in _NEED_POSITIVES:
            values = values[positive]
        means[name] = float(values.mean()) if values.size else np.nan
    return means


def _ranking_metrics(scores: Floats, labels: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the metrics that need no threshold, each (K,)."""
    auc, precision = np.transpose([metrics.ranking(s, y) for s, y in zip(scores.T, labels.T, strict=True)])
    probabilities = metrics.sigmoid(scores)
    return {
        "roc_auc": auc,
        "average_precision": precision,
        "separation": metrics.separation(scores, labels),
        "loss": metrics.bce_loss(scores, labels),
        "brier": metrics.brier(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
    }


def _threshold_metrics(predictions: NDArray[np.bool_], labels: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the metrics of predictions, each (K,); NaN for classes without a positive example."""
    counts = metrics.confusion(predictions, labels)
    present = counts.tp + counts.fn > 0
    values = {
        "f1": metrics.divide(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, 0.0),
        "precision": metrics.divide(counts.tp, counts.tp + counts.fp, 0.0),
        "recall": metrics.divide(counts.tp, counts.tp + counts.fn, 0.0),
    }
    values = {name: np.where(present, value, np.nan) for name, value in values.items()}
    values["balanced_accuracy"] = metrics.balanced_accuracy(predictions, labels)
    values["predicted_positive_rate"] = (counts.tp + counts.fp) / len(labels)
    return values


def _joint_metrics(predictions: NDArray[np.bool_], labels: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics of all labels together."""
    counts = metrics.confusion(predictions, labels)
    tp, errors = int(counts.tp.sum()), int(counts.fp.sum() + counts.fn.sum())
    return {
        "f1_micro": float(metrics.divide(2 * tp, 2 * tp + errors, 0.0)),
        "exact_match": metrics.exact_match_ratio(predictions, labels),
    }
