"""The tool under attack: predictors, verbs before they run, experiments that grow, data of one's own."""

import dataclasses
import functools
import json
import re
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qwafer import InputError
from qwafer.ablate import main as ablate
from qwafer.backbones import Extractor, extract, extractor, features_from_maps
from qwafer.bench import main as bench
from qwafer.config import DataConfig, RunConfig
from qwafer.data import WaferMaps, make_split, synthetic_maps
from qwafer.execution import make_executor
from qwafer.experiment import load_experiment, parse_seeds
from qwafer.features import FeatureSet
from qwafer.model import Model
from qwafer.networks import network
from qwafer.studies import run_experiment
from qwafer.sweeps.directory import OutputDirectory
from qwafer.sweeps.ledger import note_test_reads, read_ledger
from qwafer.sweeps.sources import SourceRecord, read_sources
from qwafer.training import Predictor, prepare, train
from tests.factories import head_options, training_options

MAPS = synthetic_maps(80, seed=3)
CONFIG = RunConfig(
    data=DataConfig(task="any"), head=head_options("linear"), training=training_options(epochs=1, batch_size=16)
)


def doubled(name: str, weights: str, factor: float = 2.0) -> Extractor:
    """A backbone of two features; what it is called and its weights are what tells it from others of that width."""

    def features(maps):
        return np.array([[(m == 2).mean() * factor, (m == 1).mean()] for m in maps], np.float32)

    return Extractor(name, 16, {"weights": {"file": "w.pth", "sha256": weights}, "dtype": "float32"}, features)


@pytest.fixture(scope="module")
def own_features() -> FeatureSet:
    return features_from_maps(MAPS, doubled("mine", "aa"))


@pytest.fixture(scope="module")
def predictor(own_features: FeatureSet) -> Predictor:
    found = train(CONFIG, own_features, 0).predictor
    assert found is not None
    return found


# Predictors


def test_features_that_are_not_finite_are_refused(predictor, own_features):
    """NaN gave `no defect` everywhere: it is above no threshold."""
    for value in (np.nan, np.inf, 1e300):  # the last is beyond float32
        features = own_features.features.astype(np.float64)
        features[3, 1] = value
        with pytest.raises(InputError, match=r"must be finite; 1 of 160 are not, the first is .* at row 3, column 1"):
            predictor.logits(features)
        with pytest.raises(InputError, match="must be finite"):
            predictor.probabilities(features)


def test_what_is_no_table_of_numbers_is_refused(predictor):
    for features in (np.full((3, 2), "x"), np.full((3, 2), 1j), np.full((3, 2), None), [[1, 2], [3]]):
        with pytest.raises(InputError, match="features"):
            predictor.logits(features)
    assert predictor.logits(np.zeros((0, 2))).shape == (0, 1)


def test_bare_arrays_of_any_real_type_give_the_logits_of_their_features(predictor, own_features):
    wanted = predictor.logits(own_features)
    for kind in (np.float32, np.float64):
        np.testing.assert_array_equal(predictor.logits(own_features.features.astype(kind)), wanted)
    np.testing.assert_array_equal(predictor.logits(own_features.features.tolist()), wanted)


def test_features_of_another_backbone_of_equal_width_are_refused(predictor, own_features, tmp_path):
    others = {
        "backbone is mine there and other here": doubled("other", "aa"),
        "weights is aa there and bb here": doubled("mine", "bb", 3.0),
    }
    predictor.save(tmp_path / "h.npz")
    for holder in (predictor, Predictor.load(tmp_path / "h.npz")):
        for words, backbone in others.items():
            features = features_from_maps(MAPS, backbone)
            with pytest.raises(InputError, match=f"not those that the head was trained on: .*{words}"):
                holder.logits(features)
            assert np.isfinite(holder.logits(features.features)).all(), "a bare array says nothing of itself"
        # The same backbone on other maps, with the file of its weights elsewhere, gives the same kind of features.
        moved = doubled("mine", "aa")
        moved.record["weights"]["file"] = "elsewhere.pth"
        other_maps = features_from_maps(synthetic_maps(20, seed=9), dataclasses.replace(moved, compute_batch=8))
        assert holder.logits(other_maps.take(np.arange(5))).shape == (5, 1)


