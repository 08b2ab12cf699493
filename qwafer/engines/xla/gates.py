"""What depends on weights alone, or on inputs alone: rotations, phases and product states as arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits import CircuitSpec, Encoding
from qwafer.circuits.gates import RX
from qwafer.engines.base import Weights
from qwafer.engines.xla import arrays, wiring


def euler(spec: CircuitSpec, weights: Weights) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return a, b, c (n_layers, n_qubits), radians: a layer is RZ(a), RY(b), RZ(c) in that order on each wire.

    RX(w) = RZ(-pi/2) RY(w) RZ(pi/2) as a product of matrices, hence a = pi/2, c = -pi/2 for `basic_entangler`.
    """
    w = weights["ansatz"].astype(spec.dtype)
    if spec.layer_gates == (RX,):
        quarter = jnp.full(w.shape[:2], np.pi / 2, w.dtype)
        return quarter, w[:, :, 0], -quarter
    return w[:, :, 0], w[:, :, 1], w[:, :, 2]


def wire_sums(values: jax.Array) -> jax.Array:
    """Return sum_i (-1)^bit_i(j) values_i for every basis state j: (..., n) -> (..., 2^n)."""
    n = values.shape[-1]
    high = n // 2
    low = arrays.dot(values[..., high:], jnp.asarray(wiring.signs(n - high).T, values.dtype))
    if high == 0:
        return low
    upper = arrays.dot(values[..., :high], jnp.asarray(wiring.signs(high).T, values.dtype))
    return (upper[..., :, None] + low[..., None, :]).reshape(*values.shape[:-1], 2**n)


def mean_signs(p: wiring.Permutation, dtype: Any) -> jax.Array:
    """Return the mean of Z over the n wires in the basis states p(0), p(1), ...: (2^n,)."""
    n = len(p.images)
    ones = lax.population_count(jnp.asarray(arrays.places(p)))
    return (n - 2 * ones).astype(dtype) / n


def wave(angles: jax.Array, axis: int, reverse: bool = False) -> jax.Array:
    """Return cosine and sine of `angles`, stacked on `axis`; derivatives do not evaluate them again.

    With `reverse` there is no forward-mode derivative, and the reverse pass reads the stored result: XLA would
    otherwise evaluate it once more for each of the residuals -sin and cos.
    """
    return (_stored_wave if reverse else _wave)(angles, axis)


def _evaluate_wave(angles: jax.Array, axis: int) -> jax.Array:
    if angles.dtype == jnp.float32:
        return jnp.stack(_cos_sin(angles), axis)
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis)


def _quarter_later(value: jax.Array, axis: int) -> list[jax.Array]:
    """Return the derivatives -sin and cos of cosine and sine, from `value`."""
    cos, sin = (lax.index_in_dim(value, i, axis % value.ndim, keepdims=False) for i in range(2))
    return [-sin, cos]


_wave = jax.custom_jvp(_evaluate_wave, nondiff_argnums=(1,))


@_wave.defjvp
def _wave_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    value = _wave(*primals, axis)
    return value, jnp.stack([d * tangents[0] for d in _quarter_later(value, axis)], axis)


