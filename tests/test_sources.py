"""One way from a source to features, for every verb: maps, tables, features, and what a third party adds."""

from pathlib import Path

import numpy as np
import pytest

from qwafer import InputError
from qwafer.ablate import main as ablate
from qwafer.backbones import Extractor, extract, extractor, features_from_maps
from qwafer.config import DataConfig
from qwafer.data import READERS, read_edge_iiot, read_maps
from qwafer.execution.job import Event, Job
from qwafer.execution.threads import Threads
from qwafer.extract import main as extract_verb
from qwafer.features import FeatureSet
from qwafer.networks import is_network, network
from qwafer.source import SourceFacts, read_source, source_facts, table_features
from qwafer.sweeps.resolved import resolve
from qwafer.sweeps.sources import BackboneOptions, load_features, provide_features
from tests.factories import wafer_maps
from tests.test_data_edge_iiot import many, write

MINE = "tests.thirdparty"
SMALL = ["--set", "training.epochs=1", "--set", "training.max_doublings=0", "--seeds", "2", "--descriptive"]
SMALL += ["--jobs", "1", "--quiet"]
TOML = """
[training]
epochs = 1
max_doublings = 0
[arms.linear]
head.name = "linear"
[arms.mlp]
head.name = "mlp"
"""


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """A file of a third party's format."""
    (tmp_path / "forty.txt").write_text("40")
    return str(tmp_path / "forty.txt")


def test_every_reader_by_name_is_there() -> None:
    for name in READERS.names:
        assert callable(READERS.get(name))


def test_a_reader_of_ones_own_gives_maps_or_features(numbers: str) -> None:
    assert len(read_source(numbers, f"{MINE}:read_maps")) == 40
    assert len(read_maps(numbers, reader=f"{MINE}:read_maps")) == 40
    assert source_facts(DataConfig(source=numbers, reader=f"{MINE}:read_maps")) == SourceFacts("maps")
    facts = source_facts(DataConfig(source=numbers, reader=f"{MINE}:read_features"))
    assert facts == SourceFacts("features", brings_split=True)
    with pytest.raises(InputError, match="must return WaferMaps, a DataTable or a FeatureSet, got dict"):
        read_source(numbers, f"{MINE}:read_nothing")
    with pytest.raises(InputError, match="not wafer maps"):
        read_maps(numbers, reader=f"{MINE}:read_features")
    with pytest.raises(InputError, match=r"data\.reader"):
        read_source(numbers)
    with pytest.raises(InputError, match="did you mean `mixedwm38`"):
        read_source(numbers, "mixedwm83")


def test_features_of_ones_own_reader_are_kept(numbers: str, tmp_path: Path) -> None:
    data = DataConfig(source=numbers, reader=f"{MINE}:read_features", task="L0")
    source = provide_features({"a": data, "b": data}, tmp_path / "features")["b"]
    assert FeatureSet.load(source.path).digest() == source.record.digest
    assert load_features({"a": data})["a"].digest() == source.record.digest


@pytest.mark.parametrize("name", ["failing", "MADE", "maker"])
def test_a_backbone_of_ones_own(name: str, tmp_path: Path) -> None:
    maps = wafer_maps(20)
    features = extract(maps, f"{MINE}:{name}", tmp_path / "f.npz")
    np.testing.assert_allclose(features.features[:, 0], [(m == 2).mean() for m in maps.maps], rtol=1e-6)
    assert features.provenance["backbone"] == f"{MINE}:{name}"
    if name == "failing":
        assert len(features.provenance["source_sha256"]) == 64
    with pytest.raises(InputError, match="leave out --random-weights"):
        extractor(f"{MINE}:{name}", random_weights=0)
    if name == "maker":
        assert extractor(f"{MINE}:maker", dtype="float16").options == {"dtype": "float16"}
    else:
        with pytest.raises(InputError, match="leave out --dtype"):
            extractor(f"{MINE}:{name}", dtype="float16")


