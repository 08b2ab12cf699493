"""The metrics that arms are compared by: the one list of their names, labels and directions."""

from dataclasses import dataclass
from typing import Protocol

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer.evaluation import Evaluation

SCORED_PARTS = ("test", "val")


@dataclass(frozen=True)
class Metric:
    """An average over labels that has a direction, so that an arm can be better in it; see `Evaluation.macro`."""

    name: str
    label: str
    """What an axis calls it."""
    higher_is_better: bool = True
    decided_on: str = ""
    """The split that decided the thresholds; empty: p = 0.5, the arg max, or a metric without thresholds."""
    reported: bool = False
    """Whether a report has a row for it; summaries have all."""


class Scored(Protocol):
    """Anything with evaluations of both parts, such as a `RunResult`."""

    @property
    def val(self) -> Evaluation:
        """Of the validation split."""
        ...

    @property
    def test(self) -> Evaluation:
        """Of the test split."""
        ...


METRICS = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "ROC-AUC", reported=True),
        Metric("average_precision", "average precision", reported=True),
        Metric("separation", "separation", reported=True),
        Metric("loss", "loss", higher_is_better=False, reported=True),
        Metric("brier", "Brier score", higher_is_better=False, reported=True),
        Metric("ece", "ECE", higher_is_better=False, reported=True),
        Metric("f1", "F1", reported=True),
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("balanced_accuracy", "balanced accuracy"),
        Metric("f1_micro", "micro F1"),
        Metric("exact_match", "exact match"),
        Metric("f1_tuned", "F1", decided_on="val", reported=True),
        Metric("precision_tuned", "precision", decided_on="val"),
        Metric("recall_tuned", "recall", decided_on="val"),
        Metric("balanced_accuracy_tuned", "balanced accuracy", decided_on="val", reported=True),
        Metric("f1_micro_tuned", "micro F1", decided_on="val"),
        Metric("exact_match_tuned", "exact match", decided_on="val"),
        Metric("accuracy", "accuracy"),
        Metric("top_label_ece", "top-label ECE", higher_is_better=False),
    )
}
"""By name, in the order of reports."""
EXCLUSIVE = ("accuracy", "top_label_ece")
"""Metrics that exclusive classes alone have."""


def check_metric(metric: str) -> None:
    """Raise InputError unless `metric` is test.NAME with a name in `METRICS`.

    Validation picks checkpoint and thresholds: an arm that is evaluated there more often has a larger maximum, whatever
    it learns, so that no verdict is about `val.NAME`.
    """
    known = [f"test.{name}" for name in METRICS]
    if metric.startswith("val."):
        raise InputError(
            f"`metric` must be of the test split, got {metric!r}: validation picks checkpoint and thresholds, and what "
            "picks cannot judge; val.* stands in the report's table"
        )
    if metric not in known:
        hint = nearest(metric if "." in metric else f"test.{metric}", known)
        raise InputError(f"`metric` must be test. and one of {', '.join(METRICS)}, got {metric!r}{hint}")


def undefined_metric(metric: str, *, exclusive: bool) -> str | None:
    """Return why no run has `metric` (PART.NAME), as a clause, with exclusive classes or without; None where runs have
    it.
    """
    name = metric.partition(".")[2]
    if exclusive and METRICS[name].decided_on:
        return "the largest logit decides exclusive classes, so that no threshold is tuned"
    if not exclusive and name in EXCLUSIVE:
        return "it is that of exclusive classes, and these labels are each on their own"
    return None


def metric_value(run: Scored, metric: str) -> float | None:
    """Return the value of `metric` (PART.NAME) of a run; None where the run has none, or it is undefined."""
    part, _, name = metric.partition(".")
    value = getattr(run, part).macro.get(name)
    return None if value is None or value != value else value


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of `metric` (PART.NAME) is the better one."""
    return METRICS[metric.partition(".")[2]].higher_is_better


def metric_label(metric: str) -> str:
    """Return a metric's name for an axis: `test.roc_auc` becomes "Test ROC-AUC"."""
    part, _, name = metric.partition(".")
    known = METRICS[name]
    return f"{part.capitalize()} {known.label}{', tuned' if known.decided_on else ''}"
