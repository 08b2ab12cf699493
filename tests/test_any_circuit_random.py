"""Random circuits of PennyLane's gates on every engine, and what they have found."""

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import engines
from qwafer.circuits import statevector
from tests import anycircuits
from tests.factories import QUICK_COMPILATION
from tests.test_any_circuit import qnode

EXPONENTIALS = {
    "adjoint evolution": lambda t: qml.adjoint(qml.evolve(qml.X(0) @ qml.Y(1) + 0.5 * qml.Z(2), t[0])),
    "controlled evolution": lambda t: qml.ctrl(
        qml.evolve(qml.X(0) @ qml.Y(1), t[0]), control=[3, 2], control_values=[0, 1]
    ),
    "controlled exponential": lambda t: qml.ctrl(qml.exp(qml.X(0) + 0.3 * qml.I(0), 1j * t[0]), control=1),
    "power of an evolution": lambda t: qml.pow(qml.evolve(qml.Z(0) @ qml.X(3), t[0]), 1.5),
    "adjoint controlled evolution": lambda t: qml.adjoint(qml.ctrl(qml.evolve(qml.Y(2), t[0]), control=0)),
    "controlled DoubleExcitationPlus": lambda t: qml.ctrl(qml.DoubleExcitationPlus(t[0], [0, 1, 2, 3]), control=4),
    "controlled OrbitalRotation": lambda t: qml.ctrl(qml.OrbitalRotation(t[0], [3, 1, 2, 0]), control=4),
}


@pytest.mark.parametrize("name", EXPONENTIALS)
def test_exponentials_within_other_operations(name):
    def function(weights, x):
        anycircuits.mixed(x)
        qml.Hadamard(4)
        EXPONENTIALS[name](weights["w"] * x)
        return qml.state()

    circuit = qwafer.circuit(function, weights={"w": 1}, n_inputs=1, n_qubits=5, dtype="float64")
    weights, x = {"w": np.array([0.7])}, np.array([[0.9]])
    found = statevector.values(circuit, weights, x)[0]
    expected = qnode(function, 5)(weights, x[0])
    np.testing.assert_allclose(found[:32] + 1j * found[32:], expected, atol=1e-12)


def test_exponentials_of_words_that_do_not_commute_are_refused():
    def function(weights, x):
        qml.ctrl(qml.evolve(qml.X(0) + qml.Z(0), x[0]), control=1)
        return qml.expval(qml.Z(0))

    with pytest.raises(qwafer.CapabilityError, match=r"do not commute: write it as qml\.TrotterProduct"):
        qwafer.circuit(function, n_inputs=1)


def drawn(seed):
    """Return a random circuit in both precisions, its function, and a point: weights, three inputs, a cotangent."""
    function, shapes, n = anycircuits.composed(np.random.default_rng(seed))
    float64, float32 = (
        qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=n, dtype=dtype)
        for dtype in ("float64", "float32")
    )
    generator = np.random.default_rng([seed, 1])
    weights = {name: jnp.asarray(generator.normal(size=shape)) for name, shape in float64.weight_shapes().items()}
    inputs, cotangent = generator.normal(size=(3, 3)), generator.normal(size=(3, float64.n_outputs))
    return (float64, float32), function, (weights, jnp.asarray(inputs), cotangent)


def values_and_gradients(engine, circuit, weights, inputs, cotangent):
    """Return the values, and the gradients by every weight and by the inputs, as one tree."""
    program = engines.get(engine).program(circuit, len(inputs))

    def both(weights, inputs):
        values, pull = jax.vjp(program, weights, inputs)
        by_weights, by_inputs = pull(jnp.asarray(cotangent, values.dtype))
        return {"values": values, "inputs": by_inputs, **by_weights}

    quick = {} if engine == "catalyst" else {"compiler_options": QUICK_COMPILATION}
    return jax.jit(both, **quick)(weights, inputs)


def assert_close(found, expected, atol):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol, rtol=atol, err_msg=name)


def on_engines(seed):
    """Hold `xla` in both precisions against `reference`, `reference` against the QNode, and for one seed in ten
    `catalyst`, where it runs the circuit, and differences of values.
    """
    (float64, float32), function, point = drawn(seed)
    exact = values_and_gradients("reference", float64, *point)
    weights, inputs, cotangent = point
    np.testing.assert_allclose(exact["values"][0], qnode(function, float64.n_qubits)(weights, inputs[0]), atol=1e-9)
    assert_close(values_and_gradients("xla", float64, *point), exact, 1e-6)
    assert_close(values_and_gradients("xla", float32, *point), exact, 1e-4)
    if seed % 10 == 0 and engines.get("catalyst").why_not(float64) is None:
        assert_close(values_and_gradients("catalyst", float64, *point), exact, 1e-6)
    if seed % 10 == 5:
        assert_differences(float64, exact, weights, np.asarray(inputs), cotangent)


def assert_differences(circuit, exact, weights, inputs, cotangent):
    """Hold the gradients along a random direction against central differences of the definition's values."""
    generator = np.random.default_rng(0)
    arrays = {**{name: np.asarray(value) for name, value in weights.items()}, "inputs": inputs}
    along = {name: generator.normal(size=value.shape) for name, value in arrays.items()}
    ends = []
    for step in (1e-5, -1e-5):
        moved = {name: value + step * along[name] for name, value in arrays.items()}
        ends.append((statevector.values(circuit, moved, moved.pop("inputs")) * cotangent).sum())
    slope = sum((np.asarray(exact[name]) * along[name]).sum() for name in along)
    assert abs(slope - (ends[0] - ends[1]) / 2e-5) < 1e-6 * max(1.0, abs(slope))


def test_a_random_circuit_on_engines():
    on_engines(195)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_three_hundred_random_circuits_on_engines(seed):
    on_engines(seed)
    jax.clear_caches()
    engines.cache_clear()
