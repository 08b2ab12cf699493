"""Rotations and phases as arrays: Euler angles of a layer, Kronecker products, phases of basis states."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Weights
from qwafer.engines._xla import wiring


def euler(spec: CircuitSpec, weights: Weights) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return a, b, c (n_layers, n_qubits), radians: every ansatz layer is RZ(a), RY(b), RZ(c) in that order on each wire.

    RX(w) = RZ(-pi/2) RY(w) RZ(pi/2) as a product of matrices, hence a = pi/2, c = -pi/2 for `basic_entangler`.
    """
    w = weights["ansatz"].astype(spec.dtype)
    if spec.ansatz == "basic_entangler":
        quarter = jnp.full(w.shape[:2], np.pi / 2, w.dtype)
        return quarter, w[:, :, 0], -quarter
    return w[:, :, 0], w[:, :, 1], w[:, :, 2]


def wire_sums(values: jax.Array) -> jax.Array:
    """Return sum_i (-1)^bit_i(j) values_i for every basis state j: (..., n) -> (..., 2^n)."""
    n = values.shape[-1]
    high = n // 2
    low = values[..., high:] @ jnp.asarray(wiring.signs(n - high).T, values.dtype)
    if high == 0:
        return low
    upper = values[..., :high] @ jnp.asarray(wiring.signs(high).T, values.dtype)
    return (upper[..., :, None] + low[..., None, :]).reshape(*values.shape[:-1], 2**n)


def kron_all(factors: Sequence[jax.Array]) -> jax.Array:
    """Return the Kronecker product of matrices (..., r_i, c_i) along their last two axes."""

    def pair(a: jax.Array, b: jax.Array) -> jax.Array:
        product = a[..., :, None, :, None] * b[..., None, :, None, :]
        return product.reshape(*a.shape[:-2], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])

    return functools.reduce(pair, factors)


def ry_matrices(angles: jax.Array) -> jax.Array:
    """Return the real matrices of RY (..., 2, 2) for `angles` (...) in radians."""
    c, s = jnp.cos(angles / 2), jnp.sin(angles / 2)
    return jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)


def kron_blocks(matrices: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """Return one Kronecker product for each block of consecutive wires; `matrices` (..., n, d, d)."""
    result, start = [], 0
    for size in sizes:
        result.append(kron_all([matrices[..., start + i, :, :] for i in range(size)]))
        start += size
    return result


def apply_blocks(matrices: Sequence[jax.Array], state: jax.Array) -> jax.Array:
    """Apply the Kronecker product of `matrices` to the first axis of `state` (D, ...), block after block."""
    shape = state.shape
    left = 1
    for matrix in matrices:
        rows, columns = matrix.shape
        right = state.size // (left * columns)
        if left == 1:
            state = matrix @ state.reshape(columns, right)
        elif right == 1:
            state = state.reshape(left, columns) @ matrix.T
        else:
            repeated = jnp.broadcast_to(matrix, (left, rows, columns))
            state = jnp.matmul(repeated, state.reshape(left, columns, right))
        left *= rows
    return state.reshape(-1, *shape[1:])


def permute(state: jax.Array, p: np.ndarray | None) -> jax.Array:
    """Return `state[p]` along the first axis; its transpose is a gather by the inverse, which is faster than a scatter on CPU."""
    if p is None:
        return state
    inverse = np.argsort(p).astype(np.int32)
    return _gather(lambda: (p, inverse), state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(tables, state):  # type: ignore[no-untyped-def]
    return state.at[tables()[0]].get(mode="promise_in_bounds", unique_indices=True)


_gather.defvjp(
    lambda tables, state: (_gather(tables, state), None),
    lambda tables, _, g: (g.at[tables()[1]].get(mode="promise_in_bounds", unique_indices=True),),
)
