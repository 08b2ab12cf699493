"""What a third party adds in modules of its own (`tests/stranger/`), used by script, TOML and verbs."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import qwafer
from qwafer import ablate, bench, diagnose, extract
from qwafer.config import DataConfig, RunConfig
from qwafer.execution import make_executor
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions
from qwafer.studies import run_experiment
from tests.factories import training_options
from tests.stranger.backbone import quadrants
from tests.stranger.circuit import Ising
from tests.stranger.contender import NearestMean
from tests.stranger.executor import Backwards
from tests.stranger.head import Prototypes
from tests.stranger.loss import Brier

STRANGER = Path(__file__).parent / "stranger"
MODULES = sorted(STRANGER.glob("*.py"))
THINGS = {"circuit", "head", "loss", "backbone", "network", "contender", "executor", "dataset"}
SHORT = {"data": DataConfig(task="Edge"), "training": training_options(epochs=3, batch_size=16, learning_rate=0.05)}

EXPERIMENT = """
seeds = 2
metric = "test.roc_auc"
baseline = "linear"
objective = "tests.stranger.loss:Brier"

[data]
source = "{source}"
reader = "tests.stranger.dataset:read_lots"
backbone = "tests.stranger.backbone:quadrants"
task = "Edge"

[training]
epochs = 3
max_doublings = 0
batch_size = 16
learning_rate = 0.05

[arms.linear]
head.name = "linear"

[arms.prototypes]
head.name = "tests.stranger.head:Prototypes"
head.scale = 0.5

[arms.ising]
circuit.name = "tests.stranger.circuit:Ising"
circuit.n_qubits = 2
engine.name = "reference"

