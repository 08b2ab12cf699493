"""One run: reproducible, well measured, and the same whether it is watched, compiled early or not."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer._records import to_json
from qwafer.circuits import LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.evaluation import roc_auc
from qwafer.features import FeatureSet
from qwafer.objective import SamplingConfig
from qwafer.training import Predictor, RunResult, prepare, train
from tests.factories import head_options, loss_options, training_options

CIRCUIT = LayeredOptions(n_qubits=2, n_layers=1)


def features(n=160, n_labels=2, seed=0, **more):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = (x[:, :n_labels] + 0.3 * rng.normal(size=(n, n_labels)) > 0.2).astype(np.uint8)
    names = tuple("abcd"[:n_labels])
    return FeatureSet(x, y, names, np.array([f"m{i}" for i in range(n)]), {}, **more)


def config(head="linear", **sections):
    training = {"epochs": 3, "batch_size": 32, **sections.pop("training", {})}
    own = {"mlp": {"hidden": 8}}.get(head, {}) | sections.pop("head_options", {})
    if head == "quantum":
        sections |= {"circuit": CIRCUIT, "engine": engines.get("xla")}
    return RunConfig(head=head_options(head, **own), training=training_options(**training), **sections)


@pytest.fixture(scope="module")
def quantum():
    """A quantum run on one label."""
    return train(config("quantum", data=DataConfig(task="a")), features(), seed=4)


def timeless(result):
    return {**to_json(result), "timings": None, "compile_cache": None}


@pytest.mark.parametrize(("head", "options"), [("linear", {}), ("mlp", {"dropout": 0.2})])
def test_two_runs_of_one_seed_are_identical(head, options):
    first, second = (train(config(head, head_options=options), features(), seed=4) for _ in range(2))
    assert timeless(first) == timeless(second)
    for name, value in first.outputs.items():
        assert value.tobytes() == second.outputs[name].tobytes()
    other = train(config(head), features(), seed=5)
    assert other.digests.split != first.digests.split
    assert other.digests.batches != first.digests.batches


def test_two_quantum_runs_of_one_seed_are_identical(quantum):
    again = train(config("quantum", data=DataConfig(task="a")), features(), seed=4)
    assert timeless(again) == timeless(quantum)


def test_every_group_learns(quantum):
    for group in ("projection", "circuit", "readout", "alpha"):
        assert min(quantum.curves[f"grad_norm.{group}"]) > 0
        distance = quantum.curves[f"distance.{group}"]
        assert 0 < distance[0] < distance[-1]
    assert all(len(curve) == 3 for curve in quantum.curves.values())
    assert quantum.curves["epoch"] == [1, 2, 3]
    assert quantum.n_parameters.trainable == 6 * 2 + 2 + 6 + 6 + 1 + 1
    assert quantum.engine["engine"] == "xla"


def test_the_metrics_are_those_of_the_logits_at_the_best_epoch(quantum):
    outputs = quantum.outputs
    for part in ("val", "test"):
        evaluation = getattr(quantum, part)
        expected = roc_auc(outputs[f"{part}_logits"], outputs[f"{part}_labels"])
        np.testing.assert_allclose(evaluation.per_class["roc_auc"], expected)
    best = int(np.argmax(quantum.curves["val_roc_auc"]))
    assert quantum.best_epoch == quantum.curves["epoch"][best]
    assert quantum.val.macro["roc_auc"] == max(quantum.curves["val_roc_auc"])
    np.testing.assert_allclose(quantum.val.macro["loss"], quantum.curves["val_loss"][best], rtol=1e-5)


def test_the_predictor_is_the_best_checkpoint_and_survives_its_file(quantum, tmp_path):
    data = features()
    rows = quantum.outputs["test_rows"]
    logits = quantum.predictor.logits(data.features[rows])
    np.testing.assert_array_equal(logits, quantum.outputs["test_logits"])
    quantum.predictor.save(tmp_path / "head.npz")
    loaded = Predictor.load(tmp_path / "head.npz")
    np.testing.assert_array_equal(loaded.logits(data.features[rows]), logits)
    assert loaded.label_names == ("a",)
    assert loaded.thresholds == quantum.predictor.thresholds
    np.testing.assert_allclose(loaded.probabilities(data.features[rows]), 1 / (1 + np.exp(-logits.astype(float))))
    whole = (tmp_path / "head.npz").read_bytes()
    for content in (b"no archive", b"", whole[: len(whole) // 2]):
        (tmp_path / "other.npz").write_bytes(content)
        with pytest.raises(InputError, match="is not a saved predictor"):
            Predictor.load(tmp_path / "other.npz")


def test_a_predictor_with_principal_axes_survives_its_file(tmp_path):
    head = {"projection": "pca", "alpha_train": False}
    result = train(config("quantum", head_options=head, training={"epochs": 1}), features(), seed=0)
    result.predictor.save(tmp_path / "head.npz")
    loaded = Predictor.load(tmp_path / "head.npz")
    np.testing.assert_array_equal(
        loaded.logits(features().features[:5]), result.predictor.logits(features().features[:5])
    )


def test_a_result_survives_its_file(quantum, tmp_path):
    quantum.save(tmp_path / "run.json")
    loaded = RunResult.load(tmp_path / "run.json")
    assert to_json(loaded) == {**to_json(quantum), "digest": loaded.digest}
    assert loaded.predictor is None
    assert not {"predictor", "outputs"} & set(to_json(quantum))
    np.testing.assert_array_equal(loaded.outputs["test_logits"], quantum.outputs["test_logits"])
    assert json.loads((tmp_path / "run.json").read_text())["config"]["circuit"]["n_qubits"] == 2
    assert repr(loaded) == (
        f"RunResult(quantum, seed=4, epochs_run=3, test.roc_auc={quantum.test.macro['roc_auc']:.4f}, "
        f"test.f1_tuned={quantum.test.macro['f1_tuned']:.4f})"
    )
    for text in ("[]", "{", '{"format": 1}', '{"schema": "qwafer/run/1"}', '{"schema": "qwafer/run/2", "seed": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"the run result .*bad.json .*; run it again"):
            RunResult.load(tmp_path / "bad.json")


def test_arms_of_one_seed_share_split_batches_and_common_parameters(quantum):
    plain = config("quantum", data=DataConfig(task="a"))
    plain = dataclasses.replace(plain, circuit=dataclasses.replace(CIRCUIT, readout="mean_z"))
    other = train(plain, features(), seed=4)
    assert dataclasses.replace(other.digests, parameters=quantum.digests.parameters) == quantum.digests
    common = other.digests.parameters.keys() & quantum.digests.parameters.keys()
    assert {name.split("[")[0] for name in common} >= {"projection.weight", "circuit.ansatz", "alpha.raw"}
    for name in common:
        assert other.digests.parameters[name] == quantum.digests.parameters[name]


def test_compiling_early_changes_nothing_but_the_clock():
    early, late = (train(config("mlp", training={"preflight_compile": on}), features(), seed=1) for on in (True, False))
    ignored = {"config": None, "timings": None, "compile_cache": None}
    assert {**to_json(early), **ignored} == {**to_json(late), **ignored}
    assert early.timings.compile > late.timings.compile


def test_micro_runs_take_exactly_so_many_batches():
    seen = []
    result = train(
        config(training={"epochs": 4, "fixed_num_batches": 5, "eval_every_epochs": 2}),
        features(),
        seed=0,
        progress=seen.append,
    )
    assert result.timings.steps == 20
    assert result.curves["epoch"] == [2, 4]
    assert result.curves["step"] == [10, 20]
    assert [state.done / state.total for state in seen] == [0.5, 1.0]


def test_the_last_epoch_is_evaluated_whatever_the_interval():
    result = train(config(training={"epochs": 5, "eval_every_epochs": 3}), features(), seed=0)
    assert result.curves["epoch"] == [3, 5]


@pytest.mark.parametrize("objective", ["roc_auc", "separation", "loss"])
def test_the_checkpoint_is_the_best_by_the_validation_objective(objective):
    training = {"epochs": 6, "learning_rate": 0.3, "val_objective": objective}
    result = train(config("mlp", training=training), features(), seed=3)
    curve = np.array(result.curves[f"val_{objective}"])
    best = curve.argmin() if objective == "loss" else curve.argmax()
    assert result.best_epoch == result.curves["epoch"][best]
    np.testing.assert_allclose(result.val.macro["separation"], result.curves["val_separation"][best], rtol=1e-5)


def test_early_stopping_waits_so_many_evaluations():
    training = {"epochs": 50, "learning_rate": 1.0, "early_stopping": 2}
    result = train(config("mlp", training=training), features(), seed=3)
    assert result.epochs_run == result.best_epoch + 2 < 50


def test_the_moving_average_is_what_is_evaluated():
    # With decay d the average after t steps, corrected for its start at 0, is sum_s d^(t-s) p_s (1-d) / (1-d^t).
    decay, n = 0.7, 5
    data = features()
    one_step = {"fixed_num_batches": 1, "epochs": n}
    path = []
    for epochs in range(1, n + 1):
        # A constant schedule makes the run of fewer epochs the beginning of the longer one.
        plain = train(config(training={**one_step, "epochs": epochs, "val_objective": "loss"}), data, seed=0)
        assert plain.best_epoch == epochs
        path.append(np.asarray(plain.predictor.head.params["projection.linear.weight"], float))
    expected = sum(decay ** (n - 1 - s) * p for s, p in enumerate(path)) * (1 - decay) / (1 - decay**n)
    averaged = train(config(training={**one_step, "ema_decay": decay, "val_objective": "loss"}), data, seed=0)
    assert averaged.best_epoch == n
    np.testing.assert_allclose(averaged.predictor.head.params["projection.linear.weight"], expected, rtol=1e-5)


def test_a_diverging_run_ends_with_a_note_and_a_result():
    training = {"epochs": 6, "learning_rate": 10.0, "weight_decay": 10.0, "grad_clip": None, "fixed_num_batches": 60}
    result = train(config(training=training), features(), seed=0)
    assert result.degenerate
    assert result.epochs_run < 6
    assert any("diverged" in note for note in result.notes)
    to_json(result)


def test_a_validation_split_without_a_class_takes_the_last_epoch_and_says_so():
    data = features(n=60, n_labels=1)
    split = np.full(60, "train", dtype="<U5")
    split[np.flatnonzero(data.labels[:, 0] == 0)[:6]] = "val"
    split[-20:] = "test"
    given = dataclasses.replace(data, split=split)
    result = train(config(training={"epochs": 2}), given, seed=0)
    assert result.best_epoch == 2
    assert any("undefined on the validation split" in note for note in result.notes)
    assert result.degenerate


def test_a_split_that_came_with_the_data_is_kept():
    data = features()
    parts = np.array(["train", "test", "val", "train"] * 40)
    prepared = prepare(config(), dataclasses.replace(data, split=parts), seed=3)
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(prepared.split, name), np.flatnonzero(parts == name))
    with pytest.raises(InputError, match="leaves its val part empty"):
        prepare(config(), dataclasses.replace(data, split=np.array(["train", "test"] * 80)), seed=3)


def test_the_split_is_the_same_for_every_task():
    whole, binary = (prepare(config(data=DataConfig(task=task)), features(), seed=3) for task in ("multilabel", "b"))
    assert whole.split.digest == binary.split.digest
    assert binary.data.label_names == ("b",)


def test_the_limit_draws_so_many_examples_by_the_split_seed():
    limited = [
        prepare(config(data=DataConfig(limit=50, split_seed=split_seed)), features(), seed=seed)
        for split_seed, seed in ((1, 1), (1, 2), (2, 1))
    ]
    assert len(limited[0].data) == 50
    assert limited[0].data_digest == limited[1].data_digest != limited[2].data_digest
    assert limited[0].split.digest == limited[1].split.digest


def test_a_training_split_of_one_class_is_refused():
    data = features(n=60, n_labels=1)
    split = np.where(data.labels[:, 0] == 1, "train", "test")
    split[:3] = "val"
    split[np.flatnonzero(data.labels[:, 0] == 1)[:2]] = "val"
    with pytest.raises(InputError, match="holds only positive examples"):
        train(config(), dataclasses.replace(data, split=split), seed=0)


def test_balanced_batches_with_importance_weights_train():
    chosen = config(data=DataConfig(task="a"), sampling=SamplingConfig(balanced=True, pos_frac=0.25))
    result = train(chosen, features(), seed=0)
    assert result.curves["val_loss"][-1] < result.initial.loss


@pytest.mark.parametrize(
    "objective",
    [
        {"loss": "focal", "focal_gamma": 2.0},
        {"loss": "asymmetric"},
        {"loss": "roc_auc"},
        {"pos_weight": "balanced", "class_weights": "effective"},
        {"pos_weight": "3", "label_smoothing": 0.1},
    ],
)
def test_objectives_train(objective):
    result = train(config(objective=loss_options(**objective)), features(), seed=0)
    assert result.curves["val_loss"][-1] < result.initial.loss


def test_exclusive_classes_train_with_softmax():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    classes = (x[:, :3] + 0.2 * rng.normal(size=(200, 3))).argmax(axis=1)
    labels, ids = np.eye(3, dtype=np.uint8)[classes], np.array([str(i) for i in range(200)])
    data = FeatureSet(x, labels, ("p", "q", "r"), ids, {}, exclusive=True)
    training = {"epochs": 10, "learning_rate": 0.1}
    chosen = config(objective=loss_options("softmax", class_weights="balanced"), training=training)
    result = train(chosen, data, seed=0)
    assert result.test.exclusive
    assert result.test.macro["accuracy"] > 0.8
    np.testing.assert_allclose(result.val.macro["roc_auc"], max(result.curves["val_roc_auc"]))
    np.testing.assert_allclose(result.predictor.probabilities(x).sum(axis=1), np.ones(200), rtol=1e-6)
    with pytest.raises(InputError, match="needs exclusive classes"):
        train(chosen, dataclasses.replace(data, exclusive=False), seed=0)
    with pytest.raises(InputError, match="needs all classes"):
        config(objective=loss_options("softmax"), data=DataConfig(task="any"))


def test_results_are_plain_data_on_the_host(quantum):
    for leaf in jax.tree.leaves(to_json(quantum)):
        assert isinstance(leaf, (str, int, float, bool)), leaf
    assert quantum.environment.versions["jax"] == jax.__version__
    assert quantum.environment.host.cpus >= 1
