"""Reports and figures fit for a paper: what they say on top, what each figure draws, and what stands beside it."""

import dataclasses
import itertools
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from qwafer import InputError
from qwafer.circuits import CircuitSpec
from qwafer.comparison.design import Design
from qwafer.comparison.statistics import compare_arms
from qwafer.config import RunConfig
from qwafer.evaluation import bca_class_metric, bca_metrics
from qwafer.evaluation.calibration import reliability_curve
from qwafer.evaluation.metrics import sigmoid
from qwafer.overrides import with_options
from qwafer.probes.circuit.subject import function_subject
from qwafer.probes.circuit.trainability import own_trainability, trainability, two_design_variance
from qwafer.probes.report import Report, merge
from qwafer.reports import figures
from qwafer.reports.document import Contents, Heading, Paragraph, Table, to_html, to_markdown, with_contents
from qwafer.reports.figures import probes, style
from qwafer.reports.figures.maps import _caption
from qwafer.reports.texts import merged, no_verdicts, verdict_line
from qwafer.training import train
from tests.factories import feature_set

ROOT = Path(__file__).resolve().parents[1]
HEADS = [f"head_{i}" for i in range(10)]
PATTERNS = ["Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Scratch", "Random"]


def names(k):
    mixed = ["+".join(found) for found in itertools.combinations(PATTERNS, 3)]
    return [*PATTERNS, *mixed][:k]


def scores_and_labels(k, n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, k)) < 0.2
    return rng.normal(size=(n, k)) + 2 * labels - 1, labels.astype(np.uint8)


# Documents


def test_contents_lead_to_every_heading_of_a_report() -> None:
    titles = ["Results", "`test.roc_auc` by seed", "Metrics, mean ± standard deviation", "Is it?"]
    blocks = with_contents([Heading("Title", 1), Paragraph("On top."), *map(Heading, titles), Heading("Part", 3)])
    assert [type(block) for block in blocks[:4]] == [Heading, Paragraph, Contents, Heading]
    page, text = to_html(blocks, "t"), to_markdown(blocks)
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert len(links) == len(titles)
    assert set(links) <= set(re.findall(r'<h2 id="([^"]+)"', page))
    assert "- [`test.roc_auc` by seed](#testroc_auc-by-seed)" in text
    assert "(#metrics-mean--standard-deviation)" in text  # as GitHub makes it
    assert '<h3 id="part">' in page


def test_a_sign_stays_beside_its_number_where_cells_wrap() -> None:
    page = to_html([Table(("a", "b"), [("x", "0.1 ± 0.2")])], "t")
    assert "0.1 ±\u00a00.2" in page
    assert "@media (max-width: 40rem)" in page


def comparisons():
    rng = np.random.default_rng(0)
    base = {seed: 0.8 + 0.002 * rng.standard_normal() for seed in range(8)}
    moved = {"far": -0.2, "ahead": 0.1, "same": 0.0, "late": -0.3}
    values = {"base": base} | {
        arm: {seed: value + shift + 0.002 * rng.standard_normal() for seed, value in base.items()}
        for arm, shift in moved.items()
    }
    values["few"] = {0: 0.5, 1: 0.6}
    return compare_arms(
        values,
        baseline="base",
        metric="test.f1",
        seeds=tuple(range(8)),
        design=Design("fixed split", 0.0),
        unconverged={"late": range(5)},
    )


def test_verdicts_are_told_in_one_line_and_missing_ones_explained_once() -> None:
    found = comparisons()
    line = verdict_line(found)
    assert line == (
        "better: ahead; equivalent: same; worse: far; no verdict: late (not converged); few (too few seeds)"
    )
    assert verdict_line([c for c in found if c.arm != "ahead"]).startswith("none is better; ")
    many = [dataclasses.replace(found[0], arm=f"arm-{i}", verdict="worse") for i in range(9)]
    assert verdict_line(many) == "none is better; worse: all 9"
    late, few = no_verdicts([*found, *found])  # two metrics say it once
    assert "late (5 of 8 runs)" in late
    assert few.startswith("**No verdict, too few seeds**: few: ")


