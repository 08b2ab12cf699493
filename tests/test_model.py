"""`Model`: maps in, decisions out, from one file, the same whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from qwafer import InputError
from qwafer._records import to_json
from qwafer.backbones import Extractor, extractor, features_from_maps
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.model import Model
from qwafer.training import RunResult, train

MAPS = synthetic_maps(300, seed=2)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""What a map's place in a batch may do to a compiled float32 program."""


def trained(arm: str, backbone: Extractor, maps: WaferMaps = MAPS, task: str = "any") -> tuple[RunResult, FeatureSet]:
    options = ["engine=xla", f"data.task={task}", "training.epochs=1", "training.max_doublings=0"]
    config = load_experiment("mean_z_vs_readout", options).arms[arm]
    features = features_from_maps(maps, backbone)
    return train(config, features, 0), features


@pytest.fixture(scope="module")
def cnn() -> Extractor:
    return extractor("wafercnn", random_weights=5)


@pytest.fixture(scope="module")
def run(cnn: Extractor) -> RunResult:
    return trained("mean_z_readout", cnn)[0]


def test_a_saved_model_gives_the_logits_of_its_run(run: RunResult, cnn: Extractor, tmp_path: Path) -> None:
    Model.from_run(run, cnn).save(tmp_path / "m.safetensors")
    model = Model.load(tmp_path / "m.safetensors")
    test = MAPS.take(run.outputs["test_rows"])
    predictions = model.predict(test)
    np.testing.assert_allclose(predictions.logits, run.outputs["test_logits"], **TOLERANCE)
    np.testing.assert_allclose(predictions.probabilities, 1 / (1 + np.exp(-predictions.logits)), rtol=1e-6)
    np.testing.assert_array_equal(predictions.decisions, predictions.logits > model.head.thresholds[0])
    assert predictions.label_names == model.label_names == ("defect",)
    assert model.provenance["backbone"]["random_weights"] == 5
    assert model.provenance["run"]["digests"] == to_json(run.digests)
    assert model.backbone.split is None
    again = tmp_path / "again.safetensors"
    model.save(again)
    np.testing.assert_array_equal(Model.load(again).predict(test).logits, predictions.logits)


def test_any_number_of_maps_gives_the_same_numbers(run: RunResult, cnn: Extractor) -> None:
    model = Model.from_run(run, cnn)
    alone = np.concatenate([model.predict(MAPS.maps[i : i + 1]).logits for i in range(9)])
    for n in (1, 7, 300):
        together = model.predict(MAPS.maps[:n]).logits
        assert together.shape == (n, 1)
        np.testing.assert_allclose(together[:9], alone[:n], **TOLERANCE)
    np.testing.assert_allclose(model.predict(list(MAPS.maps[:7])).logits, alone[:7], **TOLERANCE)


def test_spatial_features_are_stored_by_name(tmp_path: Path) -> None:
    result, features = trained("mean_z", extractor("spatial"))
    model = Model.from_run(result, features.provenance)
    model.save(tmp_path / "m.safetensors")
    assert set(safetensors.numpy.load_file(tmp_path / "m.safetensors")) == {"head"}
    test = MAPS.take(result.outputs["test_rows"])
    np.testing.assert_allclose(
        Model.load(tmp_path / "m.safetensors").predict(test).logits, result.outputs["test_logits"], **TOLERANCE
    )


def test_a_backbone_of_somebody_elses_is_stored_by_its_name(tmp_path: Path) -> None:
    backbone = extractor("tests.thirdparty:failing")
    result, features = trained("mean_z", backbone)
    path = tmp_path / "m.safetensors"
    Model.from_run(result, features.provenance).save(path)
    found = Model.load(path)
    assert found.backbone.name == "tests.thirdparty:failing"
    np.testing.assert_allclose(
        found.predict(MAPS.take(result.outputs["test_rows"])).logits, result.outputs["test_logits"], **TOLERANCE
    )
    nameless = Extractor("mine", 8, backbone.record, backbone.features)
    with pytest.raises(InputError, match="by its name"):
        Model(nameless, result.predictor, {}).save(path)


