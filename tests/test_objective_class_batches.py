"""Balanced batches of exclusive classes: every class in each batch, and the expected loss of the data's prior."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.config import DataConfig, RunConfig
from qwafer.features import FeatureSet
from qwafer.objective import SamplingConfig, batches, class_importance_weights, make_objective, make_sampler
from qwafer.overrides import SourceFacts, effective_options, no_effect, with_options
from qwafer.probes.run.execution import probe_claims
from qwafer.probes.run.replay import planned
from qwafer.training import train
from tests.factories import feature_set, head_options, loss_options, training_options

CLASS = np.repeat([0, 1, 2], [12, 6, 2])
LABELS = np.eye(3, dtype=np.uint8)[CLASS]
BALANCED = SamplingConfig(balanced=True)
CONFIG = RunConfig(
    head=head_options("linear"),
    objective=loss_options("softmax"),
    sampling=BALANCED,
    training=training_options(epochs=3, batch_size=32, learning_rate=0.05),
)


def drawn(n_batches: int, **options: object) -> batches.Batches:
    config = SamplingConfig(balanced=True, **options)
    sampler = make_sampler(config, LABELS, batch_size=6, seed=4, fixed_num_batches=n_batches, exclusive=True)
    assert (sampler.n_batches, sampler.batch_size) == (n_batches, 6)
    return sampler.epoch(1)


def classes(n: int = 400) -> FeatureSet:
    """Return examples of three exclusive classes, of which one is rare."""
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[rng.choice(3, n, p=[0.7, 0.22, 0.08])]
    features = (rng.standard_normal((n, 4)) + 2 * labels @ np.eye(3, 4)).astype(np.float32)
    return feature_set(n, 4, 3, features=features, labels=labels, exclusive=True)


# 36 batches of 6 hold every example of a class equally often, so that their mean is the expectation, by enumeration.
@pytest.mark.parametrize(("shares", "counts"), [(None, [2, 2, 2]), ("3,2,1", [3, 2, 1]), ("1,1,4", [1, 1, 4])])
def test_the_expected_loss_is_the_plain_mean(shares: str | None, counts: list[int]) -> None:
    found = drawn(36, class_shares=shares)
    assert (LABELS[found.rows].sum(axis=1) == counts).all()
    seen = np.bincount(found.rows.ravel(), minlength=len(CLASS))
    assert all(len(set(seen[LABELS[:, k] == 1])) == 1 for k in range(3))
    objective = make_objective(loss_options("softmax"), LABELS)
    hard = np.array([2, 0, -2])  # the rare class is the hard one
    logits = np.random.default_rng(0).standard_normal(LABELS.shape) + hard
    logits = jnp.asarray(logits, jnp.float32)
    each = objective.per_example(logits, jnp.asarray(LABELS))
    weighted = [
        objective(logits[rows], jnp.asarray(LABELS)[rows], jnp.asarray(weights))
        for rows, weights in zip(found.rows, found.weights, strict=True)
    ]
    np.testing.assert_allclose(np.mean(weighted), each.mean(), rtol=2e-6)
    plain = drawn(36, class_shares=shares, importance_weights=False)
    by_class = [float(each[LABELS[:, k] == 1].mean()) for k in range(3)]
    unweighted = [objective(logits[rows], jnp.asarray(LABELS)[rows], jnp.ones(6)) for rows in plain.rows]
    np.testing.assert_allclose(np.mean(unweighted), np.dot(by_class, counts) / 6, rtol=2e-6)
    assert abs(np.mean(unweighted) - float(each.mean())) > 1e-2


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.integers(6, 60))
def test_weights_restore_the_prior_and_have_mean_one(sizes: list[float], batch: int) -> None:
    prior = np.asarray(sizes) / sum(sizes)
    counts = np.asarray(SamplingConfig(balanced=True).class_counts(batch, len(prior)))
    assert counts.sum() == batch
    assert counts.max() - counts.min() <= 1
    weights = class_importance_weights(prior, counts / batch)
    np.testing.assert_allclose(weights * counts / batch, prior, rtol=1e-12)
    np.testing.assert_allclose(np.repeat(weights, counts).mean(), 1, rtol=1e-12)


def test_two_classes_have_the_weights_of_a_binary_task() -> None:
    one = make_sampler(BALANCED, (CLASS == 0).astype(np.uint8)[:, None], batch_size=6, seed=1).epoch(2)
    labels = np.column_stack([CLASS == 0, CLASS != 0]).astype(np.uint8)
    two = make_sampler(BALANCED, labels, batch_size=6, seed=1, exclusive=True).epoch(2)
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_allclose(one.weights, two.weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "labels", "batch", "message"),
    [
        ({}, LABELS, 2, "has no room for all 3 classes"),
        ({"class_shares": "9,1"}, LABELS, 6, "one number for each of 3 classes, got 2"),
        ({"class_shares": "9,9,0.1"}, LABELS, 6, "has no room for all 3 classes"),
        ({}, np.column_stack([LABELS, np.zeros(len(LABELS), np.uint8)]), 8, "1 of 4 classes have none"),
        ({}, 1 - LABELS, 6, "one class for each example"),
    ],
)
def test_what_cannot_be_balanced_is_refused(
    options: dict[str, str], labels: np.ndarray, batch: int, message: str
) -> None:
    config = SamplingConfig(balanced=True, **options)
    with pytest.raises(InputError, match=message):
        make_sampler(config, labels, batch_size=batch, seed=0, exclusive=True)


@pytest.mark.parametrize("shares", ["", "1,-1", "1,inf", "a,b", 3])
def test_shares_are_positive_numbers(shares: object) -> None:
    with pytest.raises(InputError, match="class_shares` must be none or positive numbers"):
        SamplingConfig(class_shares=shares)  # type: ignore[arg-type]


def test_each_option_of_balance_has_an_effect_where_its_labels_are() -> None:
    facts = SourceFacts("maps")
    softmax = with_options(RunConfig(), {"objective.loss": "softmax", "sampling.balanced": True})
    assert "whose shares sampling.class_shares says" in (no_effect(softmax, "sampling.pos_frac", facts) or "")
    assert no_effect(softmax, "sampling.class_shares", facts) is None
    binary = with_options(RunConfig(), {"data.task": "any", "sampling.balanced": True})
    assert "sampling.pos_frac is the fraction" in (no_effect(binary, "sampling.class_shares", facts) or "")
    several = {"sampling.balanced": True}
    with pytest.raises(InputError, match="cannot be balanced for several labels at once"):
        with_options(RunConfig(), several)


@pytest.mark.parametrize(("shares", "implied"), [("2,1,1", "32,16,16"), ("1.001,1,1", None), ("64,32,32", "32,16,16")])
def test_equal_shares_have_one_spelling(shares: str, implied: str | None) -> None:
    config = dataclasses.replace(
        CONFIG,
        sampling=SamplingConfig(balanced=True, class_shares=shares),
        training=training_options(batch_size=64),
    )
    assert effective_options(config, SourceFacts("maps"))["sampling.class_shares"] == implied


@pytest.mark.parametrize("shares", [None, "5,2,1"])
def test_the_probe_plans_the_same_batches(shares: str | None) -> None:
    data = classes()
    config = dataclasses.replace(CONFIG, sampling=SamplingConfig(balanced=True, class_shares=shares))
    sampler = make_sampler(config.sampling, data.labels, batch_size=32, seed=3, exclusive=True)
    rows, weights = planned(config, data.labels, 3, 2)
    np.testing.assert_array_equal(rows, sampler.epoch(2).rows)
    np.testing.assert_array_equal(weights.astype(np.float32), sampler.epoch(2).weights)


def test_a_run_trains_and_the_probes_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = classes()
    run = train(CONFIG, data, 0)
    assert run.curves["val_loss"][-1] < run.initial.loss
    assert {report.name: report.verdict for report in probe_claims(run, data)}["training replay"] == "pass"
    real = batches.class_importance_weights
    monkeypatch.setattr(batches, "class_importance_weights", lambda *priors: real(*priors)[::-1])
    wrong = {report.name: report.verdict for report in probe_claims(train(CONFIG, data, 0), data)}
    assert wrong["training replay"] == wrong["run data"] == "fail"


def test_several_labels_are_refused_by_the_sampler_too() -> None:
    several = np.ones((4, 2), np.uint8)
    with pytest.raises(InputError, match="needs one label or exclusive classes, got 2 labels"):
        make_sampler(BALANCED, several, batch_size=4, seed=0)
    assert RunConfig(data=DataConfig(task="any"), sampling=BALANCED).sampling.balanced
