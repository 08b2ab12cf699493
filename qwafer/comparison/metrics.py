"""The number of a run that arms are compared by."""

from collections.abc import Mapping
from typing import Any

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer.evaluation.evaluate import RANKING_METRICS, THRESHOLD_METRICS

PARTS = ("test", "val")
LOWER_IS_BETTER = ("loss", "brier", "ece", "top_label_ece")
_THRESHOLDED = (*(name for name in THRESHOLD_METRICS if name != "predicted_positive_rate"), "f1_micro", "exact_match")
METRICS = (*RANKING_METRICS, *_THRESHOLDED, *(f"{name}_tuned" for name in _THRESHOLDED), "accuracy", "top_label_ece")
"""Averages over labels that have a direction, so that an arm can be better in them; see `Evaluation.macro`."""


def check_metric(metric: str) -> None:
    """Raise InputError unless `metric` is PART.NAME with a part in `PARTS` and a name in `METRICS`."""
    known = [f"{part}.{name}" for part in PARTS for name in METRICS]
    if metric not in known:
        hint = nearest(metric if "." in metric else f"test.{metric}", known)
        raise InputError(f"`metric` must be test. or val. and one of {', '.join(METRICS)}, got {metric!r}{hint}")


def metric_value(metrics: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    """Return the value of `metric` in `RunResult.metrics`; None where the run has none, or it is undefined."""
    part, _, name = metric.partition(".")
    value = metrics[part]["macro"].get(name)
    return None if value is None else float(value)


def higher_is_better(metric: str) -> bool:
    """Return whether a larger value of `metric` is the better one."""
    return metric.partition(".")[2] not in LOWER_IS_BETTER
