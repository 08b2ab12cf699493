"""WaferCNN learns on the training split only, keeps the split with its weights, and its gradient is the true one."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import lax

from qwafer import InputError
from qwafer.backbones import extract, features_from_maps, load
from qwafer.backbones.checkpoints import read_checkpoint
from qwafer.backbones.pretrained import architecture
from qwafer.backbones.trained import ID_TENSORS, id_numbers, recorded_split
from qwafer.data import make_split, synthetic_maps
from qwafer.extract import main
from qwafer.features import FeatureSet
from qwafer.fitting import WaferCNN, fit, fit_config
from qwafer.networks import wafercnn as training
from qwafer.networks.augmentation import turned
from qwafer.networks.wafercnn_module import WaferImages, pooled
from qwafer.training import prepare, train_prepared

MAPS = synthetic_maps(120, seed=5)
OPTIONS = WaferCNN(seed=3, epochs=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return OPTIONS.train(MAPS, tmp_path_factory.mktemp("wafercnn") / "w.safetensors")


def test_it_has_at_most_150_thousand_parameters(weights: Path) -> None:
    state = read_checkpoint(weights).state
    trained = {key: value for key, value in state.items() if "running" not in key and not key.startswith("training.")}
    assert sum(value.size for value in trained.values()) == 94_504
    assert {key for key in trained if not key.startswith("head.")} < set(architecture("wafercnn").shapes)


@pytest.mark.parametrize("side", [6, 7])
def test_its_own_reverse_pass_is_autodiffs(side: int) -> None:
    """Against the plain formula, with negative scales and with an odd side, whose last row and column are left out."""

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        def spread(v: jax.Array) -> jax.Array:
            return v[None, None, None]

        mean = x.mean(axis=(0, 1, 2))
        variance = ((x - spread(mean)) ** 2).mean(axis=(0, 1, 2))
        y = (x - spread(mean)) * spread(scale * lax.rsqrt(variance + training.EPS)) + spread(bias)
        return jax.nn.relu(lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))

    rng = np.random.default_rng(side)
    arguments = [jnp.asarray(rng.standard_normal(shape)) for shape in ((3, side, side, 4), (4,), (4,))]
    wanted, pull = jax.vjp(plain, *arguments)
    (found, *moments), own_pull = jax.vjp(training.norm_pool_relu, *arguments)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    cotangent = jnp.asarray(rng.standard_normal(wanted.shape))
    nothing = [jnp.zeros_like(moment) for moment in moments]
    for own, true in zip(own_pull((cotangent, *nothing)), pull(cotangent), strict=True):
        np.testing.assert_allclose(own, true, rtol=1e-9, atol=1e-11)


def test_the_frozen_network_is_the_trained_one(weights: Path) -> None:
    """Folded and unfolded normalisation agree, with the running moments."""
    state = read_checkpoint(weights).state
    images = WaferImages()(list(MAPS.maps[:5]))
    x = jnp.asarray(images)
    for i in range(3):
        kernel = jnp.asarray(state[f"blocks.{i}.conv.weight"].transpose(2, 3, 1, 0))
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, var, scale, bias = (
            jnp.asarray(state[f"blocks.{i}.norm.{name}"])[None, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = jax.nn.relu(pooled((x - mean) / jnp.sqrt(var + training.EPS) * scale + bias))
    np.testing.assert_allclose(load("wafercnn", weights)(images), x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_features_carry_the_split_of_the_training(weights: Path, tmp_path: Path) -> None:
    split = make_split(MAPS.labels, MAPS.content_ids, seed=OPTIONS.seed)
    features = extract(MAPS, "wafercnn", tmp_path / "f.npz", weights=weights)
    assert features.features.shape == (120, 128)
    np.testing.assert_array_equal(features.split, split.parts())
    np.testing.assert_array_equal(FeatureSet.load(tmp_path / "f.npz").split, split.parts())
    assert features.provenance["split"] is not None
    some = MAPS.take(np.arange(30, 90))
    np.testing.assert_array_equal(features_from_maps(some, "wafercnn", weights=weights).split, split.parts()[30:90])
    assert features_from_maps(synthetic_maps(20, seed=9), "wafercnn", weights=weights).split is None
    assert features_from_maps(MAPS.take(np.arange(10)), "wafercnn", random_weights=0).split is None


def test_only_the_training_split_trains(tmp_path: Path, weights: Path) -> None:
    """Other labels on test maps leave every weight as it is."""
    split = make_split(MAPS.labels, MAPS.content_ids, seed=OPTIONS.seed)
    labels = MAPS.labels.copy()
    labels[split.test] = 1 - labels[split.test]
    ids = MAPS.content_ids
    state = read_checkpoint(weights).state
    np.testing.assert_array_equal(np.sort(id_numbers(ids[split.train])), state[ID_TENSORS["train"]])
    config = fit_config("wafercnn", exclusive=False, options={"training.epochs": 1})
    data = features_from_maps(MAPS, "dies_52")
    prepared = prepare(config, data, OPTIONS.seed)
    other = dataclasses.replace(prepared, data=dataclasses.replace(prepared.data, labels=labels))
    found = [train_prepared(config, each, OPTIONS.seed).predictor.head.tensors() for each in (prepared, other)]
    for key, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][key])
        np.testing.assert_array_equal(value, state[key])


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = fit(MAPS, "wafercnn", tmp_path / "w.safetensors", seed=3, options={"training.epochs": 12})
    split = make_split(MAPS.labels, MAPS.content_ids, seed=OPTIONS.seed)
    rate = MAPS.labels[split.train].mean(axis=0)
    blind = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)).mean()  # the best that a constant answer reaches
    assert run.curves["train_loss"][-1] < 0.85 * blind


def test_augmentation_takes_each_of_the_eight_elements() -> None:
    codes = np.arange(9, dtype=np.uint8).reshape(1, 3, 3).repeat(400, axis=0)
    found = turned(codes, np.random.default_rng(0))
    distinct, counts = np.unique(found.reshape(400, 9), axis=0, return_counts=True)
    assert len(distinct) == 8
    assert counts.min() > 25
    assert (np.sort(distinct, axis=1) == np.arange(9)).all()
    assert (distinct[:, 4] == 4).all()


def test_weights_are_reused_or_refused(weights: Path) -> None:
    before = weights.stat().st_mtime_ns
    assert OPTIONS.train(MAPS, weights) == weights
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other weights"):
        WaferCNN(seed=4, epochs=1).train(MAPS, weights)
    with pytest.raises(InputError, match="other weights"):
        OPTIONS.train(synthetic_maps(120, seed=6), weights)
    assert weights.stat().st_mtime_ns == before


def test_weights_without_a_record_give_no_split() -> None:
    assert recorded_split({}) is None


def test_the_verb_trains_extracts_and_finds_both_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.npz"
    args = ["--maps", "synthetic", "--maps-count", "40", "--backbone", "wafercnn", "--train", "--epochs", "1"]
    args += ["--out", str(out), "--quiet"]
    assert main(args) == 0
    assert (tmp_path / "f.wafercnn.safetensors").exists()
    features = FeatureSet.load(out)
    assert features.split is not None
    assert features.provenance["weights"]["file"] == "f.wafercnn.safetensors"
    assert features.provenance["random_weights"] is None
    capsys.readouterr()
    assert main(args) == 0
    assert "complete" in capsys.readouterr().out
    assert main([*args, "--train-seed", "1"]) == 2
    assert "other weights" in capsys.readouterr().err
    again = [arg for arg in args if arg not in ("--train", "--epochs", "1")]
    again[again.index(str(out))] = str(tmp_path / "g.npz")
    assert main([*again, "--weights", str(tmp_path / "f.wafercnn.safetensors")]) == 0
    np.testing.assert_array_equal(FeatureSet.load(tmp_path / "g.npz").features, features.features)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--backbone", "spatial", "--train"], "--backbone wafercnn"),
        (["--backbone", "wafercnn", "--epochs", "3"], "--train only"),
        (["--backbone", "wafercnn", "--train", "--random-weights", "0"], "not both"),
        (["--backbone", "wafercnn", "--train", "--epochs", "0"], "epochs"),
        (["--backbone", "wafercnn", "--train", "--train-split", "group"], "group"),
        (["--backbone", "wafercnn", "--train-split", "group"], "--train only"),
        (["--backbone", "wafercnn"], "--train"),
        (["--backbone", "wafercnn", "--random-weights", "0", "--channels", "grey"], "channels"),
        (["--backbone", "efficientnet_b0"], "download.pytorch.org"),
    ],
)
def test_options_that_do_not_fit(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "f.npz"), "--quiet"]
    assert main(["--maps", "synthetic", "--maps-count", "20", *extra, *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_made_again_and_those_of_others_left_alone(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights.read_bytes()[:2000])
    with pytest.warns(UserWarning, match=r"w\.safetensors is truncated.*set aside"):
        OPTIONS.train(MAPS, path)
    np.testing.assert_equal(read_checkpoint(path).state, read_checkpoint(weights).state)
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"w\.safetensors is in the way"):
        OPTIONS.train(MAPS, path)
    safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, path)
    with pytest.raises(InputError, match="other weights"):
        OPTIONS.train(MAPS, path)
