"""The figures of a benchmark, each as PNG and PDF: those of one head are of its first seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwafer.comparison.analysis import RunAnalysis
from qwafer.comparison.record import HeadRecord
from qwafer.evaluation import metrics, predict
from qwafer.evaluation.exclusive import class_indices, one_vs_rest_logits
from qwafer.reports.figures import (
    Drawn,
    TradeOffPoint,
    class_bars,
    class_confusion,
    draw,
    error_maps,
    label_confusion,
    reliability_diagrams,
    roc_and_precision_recall,
    trade_off,
    training_curves,
    worst_examples,
)
from qwafer.training.result import RunResult, Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_ERRORS = 9
"""Maps in the figure of the worst errors, at most."""


def draw_shared(runs: Runs, records: Mapping[str, HeadRecord], folder: Path) -> dict[str, Drawn]:
    """Draw what shows all heads at once: `average_precision`, `trade_off` of heads with a count of parameters, and
    `learning` where there are curves.
    """
    some = next(iter(records.values()))
    decided = "of the arg max" if some.exclusive else "at thresholds from validation"
    over_seeds = {head: record.test[record.main_metric] for head, record in records.items()}
    counts = {head: record.parameters.trainable for head, record in records.items()}
    points = [
        TradeOffPoint(head, count, over_seeds[head].mean, over_seeds[head].low, over_seeds[head].high)
        for head, count in counts.items()
        if count
    ]
    uncounted = ", ".join(head for head, count in counts.items() if not count)
    n_seeds = max(len(record.runs) for record in records.values())
    bar = f"; a bar reaches from the least to the largest of {n_seeds} seeds" if n_seeds > 1 else ""
    precision = {head: record.first.test.per_class["average_precision"] for head, record in records.items()}
    drawn = {}
    if points:
        caption = f"Macro F1 on test {decided} against trainable parameters{bar}."
        caption += f" Not counted: {uncounted}." if uncounted else ""
        known = {head: record.parameters.effective for head, record in records.items()}
        fewer = ", ".join(f"{head} {known[head]:,}" for head in counts if known[head] not in (None, counts[head]))
        caption += f" Fewer have an effect: {fewer}." if fewer else ""
        drawn["trade_off"] = draw(trade_off(points), folder / "trade_off", caption)
    drawn["average_precision"] = draw(
        class_bars(precision, some.label_names),
        folder / "average_precision",
        f"Average precision of each class on test, seed {some.seed}.",
    )
    curves = training_curves({head: list(by_seed.values()) for head, by_seed in runs.items()})
    if curves is not None:
        drawn["learning"] = draw(
            curves, folder / "learning", "Learning curves: mean over seeds, in the band from the least to the largest."
        )
    return drawn


def draw_head(
    head: str, run: RunResult, analysis: RunAnalysis, maps: Sequence[np.ndarray] | None, folder: Path
) -> dict[str, Drawn]:
    """Draw one run of one head: `roc`, `confusion`, `reliability`, and `errors` where the maps are at hand.

    `analysis` is that of the run; `maps` are those of its test examples, in the order of the logits.
    """
    logits, labels = run.logits["test"], run.labels["test"]
    calibrated = analysis.calibration["temperature"].fit.apply(logits)
    limits = analysis.test.thresholds
    if limits is None:
        scores, calibrated = one_vs_rest_logits(logits), one_vs_rest_logits(calibrated)
        confusion = class_confusion(logits.argmax(axis=1), class_indices(labels, labels.shape[1]), run.label_names)
        decided = "of the arg max"
    else:
        scores = logits
        confusion = label_confusion(predict(logits, limits), labels, run.label_names, analysis.test.degenerate)
        decided = "at thresholds tuned on validation"
    of = f"{head}, test, seed {run.seed}"
    drawn = {
        "roc": draw(
            roc_and_precision_recall(scores, labels, run.label_names),
            folder / f"roc_{head}",
            f"ROC and precision-recall curves: {of}.",
        ),
        "confusion": draw(confusion, folder / f"confusion_{head}", f"Confusion {decided}: {of}."),
        "reliability": draw(
            reliability_diagrams(metrics.sigmoid(scores), labels, run.label_names, metrics.sigmoid(calibrated)),
            folder / f"reliability_{head}",
            f"Reliability before and after temperature scaling on validation: {of}.",
        ),
    }
    if maps is not None:
        drawn["errors"] = draw(
            _errors(run, limits, maps), folder / f"errors_{head}", f"The maps predicted worst {decided}: {of}."
        )
    return drawn


def _errors(run: RunResult, limits: Sequence[float] | None, maps: Sequence[np.ndarray]) -> "Figure":
    logits, labels = run.logits["test"], run.labels["test"]
    if limits is None:
        rows = worst_examples(logits, labels, N_ERRORS, exclusive=True)
        predictions = np.eye(labels.shape[1], dtype=bool)[logits.argmax(axis=1)]
    else:
        rows = worst_examples(logits, labels, N_ERRORS, thresholds=limits)
        predictions = predict(logits, limits)

    def names(flags: np.ndarray) -> list[str]:
        return [name for name, flag in zip(run.label_names, flags, strict=True) if flag]

    return error_maps(
        [maps[row] for row in rows], [names(labels[row]) for row in rows], [names(predictions[row]) for row in rows]
    )