def test_a_model_is_of_the_backbone_that_made_its_features(own_features):
    result = train(CONFIG, own_features, 0)
    model = Model.from_run(result, doubled("mine", "aa"))
    np.testing.assert_allclose(model.predict(MAPS).logits, result.predictor.logits(own_features), rtol=1e-5)
    with pytest.raises(InputError, match=r"not those that the head was trained on: .*weights is aa there and bb here"):
        Model.from_run(result, doubled("mine", "bb"))


def test_a_models_backbone_that_gives_nan_is_an_error_and_no_decision(own_features):
    result = train(CONFIG, own_features, 0)
    broken = dataclasses.replace(doubled("mine", "aa"), features=lambda maps: np.full((len(maps), 2), np.nan, "f4"))
    with pytest.raises(InputError, match="backbone mine gives features that are not finite"):
        Model.from_run(result, broken).predict(MAPS)


def test_an_extractor_with_an_empty_record_is_told_of_its_nan():
    empty = Extractor("mine", 8, {}, lambda maps: np.full((len(maps), 3), np.nan, np.float32))
    with pytest.raises(InputError, match="backbone mine gives features that are not finite"):
        features_from_maps(MAPS, empty)


# Verbs before they run


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> types.SimpleNamespace:
    """Maps in a MixedWM38 file, their features, and a folder."""
    folder = tmp_path_factory.mktemp("tool")
    np.savez(folder / "maps.npz", arr_0=MAPS.maps, arr_1=MAPS.labels)
    features_from_maps(MAPS).save(folder / "f.npz")
    (folder / "README.md").write_text("# A page\n\nThat is not of wafer maps.\n")
    return types.SimpleNamespace(folder=folder, maps=folder / "maps.npz", features=folder / "f.npz")


