"""Circuits of one's own, attacked: what was wrong or passed in silence, each with the case that showed it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import engines, models
from qwafer.circuits import CIRCUITS, statevector
from qwafer.circuits.effective import inert
from qwafer.probes import circuit_subject
from qwafer.probes.suite import probe_power
from tests import papercircuits as paper
from tests.test_any_circuit import against_the_definition, qnode


def captured(function, weights=(), n_inputs=1, **options):
    return qwafer.circuit(function, weights, n_inputs, dtype="float64", **options)


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


@jax.custom_vjp
def coarse(x):
    return jnp.round(4 * x) / 4


coarse.defvjp(lambda x: (coarse(x), None), lambda _, g: (3 * g,))


def test_derivatives_that_somebody_has_written_are_those_of_engines():
    """Straight-through estimators: where functions were inlined, their slopes were those of a step, 0."""

    def function(weights, x):
        for i in range(2):
            qml.RY(rounded(2 * x[i]) + x[i], 0)
            qml.RX(coarse(weights["a"][i]), 0)
        return qml.expval(qml.Y(0)), qml.expval(coarse(weights["a"])[0] * qml.Z(0))

    circuit = captured(function, {"a": 2}, 2)
    against_the_definition(engines.get("xla"), circuit, atol=1e-6)
    by_weight = statevector.jacobian(circuit, {"a": np.array([0.3, 0.8])}, np.array([[0.4, 0.9]]))["a"]
    assert np.abs(by_weight).min() > 1e-3


def test_powers_of_whole_and_of_real_exponents_stay_apart():
    """They were one operation on vectors, in the type of the first exponent: x ** 0.5 became x ** 0."""

    def function(weights, x):
        qml.RY(jnp.abs(x[0]) ** jnp.int32(3), 0)
        qml.RX(jnp.abs(x[1]) ** jnp.asarray(0.5, x.dtype), 0)
        return qml.expval(qml.Z(0))

    circuit = captured(function, n_inputs=2)
    x = np.array([[0.7, 0.4], [-1.1, 0.2]])
    found = engines.get("xla").program(circuit, 2)({}, jnp.asarray(x))
    wanted = np.cos(np.abs(x[:, 0]) ** 3) * np.cos(np.abs(x[:, 1]) ** 0.5)
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-12)


def test_a_weight_may_be_called_as_the_slots_are():
    def function(weights, x):
        qml.RY(weights["shared"][0] * weights["shared"][1] + x[0], 0)
        qml.RX(weights["shared"][0] + weights["shared"][1], 0)
        return qml.expval(qml.Z(0))

    weights, x = {"shared": np.array([0.3, 2.0])}, np.array([[0.4]])
    found = statevector.values(captured(function, {"shared": 2}), weights, x)
    np.testing.assert_allclose(found, [[np.cos(1.0) * np.cos(2.3)]], atol=1e-12)


def test_one_weight_is_given_by_its_name_too():
    """A QNode (inputs, weights), as PennyLane's layers take it, was given its weight as the inputs."""

    @qml.qnode(qml.device("default.qubit", wires=1))
    def node(inputs, weights):
        qml.RX(inputs[0], 0)
        qml.RY(weights[0], 0)
        qml.RX(inputs[1], 0)
        qml.RY(weights[1], 0)
        return qml.expval(qml.Z(0))

    w, x = np.array([0.3, 0.8]), np.array([0.5, -0.9])
    found = statevector.values(captured(node, (2,), 2), {"weights": w}, x[None])
    np.testing.assert_allclose(found[0, 0], node(x, w), atol=1e-12)


def test_functions_of_inputs_or_of_weights_alone():
    def of_inputs(inputs):
        qml.RX(inputs[0], 0)
        return qml.expval(qml.Z(0))

    def of_weights(theta):
        qml.RX(theta[0], 0)
        return qml.expval(qml.Z(0)), qml.probs(wires=0)

    np.testing.assert_allclose(statevector.values(captured(of_inputs), {}, np.array([[0.3]])), [[np.cos(0.3)]])
    circuit = captured(of_weights, {"theta": 1}, 0)
    weights = {"theta": np.array([0.3])}
    values = statevector.values(circuit, weights, np.zeros((2, 0)))
    np.testing.assert_allclose(values, [[np.cos(0.3), np.cos(0.15) ** 2, np.sin(0.15) ** 2]] * 2, atol=1e-12)
    slopes = statevector.jacobian(circuit, weights, np.zeros((2, 0)))
    np.testing.assert_allclose(slopes["theta"][0, :, 0], -np.sin(0.3) * np.array([1, 0.5, -0.5]), atol=1e-12)
    assert not inert(circuit)["theta"].any()
    with pytest.raises(qwafer.InputError, match="no parameter for its 3 inputs, beside theta"):
        captured(of_weights, {"theta": 1}, 3)


