"""One panel on axes of your own: comparisons, curves, confusion, reliability, ROC. The reports draw with the same.

Each function takes `ax`, axes of any figure of matplotlib, and returns them; without, it makes a figure in the house
style (`axes.figure`). Nothing is shown or saved: go on with the axes as with any other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._checks import check_choice, nearest
from qwafer._errors import InputError
from qwafer.comparison.metrics import metric_label
from qwafer.comparison.summary import Summary
from qwafer.evaluation import exclusive, metrics, predict
from qwafer.evaluation.calibration import reliability_curve
from qwafer.evaluation.exclusive import class_indices, one_vs_rest_logits
from qwafer.reports.figures import style as look
from qwafer.reports.figures.classes import draw_reliability
from qwafer.reports.figures.curves import curve_matrix, draw_label_curves, draw_lines, evaluated_epochs
from qwafer.reports.figures.matrices import COUNTED_CLASSES, class_confusion, draw_classes, draw_label
from qwafer.training.result import CURVES, GROUP_CURVES, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Seeds = RunResult | Sequence[RunResult] | Mapping[int, RunResult]
"""One run, or those of several seeds."""
PER_LABEL = ("val_roc_auc_per_label", "alpha")


def paired(summary: Summary, ax: "Axes | None" = None) -> "Axes":
    """Draw the metric of every arm: one line per seed, the mean of each arm as a bar.

    Raises InputError where no run has a value.
    """
    _check_summary(summary)
    arms, seeds = summary.arms, summary.experiment.seeds
    values = np.array([[arm.values.get(seed) for arm in arms.values()] for seed in seeds], np.float64)  # (seeds, arms)
    if not np.isfinite(values).any():
        raise InputError(f"no run of {summary.experiment.name} has a value of {summary.experiment.metric}")
    with look.house_style():
        axis = _axes(ax, look.COLUMN if len(arms) <= 6 else look.PAGE, 2.4)
        x = np.arange(len(arms))
        for row in values:
            axis.plot(x, row, color=look.MUTED, alpha=0.6, linewidth=0.7, marker="o", markersize=2.5, zorder=1)
        for i, arm in enumerate(arms.values()):
            if arm.mean is not None:
                axis.hlines(arm.mean, i - 0.22, i + 0.22, color=look.line_style(i)["color"], linewidth=2.5, zorder=2)
        room = 0.85 * _width(axis) / len(arms)
        axis.set_xticks(x, [look.fit_text(arm, room, lines=3) for arm in arms])
        axis.set_xlim(-0.5, len(arms) - 0.5)
        axis.set_ylabel(metric_label(summary.experiment.metric))
        axis.grid(axis="y")
    return axis


def differences(summary: Summary, ax: "Axes | None" = None) -> "Axes":
    """Draw, one row per comparison, every seed's difference, the mean, and the interval that decides; between the
    dotted lines differences are equivalent.

    Raises InputError where no arm has a difference.
    """
    _check_summary(summary)
    comparisons = [c for c in summary.comparisons if c.mean is not None]
    if not comparisons:
        raise InputError(f"no arm of {summary.experiment.name} has a difference from {summary.experiment.baseline}")
    arms = list(summary.arms)
    with look.house_style():
        axis = _axes(ax, look.COLUMN, 0.6 + 0.4 * len(comparisons))
        axis.axvline(0, color=look.INK, linewidth=0.7)
        for edge in (-summary.experiment.margin, summary.experiment.margin):
            axis.axvline(edge, color=look.MUTED, linewidth=0.7, linestyle=":")
        for row, c in enumerate(comparisons):
            color = look.line_style(arms.index(c.arm))["color"]
            places = np.full(len(c.differences), row + 0.2)
            axis.plot(c.differences, places, "o", color=look.MUTED, alpha=0.6, markersize=2.5)
            if c.interval is not None:
                axis.hlines(row - 0.12, *c.interval, color=color, linewidth=1.5)
            axis.plot([c.mean], [row - 0.12], "D", color=color)
        axis.set_yticks(range(len(comparisons)), [look.fit_text(c.arm, 0.9, lines=2) for c in comparisons])
        axis.set_ylim(len(comparisons) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.grid(axis="x")
        label = f"{metric_label(summary.experiment.metric)}, difference from {summary.experiment.baseline}"
        axis.set_xlabel(look.fit_text(label, _width(axis) - 0.3))
    return axis


def curve(runs: Seeds | Mapping[str, Seeds], name: str = "val_loss", ax: "Axes | None" = None) -> "Axes":
    """Draw a curve of training over the epochs: of a run, of several seeds (the mean of those that still train, in the
    band from the least to the largest), or a line for each name of a mapping.

    `name` is one of `qwafer.training.CURVES` with one value per evaluation, or `grad_norm.GROUP`, `param_norm.GROUP`,
    `distance.GROUP` of a group of parameters. Raises InputError for a curve that none of the runs has.
    """
    by_name = runs if isinstance(runs, Mapping) and all(isinstance(key, str) for key in runs) else {"": runs}
    found = {str(key): _seeds(own) for key, own in by_name.items()}
    known = {key for own in found.values() for run in own for key in run.curves} - {"epoch", *PER_LABEL}
    if name not in known:
        raise InputError(f"none of these runs has a curve {name!r}{nearest(name, known)}")
    epochs = evaluated_epochs(run for own in found.values() for run in own)
    kind, _, group = name.partition(".")
    with look.house_style():
        axis = _axes(ax, look.COLUMN, 2.2)
        lines = {key: curve_matrix(own, name, epochs) for key, own in found.items()}
        handles = draw_lines(axis, np.asarray(epochs, np.float64), lines, list(found))
        axis.set(xlabel="Epoch", ylabel=f"{GROUP_CURVES[kind]}, {group}" if group else CURVES[kind])
        axis.grid(axis="y")
        if "" not in handles:
            axis.legend(handles.values(), handles)
    return axis


def confusion(run: RunResult, label: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw the confusion matrix on test: of exclusive classes, or two by two of one `label`, at the threshold that was
    tuned on validation. Cells hold counts, coloured by the fraction of the true class; a dagger marks a label whose
    threshold cannot be trusted.
    """
    logits, labels = _test_split(run)
    with look.house_style():
        if run.exclusive:
            if label is not None:
                raise InputError("`label` chooses one of several labels, and these classes are exclusive: leave it out")
            decided, truth = logits.argmax(axis=1), class_indices(labels, labels.shape)
            if ax is None:
                return class_confusion(decided, truth, run.label_names).axes[0]
            axis, n = _axes(ax, 0, 0), len(run.label_names)
            matrix = exclusive.confusion_matrix(decided, truth, n)
            draw_classes(axis, matrix, run.label_names, numbers=n <= COUNTED_CLASSES)
        else:
            k = _label(run, label)
            axis = _axes(ax, 2.2, 2.2)
            limits = 0.0 if run.test.thresholds is None else run.test.thresholds
            draw_label(axis, metrics.confusion(predict(logits, limits), labels), k)
            axis.set_title(f"{run.label_names[k]}{' †' if run.test.degenerate[k] else ''}")
        axis.set(xlabel="Predicted", ylabel="True")
    return axis


