"""Head `lora`: a network cut at a stage goes on in the head, its adapters alone are trained, and merged they are the
network.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError
from qwafer._io import file_sha256
from qwafer.ablate import main as ablate
from qwafer.backbones import extractor, features_from_maps
from qwafer.backbones.adapters import Adapters, Place, change, chosen, rank_within
from qwafer.backbones.checkpoints import Checkpoint, random_checkpoint, read_checkpoint
from qwafer.backbones.efficientnet import EFFICIENTNET_B0
from qwafer.backbones.keys import parameter_tree
from qwafer.backbones.mambavision import MambaVision, MambaVisionConfig, table
from qwafer.backbones.mobilenet import MOBILENET_V3_SMALL
from qwafer.backbones.pretrained import Architecture, write_merged
from qwafer.backbones.trained import ID_TENSORS, recorded_split
from qwafer.config import DataConfig, RunConfig
from qwafer.data import synthetic_maps
from qwafer.extract import main as extract
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions
from qwafer.model import Model, adapters_of
from qwafer.networks.lora import LoraOptions
from qwafer.networks.lora_head import _places, _rest, lora_head
from qwafer.networks.wafercnn_module import FROZEN
from qwafer.sweeps.sources import provide_features
from qwafer.training import Predictor, RunResult, lanes_gain, make_head, train
from tests.factories import feature_set, training_options

DATA = DataConfig(n_maps=60, seed=5)
MAPS = synthetic_maps(60, seed=5)
K = len(MAPS.label_names)
CONFIG = RunConfig(head=LoraOptions(budget=4253), training=training_options(epochs=2, batch_size=16))
TINY = MambaVisionConfig(8, 4, (1, 1, 2, 2), (2, 2), image_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sweep leaves of maps whose arms read a network and the same network, cut."""
    folder = tmp_path_factory.mktemp("lora")
    arms = {name: dataclasses.replace(DATA, backbone=name) for name in ("wafercnn", "wafercnn@block2")}
    assert {source.path.parent for source in provide_features(arms, folder).values()} == {folder}
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    (path,) = (path for path in folder.glob("*.safetensors") if ".model" not in path.name)  # one training for both
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> FeatureSet:
    return FeatureSet.load(folder / "synthetic-60-5-wafercnn.npz")


@pytest.fixture(scope="module")
def cut(folder: Path) -> FeatureSet:
    return FeatureSet.load(folder / "synthetic-60-5-wafercnn-block2.npz")


@pytest.fixture(scope="module")
def run(cut: FeatureSet) -> RunResult:
    return train(CONFIG, cut, 1)


def head_of(data: FeatureSet, seed: int = 0, **options: object):
    config = RunConfig(head=LoraOptions(**options))
    return make_head(config, data.features[data.split == "train"], K, seed, data.origin)


def tiny() -> Architecture:
    """A MambaVision of a few channels, with attention and mixers in both of its last stages."""
    images = EFFICIENTNET_B0.architecture(None, None).preprocessing
    return Architecture("tiny", MambaVision(TINY), table(TINY), images, (), "nowhere", adapted=("*/mixer/qkv", "*proj"))


def test_what_enters_a_stage_goes_on_to_the_features_of_the_whole(weights: Path, whole: FeatureSet) -> None:
    some = MAPS.take(np.arange(30))
    for stage in ("block1", "block2"):
        data = features_from_maps(some, f"wafercnn@{stage}", weights=weights)
        height, width, channels = data.provenance["cut"]["shape"]
        assert data.features.shape == (30, height * width * channels)
        assert data.provenance["cut"]["stage"] == stage
        np.testing.assert_array_equal(data.split, whole.split[:30])
        found = head_of(data, rank=0).network_features(data.features[:20])
        np.testing.assert_allclose(found, whole.features[:20], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "mambavision"])
