"""Digests of captured circuits: derivatives that somebody has written count, wherever in a trace they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer.circuits import statevector


def rule(slope):
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (slope * g,))
    return rounded


WITHIN = {
    "plain": lambda function: function,
    "jit": jax.jit,
    "scan": lambda function: lambda x: jax.lax.scan(lambda carry, _: (function(carry), None), x, length=2)[0],
    "cond": lambda function: lambda x: jax.lax.cond(x.sum() > 0, function, lambda y: y, x),
    "remat": jax.checkpoint,
}


def digest(function):
    def body(weights, x):
        qml.RX(function(x)[0], 0)
        return qml.expval(qml.Y(0))

    return qwafer.circuit(body, n_inputs=2).digest


@pytest.mark.parametrize("where", WITHIN)
def test_a_derivative_of_ones_own_counts(where):
    within = WITHIN[where]
    assert digest(within(rule(1.0))) == digest(within(rule(1.0)))
    assert digest(within(rule(1.0))) != digest(within(rule(2.0)))
    assert digest(within(rule(1.0))) != digest(within(jnp.round))


def test_gates_of_constants_are_folded_at_their_values():
    def body(weights, x):
        qml.RX(jnp.cumsum(jnp.ones(3))[2] / 10, 0)  # a traced computation of no weight and no input
        qml.RY(x[0], 0)
        return qml.expval(qml.Z(0))

    circuit = qwafer.circuit(body, n_inputs=1, dtype="float64")
    assert [operation.source for operation in circuit.operations()] == ["", "inputs"]
    found = statevector.values(circuit, {}, np.array([[0.2]]))
    assert abs(found[0, 0] - np.cos(0.3) * np.cos(0.2)) < 1e-12
