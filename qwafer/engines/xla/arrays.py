"""Array primitives of the statevector plan; a state is (2^n, 2, batch): amplitudes, real and imaginary part, examples.

The batch is last, so that every gate is a product of a small matrix with a wide one and every permutation moves whole
rows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from qwafer.engines.xla import wiring

TABLE_BITS = 12
"""Longer permutations are computed where they are used: XLA holds every table some eight times while it compiles, once
for each place that reads it."""


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return `a @ b` in full precision on every device (a GPU would round float32 operands to TF32)."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def stored(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, computed on its own: XLA fuses nothing across the edges of this call.

    Left alone, XLA fuses producers (sines and cosines among them) into every consumer and evaluates them once for each
    element of the result, and it reads and writes fused arrays through the shape of the consumer, which on CPU makes a
    pass over the state ten times slower (measured). Its optimization_barrier is gone before fusion; a call that may not
    be inlined is not.
    """

    def alone(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable=None):  # what `function` calls may be inlined into it
            return function(*arguments)

    with set_xla_metadata(inlineable="false"):
        return jax.jit(alone)(*arguments)


def sealed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, on its own forward and back, with no forward-mode derivative.

    What reads a number in several places, fused with what does the same, is evaluated once for every path between them.
    """
    alone = jax.custom_vjp(functools.partial(stored, function))
    alone.defvjp(
        lambda *given: (stored(function, *given), given),
        lambda given, g: stored(lambda given, g: jax.vjp(function, *given)[1](g), given, g),
    )
    return alone(*arguments)


def take(x: jax.Array, index: np.ndarray | wiring.Permutation | None) -> jax.Array:
    """Return `x[index]` along the first axis for a static index within bounds; `x` itself for None."""
    if index is None:
        return x
    rows = places(index) if isinstance(index, wiring.Permutation) else index
    return x.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


def places(p: wiring.Permutation) -> np.ndarray | jax.Array:
    """Return p(0), p(1), ..., (2^n,) int32: a long one from the tables of the upper and the lower half of its bits."""
    n = len(p.images)
    if n <= TABLE_BITS:
        return p.table()
    # Stored, for XLA copies whole rows only where the index of a gather is an array.
    halves = jnp.asarray(p.table(n // 2)), jnp.asarray(p.table(0, n // 2))
    return stored(lambda upper, lower: (upper[:, None] ^ lower[None, :]).reshape(-1), *halves)


def _sign(dtype: jnp.dtype) -> jax.Array:
    return jnp.asarray([-1, 1], dtype)[None, :, None]


def times_i(x: jax.Array) -> jax.Array:
    """Return i x."""
    return lax.rev(x, (1,)) * _sign(x.dtype)


def multiply_phase(phase: jax.Array, x: jax.Array) -> jax.Array:
    """Return e^(i theta) x for `phase` (2^n, 2) = (cos theta, sin theta)."""
    cos, sin = phase[:, 0, None, None], phase[:, 1, None, None]
    return cos * x + (sin * _sign(x.dtype)) * lax.rev(x, (1,))


def conjugate_phase(phase: jax.Array) -> jax.Array:
    """Return (cos, -sin)."""
    return phase * jnp.asarray([1, -1], phase.dtype)[None, :]


def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the complex product of two arrays (..., 2, batch), which may broadcast."""
    (ar, ai), (br, bi) = (jnp.moveaxis(z, -2, 0) for z in (a, b))
    return jnp.stack([ar * br - ai * bi, ar * bi + ai * br], -2)


def conjugate(x: jax.Array) -> jax.Array:
    """Return the complex conjugate of x (D, 2, batch)."""
    return x * -_sign(x.dtype)


def kron_columns(columns: Sequence[jax.Array]) -> jax.Array:
    """Return the Kronecker product of complex vectors (d_i, 2, batch), one per example: (prod d_i, 2, batch)."""

    def pair(a: jax.Array, b: jax.Array) -> jax.Array:
        return multiply(a[:, None], b[None]).reshape(-1, *a.shape[1:])

    return functools.reduce(pair, columns)


def outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the Kronecker product of a (D, 2, batch) and b, given as `b` (2, d, 2, batch): b and i b."""
    product = a[:, None, 0:1] * b[0][None] + a[:, None, 1:2] * b[1][None]
    return product.reshape(-1, *a.shape[1:])


def contract_last(x: jax.Array, b: jax.Array) -> jax.Array:
    """Return sum_j x[., j] conj(b[j]) for x (D d, 2, batch), b (d, 2, batch): (D, 2, batch).

    A written-out sum is one fused pass over x on CPU; `jnp.sum` would store the products first.
    """
    d = b.shape[0]
    x = x.reshape(-1, d, 2, x.shape[-1])
    re = [x[:, j, 0] * b[None, j, 0] + x[:, j, 1] * b[None, j, 1] for j in range(d)]
    im = [x[:, j, 1] * b[None, j, 0] - x[:, j, 0] * b[None, j, 1] for j in range(d)]
    return jnp.stack([functools.reduce(jnp.add, re), functools.reduce(jnp.add, im)], 1)


def contract_first(x: jax.Array, a: jax.Array) -> jax.Array:
    """Return sum_j x[j, .] conj(a[j]) for x (d D, 2, batch), a (d, 2, batch): (D, 2, batch)."""
    d = a.shape[0]
    x = x.reshape(d, -1, 2, x.shape[-1])
    re = [x[j, :, 0] * a[j, None, 0] + x[j, :, 1] * a[j, None, 1] for j in range(d)]
    im = [x[j, :, 1] * a[j, None, 0] - x[j, :, 0] * a[j, None, 1] for j in range(d)]
    return jnp.stack([functools.reduce(jnp.add, re), functools.reduce(jnp.add, im)], 1)


def batch_sum(x: jax.Array) -> jax.Array:
    """Return the sum over the last axis, in a form that XLA vectorises on CPU."""
    return dot(x, jnp.ones((x.shape[-1], 1), x.dtype))[..., 0]


def apply_blocks(matrices: Sequence[jax.Array], x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """Apply the Kronecker product of square `matrices` to the first axis of x (2^n, 2, batch).

    The blocks come back in reverse order along that axis, for a product on the leftmost block is fastest and bringing
    the next block to the left is all the transposition there is. Also returns the operand of each product, for the
    reverse pass.
    """
    shape, sizes = x.shape, [m.shape[0] for m in matrices]
    operands = []
    for i, matrix in enumerate(matrices):
        if i:
            x = _move(x, sizes[:i][::-1], sizes[i], to_front=True)
        operands.append(x.reshape(sizes[i], -1))
        x = dot(matrix, operands[-1])
    return x.reshape(shape), operands


def unapply_blocks(matrices: Sequence[jax.Array], x: jax.Array) -> list[jax.Array]:
    """Return the operands of `apply_blocks` from its result `x`, for orthogonal matrices."""
    sizes = [m.shape[0] for m in matrices]
    operands: list[jax.Array] = []
    for i in reversed(range(len(sizes))):
        x = dot(matrices[i].T, x.reshape(sizes[i], -1))
        operands.insert(0, x)
        if i:
            x = _move(x, sizes[:i][::-1], sizes[i], to_front=False)
    return operands


def _move(x: jax.Array, before: Sequence[int], size: int, to_front: bool) -> jax.Array:
    """Return x with its axes (*before, size, rest) as (size, *before, rest), or the other way round.

    A gather of rows, for XLA would turn a transposition into a change of layout and copy element by element later.
    """
    rows = math.prod(before)
    shape = (rows, size) if to_front else (size, rows)
    index = wiring.reversed_blocks(tuple(d.bit_length() - 1 for d in shape))
    return stored(functools.partial(take, index=index), x.reshape(rows * size, -1))


def apply_blocks_back(
    matrices: Sequence[jax.Array], cotangent: jax.Array, operands: Sequence[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """Return the cotangents of x and of `matrices` in `apply_blocks`."""
    shape, sizes = cotangent.shape, [m.shape[0] for m in matrices]
    gradients: list[jax.Array] = []
    for i in reversed(range(len(sizes))):
        cotangent = cotangent.reshape(sizes[i], -1)
        gradients.insert(0, dot(cotangent, operands[i].T))
        cotangent = dot(matrices[i].T, cotangent)
        if i:
            cotangent = _move(cotangent, sizes[:i][::-1], sizes[i], to_front=False)
    return cotangent.reshape(shape), gradients
