"""`python -m qwafer.bench` from nothing to its report, resumed, and refused."""

import html
import os
import re

import numpy as np
import pytest
from sklearn import metrics as sk

from qwafer._records import load_record, to_json
from qwafer.bench import main
from qwafer.comparison.differences import Differences
from qwafer.comparison.record import HeadRecord
from qwafer.data import read_maps
from qwafer.features import FeatureSet
from qwafer.reports.figures import Drawn
from qwafer.reports.figures.style import text_width
from qwafer.studies import verify
from qwafer.training import Predictor

TOML = """
title = "Two heads"
description = "A small one."
seeds = 2
metric = "test.f1_tuned"
baseline = "linear"
[data]
n_maps = 300
[training]
epochs = 2
max_doublings = 0
batch_size = 32
learning_rate = 1e-2
[arms.quantum]
engine = "xla"
circuit.n_qubits = 2
circuit.n_layers = 1
circuit.readout = "z_vec"
[arms.linear]
head = "linear"
"""
HEADS = ("quantum", "linear", "tree")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    (folder / "two.toml").write_text(TOML)
    return folder


def arguments(work, *more):
    heads = ",".join(HEADS)
    return [
        str(work / "two.toml"),
        "--maps",
        "synthetic",
        "--descriptive",
        "--heads",
        heads,
        "--out",
        str(work / "out"),
        "--quiet",
        *more,
    ]


