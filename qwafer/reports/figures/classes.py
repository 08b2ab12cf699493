"""Figures with one entry per class or per head: bars of a metric, reliability diagrams, parameters against a metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from qwafer._errors import InputError
from qwafer.evaluation import metrics
from qwafer.evaluation.calibration import reliability_curve
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeOffPoint:
    """One head in `trade_off`."""

    name: str
    """What the legend says."""
    n_parameters: int
    """Trainable parameters."""
    value: float
    """The metric."""
    low: float = np.nan
    """Lower end of its interval; NaN: none is drawn."""
    high: float = np.nan
    """Upper end of its interval."""


def class_bars(
    values: Mapping[str, ArrayLike],
    label_names: Sequence[str],
    *,
    xlabel: str = "Average precision",
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> "Figure":
    """Draw a metric in [0, 1] of each class as horizontal bars, one per head.

    `values` maps a head's name to K values; NaN is written as undefined. `intervals` maps it to (low, high), each K
    values. One head's values are written beside its bars.
    """
    n_classes, heads = len(label_names), list(values)
    with look.house_style():
        pitch = 0.16 if len(heads) == 1 else 0.07 * len(heads) + 0.08
        pitch = min(pitch, 8.5 / n_classes)  # a page is high, not endless
        legend = look.legend_height(heads) if len(heads) > 1 else 0.0
        figure = look.new_figure(look.COLUMN, 0.5 + pitch * n_classes + legend)
        axis = figure.subplots()
        thickness = 0.8 / len(heads)
        for index, head in enumerate(heads):
            numbers = np.asarray(values[head], np.float64)
            if numbers.shape != (n_classes,):
                raise InputError(
                    f"`values` must hold {n_classes} numbers per head, got shape {numbers.shape} for {head}"
                )
            places = np.arange(n_classes) - 0.4 + (index + 0.5) * thickness
            axis.barh(places, np.nan_to_num(numbers), thickness * 0.92, label=head, **look.bar_style(index))
            if intervals is not None and head in intervals:
                low, high = (np.asarray(end, np.float64) for end in intervals[head])
                axis.hlines(places, low, high, color=look.INK, linewidth=0.7)
            for place, number in zip(places, numbers, strict=True):
                if np.isnan(number):
                    axis.text(0.01, place, "undefined", va="center", fontsize=look.SMALL_SIZE, color=look.MUTED)
                elif len(heads) == 1:
                    axis.text(1.02, place, f"{number:.3f}", va="center", fontsize=look.SMALL_SIZE)
        names = [look.fit_text(str(name), 1.3, look.SMALL_SIZE) for name in label_names]
        axis.set_yticks(np.arange(n_classes), names)
        axis.set(xlim=(0, 1), ylim=(n_classes - 0.45, -0.55), xlabel=xlabel)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
        if len(heads) > 1:
            handles, names = axis.get_legend_handles_labels()
            look.outer_legend(figure, handles, names, "upper")
        return figure


def reliability_diagrams(
    probabilities: ArrayLike, labels: ArrayLike, label_names: Sequence[str], calibrated: ArrayLike | None = None
) -> "Figure":
    """Draw observed frequency against predicted probability of each class, with its expected calibration error.

    `probabilities`, `labels` (N, K); `calibrated` (N, K) are the probabilities after calibration, drawn beside them.
    The area of a dot grows with the number of examples in its bin.
    """
    values, truth, _ = metrics.as_columns(probabilities, labels, "probabilities")
    series = [("before" if calibrated is not None else "", reliability_curve(values, truth))]
    if calibrated is not None:
        series.append(("after", reliability_curve(calibrated, truth)))
    with look.house_style():
        figure, axes = look.new_grid(
            values.shape[1],
            panel_height=1.05 if values.shape[1] <= 12 else 1.15,
            extra_height=0.4 if calibrated is None else 0.5,
        )
        columns = axes[0].get_subplotspec().get_gridspec().ncols
        width = (figure.get_figwidth() - 0.5) / columns - 0.06
        size = look.SMALL_SIZE if len(axes) > 3 else look.TEXT_SIZE
        for k, axis in enumerate(axes):
            axis.plot([0, 1], [0, 1], color=look.FAINT, linewidth=0.8)
            errors = []
            for index, (_, curves) in enumerate(series):
                curve = curves[k]
                count = np.asarray(curve.count, np.float64)
                kept = count > 0
                color = look.PALETTE[index]
                x, y = np.asarray(curve.predicted)[kept], np.asarray(curve.observed)[kept]
                axis.plot(x, y, color=color, linewidth=0.7, linestyle=look.DASHES[index])
                area = 1.5 + 14 * np.sqrt(count[kept] / count.sum())
                axis.scatter(x, y, s=area, color=color, marker=look.MARKERS[index], linewidths=0, zorder=3)
                errors.append(f"{curve.ece:.3f}".removeprefix("0"))
            name = look.fit_text(str(label_names[k]), width, size, lines=2 if len(axes) > 12 else 1)
            axis.set_title(f"{name}\nECE {'→'.join(errors)}", fontsize=size)
            axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 1), yticks=(0, 1))
            axis.set_box_aspect(1)
        look.outer_only(axes)
        figure.supxlabel("Predicted probability", fontsize=look.TEXT_SIZE)
        figure.supylabel("Observed frequency", fontsize=look.TEXT_SIZE)
        if calibrated is not None:
            handles = [axes[0].scatter([], [], s=12, color=look.PALETTE[i], marker=look.MARKERS[i]) for i in range(2)]
            look.outer_legend(figure, handles, ["before calibration", "after"], "upper")
        return figure


def trade_off(points: Sequence[TradeOffPoint], *, ylabel: str = "Macro F1") -> "Figure":
    """Draw a metric against the number of trainable parameters (logarithmic): one marker per head, and its interval."""
    if not points:
        raise InputError("`points` must hold at least one head")
    with look.house_style():
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

        figure = look.new_figure(look.COLUMN, 2.0 + look.legend_height([point.name for point in points]))
        axis = figure.subplots()
        for index, point in enumerate(points):
            kind = look.marker_style(index)
            if np.isfinite([point.low, point.high]).all():
                axis.vlines(point.n_parameters, point.low, point.high, color=kind["color"], linewidth=0.9)
            options = {**kind, "linestyle": "none", "markeredgewidth": 0, "label": point.name}
            axis.plot(point.n_parameters, point.value, **options)
        axis.set_xscale("log")
        numbers = np.array([point.n_parameters for point in points], np.float64)
        low, high = np.log10(numbers.min()) - 0.15, np.log10(numbers.max()) + 0.15
        if high - low < 2.1:  # two labelled ticks are in sight
            low, high = (low + high) / 2 - 1.05, (low + high) / 2 + 1.05
        axis.set_xlim(10**low, 10**high)
        axis.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_count(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.margins(y=0.12)
        axis.set(xlabel="Trainable parameters", ylabel=ylabel)
        axis.grid()
        handles, names = axis.get_legend_handles_labels()
        look.outer_legend(figure, handles, names, "lower")
        return figure


def _short_count(value: float) -> str:
    """Return 1, 10, 100, 1k, 10k, 100k, 1M and so on."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
