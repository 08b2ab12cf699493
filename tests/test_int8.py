"""INT8 networks: graphs give the model's logits, ranges never come from test, and what runs is what training saw."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qwafer
from qwafer import CapabilityError, InputError, Model
from qwafer._records import load_record
from qwafer.backbones import Extractor, extractor, features_from_maps
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions
from qwafer.heads._normalization import normalization
from qwafer.objective import Softmax
from qwafer.onnx.calibration import calibration_rows, rows_of, shares, split_of_run
from qwafer.onnx.options import Int8Options

pytest.importorskip("onnx", reason="the extra qwafer[onnx] is not installed")
pytest.importorskip("onnxruntime", reason="the extra qwafer[onnx] is not installed")

from qwafer.onnx import Int8Report, OnnxModel, model_graph, quantise
from qwafer.onnx.forward import OPERATORS, Forward
from qwafer.onnx.graph import Graph
from qwafer.onnx.post_training import finished, post_training
from qwafer.onnx.runtime import run, save, session

MAPS = synthetic_maps(180, seed=2)
SHORT = TrainingConfig(epochs=2, batch_size=32, max_doublings=0)
ROOT = Path(__file__).resolve().parents[1]
QUICK = Int8Options(calibration_maps=100, latency_calls=20, latency_batches=(1, 4))


def model_of(backbone: Extractor, maps: WaferMaps = MAPS, head: Any = None, **config: Any) -> Model:
    features = features_from_maps(maps, backbone)
    options = {"data": DataConfig(task="multilabel"), "training": SHORT, **config}
    return Model.from_run(qwafer.train(RunConfig(head=head or LinearOptions(), **options), features, seed=0), backbone)


@pytest.fixture(scope="module")
def cnn() -> Model:
    """Without standardisation: a drawn network's features hardly vary, which 8 bits do not resolve."""
    return model_of(extractor("wafercnn", random_weights=5), head=LinearOptions(normalize="raw"))


@pytest.fixture(scope="module")
def mobilenet() -> Model:
    return model_of(extractor("mobilenet_v3_small", random_weights=1), MAPS.take(np.arange(60)))


@pytest.fixture(scope="module")
def report(cnn: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Int8Report, Path]:
    out = tmp_path_factory.mktemp("int8")
    return quantise(cnn, MAPS, out, dataclasses.replace(QUICK, fine_tune_epochs=1, batch_size=8)), out


