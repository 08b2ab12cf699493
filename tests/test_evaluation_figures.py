"""Every figure at 1, 8 and 38 classes: no text leaves it or overlaps; files are the same bytes each time."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

from qwafer import InputError
from qwafer.evaluation.metrics import sigmoid
from qwafer.reports import figures
from qwafer.reports.figures import curves, style

PATTERNS = ["Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Scratch", "Random"]
MIXED = ["+".join(names) for size in (2, 3, 4) for names in itertools.combinations(PATTERNS, size)]
HEADS = ["quantum", "mlp", "linear", "decision tree", "quantum, fixed projection", "quantum, 8 wires, re-uploading"]
SIZES = (1, 8, 38)


def names(k: int) -> list[str]:
    return ["defect or none"] if k == 1 else [*PATTERNS, *MIXED[-k:]][:k]


def data(k: int, n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    labels = rng.random((n, k)) < 0.2
    return rng.normal(size=(n, k)) + 2 * labels - 1, labels.astype(np.uint8)


def draw(kind: str, k: int):
    logits, labels = data(k)
    classes = np.random.default_rng(0).integers(0, k, 20_000)
    predicted = np.where(np.random.default_rng(1).random(20_000) < 0.8, classes, classes[::-1])
    scores = np.linspace(0.2, 1, k)
    if kind == "roc":
        return figures.label_curves({"quantum": logits, "mlp": -logits}, labels, names(k), "roc")
    if kind == "label confusion":
        tiled = np.tile(labels, (30, 1))  # counts of five digits
        return figures.label_confusion(np.tile(logits > 0, (30, 1)), tiled, names(k), degenerate=[True] * k)
    if kind == "class confusion":
        return figures.class_confusion(predicted, classes, names(k))
    if kind == "reliability":
        return figures.reliability_diagrams(sigmoid(logits), labels, names(k))
    if kind == "calibrated":
        return figures.reliability_diagrams(sigmoid(3 * logits), labels, names(k), calibrated=sigmoid(logits))
    if kind == "bars":
        return figures.class_values({"quantum": np.where(np.arange(k) == 1, np.nan, scores)}, names(k))
    interval = {"mlp": (scores - 0.1, np.minimum(scores + 0.1, 1))}
    return figures.class_values(dict.fromkeys(HEADS, scores), names(k), xlabel="F1", intervals=interval)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize(
    "kind", ["roc", "label confusion", "class confusion", "reliability", "calibrated", "bars", "grouped bars"]
)
def test_class_figures_are_legible(kind, k):
    figure = draw(kind, k)
    assert figures.text_problems(figure) == []
    width, height = figure.get_size_inches()
    assert width in (style.COLUMN, style.PAGE)
    assert height <= 10


@pytest.mark.parametrize("heads", [1, 6])
def test_learning_curves_are_legible(heads):
    steps = np.arange(1, 31)
    rng = np.random.default_rng(0)
    panels = {
        "Training loss": {head: rng.random((8, 30)) for head in HEADS[:heads]},
        "Validation ROC-AUC": {head: rng.random(30) for head in HEADS[:heads]},
        "Gradient norm": {head: np.where(steps > 20, np.nan, rng.random(30)) for head in HEADS[:heads]},
    }
    figure = figures.learning_curves(steps, panels, best={HEADS[0]: 12})
    assert figures.text_problems(figure) == []
    top = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(top, panels["Training loss"][HEADS[0]].mean(axis=0))
    with pytest.raises(InputError, match="T = 30"):
        figures.learning_curves(steps, {"Loss": {"mlp": np.zeros(29)}})


@pytest.mark.parametrize("k", [2, 9, 12])
def test_counts_of_a_confusion_matrix_fit_their_cells(k):
    figure = draw("class confusion", k)
    assert figures.text_problems(figure) == []
    axis = figure.axes[0]
    cell = abs(axis.transData.transform((1, 0))[0] - axis.transData.transform((0, 0))[0])
    assert max(text.get_window_extent().width for text in axis.texts) < cell
    assert min(text.get_fontsize() for text in axis.texts) >= 5


def test_the_mark_of_a_degenerate_label_survives_a_long_name():
    logits, labels = data(8)
    figure = figures.label_confusion(logits > 0, labels, ["x" * 99] * 8, degenerate=[True] + [False] * 7)
    assert [axis.get_title().endswith("†") for axis in figure.axes] == [True] + [False] * 7


def test_learning_curves_of_one_evaluation_and_of_nothing_finite_raise_nothing():
    figures.text_problems(figures.learning_curves([1], {"Loss": {"mlp": [0.5]}}))
    figures.text_problems(figures.learning_curves([1, 2], {"Loss": {"mlp": np.full((3, 2), np.nan)}}))


@pytest.mark.parametrize("n", [1, 3, 20])
def test_the_trade_off_is_legible(n):
    points = [figures.TradeOffPoint(f"quantum, {i} wires", 10 * 3**i, 0.5 + i / 50, (0.48, 0.9)) for i in range(n)]
    points[0] = figures.TradeOffPoint("no interval", 4164, 0.6)
    figure = figures.trade_off(points)
    assert figures.text_problems(figure) == []
    assert len([tick for tick in figure.axes[0].xaxis._update_ticks() if tick.label1.get_text()]) >= 2
    with pytest.raises(InputError, match="points"):
        figures.trade_off([])


@pytest.mark.parametrize("n", [0, 1, 9])
def test_error_maps_are_legible(n):
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (26 + i, 40 - i)).astype(np.uint8) for i in range(n)]
    figure = figures.error_maps(maps, [PATTERNS[:i] for i in range(n)], [PATTERNS[i:] for i in range(n)])
    assert figures.text_problems(figure) == []


def test_worst_examples_are_wrong_and_ordered_by_how_wrong():
    logits = np.array([[5.0, -1], [-3, 1], [1, 1], [-1, -9], [np.nan, 1]])
    labels = np.array([[1, 0], [1, 1], [0, 1], [1, 1], [1, 1]])
    assert figures.worst_examples(logits, labels, 9).tolist() == [4, 3, 1, 2]
    assert figures.worst_examples(logits, labels, 1).tolist() == [4]
    assert figures.worst_examples(logits[:1], labels[:1]).tolist() == []
    assert figures.worst_examples(logits[:2], labels[:2], thresholds=[-4, 0]).tolist() == []
    exclusive = figures.worst_examples(np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 9]]), [0, 2, 0], exclusive=True)
    assert exclusive.tolist() == [2, 1]


@pytest.mark.parametrize("kind", ["roc", "reliability", "label confusion", "calibrated"])
def test_degenerate_data_raise_nothing_and_are_legible(kind):
    logits, labels = data(8, n=50)
    labels[:, 0], labels[:, 1], logits[:, 2] = 0, 1, 1.0
    logits[:3, 3] = np.nan
    if kind == "roc":
        figure = figures.label_curves({"mlp": logits}, labels, PATTERNS, "roc")
        undefined = [axis.get_title() for axis in figure.axes if [t.get_text() for t in axis.texts] == ["undefined"]]
        assert [title.split(" (")[0] for title in undefined] == ["Center", "Donut", "Edge-Ring"]
        nothing = figures.label_curves({"mlp": logits[:, :2]}, labels[:, :2], PATTERNS[:2], "precision_recall")
        assert figures.text_problems(nothing) == []
    elif kind == "label confusion":
        figure = figures.label_confusion(logits > 0, labels, PATTERNS)
    else:
        calibrated = sigmoid(logits) if kind == "calibrated" else None
        figure = figures.reliability_diagrams(sigmoid(logits), labels, PATTERNS, calibrated=calibrated)
    assert figures.text_problems(figure) == []


@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_scikit_learn(ties):
    logits, labels = data(1, n=200)
    scores, truth = (np.round(logits[:, 0]) if ties else logits[:, 0]), labels[:, 0] == 1
    fpr, tpr, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(curves.roc_points(scores, truth), (fpr, tpr), rtol=0, atol=1e-12)
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    own_recall, own_precision = curves.precision_recall_points(scores, truth)
    np.testing.assert_allclose(own_recall, recall[::-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(own_precision[1:], precision[::-1][1:], rtol=0, atol=1e-12)


def test_problems_of_text_are_found():
    with figures.house_style():
        figure = figures.new_figure(3.4, 2.0)
        figure.text(0.5, 0.5, "one")
        figure.text(0.52, 0.5, "two")
        figure.text(0.98, 0.9, "beyond the edge")
    assert figures.text_problems(figure) == ["'beyond the edge' leaves the figure", "'one' overlaps 'two'"]


def test_names_with_markup_and_of_any_length_are_drawn_as_they_are():
    label_names = ["$a_1^", "x" * 90, r"\frac", "one two three four five six seven eight nine ten", "%", "{", "", "~"]
    logits, labels = data(8)
    for figure in (
        figures.label_curves({"$": logits, "y" * 90: logits}, labels, label_names, "precision_recall"),
        figures.label_confusion(logits > 0, labels, label_names),
        figures.reliability_diagrams(sigmoid(logits), labels, label_names),
        figures.class_values({"$": np.linspace(0, 1, 8), "y" * 90: np.ones(8)}, label_names),
        figures.class_confusion(np.arange(8), np.arange(8), label_names),
    ):
        assert figures.text_problems(figure) == []


def test_fitted_text_is_as_wide_as_it_may_be():
    assert style.fit_text("Edge-Ring", 2) == "Edge-Ring"
    width = style.text_width("Center, Edge-Ring", 6)
    assert style.fit_text("Center, Edge-Ring, Scratch", width, 6, lines=2).split("\n") == [
        "Center,",
        "Edge-Ring, Scra…",
    ]
    assert style.fit_text("Center+Edge-Loc", style.text_width("Center+Edge", 6), 6, lines=2) == "Center+\nEdge-Loc"
    for line in style.fit_text("a long name without an end " * 9, 0.8, 6, lines=3).split("\n"):
        assert style.text_width(line, 6) <= 0.8


def test_files_are_whole_the_same_each_time_and_of_the_stated_size(tmp_path):
    from matplotlib.image import imread

    pairs = [figures.save_figure(draw("bars", 8), tmp_path / folder / "figure.png") for folder in ("a", "b")]
    assert [path.name for path in pairs[0]] == ["figure.png", "figure.pdf"]
    for first, second in zip(*pairs, strict=True):
        assert first.read_bytes() == second.read_bytes()
    image = imread(pairs[0][0])
    assert image.shape[1] == round(7.0 * 200)
    assert (image[:3] == 1).all(), "an opaque white margin"
    assert pairs[0][1].read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.rglob(".*")), "no temporary file stays"
    assert [path.name for path in figures.save_figure(draw("bars", 1), tmp_path / "v1.2")] == ["v1.2.png", "v1.2.pdf"]


def test_the_palette_stays_apart_for_colour_blind_eyes_and_lines_differ_beyond_colour():
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in style.PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Machado, Oliveira and Fernandes 2009: deuteranopia and protanopia at full severity.
    views = {
        "normal": np.eye(3),
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    }
    for matrix in views.values():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        for i, j in itertools.combinations(range(len(seen)), 2):
            assert np.linalg.norm(seen[i] - seen[j]) > 0.08, (style.PALETTE[i], style.PALETTE[j])


def test_a_dozen_heads_look_different_and_keep_their_colour_in_every_figure():
    for kind, n in ((style.line_style, 36), (style.marker_style, 144)):
        assert len({tuple(kind(index).items()) for index in range(n)}) == n
    for index in range(36):
        assert style.line_style(index)["color"] == style.marker_style(index)["color"]
    heads = {f"head {index}": np.full(3, index / 12) for index in range(12)}
    lines = figures.learning_curves([1, 2, 3], {"Loss": heads}).axes[0].lines
    assert len({line.get_color() for line in lines}) == 12
    points = figures.trade_off([figures.TradeOffPoint(head, 10, 0.5) for head in heads]).axes[0].lines
    assert len({point.get_color() for point in points}) == 12


@dataclasses.dataclass
class Learnt:
    curves: dict


def test_curves_of_runs_are_aligned_and_a_head_without_any_keeps_its_colour():
    short = Learnt({"epoch": [1, 2], "train_loss": [0.5, None], "val_loss": [1.0, 2.0], "val_roc_auc": [0.5, 0.6]})
    long = Learnt(
        {"epoch": [1, 2, 3], "train_loss": [0.4, 0.3, 0.2], "val_loss": [3, 2, 1], "val_roc_auc": [0.5, 0.6, 0.7]}
    )
    nan = np.nan
    matrix = figures.curve_matrix([short, long], "train_loss", [1, 2, 3])
    np.testing.assert_array_equal(matrix, [[0.5, nan, nan], [0.4, 0.3, 0.2]])
    assert np.isnan(figures.curve_matrix([short, Learnt({})], "grad_norm.bias", [1, 2, 3])).all()
    figure = figures.training_curves({"tree": [Learnt({})], "mlp": [short, long]})
    (line,) = figure.axes[1].lines
    assert line.get_color() == style.line_style(1)["color"]
    np.testing.assert_allclose(line.get_ydata(), [2, 2, 1])
    assert figures.text_problems(figure) == []
    assert figures.training_curves({"tree": [Learnt({}), Learnt({"epoch": []})]}) is None


def test_drawing_leaves_no_trace_in_matplotlib_and_the_import_is_light():
    import matplotlib

    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["font.size"] = 31.0
    try:
        assert figures.text_problems(draw("bars", 8)) == []
        assert matplotlib.rcParams["font.size"] == 31.0
    finally:
        matplotlib.rcParams["font.size"] = before["font.size"]
    assert dict(matplotlib.rcParams) == before
    heavy = "{'matplotlib', 'scipy', 'sklearn', 'pandas', 'jax', 'pennylane'}"
    code = f"import sys, qwafer.reports.figures; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
    code = (
        "import sys, numpy as np; from qwafer.reports import figures;"
        "figures.class_values({'a': np.ones(2)}, 'xy'); print('matplotlib.pyplot' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
