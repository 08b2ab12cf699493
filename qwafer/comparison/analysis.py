"""Everything that a report says about one head: metrics, intervals, thresholds, calibration, spread over seeds.

Thresholds and calibration come from the validation split alone; the test split is read to be reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwafer._arrays import real_array
from qwafer._errors import InputError
from qwafer.evaluation import (
    Calibration,
    CalibrationEffect,
    Evaluation,
    Interval,
    Thresholds,
    bca_metrics,
    compare_calibration,
    confusion,
    evaluate,
    fit_calibration,
    tune_thresholds,
)
from qwafer.evaluation.thresholds import METHODS
from qwafer.training.resources import PeakMemory
from qwafer.training.result import Digests, RunResult, Timings

INTERVAL_METRICS = ("f1", "roc_auc", "exact_match")
DEFAULT_COSTS = (0.0, 1.0, 5.0, 0.0)
"""c_tn, c_fp, c_fn, c_tp: a defect that is missed costs five false alarms."""


@dataclass(frozen=True)
class ThresholdVariant:
    """What one way of setting thresholds on validation gives on test, as means over labels."""

    thresholds: Thresholds | None
    """Those of validation; None at p = 0.5."""
    f1: float
    """Macro F1, as the next three are macro averages."""
    precision: float
    """Precision."""
    recall: float
    """Recall."""
    balanced_accuracy: float
    """Balanced accuracy."""
    exact_match: float
    """Fraction of examples with all labels right."""
    cost: float
    """Mean cost per example and label."""


@dataclass(frozen=True)
class CalibrationComparison:
    """Test logits before and after a calibration that validation determined."""

    fit: Calibration
    """The calibration."""
    effect: CalibrationEffect
    """The quality of the logits before and after it."""


@dataclass(frozen=True)
class RunAnalysis:
    """What a report says about one head trained with one seed."""

    val: Evaluation
    """Every metric on validation, at the F1-optimal thresholds of validation."""
    test: Evaluation
    """The same on test, at the same thresholds."""
    intervals: dict[str, Interval]
    """95% BCa intervals over test examples, by metric: macro `f1` at the tuned thresholds, macro `roc_auc`,
    `exact_match`."""
    thresholds: dict[str, ThresholdVariant]
    """By method, `half` (p = 0.5) first; empty for exclusive classes, which the arg max decides."""
    calibration: dict[str, CalibrationComparison]
    """By method."""
    timings: Timings
    """Wall times."""
    memory: PeakMemory
    """Of the training process."""
    best_epoch: int
    """Epoch of the checkpoint that was evaluated; 0 where nothing is learnt in epochs."""
    epochs_run: int
    """Epochs trained."""
    digests: Digests
    """What the run was made from."""
    notes: tuple[str, ...]
    """What a reader should know, one sentence each."""


@dataclass(frozen=True)
class Distribution:
    """The values of one number over seeds; NaN where a statistic is undefined."""

    n: int
    """Seeds with a finite value."""
    mean: float
    """Their mean."""
    sd: float
    """Standard deviation with n - 1; undefined below two seeds."""
    low: float
    """The least value."""
    high: float
    """The largest value."""


def main_metric(*, exclusive: bool) -> str:
    """Return the name of the F1 that heads are compared by: of the arg max, or at tuned thresholds."""
    return "f1" if exclusive else "f1_tuned"


def analyse(run: RunResult, *, costs: Sequence[float] = DEFAULT_COSTS, n_resamples: int = 2000) -> RunAnalysis:
    """Return the analysis of one run; `costs` as in `threshold_variants`, `n_resamples` of each interval."""
    intervals = bca_metrics(
        run.logits["test"],
        run.labels["test"],
        metrics=INTERVAL_METRICS,
        thresholds=run.test.thresholds,
        exclusive=run.exclusive,
        n_resamples=n_resamples,
    )
    return RunAnalysis(
        val=run.val,
        test=run.test,
        intervals=dict(intervals),
        thresholds=threshold_variants(run, costs),
        calibration=calibrations(run),
        timings=run.timings,
        memory=run.memory,
        best_epoch=run.best_epoch,
        epochs_run=run.epochs_run,
        digests=run.digests,
        notes=run.notes,
    )


def threshold_variants(run: RunResult, costs: Sequence[float] = DEFAULT_COSTS) -> dict[str, ThresholdVariant]:
    """Return, for `half` (p = 0.5) and each tuning method, the thresholds of validation and what they give on test.

    `costs` are (c_tn, c_fp, c_fn, c_tp). Exclusive classes have the arg max instead of thresholds: nothing is returned
    for them.
    """
    if run.exclusive:
        return {}
    matrix = np.asarray(cost_matrix(costs))
    variants: dict[str, ThresholdVariant] = {}
    for method in ("half", *METHODS):
        limits, found = np.zeros(len(run.label_names)), None
        if method != "half":
            options = {"cost_matrix": matrix} if method == "cost" else {}
            found = tune_thresholds(run.logits["val"], run.labels["val"], method, **options)
            limits = np.asarray(found.values)
        macro = evaluate(run.logits["test"], run.labels["test"], label_names=run.label_names, thresholds=limits).macro
        names = ("f1", "precision", "recall", "balanced_accuracy", "exact_match")
        cost = mean_cost(run.logits["test"] > limits[None, :], run.labels["test"], matrix)
        variants[method] = ThresholdVariant(found, **{name: macro[f"{name}_tuned"] for name in names}, cost=cost)
    return variants


def cost_matrix(costs: Sequence[float]) -> list[list[float]]:
    """Return [[c_tn, c_fp], [c_fn, c_tp]] of four costs in that order; raise InputError where they are not four."""
    four = real_array("costs", costs, finite=True)
    if four.shape != (4,):
        raise InputError(f"costs must be four numbers, c_tn,c_fp,c_fn,c_tp, got {four.size}")
    return four.astype(np.float64).reshape(2, 2).tolist()


def mean_cost(predictions: NDArray[np.bool_], labels: np.ndarray, matrix: np.ndarray) -> float:
    """Return the mean over examples and labels of the cost of each decision under `matrix` [[tn, fp], [fn, tp]]."""
    counts = confusion(predictions, labels)
    total = matrix[0, 0] * counts.tn + matrix[0, 1] * counts.fp + matrix[1, 0] * counts.fn + matrix[1, 1] * counts.tp
    return float(total.sum() / labels.size)


def calibrations(run: RunResult) -> dict[str, CalibrationComparison]:
    """Return, by method, the fit on validation and the quality of the test probabilities before and after it."""
    found = {}
    for method in ("temperature",) if run.exclusive else ("temperature", "platt"):
        fit = fit_calibration(run.logits["val"], run.labels["val"], method, exclusive=run.exclusive)
        found[method] = CalibrationComparison(fit, compare_calibration(fit, run.logits["test"], run.labels["test"]))
    return found


def distribution(values: Iterable[float]) -> Distribution:
    """Return the distribution of the finite ones among `values`."""
    finite = np.asarray([value for value in values if np.isfinite(value)], np.float64)
    if not finite.size:
        return Distribution(0, np.nan, np.nan, np.nan, np.nan)
    sd = float(finite.std(ddof=1)) if finite.size > 1 else np.nan
    return Distribution(len(finite), float(finite.mean()), sd, float(finite.min()), float(finite.max()))


def over_seeds(evaluations: Iterable[Mapping[str, float]]) -> dict[str, Distribution]:
    """Return the distribution of every average, given `Evaluation.macro` of each seed."""
    tables = list(evaluations)
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: distribution(table[name] for table in tables if name in table) for name in names}