[arms.nearest]
head.name = "tests.stranger.contender:NearestMean"
"""


@pytest.fixture(scope="module")
def lots(tmp_path_factory):
    """The stranger's data: 90 maps of 12 x 12 dies in 9 lots, half of them with failing dies along one side."""
    rng = np.random.default_rng(0)
    dies = 1 + (rng.random((90, 12, 12)) < 0.05).astype(np.uint8)
    edge = np.arange(90, dtype=np.uint8) % 2
    dies[edge == 1, :3] = 1 + (rng.random((45, 3, 12)) < 0.4).astype(np.uint8)
    dies[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0  # the corners lie off the wafer
    path = tmp_path_factory.mktemp("stranger") / "lots.npz"
    np.savez(path, dies=dies, edge=edge, lot=np.array([f"lot{i // 10}" for i in range(90)]))
    return path


@pytest.fixture(scope="module")
def experiment_file(lots):
    path = lots.with_name("own.toml")
    path.write_text(EXPERIMENT.format(source=lots))
    return path


@pytest.fixture(scope="module")
def features(lots):
    maps = qwafer.read_maps(lots, reader="tests.stranger.dataset:read_lots")
    assert maps.groups is not None
    return qwafer.features_from_maps(maps, "tests.stranger.backbone:quadrants")


def test_there_is_one_short_module_of_each_and_none_imports_what_is_private():
    assert {path.stem for path in MODULES} == THINGS
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 30, path.name
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not any(part.startswith("_") for name in names for part in name.split(".")), (path.name, names)


@pytest.mark.parametrize(
    "things",
    [
        {"head": Prototypes(scale=0.5)},
        {"head": NearestMean()},
        {"head": LinearOptions(), "objective": Brier(label_smoothing=0.1)},
        {"circuit": Ising(n_qubits=2), "engine": qwafer.engines.get("reference")},
    ],
    ids=["head", "contender", "loss", "circuit"],
)
def test_in_a_script(features, things):
    config = RunConfig(**things, **SHORT)
    result = qwafer.train(config, features, seed=0)
    assert result.test.macro["roc_auc"] > 0.8
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert qwafer.train(again, features, seed=0).fingerprint() == result.fingerprint()


def test_a_backbone_in_a_script(lots, features):
    maps = qwafer.read_maps(lots, reader="tests.stranger.dataset:read_lots")
    np.testing.assert_allclose(features.features, quadrants(list(maps.maps)), rtol=1e-6)


@pytest.mark.slow
def test_an_experiment_runs_on_another_executor_with_the_same_numbers(experiment_file, tmp_path):
    experiment = qwafer.load_experiment(experiment_file)
    Backwards.ran.clear()
    backwards = make_executor("tests.stranger.executor:Backwards")
    other = run_experiment(experiment, tmp_path / "backwards", executor=backwards, descriptive=True)
    runs = [key for key in Backwards.ran if "seed" in key]
    assert len(runs) == other.n_done == 8
    assert runs[0].endswith("seed-1")
    assert not any(summary.failed for summary in other.summary.arms.values())
    # Worker processes import the stranger's modules.
    local = run_experiment(experiment, tmp_path / "local", jobs=1, descriptive=True)
    assert local.summary.comparisons == other.summary.comparisons
    changes = local.summary.arms["prototypes"].changes
    assert {name: value for name, value in changes.items() if name.startswith("head.")} == {
        "head.name": "tests.stranger.head:Prototypes",
        "head.scale": 0.5,
    }


def test_ablate(experiment_file, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(experiment_file), "--out", str(out), "--quiet", "--descriptive"]
    arguments += ["--executor", "tests.stranger.executor:Backwards"]
    assert ablate.main([*arguments, "--set", "head.scale=0.25"]) == 0
    assert "prototypes" in (out / "report.md").read_text()
    record = json.loads((out / "runs" / "prototypes" / "seed-0.json").read_text())
    assert record["config"]["head"] == {"name": "tests.stranger.head:Prototypes", "scale": 0.25}
    capsys.readouterr()
    assert ablate.main([*arguments, "--set", "head.scales=0.25"]) == 2
    assert "did you mean `head.scale`" in capsys.readouterr().err


def test_bench(experiment_file, tmp_path):
    heads = "linear,prototypes,nearest"
    arguments = [str(experiment_file), "--heads", heads, "--seeds", "1", "--descriptive", "--quiet"]
    arguments += ["--out", str(tmp_path / "out")]
    assert bench.main(arguments) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(head in report for head in heads.split(","))
    assert "Not counted: nearest." in report
    assert "NearestMean" in json.loads((tmp_path / "out" / "bench_nearest.json").read_text())["config"]["head"]["name"]


def test_a_contender_joins_a_benchmark_by_its_name(experiment_file):
    experiment = qwafer.load_experiment(experiment_file)
    chosen = qwafer.load_experiment(experiment_file, heads=["linear", "tests.stranger.contender:NearestMean"])
    assert chosen.arms["NearestMean"].head == NearestMean()
    assert chosen.arms["NearestMean"].data == experiment.arms["linear"].data


def test_diagnose(experiment_file, capsys):
    assert diagnose.main([str(experiment_file), "--quiet"]) in (0, 1)
    out = capsys.readouterr().out
    assert "gradient agreement" in out
    assert "identical arms" in out


def test_extract(lots, tmp_path):
    reader = ["--maps", str(lots), "--reader", "tests.stranger.dataset:read_lots", "--quiet"]
    out = tmp_path / "quadrants.npz"
    assert extract.main([*reader, "--backbone", "tests.stranger.backbone:quadrants", "--out", str(out)]) == 0
    assert FeatureSet.load(out).features.shape == (90, 4)
    out = tmp_path / "pca.npz"
    assert extract.main([*reader, "--backbone", "tests.stranger.network:PCA", "--train", "--out", str(out)]) == 0
    found = FeatureSet.load(out)
    assert found.features.shape == (90, 4)
    assert set(np.unique(found.split)) == {"train", "val", "test"}


def test_a_network_is_trained_where_an_experiment_names_it(experiment_file, tmp_path):
    experiment = qwafer.load_experiment(experiment_file, ["data.backbone=tests.stranger.network:PCA"])
    outcome = run_experiment(experiment, tmp_path / "out", executor=make_executor("serial"), descriptive=True)
    (weights,) = (tmp_path / "out" / "features").glob("*.safetensors")
    assert "PCA" in weights.name
    assert outcome.summary.arms["linear"].mean > 0.5
