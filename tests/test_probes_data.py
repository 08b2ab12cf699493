"""Probes of scores, data, controls and pairing: sound inputs pass, each known fault is named."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.data import Split, make_split
from qwafer.features import FeatureSet
from qwafer.heads import QuantumOptions
from qwafer.objective import SamplingConfig
from qwafer.probes import (
    ProbedData,
    StallWatch,
    arms_differ,
    digests_agree,
    focal_stall,
    ineffective_options,
    label_permutation,
    linear_equality,
    output_rank,
    probe_data,
    score_range,
    score_sign,
    score_spread,
    split_by_origin,
    threshold_fragility,
)
from qwafer.probes.data.controls import linear_fit
from qwafer.probes.pairing import program_fingerprint
from qwafer.probes.scores.stall import stall_level
from qwafer.training import InitialScores, RunResult, train
from tests.factories import feature_set, training_options


def features(n: int = 240, k: int = 1, seed: int = 0) -> FeatureSet:
    """Return features of which the first K say the labels well, and no more than linearly."""
    return feature_set(n, 6, k, seed=seed, signal=2.0)


def sound_table(seed: int = 0, **changes: Any) -> ProbedData:
    data = features(seed=seed, k=2, n=400)
    split = make_split(data.labels, data.content_ids, seed=seed)
    table = ProbedData(np.array(data.features), np.array(data.labels), split, data.content_ids, data.label_names)
    return dataclasses.replace(table, **changes)


def verdicts(table: ProbedData) -> dict[str, str]:
    return {report.name: report.verdict for report in probe_data(table)}


@pytest.mark.parametrize("seed", range(5))
def test_sound_data_pass(seed: int) -> None:
    table = sound_table(seed)
    assert set(verdicts(table).values()) == {"pass"}
    assert label_permutation(table, seed=seed).verdict == "pass"
    assert split_by_origin(table).verdict == "skip"


def test_near_copies_warn() -> None:
    table = sound_table()
    features = table.features.copy()
    features[table.split.test[:20]] = features[table.split.train[:20]] + 1e-3
    assert verdicts(dataclasses.replace(table, features=features)) == {**verdicts(table), "leakage": "warn"}


def test_empty_columns_are_counted_and_columns_that_wake_up_fail() -> None:
    table = sound_table()
    empty = np.column_stack([table.features, np.zeros(len(table.features), np.float32)])
    report = next(r for r in probe_data(dataclasses.replace(table, features=empty)) if r.name == "constant features")
    assert (report.verdict, report.numbers["empty"]) == ("pass", 1)
    waking = empty.copy()
    waking[table.split.test[0], -1] = 1
    report = next(r for r in probe_data(dataclasses.replace(table, features=waking)) if r.name == "constant features")
    assert report.verdict == "fail"
    assert "constant in training only: feature 6" in report.headline


def test_drift_is_a_warning_where_the_split_is_not_stratified() -> None:
    table = sound_table(stratified=False)
    labels = table.labels.copy()
    labels[table.split.test, 0] = 1
    assert verdicts(dataclasses.replace(table, labels=labels))["prior drift"] == "warn"


def test_one_decided_label_of_several_warns() -> None:
    table = sound_table()
    features = table.features.copy()
    features[:, 3] = table.labels[:, 1] + 0.01 * features[:, 3]
    report = next(r for r in probe_data(dataclasses.replace(table, features=features)) if "deciding" in r.name)
    assert report.verdict == "warn"
    assert "feature 3 alone decides L1" in report.headline


def test_a_pipeline_that_peeks_fails_the_permutation_control() -> None:
    def peeking(table: ProbedData) -> tuple[np.ndarray, np.ndarray]:
        truth = table.labels[table.split.test]
        return truth + 0.1 * np.random.default_rng(0).standard_normal(truth.shape), truth

    report = label_permutation(sound_table(), peeking)
    assert report.verdict == "fail"
    assert report.numbers["roc_auc"][0] > 0.9


def test_a_split_by_lot_that_scores_lower_warns() -> None:
    generator = np.random.default_rng(0)
    lots = np.repeat(np.arange(60), 20)
    lot_labels = generator.integers(0, 2, 60)
    signature = generator.standard_normal((60, 30))  # what a lot looks like says its label, and nothing else does
    features = (signature[lots] + 0.1 * generator.standard_normal((1200, 30))).astype(np.float32)
    labels = lot_labels[lots][:, None].astype(np.uint8)
    ids = np.array([str(i) for i in range(1200)])
    split = make_split(labels, ids, seed=0)
    table = ProbedData(features, labels, split, ids, groups=np.array([f"lot{i}" for i in lots]))
    report = split_by_origin(table)
    assert report.verdict == "warn"
    assert report.numbers["by"] == "group"
    assert report.numbers["random"] > report.numbers["by_origin"] + 0.05


def test_linear_fit_is_ridge_regression() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    table = sound_table()
    scores, labels = linear_fit(table)
    scaler = StandardScaler().fit(table.features[table.split.train])
    train, test = (scaler.transform(table.features[rows]) for rows in (table.split.train, table.split.test))
    model = Ridge(alpha=1e-2 * len(train)).fit(train, table.labels[table.split.train].astype(float))
    np.testing.assert_allclose(scores, model.predict(test) - model.intercept_, atol=1e-6)
    np.testing.assert_array_equal(labels, table.labels[table.split.test])


LABELS = (np.random.default_rng(5).random((300, 2)) < [0.4, 0.2]).astype(int)
LOGITS = 2.0 * LABELS - 1 + np.random.default_rng(6).standard_normal((300, 2))


def test_sound_scores_pass() -> None:
    assert score_spread(LOGITS, LABELS).verdict == "pass"
    assert score_sign(LOGITS, LABELS, [[4.0], [4.2]]).verdict == "pass"
    assert score_range(np.tanh(LOGITS)).verdict == "pass"


def test_collapsed_and_extreme_scores() -> None:
    constant = LOGITS * [1, 0] + [0, 0.25]
    report = score_spread(constant, LABELS, label_names=("a", "b"))
    assert (report.verdict, report.headline) == ("fail", "b: scores are constant")
    with_nan = LOGITS.copy()
    with_nan[3, 0] = np.nan
    assert score_spread(with_nan, LABELS).verdict == "fail"
    extreme = score_spread(LOGITS, LABELS, [0.0, 1e3])
    assert extreme.verdict == "warn"
    assert "0.00% predicted positive" in extreme.headline


def test_sign_is_judged_by_the_negated_auc() -> None:
    report = score_sign(-LOGITS, LABELS, [[4.0], [0.5], [-3.0]])
    assert report.verdict == "fail"
    np.testing.assert_allclose(report.numbers["roc_auc_negated"], 1 - np.asarray(report.numbers["roc_auc"]))
    assert "alpha ended at -3" in report.headline
    assert score_sign(LOGITS, LABELS, [[1.0], [-1.0]]).verdict == "warn"
    noise = np.random.default_rng(0).standard_normal(LOGITS.shape)
    assert score_sign(noise, LABELS).verdict == "pass"  # chance is not inversion


def test_range_of_a_squeezed_readout_warns() -> None:
    assert score_range(1e-3 * np.tanh(LOGITS)).verdict == "warn"


def test_rank_one_jacobian_fails() -> None:
    generator = np.random.default_rng(0)
    sound = generator.standard_normal((20, 1, 5))
    assert output_rank(sound).verdict == "pass"
    assert output_rank(sound).numbers["rank"] == 5
    one = generator.standard_normal((20, 1, 1)) * generator.standard_normal((1, 1, 5))
    assert output_rank(one).verdict == "fail"
    assert "Gram matrix of rank 1" in output_rank(sound, gram=np.ones((20, 20))).headline


def test_an_affine_score_is_recognised() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((400, 5))
    affine = features @ generator.standard_normal((5, 2)) + 3
    assert linear_equality(affine[:200], features[:200], affine[200:], features[200:]).verdict == "warn"
    bent = affine + 0.5 * features[:, :2] ** 2
    report = linear_equality(bent[:200], features[:200], bent[200:], features[200:])
    assert report.verdict == "pass"
    assert 0.5 < max(report.numbers["r2"]) < 0.99
    assert linear_equality(affine[:5], features[:5], affine[:5], features[:5]).verdict == "skip"


def test_fragile_thresholds() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((40, 1)) < 0.15).astype(int)
    few = {"logits": generator.standard_normal((40, 1)), "labels": labels}
    assert threshold_fragility(few, few).verdict == "warn"
    many = {"logits": 6 * (np.tile(LABELS, (4, 1)) - 0.5), "labels": np.tile(LABELS, (4, 1))}
    assert threshold_fragility(many, many, n_resamples=20).verdict == "pass"


def curve(losses: list[float], separations: list[float]) -> dict[str, list[Any]]:
    epochs = list(range(1, len(losses) + 1))
    return {"epoch": epochs, "train_loss": losses, "val_loss": losses, "val_separation": separations}


def test_stall_levels_are_those_of_the_losses() -> None:
    import jax.numpy as jnp

    from qwafer.objective.losses import focal

    assert stall_level(0) == pytest.approx(np.log(2))
    assert stall_level(2) == pytest.approx(0.1733, abs=5e-5)
    zeros = jnp.zeros((2, 1))
    value = focal(zeros, jnp.asarray([[0.0], [1.0]]), 2.0, jnp.ones(1))
    np.testing.assert_allclose(value, stall_level(2), rtol=1e-6)


def test_focal_stall_is_named_when_it_happens() -> None:
    stalled = focal_stall(curve([0.21, 0.1735, 0.1733], [0.5, 0.005, 0.004]), 2.0)
    assert stalled.verdict == "fail"
    assert stalled.headline.startswith("focal stall at gamma = 2: loss at 0.1733")
    assert stalled.numbers["since_epoch"] == 2
    assert focal_stall(curve([0.1735, 0.1733, 0.12], [0.005, 0.004, 1.0]), 2.0).verdict == "pass"
    assert focal_stall(curve([0.1735, 0.1733], [1.5, 1.4]), 2.0).verdict == "pass"  # the level by coincidence
    assert focal_stall({}, 2.0).verdict == "skip"
    watch = StallWatch(2.0)
    for entry in ({"epoch": e, "train_loss": 0.1733, "val_loss": 0.1733, "val_separation": 0.0} for e in (1, 2)):
        assert watch.message == ""
        watch(entry)
    assert "since epoch 1" in watch.message


def test_a_stall_is_seen_while_training_runs() -> None:
    config = tiny_config(
        training=training_options(epochs=3, batch_size=64, learning_rate=1e-9),
        head=QuantumOptions(alpha_init=0.002),
    )
    watch = StallWatch(0.0)
    train(config, features(), 0, observe=watch)
    assert watch.since == 1
    assert "stall of the cross-entropy" in watch.message


def tiny_config(**sections: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "data": DataConfig(task="multilabel"),
        "circuit": LayeredOptions(n_qubits=2, n_layers=1),
        "engine": engines.get("xla"),
        "training": training_options(epochs=2, batch_size=64),
    }
    return RunConfig(**{**defaults, **sections})


@pytest.fixture(scope="module")
def tiny_run() -> RunResult:
    return train(tiny_config(), features(), 0)


def test_effective_options_change_the_fingerprint() -> None:
    data = features()
    base = tiny_config()
    arms: dict[str, RunConfig] = {
        "base": base,
        "readout": tiny_config(
            circuit=LayeredOptions(n_qubits=2, n_layers=1, readout="mean_z", ansatz="basic_entangler")
        ),
        "rate": tiny_config(training=training_options(epochs=2, batch_size=64, learning_rate=2e-2)),
        "clip": tiny_config(training=training_options(epochs=2, batch_size=64, grad_clip=None)),
        "select": tiny_config(training=training_options(epochs=2, batch_size=64, val_objective="loss")),
        "batch": tiny_config(training=training_options(epochs=2, batch_size=32)),
        "start": tiny_config(head=QuantumOptions(init_scale=0.2)),
    }
    report = ineffective_options(arms, data, "base")
    assert report.verdict == "pass"
    assert report.numbers["changed"]["rate"] == ["program"]
    assert report.numbers["changed"]["select"] == ["loop"]
    assert "batches" in report.numbers["changed"]["batch"]
    assert report.numbers["changed"]["start"] == ["initial"]
    assert program_fingerprint(base, data) == program_fingerprint(tiny_config(), data)


def test_an_option_that_is_never_read_has_no_effect() -> None:
    unread = tiny_config(sampling=SamplingConfig(pos_frac=0.3))
    report = ineffective_options({"base": tiny_config(), "pos": unread}, features(), "base")
    assert report.verdict == "fail"
    assert "sampling.pos_frac changes nothing against base" in report.headline


def test_arms_that_do_not_differ_and_digests_that_do(tiny_run: RunResult) -> None:
    other_config = {**tiny_run.config, "head": {**tiny_run.config["head"], "angle_scale": 1.0}}
    twin = dataclasses.replace(tiny_run, config=other_config)
    runs: Mapping[str, Mapping[int, RunResult]] = {"a": {0: tiny_run}, "b": {0: twin}}
    assert arms_differ(runs).verdict == "fail"
    assert arms_differ(runs, exclude=[("b", "a")]).verdict == "pass"
    changed = dataclasses.replace(twin, initial=InitialScores(loss=0.1, roc_auc=0.5, separation=0.0))
    assert arms_differ({"a": {0: tiny_run}, "b": {0: changed}}).verdict == "pass"
    assert digests_agree(runs).verdict == "pass"
    moved = dataclasses.replace(tiny_run, digests=dataclasses.replace(tiny_run.digests, split="another"))
    report = digests_agree({"a": {0: tiny_run}, "b": {0: moved}})
    assert report.verdict == "fail"
    assert report.headline == "must agree and do not: split of a and b, seed 0"
    parameters = {**tiny_run.digests.parameters, "circuit.ansatz[1, 2, 3]": "another"}
    drawn = dataclasses.replace(tiny_run, digests=dataclasses.replace(tiny_run.digests, parameters=parameters))
    assert "initial circuit.ansatz" in digests_agree({"a": {0: tiny_run}, "b": {0: drawn}}).headline
    assert digests_agree({"a": {0: tiny_run}}).verdict == "skip"


def test_split_is_used_as_given() -> None:
    table = sound_table()
    rows = np.arange(len(table.features))
    overlapping = Split(rows[:300], rows[250:320], rows[320:], "x")
    report = next(r for r in probe_data(dataclasses.replace(table, split=overlapping)) if r.name == "leakage")
    assert report.verdict == "fail"
    assert report.numbers["rows_in_two_parts"] == 50
