"""The maps that a head gets most wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer.evaluation import exclusive as exclusive_metrics
from qwafer.evaluation import metrics
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OFF, PASSING, FAILING = "#FFFFFF", "#C9DCEB", "#B2390E"


def worst_examples(
    logits: ArrayLike, labels: ArrayLike, n: int = 9, *, thresholds: ArrayLike = 0.0, exclusive: bool = False
) -> NDArray[np.int64]:
    """Return the rows of the (at most `n`) wrongly predicted examples of largest loss, the worst first.

    The loss of an example is the sum over its wrong labels of |l - threshold|; of exclusive classes -log p of the true
    class. `logits`, `labels` (N, K), or class indices (N,) with `exclusive`.
    """
    values = np.asarray(logits, np.float64)
    if exclusive:
        classes = exclusive_metrics.class_indices(labels, values.shape[1])
        wrong = values.argmax(axis=1) != classes
        own = np.take_along_axis(exclusive_metrics.one_vs_rest_logits(values), classes[:, None], axis=1)[:, 0]
        loss = np.logaddexp(0, -own)
    else:
        values, truth, _ = metrics.as_columns(values, labels, "logits")
        errors = metrics.predict(values, thresholds) != truth
        wrong = errors.any(axis=1)
        loss = np.where(errors, np.abs(values - np.asarray(thresholds, np.float64)), 0).sum(axis=1)
    order = np.lexsort((np.arange(len(loss)), -np.nan_to_num(loss, nan=np.inf)))
    return order[wrong[order]][:n]


def error_maps(
    maps: Sequence[NDArray[np.uint8]],
    true_labels: Sequence[Sequence[str]],
    predicted_labels: Sequence[Sequence[str]],
) -> "Figure":
    """Draw wafer maps, three a row, each with its true and its predicted labels.

    `maps`: arrays (height, width) of 0 (no die), 1 (passing) and 2 (failing), of any sizes; `true_labels`,
    `predicted_labels`: the names of the labels of each map, none meaning a map without defect. Select them with
    `worst_examples`. Without maps the figure says so.
    """
    with look.house_style():
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        if not len(maps):
            figure = look.new_figure(look.COLUMN, 0.6)
            figure.text(0.5, 0.5, "No example is predicted wrong.", ha="center", va="center")
            return figure
        columns = 3
        rows = -(-len(maps) // columns)
        figure = look.new_figure(look.COLUMN, 1.45 * rows + 0.25)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        colors = ListedColormap([OFF, PASSING, FAILING])
        width = look.COLUMN / columns - 0.1
        for axis, wafer, true, predicted in zip(axes, maps, true_labels, predicted_labels, strict=False):
            axis.imshow(wafer, cmap=colors, vmin=0, vmax=2, interpolation="nearest")
            lines = [
                look.fit_text(f"{word}: {', '.join(names) or 'no defect'}", width, look.SMALL_SIZE, lines=2)
                for word, names in (("true", true), ("pred.", predicted))
            ]
            axis.set_title("\n".join(lines), fontsize=look.SMALL_SIZE, loc="left", linespacing=1.1)
        for axis in axes:
            axis.set_axis_off()
        look.outer_legend(figure, [Patch(color=PASSING), Patch(color=FAILING)], ["passing die", "failing die"], "lower")
        return figure