def test_every_architecture_is_cut_where_its_stages_meet(name: str) -> None:
    form = {
        "mobilenet": lambda: MOBILENET_V3_SMALL.architecture(None, None),
        "efficientnet": lambda: EFFICIENTNET_B0.architecture(None, None),
        "mambavision": tiny,
    }[name]()
    tree = {"params": parameter_tree(form.table, random_checkpoint(form.shapes, 0).state)}
    x = np.zeros((1, 64, 64, 3), np.float32)
    middle = {"mobilenet": "block9", "efficientnet": "stage6", "mambavision": "stage2"}[name]

    def together(x: jax.Array) -> jax.Array:
        return form.module.apply(tree, form.module.apply(tree, x, end=middle), begin=middle)

    whole = jax.make_jaxpr(lambda x: form.module.apply(tree, x))(x)
    assert str(jax.make_jaxpr(together)(x)) == str(whole)
    entering = jax.eval_shape(lambda x: form.module.apply(tree, x, end=middle), x)
    rest, n_features = _rest(form.module, middle, entering.shape[1:])
    assert n_features == whole.out_avals[0].shape[1]
    names = [place.name for place in _places(form, rest)]
    assert names
    assert all(f"{place}/kernel" in rest for place in names)
    assert not any("/se/" in place or "depthwise" in place for place in names)


def test_the_places_of_mambavision_are_the_projections_of_attention_and_mixers() -> None:
    form = tiny()
    rest, _ = _rest(form.module, "stage3", (4, 4, 32))
    names = {place.name.split("/", 1)[1] for place in _places(form, rest)}
    assert names == {"mixer/in_proj", "mixer/x_proj", "mixer/dt_proj", "mixer/out_proj", "mixer/qkv", "mixer/proj"}


def test_an_untrained_head_is_the_frozen_network_behind_the_linear_head(cut: FeatureSet, whole: FeatureSet) -> None:
    """B is zero: W + (scale / r) A B is W to the bit; two compiled programs may differ in the last bits of the rest."""
    frozen, adapted = head_of(cut, rank=0), head_of(cut, rank=4)
    assert not any(name.endswith((".a", ".b")) for name in frozen.params)
    a, b = adapted.matrices()["block2"]
    assert float(jnp.abs(a).max()) > 0
    kernel = adapted.buffers["network.block2/kernel"]
    np.testing.assert_array_equal(kernel + change(a, b, adapted.scale, kernel.shape), kernel)
    rows = cut.features[:30]
    np.testing.assert_allclose(adapted(rows), frozen(rows), rtol=1e-6, atol=1e-6)
    linear = make_head(RunConfig(head=LinearOptions()), whole.features[whole.split == "train"], K, 0)
    np.testing.assert_array_equal(linear.params["projection.linear.weight"], frozen.params["projection.linear.weight"])
    np.testing.assert_allclose(adapted(rows), linear(whole.features[:30]), rtol=1e-4, atol=1e-4)


