"""Extraction through a network: the same bits whatever the batch, the threads or SIGKILL; what the record says."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwafer.backbones import extract, extractor, features_from_maps, load
from qwafer.backbones.preprocess import Preprocessing
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.extract import main
from qwafer.features import FeatureSet
from tests.factories import wafer_maps

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "maps", [synthetic_maps(37, seed=0), wafer_maps(37, shape=(20, 30), ragged=True)], ids=["stacked", "ragged"]
)
def test_batch_and_jobs_change_no_bit(maps: WaferMaps, tmp_path: Path) -> None:
    network = extractor("wafercnn", random_weights=0)
    files = []
    for batch, jobs in ((1, 1), (9, 3), (1000, 2)):
        path = tmp_path / f"{batch}-{jobs}.npz"
        extract(maps, network, path, batch=batch, jobs=jobs)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
    np.testing.assert_array_equal(features_from_maps(maps, network).features, FeatureSet.load(path).features)


def test_extraction_is_preprocessing_and_network(tmp_path: Path) -> None:
    maps = wafer_maps(3, shape=(20, 30), ragged=True)
    backbone = load("mobilenet_v3_small", random_weights=0, channels="grey")
    features = extract(maps, backbone.extractor(), tmp_path / "f.npz")
    np.testing.assert_array_equal(features.features, backbone(Preprocessing(224, "grey")(maps.maps)))
    record = features.provenance
    assert record["backbone"] == "mobilenet_v3_small"
    assert record["random_weights"] == 0
    assert record["preprocessing"]["channels"] == "grey"
    assert record["preprocessing"]["size"] == 224
    assert record["dtype"] == "float32"
    assert record["device"] == {"platform": "cpu", "count": 1}
    assert {"jax", "flax", "numpy", "qwafer"} <= set(record["versions"])
    assert features.split is None


def test_other_weights_are_other_provenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "f.npz")
    args = ["--maps", "synthetic", "--maps-count", "10", "--backbone", "wafercnn", "--out", out, "--quiet"]
    assert main([*args, "--random-weights", "0"]) == 0
    assert main([*args, "--random-weights", "1"]) == 2
    assert "random_weights" in capsys.readouterr().err
    assert main([*args, "--random-weights", "0", "--dtype", "float16"]) == 2
    assert "dtype" in capsys.readouterr().err
    assert main([*args, "--random-weights", "0", "--batch", "3", "--jobs", "1"]) == 0


def test_sigkill_and_again_gives_the_arrays_of_an_unbroken_run(tmp_path: Path) -> None:
    verb = [sys.executable, "-m", "qwafer.extract", "--maps", "synthetic", "--maps-count", "3000", "--quiet"]
    verb += ["--backbone", "wafercnn", "--random-weights", "0", "--batch", "64"]
    out = tmp_path / "f.npz"
    process = subprocess.Popen([*verb, "--out", str(out)], cwd=ROOT)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("f.npz.parts/0*.npz"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "the extraction ended before it could be killed"
    assert 3 <= len(list(tmp_path.glob("f.npz.parts/0*.npz"))) < 47
    result = subprocess.run([*verb, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    unbroken = features_from_maps(synthetic_maps(3000, seed=0), "wafercnn", random_weights=0)
    resumed = FeatureSet.load(out)
    assert resumed.features.tobytes() == unbroken.features.tobytes()
    assert resumed.digest() == unbroken.digest()
    assert not [path.name for path in tmp_path.iterdir() if path != out]
