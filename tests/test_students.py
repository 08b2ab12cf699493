"""A teacher and a student on the dies: backbones in training, their derivatives, features that teach, and the gap."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import stats

from qwafer import InputError
from qwafer.backbones import extract, extractor, features_from_maps
from qwafer.backbones.checkpoints import write_tensors
from qwafer.backbones.keys import ConvNorm, LayerTable, Linear, parameter_tree
from qwafer.backbones.layers import Conv, Dense, Depthwise, SqueezeExcite, Staged, global_mean, shifted_products, swish
from qwafer.comparison import recovered_gap
from qwafer.config import RunConfig
from qwafer.data import make_split, synthetic_maps
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.fitting import fit
from qwafer.heads import HEADS, LinearOptions, draw
from qwafer.model import Model
from qwafer.networks import unfolded as module
from qwafer.networks.batch_norm import batch_norm
from qwafer.networks.head import Outputs
from qwafer.networks.options import MobileNetOptions, NetworkOptions
from qwafer.networks.students import unfolded
from qwafer.networks.unfolded import MOMENTUM, Unfolded
from qwafer.objective import make_objective
from qwafer.objective.distilled import DistilledLabels
from qwafer.objective.hint import NAMES, Hint
from qwafer.overrides import no_effect, with_options
from qwafer.source import source_facts
from qwafer.training import Predictor, train
from qwafer.training._prepare import prepare
from qwafer.training._train import Run

MAPS = synthetic_maps(48, seed=2)
DIES = features_from_maps(MAPS, "dies_26")


class TinyModule(Staged):
    """Each kind of layer of the two networks once: (batch, 26, 26, 3) -> (batch, 6)."""

    def stages(self):
        return [
            ("stem", lambda x: swish(Conv(4, 3, 2, name="stem")(x))),
            ("depthwise", lambda x: swish(Depthwise(5, 2, name="depthwise")(x))),
            ("se", lambda x: SqueezeExcite(2, swish, jax.nn.sigmoid, name="se")(x)),
            ("head", lambda x: swish(Dense(6, name="head")(x))),
            ("pool", global_mean),
        ]


TABLE: LayerTable = {
    ("stem",): ConvNorm("stem.0", "stem.1", (4, 3, 3, 3)),
    ("depthwise",): ConvNorm("depthwise.0", "depthwise.1", (4, 1, 5, 5), 1e-3),
    ("se", "fc1"): Linear("se.fc1", 4, 2, conv=True),
    ("se", "fc2"): Linear("se.fc2", 2, 4, conv=True),
    ("head",): ConvNorm("head.0", "head.1", (6, 4, 1, 1), squeeze=True),
}
TINY = Unfolded("tiny", TinyModule(), TABLE, 6, "classifier", 26)


@dataclasses.dataclass(frozen=True)
class TinyOptions(NetworkOptions):
    """The tiny network as a head of one's own."""

    backbone: ClassVar[str] = "dies_26"

    def architecture(self) -> Unfolded:
        return TINY


@dataclasses.dataclass(frozen=True)
class Plain:
    """An `Architecture` that compiles at once: six features of the failing dies of a map, and a linear map of them."""

    size: ClassVar[int] = 26

    def initial(self, seed: int, n_labels: int):
        kernel = draw(seed, "plain", (26 * 26, 6), "float32", 0.05)
        return {"kernel": kernel, "readout": jnp.zeros((6, n_labels), jnp.float32)}, {}

    def outputs(self, params, statistics, codes, *, train, key=None):
        features = jnp.tanh((codes.reshape(len(codes), -1) == 2).astype(jnp.float32) @ params["kernel"])
        return Outputs((features @ params["readout"])[None], features), statistics

    def tensors(self, params, statistics):
        return dict(params)


