"""Error analysis: closed cases of every finding, planted label errors, what is looked at, and what is refused."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

import qwafer
from qwafer import InputError, Model, RunConfig
from qwafer._records import load_record
from qwafer.cli.errors import main
from qwafer.config import DataConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.evaluation import analyse_errors, defect_density, likely_label_errors
from qwafer.evaluation.errors import ErrorOptions, decisions_of
from qwafer.heads import LinearOptions
from qwafer.reports.errors import ErrorReport
from qwafer.reports.figures import text_problems
from qwafer.reports.figures.errors import doubted_maps, error_overview
from qwafer.studies import study_errors
from qwafer.sweeps.ledger import maps_digest, read_ledger
from tests.factories import training_options

NAMES = ("Center", "Donut", "Loc", "Random")
MAPS = synthetic_maps(240, seed=4)
needs_cleanlab = pytest.mark.skipif(
    importlib.util.find_spec("cleanlab") is None, reason="the extra qwafer[labels] is not installed"
)


def certain(*rows: tuple[float, ...]) -> np.ndarray:
    """Logits whose softmax are these probabilities."""
    return np.log(np.array(rows))


EXCLUSIVE = certain(
    (0.90, 0.05, 0.03, 0.02),  # Center, right
    (0.10, 0.85, 0.03, 0.02),  # Center for Donut, confident
    (0.60, 0.30, 0.05, 0.05),  # Donut for Center
    (0.02, 0.03, 0.05, 0.90),  # Loc for Random, confident
    (0.05, 0.05, 0.10, 0.80),  # Random, right
    (0.55, 0.15, 0.20, 0.10),  # Loc for Center
)
CLASSES = np.array([0, 0, 1, 2, 3, 2])


def test_the_errors_of_exclusive_classes():
    ids = [f"wafer {i}" for i in range(6)]
    found = analyse_errors(EXCLUSIVE, CLASSES, label_names=NAMES, exclusive=True, ids=ids)
    assert (found.errors.n, found.errors.hits, found.confident.hits) == (6, 4, 2)
    ends = binomtest(4, 6).proportion_ci(0.95, method="exact")
    assert (found.errors.low, found.errors.high) == pytest.approx((ends.low, ends.high))
    assert found.confidence.right == pytest.approx((0.90 + 0.80) / 2)
    assert found.confidence.wrong == pytest.approx((0.85 + 0.60 + 0.90 + 0.55) / 4)
    assert (found.confidence.n_right, found.confidence.n_wrong) == (2, 4)
    assert {(pair.true, pair.predicted, pair.n, pair.of) for pair in found.confusions} == {
        ("Center", "Donut", 1, 2),
        ("Donut", "Center", 1, 1),
        ("Loc", "Random", 1, 2),
        ("Loc", "Center", 1, 2),
    }
    assert [(pair.first, pair.second, pair.n, pair.n_wrong) for pair in found.neighbours] == [
        ("Center", "Donut", 2, 4),
        ("Loc", "Random", 1, 4),
    ]
    assert [wrong.id for wrong in found.wrong] == ["wafer 3", "wafer 1", "wafer 5", "wafer 2"]  # p of the truth rises
    assert found.wrong[0].true == ("Loc",)
    assert found.wrong[0].predicted == ("Random",)
    assert found.wrong[0].confidence == pytest.approx(0.9)
    one_hot = np.eye(4, dtype=np.uint8)[CLASSES]
    assert analyse_errors(EXCLUSIVE, one_hot, label_names=NAMES, exclusive=True, ids=ids) == found


def test_the_errors_of_several_labels():
    p = np.array([[0.9, 0.1, 0.2, 0.3], [0.05, 0.9, 0.1, 0.1], [0.7, 0.6, 0.3, 0.4], [0.2, 0.2, 0.1, 0.45]])
    labels = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    found = analyse_errors(np.log(p / (1 - p)), labels, label_names=NAMES, thresholds=[0, 0, 0, -0.3])
    # Map 1 misses Center (0.95) and invents Donut (0.9); map 2 misses Loc (0.7), invents Donut (0.6); map 3 invents
    # Random, which its threshold decides against a probability of 0.45.
    assert (found.errors.hits, found.confident.hits) == (3, 1)
    assert found.confidence.n_wrong == 5
    assert found.confidence.wrong == pytest.approx((0.95 + 0.9 + 0.7 + 0.6 + 0.45) / 5)
    assert {(pair.true, pair.predicted, pair.n, pair.of) for pair in found.confusions} == {
        ("Center", "Donut", 1, 3),
        ("Loc", "Donut", 1, 1),
        ("", "Random", 1, 4),
    }
    assert [pair.n for pair in found.neighbours] == [1, 0]
    assert [wrong.row for wrong in found.wrong] == [1, 2, 3]
    assert found.wrong[1].confidence == pytest.approx(0.7)
    assert found.wrong[2].predicted == ("Random",)
    missed = analyse_errors(np.full((2, 1), -3.0), [[1], [0]], label_names=("Loc",))
    assert [(pair.true, pair.predicted, pair.n, pair.of) for pair in missed.confusions] == [("Loc", "", 1, 1)]


def test_a_map_that_misses_and_invents_several_labels_counts_in_every_pair():
    found = analyse_errors([[-1, -1, 1, 1]], [[1, 1, 0, 0]], label_names=NAMES)
    assert {(pair.true, pair.predicted) for pair in found.confusions} == {
        ("Center", "Loc"),
        ("Center", "Random"),
        ("Donut", "Loc"),
        ("Donut", "Random"),
    }
    assert found.errors.hits == 1


def test_errors_by_defect_density():
    logits = np.array([[1.0]] * 8)
    labels = np.array([[0], [1], [1], [1], [0], [0], [1], [0]])
    density = np.array([0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    options = ErrorOptions(bins=2, level=0.9)
    found = analyse_errors(logits, labels, label_names=("Loc",), density=density, options=options)
    low, high = found.density
    assert (low.low, low.high, low.errors.n, low.errors.hits) == (0.1, 0.25, 4, 1)
    assert (high.low, high.high, high.errors.n, high.errors.hits) == (0.25, 0.9, 4, 3)
    for part in found.density:
        ends = binomtest(part.errors.hits, part.errors.n).proportion_ci(0.9, method="exact")
        assert (part.errors.low, part.errors.high) == pytest.approx((ends.low, ends.high))
    alike = analyse_errors(logits, labels, label_names=("Loc",), density=np.full(8, 0.3), options=options)
    assert [(part.errors.n, part.errors.hits) for part in alike.density] == [(8, 4)]
    tied = analyse_errors(logits, labels, label_names=("Loc",), density=np.repeat([0.1, 0.7], [6, 2]))
    assert sum(part.errors.n for part in tied.density) == 8
    assert 6 in [part.errors.n for part in tied.density]  # equal densities are never parted


def test_defect_density_counts_dies_alone():
    disc = np.array([[0, 1, 0], [2, 1, 2], [0, 1, 0]], np.uint8)
    found = defect_density([disc, np.zeros((2, 2), np.uint8), np.array([[0, 2], [2, 0]], np.uint8)])
    assert found.tolist() == [2 / 5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confident": 1.0}, "`confident` must lie in"),
        ({"bins": 0}, "`bins` must be at least 1"),
        ({"level": 1.0}, "`level` must lie in"),
        ({"neighbours": (("Loc", "Loc"),)}, "pairs of different labels"),
        ({"neighbours": (("Loc", "Scratch"),)}, "got Scratch"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        analyse_errors(EXCLUSIVE, CLASSES, label_names=NAMES, exclusive=True, options=ErrorOptions(**options))


def test_densities_and_thresholds_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="shares of failing dies"):
        analyse_errors(EXCLUSIVE, CLASSES, label_names=NAMES, exclusive=True, density=[0, 1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="no effect on exclusive classes"):
        analyse_errors(EXCLUSIVE, CLASSES, label_names=NAMES, exclusive=True, thresholds=[0, 0, 0, 0])


def planted(n: int = 800, k: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that know the classes, labels of which one in twenty is another class, and which ones these are."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, k, n)
    logits = 3 * np.eye(k)[classes] + rng.standard_normal((n, k))
    flipped = rng.permutation(n) < n // 20
    given = np.where(flipped, (classes + rng.integers(1, k, n)) % k, classes)
    return logits, given, flipped


def score(flagged: np.ndarray, flipped: np.ndarray) -> tuple[float, float]:
    hits = (flagged & flipped).sum()
    return hits / flagged.sum(), hits / flipped.sum()


@needs_cleanlab
def test_planted_label_errors_are_found():
    """One in twenty labels is another class; the classes overlap (the logits are right on nine in ten maps)."""
    logits, given, flipped = planted()
    found = likely_label_errors(logits, given, label_names=NAMES, exclusive=True)
    flagged = np.isin(np.arange(len(given)), [suspect.row for suspect in found.suspects])
    precision, recall = score(flagged, flipped)
    assert precision > 0.4
    assert recall > 0.7
    right = [NAMES[logits[suspect.row].argmax()] for suspect in found.suspects]
    assert [suspect.suggested for suspect in found.suspects] == [(name,) for name in right]
    quality = [suspect.quality for suspect in found.suspects]
    assert quality == sorted(quality)
    first = score(np.isin(np.arange(len(given)), [s.row for s in found.suspects[:20]]), flipped)
    assert first[0] > 0.8  # the most suspicious ones are nearly all wrong
    assert found.package.startswith("cleanlab ")
    assert sum(entry.n for entry in found.joint) > 0
    clean = likely_label_errors(logits, logits.argmax(axis=1), label_names=NAMES, exclusive=True)
    assert clean.suspects == ()


@needs_cleanlab
def test_planted_errors_of_several_labels_are_found():
    rng = np.random.default_rng(1)
    truth = rng.random((600, 3)) < 0.4
    logits = 5.0 * truth - 2.5 + rng.standard_normal((600, 3))
    flipped = np.zeros_like(truth)
    flipped[:30, 1] = True
    flipped[20:40, 2] = True
    found = likely_label_errors(
        np.append(logits, np.full((600, 1), -5.0), axis=1),
        np.append(truth ^ flipped, np.zeros((600, 1), bool), axis=1),
        label_names=("a", "b", "c", "never"),
        ids=np.arange(600),
    )
    assert found.unsaid == ("never",)
    precision, recall = score(np.isin(np.arange(600), [suspect.row for suspect in found.suspects]), flipped.any(axis=1))
    assert precision > 0.6
    assert recall > 0.8
    by_row = {suspect.row: suspect for suspect in found.suspects}
    row = next(row for row in range(20, 30) if row in by_row)
    assert by_row[row].id == str(row)
    assert set(by_row[row].given) ^ set(by_row[row].suggested) <= {"a", "b", "c"}
    assert by_row[row].given != by_row[row].suggested
    assert {entry.given.removeprefix("not ") for entry in found.joint} <= {"a", "b", "c"}


@needs_cleanlab
def test_labels_of_which_there_are_too_few_are_refused():
    with pytest.raises(InputError, match="too few"):
        likely_label_errors(EXCLUSIVE, np.zeros(6, int), label_names=NAMES, exclusive=True)
    with pytest.raises(InputError, match="too few"):
        likely_label_errors([[1.0], [2.0], [3.0]], [[1], [0], [0]], label_names=("Loc",))
    rare = likely_label_errors(EXCLUSIVE, CLASSES, label_names=NAMES, exclusive=True)
    assert rare.unsaid == ("Donut", "Random")  # one map each


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> dict[str, Any]:
    """A run and its model, on disk."""
    folder = tmp_path_factory.mktemp("run")
    features = qwafer.features_from_maps(MAPS, "spatial")
    config = RunConfig(
        head=LinearOptions(), data=DataConfig(task="multilabel"), training=training_options(epochs=3, batch_size=32)
    )
    result = qwafer.train(config, features, seed=0)
    result.save(folder / "seed-0.json")
    Model.from_run(result, features.provenance).save(folder / "m.safetensors")
    maps = folder / "maps.npz"
    np.savez(maps, arr_0=MAPS.maps, arr_1=MAPS.labels)
    return {"run": folder / "seed-0.json", "model": folder / "m.safetensors", "maps": maps, "result": result}


def test_a_run_is_looked_at_on_validation(trained: Any, tmp_path: Path, capsys: Any):
    out, result = tmp_path / "look", trained["result"]
    assert main([str(trained["run"]), "--maps", str(trained["maps"]), "--out", str(out), "--worst", "3"]) == 0
    said = capsys.readouterr().out
    report = load_record(ErrorReport, out / "errors.json")
    found = report.analysis
    assert found.errors.value == pytest.approx(1 - result.val.macro["exact_match_tuned"])
    assert (found.errors.n, report.n_train, report.n_copies) == (
        result.n_examples["val"],
        result.n_examples["train"],
        0,
    )
    assert (report.predictor, report.part, report.test_reads) == ("linear, seed 0", "validation", ())
    assert f"linear, seed 0 on validation: {found.errors.hits} of {found.errors.n} maps wrong" in said
    assert sum(part.errors.hits for part in found.density) == found.errors.hits
    place = {key: i for i, key in enumerate(MAPS.content_ids.tolist())}
    for wrong in found.wrong:
        row = MAPS.labels[place[wrong.id]].astype(bool)
        assert wrong.true == tuple(np.array(MAPS.label_names)[row].tolist())
        assert wrong.predicted != wrong.true
    text = (out / "report.md").read_text()
    assert "the test split was not looked at" in text
    assert f"The {report.n_train} maps of the training split are left out." in text
    assert not (tmp_path / "test-reads.json").exists()
    for name in ("overview", "worst"):
        assert (out / "figures" / f"{name}.png").is_file()
        assert f"figures/{name}.png" in text


def test_a_model_gives_the_errors_of_its_run(trained: Any, tmp_path: Path):
    of_run, _ = study_errors(trained["run"], MAPS, out=tmp_path / "run", worst=1)
    of_model, _ = study_errors(trained["model"], MAPS, out=tmp_path / "model", worst=1)
    assert {wrong.id for wrong in of_model.analysis.wrong} == {wrong.id for wrong in of_run.analysis.wrong}
    assert of_model.analysis.confusions == of_run.analysis.confusions
    assert of_model.analysis.density == of_run.analysis.density
    assert of_model.predictor == "m.safetensors"


def test_a_look_at_the_test_split_is_in_the_ledger(trained: Any, tmp_path: Path):
    report, path = study_errors(trained["run"], MAPS, out=tmp_path / "look", part="test", worst=1)
    assert report.part == "test"
    assert report.analysis.errors.n == trained["result"].n_examples["test"]
    study_errors(trained["model"], MAPS, out=tmp_path / "look", part="test", worst=1)
    study_errors(trained["model"], MAPS, out=tmp_path / "look", part="test", worst=1)
    reads = read_ledger(tmp_path / "look").data[maps_digest(MAPS)]
    assert [(read.name, read.runs) for read in reads] == [
        ("errors of linear, seed 0", 1),
        ("errors of m.safetensors", 2),
    ]
    assert "This is a read of the test split. The test split of these data" in path.read_text()


def test_a_look_at_a_run_of_an_experiment_is_in_the_ledger_of_the_experiment(trained: Any, tmp_path: Path):
    run = tmp_path / "sweeps" / "mine" / "runs" / "arm" / "seed-0.json"
    trained["result"].save(run)
    (tmp_path / "sweeps" / "mine" / "experiment.json").write_text("{}")
    report, _ = study_errors(run, MAPS, out=tmp_path / "elsewhere" / "look", part="test", worst=1)
    assert report.predictor == "arm, seed 0"
    (read,) = read_ledger(tmp_path / "sweeps" / "mine").data[maps_digest(MAPS)]
    assert (read.name, read.directory) == ("errors of arm, seed 0", "mine")
    assert not (tmp_path / "elsewhere" / "test-reads.json").exists()


def test_copies_of_training_maps_are_left_out_and_counted(tmp_path: Path):
    """A split that came with the data may have one map on both sides: those of training are no evidence."""
    maps = MAPS.take(np.concatenate([np.arange(240), np.arange(120)]))
    parts = np.array([("train", "train", "val", "test")[i % 4] for i in range(240)] + ["val"] * 120)
    features = dataclasses.replace(qwafer.features_from_maps(maps, "spatial"), split=parts)
    config = RunConfig(
        head=LinearOptions(), data=DataConfig(task="multilabel"), training=training_options(epochs=1, batch_size=32)
    )
    qwafer.train(config, features, seed=0).save(tmp_path / "seed-0.json")
    report, path = study_errors(tmp_path / "seed-0.json", maps, out=tmp_path / "look", split=parts, worst=1)
    val, train = maps.content_ids[parts == "val"], maps.content_ids[parts == "train"]
    copies = int(np.isin(val, train).sum())
    assert copies == 60
    assert (report.n_copies, report.analysis.errors.n) == (copies, len(val) - copies)
    assert not {wrong.id for wrong in report.analysis.wrong} & set(train.tolist())
    assert "60 maps of this part that are equal to a training map" in path.read_text()
    unknown, _ = study_errors(tmp_path / "seed-0.json", maps, out=tmp_path / "look", worst=1)
    assert (unknown.n_copies, unknown.analysis.errors.n) == (None, len(val))


def test_a_run_on_other_rows_of_the_maps_says_that_copies_are_not_known(trained: Any, tmp_path: Path):
    twice = WaferMaps.from_arrays(
        np.concatenate([MAPS.maps, MAPS.maps[:, ::-1]]),
        np.concatenate([MAPS.labels, MAPS.labels]),
        label_names=MAPS.label_names,
    )
    report, path = study_errors(trained["run"], twice, out=tmp_path / "look", worst=1)
    assert report.n_copies is None
    assert report.analysis.errors.n == trained["result"].n_examples["val"]
    assert "nobody can tell" in path.read_text()
    with pytest.raises(InputError, match="do not give the split"):
        study_errors(trained["model"], twice, out=tmp_path / "model", worst=1)


@needs_cleanlab
def test_suspects_are_in_the_report(trained: Any, tmp_path: Path):
    """Labels of validation are flipped after training; some of them are flagged, and the report says what a flag is."""
    result = trained["result"]
    labels = result.labels["val"].copy()
    sure = np.argsort(-np.abs(result.logits["val"][:, 0]))[:5]
    labels[sure, 0] ^= 1
    outputs = {**result.outputs, "val_labels": labels}
    flipped = dataclasses.replace(result, outputs=outputs, val=evaluated(result, labels))
    flipped.save(tmp_path / "seed-0.json")
    report, path = study_errors(tmp_path / "seed-0.json", MAPS, out=tmp_path / "look", worst=5)
    assert report.label_errors is not None
    rows = {suspect.row for suspect in report.label_errors.suspects}
    assert len(rows & set(sure.tolist())) >= 3
    text = path.read_text()
    assert "**A flag is a suggestion**" in text
    assert f"flags {len(rows)} of {len(labels)} maps" in text
    assert (tmp_path / "look" / "figures" / "suspects.png").is_file()


def evaluated(result: Any, labels: np.ndarray) -> Any:
    from qwafer.evaluation import evaluate

    return evaluate(result.logits["val"], labels, label_names=result.label_names, thresholds=result.val.thresholds)


def test_without_cleanlab_the_report_says_what_is_missing(trained: Any, tmp_path: Path, monkeypatch: Any, capsys: Any):
    monkeypatch.setitem(sys.modules, "cleanlab", None)  # what Python takes for a package that is not there
    assert main([str(trained["run"]), "--maps", str(trained["maps"]), "--out", str(tmp_path / "look")]) == 0
    assert "were not looked for: likely label errors need the package cleanlab" in capsys.readouterr().out
    assert "Not looked for: likely label errors need" in (tmp_path / "look" / "report.md").read_text()


def test_maps_whose_labels_contradict_each_other_are_counted(tmp_path: Path):
    from qwafer.studies.errors import _conflicts

    ids = np.array(["a", "b", "a", "c", "c"])
    found = _conflicts(ids, np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], np.uint8), None)
    assert (found.n, found.n_flagged) == (2, 0)


def test_bad_input_is_one_sentence_and_status_2(trained: Any, tmp_path: Path, capsys: Any):
    run, maps = str(trained["run"]), str(trained["maps"])
    features = tmp_path / "features.npz"
    qwafer.features_from_maps(MAPS, "spatial").save(features)
    other, few = tmp_path / "other.json", tmp_path / "few.npz"
    other.write_text(json.dumps({"schema": "another/1"}))
    np.savez(few, arr_0=MAPS.maps[:30], arr_1=MAPS.labels[:30])
    out = ["--out", str(tmp_path / "look")]
    for words, said in (
        ([str(tmp_path / "none.json")], "does not exist"),
        ([str(tmp_path)], "is not a file"),
        ([str(other), "--maps", maps], "qwafer/run/"),
        ([str(features), "--maps", maps], "features.npz"),
        ([run], "name its maps by --maps"),
        ([run, "--maps", str(features)], "features"),
        ([run, "--maps", str(few)], "give all maps of its run"),
        ([str(trained["model"]), "--maps", str(few)], "give all maps of its run"),
        ([run, "--maps", maps, "--confident", "1.5"], "`confident` must lie in [0, 1)"),
        ([run, "--maps", maps, "--bins", "0"], "`bins` must be at least 1"),
        ([run, "--maps", maps, "--worst", "0"], "`worst` must be at least 1"),
        ([run, "--maps", maps, "--neighbours", "Center"], "such as Center:Donut"),
        ([run, "--maps", maps, "--neighbours", "Center:Nowhere"], "got Nowhere"),
    ):
        assert main([*words, *out]) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert said in error, words
    assert not (tmp_path / "look").exists()


@pytest.mark.parametrize("k", [2, 9])
def test_the_figures_are_legible(k: int):
    rng = np.random.default_rng(k)
    names = [*NAMES, "Edge-Loc", "Edge-Ring", "Near-full", "Scratch", "A pattern with a long name"][:k]
    logits, labels = 2 * rng.standard_normal((300, k)), rng.integers(0, k, 300)
    options = ErrorOptions(bins=4 * k)
    found = analyse_errors(
        logits, labels, label_names=names, exclusive=True, density=rng.random(300) ** 3, options=options
    )
    decisions = decisions_of(logits, labels, exclusive=True)
    assert text_problems(error_overview(found, decisions)) == []
    rows = [wrong.row for wrong in found.wrong[: 3 * k]]
    pairs = [(wrong.true, wrong.predicted) for wrong in found.wrong[: 3 * k]]
    sides = rng.integers(5, 30, (len(rows), 2))
    maps = [rng.integers(0, 3, side).astype(np.uint8) for side in sides]
    figure = doubted_maps(maps, pairs, decisions.probabilities[rows], names, ("true", "predicted"))
    assert text_problems(figure) == []


def test_figures_of_several_labels_and_of_no_error_are_legible():
    right = analyse_errors([[3.0, -3.0]], [[1, 0]], label_names=("Loc", "Center"))
    assert right.errors.hits == 0
    assert np.isnan(right.confidence.wrong)
    decisions = decisions_of([[3.0, -3.0]], [[1, 0]])
    assert text_problems(error_overview(right, decisions)) == []
    labels = [(("Edge-Ring", "Center", "Scratch", "Loc"), ()), ((), ("Near-full", "Donut"))]
    names = ("Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Scratch", "Random")
    p = np.linspace(0, 1, 16).reshape(2, 8)
    figure = doubted_maps([np.eye(26, dtype=np.uint8)] * 2, labels, p, names, ("given", "suggested"))
    assert text_problems(figure) == []


def test_what_the_page_says_is_what_the_benchmark_found():
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("errors_benchmark", root / "benchmarks" / "errors.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = json.loads((root / "benchmarks" / "results" / "errors.json").read_text())
    pages = (path.read_text(encoding="utf-8") for path in (root / "docs").glob("*.md"))
    (page,) = (text for text in pages if "<!-- begin planted label errors -->" in text)
    assert f"errors -->\n{benchmark.table(results)}\n<!-- end" in page
    wm811k, mixed = results["WM-811K"]["mlp"], results["MixedWM38"]["mlp"]
    for text in (
        f"wrong on {wm811k['wrong']} of {wm811k['maps']:,} maps, on {wm811k['confident']} of them",
        f"({wm811k['confusions'][0][2]}), `Edge-Loc` for `none` ({wm811k['confusions'][1][2]})",
        f"({wm811k['confusions'][2][2]} of {wm811k['confusions'][2][3]} scratches)",
        f"{wm811k['neighbours']} errors are between",
        f"has {wm811k['density'][0][2]} errors, the fourth fifth {wm811k['density'][3][2]}",
        f"{mixed['wrong']} of {mixed['maps']:,} maps wrong",
        f"invented on {mixed['confusions'][0][2]} maps and missed on {mixed['confusions'][1][2]}",
        f"wrong on {results['MixedWM38']['linear']['wrong']:,} of the",
        f"flags {results['MixedWM38']['linear']['flagged']} of them",
        f"flags {wm811k['flagged']} of {wm811k['maps']:,} maps",
    ):
        assert text in " ".join(page.split()), text
