"""Exported files: features to the bit, answers of the model, refusals before anything is written."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import qwafer
from qwafer import CapabilityError, InputError, Model
from qwafer._records import to_json
from qwafer.backbones import extractor, features_from_maps
from qwafer.backbones.spatial import spatial_features
from qwafer.circuits import LayeredOptions
from qwafer.circuits.statevector import values
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions, head_inputs
from qwafer.objective import Softmax
from qwafer.serving.arrays import ModuleArrays
from qwafer.serving.evidence import assess, design_effect
from qwafer.serving.heads import check_head, circuit_values
from qwafer.serving.review import Review, ReviewOptions
from qwafer.serving.spatial import spatial
from tests.factories import random_circuit

MAPS = synthetic_maps(240, seed=3)
SHORT = TrainingConfig(epochs=2, batch_size=32, max_doublings=0)
ODD = (
    np.zeros((5, 7), np.uint8),
    np.ones((1, 1), np.uint8),
    np.full((3, 9), 2, np.uint8),
    np.array([[0, 2], [1, 0]], np.uint8),
)
"""Maps at the edges of the definition: no die, one die, all failing, none at the centre."""


def one_class(maps: WaferMaps = MAPS) -> WaferMaps:
    chosen = np.flatnonzero(maps.labels.sum(axis=1) == 1)
    return dataclasses.replace(maps.take(chosen), exclusive=True)


def model_of(backbone: Any, head: Any, maps: WaferMaps = MAPS, **config: Any) -> Model:
    made = extractor(backbone, **({"random_weights": 5} if backbone != "spatial" else {}))
    if isinstance(head, QuantumOptions):
        config = {"circuit": LayeredOptions(n_qubits=3, n_layers=1, readout="mean_z_readout"), **config}
    options = {"data": DataConfig(task="multilabel"), "training": SHORT, "engine": qwafer.engines.get("xla"), **config}
    if not isinstance(head, QuantumOptions):
        options.pop("engine")
    result = qwafer.train(RunConfig(head=head, **options), features_from_maps(maps, made), seed=0)
    return Model.from_run(result, made)


@pytest.fixture(scope="module")
def quantum() -> tuple[Model, WaferMaps]:
    maps = one_class()
    return model_of("spatial", QuantumOptions(), maps, objective=Softmax()), maps


def test_spatial_features_of_the_exported_function_are_those_of_the_library(shared: Path) -> None:
    real = qwafer.read_maps(shared / "data" / "wm811k.npz")
    some = [real.maps[i] for i in range(0, len(real), len(real) // 60)]
    for wafer in (*some, *ODD, *MAPS.maps[:5]):
        with np.errstate(all="raise"):
            found = spatial(ModuleArrays(np), wafer[None])
        np.testing.assert_array_equal(found, spatial_features(wafer[None]))


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_circuits_in_real_arithmetic_give_their_definition(seed: int) -> None:
    circuit, _ = random_circuit(seed)
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) for name, shape in circuit.weight_shapes().items()}
    angles = rng.normal(size=(3, max(circuit.n_inputs, 1))).astype(circuit.dtype)
    found = circuit_values(ModuleArrays(np), circuit, weights, angles)
    wanted = values(circuit, weights, angles[:, : circuit.n_inputs])
    np.testing.assert_allclose(found, wanted, atol=1e-5 if circuit.dtype == "float32" else 1e-12)


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
@pytest.mark.parametrize("kind", ["quantum", "cnn"])
def test_a_file_gives_the_answers_of_the_model(kind: str, form: str, request: Any, tmp_path: Path) -> None:
    from qwafer.serving.export import TOLERANCE, Exported, export_model

    if form == "onnx":
        pytest.importorskip("onnx", reason="the extra qwafer[onnx] is not installed")
        pytest.importorskip("onnxruntime", reason="the extra qwafer[onnx] is not installed")
    if kind == "quantum":
        model, maps = request.getfixturevalue("quantum")
    else:
        maps = MAPS.take(np.arange(90))
        model = model_of("wafercnn", MlpOptions(hidden=5), maps)
    review, evidence = assess(model, maps)
    path = tmp_path / "model.bin"
    manifest = export_model(model, review, evidence, maps, path, form)
    assert manifest.verification.n_maps == min(len(maps), 256)
    assert manifest.verification.largest <= TOLERANCE
    loaded = Exported.load(path)
    assert to_json(loaded.manifest) == to_json(manifest)
    ragged = [maps.maps[0], ODD[1], maps.maps[1]]
    p, labels, flags = loaded.predict(ragged)
    wanted = model.predict(ragged)
    np.testing.assert_array_equal(labels, wanted.decisions)
    features = features_from_maps(WaferMaps.from_arrays(ragged), model.backbone).features
    answered = review.answers(wanted.logits, features, model.head.thresholds, model.label_names)
    np.testing.assert_allclose(p, answered.probabilities, atol=1e-5)
    np.testing.assert_array_equal(flags, answered.review)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="its sha256 differs"):
        Exported.load(path)


def test_what_differs_from_the_model_is_not_written(quantum: tuple[Model, WaferMaps], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra qwafer[onnx] is not installed")
    from qwafer.serving import export as room

    model, maps = quantum
    review, evidence = assess(model, maps)
    other = dataclasses.replace(review, scale=tuple(1.01 * value for value in review.scale))
    call = room._call(room._onnx(model, other), "onnx")
    with pytest.raises(InputError, match="does not give the answers of the model"):
        room._verified(call, model, review, room.forward_of(model), list(maps.maps[:40]))
    with pytest.raises(InputError, match="must be one of onnx, stablehlo"):
        room.export_model(model, review, evidence, maps, tmp_path / "f", "pickle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "wires", "says"),
    [
        (QuantumOptions(), 9, "up to 8 wires"),
        (QuantumOptions(angle_bits=4), 2, "angle_bits"),
        (LinearOptions(), 0, "head mixture cannot be exported"),
        (LinearOptions(normalize="l2"), 0, "l2 cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(head: Any, wires: int, says: str) -> None:
    circuit = LayeredOptions(n_qubits=wires, n_layers=1, readout="mean_z_readout").circuit(2) if wires else None
    x = np.random.default_rng(0).normal(size=(20, 12))
    made = head.make(head_inputs(x, 2, seed=0, circuit=circuit, normalize=head.normalize))
    name = "mixture" if "mixture" in says else "quantum" if wires else "linear"
    with pytest.raises(CapabilityError, match=says):
        check_head(name, made)


def test_the_batch_and_the_sides_of_a_map_are_symbols() -> None:
    batch, height, width = export.symbolic_shape("batch, height, width")
    shape = jax.ShapeDtypeStruct((batch, height, width), np.uint8)
    made = export.export(jax.jit(lambda maps: spatial(ModuleArrays(jnp), maps)), platforms=("cpu", "cuda"))(shape)
    assert set(made.platforms) == {"cpu", "cuda"}
    again = export.deserialize(made.serialize())
    for wafers in (MAPS.maps[:3], MAPS.maps[:1, :20, :31]):
        np.testing.assert_array_equal(again.call(wafers), spatial_features(wafers))


def test_thresholds_of_review_flag_what_was_asked_for(quantum: tuple[Model, WaferMaps], tmp_path: Path) -> None:
    model, maps = quantum
    review, evidence = assess(model, maps, ReviewOptions(doubtful=0.3, far=0.0))
    n = evidence.reference.n
    assert evidence.reference.flagged == int(0.3 * n) / n
    assert sum(evidence.reference.predictions.values()) == n == evidence.n_maps["val"]
    assert evidence.accuracy == pytest.approx(evidence.test.macro["accuracy"])
    review.save(tmp_path / "review.safetensors")
    again = Review.load(tmp_path / "review.safetensors")
    assert (again.scale, again.confidence, again.distance) == (review.scale, review.confidence, review.distance)
    np.testing.assert_array_equal(again.whitening, review.whitening)
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not a review"):
        Review.load(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="do not give the split"):
        assess(model, maps.take(np.arange(len(maps) - 3)))


def test_far_maps_are_flagged_however_sure_the_model_is(quantum: tuple[Model, WaferMaps]) -> None:
    model, maps = quantum
    review, _ = assess(model, maps)
    features = features_from_maps(maps.take(np.arange(20)), "spatial").features
    logits = np.tile(np.linspace(0, 50, len(model.label_names)), (20, 1))  # sure of the last class
    for moved, flagged in ((0.0, False), (30.0, True)):
        found = review.answers(logits, features + np.float32(moved), (), model.label_names)
        assert (found.confidence > review.confidence).all()
        assert found.review.mean() == 1 if flagged else found.review.mean() < 0.5


def test_wafers_of_one_lot_that_are_alike_count_as_fewer() -> None:
    rng = np.random.default_rng(0)
    lots = np.repeat(np.arange(60), 10)
    alone = [design_effect(rng.integers(0, 3, 600), lots) for _ in range(40)]
    assert 0.9 < np.mean(alone) < 1.2
    alike = np.repeat(rng.integers(0, 3, 60), 10)
    assert 8 < design_effect(alike, lots) < 12
    assert design_effect(alike, None) == 1.0


@pytest.mark.slow
def test_int8_files_have_the_answers_and_a_review_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra qwafer[onnx] is not installed")
    from qwafer.onnx import Int8Options, quantise
    from qwafer.onnx.runtime import OnnxModel
    from qwafer.serving.export import Exported, export_model, int8_model

    model = model_of("wafercnn", LinearOptions(normalize="raw"), MAPS.take(np.arange(180)))
    maps = MAPS.take(np.arange(180))
    quantise(model, maps, tmp_path, Int8Options(calibration_maps=100, latency_calls=0))
    file = tmp_path / "int8.onnx"
    assessed, forward = int8_model(model, file)
    review, evidence = assess(assessed, maps, forward=forward)
    manifest = export_model(model, review, evidence, maps, tmp_path / "m.onnx", "onnx", int8=file)
    assert manifest.int8
    assert manifest.verification.largest <= 1e-5
    _, labels, _ = Exported.load(tmp_path / "m.onnx").predict(maps.maps[:40])
    np.testing.assert_array_equal(labels, OnnxModel.load(file).predict(maps.maps[:40]).decisions)
    for form, backbone, says in (("stablehlo", model, "INT8 is for"), ("onnx", None, "for backbone wafercnn")):
        other = backbone or model_of("spatial", LinearOptions(), maps)
        with pytest.raises(CapabilityError, match=says):
            export_model(other, review, evidence, maps, tmp_path / "n", form, int8=file)
