"""Figures of heads and classes: a metric of each class, reliability diagrams, parameters against a metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from qwafer._errors import InputError
from qwafer.evaluation import metrics
from qwafer.evaluation.calibration import Reliability, reliability_curve
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeOffPoint:
    """One head in `trade_off`."""

    name: str
    """What stands beside the point."""
    n_parameters: int
    """Trainable parameters."""
    value: float
    """The metric."""
    interval: tuple[float, float] = (np.nan, np.nan)
    """Its ends; NaN: none is drawn."""
    seeds: tuple[float, float] = (np.nan, np.nan)
    """The least and the largest value of a seed; NaN: none is drawn."""


def class_values(
    values: Mapping[str, ArrayLike],
    label_names: Sequence[str],
    *,
    xlabel: str = "Average precision",
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    reference: str = "",
) -> "Figure":
    """Draw a metric in [0, 1] of each class in a panel of its own, a row per head.

    `values` maps a head's name to K values, or (seeds, K): then the mean is a dot, on a line from the least to the
    largest seed. `intervals` maps it to (low, high), each K values, drawn as a band. NaN is written as undefined. A
    dotted line goes through the value of the head `reference`. Raises InputError for values of another shape.
    """
    n_classes, heads = len(label_names), list(values)
    runs = {head: np.atleast_2d(np.asarray(found, np.float64)) for head, found in values.items()}
    for head, found in runs.items():
        if found.shape[1:] != (n_classes,):
            raise InputError(f"`values` must hold {n_classes} numbers per head, got shape {found.shape} for {head}")
    with look.house_style():
        columns = look.grid_columns(n_classes)
        rows = -(-n_classes // columns)
        pitch = min(0.13, (9.0 / rows - 0.32) / len(heads))  # a page is high, not endless
        figure = look.new_figure(look.COLUMN if columns < 3 else look.PAGE, 0.45 + rows * (0.32 + pitch * len(heads)))
        axes = look.panels(figure, n_classes)
        width = look.panel_width(figure, axes, beside=0.7)
        for k, axis in enumerate(axes):
            for row, head in enumerate(heads):
                _value_row(axis, row, runs[head][:, k], _ends(intervals, head, k))
            if reference in runs:
                at = metrics.nanmean(runs[reference][:, k])
                axis.axvline(at, color=look.MUTED, linewidth=0.7, linestyle=":", zorder=1)
            name = look.fit_text(str(label_names[k]), width, look.SMALL_SIZE, lines=2 if n_classes > 12 else 1)
            axis.set_title(name, fontsize=look.SMALL_SIZE)
            axis.set(xlim=(-0.02, 1.02), ylim=(len(heads) - 0.4, -0.6), xticks=(0, 0.5, 1))
            axis.set_xticklabels(("0", "0.5", "1"))
            axis.set_yticks(range(len(heads)), [look.fit_text(head, 0.9, look.SMALL_SIZE) for head in heads])
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x")
        look.outer_only(axes)
        figure.supxlabel(xlabel, fontsize=look.TEXT_SIZE)
        return figure


def _ends(intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None, head: str, k: int) -> tuple[float, float] | None:
    if intervals is None or head not in intervals:
        return None
    low, high = (float(np.asarray(end, np.float64)[k]) for end in intervals[head])
    return (low, high) if np.isfinite([low, high]).all() else None


def _value_row(axis: "Axes", row: int, values: np.ndarray, interval: tuple[float, float] | None) -> None:
    if not np.isfinite(values).any():
        axis.text(0.01, row, "undefined", va="center", fontsize=look.SMALL_SIZE - 1, color=look.MUTED)
        return
    if interval is not None:
        axis.hlines(row, *interval, color=look.PALETTE[0], alpha=0.3, linewidth=4.0)
    axis.hlines(row, np.nanmin(values), np.nanmax(values), color=look.PALETTE[0], linewidth=0.9)
    axis.plot([metrics.nanmean(values)], [row], "o", color=look.PALETTE[0], markersize=3)


def reliability_diagrams(
    probabilities: ArrayLike, labels: ArrayLike, label_names: Sequence[str], calibrated: ArrayLike | None = None
) -> "Figure":
    """Draw observed frequency against predicted probability of each class, with its expected calibration error.

    `probabilities`, `labels` (N, K); `calibrated` (N, K) are the probabilities after calibration, drawn beside them.
    A bar through a dot is the 95% interval of its frequency (`Reliability.interval`); the bars below count the
    examples of each bin, on a logarithmic axis.
    """
    values, truth, _ = metrics.as_columns(probabilities, labels, "probabilities")
    series = [reliability_curve(values, truth)]
    if calibrated is not None:
        series.append(reliability_curve(calibrated, truth))
    n_classes = values.shape[1]
    with look.house_style():
        columns = look.grid_columns(n_classes)
        rows = -(-n_classes // columns)
        height = {1: 2.3, 2: 1.9}.get(columns, 1.75 if columns <= 4 else 1.6)
        width = look.COLUMN if columns < 3 else look.PAGE
        figure = look.new_figure(width, 0.35 + rows * height + (0.2 if calibrated is not None else 0))
        axes = look.panels(figure, n_classes, ratios=(3.0, 1.0))
        room = look.panel_width(figure, axes[0])
        most = max(max(curve.count) for curves in series for curve in curves)
        for k, (axis, counts) in enumerate(zip(*axes, strict=True)):
            for index, curves in enumerate(series):
                draw_reliability(axis, curves[k], index, counts, shift=0.012 * (2 * index - len(series) + 1))
            errors = "→".join(f"{curves[k].ece:.3f}".removeprefix("0") for curves in series)
            name = look.fit_text(str(label_names[k]), room, look.SMALL_SIZE, lines=2 if n_classes > 12 else 1)
            axis.set_title(f"{name}\nECE {errors}", fontsize=look.SMALL_SIZE)
            axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 0.5, 1), yticks=(0, 1))
            axis.tick_params(labelbottom=False)
            counts.set_yscale("log")
            _powers(counts, most)
            counts.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1))
            counts.set_xticklabels(("0", "0.5", "1"))
        look.outer_only(axes[0], below=False)
        look.outer_only(axes[1])
        figure.supxlabel("Predicted probability", fontsize=look.TEXT_SIZE)
        figure.supylabel("Examples (bars), observed frequency (dots)", fontsize=look.TEXT_SIZE)
        if calibrated is not None:
            handles = [
                axes[0][0].scatter([], [], s=12, color=look.PALETTE[i], marker=look.MARKERS[i]) for i in range(2)
            ]
            look.outer_legend(figure, handles, ["before calibration", "after"], "upper")
        return figure


def draw_reliability(
    axis: "Axes", curve: Reliability, index: int = 0, below: "Axes | None" = None, shift: float = 0.0
) -> None:
    """Draw one curve: frequencies with their intervals on `axis`, and counts on `below`, where there are such axes."""
    if index == 0:
        axis.plot([0, 1], [0, 1], color=look.FAINT, linewidth=0.8)
    count = np.asarray(curve.count, np.float64)
    kept = count > 0
    color = look.PALETTE[index]
    x, y = np.asarray(curve.predicted)[kept], np.asarray(curve.observed)[kept]
    low, high = (end[kept] for end in curve.interval())
    axis.vlines(x + shift, low, high, color=color, linewidth=0.7, alpha=0.7)
    axis.plot(
        x + shift, y, color=color, marker=look.MARKERS[index], markersize=2.2, markeredgewidth=0, linestyle="none"
    )
    if below is None:
        return
    edges = np.asarray(curve.edges)
    below.stairs(np.where(kept, count, np.nan), edges, baseline=0.5, color=color, fill=index == 0, alpha=0.45)
    if index:
        below.stairs(np.where(kept, count, np.nan), edges, baseline=0.5, color=color, linewidth=0.8)


def _powers(axis: "Axes", most: int) -> None:
    """Label a logarithmic axis of counts from 1 to `most` at its ends."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    top = max(1, int(np.ceil(np.log10(max(most, 2)))))
    axis.set_ylim(0.5, 10**top * 1.5)
    axis.yaxis.set_major_locator(FixedLocator([1, 10**top]))
    axis.yaxis.set_major_formatter(FixedFormatter(["1", look.short_count(10**top)]))
    axis.yaxis.set_minor_locator(NullLocator())


