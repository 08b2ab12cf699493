"""Figures of a monitored line: class shares, what chance does to the index, distributions against validation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qwafer.reports.figures.style import COLUMN, INK, fit_text, house_style, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares_figure(shares: Mapping[str, tuple[float, float]]) -> "Figure":
    """Return the share of each prediction now and on validation."""
    with house_style():
        figure = new_figure(COLUMN, 0.8 + 0.22 * max(len(shares), 2))
        axis = figure.subplots()
        rows = np.arange(len(shares))
        for k, name in enumerate(("now", "validation")):
            values = [pair[k] for pair in shares.values()]
            axis.barh(rows + 0.2 * (2 * k - 1), values, height=0.36, color=line_style(k)["color"], label=name)
        axis.set_yticks(rows, [fit_text(name, 1.1) for name in shares])
        axis.invert_yaxis()
        axis.set_xlabel("share of the predictions")
        axis.legend()
    return figure


def null_figure(null: np.ndarray, value: float) -> "Figure":
    """Return the histogram of the index where nothing has moved, with the one that was found."""
    with house_style():
        figure = new_figure(COLUMN, 2.0)
        axis = figure.subplots()
        edges = np.linspace(0, max(float(null.max()), value) * 1.05, 60)
        axis.stairs(np.histogram(null, edges)[0] / len(null), edges, label="by chance", **line_style(0))
        axis.axvline(value, color=INK, linewidth=1.2, label="found")
        axis.set_xlabel("population stability index")
        axis.set_ylabel("share of windows")
        axis.legend()
    return figure


def distributions_figure(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    """Return the distribution functions of measures now and on validation, a panel each."""
    with house_style():
        figure = new_figure(COLUMN, 2.0)
        axes = np.atleast_1d(figure.subplots(1, len(pairs), sharey=True))
        for axis, (name, sides) in zip(axes, pairs.items(), strict=True):
            for k, (label, values) in enumerate(zip(("now", "validation"), sides, strict=True)):
                ordered = np.sort(np.asarray(values, np.float64))
                axis.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=label, **line_style(k))
            axis.set_xlabel(name)
        axes[0].set_ylabel("share at most")
        axes[0].legend()
    return figure
