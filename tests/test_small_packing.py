"""Few-bit codes in files and in words: nothing is lost, and nothing is counted that is not there."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import qwafer
from qwafer import CapabilityError, InputError
from qwafer._records import to_json
from qwafer.backbones import extractor, features_from_maps
from qwafer.backbones.checkpoints import read_tensors, write_tensors
from qwafer.config import RunConfig
from qwafer.heads import LinearOptions, MlpOptions, QuantisedOptions, TreeOptions, head_inputs, size_of
from qwafer.heads._packing import pack_bits, pack_trits, unpack_bits, unpack_trits
from qwafer.heads._popcount import popcount_product, sign_planes, ternary_planes, words
from qwafer.heads.few_bits import PRECISIONS
from qwafer.model import Model
from qwafer.training import Predictor, RunResult, train
from tests.factories import feature_set, training_options

D, K = 37, 3
WIDTHS = {"1": 1, "2": 2, "4": 4, "8": 8, "16": 16, "qesc": 2}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), array_shapes(max_dims=3, max_side=11), st.integers(0, 2**31))
def test_packed_bits_come_back(bits, shape, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape)
    packed = pack_bits(codes, bits)
    assert packed.nbytes == -(-codes.size * bits // 8)
    np.testing.assert_array_equal(unpack_bits(packed, bits, shape), codes)


@settings(max_examples=30, deadline=None)
@given(array_shapes(max_dims=3, max_side=11), st.integers(0, 2**31))
def test_packed_trits_come_back(shape, seed):
    codes = np.random.default_rng(seed).integers(0, 3, shape)
    packed = pack_trits(codes)
    assert packed.nbytes == -(-codes.size // 5)
    np.testing.assert_array_equal(unpack_trits(packed, shape), codes)


def test_what_cannot_be_packed_or_unpacked():
    for pack in (lambda: pack_bits(np.array([4]), 2), lambda: pack_bits(np.array([-1]), 2), lambda: pack_trits([3])):
        with pytest.raises(InputError, match="codes must be whole numbers from 0 to"):
            pack()
    with pytest.raises(InputError, match=r"uint8 of shape \(2,\)"):
        unpack_bits(np.zeros(3, np.uint8), 4, (3,))
    with pytest.raises(InputError, match="bytes below 243, got 250"):
        unpack_trits(np.array([250], np.uint8), (2,))


@pytest.mark.parametrize(("n", "bits"), [(1, 3), (31, 8), (32, 1), (33, 1), (70, 8), (1100, 3)])
def test_the_popcount_product_is_the_product(n, bits):
    """Exactly: as whole numbers, and as a float32 product of the codes."""
    rng = np.random.default_rng(n)
    weights = rng.integers(-1, 2, (n, 5))
    inputs = 2 * rng.integers(0, 2**bits, (4, n)) - (2**bits - 1)
    product = popcount_product(sign_planes(jnp.asarray(inputs), bits), *ternary_planes(jnp.asarray(weights)))
    np.testing.assert_array_equal(product, inputs @ weights)
    np.testing.assert_array_equal(product, jnp.asarray(inputs, "float32") @ jnp.asarray(weights, "float32"))


def test_words_are_little_endian():
    bits = np.random.default_rng(0).random((3, 70)) < 0.5
    expected = np.packbits(np.pad(bits, ((0, 0), (0, 26))), axis=1, bitorder="little").view("<u4")
    np.testing.assert_array_equal(words(jnp.asarray(bits)), expected)


def head(features=None, **options):
    x = np.random.default_rng(5).normal(size=(30, D)).astype(np.float32) if features is None else features
    return QuantisedOptions(**options).make(head_inputs(x, K, 1)), x


@pytest.mark.parametrize(
    ("precision", "hidden"), [("1", None), ("4", None), ("16", None), ("bitnet", 11), ("qesc", 11)]
)
def test_a_packed_head_gives_the_logits_of_the_trained_one(precision, hidden):
    trained, x = head(precision=precision, hidden=hidden)
    packed = trained.packed()
    assert packed.is_packed
    assert not trained.is_packed
    assert packed.packed() is packed
    np.testing.assert_allclose(packed.logits(x, None), trained.logits(x, None), rtol=1e-6, atol=1e-6)
    stored = trained.stored()
    again = trained.with_stored({name: part.array for name, part in stored.items()})
    np.testing.assert_array_equal(again.logits(x, None), packed.logits(x, None))
    for name, part in again.stored().items():
        np.testing.assert_array_equal(part.array, stored[name].array)
    assert size_of(again) == size_of(trained)
    numbers = size_of(trained).numbers
    assert packed.count() == {"trainable": 0, "frozen": numbers, "total": numbers}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sizes_in_closed_form(precision):
    size = size_of(head(precision=precision)[0])
    n_scales = 1 if precision == "bitnet" else K
    assert size.numbers == D * K + n_scales + K + 2 * D
    weights = 8 * -(-D * K // 5) if precision == "bitnet" else WIDTHS[precision] * D * K
    assert size.bits == weights + 32 * (n_scales + K + 2 * D)
    assert size.file_bytes is None
    assert size.bits <= 8 * size.n_bytes < size.bits + 8 * len(size.parts)


def test_a_float_head_counts_32_bits_each():
    size = size_of(LinearOptions().make(head_inputs(np.eye(6, D, dtype=np.float32), K, 0)))
    assert (size.numbers, size.bits) == (D * K + K + 2 * D, 32 * (D * K + K + 2 * D))


DATA = feature_set(200, D, K)


def run(options, **training) -> RunResult:
    return train(RunConfig(head=options, training=training_options(**{"epochs": 2, **training})), DATA, 0)


@pytest.fixture(scope="module")
def runs() -> dict[str, RunResult]:
    options = {
        "linear": LinearOptions(),
        "tree": TreeOptions(),
        "4": QuantisedOptions(precision="4", calibration="mse", method="post_training"),
        "qesc": QuantisedOptions(precision="qesc", hidden=9),
    }
    return {name: run(own) for name, own in options.items()}


def in_header(path: Path) -> int:
    """The bytes of all tensors, by the header of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert len(content) == 8 + length + max(entry["data_offsets"][1] for entry in header.values() if "dtype" in entry)
    return sum(b - a for a, b in (entry["data_offsets"] for entry in header.values() if "dtype" in entry))


