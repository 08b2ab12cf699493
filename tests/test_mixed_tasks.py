"""Two tasks in one batch: the loss in closed form, what may train, and runs whose scores are those of one task."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qwafer
from qwafer import InputError
from qwafer.ablate import main as ablate
from qwafer.backbones import features_from_maps
from qwafer.backbones.checkpoints import read_tensors
from qwafer.backbones.trained import ID_TENSORS, id_numbers
from qwafer.config import RunConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.features import SEARCHED, FeatureSet
from qwafer.networks.options import TrmOptions
from qwafer.objective import Bce, Objective, Softmax, make_objective
from qwafer.objective.mixed import Mixed, MixedLabels
from qwafer.objective.other_task import NAMES, OtherTask
from qwafer.overrides import with_options
from qwafer.training import Predictor, prepare, train
from qwafer.training._other import other_task
from qwafer.training._train import Run

RNG = np.random.default_rng(0)
LOGITS, FEATURES = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5))
WEIGHT, BIAS = RNG.normal(size=(5, 2)), RNG.normal(size=2)
OWN, OTHERS = np.eye(3)[[0, 2]], np.eye(2)[[1, 0]]
"""Examples 0 and 1 are the run's own, of three classes; 2 and 3 those of another task of two."""
TOLD = np.block([[OWN, np.zeros((2, 3))], [np.zeros((2, 3)), OTHERS, np.ones((2, 1))]])
ONES = jnp.ones(4)

MAPS = synthetic_maps(90, seed=2)
SMALL = {
    "head.size": 26,
    "head.patch": 13,
    "head.width": 16,
    "head.layers": 1,
    "head.recursions": 1,
    "head.supervision_steps": 2,
}
QUICK = {"training.epochs": 1, "training.max_doublings": 0, "training.batch_size": 16, "head.augment": "none", **SMALL}


def objective(loss, *, exclusive: bool = True) -> Objective:
    arrays = dict(zip(NAMES, map(jnp.asarray, (WEIGHT, BIAS)), strict=True))
    return dataclasses.replace(make_objective(loss, OWN.astype(np.uint8)), other=OtherTask(arrays, exclusive))


def whole(aim: Objective, logits=LOGITS, features=FEATURES, told=TOLD, weights=ONES) -> jax.Array:
    parts = aim(jnp.asarray(logits), jnp.asarray(told), weights)
    return parts + aim.feature_loss(jnp.asarray(features), jnp.asarray(told), weights)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(axis=1)) - (logits * labels).sum(axis=1)


