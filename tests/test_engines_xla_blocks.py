"""Plan `gates` of engine `xla`: its frames, forms and blocks, each against what they stand for, and whole circuits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import engines
from qwafer.circuits import GateCircuit, Operation, statevector
from qwafer.circuits.gates import CNOT, CZ, RX, RY, RZ, Gate, H, S, X, Y
from qwafer.engines.slots import Vectors, selected, slot_vectors
from qwafer.engines.xla import elements, schedule
from qwafer.engines.xla.blocks import _tree_order
from qwafer.engines.xla.forms import embedded, form, signs, walsh_angles
from qwafer.engines.xla.frames import wire_order
from qwafer.engines.xla.scheduled import planned
from tests import anycircuits
from tests.test_any_circuit import against_the_definition

CCX = Gate("CCX", 3, fixed=tuple(tuple(float(row[i]) for i in range(8)) for row in np.eye(8)[[0, 1, 2, 3, 4, 5, 7, 6]]))
SWAP = Gate("SWAP", 2, fixed=((1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 0, 0, 1)))
XYZ = Gate("RXYZ", 3, generator="XYZ")
ZZ = Gate("RZZ", 2, generator="ZZ")
XX = Gate("RXX", 2, generator="XX")
TURNS, FIXED = (RX, RY, RZ, ZZ, XX, XYZ), (H, S, X, Y, CNOT, CZ, SWAP, CCX)


def drawn(seed, n, count, turns=TURNS, fixed=FIXED, own=0.4, words=("Z", "X", "YY")):
    """Return a random circuit, angles from inputs and from a weight, each used several times."""
    rng = np.random.default_rng(seed)
    gates = []
    for _ in range(count):
        chosen = turns if rng.random() < 0.6 else fixed
        gate = chosen[rng.integers(len(chosen))]
        wires = tuple(int(wire) for wire in rng.permutation(n)[: gate.n_wires])
        source, size = ("inputs", 3) if rng.random() < own else ("w", 5)
        index = () if gate.fixed else (int(rng.integers(size)),)
        gates.append(Operation(gate, wires, "" if gate.fixed else source, index))
    padded = tuple(word + "I" * (n - len(word)) for word in words)
    return GateCircuit(n, tuple(gates), 3, (("w", (5,)),), "words", dtype="float64", words=padded)


@pytest.mark.parametrize("seed", range(6))
def test_frames_follow_gates_that_move_amplitudes(seed):
    rng = np.random.default_rng(seed)
    n, frame = 4, wire_order(rng.permutation(4).tolist())
    state = rng.normal(size=2**n)
    plain = wire_order(range(n))
    stored = state[_index(plain, frame)]
    for gate in (CNOT, X, SWAP, CNOT, X, CNOT):
        wires = rng.permutation(n)[: gate.n_wires].tolist()
        state = embedded(np.asarray(gate.fixed), wires, range(n)) @ state
        images, offset = elements.Element(gate, tuple(wires)).moves
        frame = frame.moved(wires, images, offset)
    np.testing.assert_allclose(stored[_index(frame, plain)], state.real, atol=1e-12)
    for mask in range(2**n):
        own, sign = frame.mask(mask)
        diagonal = signs(mask, n)[_index(plain, frame)]
        np.testing.assert_array_equal(sign * signs(own, n), diagonal)


def _index(before, after):
    index = before.index_to(after)
    return np.arange(2**before.n) if index is None else np.asarray(index)


def test_toffoli_moves_amplitudes_as_no_linear_map_does():
    assert elements.Element(CCX, (0, 1, 2)).moves is None
    assert elements.Element(H, (0,)).moves is None
    assert elements.Element(CNOT, (0, 1)).moves is not None


@pytest.mark.parametrize("seed", range(4))
def test_forms_are_the_products_of_their_gates(seed):
    circuit = drawn(seed, 3, 14)
    wires, angles = (2, 0, 1), np.random.default_rng(seed).normal(size=8)
    own = form(elements.elements(circuit.operations()), wires)
    product = own.fixed[0]
    for level, fixed in zip(own.turns, own.fixed[1:], strict=True):
        phases = sum((angles[_place(key)] * signs(mask, 3) for mask, key in level), np.zeros(8))
        product = fixed @ (np.exp(-0.5j * phases)[:, None] * product)
    expected = np.eye(8)
    for op in circuit.operations():
        theta = angles[_place((op.source, op.index))] if op.source else None
        expected = embedded(op.gate.matrix(theta), op.wires, wires) @ expected
    np.testing.assert_allclose(product, expected, atol=1e-12)


def _place(key):
    return key[1][0] + (5 if key[0] == "inputs" else 0)


def test_diagonals_are_z_rotations():
    phases = np.exp(1j * np.random.default_rng(0).normal(size=4))
    found = sum(angle * signs(mask, 3) for mask, angle in walsh_angles(np.diag(phases), (2, 0), 3))
    np.testing.assert_allclose(np.exp(-0.5j * found), np.diag(embedded(np.diag(phases), (2, 0), range(3))), atol=1e-12)


@pytest.mark.parametrize("count", range(1, 12))
def test_kronecker_products_of_halves_take_every_wire_once(count):
    assert sorted(_tree_order(count)) == list(range(count))


def test_what_goes_first_commutes_with_what_stays():
    circuit = drawn(3, 5, 40)
    found = elements.elements(circuit.operations())
    taken = elements.absorbed(found, lambda e: set(e.wires) <= {0, 1, 2}, {0, 1, 2})
    rest = [place for place in range(len(found)) if place not in taken]
    angles = np.random.default_rng(1).normal(size=8)

    def product(places):
        matrix = np.eye(32)
        for place in places:
            op = found[place].op
            theta = angles[_place((op.source, op.index))] if op else None
            matrix = embedded(found[place].gate.matrix(theta), found[place].wires, range(5)) @ matrix
        return matrix

    assert 0 < len(taken) < len(found)
    np.testing.assert_allclose(product([*taken, *rest]), product(range(len(found))), atol=1e-12)


def test_gates_that_reach_no_measured_word_are_left_out():
    gates = [
        Operation(RY, (0,), "w", (0,)),
        Operation(CNOT, (0, 1)),
        Operation(RY, (2,), "w", (1,)),
        Operation(RZ, (0,), "w", (2,)),
    ]
    kept = elements.without_effect(elements.elements(gates), ["ZII"])
    assert [(e.gate.name, e.wires) for e in kept] == [("RY", (0,))]


def test_blocks_are_few():
    circuit = anycircuits_layers(8, 4)
    plan = planned(circuit.core, 256)
    kinds = [placed.block.kind for placed in plan.blocks]
    assert len(kinds) < 20 < len(circuit.operations())
    assert set(kinds) <= {"phase", "shared", "own"}
    assert not plan.real
    real = GateCircuit(
        3,
        (Operation(RY, (0,), "inputs", (0,)), Operation(CZ, (0, 1)), Operation(RY, (1,), "w", (0,))),
        1,
        (("w", (1,)),),
    )
    assert schedule.plan(real, ("ZII",), 4).real


def anycircuits_layers(n, layers):
    def function(weights, x):
        for layer in range(layers):
            qml.AngleEmbedding(x, wires=range(n), rotation="X")
            qml.StronglyEntanglingLayers(weights["w"][layer][None], wires=range(n))
        return [qml.expval(qml.Z(wire)) for wire in range(n)]

    return qwafer.circuit(function, weights={"w": (layers, n, 3)}, n_inputs=n)


@pytest.mark.parametrize("options", [{}, {"recompute": True}], ids=str)
@pytest.mark.parametrize(
    ("seed", "n", "gates"),
    [(0, 3, {}), (1, 6, {"own": 0.1}), (2, 4, {"turns": (RY,), "fixed": (H, X, CNOT, CZ, SWAP, CCX), "words": ("X",)})],
)
def test_circuits_are_what_their_gates_say(seed, n, gates, options):
    circuit = drawn(seed, n, 30, **gates)
    program = against_the_definition(engines.get("xla", **options), circuit, atol=1e-9)
    assert program.info["recompute"] == bool(options)
    assert program.info["blocks"] < 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_many_circuits_are_what_their_gates_say(seed):
    rng = np.random.default_rng(seed)
    turns = [(RX, RY, RZ), TURNS, (RY,), (RZ, ZZ, XX)][seed % 4]
    fixed = FIXED if seed % 4 != 2 else (H, X, CNOT, CZ, SWAP, CCX)
    circuit = drawn(100 + seed, int(rng.integers(1, 7)) + 2, 40, turns, fixed, float(rng.choice([0, 0.2, 0.8])))
    against_the_definition(engines.get("xla"), circuit, atol=1e-9)
    against_the_definition(engines.get("xla", recompute=True, chunk=2), circuit, atol=1e-9)


def test_single_precision_stays_within_its_bound():
    function, shapes = anycircuits.drawn(np.random.default_rng(11), 4)
    circuit = qwafer.circuit(function, weights=shapes, n_inputs=3, n_qubits=4)
    against_the_definition(engines.get("xla"), circuit, atol=1e-4)


@pytest.mark.parametrize("reverse", [True, False])
def test_rows_are_picked_and_their_cotangents_summed(reverse):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    for rows in itertools.chain([[2, 0], [1, 1, 3], [4, 2, 4], [0, 1, 2, 3], [1, 2]]):
        rows = np.array(rows, np.int32)
        expected = np.concatenate([x, np.zeros((1, 3))])[rows]
        values, pull = jax.vjp(lambda x, rows=rows: selected(x, rows, reverse), x)
        np.testing.assert_array_equal(values, expected)
        cotangent = np.random.default_rng(1).normal(size=expected.shape)
        total = np.zeros((5, 3))
        np.add.at(total, rows, cotangent)
        np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], total[:4], atol=1e-12)


def test_slots_are_few_operations_on_vectors():
    def function(weights, x):
        for i in range(6):
            qml.RX(weights["omega"][i] * x[i] + weights["theta"][i], i)
            qml.RY(jnp.sin(weights["theta"][i]) ** 2, i)
        qml.RZ(jnp.sum(x**2) / jnp.linalg.norm(weights["omega"]), 0)
        qml.RZ(x[jnp.array([3, 1])][0], 1)
        qml.RZ(0.25, 2)
        return qml.expval(qml.Z(0))

    circuit = qwafer.circuit(function, weights={"omega": 6, "theta": 6}, n_inputs=6, dtype="float64")
    vectors = slot_vectors(circuit)
    assert isinstance(vectors, Vectors)
    assert len(vectors.steps) < 20
    rng = np.random.default_rng(0)
    weights = {"omega": rng.normal(size=6), "theta": rng.normal(size=6)}
    inputs = rng.normal(size=(5, 6))
    exact = circuit.slots(weights, inputs)
    shared, own, _ = vectors([*map(jnp.asarray, weights.values()), jnp.asarray(inputs.T)], True)
    np.testing.assert_allclose(shared, exact.weights["shared"], atol=1e-12)
    np.testing.assert_allclose(own.T, exact.inputs, atol=1e-12)
    assert statevector.values(circuit, weights, inputs).shape == (5, 1)
