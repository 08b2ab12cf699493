"""Figures of a comparison: paired values by seed, differences with their intervals, learning curves."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.comparison.metrics import metric_label
from qwafer.comparison.summary import Summary, ordered_groups
from qwafer.reports.figures import Drawn, curve_matrix, draw, house_style, new_figure, training_curves
from qwafer.reports.figures.curves import LEARNING_CAPTION, evaluated_epochs
from qwafer.reports.figures.style import (
    COLUMN,
    INK,
    MUTED,
    PAGE,
    fit_text,
    line_style,
)
from qwafer.training.result import GROUP_CURVES, Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNING = ("grad_norm", "distance")
"""The curves that are drawn for every group of parameters."""


def write_figures(summary: Summary, results: Runs, folder: Path) -> list[Drawn]:
    """Write each figure as PNG and PDF into `folder`; return those that have something to show."""
    metric, baseline = summary.experiment.metric, summary.experiment.baseline
    figures = (
        (
            "paired",
            paired_figure(summary),
            f"{metric}: a grey line joins the runs of one seed, a bar is an arm's mean.",
        ),
        (
            "differences",
            differences_figure(summary),
            f"Differences of {metric} from {baseline}: every seed (grey), the mean and the interval that "
            "decides (Holm's level); between the dotted lines differences are equivalent.",
        ),
        (
            "curves",
            curves_figure(results),
            LEARNING_CAPTION,
        ),
        (
            "learning",
            learning_figure(results),
            "Gradient norm (before clipping) and distance from the initial values of each group of parameters: mean "
            "over the seeds that still train, in the band from the least to the largest. What stays at zero does not "
            "learn.",
        ),
    )
    return [draw(figure, folder / name, caption) for name, figure, caption in figures if figure is not None]


def paired_figure(summary: Summary) -> "Figure | None":
    """Return the metric of every arm, one line per seed, the mean of each arm as a bar."""
    arms, seeds = summary.arms, summary.experiment.seeds
    values = np.array([[arm.values.get(seed) for arm in arms.values()] for seed in seeds], np.float64)  # (seeds, arms)
    if not np.isfinite(values).any():
        return None
    with house_style():
        width = COLUMN if len(arms) <= 6 else PAGE
        figure = new_figure(width, 2.4)
        axis = figure.subplots()
        x = np.arange(len(arms))
        for row in values:
            axis.plot(x, row, color=MUTED, alpha=0.6, linewidth=0.7, marker="o", markersize=2.5, zorder=1)
        for i, arm in enumerate(arms.values()):
            if arm.mean is not None:
                axis.hlines(arm.mean, i - 0.22, i + 0.22, color=line_style(i)["color"], linewidth=2.5, zorder=2)
        room = 0.85 * width / len(arms)
        axis.set_xticks(x, [fit_text(arm, room, lines=3) for arm in arms])
        axis.set_xlim(-0.5, len(arms) - 0.5)
        axis.set_ylabel(metric_label(summary.experiment.metric))
        axis.grid(axis="y")
    return figure


def differences_figure(summary: Summary) -> "Figure | None":
    """Return, one row per comparison, every seed's difference, the mean, and its interval."""
    comparisons = [c for c in summary.comparisons if c.mean is not None]
    if not comparisons:
        return None
    arms = list(summary.arms)
    with house_style():
        figure = new_figure(COLUMN, 0.6 + 0.4 * len(comparisons))
        axis = figure.subplots()
        axis.axvline(0, color=INK, linewidth=0.7)
        for edge in (-summary.experiment.margin, summary.experiment.margin):
            axis.axvline(edge, color=MUTED, linewidth=0.7, linestyle=":")
        for row, c in enumerate(comparisons):
            color = line_style(arms.index(c.arm))["color"]
            axis.plot(
                c.differences, np.full(len(c.differences), row + 0.2), "o", color=MUTED, alpha=0.6, markersize=2.5
            )
            if c.interval is not None:
                axis.hlines(row - 0.12, *c.interval, color=color, linewidth=1.5)
            axis.plot([c.mean], [row - 0.12], "D", color=color)
        axis.set_yticks(range(len(comparisons)), [fit_text(c.arm, 0.9, lines=2) for c in comparisons])
        axis.set_ylim(len(comparisons) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.grid(axis="x")
        label = f"{metric_label(summary.experiment.metric)}, difference from {summary.experiment.baseline}"
        axis.set_xlabel(fit_text(label, COLUMN - 0.3))
    return figure


def curves_figure(results: Runs) -> "Figure | None":
    """Return training loss, validation loss and validation ROC-AUC over the epochs, one line per arm."""
    return training_curves({arm: list(runs.values()) for arm, runs in results.items()})


def learning_figure(results: Runs) -> "Figure | None":
    """Return gradient norm and distance moved of every group of parameters over the epochs, one line per arm."""
    groups = ordered_groups(
        group for runs in results.values() for run in runs.values() for group in run.parameter_groups("grad_norm")
    )
    if not groups:
        return None
    epochs = evaluated_epochs(run for runs in results.values() for run in runs.values())
    with house_style():
        figure = new_figure(PAGE if len(groups) > 2 else COLUMN, 2.9)
        axes = figure.subplots(len(LEARNING), len(groups), squeeze=False, sharex=True)
        handles: dict[str, Any] = {}
        for row, name in enumerate(LEARNING):
            for column, group in enumerate(groups):
                axis = axes[row, column]
                for i, (arm, runs) in enumerate(results.items()):
                    values = curve_matrix(runs.values(), f"{name}.{group}", epochs)
                    if np.isfinite(values).any():
                        handles[arm] = _draw(axis, epochs, values, i)
                axis.set_ylim(bottom=0)
                axis.grid(axis="y")
                axis.xaxis.get_major_locator().set_params(integer=True)
                if row == 0:
                    axis.set_title(group)
                if row == len(LEARNING) - 1:
                    axis.set_xlabel("Epoch")
            axes[row, 0].set_ylabel(GROUP_CURVES[name])
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(4, len(handles)))
    return figure


def _draw(axis: "Axes", epochs: list[int], values: np.ndarray, index: int) -> Any:
    """Draw the mean of `values` (runs, T) in the band from the least to the largest, and return its line."""
    seen = np.isfinite(values).any(axis=0)
    x, shown = np.asarray(epochs)[seen], values[:, seen]
    kind = line_style(index)
    marker = {"marker": "o", "markersize": 2.5} if len(x) <= 12 else {}
    (line,) = axis.plot(x, np.nanmean(shown, axis=0), **kind, **marker)
    axis.fill_between(
        x, np.nanmin(shown, axis=0), np.nanmax(shown, axis=0), color=kind["color"], alpha=0.15, linewidth=0
    )
    return line
