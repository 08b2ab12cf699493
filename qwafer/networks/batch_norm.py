"""Batch normalisation in training, with a reverse pass of its own."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qwafer.backbones.layers import Images


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: Images, scale: Array, bias: Array, eps: float) -> tuple[Images, Array, Array]:
    """Return (x - mean) / sqrt(var + eps) * scale + bias, and mean and variance (C,) of each channel over the batch.

    Its own reverse pass, as autodiff's sums over a batch walk it with a stride on a CPU. What is returned as mean and
    variance is a constant to it.
    """
    return _forward(x, scale, bias, eps)[0]


def channel_sum(x: Images) -> Array:
    """Sum over all axes but the last, in two steps that XLA's CPU backend keeps in cache."""
    batch, height, width, n = x.shape
    return lax.optimization_barrier(x.reshape(batch * height, width, n).sum(axis=1)).sum(axis=0)


def spread(vector: Array) -> Images:
    """Return (1, 1, 1, C) of (C,)."""
    return jnp.expand_dims(vector, (0, 1, 2))


def _forward(
    x: Images, scale: Array, bias: Array, eps: float
) -> tuple[tuple[Images, Array, Array], tuple[Images, Array, Array, Array]]:
    count = x.size // x.shape[-1]
    mean = channel_sum(x) / count
    variance = channel_sum((x - spread(mean)) ** 2) / count
    inverse = lax.rsqrt(variance + eps)
    gain = scale * inverse
    return (x * spread(gain) + spread(bias - mean * gain), mean, variance), (x, scale, mean, inverse)


def _reverse(
    eps: float, saved: tuple[Images, Array, Array, Array], received: tuple[Images, Array, Array]
) -> tuple[Images, Array, Array]:
    x, scale, mean, inverse = saved
    dy, count = received[0], x.size // x.shape[-1]
    d_bias = channel_sum(dy)
    d_scale = channel_sum(dy * ((x - spread(mean)) * spread(inverse)))
    through_moments = spread(d_bias) + (x - spread(mean)) * spread(inverse * d_scale)
    return spread(scale * inverse) * (dy - through_moments / count), d_scale, d_bias


batch_norm.defvjp(_forward, _reverse)
