"""A problem of known optimum: which sampling reaches the minimiser of the true risk.

One binary feature x, labels with P(y = 1 | x) known, and a logit a free number for each x: the true risk is minimal at
the log-odds of y given x. The batches of the epoch below hold every positive and every negative equally
often, so that the mean loss of the epoch is an expectation, and its minimiser exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from qwafer.objective import SamplingConfig, make_objective, make_sampler
from tests.factories import loss_options

# 170 positives and 30 negatives: a prior of 0.85.
X = np.repeat([0, 1, 0, 1], [50, 120, 20, 10])
Y = np.repeat([1, 1, 0, 0], [50, 120, 20, 10]).astype(np.uint8)[:, None]
TRUE_LOG_ODDS = np.log([50 / 20, 120 / 10])
N_BATCHES = 51  # 51 * 10 = 3 * 170 = 17 * 30


def minimiser(sampling, n_batches, **objective_options):
    objective = make_objective(loss_options(**objective_options), Y)
    sampler = make_sampler(sampling, Y, batch_size=20, seed=5, fixed_num_batches=n_batches)
    batches = sampler.epoch(1)
    x, y = jnp.asarray(X), jnp.asarray(Y)

    @jax.jit
    @jax.value_and_grad
    def risk(logit_of):
        def loss(rows, weights):
            return objective(logit_of[x[rows]][:, None], y[rows], weights)

        return jnp.mean(jax.vmap(loss)(jnp.asarray(batches.rows), jnp.asarray(batches.weights, jnp.float64)))

    found = minimize(lambda logits: tuple(map(np.asarray, risk(jnp.asarray(logits)))), np.zeros(2), jac=True, tol=1e-12)
    return found.x


def test_natural_batches_reach_the_true_minimiser():
    np.testing.assert_allclose(minimiser(SamplingConfig(), 10), TRUE_LOG_ODDS, atol=1e-5)


def test_balanced_batches_with_importance_weights_reach_the_true_minimiser():
    found = minimiser(SamplingConfig(balanced=True, importance_weights=True), N_BATCHES)
    np.testing.assert_allclose(found, TRUE_LOG_ODDS, atol=1e-5)


def test_balanced_batches_without_them_miss_it_by_the_shift_of_the_prior():
    found = minimiser(SamplingConfig(balanced=True, importance_weights=False), N_BATCHES)
    shift = -np.log(0.85 / 0.15)  # log-odds of the batch prior, 0, minus those of the true one
    np.testing.assert_allclose(found, TRUE_LOG_ODDS + shift, atol=1e-5)
    assert np.abs(found - TRUE_LOG_ODDS).min() > 1.7


def test_balanced_positive_weights_have_the_same_shift():
    found = minimiser(SamplingConfig(), 10, pos_weight="balanced")
    np.testing.assert_allclose(found, TRUE_LOG_ODDS - np.log(0.85 / 0.15), atol=1e-5)


def test_focal_loss_has_another_minimiser_than_the_true_risk():
    found = minimiser(SamplingConfig(), 10, loss="focal", focal_gamma=2.0)
    assert (np.abs(found) < np.abs(TRUE_LOG_ODDS) - 0.3).all()  # under-confident, in the right direction
    assert (np.sign(found) == np.sign(TRUE_LOG_ODDS)).all()
