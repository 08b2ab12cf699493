"""The selective scan of a state-space mixer, in chunks."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def selective_scan(
    x: Float[Array, "batch length width"],
    step: Float[Array, "batch length width"],
    decay: Float[Array, "state width"],
    into: Float[Array, "batch length state"],
    out: Float[Array, "batch length state"],
) -> Float[Array, "batch length width"]:
    """Return y with h_t = exp(step_t decay) h_{t-1} + step_t x_t into_t, y_t = sum_n out_t,n h_t,n, and h_0 = 0.

    The recurrence of Gu & Dao 2023 (arXiv 2312.00752, eq. 2, with the discretisation of section 3.2) runs within all
    chunks side by side, then once across the chunks; so it takes 2 sqrt(length) sequential steps instead of length, and
    its memory holds one state per chunk. decay is negative and step positive, so that every exponential is at most 1.
    """
    batch, length, width = x.shape
    chunk = chunk_length(length)
    n_chunks = length // chunk

    def chunked(array: Array) -> Array:  # (chunk, batch, n_chunks, features): the position within the chunk leads
        return jnp.moveaxis(array.reshape(batch, n_chunks, chunk, array.shape[-1]), 2, 0)

    steps = chunked(step)
    elapsed = jnp.cumsum(steps, axis=0)
    rates = jnp.expand_dims(decay, (0, 1))  # (1, 1, state, width)

    def advance(state: Array, inputs: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        dt, value, b, c = inputs
        state = state * jnp.exp(dt[:, :, None] * rates) + (dt * value)[:, :, None] * b[..., None]
        return state, (state * c[..., None]).sum(axis=2)

    empty = jnp.zeros((batch, n_chunks, decay.shape[0], width), x.dtype)
    outs = chunked(out)
    last, y = lax.scan(advance, empty, (steps, chunked(x), chunked(into), outs))

    def carry(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        added, total = inputs
        return state * jnp.exp(total[:, None] * decay[None]) + added, state

    totals = jnp.moveaxis(elapsed[-1], 1, 0)  # (n_chunks, batch, width)
    _, entering = lax.scan(carry, empty[:, 0], (jnp.moveaxis(last, 1, 0), totals))
    entering = jnp.moveaxis(entering, 0, 1)  # (batch, n_chunks, state, width)

    def correct(inputs: tuple[Array, Array]) -> Array:
        total, c = inputs
        return (entering * jnp.exp(total[:, :, None] * rates) * c[..., None]).sum(axis=2)

    y = y + lax.map(correct, (elapsed, outs))
    return jnp.moveaxis(y, 0, 2).reshape(batch, length, width)


def chunk_length(length: int) -> int:
    """Return the divisor of `length` nearest to its square root, from below."""
    return max(d for d in range(1, int(length**0.5) + 1) if length % d == 0)


def sequential_scan(x: Array, step: Array, decay: Array, into: Array, out: Array) -> Array:
    """Return the same one token at a time: fastest on a CPU, and what `selective_scan` is tested against."""

    def advance(state: Array, inputs: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        dt, value, b, c = inputs
        state = state * jnp.exp(dt[:, None] * decay[None]) + (dt * value)[:, None] * b[..., None]
        return state, (state * c[..., None]).sum(axis=1)

    empty = jnp.zeros((x.shape[0], decay.shape[0], x.shape[2]), x.dtype)
    tokens = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), (step, x, into, out))
    return jnp.moveaxis(lax.scan(advance, empty, tokens)[1], 0, 1)
