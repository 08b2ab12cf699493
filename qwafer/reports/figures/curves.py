"""Figures of curves: learning curves, and ROC with precision-recall curves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._errors import InputError
from qwafer.evaluation import metrics
from qwafer.evaluation.metrics import Floats
from qwafer.reports.figures import style as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

CURVES = {"train_loss": "Training loss", "val_loss": "Validation loss", "val_auc": "Validation ROC-AUC"}
"""The curves that `training_curves` shows, and the label of each."""
NAMED_CLASSES = 8
"""Up to so many classes each has a line of its own; beyond, the worst three are named and the rest are grey."""
_GREY: dict[str, Any] = {"color": "#BDBDBD", "linewidth": 0.5, "zorder": 2}
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
    """Draw training loss, validation loss and validation AUC over the epochs, one line per name (an arm, a head).

    Each name maps to its runs, one per seed: the line is their mean, in the band from the least to the largest. Names
    that learn nothing in epochs are left out and keep their place in the order of colours; None where no name learns.
    """
    learnt = {name: own for name, own in runs.items() if evaluated_epochs(own)}
    epochs = evaluated_epochs(run for own in learnt.values() for run in own)
    if not epochs:
        return None
    panels = {
        label: {name: curve_matrix(own, curve, epochs) for name, own in learnt.items()}
        for curve, label in CURVES.items()
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
        handles = {}
        for axis, (ylabel, lines) in zip(axes, panels.items(), strict=True):
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
                if best is not None and name in best:
                    axis.axvline(best[name], color=kind["color"], linewidth=0.8, linestyle=_BEST)
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


def roc_and_precision_recall(scores: ArrayLike, labels: ArrayLike, label_names: Sequence[str]) -> "Figure":
    """Draw the ROC curve and the precision-recall curve of each class side by side.

    `scores`, `labels` (N, K); for exclusive classes give one-vs-rest logits and one-hot labels. The legend gives
    ROC-AUC and average precision. Beyond eight classes only the three of lowest average precision are named. Classes
    where a curve is undefined are said.
    """
    values, truth, _ = metrics.as_columns(scores, labels)
    n_classes = values.shape[1]
    summary = [metrics.ranking(s, y) for s, y in zip(values.T, truth.T, strict=True)]
    defined = [k for k in range(n_classes) if np.isfinite(summary[k]).all()]
    named = defined if n_classes <= NAMED_CLASSES else sorted(defined, key=lambda k: summary[k][1])[:3]
    with look.house_style():
        room = 0.75 if len(named) > 4 else 2.0
        texts = [
            f"{look.fit_text(str(label_names[k]), room, look.SMALL_SIZE)} {summary[k][0]:.3f}, {summary[k][1]:.3f}"
            for k in named
        ]
        others = []
        if len(defined) > len(named):
            others.append((f"the other {len(defined) - len(named)} classes", _GREY["color"]))
        if len(defined) < n_classes:
            others.append((f"{n_classes - len(defined)} of {n_classes}: undefined", "none"))
        texts += [text for text, _ in others]
        figure = look.new_figure(look.COLUMN, 1.8 + look.legend_height(texts))
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=look.FAINT, linewidth=0.8, zorder=1)
        lines = {}
        for k in [k for k in defined if k not in named] + list(named):
            kind = _GREY if k not in named else {**look.line_style(list(named).index(k)), "zorder": 3}
            fpr, tpr = roc_points(values[:, k], truth[:, k])
            left.plot(fpr, tpr, **kind)
            recall, precision = precision_recall_points(values[:, k], truth[:, k])
            (lines[k],) = right.plot(recall, precision, drawstyle="steps-pre", **kind)
        handles = [lines[k] for k in named] + [_line(color) for _, color in others]
        for axis, xlabel, ylabel in (
            (left, "False positive rate", "True positive rate"),
            (right, "Recall", "Precision"),
        ):
            axis.set(
                xlabel=xlabel,
                ylabel=ylabel,
                xlim=(-0.02, 1.02),
                ylim=(-0.02, 1.02),
                xticks=(0, 0.5, 1),
                yticks=(0, 0.5, 1),
            )
            axis.set_xticklabels(("0", "0.5", "1"))
            axis.set_yticklabels(("0", "0.5", "1"))
            axis.set_box_aspect(1)
            axis.grid()
        look.outer_legend(figure, handles, texts, "lower", "ROC-AUC, average precision" if named else "")
        return figure


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