def test_the_definition_differentiates_probabilities_without_trained_coefficients():
    def function(weights, x):
        qml.RY(weights["a"] * x[0], 0)
        qml.CNOT([0, 1])
        return qml.probs(wires=[1, 0])

    against_the_definition(engines.get("xla"), captured(function, {"a": ()}), atol=1e-6)


def test_the_identity_alone_is_measured():
    def function(weights, x):
        qml.RX(x[0], 0)
        return qml.expval(2 * qml.I(0))

    circuit = captured(function)
    x = np.array([[0.3], [0.4]])
    np.testing.assert_allclose(statevector.values(circuit, {}, x), [[2], [2]])
    np.testing.assert_allclose(engines.get("xla").program(circuit, 2)({}, jnp.asarray(x)), [[2], [2]])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda ws, x: qml.exp(qml.X(0), x[0]), "Exp .* not unitary: its coefficient has a real part"),
        (lambda ws, x: qml.exp(qml.X(0), (1 + 1j) * x[0]), "Exp .* not unitary: its coefficient has a real part"),
        (lambda ws, x: qml.RX((1 + 1j) * x[0], 0), "the angle of gate RX is complex"),
        (lambda ws, x: qml.s_prod(x[0], qml.X(0)), "SProd .* not unitary"),
        (lambda ws, x: qml.QubitUnitary(ws["a"], 0), "QubitUnitary .* not unitary"),
        (lambda ws, x: qml.DiagonalQubitUnitary(ws["a"][0] + 1j, 0), "DiagonalQubitUnitary .* not unitary"),
        (lambda ws, x: qml.expval((1 + 2j) * qml.Z(0)), "not Hermitian"),
        (lambda ws, x: qml.expval(qml.dot([1j * x[0], 1.0], [qml.Z(0), qml.X(0)])), "not Hermitian"),
        (lambda ws, x: qml.expval(qml.Hermitian(ws["a"], 0)), "Hermitian .* is not Hermitian"),
        (lambda ws, x: qml.expval(qml.Z(0) @ qml.Hermitian(np.array([[0.0, 1], [1, 0]]), 0)), "not Hermitian"),
    ],
)
def test_what_is_neither_unitary_nor_hermitian_is_refused(function, message):
    """Real parts, or phases, were taken of it."""

    def whole(weights, x):
        qml.RY(0.4 + x[0], 0)
        found = function(weights, x)
        return found if isinstance(found, qml.measurements.ExpectationMP) else qml.expval(qml.Y(0))

    with pytest.raises(qwafer.InputError, match=message):
        captured(whole, {"a": (2, 2)})


def test_what_the_data_may_make_unitary_is_captured():
    def function(weights, x):
        qml.QubitUnitary(x[:4].reshape(2, 2), 0)
        qml.DiagonalQubitUnitary(x[4:6], 0)
        qml.exp(qml.X(0), 1j * weights["a"])
        return qml.expval(qml.Hermitian(x[6:].reshape(2, 2), 0)), qml.expval(qml.X(0) @ qml.Y(0) @ qml.Z(0) * -1j)

    circuit = captured(function, {"a": ()}, 10)
    c, s = np.cos(0.3), np.sin(0.3)
    x = np.array([[c, -s, s, c, 1, -1, 0.2, 0.5, 0.5, 1]])
    found = statevector.values(circuit, {"a": np.array(0.7)}, x)
    expected = qnode(function, 1)({"a": jnp.array(0.7)}, jnp.asarray(x[0]))
    np.testing.assert_allclose(found[0], np.real(expected), atol=1e-12)


def test_a_function_that_calls_python_is_refused():
    """Two of them had one digest, whatever they call."""

    def function(weights, x):
        called = jax.jit(lambda y: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), y.dtype), y))
        qml.RX(called(x[0]), 0)
        return qml.expval(qml.Z(0))

    with pytest.raises(qwafer.CapabilityError, match=r"calls Python while it runs \(pure_callback\)"):
        captured(function)