def _stored_wave_forward(angles: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    value = arrays.stored(functools.partial(_evaluate_wave, axis=axis), angles)
    return value, value


def _stored_wave_backward(axis: int, value: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    parts = [lax.index_in_dim(g, i, axis % g.ndim, keepdims=False) for i in range(2)]
    return (functools.reduce(jnp.add, [d * part for d, part in zip(_quarter_later(value, axis), parts, strict=True)]),)


_stored_wave = jax.custom_vjp(lambda angles, axis: _stored_wave_forward(angles, axis)[0], nondiff_argnums=(1,))
_stored_wave.defvjp(_stored_wave_forward, _stored_wave_backward)


def _cos_sin(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return cosine and sine of float32 `x`, within 1.5e-7 for |x| < 1e3, 5e-7 for |x| < 4e4.

    XLA evaluates float32 sines one by one on CPU, 6 ns each; these polynomials (Cephes, sinf.c) on the remainder of a
    quarter turn, subtracted in three parts, are vectorised.
    """
    two, three = jnp.float32(4.837512969970703125e-4), jnp.float32(7.549789948768648e-8)
    # lax, for jnp.round and jnp.where are calls, which `arrays.stored` would keep from being fused.
    quarters = lax.round(x * jnp.float32(2 / np.pi), lax.RoundingMethod.TO_NEAREST_EVEN)
    r = ((x - quarters * jnp.float32(1.5703125)) - quarters * two) - quarters * three
    r2 = r * r
    s = ((-1.9515295891e-4 * r2 + 8.3321608736e-3) * r2 - 1.6666654611e-1) * r2 * r + r
    c = ((2.443315711809948e-5 * r2 - 1.388731625493765e-3) * r2 + 4.166664568298827e-2) * r2 * r2 - 0.5 * r2 + 1
    q = quarters.astype(jnp.int32)
    odd = (q & 1) == 1
    sin, cos = lax.select(odd, c, s), lax.select(odd, s, c)
    return lax.select(((q + 1) & 2) == 2, -cos, cos), lax.select((q & 2) == 2, -sin, sin)


def padded(values: jax.Array, sizes: tuple[int, ...], axis: int, filler: Any) -> jax.Array:
    """Split `axis`, one entry per wire, into (blocks, width); shorter blocks than the width lead with `filler`.

    A filler that stands for the state |0> or the identity leaves a block's own entries first in its Kronecker product.
    """
    width = padded_width(sizes)
    if any(size != width for size in sizes):
        parts, start = [], 0
        for size in sizes:
            shape = (*values.shape[:axis], width - size, *values.shape[axis + 1 :])
            parts += [jnp.broadcast_to(filler, shape), lax.slice_in_dim(values, start, start + size, axis=axis)]
            start += size
        values = jnp.concatenate(parts, axis)
    return values.reshape(*values.shape[:axis], len(sizes), width, *values.shape[axis + 1 :])


def padded_width(sizes: tuple[int, ...]) -> int:
    """Return the smallest power of 2 that no block exceeds."""
    return int(2 ** np.ceil(np.log2(max(sizes))))


def kron_pairs(matrices: jax.Array) -> jax.Array:
    """Return the Kronecker products (..., d^m, d^m) of the m = 2^k matrices (..., m, d, d)."""
    while matrices.shape[-3] > 1:
        # Static slices: the reverse of an index with a step is a scatter, thirty times the code of any other kernel.
        a, b = (lax.slice_in_dim(matrices, first, None, 2, axis=-3) for first in (0, 1))
        d = a.shape[-1]
        product = a[..., :, None, :, None] * b[..., None, :, None, :]
        matrices = product.reshape(*a.shape[:-2], d * d, d * d)
    return lax.squeeze(matrices, (matrices.ndim - 3,))


def rotations(angles: jax.Array, sizes: tuple[int, ...], reverse: bool) -> jax.Array:
    """Return the Kronecker products of RY (s, blocks, 2^w, 2^w), w the padded width, for `angles` (s, n) in radians."""
    width = padded_width(sizes)

    def evaluate(angles: jax.Array) -> jax.Array:
        c, s = wave(angles / 2, 0)
        return kron_pairs(jnp.stack([c, -s, s, c], -1).reshape(*c.shape, 2, 2))

    function = jax.custom_vjp(evaluate)

    def forward(angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        matrices = evaluate(angles)
        return matrices, matrices

    def backward(matrices: jax.Array, g: jax.Array) -> tuple[jax.Array]:
        # dM / db_i = J_i M / 2 with J_i = [[0, -1], [1, 0]] on wire i, so db_i = sum (g M^T) * J_i / 2.
        generators = []
        for i in range(width):
            after = np.kron(np.array([[0, -0.5], [0.5, 0]]), np.eye(2 ** (width - 1 - i)))
            generators.append(np.kron(np.eye(2**i), after).reshape(-1))
        products = arrays.dot(g, jnp.swapaxes(matrices, -1, -2)).reshape(*g.shape[:2], -1)
        return (arrays.dot(products, jnp.asarray(np.stack(generators, 1), g.dtype)),)

    function.defvjp(forward, backward)
    return (function if reverse else evaluate)(padded(angles, sizes, 1, jnp.zeros((), angles.dtype)))


def hadamards(size: int) -> np.ndarray:
    """Return the Kronecker product of `size` Hadamard matrices."""
    h = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    product = np.eye(1)
    for _ in range(size):
        product = np.kron(product, h)
    return product


def _first_tensor(encoding: Encoding) -> np.ndarray:
    """Return K (8, 8): `first_columns` as a linear map of the products of cosines and sines of half angles.

    Encoded states are V (cos x/2, sin x/2), V the columns of `encoding`.
    """
    v = encoding.columns
    rz = (np.eye(2), np.diag([-1j, 1j]))
    ry = (np.eye(2), np.array([[0, -1], [1, 0]]))
    rows = []
    for a in rz:
        for b in ry:
            for c in rz:
                u = c @ b @ a @ v
                rows.append(np.stack([u.real, u.imag], 1).reshape(8))
    return np.stack(rows)


def first_columns(spec: CircuitSpec, weights: Weights, reverse: bool) -> jax.Array:
    """Return W (n, 4, 2): the state of wire i after encoding and the first layer's rotations is W_i (cos x/2, sin x/2).

    Rows: real and imaginary part of amplitude 0, then of amplitude 1.
    """
    tensor = _first_tensor(spec.encoding_facts)
    if spec.n_layers == 0:
        return jnp.broadcast_to(jnp.asarray(tensor[0].reshape(4, 2), spec.dtype), (spec.n_qubits, 4, 2))
    u = wave(jnp.stack([angles[0] for angles in euler(spec, weights)]) / 2, -1, reverse)  # (3, n, 2)
    a, b, c = (part[0] for part in jnp.split(u, 3))
    products = a[:, :, None, None] * b[:, None, :, None] * c[:, None, None, :]
    return arrays.dot(products.reshape(-1, 8), jnp.asarray(tensor, spec.dtype)).reshape(-1, 4, 2)


def _column_pairs(x: jax.Array) -> jax.Array:
    """Return the complex Kronecker products of neighbours: (g, m, d, 2, batch) -> (g, m / 2, d^2, 2, batch)."""
    a, b = x[:, 0::2, :, None], x[:, 1::2, None]
    product = jnp.stack(
        [
            a[..., 0, :] * b[..., 0, :] - a[..., 1, :] * b[..., 1, :],
            a[..., 0, :] * b[..., 1, :] + a[..., 1, :] * b[..., 0, :],
        ],
        -2,
    )
    return product.reshape(x.shape[0], x.shape[1] // 2, -1, 2, x.shape[-1])


def _column_pairs_back(x: jax.Array, g: jax.Array) -> jax.Array:
    d = x.shape[2]
    g = g.reshape(x.shape[0], x.shape[1] // 2, d, d, 2, -1)
    a, b = x[:, 0::2], x[:, 1::2]

    def against(part: Any, other: jax.Array) -> list[jax.Array]:
        """Return sum_j part(j) conj(other_j)."""
        re = [
            part(j)[..., 0, :] * other[:, :, j, None, 0] + part(j)[..., 1, :] * other[:, :, j, None, 1]
            for j in range(d)
        ]
        im = [
            part(j)[..., 1, :] * other[:, :, j, None, 0] - part(j)[..., 0, :] * other[:, :, j, None, 1]
            for j in range(d)
        ]
        return [functools.reduce(jnp.add, re), functools.reduce(jnp.add, im)]

    da = jnp.stack(against(lambda j: g[:, :, :, j], b), -2)
    db = jnp.stack(against(lambda j: g[:, :, j], a), -2)
    return jnp.stack([da, db], 2).reshape(x.shape)


def product_groups(columns: jax.Array, sizes: tuple[int, ...], reverse: bool) -> list[jax.Array]:
    """Return the product states (2^k, 2, batch) of consecutive groups of wires; `columns` (n, 2, 2, batch)."""
    pairs = _column_pairs
    if reverse:
        pairs = jax.custom_vjp(lambda x: arrays.stored(_column_pairs, x))
        pairs.defvjp(lambda x: (pairs(x), x), lambda x, g: (arrays.stored(_column_pairs_back, x, g),))
    zero = jnp.asarray([[1, 0], [0, 0]], columns.dtype)[:, :, None]
    x = padded(columns, sizes, 0, zero)
    while x.shape[1] > 1:
        x = pairs(x)
    return [x[g, 0, : 2**size] for g, size in enumerate(sizes)]


def permute(state: jax.Array, p: wiring.Permutation | None) -> jax.Array:
    """Return `state[p]` along the first axis; its transpose gathers by the inverse, a scatter being slow on CPU."""
    if p is None:
        return state
    return _gather(p, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(p: wiring.Permutation, state: jax.Array) -> jax.Array:
    return arrays.take(state, p)


_gather.defvjp(
    lambda p, state: (_gather(p, state), None),
    lambda p, _, g: (arrays.take(g, p.inverse),),
)