class PlainOptions(TinyOptions):
    """The plain network as a head of one's own."""

    def architecture(self) -> Plain:
        return Plain()


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's own convolution."""
    size, _, n_in, _ = kernel.shape
    edge, groups = (size // 2, size // 2), x.shape[-1] if n_in == 1 else 1
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (edge, edge), dimension_numbers=dims, feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("shape", "size", "stride", "inputs"),
    [
        ((9, 7), 3, 2, 1),
        ((8, 10), 5, 2, 1),
        ((2, 2), 5, 1, 1),
        ((1, 1), 5, 2, 1),
        ((3, 4), 1, 2, 1),
        ((5, 5), 3, 3, 1),
        ((9, 7), 3, 2, 3),
    ],
)
def test_derivatives_of_shifted_products_are_those_of_the_convolution(shape, size, stride, inputs) -> None:
    rng = np.random.default_rng(0)
    channels = 6 if inputs == 1 else inputs
    x, kernel = rng.normal(size=(3, *shape, channels)), rng.normal(size=(size, size, inputs, 6))
    received = rng.normal(size=(3, *(-(-n // stride) for n in shape), 6))

    @jax.jit
    def derivatives(x, kernel, received):
        both = []
        for convolution in (shifted_products, conv):
            value, reverse = jax.vjp(lambda x, w: convolution(x, w, stride), x, kernel)  # noqa: B023
            both.append((value, *reverse(received)))
        return both

    for found, known in zip(*derivatives(x, kernel, received), strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-11, atol=1e-11)


def plain_norm(x, scale, bias, eps):
    """Batch normalisation by autodiff."""
    mean, var = x.mean(axis=(0, 1, 2), keepdims=True), x.var(axis=(0, 1, 2), keepdims=True)
    y = (x - mean) / jnp.sqrt(var + eps) * jnp.expand_dims(scale, (0, 1, 2)) + jnp.expand_dims(bias, (0, 1, 2))
    return y, lax.stop_gradient(mean.ravel()), lax.stop_gradient(var.ravel())


def test_batch_norm_is_its_formula_with_the_derivatives_of_autodiff() -> None:
    rng = np.random.default_rng(1)
    x, scale, bias = rng.normal(2, 3, size=(4, 3, 5, 6)), rng.normal(size=6), rng.normal(size=6)
    received = rng.normal(size=x.shape)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(norm, *given):
        (y, *moments), reverse = jax.vjp(lambda *given: norm(*given, 1e-3), *given)
        return [y, *moments, *reverse((received, *(jnp.zeros(6) for _ in moments)))]

    for found, known in zip(*(derivatives(norm, x, scale, bias) for norm in (batch_norm, plain_norm)), strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)


CODES = jnp.asarray(DIES.features[:12].reshape(12, 26, 26))


@functools.partial(jax.jit, static_argnames="train")
def outputs(params, statistics, train: bool = False):
    return TINY.outputs(params, statistics, CODES, train=train)


@pytest.fixture(scope="module")
def drawn():
    """Parameters and statistics of the tiny network, none of them at a round value."""
    rng = np.random.default_rng(3)
    params, statistics = TINY.initial(0, 3)
    params = jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), params)
    return params, jax.tree.map(lambda x: x + jnp.asarray(rng.uniform(0, 0.3, x.shape), jnp.float32), statistics)


def test_normalised_by_the_batch_is_folded_with_its_moments(drawn) -> None:
    """Evaluation with the moments of a batch gives what training computes of it: each convolution, and no other layer,
    is normalised, and folding is exact."""
    params, statistics = drawn
    trained, moved = outputs(params, statistics, train=True)
    moments = jax.tree.map(lambda old, new: old + (new - old) / MOMENTUM, statistics, moved)
    evaluated, same = outputs(params, moments)
    np.testing.assert_allclose(evaluated.logits, trained.logits, rtol=1e-3, atol=1e-4)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, moments))
    assert all(float(jnp.abs(a - b).min()) > 0 for a, b in zip(*map(jax.tree.leaves, (moved, statistics)), strict=True))
    other, _ = outputs(params, statistics)
    assert np.abs(other.logits - trained.logits).max() > 1e-2