def reliability(run: RunResult, label: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draw how often `label` is there against its predicted probability on test, in bins with 95% intervals, and the
    expected calibration error as the title.
    """
    logits, labels = _test_split(run)
    k = _label(run, label)
    scores = one_vs_rest_logits(logits) if run.exclusive else logits
    (found,) = reliability_curve(metrics.sigmoid(scores[:, [k]]), labels[:, [k]])
    with look.house_style():
        axis = _axes(ax, 2.4, 2.4)
        draw_reliability(axis, found)
        axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel="Predicted probability", ylabel="Observed frequency")
        axis.set_title(f"{run.label_names[k]}, ECE {found.ece:.3f}")
    return axis


def roc(
    runs: RunResult | Mapping[str, RunResult], label: str | None = None, ax: "Axes | None" = None, kind: str = "roc"
) -> "Axes":
    """Draw the ROC curve of `label` on test, or with `kind` "precision_recall" precision against recall: of a run, or
    of one run for each name of a mapping. A grey line is what scores without information give.
    """
    check_choice("kind", kind, ("roc", "precision_recall"))
    named = dict(runs) if isinstance(runs, Mapping) else {"": runs}
    if not named:
        raise InputError("`runs` must hold a result (RunResult), got none")
    columns = {}
    for name, run in named.items():
        logits, labels = _test_split(run)
        k = _label(run, label)
        scores = one_vs_rest_logits(logits) if run.exclusive else logits
        columns[str(name)] = metrics.as_columns(scores[:, [k]], labels[:, [k]])[:2]
        title = run.label_names[k]
    with look.house_style():
        axis = _axes(ax, 2.4, 2.4)
        handles = draw_label_curves(axis, columns, 0, kind)
        names = ("False positive rate", "True positive rate") if kind == "roc" else ("Recall", "Precision")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=names[0], ylabel=names[1])
        axis.set_title(title)
        if "" not in handles and handles:
            axis.legend(handles.values(), handles)
    return axis


def _axes(ax: "Axes | None", width: float, height: float) -> "Axes":
    """Return `ax`, or those of a new figure of this size in inches."""
    from matplotlib.axes import Axes

    if ax is None:
        return look.new_figure(width, height).subplots()
    if not isinstance(ax, Axes):
        raise InputError(f"`ax` must be one Axes of matplotlib, got {type(ax).__name__}")
    return ax


def _width(axis: "Axes") -> float:
    """Return the width of the axes with its labels, in inches."""
    figure, place = axis.figure, axis.get_subplotspec()
    return float(figure.get_figwidth()) / (1 if place is None else place.get_topmost_subplotspec().get_gridspec().ncols)


def _check_summary(summary: Any) -> None:
    if not isinstance(summary, Summary):
        raise InputError(f"`summary` must be what a comparison came to (Summary), got {type(summary).__name__}")


def _seeds(runs: Any) -> list[RunResult]:
    if isinstance(runs, RunResult) or not isinstance(runs, Iterable):
        runs = [runs]
    found = list(runs.values() if isinstance(runs, Mapping) else runs)
    for run in found:
        if not isinstance(run, RunResult):
            raise InputError(f"`runs` must hold results of runs (RunResult), got {type(run).__name__}")
    return found


def _label(run: RunResult, label: str | None) -> int:
    names = run.label_names
    if label is None and len(names) == 1:
        return 0
    if label not in names:
        said = "none" if label is None else repr(label)
        raise InputError(f"`label` must be one of {', '.join(names)}, got {said}{nearest(label, names)}")
    return names.index(label)


def _test_split(run: RunResult) -> tuple[np.ndarray, np.ndarray]:
    found = _seeds(run)
    if len(found) != 1:
        raise InputError(f"`run` must be one result (RunResult), got {len(found)}")
    (run,) = found
    if "test" not in run.logits:
        raise InputError("this run has no outputs: read it where its arrays lie beside its JSON file")
    return run.logits["test"], run.labels["test"]
