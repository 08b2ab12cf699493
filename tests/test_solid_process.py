"""What broke when a process was used in other ways than the verbs do: own loops, threads, forks, flags, a mesh."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qwafer import CapabilityError, InputError, engines
from qwafer.circuits import CircuitSpec
from qwafer.engines import Program
from qwafer.engines.mesh import data_parallel
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions, TrigonometricOptions, head_inputs

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
SPEC = CircuitSpec(3, 1, readout="mean_z_readout", n_outputs=2)
FEATURES = np.random.default_rng(0).normal(size=(BATCH, 5))
HEADS = {
    "pca, alpha frozen": QuantumOptions(projection="pca", alpha_train=False, alpha_init=3.0),
    "fixed, alpha per label": QuantumOptions(projection="fixed", alpha_per_label=True),
    "linear": LinearOptions(),
    "mlp": MlpOptions(hidden=4),
    "trigonometric": TrigonometricOptions(n_angles=2),
}


def made_head(name):
    options = HEADS[name]
    quantum = isinstance(options, QuantumOptions)
    head = options.make(head_inputs(FEATURES, 2, 0, SPEC if quantum else None))
    return head, engines.get("xla").program(SPEC, BATCH) if quantum else None


@pytest.mark.parametrize("name", HEADS)
def test_what_is_frozen_gets_no_gradient_and_does_not_move(name):
    head, program = made_head(name)
    features, labels = jnp.asarray(FEATURES, "float32"), jnp.asarray(FEATURES[:, :2] > 0, "float32")

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(head):
        return optax.sigmoid_binary_cross_entropy(head(features, program), labels).mean()

    found = gradient(head)
    assert head.buffers
    for which, value in found.buffers.items():
        assert not np.any(value), which
    moved = {which for which, value in found.params.items() if np.any(value)}
    assert moved == head.params.keys()
    np.testing.assert_array_equal(head(features, program), head.logits(features, program))

    optimizer = optax.adamw(0.1, weight_decay=0.1)  # decay would move a buffer whose gradient is 0
    trained, frozen = eqx.partition(head, head.trainable())
    state = optimizer.init(trained)
    for _ in range(3):
        updates, state = optimizer.update(
            eqx.filter(gradient(eqx.combine(trained, frozen)), head.trainable()), state, trained
        )
        trained = eqx.apply_updates(trained, updates)
    after = eqx.combine(trained, frozen)
    for which, value in head.buffers.items():
        np.testing.assert_array_equal(after.buffers[which], value)
    assert all(np.any(after.params[which] != value) for which, value in head.params.items())
