"""Figures of curves: learning curves, and ROC with precision-recall curves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.evaluation import metrics
from qwafer.evaluation.metrics import Floats
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

SHOWN = ("train_loss", "val_loss", "val_roc_auc")
"""The curves of a run that `training_curves` shows."""
LEARNING_CAPTION = (
    "Learning curves: mean over the seeds that still train at an epoch, in the band from the least to the largest."
)
_BEST = (0, (1, 2))


class Learnt(Protocol):
    """A run with learning curves."""

    @property
    def curves(self) -> Mapping[str, Sequence[Any]]:
        """`epoch` and the values of each curve there; empty where nothing is learnt in epochs."""


def curve_matrix(runs: Iterable[Learnt], name: str, epochs: Sequence[int]) -> Floats:
    """Return the curve `name` of all runs as (runs, T) at `epochs`; NaN where a run has no value, having stopped
    early.
    """
    found = [dict(zip(run.curves.get("epoch", ()), run.curves.get(name, ()), strict=False)) for run in runs]
    values = [[np.nan if (value := own.get(epoch)) is None else value for epoch in epochs] for own in found]
    return np.asarray(values, np.float64).reshape(len(found), len(epochs))


def evaluated_epochs(runs: Iterable[Learnt]) -> list[int]:
    """Return the epochs at which any of the runs was evaluated, in order."""
    return sorted({epoch for run in runs for epoch in run.curves.get("epoch", ())})


def training_curves(runs: Mapping[str, Sequence[Learnt]]) -> "Figure | None":
    """Draw training loss, validation loss and validation ROC-AUC over the epochs, one line per name (an arm, a head).

    Each name maps to its runs, one per seed: the line is the mean of those still training, in the band from the least
    to the largest. Names
    that learn nothing in epochs are left out and keep their place in the order of colours; None where no name learns.
    """
    from qwafer.training.result import CURVES

    learnt = {name: own for name, own in runs.items() if evaluated_epochs(own)}
    epochs = evaluated_epochs(run for own in learnt.values() for run in own)
    if not epochs:
        return None
    panels = {
        CURVES[curve]: {name: curve_matrix(own, curve, epochs) for name, own in learnt.items()} for curve in SHOWN
    }
    return learning_curves(epochs, panels, order=list(runs))


def learning_curves(
    steps: ArrayLike,
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    xlabel: str = "Epoch",
    best: Mapping[str, float] | None = None,
    order: Sequence[str] | None = None,
) -> "Figure":
    """Draw curves over training, one panel below the other with a common x axis.

    `steps` (T,) is the x axis; `panels` maps a panel's y label to its lines, and a line's name to values (T,) or, for
    several runs, (runs, T): then the mean is drawn, in the band from the smallest to the largest run. NaN leaves a gap.
    `best` maps a line's name to the step of its best evaluation, marked in every panel. `order` holds all names of the
    report that this figure belongs to, so that a line looks the same in all its figures.
    """
    x = np.asarray(steps, np.float64)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    places = names if order is None else list(order)
    with look.house_style():
        entries = [*names, *(["best evaluation"] if best else [])]
        figure = look.new_figure(look.COLUMN, 0.3 + 1.25 * len(panels) + look.legend_height(entries))
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
        handles: dict[str, Line2D] = {}
        for axis, (ylabel, lines) in zip(axes, panels.items(), strict=True):
            handles |= draw_lines(axis, x, lines, places)
            for name in lines:
                if best is not None and name in best:
                    color = look.line_style(places.index(name))["color"]
                    axis.axvline(best[name], color=color, linewidth=0.8, linestyle=_BEST)
            axis.set_ylabel(ylabel)
            axis.grid(axis="y")
            axis.yaxis.set_major_locator(_locator(4))
            axis.margins(x=0.02)
        axes[-1].set_xlabel(xlabel)
        axes[-1].xaxis.set_major_locator(_locator(6, integer=True))
        figure.align_ylabels()
        lines_shown = [handles[name] for name in names] + ([_line(look.MUTED, _BEST)] if best else [])
        look.outer_legend(figure, lines_shown, entries, "upper")
        return figure


def draw_lines(axis: "Axes", x: Floats, lines: Mapping[str, ArrayLike], places: Sequence[str]) -> "dict[str, Line2D]":
    """Draw lines by name at `x` (T,): values (T,), or the mean of (runs, T) in the band from the least to the largest.

    Returns the lines by name; the place of a name in `places` says how its line looks.
    """
    handles = {}
    for name, values in lines.items():
        runs = np.atleast_2d(np.asarray(values, np.float64))
        if runs.shape[1:] != x.shape:
            raise InputError(
                f"`panels` must hold values (T,) or (runs, T) with T = {len(x)}, got shape {np.shape(values)}"
            )
        kind = look.line_style(places.index(name))
        mean = [metrics.nanmean(column) for column in runs.T]
        marker = {"marker": "o", "markersize": 2.5} if len(x) <= 12 else {}
        (handles[name],) = axis.plot(x, mean, label=name, **kind, **marker)
        if len(runs) > 1:
            low, high = np.fmin.reduce(runs), np.fmax.reduce(runs)
            axis.fill_between(x, low, high, color=kind["color"], alpha=0.15, linewidth=0)
    return handles


def label_curves(
    scores: Mapping[str, ArrayLike], labels: ArrayLike | Mapping[str, ArrayLike], label_names: Sequence[str], kind: str
) -> "Figure":
    """Draw the ROC curves (`kind` "roc") or the precision-recall curves ("precision_recall") of all heads, a panel per
    label.

    `scores` maps a head's name to (N, K); `labels` are (N, K), or a head's own by its name. For exclusive classes give
    one-vs-rest logits and one-hot labels. Titles count the positives of the first head's examples; a grey line is what
    scores without information give. Labels without a curve say so.
    """
    check_choice("kind", kind, ("roc", "precision_recall"))
    heads = list(scores)
    columns_of = {}
    for head in heads:
        own = labels[head] if isinstance(labels, Mapping) else labels
        columns_of[head] = metrics.as_columns(scores[head], own)[:2]
    n_classes = len(label_names)
    with look.house_style():
        columns = look.grid_columns(n_classes)
        width = look.COLUMN if columns < 3 else look.PAGE
        rows, side = -(-n_classes // columns), (width - 0.45) / columns
        figure = look.new_figure(width, 0.35 + rows * min(side + 0.1, 2.3) + look.legend_height(heads, width))
        axes = look.panels(figure, n_classes)
        room = look.panel_width(figure, axes)
        handles: dict[str, Line2D] = {}
        for k, axis in enumerate(axes):
            n_positive = int(columns_of[heads[0]][1][:, k].sum())
            handles |= draw_label_curves(axis, columns_of, k, kind)
            count = f" ({n_positive:,})"
            name = look.fit_text(str(label_names[k]), room - look.text_width(count, look.SMALL_SIZE), look.SMALL_SIZE)
            axis.set_title(name + count, fontsize=look.SMALL_SIZE)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axis.set_xticklabels(("0", "0.5", "1"))
            axis.set_yticklabels(("0", "0.5", "1"))
            axis.set_box_aspect(1)
            axis.grid()
        look.outer_only(axes)
        across, up = ("False positive rate", "True positive rate") if kind == "roc" else ("Recall", "Precision")
        figure.supxlabel(across, fontsize=look.TEXT_SIZE)
        figure.supylabel(up, fontsize=look.TEXT_SIZE)
        if handles:
            look.outer_legend(figure, list(handles.values()), list(handles), "upper")
        return figure


def draw_label_curves(
    axis: "Axes", columns_of: Mapping[str, tuple[Floats, NDArray[np.bool_]]], k: int, kind: str
) -> "dict[str, Line2D]":
    """Draw the curves of label `k` of all heads, each scores and labels (N, K); return the lines by head.

    The grey line is what scores without information give on the examples of the first head.
    """
    handles = {}
    for index, (head, (values, truth)) in enumerate(columns_of.items()):
        if not np.isfinite(values[:, k]).all() or not 0 < truth[:, k].sum() < len(truth):
            continue
        style = {**look.line_style(index), "linewidth": 0.9}
        if kind == "roc":
            (handles[head],) = axis.plot(*roc_points(values[:, k], truth[:, k]), **style)
        else:
            points = precision_recall_points(values[:, k], truth[:, k])
            (handles[head],) = axis.plot(*points, drawstyle="steps-pre", **style)
    if handles:
        share = float(next(iter(columns_of.values()))[1][:, k].mean())
        chance = ([0, 1], [0, 1]) if kind == "roc" else ([0, 1], [share, share])
        axis.plot(*chance, color=look.FAINT, linewidth=0.8, zorder=1)
    else:
        axis.text(0.5, 0.5, "undefined", ha="center", fontsize=look.SMALL_SIZE, color=look.MUTED)
    return handles


def roc_points(scores: Floats, labels: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return (false positive rate, true positive rate) from (0, 0) to (1, 1), one point per distinct score; both
    classes must occur.
    """
    tp, fp = _cumulated(scores, labels)
    return fp / fp[-1], tp / tp[-1]


def precision_recall_points(scores: Floats, labels: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return (recall, precision) with increasing recall, one point per distinct score; the first repeats its precision
    at recall 0.
    """
    tp, fp = _cumulated(scores, labels)
    precision = tp[1:] / (tp[1:] + fp[1:])
    return tp / tp[-1], np.concatenate([precision[:1], precision])


def _cumulated(scores: Floats, labels: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the true and false positives at or above each distinct score, from the highest, with a leading 0."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    tp = np.cumsum(labels[order])[ends].astype(np.float64)
    return np.append(0.0, tp), np.append(0.0, ends + 1 - tp)


def _line(color: str, dashes: Any = "solid") -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linewidth=1.0, linestyle=dashes)


def _locator(n: int, integer: bool = False) -> "MaxNLocator":
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(n, integer=integer)