def refused(verb, capsys, *arguments) -> str:
    capsys.readouterr()
    assert verb([*map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_a_dry_run_refuses_what_the_run_would_refuse(files, capsys, tmp_path):
    dry = ("--dry-run", "--out", tmp_path / "out")
    assert "is not a file of wafer maps" in refused(ablate, capsys, "--maps", files.folder / "README.md", *dry)
    assert "absent.npz does not exist" in refused(ablate, capsys, "--maps", files.folder / "absent.npz", *dry)
    for source in (("--maps", files.maps), ("--features", files.features), ("--maps", "synthetic")):
        said = refused(ablate, capsys, *source, "--set", "data.task=Edge-Lock", *dry)
        assert "`task` must be one of multilabel, any, Center" in said
        assert "did you mean `Edge-Loc`?" in said
        assert ablate([*map(str, source), *map(str, dry)]) == 0
    only = FeatureSet.load(files.features)
    dataclasses.replace(only, labels=np.zeros_like(only.labels)).save(tmp_path / "none.npz")
    assert "has only negative examples" in refused(ablate, capsys, "--features", tmp_path / "none.npz", *dry)
    assert not (tmp_path / "out").exists()


def test_a_task_that_does_not_exist_is_refused_before_features_are_made(files, tmp_path, monkeypatch):
    from qwafer import backbones

    def never(*arguments, **options):
        raise AssertionError("features were made")

    monkeypatch.setattr(backbones, "extract", never)
    experiment = load_experiment("mean_z_vs_readout", [f"data.source={files.maps}", "data.task=Nope"])
    with pytest.raises(InputError, match="`task` must be one of"):
        run_experiment(experiment, tmp_path / "out")


def test_maps_in_the_place_of_features_are_told_where_they_go(files, capsys, tmp_path):
    for verb in (ablate, bench):
        said = refused(verb, capsys, "--features", files.maps, "--out", tmp_path / "out")
        assert said.endswith("maps.npz holds wafer maps, not features: give it as --maps\n")
    assert "is not a whole NPZ file" in refused(ablate, capsys, "--features", files.folder / "README.md")
    assert "absent.npz does not exist" in refused(ablate, capsys, "--features", files.folder / "absent.npz")
    said = refused(ablate, capsys, "--features", "synthetic", "--out", tmp_path / "out")
    assert "synthetic holds wafer maps, not features: give it as --maps" in said


def test_features_in_the_place_of_maps_of_several_backbones_get_a_hint(files, capsys, tmp_path):
    said = refused(bench, capsys, "wm811k", "--features", files.features, "--out", tmp_path / "out")
    assert "`data.backbone` has no effect" in said
    assert "give the maps instead (--maps)" in said


MIXED = """
seeds = 2
[data]
task = "any"
[arms.quantum]
head = "quantum"
[arms.mlp]
head.name = "mlp"
head.hidden = 8
[arms.tree]
head.name = "tree"
"""


def test_options_that_an_arm_has_no_use_for_are_not_listed(tmp_path, capsys):
    (tmp_path / "mixed.toml").write_text(MIXED)
    experiment = load_experiment(tmp_path / "mixed.toml")
    assert experiment.changes("mlp") == {
        "head.name": "mlp",
        "head.hidden": 8,
        "head.dropout": 0.0,
        "circuit": None,
        "engine": None,
    }
    tree = experiment.changes("tree")
    assert {name for name, value in tree.items() if value is None} >= {"circuit", "engine", "training", "sampling"}
    assert not [name for name, value in tree.items() if value is None and "." in name and "head" not in name]
    assert ablate([str(tmp_path / "mixed.toml"), "--dry-run", "--descriptive", "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "circuit = none" in said
    assert said.count("= none") < 10


def test_an_empty_range_of_seeds_is_told_as_such():
    for text in ("3:1", "3:3"):
        with pytest.raises(InputError, match=rf"`seeds` = {text} holds no seed: a:b are the seeds from a to b - 1"):
            parse_seeds(text)
    assert parse_seeds("1:3") == (1, 2)


def test_training_on_bare_arrays_says_how_to_make_features_of_them():
    with pytest.raises(InputError, match=r"`data` must be a FeatureSet, got ndarray: .*FeatureSet.from_arrays\(X, y\)"):
        train(RunConfig(), np.zeros((20, 3)), 0)
    with pytest.raises(InputError, match=r"`data` must be a FeatureSet, got WaferMaps: .*features_from_maps"):
        train(RunConfig(), MAPS, 0)
    with pytest.raises(InputError, match="`data` must be a FeatureSet, got ndarray"):
        prepare(RunConfig(), np.zeros((20, 3)), 0)


# Experiments that grow

TWO = """
title = "Trees"
seeds = 2
description = "Why."
expected = "{expected}"
[data]
task = "any"
val_fraction = 0.1
[arms.shallow]
head.name = "tree"
head.max_depth = 1
[arms.deep]
head.name = "tree"
head.max_depth = {depth}
"""
THIRD = """
[arms.deeper]
head.name = "tree"
head.max_depth = 6
"""
DEEPEST = THIRD.replace("deeper", "deepest").replace("6", "9")


@dataclasses.dataclass
class Sweep:
    """An experiment's file, its data and its output directory, and the day of each call."""

    folder: Path
    features: Path
    trained: dict
    monkeypatch: pytest.MonkeyPatch

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def directory(self) -> OutputDirectory:
        return OutputDirectory(self.out)

    def load(self, *more: str, expected: str = "Level.", depth: int = 4, seeds: int = 2, options: tuple = ()):
        path = self.folder / "trees.toml"
        path.write_text(TWO.format(expected=expected, depth=depth) + "".join(more))
        experiment = load_experiment(path, [f"data.source={self.features}", *options])
        return dataclasses.replace(experiment, seeds=tuple(range(seeds)))

    def claim(self, day: str, *more: str, **changes):
        """Claim the directory as a sweep does before its first run."""
        self.monkeypatch.setattr("qwafer.sweeps.directory.today", lambda: day)
        experiment = self.load(*more, **changes)
        record = self.directory.claim(experiment, dict.fromkeys(experiment.arms, SourceRecord(digest="d")))
        return experiment, record

    def begin(self, day: str):
        """Leave two arms behind, finished."""
        experiment, record = self.claim(day)
        for (arm, seed), result in self.trained.items():
            result.save(self.directory.run_path(arm, seed))
        return experiment, record

    def run(self, day: str, *more: str, **changes):
        self.monkeypatch.setattr("qwafer.sweeps.directory.today", lambda: day)
        return run_experiment(self.load(*more, **changes), self.out, executor=serial(), descriptive=True)

    def runs(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((self.out / "runs").rglob("*.json"))}


def serial():
    return make_executor("serial", 1)


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """The four runs of two arms."""
    path = tmp_path_factory.mktemp("trees") / "trees.toml"
    path.write_text(TWO.format(expected="", depth=4))
    arms = load_experiment(path, [f"data.source={files.features}"]).arms
    data = FeatureSet.load(files.features)
    return {(arm, seed): train(arms[arm], data, seed, from_source=True) for arm in arms for seed in (0, 1)}


@pytest.fixture
def sweep(files, trained, tmp_path, monkeypatch) -> Sweep:
    return Sweep(tmp_path, files.features, trained, monkeypatch)


@pytest.mark.usefixtures("without_figures")
def test_an_arm_and_a_seed_join_a_finished_sweep(sweep):
    sweep.run("2026-01-02", expected="One cut is enough.")
    before = sweep.runs()
    assert len(before) == 4
    grown = sweep.run("2026-02-03", THIRD, expected="Depth helps.", seeds=3)
    assert grown.n_done == 5
    assert {path: sweep.runs()[path] for path in before} == before, "what was there stays as it is"
    assert [c.arm for c in grown.summary.comparisons] == ["deep", "deeper"]

    record = sweep.directory.record()
    (added,) = record.additions
    assert (added.date, added.arms, added.seeds, added.runs) == ("2026-02-03", ("deeper",), (2,), 4)
    assert added.expected == "Depth helps."
    assert grown.summary.experiment.additions == (added,)
    assert grown.summary.experiment.expected == "One cut is enough.", "what was expected first stays"
    report = grown.report.read_text()
    assert "**Expected (written before the first run, 2026-01-02).** One cut is enough." in report
    assert "**Added 2026-02-03, when 4 runs were complete: arm deeper, seed 2.** Expected then: Depth helps." in report
    assert "**deeper** (added 2026-02-03)" in report
    assert [w for w in grown.summary.warnings if "arm deeper was added after results could be seen" in w]
    assert [w for w in grown.summary.warnings if "seeds were added after results could be seen (2, then 3)" in w]
    assert grown.test_reads[0].endswith("has been read by 1 experiment from this folder: trees (9 runs).")

    sweep.monkeypatch.setattr("qwafer.sweeps.directory.today", lambda: "2026-05-06")
    same = sweep.load(THIRD, expected="Depth helps.", seeds=3)
    assert sweep.directory.claim(same, record.data) == record, "another day's call adds nothing"


def test_an_arm_joins_an_unfinished_sweep_and_one_after_another(sweep):
    sweep.begin("2026-01-02")
    sweep.directory.run_path("deep", 1).unlink()
    experiment, record = sweep.claim("2026-01-03", THIRD)
    assert [(a.date, a.arms, a.seeds, a.runs) for a in record.additions] == [("2026-01-03", ("deeper",), (), 3)]
    assert sweep.directory.read(experiment).pending == [("deeper", 0), ("deep", 1), ("deeper", 1)]
    experiment, record = sweep.claim("2026-01-04", THIRD, DEEPEST, seeds=3)
    assert [(a.date, a.arms, a.seeds, a.runs) for a in record.additions[1:]] == [("2026-01-04", ("deepest",), (2,), 3)]
    assert list(record.arms) == ["shallow", "deep", "deeper", "deepest"]
    assert len(sweep.directory.read(experiment).pending) == 9


@pytest.mark.parametrize("more", [(), (THIRD,)])
def test_other_options_of_an_arm_that_has_runs_are_refused(sweep, more):
    sweep.begin("2026-01-02")
    for changes, said in (
        ({"depth": 5}, "head.max_depth of arm deep is 4 there, 5 here"),
        ({"options": ("data.val_fraction=0.2",)}, "data.val_fraction of arm shallow is 0.1 there, 0.2 here"),
    ):
        with pytest.raises(InputError, match=f"belongs to another experiment .{said}"):
            sweep.directory.check_owner(sweep.load(*more, **changes))


def test_an_arm_that_has_runs_cannot_be_left_out_nor_the_question_changed(sweep):
    sweep.claim("2026-01-02", THIRD)
    with pytest.raises(
        InputError, match=r"arms shallow, deep, deeper there, shallow, deep here: arms may join, but none may"
    ):
        sweep.claim("2026-01-03")
    with pytest.raises(
        InputError, match=r"arms shallow, deep, deeper there, shallow, deep, deepest here: arms may join"
    ):
        sweep.claim("2026-01-03", DEEPEST)
    grown = sweep.load(THIRD, DEEPEST)
    for name, value in (("baseline", "deep"), ("metric", "test.loss")):
        with pytest.raises(InputError, match=f"belongs to another experiment .{name} "):
            sweep.directory.check_owner(dataclasses.replace(grown, **{name: value}))


def test_directories_from_before_arms_could_join_grow_too(sweep):
    sweep.begin("2026-01-02")
    file = sweep.out / "experiment.json"
    record = json.loads(file.read_text())
    assert record.pop("additions") == []
    del record["checksum"]
    file.write_text(json.dumps(record))
    _, grown = sweep.claim("2026-01-03", THIRD)
    assert [(added.arms, added.runs) for added in grown.additions] == [(("deeper",), 4)]


def test_a_grown_experiment_stays_one_line_of_the_ledger(sweep):
    small, _ = sweep.claim("2026-01-02")
    note_test_reads(sweep.out, small, dict.fromkeys(small.arms, "0123"), {"shallow": 2, "deep": 2})
    grown, record = sweep.claim("2026-01-03", THIRD)
    joined = [added.joined for added in record.additions]
    keys = dict.fromkeys(grown.arms, "0123")
    note_test_reads(sweep.out, grown, keys, {"shallow": 2, "deep": 2, "deeper": 1}, joined)
    (reads,) = read_ledger(sweep.out).data.values()
    assert [(read.name, read.runs, read.digest) for read in reads] == [("trees", 5, grown.digest())]
    (said,) = read_ledger(sweep.out).sentences(keys)
    assert said.endswith("has been read by 1 experiment from this folder: trees (5 runs).")


def test_a_dry_run_of_a_grown_experiment_shows_what_is_there(sweep, capsys):
    sweep.begin("2026-01-02")
    sweep.load(THIRD)
    arguments = [str(sweep.folder / "trees.toml"), "--features", str(sweep.features), "--out", str(sweep.out)]
    assert ablate([*arguments, "--dry-run", "--descriptive"]) == 0
    assert "2 of 6 runs to do" in capsys.readouterr().out
    assert sweep.directory.record().additions == ()


# Data of one's own


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "longdouble", "int16", "bool", "bfloat16"])
def test_arrays_of_any_real_type_become_features(kind):
    array = X.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    data = FeatureSet.from_arrays(array, (X[:, 0] > 0).astype(int))
    assert data.features.dtype == np.float32
    np.testing.assert_array_equal(data.features, array.astype(np.float32))
    assert (data.labels.shape, data.label_names, data.exclusive) == ((60, 1), ("label",), False)


@pytest.mark.parametrize(
    ("labels", "options", "names", "rows", "exclusive"),
    [
        ([0, 1, 1, 0], {}, ("label",), [[0], [1], [1], [0]], False),
        ([False, True, True, False], {}, ("label",), [[0], [1], [1], [0]], False),
        (np.array([0, 1, 1, 0], np.float16), {"label_names": ["ring"]}, ("ring",), [[0], [1], [1], [0]], False),
        ([0, 1, 1, 0], {"label_names": ["none", "ring"]}, ("none", "ring"), [[1, 0], [0, 1], [0, 1], [1, 0]], True),
        ([0, 1, 1, 0], {"exclusive": True}, ("0", "1"), [[1, 0], [0, 1], [0, 1], [1, 0]], True),
        ([2, 0, 2, 0], {"label_names": list("abc")}, tuple("abc"), [[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]], True),
        ([7, -1, 7, 7], {}, ("-1", "7"), [[0, 1], [1, 0], [0, 1], [0, 1]], True),
        (np.array(["b", "a", "b", "b"], object), {}, ("a", "b"), [[0, 1], [1, 0], [0, 1], [0, 1]], True),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], {}, ("label_0", "label_1"), [[0, 1], [1, 1], [0, 0], [1, 0]], False),
        ([[0, 1], *[[1, 0]] * 3], {"exclusive": True}, ("label_0", "label_1"), [[0, 1], *[[1, 0]] * 3], True),
    ],
)  # fmt: skip
def test_labels_as_they_come(labels, options, names, rows, exclusive):
    data = FeatureSet.from_arrays(X[:4], labels, **options)
    assert (data.label_names, data.labels.tolist(), data.exclusive) == (names, rows, exclusive)
    maps = WaferMaps.from_arrays(MAPS.maps[:4], labels, **options)
    assert (maps.label_names, maps.labels.tolist(), maps.exclusive) == (names, rows, exclusive)


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ([0, 1, 2], {}, "`labels` must have 4 rows, one per example, got shape (3,)"),
        ([0, 1, 2, np.nan], {}, "`labels` must be whole numbers, truth values or texts; row 3 is nan"),
        ([0, 1, 2.5, 1], {}, "`labels` must be whole numbers, truth values or texts; row 2 is 2.5"),
        (
            [0, 1, 2, 3],
            {"label_names": ["a", "b", "c"]},
            "`labels` must lie in 0..2, for `label_names` names 3 classes",
        ),
        ([[0, 2], [1, 1], [0, 0], [1, 0]], {}, "must be 0 or 1"),
        ([[1, 1], [1, 0], [0, 1], [1, 0]], {"exclusive": True}, "exactly one 1"),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], {"label_names": ["a"]}, "one column per label"),
        ([1j, 0, 0, 0], {}, "must be whole numbers, truth values or texts, got complex128"),
        (np.zeros((4, 2, 2)), {}, "`labels` must have shape (N,) or (N, K)"),
        (["a", "b", "a", "b"], {"label_names": ["a", "c"]}, "`label_names` has no class b"),
        ([0, 1, 0, 1], {"label_names": "scratch"}, "`label_names` must be a list of names, got 'scratch'"),
        (None, {"label_names": ["a"]}, "belong to `labels`, and there are none"),
        (np.ma.masked_equal([0, 1, 9, 1], 9), {}, "`labels` has masked entries"),
        (np.arange(4) * 10**6, {"label_names": ["a"]}, "`labels` must lie in 0..0"),
    ],
)
def test_labels_that_say_nothing_clear_are_refused(labels, options, said):
    for make, data in ((FeatureSet.from_arrays, X[:4]), (WaferMaps.from_arrays, MAPS.maps[:4])):
        with pytest.raises(InputError, match=re.escape(said)):
            make(data, labels, **options)


