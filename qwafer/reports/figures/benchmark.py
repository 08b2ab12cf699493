"""The figures of a benchmark, each as PNG and PDF: those of one head are of its first seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.comparison.analysis import evaluation, tuned
from qwafer.comparison.runs import HeadRun
from qwafer.evaluation import fit_calibration, metrics, predict
from qwafer.evaluation.exclusive import class_indices, one_vs_rest_logits
from qwafer.reports.figures import (
    TradeOffPoint,
    class_bars,
    class_confusion,
    error_maps,
    label_confusion,
    learning_curves,
    reliability_diagrams,
    roc_and_precision_recall,
    save_figure,
    trade_off,
    worst_examples,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"train_loss": "Training loss", "val_loss": "Validation loss", "val_roc_auc": "Validation ROC-AUC"}
N_ERRORS = 9

TestMaps = Mapping[int, Sequence[np.ndarray]]
"""The maps of the test examples, in the order of the logits, by seed."""


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    path: Path
    """Of the PNG; the PDF lies beside it."""
    caption: str


def draw_shared(
    runs: Mapping[str, Mapping[int, HeadRun]], spreads: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, Drawn]:
    """Draw what shows all heads at once: `trade_off`, `average_precision`, and `learning` where there are curves."""
    first = {head: next(iter(by_seed.values())) for head, by_seed in runs.items()}
    some = next(iter(first.values()))
    name = "f1" if some.exclusive else "f1_tuned"
    decided = "of the arg max" if some.exclusive else "at thresholds from validation"
    points = [
        TradeOffPoint(
            head,
            first[head].n_parameters["trainable"],
            _nan(spreads[head][name]["mean"]),
            _nan(spreads[head][name]["min"]),
            _nan(spreads[head][name]["max"]),
        )
        for head in runs
    ]
    n_seeds = max(len(by_seed) for by_seed in runs.values())
    bar = f"; a bar reaches from the least to the largest of {n_seeds} seeds" if n_seeds > 1 else ""
    drawn = {
        "trade_off": _save(
            trade_off(points), folder / "trade_off", f"Macro F1 on test {decided} against trainable parameters{bar}."
        ),
        "average_precision": _save(
            class_bars(
                {head: evaluation(run).per_class["average_precision"] for head, run in first.items()}, some.label_names
            ),
            folder / "average_precision",
            f"Average precision of each class on test, seed {some.seed}.",
        ),
    }
    curves = learning_figure(runs)
    if curves is not None:
        drawn["learning"] = _save(
            curves, folder / "learning", "Learning curves: mean over seeds, in the band from the least to the largest."
        )
    return drawn


def draw_head(run: HeadRun, maps: Sequence[np.ndarray] | None, folder: Path) -> dict[str, Drawn]:
    """Draw one run of one head: `roc`, `confusion`, `reliability`, and `errors` where the maps are at hand."""
    thresholds = tuned(run)
    logits, labels = run.logits["test"], run.labels["test"]
    scores = one_vs_rest_logits(logits) if run.exclusive else logits
    calibration = fit_calibration(run.logits["val"], run.labels["val"], "temperature", exclusive=run.exclusive)
    calibrated = calibration.apply(logits)
    if run.exclusive:
        calibrated = one_vs_rest_logits(calibrated)
        confusion = class_confusion(logits.argmax(axis=1), class_indices(labels, labels.shape[1]), run.label_names)
        decided = "of the arg max"
    else:
        assert thresholds is not None
        confusion = label_confusion(thresholds.predict(logits), labels, run.label_names, evaluation(run).degenerate)
        decided = "at thresholds tuned on validation"
    of = f"{run.head}, test, seed {run.seed}"
    drawn = {
        "roc": _save(
            roc_and_precision_recall(scores, labels, run.label_names),
            folder / f"roc_{run.head}",
            f"ROC and precision-recall curves: {of}.",
        ),
        "confusion": _save(confusion, folder / f"confusion_{run.head}", f"Confusion {decided}: {of}."),
        "reliability": _save(
            reliability_diagrams(metrics.sigmoid(scores), labels, run.label_names, metrics.sigmoid(calibrated)),
            folder / f"reliability_{run.head}",
            f"Reliability before and after temperature scaling on validation: {of}.",
        ),
    }
    if maps is not None:
        drawn["errors"] = _save(
            _errors(run, maps), folder / f"errors_{run.head}", f"The maps predicted worst {decided}: {of}."
        )
    return drawn


def learning_figure(runs: Mapping[str, Mapping[int, HeadRun]]) -> "Figure | None":
    """Return the learning curves of the heads that have some; None where there are none."""
    learnt = {head: list(by_seed.values()) for head, by_seed in runs.items() if next(iter(by_seed.values())).curves}
    epochs = sorted({epoch for every in learnt.values() for run in every for epoch in run.curves["epoch"]})
    if not epochs:
        return None
    panels: dict[str, dict[str, np.ndarray]] = {}
    for name, label in CURVES.items():
        panels[label] = {}
        for head, every in learnt.items():
            values = np.full((len(every), len(epochs)), np.nan)
            for row, run in enumerate(every):
                for epoch, value in zip(run.curves["epoch"], run.curves[name], strict=True):
                    values[row, epochs.index(epoch)] = _nan(value)
            panels[label][head] = values
    return learning_curves(epochs, panels)


def _errors(run: HeadRun, maps: Sequence[np.ndarray]) -> "Figure":
    thresholds = tuned(run)
    logits, labels = run.logits["test"], run.labels["test"]
    if thresholds is None:
        rows = worst_examples(logits, labels, N_ERRORS, exclusive=True)
        predictions = np.eye(labels.shape[1], dtype=bool)[logits.argmax(axis=1)]
    else:
        rows = worst_examples(logits, labels, N_ERRORS, thresholds=thresholds.values)
        predictions = predict(logits, thresholds.values)

    def names(flags: np.ndarray) -> list[str]:
        return [name for name, flag in zip(run.label_names, flags, strict=True) if flag]

    return error_maps(
        [maps[row] for row in rows], [names(labels[row]) for row in rows], [names(predictions[row]) for row in rows]
    )


def _save(figure: "Figure", path: Path, caption: str) -> Drawn:
    return Drawn(save_figure(figure, path)[0], caption)


def _nan(value: Any) -> float:
    return np.nan if value is None else float(value)