def test_warnings_on_several_arms_are_one() -> None:
    said = ["a: late.", "b: odd.", "the maps: synthetic.", "c: late."]
    assert merged(said, ("a", "b", "c")) == ["a, c: late.", "b: odd.", "the maps: synthetic."]


# Figures of heads and classes


def test_learning_curves_of_a_run_are_all_there() -> None:
    config = with_options(RunConfig(), {"head.name": "linear", "training.epochs": 2, "training.max_doublings": 0})
    run = train(config, feature_set(k=2), 0, from_source=True)
    assert repr(run).startswith("RunResult(linear, seed=0, epochs_run=2, test.roc_auc=0.")
    assert "\n" not in repr(run)
    assert len(repr(run)) < 120
    figure = figures.training_curves({"linear": [run]})
    assert [axis.get_ylabel() for axis in figure.axes] == ["Training loss", "Validation loss", "Validation ROC-AUC"]
    for axis in figure.axes:
        assert np.isfinite(axis.lines[0].get_ydata()).all()


@pytest.mark.parametrize("k", [1, 2, 8, 38])
def test_a_metric_of_each_class_names_its_heads_and_shows_both_spreads(k) -> None:
    rng = np.random.default_rng(0)
    values = {head: rng.uniform(0.3, 0.9, (5, k)) for head in HEADS}
    intervals = {head: (np.full(k, 0.2), np.full(k, 0.95)) for head in HEADS[:5]}
    values[HEADS[3]][:, 0] = np.nan
    figure = figures.class_values(values, names(k), intervals=intervals, reference=HEADS[0])
    assert figures.text_problems(figure) == []
    assert figure.get_size_inches()[1] <= 10
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == HEADS
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots[1].get_xdata(), [values[HEADS[1]][:, 0].mean()])
    assert "undefined" in [text.get_text() for text in axis.texts]
    ends = {tuple(segment[:, 0]) for lines in axis.collections for segment in lines.get_segments()}
    assert (0.2, 0.95) in ends
    assert (values[HEADS[1]][:, 0].min(), values[HEADS[1]][:, 0].max()) in ends
    with pytest.raises(InputError, match="numbers per head"):
        figures.class_values({"a": np.zeros(k + 1)}, names(k))


def test_the_trade_off_names_its_points_and_needs_no_legend() -> None:
    rng = np.random.default_rng(1)
    points = [
        figures.TradeOffPoint(head, int(10 ** rng.uniform(2, 5)), y := rng.uniform(0.4, 0.9), (y - 0.05, y + 0.04))
        for head in HEADS
    ]
    figure = figures.trade_off(points)
    (axis,) = figure.axes
    assert not figure.legends
    assert sorted(text.get_text() for text in axis.texts) == sorted(HEADS)
    assert figures.text_problems(figure) == []
    places = {point.name: axis.transData.transform((point.n_parameters, point.value)) for point in points}
    for text in axis.texts:  # a name without a line stands beside its own point, and nearer to no other
        if text.arrow_patch is None:
            box = text.get_window_extent()
            gaps = {
                name: np.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
                for name, (x, y) in places.items()
            }
            assert min(gaps, key=gaps.get) == text.get_text()
    assert len({line.get_color() for line in axis.lines}) == len(HEADS)


@pytest.mark.parametrize("kind", ["roc", "precision_recall"])
@pytest.mark.parametrize("k", [1, 8, 38])
def test_all_heads_stand_in_one_panel_per_label(kind, k) -> None:
    labels = scores_and_labels(k)[1]
    rng = np.random.default_rng(2)
    scores = {head: rng.normal(size=labels.shape) + i / 3 * labels for i, head in enumerate(HEADS)}
    figure = figures.label_curves(scores, labels, names(k), kind)
    assert figures.text_problems(figure) == []
    assert len(figure.axes) == k
    assert [text.get_text() for text in figure.legends[0].get_texts()] == HEADS
    axis = figure.axes[-1]
    assert axis.get_title().endswith(f"({labels[:, -1].sum()})")
    for line, own in zip(axis.lines, scores.values(), strict=False):
        x, y = line.get_xdata(), line.get_ydata()
        if kind == "roc":
            assert np.trapezoid(y, x) == pytest.approx(sk.roc_auc_score(labels[:, -1], own[:, -1]))
        else:
            area = np.sum(np.diff(x) * y[1:])
            assert area == pytest.approx(sk.average_precision_score(labels[:, -1], own[:, -1]))