def test_what_cannot_be_features_is_refused():
    for features, said in (
        (X.astype(complex), "real numbers, got complex128"),
        (np.where(X > 1, np.nan, X), "must be finite"),
        (X * 1e300, "must be finite"),
        (np.ma.masked_greater(X, 1), "`features` has masked entries"),
        (np.array([["1", "2"]]), "real numbers, got <U1"),
        (X[0], r"shape \(N, D\)"),
        (X[:0], r"shape \(N, D\)"),
    ):
        with pytest.raises(InputError, match=said):
            FeatureSet.from_arrays(features, np.zeros(len(features), int))


def test_numbers_that_tell_the_examples_apart_are_no_classes():
    with pytest.raises(InputError, match="`labels` has 1500 distinct values, and classes are at most 1000"):
        FeatureSet.from_arrays(np.zeros((1500, 2)), np.arange(1500))


def test_ids_are_made_from_the_rows_so_that_no_split_parts_equal_ones():
    data = FeatureSet.from_arrays(np.concatenate([X, X]), np.tile((X[:, 0] > 0).astype(int), 2))
    assert len(np.unique(data.content_ids)) == 60
    np.testing.assert_array_equal(data.content_ids[:60], data.content_ids[60:])
    split = make_split(data.labels, data.content_ids, seed=0)
    parts = split.parts()
    np.testing.assert_array_equal(parts[:60], parts[60:])
    shuffled = FeatureSet.from_arrays(X[::-1], (X[::-1, 0] > 0).astype(int))
    np.testing.assert_array_equal(shuffled.content_ids, data.content_ids[:60][::-1])
    zeros = FeatureSet.from_arrays([[0.0, 1.0], [-0.0, 1.0]], [0, 1])
    assert zeros.content_ids[0] == zeros.content_ids[1]
    own = FeatureSet.from_arrays(X, X[:, 0] > 0, content_ids=np.arange(60))
    assert own.content_ids.tolist() == [str(i) for i in range(60)]