@pytest.mark.parametrize("name", ["linear", "4", "qesc"])
def test_a_packed_file_is_as_large_as_is_said_and_gives_the_logits_back(runs, name, tmp_path):
    predictor, path = runs[name].predictor, tmp_path / "head"
    size = size_of(predictor)
    predictor.save(path, packed=True)
    assert path.stat().st_size == size.file_bytes
    assert in_header(path) == size.n_bytes
    assert size.bits == runs[name].n_parameters.bits + 64 * K  # the thresholds
    loaded = Predictor.load(path)
    np.testing.assert_array_equal(loaded.logits(DATA), predictor.logits(DATA))
    np.testing.assert_array_equal(loaded.logits(DATA)[runs[name].rows["test"]].shape, runs[name].logits["test"].shape)
    np.testing.assert_allclose(
        loaded.logits(DATA)[runs[name].rows["test"]], runs[name].logits["test"], rtol=1e-5, atol=1e-6
    )
    assert (loaded.thresholds, loaded.config, loaded.provenance) == (
        predictor.thresholds,
        predictor.config,
        predictor.provenance,
    )
    assert size_of(loaded) == size
    loaded.save(tmp_path / "again", packed=True)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    if name != "linear":
        with pytest.raises(InputError, match="save it with packed=True"):
            loaded.save(tmp_path / "again.npz")
    predictor.save(tmp_path / "head.npz")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "head.npz").logits(DATA), predictor.logits(DATA))


def test_the_size_stands_in_results(runs, tmp_path):
    for name, result in runs.items():
        assert result.n_parameters.bits == (None if name == "tree" else size_of(result.predictor.head).bits)
    runs["qesc"].save(tmp_path / "r.json")
    assert RunResult.load(tmp_path / "r.json").n_parameters == runs["qesc"].n_parameters
    before = to_json(runs["qesc"])
    del before["n_parameters"]["bits"]  # a result of an older version
    assert qwafer._records.from_json(RunResult, before).n_parameters.bits is None
    for kind in (runs["tree"].predictor, runs["tree"].predictor.head):
        with pytest.raises(CapabilityError, match="does not define `stored`"):
            size_of(kind)
    assert runs["qesc"].n_parameters.bits < runs["linear"].n_parameters.bits * 1.1


