"""The parts of engine xla on their own: permutations, Pauli tables, Kronecker blocks, sines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer.engines.xla import arrays, gates, wiring
from qwafer.engines.xla import heisenberg as pauli

PAULI = [np.eye(2), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])]

circuits = st.integers(2, 4).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.permutations(range(n)).map(lambda wires: tuple(wires[:2])), max_size=6).map(tuple),
    )
)


def _cnots(n, pairs):
    """The unitary of CNOTs in order, from projectors."""
    zero, one = np.diag([1, 0]), np.diag([0, 1])
    unitary = np.eye(2**n)
    for control, target in pairs:
        off = [zero if i == control else np.eye(2) for i in range(n)]
        on = [one if i == control else PAULI[1] if i == target else np.eye(2) for i in range(n)]
        unitary = (functools.reduce(np.kron, off) + functools.reduce(np.kron, on)) @ unitary
    return unitary


@settings(deadline=None, max_examples=40)
@given(circuits)
def test_permutation_is_the_unitary_of_the_cnots(circuit):
    n, pairs = circuit
    state = np.random.default_rng(0).normal(size=2**n)
    p = wiring.permutation(n, pairs)
    np.testing.assert_array_equal(state if p is None else state[p.table()], _cnots(n, pairs) @ state)


@settings(deadline=None, max_examples=25)
@given(circuits, st.integers(0, 4**4 - 1))
def test_conjugation_turns_pauli_strings(circuit, which):
    n, pairs = circuit
    which %= 4**n
    table, unitary = pauli.conjugation(n, pairs), _cnots(n, pairs)

    def string(j):
        return functools.reduce(np.kron, [PAULI[(j >> (2 * (n - 1 - i))) & 3] for i in range(n)])

    turned = int(table.inverse_source[which])
    assert table.source[turned] == which
    np.testing.assert_array_equal(table.sign[turned] * string(turned), unitary.T @ string(which) @ unitary)
    np.testing.assert_array_equal(table.inverse_sign[table.source], table.sign)


@pytest.mark.parametrize("sizes", [(3,), (2, 1), (3, 2, 2)])
def test_blocks_are_a_kronecker_product_that_reverses_their_order(sizes):
    rng = np.random.default_rng(0)
    matrices = [np.linalg.qr(rng.normal(size=(2**k, 2**k)))[0] for k in sizes]
    x = rng.normal(size=(2 ** sum(sizes), 2, 3))
    y, operands = arrays.apply_blocks([jnp.asarray(m) for m in matrices], jnp.asarray(x))
    want = np.einsum("ij,jcb->icb", functools.reduce(np.kron, matrices), x)
    np.testing.assert_allclose(y, want[wiring.reversed_blocks(sizes).table()], atol=1e-12)
    undone = arrays.unapply_blocks([jnp.asarray(m) for m in matrices], y)
    for have, kept in zip(undone, operands, strict=True):
        np.testing.assert_allclose(have.reshape(kept.shape), kept, atol=1e-12)


def test_the_reverse_pass_of_blocks_is_their_derivative():
    rng = np.random.default_rng(0)
    matrices = [jnp.asarray(rng.normal(size=(d, d))) for d in (4, 2, 4)]
    x, g = (jnp.asarray(rng.normal(size=(32, 2, 3))) for _ in range(2))
    (_, operands), pull = jax.vjp(lambda m, x: arrays.apply_blocks(m, x), matrices, x)
    want_m, want_x = pull((g, [jnp.zeros_like(o) for o in operands]))
    have_x, have_m = arrays.apply_blocks_back(matrices, g, operands)
    np.testing.assert_allclose(have_x, want_x, atol=1e-12)
    for have, want in zip(have_m, want_m, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-12)


@pytest.mark.parametrize(("scale", "error"), [(1.0, 1.2e-7), (1e3, 1.5e-7), (4e4, 5e-7)])
def test_float32_sines_are_close_to_the_true_ones(scale, error):
    x = np.random.default_rng(0).uniform(-scale, scale, 20_000).astype(np.float32)
    cos, sin = gates.wave(jnp.asarray(x), 0)
    assert cos.dtype == jnp.float32
    np.testing.assert_allclose(cos, np.cos(x.astype(float)), rtol=0, atol=error)
    np.testing.assert_allclose(sin, np.sin(x.astype(float)), rtol=0, atol=error)


def test_wire_sums_add_signs():
    values = np.random.default_rng(0).normal(size=(2, 5))
    want = values @ wiring.signs(5).T
    np.testing.assert_allclose(gates.wire_sums(jnp.asarray(values)), want, atol=1e-12)


def test_encoded_columns_are_the_states_of_encoded_wires():
    from qwafer.circuits import CircuitSpec

    x = 0.7
    waves = np.array([np.cos(x / 2), np.sin(x / 2)])
    turn = {
        "ry": [np.cos(x / 2), np.sin(x / 2)],
        "rx": [np.cos(x / 2), -1j * np.sin(x / 2)],
        "rz": [np.exp(-0.5j * x) / np.sqrt(2), np.exp(0.5j * x) / np.sqrt(2)],
    }
    for encoding, state in turn.items():
        columns = np.asarray(
            gates.first_columns(CircuitSpec(2, 0, encoding, dtype="float64"), {"ansatz": jnp.zeros((0, 2, 3))}, True)
        )
        have = columns[0] @ waves
        np.testing.assert_allclose(have[0::2] + 1j * have[1::2], state, atol=1e-12)
