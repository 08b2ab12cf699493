"""The meaning of a circuit: against PennyLane's own templates, and against closed forms."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.circuits import ANSATZE, ENCODINGS, ENTANGLEMENTS, CircuitSpec
from qwafer.circuits.readouts import contract_readout, readout_matrix
from qwafer.engines.reference import ReferenceEngine

ROTATION = {"ry": "Y", "rx": "X", "rz": "Z"}


def draw(spec, batch, seed=0):
    rng = np.random.default_rng(seed)
    weights = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in spec.weight_shapes().items()}
    return weights, jnp.asarray(rng.uniform(-2, 2, (batch, spec.n_qubits)))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 5])
@pytest.mark.parametrize("ansatz", ["strongly_entangling", "basic_entangler"])
def test_the_circuit_is_pennylanes_template(ansatz, n_qubits, encoding):
    spec = CircuitSpec(n_qubits, 4, encoding, ansatz, readout="z", dtype="float64")
    weights, angles = draw(spec, 2)
    wires = range(n_qubits)

    @qml.qnode(qml.device("default.qubit", wires=n_qubits))
    def template(x):
        if encoding == "rz":
            for wire in wires:
                qml.Hadamard(wire)
        qml.AngleEmbedding(x, wires=wires, rotation=ROTATION[encoding])
        if ansatz == "strongly_entangling":
            qml.StronglyEntanglingLayers(np.asarray(weights["ansatz"]), wires=wires)
        else:
            qml.BasicEntanglerLayers(np.asarray(weights["ansatz"])[..., 0], wires=wires)
        return [qml.expval(qml.Z(i)) for i in wires]

    ours = ReferenceEngine().program(spec, 2)(weights, angles)
    theirs = [template(np.asarray(x)) for x in angles]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_circuit_without_layers_has_the_closed_form_of_its_encoding():
    angles = jnp.asarray([[0.3, -1.1]])
    expected = {
        "ry": np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1),
        "rx": np.stack([0 * angles, -np.sin(angles), np.cos(angles)], -1),
        "rz": np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1),
    }
    for encoding, bloch in expected.items():
        spec = CircuitSpec(2, 0, encoding, readout="bloch", dtype="float64")
        values = ReferenceEngine().program(spec, 1)(draw(spec, 1)[0], angles)
        np.testing.assert_allclose(values.reshape(1, 2, 3), bloch, atol=1e-12)


@pytest.mark.parametrize("readout", ["mean_z", "z_vec", "mean_z_readout", "z"])
def test_every_readout_is_a_contraction_of_bloch_vectors(readout):
    outputs = 2 if readout in ("z_vec", "mean_z_readout") else 1
    spec = CircuitSpec(3, 2, readout=readout, n_outputs=outputs, dtype="float64")
    weights, angles = draw(spec, 4)
    body = {"ansatz": weights["ansatz"]}
    bloch = ReferenceEngine().program(spec.body(), 4)(body, angles).reshape(4, 3, 3)
    gates = ReferenceEngine().program(spec, 4)(weights, angles)
    np.testing.assert_allclose(contract_readout(spec, weights, bloch, jnp), gates, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_last_readout_angle_is_inert_and_rows_are_unit_vectors(seed):
    spec = CircuitSpec(3, 1, readout="mean_z_readout", n_outputs=2, dtype="float64")
    weights, _ = draw(spec, 1, seed)
    turned = {**weights, "readout": weights["readout"].at[..., 2].add(1.0)}
    matrix = readout_matrix(spec, weights, jnp)
    np.testing.assert_array_equal(matrix, readout_matrix(spec, turned, jnp))
    np.testing.assert_allclose(jnp.linalg.norm(matrix, axis=-1), 1 / 3, atol=1e-12)


def test_reuploading_encodes_before_every_layer_and_only_then():
    once = [op.source for op in CircuitSpec(2, 3).operations()].count("inputs")
    again = [op.source for op in CircuitSpec(2, 3, reupload=True).operations()].count("inputs")
    assert (once, again) == (2, 6)


@pytest.mark.parametrize("entanglement", [e for e in ENTANGLEMENTS if e != "none"])
def test_every_weight_is_used_exactly_once(entanglement):
    spec = CircuitSpec(3, 2, entanglement=entanglement, readout="mean_z_readout", n_outputs=2)
    used = [op.index for op in spec.operations() if op.source == "ansatz"]
    assert sorted(used) == list(np.ndindex(spec.weight_shapes()["ansatz"]))
    readout = [op.index for k in range(2) for op in spec.readout_operations(k)]
    assert sorted(readout) == list(np.ndindex(spec.weight_shapes()["readout"]))


def test_entangling_pairs():
    assert CircuitSpec(4, 2).entangling_pairs(1) == ((0, 2), (1, 3), (2, 0), (3, 1))
    assert CircuitSpec(4, 1, entanglement="linear").entangling_pairs(0) == ((0, 1), (1, 2), (2, 3))
    assert len(CircuitSpec(4, 1, entanglement="all").entangling_pairs(0)) == 6
    assert CircuitSpec(4, 1, ansatz="separable").entangling_pairs(0) == ()


def test_equal_meanings_are_equal_specs():
    assert CircuitSpec(4, 2) == CircuitSpec(4, 2, entanglement="ring")
    assert hash(CircuitSpec(4, 2)) == hash(dataclasses.replace(CircuitSpec(4, 2), entanglement="ring"))
    assert CircuitSpec(4, 2, readout="z").n_outputs == 4
    assert CircuitSpec(4, 2).body().n_outputs == 12
    assert CircuitSpec(4, 2, readout="z", n_outputs=4).body() == CircuitSpec(4, 2).body()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_qubits": 0}, "`n_qubits` must be at least 1"),
        ({"encoding": "rry"}, "did you mean"),
        ({"ansatz": "separable", "entanglement": "ring"}, "`none` belongs to `separable`"),
        ({"entanglement": "none"}, "`none` belongs to `separable`"),
        ({"readout": "mean_z", "n_outputs": 3}, "mean_z_readout"),
        ({"readout": "z", "n_outputs": 3}, "`n_outputs` of readout z is 4"),
        ({"dtype": "float16"}, "`dtype` must be one of"),
    ],
)
def test_combinations_without_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CircuitSpec(**{"n_qubits": 4, "n_layers": 1, **options})


def test_types_are_checked():
    with pytest.raises(TypeError, match="`n_layers` must be an integer"):
        CircuitSpec(4, 1.5)
    with pytest.raises(TypeError, match="`reupload`"):
        CircuitSpec(4, 1, reupload="yes")


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_weight_counts(ansatz):
    spec = CircuitSpec(4, 2, ansatz=ansatz, readout="mean_z_readout", n_outputs=3)
    assert spec.n_weights() == 2 * 4 * len(spec.layer_gates) + 3 * 4 * 3