def binary(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (np.log1p(np.exp(logits)) - labels * logits).mean(axis=1)


@pytest.mark.parametrize(("own", "loss"), [(cross_entropy, Mixed), (binary, MixedLabels)])
@pytest.mark.parametrize(("other", "exclusive"), [(cross_entropy, True), (binary, False)])
def test_the_loss_is_its_closed_form(own, loss, other, exclusive: bool) -> None:
    read = FEATURES @ WEIGHT + BIAS
    wanted = own(LOGITS[:2], OWN).sum() + 0.5 * other(read[2:], OTHERS).sum()
    found = whole(objective(loss(other="f", other_weight=0.5), exclusive=exclusive))
    assert float(found) == pytest.approx(wanted / 3, rel=1e-5)


def test_an_example_pulls_at_the_readout_of_its_task_alone() -> None:
    aim = objective(Mixed(other="f"))
    by_logits, by_features = jax.grad(lambda *x: whole(aim, *x), argnums=(0, 1))(LOGITS, FEATURES)
    assert not by_logits[2:].any()
    assert not by_features[:2].any()
    assert by_logits[:2].all()
    assert by_features[2:].all()


@pytest.mark.parametrize(("loss", "plain"), [(Mixed(other="f"), Softmax()), (MixedLabels(other="f"), Bce())])
def test_a_batch_of_one_task_costs_what_it_costs_without_the_other(loss, plain) -> None:
    told, weights = TOLD[[0, 1, 0, 1]], jnp.asarray([1.0, 2.0, 0.0, 1.0])
    alone = make_objective(plain, OWN.astype(np.uint8))
    wanted = alone(jnp.asarray(LOGITS), jnp.asarray(told[:, :3]), weights)
    assert float(whole(objective(loss), told=told, weights=weights)) == pytest.approx(float(wanted), rel=1e-6)
    validation = objective(loss)(jnp.asarray(LOGITS), jnp.asarray(told[:, :3]), weights)
    assert float(validation) == pytest.approx(float(wanted), rel=1e-6)


def test_a_batch_of_the_other_task_alone_is_finite() -> None:
    aim = objective(Mixed(other="f"))
    found = whole(aim, told=TOLD[[2, 3, 2, 3]])
    assert float(found) == pytest.approx(cross_entropy(FEATURES @ WEIGHT + BIAS, OTHERS[[0, 1, 0, 1]]).mean(), rel=1e-5)
    assert not np.asarray(aim.own_weights(jnp.asarray(TOLD[[2, 3, 2, 3]]), ONES)).any()


@pytest.fixture(scope="module")
def classes() -> FeatureSet:
    """Sixty maps, twenty of which are among `MAPS`, with three exclusive classes, one of which has a name of theirs."""
    other = synthetic_maps(40, seed=3)
    maps = np.concatenate([np.asarray(other.maps), np.asarray(MAPS.maps)[:20]])
    names = (MAPS.label_names[0], "b", "c")
    labels = np.eye(3, dtype=np.uint8)[np.arange(60) % 3]
    return features_from_maps(WaferMaps.from_arrays(maps, labels, label_names=names, exclusive=True), "dies_26")


@pytest.fixture
def other(classes: FeatureSet, tmp_path: Path) -> Path:
    classes.save(tmp_path / "other.npz")
    return tmp_path / "other.npz"


@pytest.fixture(scope="module")
def own() -> FeatureSet:
    return features_from_maps(MAPS, "dies_26")


def mixed(other: Path | str, **options) -> RunConfig:
    base = {**QUICK, "objective.loss": "mixed_labels", "objective.other": str(other), "data.backbone": "dies_26"}
    return with_options(RunConfig(head=TrmOptions()), {**base, **options})


def test_no_map_of_validation_or_test_trains_in_the_other_task(own: FeatureSet, classes: FeatureSet, other: Path):
    prepared = prepare(mixed(other), own, 0)
    found = other_task(mixed(other), prepared)
    assert found is not None
    parts = dict(zip(own.content_ids, prepared.split.parts(), strict=True))
    seen = [parts.get(identity) for identity in classes.content_ids]
    assert {"train", "val", "test"} <= {*seen}
    assert [*found.rows] == [row for row, part in enumerate(seen) if part in (None, "train")]


def test_a_map_under_another_id_is_known_by_its_dies(own: FeatureSet, classes: FeatureSet, other: Path):
    before = other_task(mixed(other), prepare(mixed(other), own, 0))
    renamed = dataclasses.replace(classes, content_ids=np.array([f"{n:016x}" for n in range(len(classes))]))
    renamed.save(other)
    after = other_task(mixed(other), prepare(mixed(other), own, 0))
    np.testing.assert_array_equal(after.rows, before.rows)


def test_whole_lots_and_the_other_files_own_split_are_kept(own: FeatureSet, classes: FeatureSet, other: Path):
    lots = dataclasses.replace(own, groups=np.array([f"lot{n % 9}" for n in range(len(own))]))
    theirs = np.array([f"lot{n % 9}" for n in range(len(classes))])
    config = mixed(other, **{"data.split_by": "group"})
    dataclasses.replace(classes, groups=theirs).save(other)
    prepared = prepare(config, lots, 0)
    held = lots.groups[np.concatenate([prepared.split.val, prepared.split.test])]
    rows = other_task(config, prepared).rows
    assert len(rows)
    assert not np.isin(theirs[rows], held).any()
    dataclasses.replace(classes, split=np.where(np.arange(60) < 30, "train", "test")).save(other)
    assert other_task(mixed(other), prepare(mixed(other), own, 0)).rows.max() < 30


def test_batches_hold_both_tasks_and_every_example_once(own: FeatureSet, other: Path):
    run = Run(mixed(other), prepare(mixed(other), own, 0), 0, None)
    batches = run.sampler.epoch(1)
    rows = run.rows[batches.rows][batches.weights > 0]
    assert sorted(rows) == sorted(run.rows)
    is_other = np.asarray(run.labels)[run.rows[batches.rows], -1] == 1
    full = (batches.weights > 0).all(axis=1)
    assert full.sum() > 3
    assert is_other[full].any(axis=1).all()
    assert (~is_other[full]).any(axis=1).all()


def test_a_run_is_judged_by_its_own_task(own: FeatureSet, other: Path, tmp_path: Path) -> None:
    run = train(mixed(other), own, 0)
    alone = with_options(mixed(other), {"objective.loss": "bce"})
    plain = Run(alone, prepare(alone, own, 0), 0, None)
    assert run.label_names == own.label_names
    np.testing.assert_array_equal(run.outputs["test_rows"], plain.prepared.split.test)
    np.testing.assert_array_equal(run.outputs["test_labels"], own.labels[plain.prepared.split.test])
    assert run.digests.split == plain.prepared.split.digest
    assert run.digests.parameters == plain._digests().parameters
    assert run.digests.batches != plain._digests().batches
    assert run.n_parameters.trainable == plain.head.count()["trainable"]
    assert run.digests.teacher == FeatureSet.load(other).digest()
    assert any("trained together with" in note for note in run.notes)
    run.predictor.save(tmp_path / "p.qwafer")
    again = Predictor.load(tmp_path / "p.qwafer")
    logits = again.logits(own.take(run.outputs["test_rows"]))
    np.testing.assert_allclose(logits, run.outputs["test_logits"], rtol=1e-5, atol=1e-6)


def test_the_step_that_halts_learns_from_its_own_task(own: FeatureSet, other: Path) -> None:
    run = Run(mixed(other, **{"head.halt_weight": 1.0}), prepare(mixed(other), own, 0), 0, None)
    others = jnp.asarray(run.rows[-16:])
    batch = run.features[others], run.labels[others], None

    def cost(params: dict) -> jax.Array:
        head = run.head.with_parameters(params)
        return head.training_loss(run.objective, *batch, weights=jnp.ones(16), key=run.key)[0]

    slopes = jax.jit(jax.grad(cost))(run.head.params)
    assert {name for name, slope in slopes.items() if "halt" in name or ".head." in name}
    for name, slope in slopes.items():
        assert np.asarray(slope).any() == (not ("halt" in name or ".head." in name)), name


def test_fit_and_its_weights_remember_both(classes: FeatureSet, other: Path, tmp_path: Path) -> None:
    options = {**QUICK, "objective.loss": "mixed_labels", "objective.other": str(other)}
    run = qwafer.fit(MAPS, "trm", tmp_path / "net.safetensors", options=options)
    seen = read_tensors(tmp_path / "net.safetensors")[0][ID_TENSORS["train"]]
    held = np.isin(id_numbers(classes.content_ids), seen)
    assert f"with {held.sum()} examples" in " ".join(run.notes)
    assert 40 <= held.sum() < 60
    classes.take(np.arange(40)).save(other)
    with pytest.raises(InputError, match="exists and holds other weights"):
        qwafer.fit(MAPS, "trm", tmp_path / "net.safetensors", options=options)


def test_two_arms_of_one_file_are_a_fair_pair(other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "together.toml").write_text(
        f"""
metric = "test.f1"
seeds = 2
data = {{source = "synthetic", n_maps = 90, seed = 2, backbone = "dies_26"}}
head = {{name = "trm", size = 26, patch = 13, width = 16, layers = 1, recursions = 1, supervision_steps = 2}}
training = {{epochs = 1, max_doublings = 0, batch_size = 16, fixed_num_batches = 4}}
[arms.alone]
[arms.together]
objective = {{loss = "mixed_labels", other = "{other}"}}
"""
    )
    words = [
        str(tmp_path / "together.toml"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--descriptive",
        "--executor",
        "serial",
    ]
    assert ablate(words) == 0, capsys.readouterr().out


REFUSED = [
    ({"sampling.balanced": True, "data.task": "any"}, r"cannot be combined with sampling\.balanced"),
    ({"data.split_by": "time"}, r"cannot be combined with data\.split_by = time"),
    ({"data.split_by": "fold"}, r"cannot be combined with data\.split_by = fold"),
    ({"head.name": "linear"}, "needs a head that has features of its own, which linear has not"),
    ({"head.name": "tree"}, "needs a head that has features of its own, which tree has not"),
    ({"objective.other_weight": 0.0}, r"`objective\.other_weight` must lie in \(0, inf\)"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_does_not_go_with_two_tasks_is_refused(options, said: str) -> None:
    base = {"objective.loss": "mixed_labels", "objective.other": "f.npz"}
    with pytest.raises(InputError, match=said):
        with_options(RunConfig(head=TrmOptions()), {**base, **options})


def test_features_that_do_not_belong_are_refused(own: FeatureSet, classes: FeatureSet, other: Path, tmp_path: Path):
    def refuse(said: str, data: FeatureSet = own, **options) -> None:
        with pytest.raises(InputError, match=said):
            train(mixed(other, **options), data, 0)

    with pytest.raises(InputError, match="must name the feature file of the other task"):
        train(mixed(""), own, 0)
    searched = dataclasses.replace(own, provenance={**own.provenance, "part": SEARCHED})
    refuse("cannot be used in a search", searched)
    bound = {"head.augment": "symmetries", "head.bound_labels": MAPS.label_names[0]}
    refuse(f"`head.bound_labels` names {MAPS.label_names[0]}, which `objective.other`", **bound)
    prepared = prepare(mixed(other), own, 0)
    own.take(prepared.split.test).save(other)
    refuse("has no example that validation and test here do not have")
    dataclasses.replace(classes, labels=np.zeros((60, 0), np.uint8), label_names=(), exclusive=False).save(other)
    refuse("holds examples without labels")
    features_from_maps(MAPS, "spatial").save(other)
    refuse("holds features of spatial, or made another way than those of the run, of dies_26")
