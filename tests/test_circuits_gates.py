"""Gates, encodings and circuits of one's own: facts against PennyLane's matrices, and refusals that name the gate."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

from qwafer import CapabilityError, InputError, engines
from qwafer.circuits import ENCODINGS, CircuitSpec, Gate, GateCircuit, Operation, gates
from qwafer.circuits.gates import CNOT, CZ, RX, RY, RZ, H, S, X, Y, Z, pauli_matrix
from qwafer.circuits.statevector import evolve, states, values
from qwafer.probes import circuit_subject, classify, gather
from qwafer.probes.circuit.lie import circuit_generators, lie_algebra
from qwafer.probes.circuit.structure import COMMUTES, inert_by_structure
from qwafer.probes.suite import probe_circuit

ZZ = Gate("ZZ", 2, generator="ZZ", pennylane="IsingZZ")
T = Gate("T", fixed=((1, 0), (0, np.exp(0.25j * np.pi).item())), pennylane="T")
ALL = (H, X, Y, Z, S, RX, RY, RZ, CNOT, CZ, ZZ, T)


def ring(readout: str = "z", dtype: str = "float64", n_outputs: int = 1) -> GateCircuit:
    """H, RY(w), a ring of CZ, RX(x), ZZ(v), S, RY(w) on three wires; the input of wire 0 enters twice."""
    ops = [Operation(H, (i,)) for i in range(3)] + [Operation(RY, (i,), "w", (i, 0)) for i in range(3)]
    ops += [Operation(CZ, (i, (i + 1) % 3)) for i in range(3)]
    ops += [Operation(RX, (i,), "inputs", (i % 2,)) for i in range(3)]
    ops += [Operation(ZZ, (2, 0), "v"), Operation(S, (1,)), *(Operation(RY, (i,), "w", (i, 1)) for i in range(3))]
    return GateCircuit(3, tuple(ops), 2, (("w", (3, 2)), ("v", ())), readout, n_outputs, dtype)


def point(circuit, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) for name, shape in circuit.weight_shapes().items()}
    return weights, rng.normal(size=(batch, circuit.n_inputs))


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: gate.name)
def test_gates_are_pennylanes(gate):
    theta = None if gate.generator is None else np.asarray(0.7)
    wires = range(gate.n_wires)
    operation = getattr(qml, gate.pennylane)
    expected = operation(wires=wires) if theta is None else operation(theta, wires=wires)
    np.testing.assert_allclose(gate.matrix(theta), qml.matrix(expected), atol=1e-15)
    op = Operation(gate, tuple(wires), "" if theta is None else "w", ())
    for column in range(2**gate.n_wires):
        start = np.eye(2**gate.n_wires, dtype=complex)[column : column + 1]
        out = evolve(gate.n_wires, [op], {} if theta is None else {"w": theta}, start)
        np.testing.assert_allclose(out[0], qml.matrix(expected)[:, column], atol=1e-15)


@pytest.mark.parametrize("wires", list(itertools.permutations(range(3), 2)), ids=str)
def test_two_wire_gates_find_their_wires(wires):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(1, 8)) + 1j * rng.normal(size=(1, 8))
    unitary = Gate("U", 2, fixed=tuple(map(tuple, np.linalg.qr(rng.normal(size=(4, 4)))[0].tolist())))
    expected = qml.matrix(qml.QubitUnitary(unitary.matrix(), wires=wires), wire_order=range(3)) @ start[0]
    np.testing.assert_allclose(evolve(3, [Operation(unitary, wires)], {}, start)[0], expected, atol=1e-14)


@pytest.mark.parametrize("gate", [H, X, Y, Z, S, CNOT, CZ], ids=lambda gate: gate.name)
def test_conjugation_is_that_of_the_matrix(gate):
    image, sign = gate.conjugation()
    words = ["".join(word) for word in itertools.product(gates.LETTERS, repeat=gate.n_wires)]
    for p, word in enumerate(words):
        moved = gate.matrix().conj().T @ pauli_matrix(word) @ gate.matrix()
        np.testing.assert_allclose(moved, sign[p] * pauli_matrix(words[image[p]]), atol=1e-14)


def test_what_keeps_z():
    assert [gate.name for gate in ALL if gate.keeps_z] == ["X", "Y", "Z", "S", "RZ", "CNOT", "CZ", "ZZ", "T"]


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_say_what_their_gates_do(name):
    encoding = ENCODINGS[name]
    x = np.linspace(-3, 3, 5)[:, None]
    state = evolve(1, encoding.operations(1), {"inputs": x})
    np.testing.assert_allclose(
        state, np.concatenate([np.cos(x / 2), np.sin(x / 2)], 1) @ encoding.columns.T, atol=1e-15
    )
    bloch = [(state.conj() @ pauli_matrix(p) * state).sum(1).real for p in "IXYZ"]
    rows = np.concatenate([np.ones_like(x), np.cos(x), np.sin(x)], 1) @ encoding.bloch_rows
    np.testing.assert_allclose(np.stack(bloch, 1), rows, atol=1e-15)


# What an engine or a probe does not know it must not take for something else.


def test_a_gate_that_is_not_one_is_refused_by_name():
    with pytest.raises(InputError, match="'CZ'"):
        Operation("CZ", (0, 1))
    with pytest.raises(InputError, match="CNOT acts on 2 different wires"):
        Operation(CNOT, (0, 0))
    with pytest.raises(InputError, match="RX must fit"):
        Operation(RX, (0,))
    with pytest.raises(InputError, match="H must fit"):
        Operation(H, (0,), "w", (0,))


def test_no_probe_takes_an_unknown_gate_for_a_cnot():
    plus = [Operation(H, (0,)), Operation(H, (1,))]
    apart = [evolve(2, [*plus, Operation(gate, (0, 1))], {}) for gate in (CZ, CNOT)]
    assert np.abs(apart[0] - apart[1]).max() > 0.4
    # Z of both wires commutes with CZ, not with CNOT: RX before it is seen on its own wire alone.
    circuit = GateCircuit(2, (Operation(RZ, (0,), "w", (0,)), Operation(CZ, (0, 1))), 0, (("w", (1,)),), "z")
    assert inert_by_structure(circuit) == {("w", (0,)): COMMUTES}
    seen = dataclasses.replace(circuit, gates=(circuit.gates[0], Operation(H, (0,)), circuit.gates[1]))
    assert inert_by_structure(seen) == {}
    trained = Operation(RX, (1,), "w", (0,))
    through_cz = dataclasses.replace(circuit, gates=(Operation(CZ, (0, 1)), trained))
    assert circuit_generators(through_cz) == [(0b01, 0b10)]  # ZX; a CNOT would leave IX
    with pytest.raises(CapabilityError, match="gate T is not a Clifford gate"):
        circuit_generators(dataclasses.replace(circuit, gates=(Operation(T, (1,)), trained)))


def test_engines_name_the_gate_that_pennylane_does_not_have():
    mine = Gate("Mine", fixed=((0, 1), (1, 0)), pennylane="Mine")
    circuit = GateCircuit(1, (Operation(mine, (0,)), Operation(RX, (0,), "inputs", (0,))), 1)
    for name in ("reference", "catalyst"):
        with pytest.raises(CapabilityError, match="gate Mine has no PennyLane form"):
            engines.get(name).program(circuit, 2)
    np.testing.assert_allclose(values(circuit, {}, np.array([[0.4]])), [[-np.cos(0.4)]], atol=1e-15)
    nameless = dataclasses.replace(circuit, gates=(Operation(Gate("Mine", fixed=mine.fixed), (0,)), circuit.gates[1]))
    found = engines.get("reference").program(nameless, 1)({}, jnp.asarray([[0.4]]))
    np.testing.assert_allclose(found, [[-np.cos(0.4)]], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "X", "fixed": ((1, 0), (0, 1))}, "either a `generator` or a `fixed`"),
        ({"generator": "XX"}, "`generator` of gate G must have 1 of the letters"),
        ({"fixed": ((1, 1), (0, 1))}, "unitary matrix of 2 x 2"),
    ],
)
def test_gates_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Gate("G", **options)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Operation(H, (2,)), r"gate 0 \(H\) acts on wires"),
        (Operation(RX, (0,), "u", (0,)), "takes its angle from u"),
        (Operation(RX, (0,), "w", (3,)), "has index"),
    ],
)
def test_gate_circuits_without_meaning_are_refused(op, message):
    with pytest.raises(InputError, match=message):
        GateCircuit(2, (op,), 1, (("w", (3,)),))
    with pytest.raises(InputError, match="names of their own"):
        GateCircuit(1, (), 1, (("inputs", (3,)),))


def test_a_gate_circuit_is_a_circuit():
    circuit = ring("mean_z_readout", n_outputs=2)
    assert hash(circuit) == hash(ring("mean_z_readout", n_outputs=2))
    assert circuit.weight_shapes() == {"w": (3, 2), "v": (), "readout": (2, 3, 3)}
    assert circuit.n_weights() == 6 + 1 + 18
    assert circuit.body().n_outputs == 9
    spec = CircuitSpec(3, 2, "rz", readout="z_vec", n_outputs=2, reupload=True, dtype="float64")
    same = GateCircuit(3, spec.operations(), 3, (("ansatz", (2, 3, 3)),), "z_vec", 2, "float64")
    weights, inputs = point(spec)
    np.testing.assert_array_equal(values(same, weights, inputs), values(spec, weights, inputs))


@pytest.mark.parametrize(
    ("readout", "n_outputs"), [("z", 1), ("z_vec", 2), ("mean_z_readout", 2), ("mean_z", 1), ("bloch", 1)]
)
@pytest.mark.parametrize("name", ["reference", "catalyst", "xla"])
def test_engines_run_a_circuit_of_ones_own(name, readout, n_outputs):
    circuit = ring(readout, n_outputs=n_outputs)
    weights, inputs = point(circuit)
    program = engines.get(name).program(circuit, 4)
    cotangent = np.random.default_rng(1).normal(size=(4, circuit.n_outputs))
    with jax.disable_jit(name == "reference"):
        s, vjp = jax.vjp(program, {k: jnp.asarray(v) for k, v in weights.items()}, jnp.asarray(inputs))
        d_weights, d_inputs = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(s, values(circuit, weights, inputs), atol=1e-12)
    groups = {**weights, "inputs": inputs}
    for group, gradient in {**d_weights, "inputs": d_inputs}.items():
        for index in np.ndindex(*groups[group].shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = {k: np.array(v) for k, v in groups.items()}
                moved[group][index] += step
                ends.append((values(circuit, moved, moved.pop("inputs")) * cotangent).sum())
            assert abs(float(gradient[index]) - (ends[0] - ends[1]) / 2e-5) < 1e-8, (group, index)


def test_engines_say_which_circuits_they_do_not_run():
    circuit = ring()
    with pytest.raises(InputError, match="layered circuits"):
        engines.get("xla", plan="schroedinger").program(circuit, 4)
    with pytest.raises(CapabilityError, match="batching scan"):
        engines.get("catalyst", batching="choi").program(circuit, 4)
    assert engines.get("catalyst", batching="auto").program(circuit, 4).info["batching"] == "scan"
    auto = engines.get("auto").program(circuit, 4)
    assert auto.info["auto"]["took"] == "xla"
    assert auto.info["plan"] == "gates"


def test_probes_question_a_circuit_of_ones_own():
    circuit = ring()
    subject = circuit_subject(circuit, "catalyst")
    reports = {report.name: report for report in probe_circuit(subject)}
    assert all(report.ok for report in reports.values()), {n: r.headline for n, r in reports.items() if not r.ok}
    assert reports["value agreement"].verdict == "pass"
    assert reports["gradient agreement"].verdict == "pass"
    assert reports["gradient agreement"].numbers["groups"]["inputs"]["method"] == "central difference"
    assert reports["fourier spectrum"].numbers["accessible"] == 2
    weights, inputs = point(circuit, batch=1)
    np.testing.assert_allclose(subject.states(weights, inputs), states(circuit, weights, inputs))
    assert lie_algebra(subject).verdict == "pass"
    classes = classify(gather(subject, points=1))
    assert {parameter for parameter, label in classes.items() if label == "inert"} == set(inert_by_structure(circuit))
