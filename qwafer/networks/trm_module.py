"""A tiny recursive network in flax: two layers, applied again and again to a solution y and a latent z.

One supervision step is z <- f(x + y + z), n times, then y <- f(y + z); T of them follow each other, each read by the
same linear readout, and what is carried from one to the next is a constant to the gradient. Source: Jolicoeur-Martineau
2025, arXiv:2510.04871.

States lie as (tokens, batch, width): so mixing channels and mixing tokens are one matrix product each, without a
transposition.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from qwafer.backbones.layers import matmul, swish

CODES = 3
"""Values of a die: outside, passing, failing."""
EPS = 1e-6
ROTARY_BASE = 100.0
"""Ratio of the fastest to the slowest rotation; 100 suits grids of tens of tokens a side (Heo et al. 2024,
arXiv:2403.13298), where the 10,000 of language models would leave most angles near zero."""

Tokens = Float[Array, "tokens batch width"]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) * scale over the last axis (Zhang and Sennrich 2019)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., width) -> (..., width)."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        square = jnp.mean(x * x, axis=-1, keepdims=True)
        return x * lax.rsqrt(square + EPS) * jnp.expand_dims(scale, tuple(range(x.ndim - 1)))


class SwiGLU(nn.Module):
    """(swish(x W) * x V) U over the last axis, without biases; W and V lie side by side (Shazeer 2020)."""

    hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(tokens, batch, width) -> the same."""
        width = x.shape[-1]
        up = self.param("up", nn.initializers.zeros, (width, 2 * self.hidden), jnp.float32)
        down = self.param("down", nn.initializers.zeros, (self.hidden, width), jnp.float32)
        both = matmul(x, up)
        return matmul(swish(both[..., : self.hidden]) * both[..., self.hidden :], down)


class TokenSwiGLU(nn.Module):
    """SwiGLU over the tokens instead of the channels: the paper's mixer for grids of a fixed size."""

    hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(tokens, batch, width) -> the same."""
        n = x.shape[0]
        up = self.param("up", nn.initializers.zeros, (n, 2 * self.hidden), jnp.float32)
        down = self.param("down", nn.initializers.zeros, (self.hidden, n), jnp.float32)
        both = _over_tokens(x.reshape(n, -1), up)
        return _over_tokens(swish(both[: self.hidden]) * both[self.hidden :], down).reshape(x.shape)


def _over_tokens(x: Array, kernel: Array) -> Array:
    """Return kernel^T x of x (tokens, rest) and kernel (tokens, out)."""
    return lax.dot_general(kernel, x, (((0,), (0,)), ((), ())))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over all tokens of a grid, q and k turned by the tokens' places (`rotary`)."""

    heads: int
    side: int
    """Tokens a side of the grid."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """(tokens, batch, width) -> the same."""
        n, batch, width = x.shape
        depth = width // self.heads
        inward = self.param("inward", nn.initializers.zeros, (width, 3 * width), jnp.float32)
        outward = self.param("outward", nn.initializers.zeros, (width, width), jnp.float32)
        queries, keys, values = jnp.split(matmul(x, inward).reshape(n, batch, 3 * self.heads, depth), 3, axis=2)
        places = grid(self.side)
        queries, keys = rotary(queries, places), rotary(keys, places)
        scores = jnp.einsum("qbhd,kbhd->bhqk", queries, keys) * np.float32(depth**-0.5)
        mixed = jnp.einsum("bhqk,kbhd->qbhd", jax.nn.softmax(scores, axis=-1), values)
        return matmul(mixed.reshape(n, batch, width), outward)


def grid(side: int) -> np.ndarray:
    """Return (side^2, 2) rows and columns of the tokens of a square grid, row by row."""
    return np.stack(np.divmod(np.arange(side * side), side), axis=1)


def rotary(
    x: Float[Array, "tokens batch heads depth"], places: Float[np.ndarray, "tokens 2"]
) -> Float[Array, "tokens batch heads depth"]:
    """Return `x` with each pair of its channels turned by an angle in proportion to the token's row or column.

    The first half of the channels tells rows, the second columns; of each half, channel i and channel i + depth / 4
    turn together by `place * ROTARY_BASE**(-4 i / depth)` radians. Turning keeps norms, and the product of a query and
    a key so turned depends on the difference of their places alone (Su et al. 2021, arXiv:2104.09864).
    """
    quarter = x.shape[-1] // 4
    angles = np.asarray(places)[:, :, None] * ROTARY_BASE ** (-np.arange(quarter) / quarter)  # (tokens, 2, quarter)
    cos, sin = (jnp.asarray(table(angles)[:, None, None], jnp.float32) for table in (np.cos, np.sin))
    pairs = x.reshape(*x.shape[:-1], 2, 2, quarter)
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-2).reshape(x.shape)


class Core(nn.Module):
    """f: layers of a mixer of tokens and a SwiGLU of channels, each normalised after its sum with what it came from."""

    layers: int
    mixer: str
    """`attention` or `mlp`."""
    heads: int
    expansion: int
    """Hidden units of each SwiGLU, over the number of its inputs."""

    @nn.compact
    def __call__(self, h: Tokens) -> Tokens:
        """(tokens, batch, width) -> the same."""
        n, _, width = h.shape
        for i in range(self.layers):
            mixer: nn.Module
            if self.mixer == "mlp":
                mixer = TokenSwiGLU(self.expansion * n, name=f"layer{i}_tokens")
            else:
                mixer = Attention(self.heads, round(n**0.5), name=f"layer{i}_tokens")
            h = RMSNorm(name=f"layer{i}_norm_tokens")(h + mixer(h))
            channels = SwiGLU(self.expansion * width, name=f"layer{i}_channels")
            h = RMSNorm(name=f"layer{i}_norm_channels")(h + channels(h))
        return h


class State(NamedTuple):
    """An example between two supervision steps; every array has the batch on its second axis."""

    x: Tokens
    """The embedded map."""
    share: Float[Array, "tokens batch"]
    """Share of the wafer's dies that each token holds; all 0 for a map without dies."""
    y: Tokens
    """The solution."""
    z: Tokens
    """The latent."""

    def take(self, rows: Array) -> "State":
        """Return the examples at `rows`."""
        return State(*(jnp.take(array, rows, axis=1) for array in self))