def test_backbones_that_cannot_be_used_are_refused() -> None:
    for name, message in (
        (f"{MINE}:MINE", "has no attribute"),
        (f"{MINE}:Path", "not an Extractor, a function or a network"),
        (f"{MINE}:MeanNetwork", "needs weights"),
        ("no.such:module", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=message):
            extractor(name)
    with pytest.raises(InputError, match=r"must return \(n, D\) float32 features"):
        features_from_maps(wafer_maps(5), f"{MINE}:flat")


def test_a_network_of_ones_own_is_trained_and_gives_its_split_to_all_features(tmp_path: Path) -> None:
    name = f"{MINE}:MeanNetwork"
    assert is_network(name)
    assert is_network("wafercnn")
    assert not is_network("spatial")
    assert not is_network(f"{MINE}:failing")
    with pytest.raises(InputError, match="has no option epoch"):
        network(name, epoch=3)
    arms = {"own": DataConfig(n_maps=60, backbone=name), "spatial": DataConfig(n_maps=60)}
    stages: list[str] = []
    sources = provide_features(arms, tmp_path, progress=lambda state: stages.append(f"{state.stage} {state.text}"))
    assert list(dict.fromkeys(stages)) == ["training mean", f"features {name}", "features spatial"]
    own, spatial = (FeatureSet.load(sources[arm].path) for arm in arms)
    assert own.split is not None
    np.testing.assert_array_equal(own.split, spatial.split)
    np.testing.assert_allclose(own.features[own.split == "train"].mean(axis=0), 0, atol=1e-6)
    assert sources["spatial"].path.name == "synthetic-60-0-spatial-split-of-tests.thirdparty-MeanNetwork.npz"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    provide_features(arms, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    in_memory = load_features(arms)
    np.testing.assert_array_equal(in_memory["own"].features, own.features)
    assert in_memory["spatial"].digest() == spatial.digest()


def test_networks_of_different_splits_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qwafer.networks

    trained = {"wafercnn": network("wafercnn", epochs=1), f"{MINE}:MeanNetwork": network(f"{MINE}:MeanNetwork", seed=1)}
    monkeypatch.setattr(qwafer.networks, "network", trained.get)
    arms = {name: DataConfig(n_maps=40, backbone=name) for name in trained}
    with pytest.raises(InputError, match="trained on different splits"):
        provide_features(arms, tmp_path)


def test_weights_go_to_those_that_take_them(tmp_path: Path) -> None:
    arms = {"cnn": DataConfig(n_maps=12, backbone="wafercnn"), "spatial": DataConfig(n_maps=12)}
    sources = provide_features(arms, tmp_path, backbones=BackboneOptions(random_weights=3))
    assert FeatureSet.load(sources["cnn"].path).provenance["random_weights"] == 3
    assert FeatureSet.load(sources["spatial"].path).split is None
    with pytest.raises(InputError, match="has no weights"):
        provide_features({"a": DataConfig(n_maps=12)}, tmp_path / "none", backbones=BackboneOptions(weights="w.pth"))
    assert not (tmp_path / "none").exists()


def test_a_table_is_its_features_on_the_split_of_the_configuration(tmp_path: Path) -> None:
    path = str(write(tmp_path / "t.csv", many()))
    assert source_facts(DataConfig(source=path)) == SourceFacts("table")
    arms = {
        "a": DataConfig(source=path),
        "b": DataConfig(source=path, backbone="wafercnn"),
        "c": DataConfig(source=path, split_seed=7),
    }
    sources = provide_features(arms, tmp_path / "features")
    assert sources["a"] == sources["b"]
    assert sources["a"].path != sources["c"].path
    assert sources["a"].record.backbone == "table"
    wanted = table_features(read_edge_iiot(path), arms["c"])
    assert wanted.digest() == sources["c"].record.digest == load_features(arms)["c"].digest()
    assert wanted.digest() != sources["a"].record.digest


def test_tables_reach_extract_and_ablate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "t.csv", many(120)))
    args = ["--maps", path, "--out", str(tmp_path / "f.npz")]
    assert extract_verb(args) == 0
    assert FeatureSet.load(tmp_path / "f.npz").digest() == load_features({"a": DataConfig(source=path)})["a"].digest()
    assert extract_verb(args) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert extract_verb([*args, "--backbone", "spatial"]) == 2
    assert "leave out --backbone" in capsys.readouterr().err
    (tmp_path / "two.toml").write_text(TOML)
    for i, given in enumerate((["--maps", path], ["--set", f"data.source={path}"])):
        out = tmp_path / f"out{i}"
        assert ablate([str(tmp_path / "two.toml"), *given, "--out", str(out), *SMALL]) == 0, capsys.readouterr().err
        assert [file.name.rpartition("-")[0][-5:] for file in (out / "features").iterdir()] == ["table"]
    assert ablate([str(tmp_path / "two.toml"), *given, "--set", "data.backbone=wafercnn", "--out", str(out)]) == 2
    assert "holds a table" in capsys.readouterr().err


