"""Networks are heads on the dies: augmentation keeps a wafer's meaning, moments move, and a fit resumes bit for bit."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qwafer
from qwafer import InputError
from qwafer.backbones import extractor, features_from_maps
from qwafer.backbones.spatial import spatial_features
from qwafer.config import RunConfig, TrainingConfig
from qwafer.data import WaferMaps, make_split, synthetic_maps
from qwafer.fit import main
from qwafer.fitting import RECORD, fit, fit_config, training_record
from qwafer.heads import head_inputs
from qwafer.networks.augmentation import augmented, symmetries
from qwafer.networks.halting import halted_logits
from qwafer.networks.head import BOUND
from qwafer.networks.options import WaferCnnOptions, WaferResNetOptions
from qwafer.networks.wafercnn_module import channels
from qwafer.networks.waferresnet import WaferResNet
from qwafer.objective import make_objective
from qwafer.training import RunResult, train
from qwafer.training._optimizer import hyperparameters
from qwafer.training._step import EpochArrays, evaluated_arrays, initial_state, one_step

MAPS = synthetic_maps(120, seed=5)
QUICK = {"training.epochs": 2, "training.batch_size": 16}


def disc(size: int = 15) -> np.ndarray:
    """Return a map on a disc, with a defect off the centre."""
    offset = np.arange(size) - (size - 1) / 2
    codes = (np.hypot(offset[:, None], offset[None]) <= size / 2).astype(np.uint8)
    codes[2:5, 6:12] *= 2
    return codes


def moved(how: str, flip_rate: float = 0.0, n: int = 200, free: bool = True) -> np.ndarray:
    codes = jnp.asarray(np.repeat(disc()[None], n, axis=0), jnp.float32)
    free_rows = jnp.full(n, free)
    return np.asarray(augmented(codes, jax.random.key(1), free_rows, how, flip_rate)).astype(np.uint8)


@pytest.mark.parametrize("how", ["symmetries", "rotations"])
def test_augmentation_keeps_the_disc(how: str) -> None:
    found = moved(how)
    assert ((found > 0) == (disc() > 0)[None]).all()
    assert len(np.unique(found.reshape(len(found), -1), axis=0)) >= (8 if how == "symmetries" else 100)


def test_symmetries_keep_every_die_and_what_tells_the_pattern() -> None:
    found, one = moved("symmetries"), disc()
    assert ((found == 2).sum(axis=(1, 2)) == (one == 2).sum()).all()
    assert {form.tobytes() for form in found} == {
        np.asarray(f[0], np.uint8).tobytes() for f in symmetries(jnp.asarray(one[None], jnp.float32))
    }
    # Failing ratio, rings and distance of the centroid are those of the map itself: the 8 sectors alone may change.
    before, after = spatial_features(one[None]), spatial_features(found[:8])
    kept = [*range(14), before.shape[1] - 2]
    np.testing.assert_allclose(after[:, kept], np.repeat(before[:, kept], 8, axis=0), atol=1e-6)


def test_rotation_keeps_about_as_many_failing_dies() -> None:
    counts = (moved("rotations") == 2).sum(axis=(1, 2))
    assert abs(counts.mean() / (disc() == 2).sum() - 1) < 0.1


def test_flips_stay_on_the_wafer_at_their_rate() -> None:
    found = moved("none", flip_rate=0.1)
    assert ((found > 0) == (disc() > 0)[None]).all()
    assert abs((found != disc()[None]).sum() / (len(found) * (disc() > 0).sum()) - 0.1) < 0.02


def test_bound_maps_are_not_moved() -> None:
    assert (moved("rotations", free=False) == disc()[None]).all()


def head_of(options: WaferCnnOptions, n_labels: int = 3, names: tuple[str, ...] | None = None):
    features = np.stack([np.asarray(extractor("dies_52").features([one])[0]) for one in MAPS.maps[:16]])
    return options.make(head_inputs(features, n_labels, 0, normalize="raw", label_names=names)), jnp.asarray(features)


def test_bound_labels_are_named_and_known() -> None:
    head, _ = head_of(WaferCnnOptions(bound_labels="b, c"), names=("a", "b", "c"))
    assert head.buffers[BOUND].tolist() == [0, 1, 1]
    with pytest.raises(InputError, match=r"`head\.bound_labels` names d, and the labels are a, b, c"):
        head_of(WaferCnnOptions(bound_labels="d"), names=("a", "b", "c"))


def test_tta_is_the_mean_over_the_symmetries() -> None:
    head, features = head_of(WaferCnnOptions())
    averaged, _ = head_of(WaferCnnOptions(tta=True))
    forms = symmetries(head.codes(features))
    each = np.stack([np.asarray(head.logits(form.reshape(16, -1), None)) for form in forms])
    np.testing.assert_allclose(averaged.logits(features, None), each.mean(axis=0), rtol=1e-5, atol=1e-6)
    turned = averaged.logits(forms[3].reshape(16, -1), None)
    np.testing.assert_allclose(turned, averaged.logits(features, None), rtol=1e-4, atol=1e-5)


def test_what_pads_a_batch_changes_neither_loss_nor_moments() -> None:
    head, features = head_of(WaferCnnOptions(augment="none"))
    labels = jnp.asarray(np.eye(3)[np.arange(16) % 3], jnp.float32)
    objective = make_objective(RunConfig().objective, np.asarray(labels, np.uint8))
    weights = jnp.asarray(np.arange(16) < 8, jnp.float32)

    def found(features: jax.Array):
        return head.training_loss(objective, features, labels, None, weights=weights, key=jax.random.key(0))

    loss, _, statistics = found(features)
    other, _, others = found(features.at[8:].set(2.0))
    assert float(loss) == float(other)
    for name, value in statistics.items():
        np.testing.assert_array_equal(value, others[name])
        assert float(jnp.abs(value - head.buffers[name]).max()) > 0


def test_maps_of_another_size_are_refused() -> None:
    data = features_from_maps(MAPS, "dies_26")
    with pytest.raises(
        InputError, match=r"maps of 52 x 52 dies, got maps of 26 x 26 dies: set data\.backbone = dies_52"
    ):
        train(fit_config("wafercnn", exclusive=False, options=QUICK), data, 0)


def test_a_network_that_is_none_and_an_option_without_effect_are_refused() -> None:
    with pytest.raises(InputError, match="`network` must be one of wafercnn, waferresnet, trm"):
        fit_config("linear", exclusive=False)
    with pytest.raises(InputError, match=r"`training\.plateau_patience` has no effect: training\.schedule is cosine"):
        fit_config("wafercnn", exclusive=False, options={"training.plateau_patience": 3})


def test_the_moving_average_of_weights_has_that_of_their_moments() -> None:
    """Moments of the last weights would normalise averaged ones by another scale."""
    head, features = head_of(WaferCnnOptions(augment="none"))
    labels = jnp.asarray(np.eye(3)[np.arange(16) % 3], jnp.float32)
    objective = make_objective(RunConfig().objective, np.asarray(labels, np.uint8))
    config = TrainingConfig(learning_rate=0.1, ema_decay=0.75)
    state = initial_state(config, head, objective)
    told = hyperparameters(config, head.params)
    rows = np.arange(16).reshape(2, 8)
    batch = EpochArrays(features, labels, rows, np.ones((2, 8)), np.full(2, 0.1), told)
    seen = []
    for i in range(2):
        state, _ = one_step(None)(head, objective, state, batch, jax.random.key(0), i)
        seen.append({**state.params, **state.statistics})
    found = evaluated_arrays(config, state)
    assert set(found) == set(seen[0])
    for name, value in found.items():
        wanted = (0.25 * 0.75 * seen[0][name] + 0.25 * seen[1][name]) / (1 - 0.75**2)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(seen[1]["block0.mean"] - found["block0.mean"]).max()) > 0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "w.safetensors"
    fit(MAPS, "wafercnn", path, seed=3, options=QUICK)
    return path


def test_a_fit_leaves_weights_and_its_run(fitted: Path) -> None:
    run = RunResult.load(fitted.with_suffix(".run.json"))
    assert run.epochs_run == 2
    assert run.n_parameters.trainable == 94_504
    assert not list(fitted.parent.glob("*.parts"))
    split = make_split(MAPS.labels, MAPS.content_ids, seed=3)
    np.testing.assert_array_equal(np.sort(run.outputs["test_rows"]), split.test)
    features = features_from_maps(MAPS, "wafercnn", weights=fitted)
    np.testing.assert_array_equal(features.split, split.parts())
    # The frozen network behind the file gives the logits of the run.
    from qwafer.backbones.checkpoints import read_checkpoint

    state = read_checkpoint(fitted).state
    logits = features.features[split.test] @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(logits, run.outputs["test_logits"], rtol=1e-3, atol=1e-4)


def test_the_same_fit_is_found_done_and_another_refused(fitted: Path) -> None:
    again = fit(MAPS, "wafercnn", fitted, seed=3, options=QUICK)
    assert again.digest == RunResult.load(fitted.with_suffix(".run.json")).digest
    with pytest.raises(InputError, match="other weights"):
        fit(MAPS, "wafercnn", fitted, seed=4, options=QUICK)


def test_the_record_says_how_it_was_trained(fitted: Path) -> None:
    record = training_record(fitted)[RECORD]
    assert record["seed"] == 3
    assert record["config"]["training"]["epochs"] == 2
    assert record["labels"] == list(MAPS.label_names)


KILLED = """
import os, sys
import qwafer
from qwafer.data import synthetic_maps
from qwafer.fitting import fit
qwafer.configure_jax()
def kill(progress):
    if progress.stage == "training" and progress.done >= 2:
        os.kill(os.getpid(), 9)