def embedded(kernel: Float[Array, "inputs width"], codes: UInt8[Array, "batch size size"], patch: int) -> State:
    """Return the state before the first step: x is the sum of one vector per die of a token, by its place in the patch
    and its code (`kernel`, (patch^2 3, width)); y and z are 0.
    """
    batch, size, _ = codes.shape
    side = size // patch
    dies = codes.reshape(batch, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(side * side, batch, -1)
    hot = dies[..., None] == jnp.arange(CODES, dtype=codes.dtype)[None, None, None]
    x = matmul(hot.reshape(side * side, batch, -1).astype(jnp.float32), kernel)
    inside = (dies != 0).astype(jnp.float32).sum(axis=2)
    share = inside / jnp.maximum(inside.sum(axis=0, keepdims=True), 1)
    return State(x, share, jnp.zeros_like(x), jnp.zeros_like(x))


def improved(
    f: Callable[[Any, Tokens], Tokens], weights: Any, state: State, recursions: int, no_gradient: int
) -> State:
    """Return the state after one supervision step: z <- f(x + y + z), `recursions` times, and y <- f(y + z).

    f takes its weights and (tokens, batch, width). To spare memory, which is what a CPU waits for, the reverse pass
    computes each f again instead of keeping what is inside.

    What came in of y and z is a constant to the gradient; so are the first `no_gradient` recursions.
    """
    x, share, y, z = state
    y, z = lax.stop_gradient((y, z))
    f = jax.checkpoint(f, prevent_cse=False)

    def latent(weights: Any, x: Tokens, z: Tokens, times: int) -> Tokens:
        return lax.scan(lambda z, _: (f(weights, x + y + z), None), z, length=times)[0]

    if no_gradient:
        z = latent(lax.stop_gradient(weights), lax.stop_gradient(x), z, no_gradient)
    z = latent(weights, x, z, recursions - no_gradient)
    # The barrier keeps what reads the state out of the step, whose numbers are so the same to the bit in every program.
    y, z = lax.optimization_barrier((f(weights, y + z), z))
    return State(x, share, y, z)


def pooled(state: State) -> Float[Array, "batch width"]:
    """Return the mean of y over the dies of the wafer; 0 where there are none."""
    return (state.y * state.share[..., None]).sum(axis=0)
