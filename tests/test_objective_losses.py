"""Losses against scikit-learn, closed forms and finite differences, far into the tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from qwafer.objective import (
    binary_cross_entropy,
    class_prior,
    focal,
    importance_weights,
    make_objective,
    positive_weights,
)
from tests.factories import loss_options

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(50, 3))
LABELS = (RNG.random((50, 3)) < [0.5, 0.1, 0.8]).astype(np.uint8)
ONES = jnp.ones(3)


def objective(**options):
    return make_objective(loss_options(**options), LABELS)


def test_bce_equals_scikit_learn():
    expected = np.mean([log_loss(LABELS[:, k], 1 / (1 + np.exp(-LOGITS[:, k]))) for k in range(3)])
    loss = objective()(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.ones(50))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_example_weights_and_padding():
    weights = np.where(np.arange(50) < 40, RNG.random(50), 0.0)
    padded = jnp.asarray(np.where(np.arange(50)[:, None] < 40, LOGITS, 1e30))
    loss = objective()(padded, jnp.asarray(LABELS), jnp.asarray(weights))
    each = np.asarray(objective().per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS)))
    np.testing.assert_allclose(loss, (weights * each).sum() / weights.sum(), rtol=1e-12)


def test_positive_weights():
    np.testing.assert_array_equal(positive_weights(None, LABELS), np.ones(3))
    np.testing.assert_array_equal(positive_weights("2.5", LABELS), np.full(3, 2.5))
    balanced = positive_weights("balanced", LABELS)
    positives = LABELS.sum(axis=0)
    np.testing.assert_allclose(balanced * positives, 50 - positives)
    one_class = np.column_stack([np.zeros(4), np.ones(4)]).astype(np.uint8)
    np.testing.assert_array_equal(positive_weights("balanced", one_class), np.ones(2))
    loss = objective(pos_weight="3.0").per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    plain = np.asarray(binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), ONES))
    np.testing.assert_allclose(loss, (plain * np.where(LABELS, 3, 1)).mean(axis=1), rtol=1e-12)


def test_focal_is_the_modulated_cross_entropy():
    p = 1 / (1 + np.exp(-LOGITS))
    p_t = np.where(LABELS, p, 1 - p)
    loss = objective(loss="focal", focal_gamma=1.7).per_example(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(loss, ((1 - p_t) ** 1.7 * -np.log(p_t)).mean(axis=1), rtol=1e-10)
    plain = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), ONES)
    np.testing.assert_allclose(focal(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0, ONES), plain, rtol=1e-12)


def test_the_plateau_of_reference_004_is_focal_at_logit_zero():
    value = focal(jnp.zeros((1, 1)), jnp.ones((1, 1)), 2.0, jnp.ones(1))
    np.testing.assert_allclose(value, 0.25 * np.log(2))
    np.testing.assert_allclose(value, 0.1733, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"loss": "focal", "focal_gamma": 2.0}, {"loss": "focal", "focal_gamma": 0.3}])
def test_values_and_gradients_are_finite_in_the_tails(options, dtype):
    logits = jnp.asarray([[-1e4, -200.0, -1.0], [0.0, 30.0, 1e4]], dtype)
    for label in (0.0, 1.0):
        labels = jnp.full((2, 3), label, dtype)
        value, gradient = jax.jit(jax.value_and_grad(objective(**options)))(logits, labels, jnp.ones(2, dtype))
        assert np.isfinite(value)
        assert value.dtype == dtype
        assert np.isfinite(gradient).all()


@settings(deadline=None, max_examples=30)
@given(logit=st.floats(-15, 15), label=st.sampled_from([0.0, 1.0]), gamma=st.floats(0, 4), weight=st.floats(0.1, 10))
def test_gradients_equal_finite_differences(logit, label, gamma, weight):
    def loss(value):
        return focal(value.reshape(1, 1), jnp.full((1, 1), label), gamma, jnp.full(1, weight))[0, 0]

    value, h = jnp.asarray(logit), 1e-5
    slope = (loss(value + h) - loss(value - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(loss)(value), slope, atol=1e-8, rtol=1e-5)


@given(st.floats(1e-3, 1 - 1e-3), st.floats(1e-3, 1 - 1e-3))
def test_importance_weights_have_mean_one_and_restore_the_prior(pi_t, pi_b):
    w_pos, w_neg = importance_weights(pi_t, pi_b)
    np.testing.assert_allclose(pi_b * w_pos + (1 - pi_b) * w_neg, 1, rtol=1e-9)
    np.testing.assert_allclose(pi_b * w_pos, pi_t, rtol=1e-9)


def test_importance_weights_of_reference_004():
    np.testing.assert_allclose(importance_weights(0.855, 0.5), (1.71, 0.29))


def test_class_prior():
    np.testing.assert_allclose(class_prior(LABELS), LABELS.mean(axis=0))
