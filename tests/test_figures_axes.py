"""One panel of a result on axes of one's own, and the same in the reports."""

import dataclasses
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes

import qwafer
from qwafer import InputError
from qwafer.comparison.metrics import metric_label
from qwafer.evaluation import expected_calibration_error, roc_auc
from qwafer.evaluation.metrics import sigmoid
from qwafer.reports import figures
from qwafer.reports.figures import ablation
from qwafer.reports.figures.curves import evaluated_epochs
from qwafer.studies import run_experiment

TOML = """
seeds = 6
metric = "test.roc_auc"
data.n_maps = 240
data.task = "multilabel"
training = {epochs = 3, max_doublings = 0}
[arms.linear]
head = "linear"
[arms.wide]
head = "mlp"
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("axes")
    (folder / "two.toml").write_text(TOML)
    threads = qwafer.execution.Threads()
    return run_experiment(qwafer.load_experiment(folder / "two.toml"), folder / "out", executor=threads)


@pytest.fixture
def run(outcome):
    return outcome.results.results["linear"][0]


@pytest.fixture
def ax():
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def label_of(run):
    """A label that is there and is not there in the test split."""
    return next(
        name for name, found in zip(run.label_names, run.labels["test"].T, strict=True) if 0 < found.sum() < len(found)
    )


def functions(outcome, run):
    label = label_of(run)
    return {
        "paired": lambda **at: figures.paired(outcome.summary, **at),
        "differences": lambda **at: figures.differences(outcome.summary, **at),
        "curve": lambda **at: figures.curve(outcome.results.results, "val_loss", **at),
        "group": lambda **at: figures.curve(run, next(c for c in run.curves if c.startswith("grad_norm.")), **at),
        "confusion": lambda **at: figures.confusion(run, label, **at),
        "reliability": lambda **at: figures.reliability(run, label, **at),
        "roc": lambda **at: figures.roc({"a": run, "b": run}, label, **at),
        "precision": lambda **at: figures.roc(run, label, kind="precision_recall", **at),
    }


def test_each_is_drawn_on_the_axes_that_are_given_or_on_its_own(outcome, run, ax):
    settings = dict(plt.rcParams)
    for name, function in functions(outcome, run).items():
        ax.clear()
        assert function(ax=ax) is ax, name
        assert ax.has_data(), name
        assert ax.get_ylabel() or ax.get_yticklabels(), name
        alone = function()
        assert isinstance(alone, Axes)
        assert alone is not ax
        assert not figures.text_problems(alone.figure), name
        assert len(alone.lines) == len(ax.lines), name
    assert dict(plt.rcParams) == settings


def test_what_is_drawn_is_the_result(outcome, run, ax):
    summary = outcome.summary
    (comparison,) = summary.comparisons
    figures.differences(summary, ax)
    assert any(np.array_equal(line.get_xdata(), comparison.differences) for line in ax.lines)
    assert [comparison.mean] in [list(line.get_xdata()) for line in ax.lines]
    ax.clear()
    assert figures.paired(summary, ax).get_ylabel() == metric_label(summary.experiment.metric)
    assert len(ax.lines) == len(summary.experiment.seeds)
    ax.clear()
    figures.curve(outcome.results.results["linear"], "val_loss", ax)
    losses = [each.curve("val_loss") for each in outcome.results.results["linear"].values()]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.mean(losses, axis=0))
    label = label_of(run)
    k = run.label_names.index(label)
    ax.clear()
    error = expected_calibration_error(sigmoid(run.logits["test"]), run.labels["test"])[k]
    assert figures.reliability(run, label, ax).get_title() == f"{label}, ECE {error:.3f}"
    ax.clear()
    x, y = figures.roc(run, label, ax).lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(roc_auc(run.logits["test"], run.labels["test"])[k])
    ax.clear()
    counts = [int(text.get_text()) for text in figures.confusion(run, label, ax).texts]
    assert sum(counts) == len(run.labels["test"])
    assert sum(counts[2:]) == run.labels["test"][:, k].sum()


def test_exclusive_classes(run, ax):
    outputs = dict(run.outputs)
    rng = np.random.default_rng(0)
    n, k = run.labels["test"].shape
    outputs["test_labels"] = np.eye(k, dtype=np.uint8)[rng.integers(0, k, n)]
    exclusive = dataclasses.replace(run, outputs=outputs, test=dataclasses.replace(run.test, exclusive=True))
    texts = {text.get_text() for text in figures.confusion(exclusive).texts}
    assert {text.get_text() for text in figures.confusion(exclusive, ax=ax).texts} == texts
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(run.label_names)
    with pytest.raises(InputError, match="these classes are exclusive"):
        figures.confusion(exclusive, run.label_names[0])


def test_the_reports_draw_the_same(outcome):
    for drawn, alone in (
        (ablation.paired_figure(outcome.summary), figures.paired(outcome.summary)),
        (ablation.differences_figure(outcome.summary), figures.differences(outcome.summary)),
    ):
        (axis,) = drawn.axes
        for ours, theirs in zip(axis.lines, alone.lines, strict=True):
            np.testing.assert_array_equal(ours.get_xydata(), theirs.get_xydata())
    learning = ablation.curves_figure(outcome.results.results).axes[1]
    alone = figures.curve(outcome.results.results, "val_loss")
    for ours, theirs in zip(learning.lines, alone.lines, strict=True):
        np.testing.assert_array_equal(ours.get_xydata(), theirs.get_xydata())
    assert len(evaluated_epochs(outcome.results.results["linear"].values())) == len(alone.lines[0].get_xdata())


def test_what_cannot_be_drawn_is_one_sentence(outcome, run, ax):
    nothing = dataclasses.replace(
        outcome.summary,
        arms={name: dataclasses.replace(arm, values={}) for name, arm in outcome.summary.arms.items()},
        comparisons=(),
    )
    bare = dataclasses.replace(run, outputs={})
    for call, said in (
        (lambda: figures.paired(nothing), "has a value of test.roc_auc"),
        (lambda: figures.differences(nothing), "has a difference from linear"),
        (lambda: figures.curve(run, "val_los"), "did you mean `val_loss`"),
        (lambda: figures.curve(run, "alpha"), "none of these runs has a curve 'alpha'"),
        (lambda: figures.curve([3]), "results of runs .RunResult., got int"),
        (lambda: figures.confusion(run), "`label` must be one of"),
        (lambda: figures.roc(run, "Centre"), "did you mean `Center`"),
        (lambda: figures.roc(run, label_of(run), kind="pr"), "`kind`"),
        (lambda: figures.reliability(bare, label_of(run)), "this run has no outputs"),
        (lambda: figures.paired(outcome.summary, plt), "one Axes of matplotlib, got module"),
        (lambda: figures.paired(outcome.summary, [ax]), "one Axes of matplotlib, got list"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    assert qwafer.figures is figures


def test_figures_are_there_without_an_import_of_their_room():
    code = "import qwafer\nassert callable(qwafer.figures.paired)"
    subprocess.run([sys.executable, "-c", code], check=True)