def test_the_budget_decides_the_rank_by_a_count_made_by_hand(cut: FeatureSet, weights: Path) -> None:
    linear, block1, block2 = 129 * K, 9 * 32 + 64, 9 * 64 + 128
    assert head_of(cut, budget=4253).matrices()["block2"][0].shape == (576, (4253 - linear) // block2)
    assert head_of(cut, budget=4253).count()["trainable"] == linear + (4253 - linear) // block2 * block2
    exact = linear + 2 * block2
    assert [head_of(cut, budget=exact + more).count()["trainable"] for more in (-1, 0)] == [linear + block2, exact]
    with pytest.raises(InputError, match=rf"`head.budget` must be at least {linear + block2} for adapters of rank 1"):
        head_of(cut, budget=linear + block2 - 1)
    both = features_from_maps(MAPS.take(np.arange(20)), "wafercnn@block1", weights=weights)
    made = lora_head(LoraOptions(budget=4253), _inputs(both))
    assert made.count()["trainable"] == linear + (4253 - linear) // (block1 + block2) * (block1 + block2)
    one = lora_head(LoraOptions(layers="block1"), _inputs(both))
    assert [*one.matrices()] == ["block1"]


def _inputs(data: FeatureSet):
    from qwafer.heads import head_inputs

    return head_inputs(data.features, K, 0, normalize="raw", origin=data.origin)


def test_a_rank_is_no_larger_than_its_matrix() -> None:
    places = (Place("narrow", 3, 50), Place("wide", 40, 60))
    assert [place.rank(8) for place in places] == [3, 8]
    assert rank_within(places, 10 + 3 * 53 + 5 * 100, 10) == 5
    assert rank_within(places, 10**9, 10) == 40
    assert [place.name for place in chosen(places, " w* ")] == ["wide"]
    with pytest.raises(InputError, match=r"`head.layers` must match layers .*\(narrow, wide\), got 'deep'"):
        chosen(places, "w*,deep")


def test_training_moves_adapters_and_linear_map_alone(cut: FeatureSet, run: RunResult) -> None:
    start = make_head(CONFIG, cut.features[cut.split == "train"], K, 1, cut.origin)
    head = run.predictor.head
    assert {*head.params} == {f"projection.{name}" for name in ("linear.weight", "linear.bias", "block2.a", "block2.b")}
    for name, value in start.buffers.items():
        np.testing.assert_array_equal(head.buffers[name], value, err_msg=name)
    for name, value in start.params.items():
        assert float(jnp.abs(head.params[name] - value).max()) > 1e-4, name
    assert run.n_parameters.trainable == start.count()["trainable"] <= 4253


def test_the_gradient_of_a_change_is_that_of_the_kernel_by_the_chain_rule() -> None:
    """dA = (s/r) dW B^T and dB = (s/r) A^T dW, dW the gradient of the kernel (3, 3, 2, 5) as a matrix (18, 5)."""
    rng = np.random.default_rng(0)
    a, b, d_kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((18, 2), (2, 5), (3, 3, 2, 5)))
    d_a, d_b = jax.grad(lambda a, b: jnp.sum(change(a, b, 6.0, (3, 3, 2, 5)) * d_kernel), argnums=(0, 1))(a, b)
    np.testing.assert_allclose(d_a, 3 * d_kernel.reshape(18, 5) @ b.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_b, 3 * a.T @ d_kernel.reshape(18, 5), rtol=1e-5, atol=1e-5)


def test_merged_adapters_are_the_adapted_network(
    weights: Path, whole: FeatureSet, cut: FeatureSet, run: RunResult, tmp_path: Path
) -> None:
    adapters_of(run.predictor, cut).save(tmp_path / "a.safetensors")
    wanted = np.asarray(run.predictor.head.network_features(cut.features))
    assert np.abs(wanted - whole.features).max() > 1e-3
    merged = write_merged(weights, tmp_path / "a.safetensors", tmp_path / "merged.safetensors")
    given = features_from_maps(MAPS, "wafercnn", weights=weights, adapters=tmp_path / "a.safetensors")
    for found in (given, features_from_maps(MAPS, "wafercnn", weights=merged)):
        np.testing.assert_allclose(found.features, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found.split, whole.split)
    assert given.provenance["adapters"] == Adapters.load(tmp_path / "a.safetensors").digest()
    linear = train(RunConfig(training=training_options(epochs=1), head=LinearOptions()), whole, 0)
    with pytest.raises(InputError, match="adapters"):
        linear.predictor.logits(given)


