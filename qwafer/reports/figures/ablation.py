"""Figures of a comparison: paired values by seed, differences with their intervals, learning curves."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer.comparison.summary import Summary, ordered_groups
from qwafer.reports.figures import (
    Drawn,
    curve_matrix,
    differences,
    draw,
    house_style,
    new_figure,
    paired,
    training_curves,
)
from qwafer.reports.figures.curves import LEARNING_CAPTION, draw_lines, evaluated_epochs
from qwafer.reports.figures.style import (
    COLUMN,
    PAGE,
)
from qwafer.training.result import GROUP_CURVES, Runs

if TYPE_CHECKING:
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
    """Return `paired` as a figure of its own; None where no run has a value."""
    if all(value is None or not np.isfinite(value) for arm in summary.arms.values() for value in arm.values.values()):
        return None
    return paired(summary).figure


def differences_figure(summary: Summary) -> "Figure | None":
    """Return `differences` as a figure of its own; None where no arm has one."""
    if all(comparison.mean is None for comparison in summary.comparisons):
        return None
    return differences(summary).figure


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
                for arm, runs in results.items():
                    values = curve_matrix(runs.values(), f"{name}.{group}", epochs)
                    if np.isfinite(values).any():
                        handles |= draw_lines(axis, np.asarray(epochs, np.float64), {arm: values}, list(results))
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