def test_features_of_arrays_train_are_stored_and_know_their_origin(tmp_path, predictor):
    y = (X[:, 0] > 0).astype(int)
    lots = np.arange(60) // 3
    data = FeatureSet.from_arrays(X, y, groups=lots, times=lots, feature_names=["a", "b", "c"], backbone="resnet, mine")
    data.save(tmp_path / "f.npz")
    loaded = FeatureSet.load(tmp_path / "f.npz")
    assert (loaded.digest(), loaded.provenance) == (data.digest(), data.provenance)
    assert loaded.groups.tolist() == [str(lot) for lot in lots]
    config = dataclasses.replace(CONFIG, data=DataConfig(task="label", split_by="group"))
    result = train(config, data, 0)
    assert result.provenance["backbone"] == result.config["data"]["backbone"] == "resnet, mine"
    assert result.predictor.logits(FeatureSet.from_arrays(X[:5], backbone="resnet, mine")).shape == (5, 1)
    with pytest.raises(InputError, match="backbone is resnet, mine there and another here"):
        result.predictor.logits(FeatureSet.from_arrays(X, backbone="another"))
    with pytest.raises(InputError, match="backbone is mine there and arrays here"):
        predictor.logits(FeatureSet.from_arrays(X[:, :2]))
    with pytest.raises(InputError, match="`groups` must be"):
        FeatureSet.from_arrays(X, y, groups=lots[:5])