@pytest.mark.parametrize("name", ["mobilenet", "efficientnet", "mambavision"])
def test_every_kind_of_layer_is_merged(name: str) -> None:
    """Kernels of the merged checkpoint are W + (scale / r) A B, biases what they were; other layers keep their bits."""
    form = {
        "mobilenet": lambda: MOBILENET_V3_SMALL.architecture(None, None),
        "efficientnet": lambda: EFFICIENTNET_B0.architecture(None, None),
        "mambavision": tiny,
    }[name]()
    rng = np.random.default_rng(1)
    drawn = random_checkpoint(form.shapes, 2)
    state = {key: np.float32(1) * value + rng.uniform(0, 0.1, value.shape) for key, value in drawn.state.items()}
    checkpoint = Checkpoint({key: value.astype(np.float32) for key, value in state.items()}, drawn.record)
    stage = "stage2" if name == "mambavision" else "head"
    shapes = {"mobilenet": (2, 2, 96), "efficientnet": (2, 2, 320), "mambavision": (4, 4, 32)}
    rest, _ = _rest(form.module, stage, shapes[name])
    places = _places(form, rest)
    matrices = {
        place.name: tuple(rng.standard_normal(size).astype(np.float32) for size in ((place.n_in, 2), (2, place.n_out)))
        for place in places
    }
    ids = {"train": np.array([3, 5], np.uint64), "val": np.array([7], np.uint64)}
    adapters = Adapters(form.name, drawn.record, 0.5, matrices, ids)
    merged = adapters.merged(checkpoint, form.name, form.table).state
    for path, layer in form.table.items():
        before, after = layer.parameters(checkpoint.state), layer.parameters(merged)
        own = matrices.get("/".join(path))
        if own is not None:
            before["kernel"] = before["kernel"] + change(*own, 0.5, before["kernel"].shape)
        for kind, value in before.items():
            tolerance = 0 if own is None else 1e-6 * np.abs(value).max()
            np.testing.assert_allclose(after[kind], value, rtol=tolerance and 1e-6, atol=tolerance, err_msg=str(path))
    split = recorded_split(merged)
    assert split(np.array([f"{i:016x}" for i in (3, 5, 7, 9)])).tolist() == ["train", "train", "val", "test"]


def test_maps_that_trained_the_adapters_count_as_seen() -> None:
    checkpoint = random_checkpoint(FROZEN.architecture(None, None).shapes, 0)
    seen = {ID_TENSORS["train"]: np.array([1, 2], np.uint64), ID_TENSORS["val"]: np.array([3, 4], np.uint64)}
    checkpoint = Checkpoint({**checkpoint.state, **seen}, checkpoint.record)
    matrices = {"block2": (np.ones((576, 1), np.float32), np.zeros((1, 128), np.float32))}
    ids = {"train": np.array([3, 9], np.uint64), "val": np.array([2, 8], np.uint64)}
    form = FROZEN.architecture(None, None)
    merged = Adapters("wafercnn", checkpoint.record, 1.0, matrices, ids).merged(checkpoint, "wafercnn", form.table)
    assert merged.state[ID_TENSORS["train"]].tolist() == [1, 2, 3, 9]
    assert merged.state[ID_TENSORS["val"]].tolist() == [4, 8]


def test_files_give_back_adapters_head_and_model(
    weights: Path, cut: FeatureSet, run: RunResult, tmp_path: Path
) -> None:
    adapters = adapters_of(run.predictor, cut)
    adapters.save(tmp_path / "a.safetensors")
    again = Adapters.load(tmp_path / "a.safetensors")
    assert again.digest() == adapters.digest()
    assert again.weights == {"sha256": read_checkpoint(weights).record["sha256"]}
    assert again.count() == run.n_parameters.trainable - 129 * K
    assert (tmp_path / "a.safetensors").stat().st_size < 8 * adapters.count()
    logits = run.predictor.logits(cut)
    run.predictor.save(tmp_path / "head.npz")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "head.npz").logits(cut), logits)
    Model.from_run(run, extractor("wafercnn@block2", weights=weights)).save(tmp_path / "model")
    found = Model.load(tmp_path / "model").predict(list(MAPS.maps[:10]))
    np.testing.assert_allclose(found.logits, logits[:10], rtol=1e-5, atol=1e-5)
    cut.save(tmp_path / "cut.npz")
    np.testing.assert_array_equal(FeatureSet.load(tmp_path / "cut.npz").network, cut.network)
    assert FeatureSet.load(tmp_path / "cut.npz").digest() == cut.digest()


