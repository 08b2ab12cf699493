"""Rotations and phases as arrays: Euler angles of a layer, Kronecker products, phases of basis states."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Weights
from qwafer.engines._xla import arrays, wiring


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


def hadamards(size: int) -> np.ndarray:
    """Return the Kronecker product of `size` Hadamard matrices."""
    h = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    return functools.reduce(np.kron, [h] * size)


def first_columns(spec: CircuitSpec, weights: Weights) -> jax.Array:
    """Return W (n, 4, 2): the state of wire i after encoding and the first layer's rotations is W_i (cos x/2, sin x/2).

    Rows: real and imaginary part of amplitude 0, then of amplitude 1. Encoded states are V (cos x/2, sin x/2) with V = 1 for `ry`,
    diag(1, -i) for `rx` and [[1, -i], [1, i]] / sqrt(2) for `rz`.
    """
    r = np.sqrt(0.5)
    encoded = {"ry": [[1, 0], [0, 1]], "rx": [[1, 0], [0, -1j]], "rz": [[r, -1j * r], [r, 1j * r]]}
    v = np.array(encoded[spec.encoding])
    if spec.n_layers == 0:
        columns = np.stack([v[0].real, v[0].imag, v[1].real, v[1].imag])
        return jnp.broadcast_to(jnp.asarray(columns, spec.dtype), (spec.n_qubits, 4, 2))
    a, b, c = (angles[0] for angles in euler(spec, weights))
    plus, minus = (a + c) / 2, (a - c) / 2
    cos, sin = jnp.cos(b / 2), jnp.sin(b / 2)
    # RZ(c) RY(b) RZ(a) = [[e^(-i plus) cos, -e^(i minus) sin], [e^(-i minus) sin, e^(i plus) cos]]
    re = jnp.stack([jnp.cos(plus) * cos, -jnp.cos(minus) * sin, jnp.cos(minus) * sin, jnp.cos(plus) * cos], -1)
    im = jnp.stack([-jnp.sin(plus) * cos, -jnp.sin(minus) * sin, -jnp.sin(minus) * sin, jnp.sin(plus) * cos], -1)
    re, im = re.reshape(-1, 2, 2), im.reshape(-1, 2, 2)
    vr, vi = jnp.asarray(v.real, spec.dtype), jnp.asarray(v.imag, spec.dtype)
    return jnp.stack([re @ vr - im @ vi, re @ vi + im @ vr], 2).reshape(-1, 4, 2)


def groups(columns: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """Return the product states (2^k, 2, batch) of consecutive groups of wires; `columns` (n, 2, 2, batch)."""
    result, start = [], 0
    for size in sizes:
        result.append(arrays.kron_columns([columns[start + i] for i in range(size)]))
        start += size
    return result


def permute(state: jax.Array, p: np.ndarray | None) -> jax.Array:
    """Return `state[p]` along the first axis; its transpose is a gather by the inverse, which is faster than a scatter on CPU."""
    if p is None:
        return state
    inverse = wiring.inverse(p)
    return _gather(lambda: (p, inverse), state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(tables, state):  # type: ignore[no-untyped-def]
    return state.at[tables()[0]].get(mode="promise_in_bounds", unique_indices=True)


_gather.defvjp(
    lambda tables, state: (_gather(tables, state), None),
    lambda tables, _, g: (g.at[tables()[1]].get(mode="promise_in_bounds", unique_indices=True),),
)