def test_trained_weights_are_in_the_file_and_named(tmp_path: Path) -> None:
    from qwafer.networks import network

    maps = MAPS.take(np.arange(80))
    weights = network("wafercnn", epochs=1).train(maps, tmp_path / "w.safetensors")
    backbone = extractor("wafercnn", weights=weights)
    result, features = trained("mean_z", backbone, maps)
    with pytest.raises(InputError, match="give its Extractor"):
        Model.from_run(result, features.provenance)
    Model.from_run(result, backbone).save(tmp_path / "m.safetensors")
    sha256 = backbone.record["weights"]["sha256"]
    weights.unlink()
    model = Model.load(tmp_path / "m.safetensors")
    assert model.provenance["backbone"]["weights"]["sha256"] == sha256
    assert not [key for key in safetensors.numpy.load_file(tmp_path / "m.safetensors") if "training" in key]
    test = maps.take(result.outputs["test_rows"])
    np.testing.assert_allclose(model.predict(test).logits, result.outputs["test_logits"], **TOLERANCE)


def test_other_weights_of_somebody_elses_network_are_refused(tmp_path: Path) -> None:
    from tests.thirdparty import MeanNetwork

    maps = MAPS.take(np.arange(80))
    weights = MeanNetwork().train(maps, tmp_path / "w.npz")
    backbone = extractor("tests.thirdparty:MeanNetwork", weights=weights)
    result, _ = trained("mean_z", backbone, maps)
    path = tmp_path / "m.safetensors"
    model = Model.from_run(result, backbone)
    model.save(path)
    test = maps.take(result.outputs["test_rows"])
    np.testing.assert_allclose(Model.load(path).predict(test).logits, result.outputs["test_logits"], **TOLERANCE)
    weights.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        Model.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        model.save(path)
    MeanNetwork(seed=1).train(maps, weights)
    with pytest.raises(InputError, match="does not hold the weights"):
        Model.load(path)


def test_another_source_of_somebody_elses_function_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    text = "import numpy as np\n\ndef f(maps):\n    return np.array([[(m == 2).mean(), 0.5] for m in maps])\n"
    own.write_text(text)
    result, features = trained("mean_z", extractor(f"{own}:f"), MAPS)
    Model.from_run(result, features.provenance).save(tmp_path / "m.safetensors")
    Model.load(tmp_path / "m.safetensors")
    own.write_text(text.replace("2", "1"))
    with pytest.raises(InputError, match="the source file of backbone"):
        Model.load(tmp_path / "m.safetensors")


def test_what_is_not_a_model_is_refused(run: RunResult, cnn: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    Model.from_run(run, cnn).save(path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"not a saved model|truncated or damaged"):
            Model.load(path)
    damaged = bytearray(whole)
    damaged[-1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        Model.load(path)
    safetensors.numpy.save_file({"head": np.zeros(3, np.uint8)}, path)
    with pytest.raises(InputError, match="another safetensors file"):
        Model.load(path)
    safetensors.numpy.save_file({"head": np.zeros(3, np.uint8)}, path, metadata={"qwafer_model": '{"schema": "x"}'})
    with pytest.raises(InputError, match="schema"):
        Model.load(path)
    with pytest.raises(InputError, match="absent"):
        Model.load(tmp_path / "absent")


def test_maps_and_results_that_do_not_fit_are_refused(run: RunResult, cnn: Extractor) -> None:
    import dataclasses

    model = Model.from_run(run, cnn)
    with pytest.raises(InputError, match="at least one"):
        model.predict([])
    with pytest.raises(InputError, match="must hold 0"):
        model.predict(np.full((1, 5, 5), 3, np.uint8))
    with pytest.raises(InputError, match="holds no trained head"):
        Model.from_run(dataclasses.replace(run, predictor=None), cnn)
    with pytest.raises(InputError, match="table"):
        Model.from_run(run, {"backbone": "table"})