def test_gradients_of_a_training_step_are_those_of_autodiff(drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    params, statistics = drawn

    def loss(params):
        found, _ = TINY.outputs(params, statistics, CODES, train=True)
        return jnp.sum(jnp.sin(found.logits))

    own = jax.jit(jax.grad(loss))(params)
    monkeypatch.setattr(module, "batch_norm", plain_norm)
    monkeypatch.setattr("qwafer.backbones.layers.shifted_products", conv)
    known = jax.jit(jax.grad(lambda params: loss(params)))(params)
    for found, wanted in zip(jax.tree.leaves(own), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4)
        assert np.abs(wanted).max() > 0 or wanted.shape[-1:] == (0,)


def test_a_file_folds_into_the_frozen_module(drawn) -> None:
    params, statistics = drawn
    tensors = TINY.tensors(params, statistics)
    from qwafer.networks.wafercnn_module import channels

    frozen = jax.jit(TINY.module.apply)({"params": parameter_tree(TABLE, tensors)}, channels(CODES, jnp))
    found, _ = outputs(params, statistics)
    np.testing.assert_allclose(frozen, found.features, rtol=1e-4, atol=1e-5)
    logits = np.asarray(found.features) @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(logits, found.logits[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "n_parameters"), [("efficientnet", 4_017_796), ("mobilenet", 931_624)])
def test_the_networks_have_the_parameters_that_their_options_say(name: str, n_parameters: int) -> None:
    params, _ = unfolded(name).shapes(8)
    assert sum(int(np.prod(shape)) for shape in params.values()) == n_parameters
    assert f"{n_parameters:,} parameters for eight labels" in HEADS.get(name).__doc__


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained `mobilenet`, as a file."""
    path = tmp_path_factory.mktemp("mobilenet") / "net.safetensors"
    network = unfolded("mobilenet")
    params, statistics = network.initial(5, 8)
    kernel = np.asarray(params["block4"]["depthwise"]["kernel"])
    assert abs(kernel.std() / np.sqrt(2 / 25) - 1) < 0.1  # He: two over the inputs of a place, 5 x 5
    write_tensors(path, network.tensors(params, statistics), {})
    return path


def test_the_frozen_backbone_is_the_network_in_evaluation(weights: Path) -> None:
    found = extractor("mobilenet", weights=weights).features(MAPS.maps[:5])
    network = unfolded("mobilenet")
    dies = np.stack([extractor("dies_64").features([one])[0] for one in MAPS.maps[:5]]).reshape(5, 64, 64)
    outputs, _ = jax.jit(lambda codes: network.outputs(*network.initial(5, 8), codes, train=False))(dies)
    np.testing.assert_allclose(found, outputs.features, rtol=1e-3, atol=1e-5)
    assert found.shape == (5, 576)


def test_weights_of_photographs_and_of_dies_are_not_taken_for_each_other(weights: Path, tmp_path: Path) -> None:
    from qwafer.backbones.checkpoints import read_checkpoint

    with pytest.raises(InputError, match="mobilenet"):
        extractor("mobilenet_v3_small", weights=weights)
    bare = {key.removeprefix("dies."): value for key, value in read_checkpoint(weights).state.items()}
    write_tensors(tmp_path / "torchvision.safetensors", bare, {})
    with pytest.raises(InputError, match="mobilenet"):
        extractor("mobilenet", weights=tmp_path / "torchvision.safetensors")
    with pytest.raises(InputError, match="has channels of its own"):
        extractor("mobilenet", weights=weights, channels="grey")


def tiny(**options) -> RunConfig:
    base = {
        "training.epochs": 2,
        "training.max_doublings": 0,
        "training.batch_size": 16,
        "training.learning_rate": 1e-2,
        "data.split_seed": 1,
        "data.backbone": "dies_26",
    }
    return with_options(RunConfig(head=PlainOptions(augment="none")), {**base, **options})


def taught_by(path: Path | str, **options) -> RunConfig:
    named = {
        "objective.loss": "distilled_labels",
        "objective.soft_weight": 0.0,
        "objective.teacher_features": str(path),
    }
    return tiny(**named, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of teachers: without a split, with that of the student, and with another."""
    path = tmp_path_factory.mktemp("features")
    spatial = features_from_maps(MAPS, "spatial")
    spatial.save(path / "none.npz")
    for name, seed in (("same", 1), ("other", 2)):
        parts = make_split(MAPS.labels, MAPS.content_ids, seed=seed).parts()
        dataclasses.replace(spatial, split=parts).save(path / f"{name}.npz")
    return path


def test_the_loss_of_features_is_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    features, taught, kernel, bias = (rng.normal(size=shape) for shape in ((6, 5), (6, 4), (5, 4), (4,)))
    labels, teacher = rng.integers(0, 2, (6, 3)), rng.normal(size=(6, 3))
    logits, rows = jnp.asarray(rng.normal(size=(6, 3))), jnp.asarray([1.0, 1, 1, 1, 0, 0.5])
    loss = DistilledLabels(teacher="t", teacher_features="f", feature_weight=0.3)
    plain = make_objective(loss, labels.astype(np.uint8))
    aim = dataclasses.replace(plain, hint=Hint(dict(zip(NAMES, map(jnp.asarray, (kernel, bias)), strict=True))))
    each = ((features @ kernel + bias - taught) ** 2).mean(axis=1)
    wanted = 0.3 * (np.asarray(rows) * each).sum() / 4.5
    for front in ((labels,), (labels, teacher)):  # with the logits of a teacher, and without
        whole = jnp.asarray(np.concatenate([*front, taught], axis=1))
        found = aim.feature_loss(jnp.asarray(features), whole, rows)
        assert float(found) == pytest.approx(wanted, rel=1e-6)
        without = plain(logits, jnp.asarray(np.concatenate(front, axis=1)), rows)
        assert float(aim(logits, whole, rows)) == float(without)
    assert float(plain.feature_loss(jnp.asarray(features), jnp.asarray(labels), rows)) == 0
    with pytest.raises(InputError, match="labels"):
        aim.feature_loss(jnp.asarray(features), jnp.asarray(labels), rows)


def test_a_student_learns_from_features(folder: Path) -> None:
    plain, taught = train(tiny(), DIES, 0), train(taught_by(folder / "none.npz"), DIES, 0)
    assert taught.digests.teacher
    assert plain.digests.batches == taught.digests.batches
    assert plain.digests.parameters == taught.digests.parameters
    assert plain.n_parameters == taught.n_parameters  # the map to the teacher's features is no part of the student
    assert not np.allclose(plain.outputs["test_logits"], taught.outputs["test_logits"], atol=1e-4)
    off = train(taught_by(folder / "none.npz", **{"objective.feature_weight": 0.0}), DIES, 0)
    np.testing.assert_array_equal(off.outputs["test_logits"], plain.outputs["test_logits"])


def test_the_map_to_the_features_is_trained_and_the_student_keeps_none_of_it(folder: Path, tmp_path: Path) -> None:
    config = taught_by(folder / "none.npz", **{"training.epochs": 25})
    prepared = prepare(config, DIES, 0)
    run = Run(config, prepared, 0, None)
    before = dict(run.objective.parameters())
    taught = np.asarray(run.labels)[:, -88:]
    train_rows = prepared.split.train
    np.testing.assert_allclose(taught[train_rows].mean(axis=0), 0, atol=1e-5)
    varies = np.ptp(features_from_maps(MAPS, "spatial").features[train_rows], axis=0) > 0
    np.testing.assert_allclose(taught[train_rows].std(axis=0), varies, atol=1e-4)

    def unexplained() -> float:
        head = run.head.with_arrays({**run.state.params, **run.state.statistics})
        features = head.outputs(head.codes(jnp.asarray(DIES.features[train_rows])), train=True)[0].features
        aim = run.objective.with_arrays(run.state.params)
        rows = jnp.ones(len(train_rows), jnp.float32)
        return float(aim.feature_loss(features, run.labels[train_rows], rows))

    start = unexplained()
    run.loop()
    assert unexplained() < 0.8 * start
    assert all(not np.array_equal(run.state.params[name], before[name]) for name in NAMES)
    result = run.result(0.0)
    result.predictor.save(tmp_path / "student.safetensors")
    again = Predictor.load(tmp_path / "student.safetensors")
    assert not set(NAMES) & set(again.head.params)
    np.testing.assert_allclose(
        again.logits(DIES)[prepared.split.test], result.outputs["test_logits"], rtol=1e-5, atol=1e-6
    )


def test_a_killed_run_with_a_teacher_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    config = taught_by(folder / "none.npz", **{"training.checkpoint_every_epochs": 1})
    whole = train(config, DIES, 0)

    def stop(progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, DIES, 0, directory=tmp_path, progress=stop)
    resumed = train(config, DIES, 0, directory=tmp_path)
    np.testing.assert_array_equal(whole.outputs["test_logits"], resumed.outputs["test_logits"])


def test_features_of_a_teacher_have_the_split_of_the_student(folder: Path) -> None:
    assert train(taught_by(folder / "same.npz", **{"training.epochs": 1}), DIES, 0).digests.teacher
    with pytest.raises(InputError, match=r"other\.npz was trained on another split than this run"):
        train(taught_by(folder / "other.npz"), DIES, 0)
    with pytest.raises(InputError, match=r"same\.npz was trained on another split"):
        train(taught_by(folder / "same.npz", **{"data.split_seed": 2}), DIES, 0)


def test_features_teach_networks_alone(folder: Path) -> None:
    named = {"objective.loss": "distilled_labels", "objective.soft_weight": 0.0}
    config = with_options(RunConfig(head=LinearOptions()), {**named, "objective.teacher_features": "f.npz"})
    facts = source_facts(config.data)
    assert no_effect(config, "objective.teacher_features", facts) == (
        "head.name linear has no features of its own: take a network"
    )
    network = with_options(RunConfig(head=MobileNetOptions()), {**named, "objective.teacher_features": "f.npz"})
    assert no_effect(network, "objective.teacher_features", facts) is None
    assert no_effect(network, "objective.teacher", facts) == "objective.soft_weight is 0"
    given = with_options(config, {"objective.teacher_features": str(folder / "none.npz")})
    spatial = features_from_maps(MAPS, "spatial")
    with pytest.raises(InputError, match="needs a head that has features of its own: take a network"):
        train(given, spatial, 0)
    others = features_from_maps(synthetic_maps(48, seed=9), "dies_26")
    with pytest.raises(InputError, match=r"has no features of 48 of the examples"):
        train(taught_by(folder / "none.npz", **{"data.split_seed": 1}), others, 0)


def test_a_network_of_ones_own_is_fitted_and_teaches(tmp_path: Path) -> None:
    """`fit`, the logits of its model, and a student of them on its split."""
    options = {"training.epochs": 1, "training.batch_size": 16, "head.augment": "none"}
    fit(MAPS, "tests.test_students:TinyOptions", tmp_path / "t.safetensors", seed=1, options=options)
    logits = extract(MAPS, extractor("logits", weights=tmp_path / "t.model.safetensors"), tmp_path / "l.npz")
    assert isinstance(logits, FeatureSet)
    taught = {"objective.loss": "distilled_labels", "objective.teacher": str(tmp_path / "l.npz")}
    assert train(tiny(**taught), DIES, 0).digests.teacher


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet", "efficientnet"])
def test_a_network_is_fitted_and_frozen(name: str, tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    run = fit(MAPS, name, path, seed=3, options={"training.epochs": 2, "training.batch_size": 16})
    features = features_from_maps(MAPS, name, weights=path)
    split = make_split(MAPS.labels, MAPS.content_ids, seed=3)
    np.testing.assert_array_equal(features.split, split.parts())
    from qwafer.backbones.checkpoints import read_checkpoint

    state = read_checkpoint(path).state
    logits = features.features[split.test] @ state["dies.classifier.weight"].T + state["dies.classifier.bias"]
    np.testing.assert_allclose(logits, run.outputs["test_logits"], rtol=1e-3, atol=1e-3)
    assert json.loads(path.with_suffix(".run.json").read_text())["config"]["head"]["name"] == name


@pytest.mark.slow
def test_a_student_is_written_as_a_graph(weights: Path) -> None:
    pytest.importorskip("onnxruntime")
    from qwafer.onnx import OnnxModel
    from qwafer.onnx.write import model_graph

    backbone = extractor("mobilenet", weights=weights)
    config = with_options(RunConfig(head=LinearOptions()), {"training.epochs": 1, "training.max_doublings": 0})
    model = Model.from_run(train(config, features_from_maps(MAPS, backbone), 0), backbone)
    found = OnnxModel.of(model_graph(model)).logits(list(MAPS.maps[:9]))
    np.testing.assert_allclose(found, model.predict(list(MAPS.maps[:9])).logits, rtol=1e-4, atol=1e-4)


def test_the_recovered_share_is_that_of_fieller() -> None:
    rng = np.random.default_rng(4)
    baseline = 0.8 + 0.01 * rng.normal(size=6)
    arm, ceiling = baseline + 0.03 + 0.005 * rng.normal(size=6), np.full(6, 0.86)
    found = recovered_gap(baseline, arm, ceiling)
    d, g = arm - baseline, ceiling - baseline
    assert found.share == pytest.approx(d.mean() / g.mean())
    for bound in (found.low, found.high):  # at its ends the test of a mean of 0 has p = 0.05
        assert stats.ttest_1samp(d - bound * g, 0).pvalue == pytest.approx(0.05)
    assert found.low < found.share < found.high
    whole = recovered_gap(baseline, ceiling, ceiling)
    assert (whole.share, whole.low, whole.high) == pytest.approx((1, 1, 1))
    none = recovered_gap(ceiling, arm, baseline)
    assert none.share is none.low is none.high is None
    with pytest.raises(InputError, match="at least 2 scores"):
        recovered_gap(baseline[:1], arm[:1], ceiling[:1])


@pytest.mark.parametrize("name", ["students", "soft_targets"])
def test_the_experiments_teach_on_one_split(name: str) -> None:
    experiment = load_experiment(name)
    assert len(experiment.seeds) >= 6
    assert {config.data.split_seed for config in experiment.arms.values()} == {0}
    taught = [config.objective for config in experiment.arms.values() if hasattr(config.objective, "teacher")]
    assert len(taught) == len(experiment.arms) - 1
    assert len({loss.teacher for loss in taught}) == 1