@pytest.fixture(scope="module")
def done(work):
    """A whole benchmark; its output directory."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GIT_DIR", os.devnull)  # other hands may commit while this runs
        assert main(arguments(work)) == 0
    return work / "out"


def record(done, head):
    return load_record(HeadRecord, done / f"bench_{head}.json")


def stored(done, head, seed):
    with np.load(done / f"sweep/runs/{head}/seed-{seed}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("head", HEADS)
def test_reported_metrics_are_those_of_scikit_learn_on_the_stored_logits(done, head):
    found = record(done, head)
    for seed in (0, 1):
        run, outputs = found.runs[seed], stored(done, head, seed)
        logits, labels = outputs["test_logits"].astype(np.float64), outputs["test_labels"]
        limits = np.asarray(run.thresholds["f1"].thresholds.values)
        for k in range(labels.shape[1]):
            y, per_class = labels[:, k], {name: values[k] for name, values in run.test.per_class.items()}
            if not y.any():
                assert np.isnan(per_class["roc_auc"])
                continue
            decided = logits[:, k] > limits[k]
            assert per_class["roc_auc"] == pytest.approx(sk.roc_auc_score(y, logits[:, k]), abs=1e-12)
            assert per_class["average_precision"] == pytest.approx(
                sk.average_precision_score(y, logits[:, k]), abs=1e-12
            )
            assert per_class["brier"] == pytest.approx(
                sk.brier_score_loss(y, 1 / (1 + np.exp(-logits[:, k]))), abs=1e-12
            )
            assert per_class["f1_tuned"] == pytest.approx(sk.f1_score(y, decided, zero_division=0), abs=1e-12)
        decisions = logits > limits[None, :]
        assert run.test.macro["exact_match_tuned"] == pytest.approx(sk.accuracy_score(labels, decisions))
        assert run.intervals["f1"].estimate == pytest.approx(run.test.macro["f1_tuned"])
        assert run.thresholds["f1"].f1 == run.test.macro["f1_tuned"]
    values = [found.runs[seed].test.macro["roc_auc"] for seed in (0, 1)]
    assert found.test["roc_auc"].mean == pytest.approx(np.mean(values))
    assert found.test["roc_auc"].sd == pytest.approx(np.std(values, ddof=1))


def test_heads_share_the_examples_and_differ_by_what_they_say(done):
    logits = [stored(done, head, 0) for head in HEADS]
    for other in logits[1:]:
        np.testing.assert_array_equal(logits[0]["test_rows"], other["test_rows"])
        np.testing.assert_array_equal(logits[0]["test_labels"], other["test_labels"])
    differences = load_record(Differences, done / "differences.json")
    assert [c.arm for c in differences.seeds["f1_tuned"]] == ["quantum", "tree"]
    for head in ("quantum", "tree"):
        for seed in (0, 1):
            ours, base = (record(done, name).runs[seed].test.macro["f1_tuned"] for name in (head, "linear"))
            assert differences.examples[head][seed]["f1"].estimate == pytest.approx(ours - base)


def test_every_head_is_timed_and_weighed(done):
    for head in HEADS:
        found = record(done, head)
        inference = found.inference
        for latency in (inference.one, inference.batch):
            assert latency.repetitions >= 10
            assert 0 < latency.p50 <= latency.p90 <= latency.p99
        assert inference.test.examples == found.first.test.n_examples
        assert inference.memory.process > 2**24
        assert found.first.memory.process > 2**24
    n_features = record(done, "linear").source.n_features
    assert record(done, "linear").parameters.trainable == 8 * (n_features + 1)
    # projection, two layers' worth of angles for one layer, one weight per label and wire, biases, alpha
    assert record(done, "quantum").parameters.trainable == 2 * (n_features + 1) + 2 * 3 + 8 * 2 + 8 + 1


def test_stored_predictors_give_the_stored_logits(done):
    features = FeatureSet.load(next((done / "features").glob("*spatial.npz")))
    outputs = stored(done, "quantum", 1)
    predictor = Predictor.load(done / "sweep/runs/quantum/seed-1.head.npz")
    np.testing.assert_array_equal(predictor.logits(features.features[outputs["test_rows"]]), outputs["test_logits"])


def test_the_report_says_it_all_and_needs_nothing_else(done):
    page, text = (done / "report.html").read_text(), (done / "report.md").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)|<script|url\(', page)
    for word in (
        "macro F1, tuned thresholds",
        "latency of one example",
        "Against the baseline linear",
        "Youden",
        "temperature",
        "Two heads",
        "spatial",
    ):
        assert word in page
        assert word in text
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    kinds = {"confusion", "reliability", "errors"}
    assert {f"figures/{kind}_{head}.png" for kind in kinds for head in HEADS} <= set(images)
    shared = {"roc", "precision_recall", "average_precision", "trade_off", "learning"}
    assert {f"figures/{name}.png" for name in shared} <= set(images)
    for image in images:
        assert (done / image).is_file()
        assert (done / image).with_suffix(".pdf").is_file()
    assert page.count("data:image/png;base64,") == len(images)


def test_every_table_fits_a_phone_and_has_a_head_per_row(done):
    """At 375 CSS pixels: no word of a cell is wider than its column may be, in a font wider than those of phones."""
    page = (done / "report.html").read_text()
    tables = re.findall(r"<table>(.*?)</table>", page, re.DOTALL)
    assert len(tables) >= 10
    for table in tables:
        rows = [
            re.findall(r"<t[hd]( class=\"text\")?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)
        ]
        assert rows[0][0][1] in ("head", "class (positives)")
        width = 0.0
        for cells in zip(*rows, strict=True):
            words = [word for _, cell in cells for word in re.split(r"(?<=-)|[ /]", html.unescape(cell))]
            breakable = bool(cells[0][0])  # text breaks anywhere, down to 3.2 rem
            width += 6 + (51.2 if breakable else 11 * 72 * max(text_width(word, 1.0) for word in words))
        assert width <= 375 - 2 * 12, rows[0]


def test_error_maps_are_the_maps_of_the_test_examples(done):
    from qwafer.experiment import load_experiment
    from qwafer.studies.benchmark import _test_maps
    from qwafer.sweeps import OutputDirectory
    from qwafer.sweeps.resolved import resolve

    experiment = load_experiment(done.parent / "two.toml")
    resolved = resolve(experiment, done / "features")
    directory = OutputDirectory(done / "sweep")
    run = directory.read(resolved.experiment).results["linear"][0]
    maps = _test_maps(resolved, "linear", run)
    every = read_maps("synthetic", n=300, seed=0)
    for row in (0, 7, 30):
        np.testing.assert_array_equal(maps[row], every.maps[run.rows["test"][row]])
        np.testing.assert_array_equal(every.labels[run.rows["test"][row]], run.labels["test"][row])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--heads", "quantum,mpl"], "no head `mpl`"),
        (["--heads", "tree"], "at least two"),
        (["--costs", "1,2"], "four numbers"),
        (["--costs", "a,b,c,d"], "four numbers"),
        (["--jobs", "0"], "--jobs"),
        (["--weights", "w.pth"], "has no weights"),
        (["--set", "training.epoch=3"], "training.epochs"),
        (["--maps", "absent.npz"], "absent.npz"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(work, tmp_path, capsys, more, message):
    out = tmp_path / "out"
    assert main([str(work / "two.toml"), "--out", str(out), "--quiet", "--descriptive", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_options_of_maps_are_refused_with_features(done, work, capsys):
    features = str(next((done / "features").glob("*.npz")))
    for option in (["--backbone", "spatial"], ["--weights", "w"], ["--random-weights", "1"]):
        assert main([str(work / "two.toml"), "--features", features, *option, "--quiet"]) == 2
        assert "belongs to --maps" in capsys.readouterr().err
    assert main([str(work / "two.toml"), "--maps", features, "--quiet", "--descriptive"]) == 2
    assert "give it as --features" in capsys.readouterr().err


def without_figures(done, monkeypatch):
    """Figures take most of the time, and are drawn anew by every call."""
    monkeypatch.setenv("GIT_DIR", os.devnull)
    figure = Drawn(done / "figures" / "trade_off.png", "")
    shared = {"trade_off": figure, "average_precision": figure}
    monkeypatch.setattr("qwafer.studies.benchmark.draw_head", lambda *_: {})
    monkeypatch.setattr("qwafer.studies.benchmark.draw_shared", lambda *_: shared)
    monkeypatch.setattr("qwafer.reports.ablation.write_figures", lambda *_: [])


def test_a_second_call_trains_and_times_nothing(done, work, monkeypatch):
    without_figures(done, monkeypatch)
    kept = [path for path in done.rglob("*.json") if "runs" in path.parts or "timing" in path.parts]
    before = {path: path.stat().st_mtime_ns for path in kept}
    records = {head: record(done, head) for head in HEADS}
    assert len(kept) == 3 * 2 + 3
    assert main(arguments(work)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    for head in HEADS:
        assert to_json(record(done, head)) == to_json(records[head])


def test_damaged_runs_heads_and_timings_are_set_aside_and_made_again(done, work, monkeypatch):
    without_figures(done, monkeypatch)
    (done / "sweep/runs/quantum/seed-0.head.npz").write_bytes(b"")
    logits = done / "sweep/runs/linear/seed-1.npz"
    before = stored(done, "linear", 1)
    logits.write_bytes(logits.read_bytes()[:-30])
    timing = next(path for path in (done / "timing").iterdir() if path.name.startswith("linear-"))
    timing.write_text(timing.read_text()[:-30])
    record = done / "sweep/experiment.json"
    record.write_text(record.read_text()[:-30])
    assert len(verify(done).damaged) >= 4
    with pytest.warns(UserWarning, match="set aside") as said:
        assert main(arguments(work)) == 0
    text = " ".join(str(warning.message) for warning in said)
    assert all(name in text for name in ("seed-0.json", "seed-1.json", timing.name, "experiment.json"))
    assert not verify(done).damaged
    np.testing.assert_equal(stored(done, "linear", 1), before)


@pytest.mark.slow
def test_a_backbone_that_is_trained_first_gives_its_split_to_all_features(tmp_path):
    from qwafer.experiment import load_experiment
    from qwafer.sweeps.resolved import resolve

    (tmp_path / "arms.toml").write_text(
        '[data]\nn_maps = 120\nbackbone = "wafercnn"\n[arms.cnn]\nhead = "linear"\n'
        '[arms.spatial]\nhead = "linear"\ndata.backbone = "spatial"\n'
    )
    stages = []
    experiment = load_experiment(tmp_path / "arms.toml", heads=["cnn", "spatial", "tree"])
    resolved = resolve(
        experiment,
        tmp_path / "features",
        progress=lambda state: stages.append(f"{state.stage} {state.text}"),
    )
    assert list(dict.fromkeys(stages)) == ["training wafercnn", "features wafercnn", "features spatial"]
    cnn, spatial = (FeatureSet.load(resolved.files[head]) for head in ("cnn", "spatial"))
    assert (cnn.features.shape[1], spatial.features.shape[1]) == (128, 88)
    np.testing.assert_array_equal(cnn.split, spatial.split)
    assert set(cnn.split) == {"train", "val", "test"}
    assert resolved.files["tree"] == resolved.files["spatial"]
    assert resolved.experiment.arms["cnn"].data.source == str(resolved.files["cnn"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    resolve(experiment, tmp_path / "features")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == before
