"""Figures of confusion matrices: one two-by-two matrix per label, or one matrix over exclusive classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer.evaluation import exclusive, metrics
from qwafer.evaluation.metrics import Floats
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

COUNTED_CLASSES = 12
"""Up to so many exclusive classes the cells show their counts."""
SMALLEST_COUNT = 5.0
"""Where counts would have to be smaller than this, in points, to fit a column's cells, the figure is a page wide."""


def label_confusion(
    predictions: ArrayLike, labels: ArrayLike, label_names: Sequence[str], degenerate: Sequence[bool] | None = None
) -> "Figure":
    """Draw the two-by-two confusion matrix of each label, counts in the cells, coloured by the fraction of the true
    class.

    `predictions` (at tuned thresholds, say), `labels` (N, K) of 0 and 1. Labels with `degenerate` true are marked with
    a dagger: their threshold cannot be trusted.
    """
    counts = metrics.confusion(predictions, labels)
    marked = [False] * len(label_names) if degenerate is None else list(degenerate)
    with look.house_style():
        figure, axes = look.new_grid(len(label_names), panel_height=0.95)
        width = look.panel_width(figure, axes)
        for k, axis in enumerate(axes):
            draw_label(axis, counts, k, look.SMALL_SIZE if len(axes) > 3 else look.TEXT_SIZE)
            mark = " †" if marked[k] else ""
            name = look.fit_text(str(label_names[k]), width - look.text_width(mark), look.SMALL_SIZE, lines=2) + mark
            axis.set_title(name, fontsize=look.SMALL_SIZE if len(axes) > 3 else look.TEXT_SIZE)
        look.outer_only(axes)
        note = "   († threshold not to be trusted)" if any(marked) else ""
        figure.supxlabel(f"Predicted{note}", fontsize=look.TEXT_SIZE)
        figure.supylabel("True", fontsize=look.TEXT_SIZE)
        return figure


def draw_label(axis: "Axes", counts: metrics.Confusion, k: int, size: float = look.TEXT_SIZE) -> None:
    """Draw the two-by-two matrix of label `k`."""
    matrix = np.array([[counts.tn[k], counts.fp[k]], [counts.fn[k], counts.tp[k]]])
    _draw(axis, matrix, numbers=True, size=size)
    axis.set_xticks((0.5, 1.5), ("no", "yes"))
    axis.set_yticks((0.5, 1.5), ("no", "yes"))


def class_confusion(predictions: ArrayLike, labels: ArrayLike, label_names: Sequence[str]) -> "Figure":
    """Draw the confusion matrix of exclusive classes, coloured by the fraction of the true class; counts up to twelve
    classes.

    `predictions`, `labels`: class indices (N,).
    """
    n_classes = len(label_names)
    matrix = exclusive.confusion_matrix(predictions, labels, n_classes)
    with look.house_style():
        counted = n_classes <= COUNTED_CLASSES
        names = [look.fit_text(str(name), 1.0 if counted else 1.3, look.SMALL_SIZE) for name in label_names]
        room = 0.45 + max(look.text_width(name, look.SMALL_SIZE) for name in names)  # beside the matrix
        widest = look.text_width(str(matrix.max()), 1.0)
        width, size = look.COLUMN, look.SMALL_SIZE
        if not counted or 0.85 * (look.COLUMN - room) / n_classes < SMALLEST_COUNT * widest:
            width = look.PAGE
        else:
            size = min(size, 0.85 * (look.COLUMN - room) / n_classes / widest)
        height = min(width - 0.35, 0.35 + 0.6 * n_classes + room)
        figure = look.new_figure(width, height)
        axis = figure.subplots()
        mesh = draw_classes(axis, matrix, names, numbers=counted, size=size)
        axis.set(xlabel="Predicted", ylabel="True")
        if not counted:
            bar = figure.colorbar(mesh, ax=axis, fraction=0.04, pad=0.01)
            bar.set_label("Fraction of the true class")
            bar.outline.set_visible(False)
        return figure


def draw_classes(
    axis: "Axes", matrix: NDArray[np.int64], names: Sequence[str], *, numbers: bool, size: float = look.SMALL_SIZE
) -> "QuadMesh":
    """Draw the matrix (K, K) of exclusive classes with their names; return the coloured mesh."""
    mesh = _draw(axis, matrix, numbers=numbers, size=size)
    places = np.arange(len(names)) + 0.5
    axis.set_xticks(places, names, rotation=90 if len(names) > 1 else 0)
    axis.set_yticks(places, names)
    return mesh


def _draw(axis: "Axes", matrix: NDArray[np.int64], *, numbers: bool, size: float) -> "QuadMesh":
    """Draw one matrix with its first row on top; return the coloured mesh."""
    share: Floats = metrics.divide(matrix, matrix.sum(axis=1, keepdims=True), 0.0)
    mesh = axis.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors=look.SURFACE, linewidth=0.6)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if numbers:
        for row, column in np.ndindex(matrix.shape):
            color = look.SURFACE if share[row, column] > 0.55 else look.INK
            axis.text(
                column + 0.5, row + 0.5, f"{matrix[row, column]}", ha="center", va="center", color=color, fontsize=size
            )
    return mesh