def test_a_matrix_near_a_gate_of_the_house_is_not_that_gate():
    matrix = np.diag([1, np.exp(1j * (np.pi / 2 + 6e-6))])

    def made(gate):
        return captured(lambda weights, x: (qml.Hadamard(0), gate(), qml.expval(qml.X(0)))[-1], n_inputs=1)

    near, s = made(lambda: qml.QubitUnitary(matrix, 0)), made(lambda: qml.S(0))
    assert near.digest != s.digest
    np.testing.assert_allclose(statevector.values(near, {}, np.zeros((1, 1))), np.cos(np.pi / 2 + 6e-6), atol=1e-12)


def test_unitaries_of_single_precision_are_unitaries():
    """Arrays of JAX are of single precision unless it is told otherwise."""
    single = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0].astype(np.complex64)

    def function(weights, x):
        qml.RX(x[0], 0)
        qml.QubitUnitary(single, [0, 1])
        return qml.probs(wires=[0, 1])

    found = statevector.values(captured(function), {}, np.array([[0.4]]))
    state = single @ np.array([np.cos(0.2), 0, -1j * np.sin(0.2), 0])
    np.testing.assert_allclose(found[0], np.abs(state) ** 2, atol=1e-6)
    np.testing.assert_allclose(found.sum(), 1, atol=1e-12)


def test_rotations_with_many_controls():
    def function(weights, x):
        for wire in range(6):
            qml.RY(0.9 + 0.2 * wire, wire)
        qml.ctrl(qml.RX, control=range(5), control_values=[1, 0, 1, 1, 0])(3 * x[0], 5)
        return qml.expval(qml.Y(5)), qml.expval(qml.X(0) @ qml.Z(3))

    x = np.array([[0.8]])
    found = statevector.values(captured(function), {}, x)
    np.testing.assert_allclose(found[0], qnode(function, 6)({}, jnp.asarray(x[0])), atol=1e-12)


def test_sums_with_a_matrix_are_taken_part_by_part():
    """A matrix of all wires was made of them: 4^n words, and more than four wires were refused."""
    matrix = np.array([[1.0, 2j], [-2j, 0.5]])

    def function(weights, x):
        for wire in range(5):
            qml.RY(x[0] + wire, wire)
        parts = [qml.Z(0) @ qml.Z(4), qml.Hermitian(matrix, 1), qml.X(3)]
        return qml.expval(qml.dot([weights["a"][0], weights["a"][1], 0.3], parts) + qml.X(3))

    circuit = captured(function, {"a": 2})
    assert len(circuit.core.words) == 4  # ZZ, X, and of the matrix Y and Z; the identity is not measured
    weights, x = {"a": np.array([0.7, -0.4])}, np.array([0.3])
    found = statevector.values(circuit, weights, x[None])
    np.testing.assert_allclose(found[0, 0], np.real(qnode(function, 5)(weights, x)[0]), atol=1e-12)


def test_a_circuit_without_weights_is_probed():
    def function(weights, x):
        qml.RY(x[0], 0)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(1)), qml.expval(qml.X(0))

    reports = {report.name: report for report in probe_power(circuit_subject(captured(function), "xla"))}
    assert reports["barren plateau"].verdict == reports["effective dimension"].verdict == "skip"
    assert reports["fourier spectrum"].verdict == "pass"


def test_sizes_in_other_digits_are_refused_in_words():
    with pytest.raises(qwafer.InputError, match="theta=2x4x3"):
        CIRCUITS.get("function")(function="a:b", weights="theta=²")


@pytest.mark.parametrize("layers", [1, 2])
def test_the_separable_kernel_is_that_of_the_published_code(layers):
    """The published circuit of a pair: RX(-pi/4), RY(-x) per layer, then RY(y), RX(pi/4) per layer."""

    @paper.node(1)
    def pair(_, both):
        for _ in range(layers):
            qml.RX(-math.pi / 4, wires=0)
            qml.RY(-both[0], wires=0)
        for _ in range(layers):
            qml.RY(both[1], wires=0)
            qml.RX(math.pi / 4, wires=0)
        return qml.expval(qml.Projector([0], wires=0))

    kernel = models.SeparableKernelOptions(encoding_layers=layers).kernel(2, seed=0)
    x = np.array([[0.3, -1.2], [1.1, 0.4], [-0.7, 0.9]])
    embedded = kernel.embedded(x)
    found = kernel.gram(embedded, embedded)
    for i, j in itertools.product(range(3), repeat=2):
        wanted = math.prod(float(pair(None, (x[i, k], x[j, k]))[0]) for k in range(2))
        assert found[i, j] == pytest.approx(wanted, abs=1e-5)
