"""Schedules, groups, decay and clipping against closed forms."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qwafer.config import TrainingConfig
from qwafer.heads import PARAMETER_GROUPS
from qwafer.training import make_schedule
from qwafer.training._optimizer import group_norms, hyperparameters, optimizer_state, optimizer_update
from tests.factories import training_options

PARAMS = {f"{group}.x": jnp.asarray([2.0, -1.0]) for group in PARAMETER_GROUPS}


def one_update(gradient, **options):
    return update(gradient, **options)[0]


def update(gradient, **options):
    config = TrainingConfig(**{"grad_clip": None, "learning_rate": 0.01, **options})
    told = hyperparameters(config, PARAMS)
    return optimizer_update(gradient, optimizer_state(PARAMS), PARAMS, jnp.float32(config.learning_rate), told)


def test_schedules():
    steps = np.arange(101)
    rates = {
        name: np.array([make_schedule(training_options(schedule=name, learning_rate=0.3), 100)(t) for t in steps])
        for name in ("constant", "cosine", "one_cycle")
    }
    np.testing.assert_allclose(rates["constant"], 0.3, rtol=1e-6)
    np.testing.assert_allclose(rates["cosine"], 0.3 * (1 + np.cos(np.pi * steps / 100)) / 2, atol=1e-6)
    one_cycle = rates["one_cycle"]
    assert one_cycle.argmax() == 30
    np.testing.assert_allclose([one_cycle[0], one_cycle.max()], [0.3 / 25, 0.3], rtol=1e-5)
    assert one_cycle[-1] < 1e-4
    assert make_schedule(TrainingConfig(), 10)(jnp.int32(3)).dtype == np.float32


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_schedules_of_very_short_runs_are_finite_and_positive_at_first(schedule, total):
    rates = [float(make_schedule(TrainingConfig(schedule=schedule), total)(t)) for t in range(total)]
    assert np.isfinite(rates).all()
    assert rates[0] > 0


def test_each_group_has_its_learning_rate():
    gradient = {name: jnp.ones(2) for name in PARAMS}
    multipliers = dict(zip(PARAMETER_GROUPS, (1.0, 0.5, 0.0, 3.0), strict=True))
    moved = one_update(gradient, **{f"lr_mult_{group}": value for group, value in multipliers.items()})
    for group, multiplier in multipliers.items():
        # The first step of Adam is the sign of the gradient times the learning rate.
        np.testing.assert_allclose(PARAMS[f"{group}.x"] - moved[f"{group}.x"], 0.01 * multiplier, rtol=1e-5)


def test_each_group_has_its_weight_decay():
    gradient = {name: jnp.zeros(2) for name in PARAMS}
    moved = one_update(gradient, weight_decay=0.1, weight_decay_alpha=0.0, weight_decay_circuit=0.5)
    for group, decay in {"projection": 0.1, "circuit": 0.5, "readout": 0.1, "alpha": 0.0}.items():
        np.testing.assert_allclose(moved[f"{group}.x"], PARAMS[f"{group}.x"] * (1 - 0.01 * decay), rtol=1e-6)


def test_clipping_bounds_the_norm_over_all_groups():
    gradient = {name: jnp.asarray([30.0, 40.0]) for name in PARAMS}  # global norm 100
    first = [np.asarray(value) for value in update(gradient, grad_clip=1.0)[1].mu.values()]
    # Adam's first moment is a tenth of the gradient it was given.
    np.testing.assert_allclose(np.sqrt(sum(np.square(10 * value).sum() for value in first)), 1.0, rtol=1e-5)


def test_group_norms():
    norms = group_norms(
        {"circuit.a": jnp.asarray([3.0]), "circuit.b": jnp.asarray([[4.0]]), "alpha.raw": jnp.asarray(-2.0)}
    )
    assert {group: float(norm) for group, norm in norms.items()} == {"circuit": 5.0, "alpha": 2.0}


def test_a_bias_does_not_hide_a_dead_readout():
    norms = group_norms({"readout.angles": jnp.zeros((1, 2, 3)), "readout.bias": jnp.asarray([2.0])})
    assert {group: float(norm) for group, norm in norms.items()} == {"readout": 0.0, "bias": 2.0}


def test_the_update_is_that_of_optax():
    rng = np.random.default_rng(0)
    options = {"grad_clip": 0.5, "weight_decay": 0.03, "lr_mult_alpha": 4.0, "weight_decay_circuit": 0.0}
    config = TrainingConfig(learning_rate=0.01, **options)
    told = hyperparameters(config, PARAMS)
    groups = {
        group: optax.adamw(0.01 * (4.0 if group == "alpha" else 1.0), weight_decay=0.0 if group == "circuit" else 0.03)
        for group in PARAMETER_GROUPS
    }
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5), optax.partition(groups, {name: name.split(".")[0] for name in PARAMS})
    )
    ours, state = PARAMS, optimizer_state(PARAMS)
    theirs, their_state = PARAMS, optimizer.init(PARAMS)
    for _ in range(5):
        gradient = {name: jnp.asarray(rng.normal(size=2), PARAMS[name].dtype) for name in PARAMS}
        ours, state = optimizer_update(gradient, state, ours, jnp.float32(0.01), told)
        updates, their_state = optimizer.update(gradient, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    for name in PARAMS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_the_schedules_are_those_of_optax(schedule):
    config, total, rate = TrainingConfig(schedule=schedule, max_doublings=0, learning_rate=0.3), 40, 0.3
    theirs = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, total),
        "one_cycle": optax.cosine_onecycle_schedule(total, rate),
    }[schedule]
    expected = [float(theirs(i)) for i in range(total)]
    np.testing.assert_allclose(make_schedule(config, total)(np.arange(total)), expected, rtol=1e-5, atol=1e-9)
