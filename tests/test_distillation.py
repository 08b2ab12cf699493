"""Distillation: the loss against closed forms, and a teacher that may not have learnt the student's test maps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qwafer
from qwafer import InputError
from qwafer.ablate import main as ablate
from qwafer.backbones import extract, extractor, features_from_maps
from qwafer.config import RunConfig
from qwafer.data import WaferMaps, synthetic_maps
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions
from qwafer.objective import make_objective
from qwafer.objective.distilled import Distilled, DistilledLabels
from qwafer.overrides import with_options
from qwafer.training import train

RNG = np.random.default_rng(0)
LOGITS, TEACHER = RNG.normal(size=(2, 6, 3))
CLASSES = np.eye(3, dtype=np.uint8)[np.arange(6) % 3]
MAPS = synthetic_maps(120, seed=2)
QUICK = {"training.epochs": 2, "training.max_doublings": 0, "data.backbone": "spatial", "data.split_seed": 1}


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def value(loss, targets: np.ndarray, logits: np.ndarray = LOGITS) -> float:
    return float(make_objective(loss, CLASSES)(jnp.asarray(logits), jnp.asarray(targets), jnp.ones(len(logits))))


def both(labels: np.ndarray = CLASSES, teacher: np.ndarray = TEACHER) -> np.ndarray:
    return np.concatenate([labels, teacher], axis=1)


def test_the_loss_is_its_closed_form() -> None:
    p, q = softmax(TEACHER / 4), softmax(LOGITS / 4)
    soft = (p * np.log(p / q)).sum(axis=1).mean()
    hard = -(CLASSES * np.log(softmax(LOGITS))).sum(axis=1).mean()
    assert value(Distilled(teacher="t"), both()) == pytest.approx(0.7 * 16 * soft + 0.3 * hard, rel=1e-6)
    assert value(Distilled(teacher="t"), CLASSES.astype(float)) == pytest.approx(hard, rel=1e-6)


def test_the_loss_of_several_labels_is_its_closed_form() -> None:
    p, q = (1 / (1 + np.exp(-each / 4)) for each in (TEACHER, LOGITS))
    soft = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    s = 1 / (1 + np.exp(-LOGITS))
    hard = -(CLASSES * np.log(s) + (1 - CLASSES) * np.log(1 - s)).mean()
    assert value(DistilledLabels(teacher="t"), both()) == pytest.approx(0.7 * 16 * soft + 0.3 * hard, rel=1e-6)


@pytest.mark.parametrize(
    "loss", [Distilled(teacher="t", soft_weight=1.0), DistilledLabels(teacher="t", soft_weight=1.0)]
)
def test_a_student_that_is_its_teacher_costs_nothing(loss) -> None:
    assert abs(value(loss, both(), TEACHER)) < 1e-6


def test_the_gradient_at_infinite_temperature_is_that_of_the_squared_distance_of_centred_logits() -> None:
    """T^2 KL goes to sum_k (centred l_k - centred t_k)^2 / (2 K): Hinton et al., section 2.1."""
    targets = jnp.asarray(both())

    def gradient(temperature: float) -> np.ndarray:
        objective = make_objective(Distilled(teacher="t", temperature=temperature, soft_weight=1.0), CLASSES)
        return np.asarray(jax.grad(lambda x: objective(x, targets, jnp.ones(6)))(jnp.asarray(LOGITS)))

    def centred(logits: np.ndarray) -> np.ndarray:
        return logits - logits.mean(axis=1, keepdims=True)

    limit = (centred(LOGITS) - centred(TEACHER)) / 3 / 6
    np.testing.assert_allclose(gradient(1e3), limit, rtol=5e-3, atol=1e-5)
    assert np.abs(gradient(4.0) - limit).max() > 10 * np.abs(gradient(1e3) - limit).max()


def test_of_several_labels_it_is_that_of_the_squared_distance() -> None:
    objective = make_objective(DistilledLabels(teacher="t", temperature=1e3, soft_weight=1.0), CLASSES)
    found = jax.grad(lambda x: objective(x, jnp.asarray(both()), jnp.ones(6)))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(found, (LOGITS - TEACHER) / 4 / LOGITS.size, rtol=5e-3, atol=1e-5)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logits of a linear head that was trained on split 1."""
    folder = tmp_path_factory.mktemp("teacher")
    config = with_options(RunConfig(head=LinearOptions()), QUICK)
    result = train(config, features_from_maps(MAPS, "spatial"), 7)
    qwafer.Model.from_run(result, extractor("spatial")).save(folder / "teacher.safetensors")
    extract(MAPS, extractor("logits", weights=folder / "teacher.safetensors"), folder / "t.npz")
    return folder / "t.npz"


def student(teacher: Path | str, **options) -> RunConfig:
    named = {"objective.loss": "distilled_labels", "objective.teacher": str(teacher)}
    return with_options(RunConfig(head=LinearOptions()), {**QUICK, **named, **options})


def test_a_student_learns_from_the_teacher(taught: Path) -> None:
    data = features_from_maps(MAPS, "spatial")
    run = train(student(taught), data, 0)
    plain = train(with_options(RunConfig(head=LinearOptions()), QUICK), data, 0)
    assert run.digests.teacher
    assert not plain.digests.teacher
    assert run.digests.batches == plain.digests.batches
    assert not np.array_equal(run.outputs["test_logits"], plain.outputs["test_logits"])
    alone = train(student(taught, **{"objective.soft_weight": 0.0}), data, 0)
    np.testing.assert_allclose(alone.outputs["test_logits"], plain.outputs["test_logits"], rtol=1e-5, atol=1e-6)


def test_a_teacher_of_another_split_is_refused(taught: Path) -> None:
    with pytest.raises(
        InputError, match=r"trained on another split .* may have learnt its test maps: set data\.split_seed"
    ):
        train(student(taught, **{"data.split_seed": 2}), features_from_maps(MAPS, "spatial"), 0)


def test_a_teacher_of_other_labels_is_refused(taught: Path, tmp_path: Path) -> None:
    names = tuple(f"other-{name}" for name in MAPS.label_names)
    data = features_from_maps(WaferMaps.from_arrays(MAPS.maps, MAPS.labels, label_names=names), "spatial")
    with pytest.raises(InputError, match=r"gives logits of .*, and the labels are other-"):
        train(student(taught), data, 0)


def test_features_are_no_teacher(tmp_path: Path) -> None:
    features_from_maps(MAPS, "spatial").save(tmp_path / "f.npz")
    with pytest.raises(InputError, match="holds no logits: make it with extract --backbone logits"):
        train(student(tmp_path / "f.npz"), features_from_maps(MAPS, "spatial"), 0)
    with pytest.raises(InputError, match="must name the feature file"):
        train(student(""), FeatureSet.load(tmp_path / "f.npz"), 0)


def test_an_ablation_says_it_in_one_sentence(taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kd.toml").write_text(
        f"""
metric = "test.f1"
seeds = 2
data = {{source = "synthetic", n_maps = 120, seed = 2, split_seed = 1}}
head.name = "linear"
training = {{epochs = 2, max_doublings = 0}}
[arms.scratch]
[arms.distilled]
objective = {{loss = "distilled_labels", teacher = "{taught}"}}
"""
    )
    words = [str(tmp_path / "kd.toml"), "--out", str(tmp_path / "out"), "--quiet", "--descriptive"]
    assert ablate(words) == 0
    capsys.readouterr()
    assert ablate([*words[:2], str(tmp_path / "other"), *words[3:], "--set", "data.split_seed=3"]) == 1
    assert "may have learnt its test maps" in " ".join(capsys.readouterr().out.split())