def test_damaged_packed_files_are_refused(runs, tmp_path):
    path = tmp_path / "head"
    runs["4"].predictor.save(path, packed=True)
    tensors, metadata = read_tensors(path)
    del metadata["checksum"]

    def damaged(match, meta=metadata, **changes):
        write_tensors(path, {**tensors, **{f"head/projection.linear.{k}": v for k, v in changes.items()}}, meta)
        with pytest.raises(InputError, match=match):
            Predictor.load(path)

    codes = tensors["head/projection.linear.codes"]
    damaged(r"codes` must be uint8 of shape \(56,\), got uint8 of shape \(55,\)", codes=codes[1:])
    damaged("must be uint8 of shape", codes=codes.astype(np.int8))
    damaged("must lie from -7 to 7, got 8", codes=np.full_like(codes, 255))
    damaged("`projection.linear.more` must be none", more=codes)
    damaged("another safetensors file", meta={})
    safetensors.numpy.save_file({"a": codes}, path)
    with pytest.raises(InputError, match="another safetensors file"):
        Predictor.load(path)


def test_a_packed_model_counts_its_backbone(tmp_path):
    maps = qwafer.synthetic_maps(120, seed=2)
    backbone = extractor("wafercnn", random_weights=5)
    data = features_from_maps(maps, backbone)
    config = RunConfig(
        data=dataclasses.replace(RunConfig().data, task="any"),
        head=QuantisedOptions(precision="2"),
        training=training_options(epochs=1),
    )
    model = Model.from_run(train(config, data, 0), backbone)
    size = qwafer.size_of(model)
    assert size.bits == qwafer.size_of(model.head).bits + 32 * sum(v.size for v in backbone.state.values())
    model.save(tmp_path / "m", packed=True)
    assert (tmp_path / "m").stat().st_size == size.file_bytes
    loaded = Model.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(maps).logits, model.predict(maps).logits)
    assert qwafer.size_of(loaded).parts == size.parts
    model.save(tmp_path / "whole")
    assert (tmp_path / "whole").stat().st_size > size.file_bytes


@pytest.mark.slow
def test_few_bits_learn():
    """Two labels that a linear map tells: heads of few bits learn them, too."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8)).astype(np.float32)
    y = (x @ rng.normal(size=(8, 2)) > 0).astype(np.uint8)
    data = feature_set(600, 8, 2, features=x, labels=y)
    training = training_options(epochs=12, learning_rate=2e-2, batch_size=32)
    found = {}
    for name, options in {
        "mlp": MlpOptions(hidden=16),
        **{p: QuantisedOptions(precision=p, hidden=16) for p in ("1", "bitnet", "qesc")},
    }.items():
        found[name] = train(RunConfig(head=options, training=training), data, 0).test.macro["roc_auc"]
    assert found["mlp"] > 0.97
    assert min(found.values()) > 0.9


@pytest.mark.parametrize(
    ("options", "clause"),
    [
        ({"precision": "1", "calibration": "mse"}, "head.precision is 1, whose scale is the mean of |w|"),
        ({"percentile": 90.0}, "head.calibration is max"),
        ({"precision": "bitnet", "activation_bits": 4}, "head.precision is bitnet, which has inputs of 8 bits"),
        ({"activation_bits": 4}, "head.precision is 4, which leaves its inputs as they are"),
    ],
)
def test_options_without_effect_are_named(options, clause):
    from qwafer.features import SourceFacts
    from qwafer.overrides import no_effect

    config = RunConfig(head=QuantisedOptions(**options))
    option = list(options)[-1]
    assert no_effect(config, f"head.{option}", SourceFacts("maps")) == clause
    assert no_effect(config, "head.precision", SourceFacts("maps")) is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "3"}, "`head.precision` must be one of"),
        ({"hidden": 0}, "`head.hidden` must be at least 1"),
        ({"method": "ste"}, "`head.method` must be one of"),
        ({"calibration": "kl"}, "`head.calibration` must be one of"),
        ({"percentile": 20.0}, "`head.percentile` must lie in"),
        ({"activation_bits": 9}, "`head.activation_bits` must be at most 8"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        QuantisedOptions(**options)
