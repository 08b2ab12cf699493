"""The networks agree with the reference numbers, through the public path and from both kinds of file."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import lax

from qwafer import InputError
from qwafer.backbones import BACKBONES, Backbone, load
from qwafer.backbones.layers import global_mean, hard_swish, shifted_products, swish
from qwafer.backbones.mambavision import CONFIGS, attention_from
from qwafer.backbones.pretrained import architecture
from qwafer.backbones.scan import chunk_length, selective_scan, sequential_scan
from tests.torch_writer import save_torch

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-4
"""Relative to the largest feature: the contract with the reference implementations, in float32."""


def rule(shared: Path) -> ModuleType:
    """The script that rebuilds the reference checkpoints."""
    spec = importlib.util.spec_from_file_location("weights_rule", shared / "golden" / "weights_rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


def stages(backbone: Backbone, images: np.ndarray) -> list[tuple[float, float]]:
    """Mean and standard deviation behind every stage, as torch takes them."""

    def run(parameters: object, images: np.ndarray) -> object:
        module = backbone.architecture.module
        return module.apply({"params": parameters}, images, mutable=["intermediates"])[1]["intermediates"]["stages"]

    outputs = [np.asarray(x, np.float64) for x in jax.jit(run)(backbone.parameters, images)]
    return [(x.mean(), x.std(ddof=1)) for x in outputs]


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small", "mamba_vision_T"])
def test_features_agree_with_the_reference(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "cache"))
    golden = np.load(shared / "golden" / f"{name}.npz")
    state, images = rule(shared).state_dict(name), rule(shared).images(2)
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    backbone = load(name, weights=tmp_path / "w.safetensors")
    features = backbone(images)
    assert features.dtype == np.float32
    assert relative(features, golden["features"]) < TOLERANCE

    hub = {f"model.{key}": value for key, value in state.items()}
    from_torch = load(name, weights=save_torch({"state_dict": hub}, tmp_path / "w.pth.tar"))
    jax.tree.map(np.testing.assert_array_equal, backbone.parameters, from_torch.parameters)
    again = load(name, weights=tmp_path / "w.pth.tar")
    jax.tree.map(np.testing.assert_array_equal, backbone.parameters, again.parameters)

    if name != "mobilenet_v3_small":
        return  # one more compilation each: once is enough to test the stages themselves
    for found, wanted in zip(stages(backbone, images), golden["stages"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_features_of_the_large_model_agree_with_the_reference(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """98 million parameters, with layer scale; from a torch file alone, for the space that it takes."""
    monkeypatch.setenv("QWAFER_CACHE", str(tmp_path / "cache"))
    name = "mamba_vision_B_21k"
    golden = np.load(shared / "golden" / f"{name}.npz")
    path = save_torch(rule(shared).state_dict(name), tmp_path / "w.pth")
    backbone = load(name, weights=path)
    images = rule(shared).images(2)
    assert relative(backbone(images), golden["features"]) < TOLERANCE
    for found, wanted in zip(stages(backbone, images), golden["stages"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small", "mamba_vision_T", "mamba_vision_B_21k"])
def test_every_published_key_has_its_place(name: str, shared: Path) -> None:
    published = json.loads((shared / "golden" / "keys" / f"{name}.json").read_text())
    wanted = architecture(name)
    for key, shape in wanted.shapes.items():
        assert tuple(published[key]) == shape
    left = {key for key in published if key not in wanted.shapes and not key.endswith("num_batches_tracked")}
    assert all(key.startswith(wanted.unused) for key in left)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("T", 31.8), ("T2", 35.1), ("S", 50.1), ("B", 97.7), ("L", 227.9), ("L2", 241.5), ("L3_256_21k", 739.6)],
)
def test_variants_have_the_papers_sizes(name: str, millions: float) -> None:
    """Tables 1 and 2 of the paper give the parameters in millions, classification head included."""
    wanted = architecture(f"mamba_vision_{name}")
    trained = sum(int(np.prod(shape)) for key, shape in wanted.shapes.items() if "running" not in key)
    width = wanted.shapes["norm.weight"][0]
    assert (trained + 1000 * (width + 1)) / 1e6 == pytest.approx(millions, abs=0.07)


def test_a_variant_works_from_its_key_list_alone(shared: Path, tmp_path: Path) -> None:
    """MambaVision-T2, shallower, so that the test is quick: its blocks split otherwise between mixers and attention."""
    config = CONFIGS["mamba_vision_T2"]
    assert [attention_from(depth) for depth in config.depths[2:]] == [6, 2]
    shapes = architecture("mamba_vision_T2").shapes
    tensor = rule(shared).tensor
    safetensors.numpy.save_file({key: tensor(key, shape) for key, shape in shapes.items()}, tmp_path / "w.safetensors")
    backbone = load("mamba_vision_T2", weights=tmp_path / "w.safetensors")
    out = jax.eval_shape(backbone.apply, backbone.parameters, jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    assert out.shape == (1, 640)


def test_layer_scale_is_read_off_the_checkpoint() -> None:
    state = {"levels.2.blocks.0.gamma_1": np.zeros(1), "patch_embed.conv_down.0.weight": np.zeros((48, 3, 3, 3))}
    shapes = architecture("mamba_vision_S", state).shapes
    assert shapes["levels.3.blocks.4.gamma_2"] == (768,)
    assert shapes["patch_embed.conv_down.3.weight"] == (96, 48, 3, 3)


def test_every_name_gives_its_backbone() -> None:
    assert set(CONFIGS) < set(BACKBONES.names)
    for name in BACKBONES.names:
        if name not in ("spatial", "waferresnet", "trm", "logits") and not name.startswith("dies_"):
            assert architecture(name).name == name
    with pytest.raises(InputError, match="not a network on images"):
        load("spatial")


@pytest.fixture(scope="module")
def mobilenet() -> Backbone:
    return load("mobilenet_v3_small", random_weights=3)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((7, 64, 64, 3)).astype(np.float32)


def test_features_do_not_depend_on_the_batch(mobilenet: Backbone, images: np.ndarray) -> None:
    together = mobilenet(images)
    for start, stop in ((0, 1), (2, 7), (6, 7)):
        np.testing.assert_array_equal(mobilenet(images[start:stop]), together[start:stop])
    np.testing.assert_array_equal(mobilenet(images), together)


def test_random_weights_are_recorded_and_reproducible(mobilenet: Backbone, images: np.ndarray) -> None:
    record = mobilenet.extractor().record
    assert record["random_weights"] == 3
    assert record["weights"]["sha256"] is None
    again = load("mobilenet_v3_small", random_weights=3)
    jax.tree.map(np.testing.assert_array_equal, mobilenet.parameters, again.parameters)
    other = load("mobilenet_v3_small", random_weights=4)
    assert not np.array_equal(other.parameters["stem"]["kernel"], mobilenet.parameters["stem"]["kernel"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.015), ("bfloat16", 0.15)])
def test_half_precision_stays_close(dtype: str, tolerance: float, mobilenet: Backbone, images: np.ndarray) -> None:
    """Eleven and eight bits of mantissa; the bounds are thrice the errors on these drawn weights."""
    narrow = load("mobilenet_v3_small", random_weights=3, dtype=dtype)
    features = narrow(images[:2])
    assert features.dtype == np.float32
    error = relative(features, mobilenet(images[:2]))
    assert 1e-7 < error < tolerance


def test_images_of_another_shape_are_refused(mobilenet: Backbone) -> None:
    for shape in ((2, 3, 64, 64), (64, 64, 3), (0, 64, 64, 3), (1, 64, 64, 1)):
        with pytest.raises(InputError, match="images"):
            mobilenet(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="dtype"):
        load("mobilenet_v3_small", random_weights=0, dtype="float8")
    vision = load("mamba_vision_T", random_weights=0)
    with pytest.raises(InputError, match="multiple of 224"):
        jax.eval_shape(vision.apply, vision.parameters, jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32))


def test_several_devices_share_the_batch(tmp_path: Path) -> None:
    """Two devices of the host: the batch is sharded over them, and each image's features stay what they are."""
    code = f"""
import jax, numpy as np
from qwafer.backbones import load
images = np.random.default_rng(0).standard_normal((7, 64, 64, 3)).astype(np.float32)
backbone = load("mobilenet_v3_small", random_weights=3)
assert len(jax.devices()) == 2 and backbone.batch == 4, backbone.batch
program = jax.jit(backbone.apply)
out = program(backbone.parameters, jax.device_put(images[:4], backbone._rows))
assert len(out.sharding.device_set) == 2, out.sharding
np.save({str(tmp_path / "features.npy")!r}, backbone(images))
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PATH": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    alone = load("mobilenet_v3_small", random_weights=3)
    images = np.random.default_rng(0).standard_normal((7, 64, 64, 3)).astype(np.float32)
    assert relative(np.load(tmp_path / "features.npy"), alone(images)) < 1e-6


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride"), [(8, 8, 3, 1), (9, 7, 3, 2), (8, 10, 5, 2), (7, 7, 5, 1)]
)
def test_shifted_products_are_the_convolution(height: int, width: int, kernel: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    edge = (kernel // 2, kernel // 2)

    def oracle(x: np.ndarray, w: np.ndarray, groups: int) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, (stride, stride), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    x, w = rng.standard_normal((2, height, width, 6)), rng.standard_normal((kernel, kernel, 1, 6))
    shifted = jax.jit(shifted_products, static_argnums=2)
    np.testing.assert_allclose(shifted(x, w, stride), oracle(x, w, 6), rtol=1e-12, atol=1e-12)
    x, w = rng.standard_normal((2, height, width, 3)), rng.standard_normal((kernel, kernel, 3, 5))
    np.testing.assert_allclose(shifted(x, w, stride), oracle(x, w, 1), rtol=1e-12, atol=1e-12)


def test_activations_are_their_formulas() -> None:
    x = np.linspace(-12, 12, 401)
    np.testing.assert_allclose(swish(jnp.asarray(x)), x / (1 + np.exp(-x)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hard_swish(jnp.asarray(x)), x * np.clip(x + 3, 0, 6) / 6, rtol=1e-12, atol=1e-12)
    images = np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(global_mean(jnp.asarray(images)), images.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 12, 49, 196])
def test_the_scan_is_its_recurrence(length: int) -> None:
    rng = np.random.default_rng(length)
    batch, width, state = 2, 5, 3
    x, step = rng.standard_normal((batch, length, width)), rng.uniform(0.01, 1, (batch, length, width))
    decay = -rng.uniform(0.1, 5, (state, width))
    into, out = rng.standard_normal((batch, length, state)), rng.standard_normal((batch, length, state))
    held = np.zeros((batch, state, width))
    wanted = np.zeros_like(x)
    for t in range(length):
        held = held * np.exp(step[:, t, None] * decay) + (step * x)[:, t, None] * into[:, t, :, None]
        wanted[:, t] = (held * out[:, t, :, None]).sum(axis=1)
    arguments = [jnp.asarray(array) for array in (x, step, decay, into, out)]
    np.testing.assert_allclose(sequential_scan(*arguments), wanted, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(selective_scan(*arguments), wanted, rtol=1e-10, atol=1e-12)
    assert length % chunk_length(length) == 0