def test_maps_without_labels_are_extracted_and_predicted_and_never_trained_on(tmp_path, own_features):
    bare = WaferMaps.from_arrays(list(MAPS.maps[:30]))
    assert (bare.labels.shape, bare.label_names) == ((30, 0), ())
    np.testing.assert_array_equal(bare.content_ids, MAPS.content_ids[:30])
    backbone = doubled("mine", "aa")
    features = extract(bare, backbone, tmp_path / "f.npz")
    np.testing.assert_array_equal(features.features, own_features.features[:30])
    assert FeatureSet.load(tmp_path / "f.npz").digest() == features.digest()
    result = train(CONFIG, own_features, 0)
    assert Model.from_run(result, backbone).predict(bare).logits.shape == (30, 1)
    np.testing.assert_array_equal(result.predictor.logits(features), result.predictor.logits(own_features)[:30])

    no_labels = "have no labels: they can be predicted, but not trained on"
    for refuse in (
        lambda: train(CONFIG, features, 0),
        lambda: features.task("any"),
        lambda: make_split(bare.labels, bare.content_ids, seed=0),
        lambda: network("wafercnn", epochs=1).train(bare, tmp_path / "w.safetensors"),
        lambda: list(read_sources({"a": DataConfig(source=str(tmp_path / "f.npz"))})),
    ):
        with pytest.raises(InputError, match=no_labels):
            refuse()


