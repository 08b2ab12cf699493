"""Engine xla against an independent NumPy simulation and the reference engine: every plan, every part of a spec."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError
from qwafer.circuits import ANSATZE, ENCODINGS, ENTANGLEMENTS, READOUTS, CircuitSpec
from qwafer.circuits.statevector import values as expected
from qwafer.engines import get
from tests.factories import QUICK_COMPILATION

BATCH = 5


def problem(spec, batch, seed=0):
    """Random weights by name and inputs (batch, n_qubits), float64 NumPy."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) for name, shape in spec.weight_shapes().items()}
    return weights, rng.uniform(-2, 2, size=(batch, spec.n_qubits))


def _specs():
    """Every combination that has a meaning, three wires, two layers."""
    for encoding, ansatz, entanglement, readout, reupload in itertools.product(
        ENCODINGS, ANSATZE, ENTANGLEMENTS, READOUTS, (False, True)
    ):
        if (entanglement == "none") == (ansatz == "separable"):
            outputs = 3 if readout in ("z_vec", "mean_z_readout") else 1
            yield CircuitSpec(3, 2, encoding, ansatz, entanglement, readout, outputs, reupload, "float64")


def _chosen():
    """A subset in which every pair of two settings occurs."""
    pairs, chosen = set(), []
    for spec in list(_specs())[::-1] + list(_specs()):
        settings = (spec.encoding, spec.ansatz, spec.entanglement, spec.readout, spec.reupload)
        new = set(itertools.combinations(enumerate(settings), 2)) - pairs
        if len(new) >= 3 or (new and len(chosen) > 20):
            chosen.append(spec)
            pairs |= new
    return chosen


def _name(value):
    if isinstance(value, CircuitSpec):
        parts = (value.n_qubits, value.n_layers, value.encoding, value.ansatz, value.entanglement, value.readout)
        return "-".join(map(str, parts)) + ("-reupload" if value.reupload else "")
    return str(value)


def _check(spec, batch=BATCH, seed=0, values=1e-6, gradients=1e-5, **options):
    """Values against the oracle; gradients along two random directions against its central differences."""
    weights, angles = problem(spec, batch, seed)
    program = get("xla", **options).program(spec, batch)
    rng = np.random.default_rng(seed + 1)
    cotangent = rng.normal(size=(batch, spec.n_outputs))
    cast = {name: jnp.asarray(value, spec.dtype) for name, value in weights.items()}

    def weighted(w, x):
        s = program(w, x)
        return jnp.sum(s * jnp.asarray(cotangent, s.dtype)), s

    graded = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True), compiler_options=QUICK_COMPILATION)
    (_, s), (d_weights, d_angles) = graded(cast, jnp.asarray(angles, spec.dtype))
    assert s.dtype == d_angles.dtype == spec.dtype
    np.testing.assert_allclose(s, expected(spec, weights, angles), rtol=0, atol=values)
    step = 1e-5
    for _ in range(2):
        along_w = {name: rng.normal(size=value.shape) for name, value in weights.items()}
        along_x = rng.normal(size=angles.shape)
        ends = []
        for sign in (1, -1):
            moved = {name: value + sign * step * along_w[name] for name, value in weights.items()}
            ends.append(np.sum(expected(spec, moved, angles + sign * step * along_x) * cotangent))
        slope = sum(np.sum(np.asarray(d_weights[name], float) * along_w[name]) for name in weights)
        slope += np.sum(np.asarray(d_angles, float) * along_x)
        size = np.sqrt(sum(value.size for value in along_w.values()) + angles.size)
        assert abs(slope - (ends[0] - ends[1]) / (2 * step)) < gradients * size
    return program


@pytest.mark.parametrize("spec", _chosen(), ids=_name)
def test_agrees_with_an_independent_simulation(spec):
    _check(spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", list(_specs()), ids=_name)
def test_every_spec_agrees_by_every_plan(spec):
    from qwafer.engines.xla import cost

    for plan in set(cost.PLANS) - set(cost.impossible(spec)):
        _check(spec, plan=plan)
    _check(dataclasses.replace(spec, dtype="float32"), values=1e-4, gradients=1e-3)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("readout", "outputs"), [("mean_z", 1), ("mean_z_readout", 1), ("mean_z_readout", 4), ("bloch", 1)]
)
def test_heisenberg_agrees(encoding, readout, outputs):
    spec = CircuitSpec(3, 2, encoding, readout=readout, n_outputs=outputs, dtype="float64")
    assert _check(spec, plan="heisenberg").info["plan"] == "heisenberg"