def test_tables_and_own_networks_reach_the_benchmark(tmp_path: Path) -> None:
    from qwafer.experiment import load_experiment

    heads = ["linear", "mlp", "tree"]
    (tmp_path / "two.toml").write_text(TOML)
    path = str(write(tmp_path / "t.csv", many(120)))
    experiment = load_experiment(tmp_path / "two.toml", [f"data.source={path}"], heads)
    resolved = resolve(experiment, tmp_path / "t")
    assert resolved.maps is None
    assert list(resolved.files) == heads
    assert len(set(resolved.files.values())) == 1
    overrides = ["data.n_maps=60", f"data.backbone={MINE}:MeanNetwork"]
    resolved = resolve(load_experiment(tmp_path / "two.toml", overrides, heads), tmp_path / "n")
    assert resolved.maps is not None
    tree, linear = (FeatureSet.load(resolved.files[head]) for head in ("tree", "linear"))
    assert (tree.features.shape[1], linear.features.shape[1]) == (88, 2)
    np.testing.assert_array_equal(tree.split, linear.split)


def test_the_verb_trains_a_network_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--maps", "synthetic", "--maps-count", "40", "--backbone", f"{MINE}:MeanNetwork", "--train", "--quiet"]
    assert extract_verb([*args, "--out", str(tmp_path / "f.npz"), "--train-seed", "1"]) == 0
    assert FeatureSet.load(tmp_path / "f.npz").split is not None
    assert (tmp_path / "f.tests.thirdparty-MeanNetwork.safetensors").is_file()
    assert extract_verb([*args, "--out", str(tmp_path / "g.npz"), "--train-split", "time"]) == 2
    assert "no option split_by" in capsys.readouterr().err


def test_compute_batches_run_in_the_executor_that_is_given(tmp_path: Path) -> None:
    class Backwards(Threads):
        ran = 0

        def run(self, jobs, on_event):  # type: ignore[no-untyped-def]
            jobs = list(jobs)
            self.ran += len(jobs)
            super().run(jobs[::-1], on_event)

    maps = wafer_maps(50)
    mine = Extractor("mine", 8, {"dtype": "float32"}, extractor(f"{MINE}:failing").features)
    executor = Backwards(2)
    features = extract(maps, mine, tmp_path / "f.npz", batch=16, executor=executor)
    assert executor.ran == 7
    np.testing.assert_array_equal(features.features, features_from_maps(maps, mine, jobs=1).features)
    with pytest.raises(InputError, match="not both"):
        features_from_maps(maps, mine, jobs=1, executor=executor)


def test_threads_report_what_becomes_of_jobs() -> None:
    events: list[Event] = []
    Threads(2).run([Job("a", lambda payload, report: payload + 1, 1), Job("b", lambda *_: 1 / 0)], events.append)
    ends = {event.key: event for event in events if event.kind in ("done", "failed")}
    assert ends["a"].result == 2
    assert ends["b"].failure is not None
    assert ends["b"].failure.type == "ZeroDivisionError"
