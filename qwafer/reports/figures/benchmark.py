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
    class_confusion,
    class_values,
    draw,
    error_maps,
    label_confusion,
    label_curves,
    reliability_diagrams,
    trade_off,
    training_curves,
    worst_examples,
)
from qwafer.reports.figures.curves import LEARNING_CAPTION
from qwafer.training.result import RunResult, Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_ERRORS = 10
"""Maps in the figure of the worst errors, at most."""


def draw_shared(runs: Runs, records: Mapping[str, HeadRecord], baseline: str, folder: Path) -> dict[str, Drawn]:
    """Draw what shows all heads at once: `average_precision`, `roc`, `precision_recall`, `trade_off` of heads with a
    count of parameters, and `learning` where there are curves.
    """
    some = next(iter(records.values()))
    n_seeds = max(len(record.runs) for record in records.values())
    spread = "a line reaches from the least to the largest seed, a" if n_seeds > 1 else "a"
    band = f"{spread} band is the 95% interval over the test examples of seed {some.seed}"
    drawn = {}
    points = [_point(record) for record in records.values() if record.parameters.trainable]
    if points:
        drawn["trade_off"] = draw(trade_off(points), folder / "trade_off", _trade_off_caption(records, band))
    precision = {
        head: [run.test.per_class["average_precision"] for run in record.runs.values()]
        for head, record in records.items()
    }
    intervals = {
        head: ([found.low for found in record.average_precision], [found.high for found in record.average_precision])
        for head, record in records.items()
        if record.average_precision
    }
    drawn["average_precision"] = draw(
        class_values(precision, some.label_names, intervals=intervals, reference=baseline),
        folder / "average_precision",
        f"Average precision of each class on test: a dot is the mean over seeds, {band}; the dotted line is the mean "
        f"of {baseline}.",
    )
    first = {head: next(iter(by_seed.values())) for head, by_seed in runs.items()}
    scores = {
        head: one_vs_rest_logits(run.logits["test"]) if run.exclusive else run.logits["test"]
        for head, run in first.items()
    }
    labels = {head: run.labels["test"] for head, run in first.items()}
    for kind, title in (("roc", "ROC"), ("precision_recall", "Precision-recall")):
        drawn[kind] = draw(
            label_curves(scores, labels, some.label_names, kind),
            folder / kind,
            f"{title} curves of all heads on test, seed {some.seed}; in brackets the positive examples.",
        )
    curves = training_curves({head: list(by_seed.values()) for head, by_seed in runs.items()})
    if curves is not None:
        drawn["learning"] = draw(curves, folder / "learning", LEARNING_CAPTION)
    return drawn


def _point(record: HeadRecord) -> TradeOffPoint:
    count, found, interval = record.parameters.trainable, record.test[record.main_metric], record.first.intervals["f1"]
    spread = (found.low, found.high) if len(record.runs) > 1 else (np.nan, np.nan)
    return TradeOffPoint(record.head, count or 0, found.mean, (interval.low, interval.high), spread)


def _trade_off_caption(records: Mapping[str, HeadRecord], band: str) -> str:
    some = next(iter(records.values()))
    decided = "of the arg max" if some.exclusive else "at thresholds from validation"
    counts = {head: record.parameters for head, record in records.items()}
    uncounted = ", ".join(head for head, count in counts.items() if not count.trainable)
    fewer = ", ".join(
        f"{head} {count.effective:,}"
        for head, count in counts.items()
        if count.trainable and count.effective not in (None, count.trainable)
    )
    return (
        f"Macro F1 on test {decided} against trainable parameters: a point is the mean over seeds, {band}."
        + (f" Not counted: {uncounted}." if uncounted else "")
        + (f" Fewer parameters have an effect: {fewer}." if fewer else "")
    )


def draw_head(
    head: str, run: RunResult, analysis: RunAnalysis, maps: Sequence[np.ndarray] | None, folder: Path
) -> dict[str, Drawn]:
    """Draw one run of one head: `confusion`, `reliability`, and `errors` where the maps are at hand.

    `analysis` is that of the run; `maps` are those of its test examples, in the order of the logits.
    """
    logits, labels = run.logits["test"], run.labels["test"]
    calibrated = analysis.calibration["temperature"].fit.apply(logits)
    limits = analysis.test.thresholds
    if limits is None:
        scores, calibrated = one_vs_rest_logits(logits), one_vs_rest_logits(calibrated)
        confusion = class_confusion(logits.argmax(axis=1), class_indices(labels, labels.shape), run.label_names)
        decided = "of the arg max"
    else:
        scores = logits
        confusion = label_confusion(predict(logits, limits), labels, run.label_names, analysis.test.degenerate)
        decided = "at thresholds tuned on validation"
    of = f"{head}, test, seed {run.seed}"
    drawn = {
        "confusion": draw(confusion, folder / f"confusion_{head}", f"Confusion {decided}: {of}."),
        "reliability": draw(
            reliability_diagrams(metrics.sigmoid(scores), labels, run.label_names, metrics.sigmoid(calibrated)),
            folder / f"reliability_{head}",
            "Reliability before and after temperature scaling on validation, with 95% intervals of the frequencies and "
            f"the examples of each bin: {of}.",
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