def test_labels_without_a_curve_say_so_and_heads_may_have_examples_of_their_own() -> None:
    scores, labels = scores_and_labels(3, n=60)
    labels[:, 0] = 0
    both = {"a": scores, "b": np.where(np.arange(60)[:, None] == 3, np.nan, scores)}
    figure = figures.label_curves(both, {"a": labels, "b": labels}, names(3), "roc")
    assert [text.get_text() for text in figure.axes[0].texts] == ["undefined"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a"]
    with pytest.raises(InputError, match="`kind` must be one of"):
        figures.label_curves(both, labels, names(3), "pr")


def test_reliability_shows_the_examples_and_the_interval_of_every_bin() -> None:
    logits, labels = scores_and_labels(2)
    (curve, _) = reliability_curve(sigmoid(logits), labels == 1)
    low, high = curve.interval()
    for n, observed, ends in zip(curve.count, curve.observed, zip(low, high, strict=True), strict=True):
        if n:
            wilson = stats.binomtest(round(n * observed), n).proportion_ci(method="wilson")
            np.testing.assert_allclose(ends, (wilson.low, wilson.high), atol=1e-12)
        else:
            assert np.isnan(ends).all()
    figure = figures.reliability_diagrams(sigmoid(logits), labels, names(2), calibrated=sigmoid(logits / 2))
    upper, _, lower, _ = figure.axes
    (stairs,) = (patch for patch in lower.patches if patch.get_fill())
    np.testing.assert_array_equal(np.nan_to_num(stairs.get_data().values), curve.count)
    kept = np.asarray(curve.count) > 0
    segments = np.array([segment[:, 1] for segment in upper.collections[0].get_segments()])
    np.testing.assert_allclose(segments, np.stack([low[kept], high[kept]], axis=1))
    assert figures.text_problems(figure) == []


def test_intervals_of_classes_are_those_of_one_class_alone() -> None:
    logits, labels = scores_and_labels(3, n=80)
    found = bca_class_metric(logits, labels, metric="average_precision", n_resamples=200)
    for k, interval in enumerate(found):
        column = slice(k, k + 1)
        alone = bca_metrics(logits[:, column], labels[:, column], metrics=["average_precision"], n_resamples=200)
        assert interval == alone["average_precision"]
    classes = labels.argmax(axis=1)
    exclusive = bca_class_metric(logits, classes, metric="roc_auc", exclusive=True, n_resamples=50)
    assert np.mean([i.estimate for i in exclusive]) == pytest.approx(
        bca_metrics(logits, classes, metrics=["roc_auc"], exclusive=True, n_resamples=50)["roc_auc"].estimate
    )
    with pytest.raises(InputError, match="`metric` must be one of"):
        bca_class_metric(logits, labels, metric="f1")


def test_captions_of_errors_say_what_is_wrong_and_hide_nothing() -> None:
    width = style.PAGE / 5 - 0.1
    assert _caption(["Loc"], ["Scratch"], 9) == "true: Loc\npredicted: Scratch"
    assert _caption(["Loc"], [], 9) == "true: Loc\npredicted: no defect"
    assert _caption(["Loc", "Donut"], ["Loc"], 9) == "true: Loc, Donut\nmissed: Donut"
    for true in itertools.combinations(PATTERNS, 4):
        assert "…" not in _caption(true, [name for name in PATTERNS if name not in true[1:]], width)


# Figures of probes and benchmarks


def drawn(figure):
    return np.concatenate(
        [np.atleast_1d(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "o"]
    )


def test_zeros_of_a_spectrum_are_counted_and_not_drawn() -> None:
    eigenvalues = [0.5, 0.1, 0.02, 1e-12, 0.0, 0.0]
    figure = probes.fisher_figure({"fisher_eigenvalues": eigenvalues, "effective_dimension": 2.5})
    np.testing.assert_allclose(drawn(figure), eigenvalues[:3])
    assert "3 of 6 are zero" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_ylim()[0] > 1e-3
    assert figures.text_problems(figure) == []
    figure = probes.singular_figure({"singular_values": [4.0, 1.0, 1e-7]})
    np.testing.assert_allclose(drawn(figure), [1, 0.25])
    assert "1 of 3 are zero" in figure.axes[0].get_xlabel()
    assert figures.text_problems(probes.singular_figure({"singular_values": [0.0, 0.0]})) == []
    coefficients = {"largest_coefficients": [[0.1, 0.2, 1e-8], [0.1, 0.02, 2e-8]], "accessible": 1, "zero": 1e-5}
    figure = probes.spectrum_figure(coefficients)
    assert np.nanmin(drawn(figure)) == 0.02
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"]
    assert figures.text_problems(figure) == []


@pytest.mark.parametrize("init_scale", [None, 0.1])
def test_the_plateau_shows_what_its_headline_says(init_scale) -> None:
    spec = CircuitSpec(n_qubits=3, n_layers=2, n_outputs=1, readout="mean_z")
    sizes = (2, 3, 4)
    report = trainability(spec, qubits=sizes, n_samples=40, init_scale=init_scale)
    numbers = report.numbers
    weights = "uniform" if init_scale is None else "initial"
    figure = probes.plateau_figure(numbers)
    points, line, _, _, design = figure.axes[0].lines
    fit = numbers["decay"][f"local, {weights} weights, per wire"]
    slope = -np.polyfit(sizes, np.log2(points.get_ydata()), 1)[0]
    assert slope == pytest.approx(fit["rate"])  # of the dots themselves
    assert -np.diff(np.log2(line.get_ydata())) == pytest.approx(fit["rate"])
    said = f"{fit['rate']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
    assert f"local cost {said}" in report.headline
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said in texts[0]
    np.testing.assert_allclose(design.get_ydata(), [n * two_design_variance(n) for n in sizes])
    assert figures.text_problems(figure) == []


def test_a_circuit_of_ones_own_has_one_size_and_no_figure_of_a_plateau(tmp_path) -> None:
    subject = function_subject(lambda weights, inputs: weights["w"] * inputs[0], {"w": np.ones(1)}, 1)
    report = own_trainability(subject, n_points=2)
    assert probes.draw_reports([report], tmp_path) == []


def test_a_merged_line_names_every_arm() -> None:
    fine = Report("p", "?", "pass", "fine")
    other = dataclasses.replace(fine, headline="rank 3 of 9")
    assert merge({"a": fine, "b": other, "c": fine}).headline == "a, c: fine; b: rank 3 of 9"
    assert merge({"a": fine, "b": fine}).headline == "fine"


def test_the_figure_of_the_engines_is_in_the_house_style(tmp_path) -> None:
    from matplotlib.image import imread

    draw = runpy.run_path(str(ROOT / "benchmarks" / "_engines_figure.py"))["draw"]
    document = json.loads((ROOT / "benchmarks" / "results" / "engines.json").read_text())
    draw(document, tmp_path / "engines.png")
    assert imread(tmp_path / "engines.png").shape[1] == round(style.PAGE * style.DPI)
    assert (tmp_path / "engines.pdf").is_file()


# Messages


@pytest.mark.parametrize("option", ["circuit.n_qubits", "circuit.n_layers"])
def test_a_message_names_the_section_of_its_option(option) -> None:
    with pytest.raises(InputError, match=f"`{option}` must be at least"):
        with_options(RunConfig(), {option: -1})