def images_of(model: Model, maps: WaferMaps, rows: Any) -> np.ndarray:
    return OnnxModel.of(model_graph(model)).preprocessing([maps.maps[i] for i in rows])


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("name", ["cnn", "mobilenet"])
def test_the_graph_gives_the_logits_of_the_model(name: str, integer: bool, request: pytest.FixtureRequest) -> None:
    """The integer form says the same with other operators."""
    model = request.getfixturevalue(name)
    maps = MAPS.maps[:24]
    graph = model_graph(model, integer=integer)
    wanted = model.predict(maps).logits
    np.testing.assert_allclose(OnnxModel.of(graph).logits(maps), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    used = {node.op_type for node in graph.graph.node}
    assert "BatchNormalization" not in used
    assert ("Clip" in used) == (integer and name == "mobilenet")


@pytest.mark.shared
def test_the_graph_gives_the_logits_of_real_maps(cnn: Model, shared: Path) -> None:
    for name in ("mixedwm38.npz", "wm811k.npz"):
        maps = qwafer.read_maps(shared / "data" / name)
        some = [maps.maps[i] for i in range(0, len(maps), len(maps) // 16)][:16]
        wanted = cnn.predict(some).logits
        found = OnnxModel.of(model_graph(cnn)).logits(some)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_an_mlp_with_exclusive_classes_is_written_too() -> None:
    chosen = np.flatnonzero(MAPS.labels.sum(axis=1) == 1)
    maps = dataclasses.replace(MAPS.take(chosen), exclusive=True)
    backbone = extractor("wafercnn", random_weights=5)
    model = model_of(backbone, maps, MlpOptions(hidden=7), objective=Softmax())
    found, wanted = OnnxModel.of(model_graph(model)).predict(maps), model.predict(maps)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
    np.testing.assert_array_equal(found.decisions, wanted.decisions)


@pytest.mark.parametrize(
    ("sizes", "n", "wanted"), [((8, 4, 4), 4, (2, 1, 1)), ((97, 1, 2), 10, (8, 1, 1)), ((5, 5, 5), 2, None)]
)
def test_calibration_maps_are_shared_out_in_proportion(sizes: Any, n: int, wanted: Any) -> None:
    found = shares(np.array(sizes), n)
    assert found.sum() == n
    assert (found <= sizes).all()
    if wanted is not None:
        assert tuple(found) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_no_share_is_larger_than_its_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, rng.integers(1, 40))
    for n in rng.integers(1, sizes.sum() + 1, 20):
        found = shares(sizes, n)
        assert found.sum() == n
        assert ((found <= sizes) & (found >= (n >= len(sizes)))).all()


def test_calibration_comes_from_the_named_part_and_is_recorded(cnn: Model) -> None:
    prepared = split_of_run(cnn, MAPS)
    rows, record = calibration_rows(prepared, "train", 100, 0)
    assert set(rows) <= set(rows_of(prepared, "train"))
    assert len(set(MAPS.content_ids[rows])) == len(rows) == record.n_maps == 100
    kinds = {tuple(kind) for kind in MAPS.labels[rows_of(prepared, "train")]}
    assert {tuple(kind) for kind in MAPS.labels[rows]} == kinds
    assert record.n_combinations == record.n_combinations_of_part == len(kinds)
    assert calibration_rows(prepared, "train", 100, 0)[1] == record
    assert calibration_rows(prepared, "train", 100, 1)[1].digest != record.digest


def test_a_split_that_came_with_the_features_is_given_and_checked() -> None:
    backbone = extractor("wafercnn", random_weights=5)
    parts = np.array(["train", "val", "train", "test"] * 45)
    features = dataclasses.replace(features_from_maps(MAPS, backbone), split=parts)
    config = RunConfig(data=DataConfig(task="multilabel"), head=LinearOptions(), training=SHORT)
    model = Model.from_run(qwafer.train(config, features, seed=0), backbone)
    with pytest.raises(InputError, match="`split` where the split came with the features"):
        split_of_run(model, MAPS)
    prepared = split_of_run(model, MAPS, parts)
    np.testing.assert_array_equal(rows_of(prepared, "val"), np.flatnonzero(parts == "val"))
    rows, record = calibration_rows(prepared, "val", 20, 0)
    assert record.part == "val"
    assert set(rows) <= set(np.flatnonzero(parts == "val"))


def test_nothing_is_calibrated_on_test(cnn: Model) -> None:
    with pytest.raises(InputError, match="`calibrate_on` must not be test"):
        Int8Options(calibrate_on="test")
    prepared = split_of_run(cnn, MAPS)
    leaking = dataclasses.replace(
        prepared,
        split=dataclasses.replace(prepared.split, test=np.append(prepared.split.test, prepared.split.train[3])),
    )
    with pytest.raises(InputError, match="maps of the train split are in the test split, too"):
        calibration_rows(leaking, "train", 100, 0)


def test_maps_of_another_run_are_refused(cnn: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not give the split under which the model was trained"):
        quantise(cnn, synthetic_maps(180, seed=3), tmp_path)
    with pytest.raises(InputError, match="do not give the split under which the model was trained"):
        quantise(cnn, MAPS, tmp_path, split=split_of_run(cnn, MAPS).split.parts()[::-1].copy())
    assert not list(tmp_path.iterdir())


def test_a_small_part_cannot_calibrate(cnn: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`calibration_maps` must be at most \d+, the different maps of val, got 100"):
        quantise(cnn, MAPS, tmp_path, dataclasses.replace(QUICK, calibrate_on="val"))


@pytest.mark.parametrize(
    "option", [{"calibration_maps": 99}, {"calibration_maps": 1001}, {"learning_rate": 0.0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        Int8Options(**option)


def test_what_cannot_be_written_is_named(cnn: Model) -> None:
    with pytest.raises(CapabilityError, match="backbone spatial cannot be written"):
        model_graph(dataclasses.replace(cnn, backbone=extractor("spatial")))
    coarse = extractor("wafercnn", random_weights=5, dtype="bfloat16")
    with pytest.raises(CapabilityError, match="the model computes in bfloat16"):
        model_graph(dataclasses.replace(cnn, backbone=coarse))
    quantum = dataclasses.replace(cnn.head, config=RunConfig(head=QuantumOptions()))
    with pytest.raises(CapabilityError, match="head quantum cannot be written"):
        model_graph(dataclasses.replace(cnn, head=quantum))
    buffers = normalization(np.ones((2, cnn.head.n_features)), "l2", "float32")
    lengths = dataclasses.replace(cnn.head, head=dataclasses.replace(cnn.head.head, buffers=buffers))
    with pytest.raises(CapabilityError, match=r"head\.normalize = l2 cannot be written"):
        model_graph(dataclasses.replace(cnn, head=lengths))
    with pytest.raises(InputError, match=r"`model` must be a qwafer\.Model, got str"):
        model_graph("model")  # type: ignore[arg-type]


def test_weights_are_rounded_as_the_runtime_rounds_them(cnn: Model) -> None:
    """Codes and scales of ONNX Runtime's tools are those of fine-tuning, bit for bit, and err by half a step."""
    graph = model_graph(cnn, integer=True)
    forward = Forward.of(post_training(graph, [images_of(cnn, MAPS, range(20))]))
    weights = {name: value for name, value in Forward.of(graph).constants.items() if name in forward.trained()}
    found = forward.quantised({name: jnp.asarray(value) for name, value in weights.items()})
    assert len(forward.codes) == 4
    for codes, scale in forward.codes.items():
        np.testing.assert_array_equal(found[scale], forward.constants[scale])
        np.testing.assert_array_equal(found[codes], forward.constants[codes].astype(np.float32))
        assert forward.constants[codes].dtype == np.int8
        weight = weights[codes.removesuffix("_quantized")]
        step = forward.constants[scale].reshape(-1, *[1] * (weight.ndim - 1))
        assert (np.abs(weight - step * forward.constants[codes]) <= 0.5001 * step).all()


def test_rounding_has_the_gradient_of_the_identity(cnn: Model) -> None:
    """The loss sum(codes * scale) has gradient 1 in every weight, and clipped activations have gradient 0."""
    graph = model_graph(cnn, integer=True)
    forward = Forward.of(post_training(graph, [images_of(cnn, MAPS, range(20))]))
    start = Forward.of(graph).constants
    weights = {name: jnp.asarray(start[name]) for name in forward.trained()}

    def dequantised(weights: dict[str, Any]) -> Any:
        found = forward.quantised(weights)
        return sum(
            (found[c] * found[s].reshape(-1, *[1] * (found[c].ndim - 1))).sum() for c, s in forward.codes.items()
        )

    slopes = jax.jit(jax.grad(dequantised))(weights)
    for codes in forward.codes:
        np.testing.assert_allclose(slopes[codes.removesuffix("_quantized")], 1, rtol=1e-6)


def test_activations_are_rounded_to_even_and_clipped_without_gradient() -> None:
    """q = clip(round(x / s) + z, 0, 255), as ONNX has it; dq/dx = 1 / s where nothing is clipped, else 0."""
    x = jnp.asarray([-10, -2.5, -1.5, 0.5, 1.5, 100, 500], jnp.float32)
    scale, zero = np.float32(0.5), np.uint8(7)

    def codes(x: Any) -> Any:
        return OPERATORS["QuantizeLinear"]({}, x, scale, zero)

    np.testing.assert_array_equal(codes(x), [0, 2, 4, 8, 10, 207, 255])
    np.testing.assert_array_equal(codes(jnp.asarray([0.25, 0.75, 1.25], jnp.float32)), [7, 9, 9])
    np.testing.assert_array_equal(jax.jacobian(codes)(x).diagonal(), [0, 2, 2, 2, 2, 2, 0])
    back = OPERATORS["DequantizeLinear"]({}, codes(x), scale, zero)
    assert np.abs(back - x)[1:6].max() <= scale / 2


def test_gradient_steps_through_the_rounding_lower_the_loss(cnn: Model) -> None:
    graph = model_graph(cnn, integer=True)
    images = images_of(cnn, MAPS, range(16))[:, ::2, ::2]
    labels = jnp.asarray(MAPS.labels[:16], jnp.float32)
    forward = Forward.of(post_training(graph, [images]))
    start = Forward.of(graph).constants
    weights = {name: jnp.asarray(start[name]) for name in forward.trained()}

    @jax.jit
    def loss(weights: Any, images: Any) -> Any:
        logits = forward.logits(images, forward.quantised(weights))
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    slope = jax.jit(jax.value_and_grad(loss))
    losses = []
    for _ in range(8):
        value, gradient = slope(weights, images)
        losses.append(float(value))
        assert all(np.abs(each).max() > 0 for each in gradient.values())
        weights = {name: weights[name] - np.float32(0.02) * gradient[name] for name in weights}
    assert losses[-1] < 0.98 * losses[0]


def test_the_runtime_computes_in_8_bits_what_training_saw(report: tuple[Int8Report, Path], cnn: Model) -> None:
    """Every layer is an integer kernel, and logits differ from JAX's by ties of rounding, before and after tuning."""
    found, out = report
    against = {each.name: each.against for each in found.variants}
    assert against == {
        "float32": None,
        "int8": "float32",
        "float32 fine-tuned": "float32",
        "int8 fine-tuned": "float32 fine-tuned",
    }
    plain = found.variants[0]
    quantised = [each for each in found.variants if each.name.startswith("int8")]
    for each in found.variants:
        if each not in quantised:
            assert (each.integer_layers, each.layers) == (0, 4)
            assert each.agreement.largest < 1e-4 * each.agreement.spread + 1e-4
            assert each.agreement.decisions == 1
    for each in quantised:
        assert (each.integer_layers, each.layers) == (4, 4)
        assert each.agreement.largest < 0.1 * each.agreement.spread
        assert each.agreement.decisions > 0.97
        assert 4 * each.weight_bytes == plain.weight_bytes == 4 * (9 * (3 * 32 + 32 * 64 + 64 * 128) + 128 * 8)
        assert each.file_bytes == (out / each.file).stat().st_size < 0.265 * plain.file_bytes
        assert [latency.batch for latency in each.latency] == [1, 4]
        assert all(0 < latency.p50 <= latency.p99 for latency in each.latency)
    assert found.split == cnn.provenance["run"]["digests"]["split"]
    assert found.random_weights == 5


def test_the_report_is_read_back_and_says_what_the_files_do(report: tuple[Int8Report, Path]) -> None:
    found, out = report
    again = load_record(Int8Report, out / "int8.json")
    assert again.calibration == found.calibration
    assert again.fine_tuning == found.fine_tuning
    assert again.variants[0] == found.variants[0]
    assert again.table() == found.table()
    test = MAPS.take(split_rows(found, "test"))
    for each in found.variants:
        model = OnnxModel.load(out / each.file)
        assert model.thresholds == each.thresholds
        decisions = model.predict(test).decisions
        assert (decisions == test.labels).all(axis=1).mean() == pytest.approx(each.test_exact_match)
    assert f"| {found.variants[1].file_bytes:,} |" in found.table()


def split_rows(report: Int8Report, part: str) -> np.ndarray:
    from qwafer.data import make_split

    split = make_split(MAPS.labels, MAPS.content_ids, seed=0)
    assert split.digest == report.split
    return np.asarray(getattr(split, part))


def test_fine_tuning_keeps_the_best_epoch_of_validation(report: tuple[Int8Report, Path]) -> None:
    """Where no epoch is better than what was calibrated, that is kept, to the bit."""
    found, out = report
    assert set(found.fine_tuning) == {"float32 fine-tuned", "int8 fine-tuned"}
    for tuning in found.fine_tuning.values():
        assert len(tuning.val_loss) == 2
        assert tuning.best_epoch == int(np.argmin(tuning.val_loss))
    before, after = (onnx_codes(out / name) for name in ("int8.onnx", "int8-fine-tuned.onnx"))
    assert len(before) == len(after) == 4
    changed = any((one != other).any() for one, other in zip(before, after, strict=True))
    assert changed == (found.fine_tuning["int8 fine-tuned"].best_epoch > 0)


def onnx_codes(path: Path) -> list[np.ndarray]:
    import onnx

    constants = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
    return [array for array in constants if array.dtype == np.int8 and array.ndim > 1]


def test_a_damaged_file_is_refused(report: tuple[Int8Report, Path], tmp_path: Path) -> None:
    content = (report[1] / "int8.onnx").read_bytes()
    bad = tmp_path / "bad.onnx"
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        bad.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(InputError, match="is not an ONNX graph of qwafer, or a damaged one"):
            OnnxModel.load(bad)
    for other in (b"", b"not a graph", content[: len(content) // 2]):
        bad.write_bytes(other)
        with pytest.raises(InputError, match="is not an ONNX graph of qwafer, or a damaged one"):
            OnnxModel.load(bad)


@pytest.mark.parametrize("integer", [False, True])
def test_hard_swish_is_the_formula(integer: bool, tmp_path: Path) -> None:
    """x min(max(x + 3, 0), 6) / 6, whose factor the next layer's weights take in the integer form."""
    graph = Graph("formula", integer=integer)
    x = graph.flat(graph.hard_swish("images"))
    graph.dense(x, "logits", {"kernel": np.eye(5), "bias": np.zeros(5)})
    built = graph.model(("images", ("batch", 5, 1, 1)), ("logits", ("batch", 5)))
    x = np.array([-4, -3, -1, 0.5, 7], np.float32)
    found = run(session(built.SerializeToString()), x.reshape(1, 5, 1, 1))[0]
    np.testing.assert_allclose(found, x * np.clip(x + 3, 0, 6) / 6, rtol=1e-6, atol=1e-7)


def test_mobilenet_runs_in_8_bits_but_for_its_first_layer(mobilenet: Model, tmp_path: Path) -> None:
    from qwafer.onnx.quantisation import integer_layers

    graph = model_graph(mobilenet, integer=True)
    images = images_of(mobilenet, MAPS, range(8))[:, ::3, ::3]
    quantised = finished(post_training(graph, [images]))
    assert integer_layers(quantised) == (52, 53)
    assert save(quantised, tmp_path / "q.onnx") < 0.31 * save(model_graph(mobilenet), tmp_path / "f.onnx")


@pytest.mark.slow
def test_mobilenet_runs_in_8_bits_as_in_jax(mobilenet: Model) -> None:
    images = images_of(mobilenet, MAPS, range(16))
    quantised = finished(post_training(model_graph(mobilenet, integer=True), [images]))
    found, seen = run(session(quantised.SerializeToString()), images), jax.jit(Forward.of(quantised).logits)(images)
    assert np.std(found - seen) < 0.1 * np.std(found)  # random weights: a tie of rounding grows over 52 layers


def test_without_the_extra_it_is_said(cnn: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CapabilityError, match=r"the package onnxruntime, which is not here: install qwafer\[onnx\]"):
        quantise(cnn, MAPS, tmp_path)


def test_the_core_does_not_import_the_extra() -> None:
    code = (
        "import sys, qwafer.cli.ablate, qwafer.studies, qwafer.model, qwafer.training, qwafer.onnx, qwafer.onnx.write\n"
        "print(*sorted({'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["wafercnn", "mobilenet_v3_small"])
def test_the_tables_of_the_page_are_those_of_the_committed_reports(name: str) -> None:
    report = load_record(Int8Report, ROOT / "benchmarks" / "results" / f"int8-{name}.json")
    page = (ROOT / "docs" / "small.md").read_text(encoding="utf-8")
    block = page.split(f"<!-- begin int8-{name} -->\n")[1].split(f"\n<!-- end int8-{name} -->")[0]
    assert block == report.table()
    assert report.environment.host.name == report.environment.host.platform == ""
    assert report.calibration.part == "train"
