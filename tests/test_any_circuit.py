"""Captured circuits compute what PennyLane's own QNode does: every gate, every measurement, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import engines
from qwafer.circuits import statevector
from tests import anycircuits
from tests.anycircuits import GATES, STARTS
from tests.factories import QUICK_COMPILATION

NAMES = sorted(GATES)
GROUPS = [
    ["AmplitudeEmbedding", *NAMES[::8]],
    NAMES[4::8],
    ["StatePrep", *NAMES[1::4]],
    ["BasisState", *NAMES[2::4]],
    ["BasisEmbedding", *NAMES[3::4]],
]


def qnode(function, n=4):
    """Return (weights, x) -> all that the function measures, as one vector, on default.qubit."""
    own = qml.QNode(function, qml.device("default.qubit", wires=n), interface="jax", diff_method="backprop")

    def values(weights, x):
        with jax.numpy_rank_promotion("allow"):
            return jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(own(weights, x))])

    return values


def point(circuit, batch, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    weights = {
        name: jnp.asarray(scale * generator.normal(size=shape)) for name, shape in circuit.weight_shapes().items()
    }
    return weights, jnp.asarray(generator.normal(size=(batch, circuit.n_inputs)))


@pytest.mark.parametrize("name", [*NAMES, *STARTS])
def test_every_gate_prepares_the_state_that_pennylane_says(name):
    gate = GATES.get(name) or STARTS[name]

    def function(weights, x):
        if name in GATES:
            anycircuits.mixed(x)
        gate(x + weights["w"])
        return qml.state()

    circuit = qwafer.circuit(function, weights={"w": 3}, n_inputs=3, n_qubits=4, dtype="float64")
    weights, inputs = point(circuit, 1)
    found = statevector.values(circuit, weights, inputs)
    expected = [np.asarray(qnode(function)(weights, x)) for x in inputs]
    np.testing.assert_allclose(found[:, :16] + 1j * found[:, 16:], expected, atol=1e-12)


@pytest.mark.parametrize(
    "names",
    [GROUPS[0], *(pytest.param(group, marks=pytest.mark.slow) for group in GROUPS[1:])],
    ids=lambda names: names[0],
)
def test_values_and_derivatives_are_those_of_the_qnode(names):
    against_the_qnode(*anycircuits.some_of(names))


def against_the_qnode(function, shapes, seed=0):
    """Hold the definition's values, and the derivatives of a random sum of them, against those of default.qubit."""
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4, dtype="float64")
    weights, inputs = point(circuit, 1, seed)
    cotangent = np.random.default_rng(seed).normal(size=circuit.n_outputs)
    own = qnode(function)

    def both(weights, x):
        values = own(weights, x)
        return values @ cotangent, values

    graded = jax.jit(jax.grad(both, argnums=(0, 1), has_aux=True), compiler_options=QUICK_COMPILATION)
    (by_weights, by_inputs), expected = graded(weights, inputs[0])
    plain = {name: np.asarray(value) for name, value in weights.items()}
    np.testing.assert_allclose(statevector.values(circuit, plain, inputs)[0], expected, atol=1e-10)
    found = statevector.jacobian(circuit, plain, np.asarray(inputs))
    for group, exact in {**by_weights, "inputs": by_inputs}.items():
        total = np.einsum("k,k...->...", cotangent, found[group][0])
        np.testing.assert_allclose(total, exact, atol=1e-9, err_msg=group)


def against_the_definition(engine, circuit, *, atol, batch=3, seed=0):
    """Hold values and the vjp of an engine against the definition."""
    weights, inputs = point(circuit, batch, seed)
    cotangent = np.random.default_rng(7).normal(size=(batch, circuit.n_outputs))
    program = engine.program(circuit, batch)

    def both(weights, inputs):
        values, pull = jax.vjp(program, weights, inputs)
        return values, *pull(jnp.asarray(cotangent, values.dtype))

    values, by_weights, by_inputs = jax.jit(both, compiler_options=QUICK_COMPILATION)(weights, inputs)
    assert values.dtype == circuit.dtype
    plain = {name: np.asarray(value) for name, value in weights.items()}
    np.testing.assert_allclose(values, statevector.values(circuit, plain, inputs), atol=atol)
    exact = statevector.jacobian(circuit, plain, np.asarray(inputs))
    for group, found in by_weights.items():
        expected = np.einsum("nk,nk...->...", cotangent, exact[group])
        np.testing.assert_allclose(found, expected, atol=4 * atol, err_msg=group)
    np.testing.assert_allclose(by_inputs, np.einsum("nk,nki->ni", cotangent, exact["inputs"]), atol=4 * atol)
    return program


SHORT = [
    "AmplitudeEmbedding",
    "CRX",
    "QubitUnitary given",
    "OrbitalRotation",
    "MultiRZ",
    "Toffoli CSWAP CCZ",
    "PauliRot",
]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "float32"), ({"chunk": 2}, "float64")],
    ids=str,
)
def test_xla_applies_the_gates_to_the_batch(options, dtype):
    function, shapes = anycircuits.some_of(SHORT)
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4, dtype=dtype)
    engine = engines.get("xla", **options)
    program = against_the_definition(engine, circuit, atol=1e-6 if dtype == "float64" else 5e-5)
    assert program.info["plan"] == "gates"
    assert program.info["chunks"] == (2 if options.get("chunk") else 1)
    assert program.info["recompute"] == bool(options.get("chunk"))
    assert program.info["circuit"] == circuit.digest
    assert program.info["flops"] > 0


