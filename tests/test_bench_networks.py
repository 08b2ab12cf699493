"""Networks as contenders of a benchmark: each reads the dies, beside heads on features of the same maps and split."""

from pathlib import Path

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.bench import main
from qwafer.comparison.runs import check_same_examples
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.sweeps.resolved import resolve
from qwafer.training import train

TOML = """
metric = "test.f1_tuned"
baseline = "linear"
[data]
n_maps = 60
[training]
epochs = 1
max_doublings = 0
batch_size = 32
[arms.linear]
head = "linear"
"""
SMALL = [
    "head.size=26",
    "head.patch=2",
    "head.width=8",
    "head.layers=1",
    "head.recursions=1",
    "head.supervision_steps=2",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "one.toml").write_text(TOML)
    return tmp_path / "one.toml"


def test_each_contender_has_the_dies_that_it_reads(file: Path) -> None:
    overrides = ["data.backbone=wafercnn", "head.size=26", "head.patch=2"]
    arms = load_experiment(file, overrides, heads=["linear", "wafercnn", "waferresnet", "trm"]).arms
    assert {arm: config.data.backbone for arm, config in arms.items()} == {
        "linear": "wafercnn",
        "wafercnn": "dies_52",
        "waferresnet": "dies_52",
        "trm": "dies_26",
    }
    larger = load_experiment(file, ["head.size=52", "head.patch=4"], heads=["linear", "trm"]).arms
    assert (larger["linear"].data.backbone, larger["trm"].data.backbone) == ("spatial", "dies_52")


def test_a_network_beside_a_head_on_features(file: Path, tmp_path: Path) -> None:
    experiment = load_experiment(file, SMALL, heads=["linear", "trm"])
    resolved = resolve(experiment, tmp_path / "features")
    data = {head: FeatureSet.load(path) for head, path in resolved.files.items()}
    assert {head: found.provenance["backbone"] for head, found in data.items()} == {
        "linear": "spatial",
        "trm": "dies_26",
    }
    runs = {head: train(resolved.experiment.arms[head], found, 0) for head, found in data.items()}
    check_same_examples({head: {0: run} for head, run in runs.items()})
    linear, trm = (run.digests for run in runs.values())
    assert (linear.split, linear.batches) == (trm.split, trm.batches)
    assert linear.source != trm.source


def test_features_without_dies_are_refused_with_the_way_to_do_it(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    FeatureSet.from_arrays(rng.standard_normal((60, 5)), rng.integers(0, 2, (60, 2))).save(tmp_path / "f.npz")
    text = file.read_text().replace("[data]\nn_maps = 60\n", "")
    file.write_text(text)
    command = [str(file), "--features", str(tmp_path / "f.npz"), "--heads", "linear,wafercnn", "--seeds", "1"]
    assert main([*command, "--descriptive", "--quiet", "--executor", "serial", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "head wafercnn reads maps of 52 x 52 dies, got 5 features: take maps, and set data.backbone" in error
    assert error.count("\n") == 1


def test_adapters_are_refused_with_the_way_to_do_it(file: Path) -> None:
    experiment = load_experiment(file, heads=["linear", "lora"])
    resolved = resolve(experiment, file.parent / "features")
    with pytest.raises(InputError, match="take maps, and a backbone such as wafercnn@block2"):
        train(resolved.experiment.arms["lora"], FeatureSet.load(resolved.files["lora"]), 0)