options = {"training.epochs": 2, "training.batch_size": 16}
fit(synthetic_maps(120, seed=5), "wafercnn", sys.argv[1], seed=3, options=options, progress=kill)
"""


def test_a_killed_fit_resumes_to_the_same_bits(fitted: Path, tmp_path: Path) -> None:
    """Killed at the end of the second epoch, before its checkpoint is written."""
    path = tmp_path / "w.safetensors"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert [part.name for part in (tmp_path / "w.safetensors.parts" / "checkpoints").iterdir()] == ["epoch-000001"]
    assert not path.exists()
    fit(MAPS, "wafercnn", path, seed=3, options=QUICK)
    assert path.read_bytes() == fitted.read_bytes()
    whole, resumed = (RunResult.load(each.with_suffix(".run.json")) for each in (fitted, path))
    np.testing.assert_array_equal(whole.outputs["test_logits"], resumed.outputs["test_logits"])


def test_the_verb_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "n.safetensors"
    args = ["--network", "wafercnn", "--maps", "synthetic", "--maps-count", "60", "--out", str(out), "--quiet"]
    assert main([*args, "--set", "training.epochs=1", "--set", "head.augment=rotations"]) == 0
    assert "94,504 parameters" in capsys.readouterr().out
    assert json.loads(out.with_suffix(".run.json").read_text())["config"]["head"]["augment"] == "rotations"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--network", "mlp"], "`network` must be one of"),
        (["--network", "wafercnn", "--set", "head.augment=spin"], "head.augment"),
        (["--network", "wafercnn", "--set", "training.warmup=2"], "training.warmup"),
        (["--network", "wafercnn", "--set", "head.bound_labels=Notch"], "`head.bound_labels` names Notch"),
    ],
)
def test_bad_input_is_one_sentence(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--maps", "synthetic", "--maps-count", "40", "--out", str(tmp_path / "n.safetensors"), "--quiet"]
    assert main([*extra, *out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_exclusive_classes_are_trained_with_softmax(tmp_path: Path) -> None:
    classes = np.arange(60) % 3
    maps = WaferMaps.from_arrays(MAPS.maps[:60], classes, label_names=("a", "b", "c"), exclusive=True)
    run = fit(maps, "wafercnn", tmp_path / "w.safetensors", options={**QUICK, "training.epochs": 1})
    assert run.config["objective"]["loss"] == "softmax"
    assert run.test.exclusive


def test_plateau_halves_and_warmup_rises() -> None:
    from qwafer.training import make_schedule
    from qwafer.training._optimizer import plateau_factor

    values = [0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert [plateau_factor(values[:n], 2) for n in range(10)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    config = TrainingConfig(learning_rate=1.0, warmup=0.5, schedule="constant", max_doublings=0)
    np.testing.assert_allclose(make_schedule(config, 8)(np.arange(8)), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    assert dataclasses.replace(config, schedule="plateau").schedule == "plateau"


TRM = {
    **QUICK,
    "head.size": 26,
    "head.patch": 13,
    "head.width": 8,
    "head.recursions": 2,
    "head.expansion": 1,
}


@pytest.fixture(scope="module")
def recursive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trm") / "trm.safetensors"
    fit(MAPS, "trm", path, options=TRM)
    return path


def test_a_recursive_network_is_fitted_frozen_and_served_as_a_model(recursive: Path) -> None:
    run = RunResult.load(recursive.with_suffix(".run.json"))
    model = qwafer.Model.load(recursive.with_suffix(".model.safetensors"))
    rows = run.outputs["test_rows"]
    logits = model.predict([MAPS.maps[i] for i in rows]).logits
    np.testing.assert_allclose(logits, run.outputs["test_logits"], rtol=1e-4, atol=1e-5)
    features = features_from_maps(MAPS, "trm", weights=recursive)
    assert features.features.shape == (120, 8)
    head = {name: np.asarray(value) for name, value in model.head.head.params.items()}
    again = features.features[rows] @ head["projection.head.kernel"] + head["projection.head.bias"]
    np.testing.assert_allclose(again, run.outputs["test_logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.split, make_split(MAPS.labels, MAPS.content_ids, seed=0).parts())


@pytest.mark.parametrize("threshold", [0.0, 0.04, 1.0])
def test_the_threshold_of_evaluation_is_that_of_halting(recursive: Path, threshold: float) -> None:
    """The head answers by the step that the inference which saves time stops at; halting begins at 0.047."""
    head = qwafer.Model.load(recursive.with_suffix(".model.safetensors")).head.head
    head = dataclasses.replace(head, options=dataclasses.replace(head.options, halt_threshold=threshold))
    network, params, statistics = head.options.architecture(), *head.trees()
    codes = network.codes(MAPS.maps[:20])
    halted = halted_logits(network, params, statistics, codes, threshold)
    found = head.logits(codes.reshape(20, -1).astype(np.float32), None)
    np.testing.assert_allclose(found, halted.logits, rtol=1e-4, atol=1e-5)
    assert (halted.steps_used == {0.0: 1, 1.0: 3}.get(threshold, halted.steps_used)).all()


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "r.safetensors"
    fit(MAPS, "waferresnet", path, options={**QUICK, "head.width": 4})
    return path


def test_a_residual_network_is_fitted_frozen_and_a_model(residual: Path) -> None:
    run = RunResult.load(residual.with_suffix(".run.json"))
    model = qwafer.Model.load(residual.with_suffix(".model.safetensors"))
    rows = run.outputs["test_rows"]
    logits = model.predict([MAPS.maps[i] for i in rows]).logits
    np.testing.assert_allclose(logits, run.outputs["test_logits"], rtol=1e-4, atol=1e-5)
    features = features_from_maps(MAPS, "waferresnet", weights=residual)
    assert features.features.shape == (120, 12)
    head = {name: np.asarray(value) for name, value in model.head.head.params.items()}
    again = features.features[rows] @ head["projection.head.kernel"] + head["projection.head.bias"]
    np.testing.assert_allclose(again, run.outputs["test_logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features.split, make_split(MAPS.labels, MAPS.content_ids, seed=0).parts())


def test_a_residual_network_is_its_formula_in_flax() -> None:
    """Against flax's own convolutions and batch normalisations, in training and after a step of it."""
    network = WaferResNet(4, 2)
    codes = jnp.asarray(np.stack([np.asarray(extractor("dies_52").features([one])[0]) for one in MAPS.maps[:8]]))
    codes = codes.reshape(8, 52, 52)
    params, moments = network.initial(0, 3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), params)

    def reference(moments: dict, train: bool) -> tuple[jax.Array, dict]:
        moved: dict = {}

        def layer(path: tuple[str, ...], x: jax.Array) -> jax.Array:
            own, known = params, moments
            for key in path:
                own, known = own[key], known[key]
            x = nn.Conv(own["scale"].size, (3, 3), use_bias=False).apply({"params": {"kernel": own["kernel"]}}, x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.95, epsilon=1e-5, use_fast_variance=False)
            variables = {"params": {"scale": own["scale"], "bias": own["bias"]}, "batch_stats": known}
            x, after = norm.apply(variables, x, mutable=["batch_stats"])
            moved[".".join(path)] = after.get("batch_stats", {})
            return x

        corners = [channels(codes, jnp)[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = jnp.concatenate(corners, axis=-1)
        for i in range(3):
            if i:
                x = nn.max_pool(jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))), (2, 2), (2, 2))
            x = nn.relu(layer((f"stage{i}", "enter"), x))
            for block in range(2):
                inner = nn.relu(layer((f"stage{i}", f"block{block}", "a"), x))
                x = nn.relu(x + layer((f"stage{i}", f"block{block}", "b"), inner))
        return x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None], moved

    wanted, moved = reference(moments, train=True)
    found, after = network.outputs(params, moments, codes, train=True)
    np.testing.assert_allclose(found.logits[0], wanted, rtol=1e-4, atol=1e-4)
    for path, one in moved.items():
        own = after
        for key in path.split("."):
            own = own[key]
        for part, value in one.items():
            np.testing.assert_allclose(own[part], value, rtol=1e-4, atol=1e-5)
    wanted, _ = reference(after, train=False)
    found, same = network.outputs(params, after, codes, train=False)
    np.testing.assert_allclose(found.logits[0], wanted, rtol=1e-4, atol=1e-4)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), same, after)))


def test_residual_blocks_start_as_the_identity_and_are_counted() -> None:
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 52, 52)), jnp.float32)
    first, deeper = (WaferResNet(4, blocks) for blocks in (1, 3))
    logits = [one.outputs(*one.initial(5, 3), codes, train=True)[0].logits for one in (first, deeper)]
    np.testing.assert_array_equal(*logits)
    assert sum(leaf.size for leaf in jax.tree.leaves(WaferResNet().initial(0, 8)[0])) == 754_568
    with pytest.raises(InputError, match="`blocks` must be at least 1"):
        WaferResNetOptions(blocks=0)


def test_weights_of_another_width_are_refused(residual: Path) -> None:
    from qwafer.networks.frozen import network_extractor

    with pytest.raises(InputError, match="waferresnet with these options"):
        network_extractor("waferresnet", WaferResNet(5), residual)


def test_the_weights_of_another_network_are_no_trm(fitted: Path) -> None:
    with pytest.raises(InputError, match="holds no weights of a trm"):
        extractor("trm", weights=fitted)