# Five wires are two blocks of unequal size, nine are three: storage order and padding matter from there on.
@pytest.mark.parametrize(
    "spec",
    [
        CircuitSpec(1, 1, dtype="float64", readout="bloch"),
        CircuitSpec(2, 3, dtype="float64", reupload=True),
        CircuitSpec(5, 3, dtype="float64"),
        CircuitSpec(5, 2, "rz", reupload=True, readout="mean_z_readout", dtype="float64"),
        CircuitSpec(6, 2, "rx", "basic_entangler", "all", "z_vec", 2, reupload=True, dtype="float64"),
        CircuitSpec(9, 3, dtype="float64"),
        CircuitSpec(9, 2, readout="mean_z_readout", n_outputs=3, reupload=True, dtype="float64"),
    ],
    ids=_name,
)
@pytest.mark.parametrize("options", [{}, {"chunk": 2}, {"chunk": 2, "recompute": True}], ids=str)
def test_schroedinger_agrees_whole_in_chunks_and_recomputed(spec, options):
    program = _check(spec, plan="schroedinger", **options)
    assert program.info["chunks"] == (3 if options else 1)
    assert program.info["recompute"] == ("recompute" in options)


@pytest.mark.parametrize("n_qubits", [4, 7])
def test_heisenberg_agrees_on_more_wires(n_qubits):
    _check(CircuitSpec(n_qubits, 3, dtype="float64"), plan="heisenberg")


@pytest.mark.parametrize("plan", ["schroedinger", "heisenberg"])
def test_deep_float32_circuits_keep_their_precision(plan):
    _check(CircuitSpec(4, 12), plan=plan, values=1e-4, gradients=1e-3)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_products_need_no_state(n_layers):
    spec = CircuitSpec(4, n_layers, "rx", "separable", readout="bloch", reupload=True, dtype="float64")
    assert _check(spec).info["plan"] == "product"


def test_a_product_of_forty_wires_is_its_closed_form():
    spec = CircuitSpec(40, 1, ansatz="separable", dtype="float64")
    weights, angles = problem(spec, 3)
    a, b, _ = np.moveaxis(weights["ansatz"][0], -1, 0)
    # Bloch vector (sin x, 0, cos x) turned by a about z, then by b about y.
    z = np.cos(b) * np.cos(angles) - np.sin(b) * np.sin(angles) * np.cos(a)
    s = get("xla").program(spec, 3)(weights, angles)
    np.testing.assert_allclose(s[:, 0], z.mean(1), atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        CircuitSpec(3, 2, dtype="float64", readout="mean_z_readout", n_outputs=2),
        CircuitSpec(3, 2, "rx", "basic_entangler", "linear", "bloch", reupload=True, dtype="float64"),
    ],
    ids=_name,
)
def test_agrees_with_the_reference_engine(spec):
    weights, angles = problem(spec, BATCH)
    cotangent = np.random.default_rng(3).normal(size=(BATCH, spec.n_outputs))

    def graded(engine):
        program = get(engine).program(spec, BATCH)
        with_values = jax.value_and_grad(
            lambda w, x: (jnp.sum((s := program(w, x)) * cotangent), s), (0, 1), has_aux=True
        )
        (_, s), gradients = with_values(weights, jnp.asarray(angles))
        return s, gradients

    have, want = graded("xla"), graded("reference")
    np.testing.assert_allclose(have[0], want[0], atol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), have[1], want[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": "heisenberg"}, "encodes once"),
        ({"plan": "product"}, "without entangling gates"),
        ({"plan": "fast"}, "must be one of"),
        ({"derivatives": "all"}, "must be one of"),
        ({"chunk": 0}, "at least 1"),
        ({"shots": 10}, "does not have"),
    ],
)
def test_refuses_with_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        get("xla", **options).program(CircuitSpec(3, 2, reupload=True), 4)


def test_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="use fewer qubits"):
        get("xla").program(CircuitSpec(45, 2), 1)
