"""Everything that a report says about one head: metrics, intervals, thresholds, calibration, spread over seeds.

Thresholds and calibration come from the validation split alone; the test split is read to be reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwafer._errors import InputError
from qwafer._records import to_json
from qwafer.comparison.runs import HeadRun
from qwafer.evaluation import (
    bca_metrics,
    compare_calibration,
    confusion,
    evaluate,
    fit_calibration,
    tune_thresholds,
)
from qwafer.evaluation.evaluate import Evaluation
from qwafer.evaluation.thresholds import METHODS, Thresholds

INTERVAL_METRICS = ("f1", "roc_auc", "exact_match")
DEFAULT_COSTS = (0.0, 1.0, 5.0, 0.0)
"""c_tn, c_fp, c_fn, c_tp: a defect that is missed costs five false alarms."""


def tuned(run: HeadRun) -> Thresholds | None:
    """Return the F1-optimal thresholds on validation; None for exclusive classes, which are decided by the arg max."""
    return None if run.exclusive else tune_thresholds(run.logits["val"], run.labels["val"])


def evaluation(run: HeadRun, part: str = "test") -> Evaluation:
    """Return every metric of `part` at the thresholds of `tuned`."""
    thresholds = tuned(run)
    return evaluate(
        run.logits[part],
        run.labels[part],
        label_names=run.label_names,
        thresholds=None if thresholds is None else thresholds.values,
        exclusive=run.exclusive,
    )


def analyse(run: HeadRun, *, costs: Sequence[float] = DEFAULT_COSTS, n_resamples: int = 2000) -> dict[str, Any]:
    """Return the analysis of one run as plain data.

    `val`, `test` (`Evaluation`), `intervals` (BCa 95 % over test examples of macro F1 at the tuned thresholds, macro
    ROC-AUC and exact match), `thresholds` (see `threshold_variants`), `calibration` (see `calibrations`), what the run
    took, and its configuration.
    """
    thresholds = tuned(run)
    intervals = bca_metrics(
        run.logits["test"],
        run.labels["test"],
        metrics=INTERVAL_METRICS,
        thresholds=None if thresholds is None else thresholds.values,
        exclusive=run.exclusive,
        n_resamples=n_resamples,
    )
    return {
        "val": to_json(evaluation(run, "val")),
        "test": to_json(evaluation(run, "test")),
        "intervals": {name: to_json(interval) for name, interval in intervals.items()},
        "thresholds": threshold_variants(run, costs),
        "calibration": calibrations(run),
        "timings": dict(run.timings),
        "memory": dict(run.memory),
        "best_epoch": run.best_epoch,
        "epochs_run": run.epochs_run,
        "digests": dict(run.digests),
        "notes": list(run.notes),
    }


def threshold_variants(run: HeadRun, costs: Sequence[float] = DEFAULT_COSTS) -> dict[str, Any]:
    """Return, for `half` (p = 0.5) and each tuning method, the thresholds of validation and what they give on test.

    Each holds `thresholds` (`Thresholds`; None for `half`), macro `f1`, `precision`, `recall`,
    `balanced_accuracy`, `exact_match`, and `cost`: the mean cost an example and label under `costs` (c_tn, c_fp,
    c_fn, c_tp). Exclusive classes have the arg max instead of thresholds: nothing is returned for them.
    """
    if run.exclusive:
        return {}
    matrix = np.asarray(cost_matrix(costs))
    variants: dict[str, Any] = {}
    for method in ("half", *METHODS):
        limits = np.zeros(len(run.label_names))
        record = None
        if method != "half":
            options = {"cost_matrix": matrix} if method == "cost" else {}
            found = tune_thresholds(run.logits["val"], run.labels["val"], method, **options)
            limits, record = np.asarray(found.values), to_json(found)
        result = evaluate(run.logits["test"], run.labels["test"], label_names=run.label_names, thresholds=limits)
        names = ("f1", "precision", "recall", "balanced_accuracy", "exact_match")
        variants[method] = {
            "thresholds": record,
            **{name: result.macro[f"{name}_tuned"] for name in names},
            "cost": mean_cost(run.logits["test"] > limits[None, :], run.labels["test"], matrix),
        }
    return variants


def cost_matrix(costs: Sequence[float]) -> list[list[float]]:
    """Return [[c_tn, c_fp], [c_fn, c_tp]] of four costs in that order; raise InputError where they are not four."""
    if len(costs) != 4:
        raise InputError(f"costs must be four numbers, c_tn,c_fp,c_fn,c_tp, got {len(costs)}")
    return [[float(costs[0]), float(costs[1])], [float(costs[2]), float(costs[3])]]


def mean_cost(predictions: NDArray[np.bool_], labels: np.ndarray, matrix: np.ndarray) -> float:
    """Return the mean over examples and labels of the cost of each decision under `matrix` [[tn, fp], [fn, tp]]."""
    counts = confusion(predictions, labels)
    total = matrix[0, 0] * counts.tn + matrix[0, 1] * counts.fp + matrix[1, 0] * counts.fn + matrix[1, 1] * counts.tp
    return float(total.sum() / labels.size)


def calibrations(run: HeadRun) -> dict[str, Any]:
    """Return, a method, the `fit` on validation and ECE, Brier score and loss `before` and `after` it on test."""
    found = {}
    for method in ("temperature",) if run.exclusive else ("temperature", "platt"):
        fit = fit_calibration(run.logits["val"], run.labels["val"], method, exclusive=run.exclusive)
        found[method] = {
            "fit": to_json(fit),
            **to_json(compare_calibration(fit, run.logits["test"], run.labels["test"])),
        }
    return found


def spread(analyses: Mapping[int, Mapping[str, Any]], part: str = "test") -> dict[str, dict[str, float | int | None]]:
    """Return mean, sd (n - 1), least and largest over seeds of every average of `part`; undefined values left out."""
    names = list(dict.fromkeys(name for analysis in analyses.values() for name in analysis[part]["macro"]))
    table: dict[str, dict[str, float | int | None]] = {}
    for name in names:
        values = [analysis[part]["macro"].get(name) for analysis in analyses.values()]
        finite = np.asarray([value for value in values if value is not None], np.float64)
        table[name] = {
            "n": len(finite),
            "mean": float(finite.mean()) if finite.size else None,
            "sd": float(finite.std(ddof=1)) if finite.size > 1 else None,
            "min": float(finite.min()) if finite.size else None,
            "max": float(finite.max()) if finite.size else None,
        }
    return table