def trade_off(points: Sequence[TradeOffPoint], *, ylabel: str = "Macro F1") -> "Figure":
    """Draw a metric against the number of trainable parameters (logarithmic): one named point per head.

    A band is a point's interval, a thin line reaches from its least to its largest seed.
    """
    if not points:
        raise InputError("`points` must hold at least one head")
    with look.house_style():
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

        figure = look.new_figure(look.COLUMN, 2.4 + 0.05 * max(0, len(points) - 10))
        axis = figure.subplots()
        for index, point in enumerate(points):
            kind = look.marker_style(index)
            axis.vlines(point.n_parameters, *point.interval, color=kind["color"], linewidth=4.0, alpha=0.25)
            axis.vlines(point.n_parameters, *point.seeds, color=kind["color"], linewidth=0.9)
            options = {**kind, "linestyle": "none", "markeredgewidth": 0, "label": point.name}
            axis.plot(point.n_parameters, point.value, **options)
        axis.set_xscale("log")
        numbers = np.array([point.n_parameters for point in points], np.float64)
        low, high = np.log10(numbers.min()) - 0.25, np.log10(numbers.max()) + 0.25
        if high - low < 2.1:  # two labelled ticks are in sight
            low, high = (low + high) / 2 - 1.05, (low + high) / 2 + 1.05
        axis.set_xlim(10**low, 10**high)
        axis.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: look.short_count(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.margins(y=0.15)
        axis.set(xlabel="Trainable parameters", ylabel=ylabel)
        axis.grid()
        ends = (
            (point.n_parameters, low, high)
            for point in points
            for low, high in (point.interval, point.seeds)
            if low == low
        )
        look.name_points(axis, [(point.name, point.n_parameters, point.value) for point in points], list(ends))
        return figure