def test_maps_as_they_come_are_checked():
    ragged = [MAPS.maps[0], MAPS.maps[1][:40]]
    assert isinstance(WaferMaps.from_arrays(ragged).maps, tuple)
    assert WaferMaps.from_arrays(MAPS.maps[:2].astype(np.int64)).maps.dtype == np.uint8
    assert WaferMaps.from_arrays(MAPS.maps[:2].astype(float), groups=[1, 2]).groups.tolist() == ["1", "2"]
    for maps, said in (
        ([], "holds no wafer maps"),
        (MAPS.maps[:2] + 0.5, "whole numbers"),
        (MAPS.maps[:2].astype(int) - 1, "0 .off the wafer"),
        (MAPS.maps[:2].astype(int) + 256, "0 .off the wafer"),
        (MAPS.maps[0], r"shape \(N, H, W\)"),
    ):
        with pytest.raises(InputError, match=said):
            WaferMaps.from_arrays(maps)


def rates(maps):
    """A backbone: failing and passing rate."""
    return [[(m == 2).mean(), (m == 1).mean()] for m in maps]


def test_any_function_is_a_backbone(tmp_path):
    features = features_from_maps(MAPS, rates)
    np.testing.assert_allclose(features.features, rates(MAPS.maps), rtol=1e-6)
    assert features.provenance["backbone"] == f"{__name__}:rates"
    assert features.provenance == features_from_maps(MAPS, f"{__name__}:rates").provenance
    result = train(CONFIG, features, 0)
    Model.from_run(result, extractor(rates)).save(tmp_path / "m.safetensors")
    assert Model.load(tmp_path / "m.safetensors").predict(MAPS.maps[:3]).logits.shape == (3, 1)
    for backbone, said in (
        (lambda maps: rates(maps), "define it in a module"),
        (functools.partial(rates), "`backbone` must be a name, an Extractor or a function"),
        (3, "`backbone` must be a name, an Extractor or a function"),
    ):
        with pytest.raises(InputError, match=said):
            features_from_maps(MAPS, backbone)