def test_a_network_and_its_cuts_are_trained_once(weights: Path, whole: FeatureSet, cut: FeatureSet) -> None:
    assert whole.provenance["weights"] == cut.provenance["weights"]
    assert whole.provenance["weights"]["sha256"] == file_sha256(weights)
    np.testing.assert_array_equal(whole.split, cut.split)
    assert (cut.provenance["backbone"], cut.network is None, whole.network is None) == ("wafercnn@block2", False, True)


def test_what_cannot_be_adapted_is_refused(cut: FeatureSet, whole: FeatureSet, run: RunResult) -> None:
    with pytest.raises(InputError, match=r"goes on with a network that was cut, and these are features of wafercnn:"):
        train(CONFIG, whole, 0)
    with pytest.raises(InputError, match=r"features of made: take maps"):
        train(CONFIG, feature_set(60, 5, K), 0)
    with pytest.raises(InputError, match=r"do not hold the weights of the network"):
        train(CONFIG, dataclasses.replace(cut, network=None), 0)
    with pytest.raises(InputError, match=r"the weights that came with the features are damaged"):
        train(CONFIG, dataclasses.replace(cut, network=np.arange(40, dtype=np.uint8)), 0)
    with pytest.raises(InputError, match=r"`network` must be the bytes of weights"):
        dataclasses.replace(cut, network=np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"must match layers that can be adapted where the network is cut \(block2\)"):
        head_of(cut, layers="block1")
    with pytest.raises(InputError, match="head linear has no adapters"):
        adapters_of(
            train(RunConfig(head=LinearOptions(), training=training_options(epochs=1)), whole, 0).predictor, cut
        )
    with pytest.raises(InputError, match="what made them differs"):
        adapters_of(run.predictor, whole)
    with pytest.raises(InputError, match="is cut, and a head goes on in float32"):
        extractor("wafercnn@block2", random_weights=0, dtype="bfloat16")
    config = dataclasses.replace(CONFIG, training=training_options(epochs=1000))
    assert not lanes_gain(config, run.predictor.head, 10_000, 16)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in text
    return text


def test_verbs_refuse_in_one_sentence(
    weights: Path, cut: FeatureSet, run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters, out = str(tmp_path / "a.safetensors"), ["--out", str(tmp_path / "f.npz"), "--quiet"]
    adapters_of(run.predictor, cut).save(adapters)
    maps = ["--maps", "synthetic", "--maps-count", "20"]
    for backbone, said in (
        ("wafercnn@block9", "no stage `block9` to be cut at; its stages are block0, block1, block2"),
        ("spatial@block1", "backbone spatial has no stages to be cut at"),
    ):
        assert extract([*maps, "--backbone", backbone, *out]) == 2
        assert said in one_line(capsys)
    for options, said in (
        (["wafercnn", "--random-weights", "4"], "adapt wafercnn with the weights of sha256"),
        (["mobilenet_v3_small", "--random-weights", "4"], "adapt backbone wafercnn, not mobilenet_v3_small"),
        (["spatial"], "backbone spatial has no weights to adapt"),
    ):
        assert extract([*maps, "--backbone", *options, "--adapters", adapters, *out]) == 2
        assert said in one_line(capsys)
    assert extract([*maps, "--backbone", "wafercnn", "--weights", str(weights), "--adapters", str(weights), *out]) == 2
    assert "is not a file of adapters" in one_line(capsys)
    cut.save(tmp_path / "cut.npz")
    toml = tmp_path / "e.toml"
    toml.write_text('[arms.linear]\nhead.name = "linear"\n[arms.lora]\nhead.name = "lora"\nhead.budget = 1000\n')
    given = ["--features", str(tmp_path / "cut.npz"), "--out", str(tmp_path / "runs"), "--quiet", "--seeds", "6"]
    assert ablate([str(toml), *given, "--set", "training.epochs=1", "--set", "training.max_doublings=0"]) == 2
    assert "`head.budget` must be at least 1736 for adapters of rank 1 in 1 layers and 1032" in one_line(capsys)