def test_the_reference_engine_applies_them_as_written():
    function, shapes = anycircuits.some_of(SHORT)
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4, dtype="float64")
    against_the_definition(engines.get("reference"), circuit, atol=1e-6)


def test_catalyst_sweeps_the_words_of_a_captured_circuit():
    def function(weights, x):
        qml.AngleEmbedding(weights["w"][0] * x, wires=range(3))
        qml.CRX(weights["w"][1], [0, 1])
        qml.IsingXX(x[0] * x[1], [1, 2])
        qml.PauliRot(weights["w"][2], "ZXY", [0, 1, 2])
        qml.Toffoli([0, 1, 2])
        qml.RX(0.3, 1)
        coefficients = [weights["c"][0], weights["c"][1]]
        return qml.expval(qml.Hamiltonian(coefficients, [qml.Z(0) @ qml.X(1), qml.Y(2)])), qml.probs(wires=[2, 0])

    circuit = qwafer.circuit(function, weights={"w": 3, "c": 2}, n_inputs=3, dtype="float64")
    against_the_definition(engines.get("catalyst"), circuit, atol=1e-6)


def test_programs_are_mapped_differentiated_twice_or_refused():
    circuit = qwafer.circuit(anycircuits.node, weights={"w0": 2, "w1": ()}, n_inputs=2, dtype="float64")
    program = engines.get("xla").program(circuit, 2)
    weights, inputs = point(circuit, 2)
    lanes = jax.tree.map(lambda value: jnp.stack([value, -value]), weights)  # as seeds that train side by side

    def loss(weights):
        return (program(weights, inputs) ** 2).sum()

    side_by_side = jax.jit(jax.vmap(jax.grad(loss)))(lanes)
    for lane in range(2):
        alone = jax.grad(loss)(jax.tree.map(lambda value, lane=lane: value[lane], lanes))
        for name, found in side_by_side.items():
            np.testing.assert_allclose(found[lane], alone[name], atol=1e-12)
    with pytest.raises(qwafer.CapabilityError, match="reverse mode alone"):
        jax.jacfwd(loss)(weights)
    program = engines.get("xla", derivatives="any").program(circuit, 2)
    forwards = jax.jit(jax.jacfwd(loss))(weights)
    for name, found in forwards.items():
        np.testing.assert_allclose(found, side_by_side[name][0], atol=1e-12)


@pytest.mark.parametrize(("readout", "n_outputs"), [("mean_z_readout", 2), ("z_vec", 2)])
def test_the_readouts_of_the_house_stand_on_any_body(readout, n_outputs):
    circuit = qwafer.circuit(
        anycircuits.layers,
        weights={"theta": (1, 3, 3)},
        n_inputs=3,
        readout=readout,
        n_outputs=n_outputs,
        dtype="float64",
        arguments={"scale": 0.5},
    )
    against_the_definition(engines.get("xla"), circuit, atol=1e-6)
    assert circuit.body().n_outputs == 9


def test_the_state_comes_back_with_derivatives():
    def function(weights, x):
        qml.PhaseShift(x[0], 0)
        qml.RY(weights["w"][0], 0)
        qml.CRZ(x[0], [0, 1])
        return qml.state()

    circuit = qwafer.circuit(function, weights={"w": 1}, n_inputs=1, dtype="float64")
    assert circuit.n_outputs == 8
    for name in ("xla", "reference"):
        against_the_definition(engines.get(name), circuit, atol=1e-6)
    with pytest.raises(qwafer.CapabilityError, match="returns the state"):
        engines.get("catalyst").program(circuit, 2)


@pytest.mark.parametrize("seed", range(2))
def test_random_circuits(seed):
    random_circuit(seed, 5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_three_hundred_random_circuits(seed):
    random_circuit(1000 + seed, 4 + seed % 20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random_circuits_on_engines(seed):
    function, shapes = anycircuits.drawn(np.random.default_rng(seed), 10)
    for dtype, atol in (("float64", 1e-6), ("float32", 1e-4)):
        circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4, dtype=dtype)
        against_the_definition(engines.get("xla"), circuit, atol=atol)


def random_circuit(seed, n_gates):
    against_the_qnode(*anycircuits.drawn(np.random.default_rng(seed), n_gates), seed)


def test_derivatives_are_differences_of_values():
    function, shapes = anycircuits.drawn(np.random.default_rng(5), 6)
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4, dtype="float64")
    weights, inputs = point(circuit, 1)
    groups = {**{name: np.asarray(value) for name, value in weights.items()}, "inputs": np.asarray(inputs)}
    found = statevector.jacobian(circuit, weights, groups["inputs"])
    for group, value in groups.items():
        for index in np.ndindex(value.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = {name: np.array(other) for name, other in groups.items()}
                moved[group][index] += step
                ends.append(statevector.values(circuit, moved, moved.pop("inputs"))[0])
            place = index[1:] if group == "inputs" else index
            np.testing.assert_allclose(found[group][(0, slice(None), *place)], (ends[0] - ends[1]) / 2e-5, atol=1e-8)
