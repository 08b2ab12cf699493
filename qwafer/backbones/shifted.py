"""Convolutions on a CPU as sums of shifted products, with derivatives of the same kind."""

import functools
import itertools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "k k groups channels"]
Tap: TypeAlias = tuple[int, int, int]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_products(x: Images, kernel: Kernel, stride: int) -> Images:
    """Return a convolution with padding k // 2 as a sum of shifted products: what XLA fuses into one vectorised loop.

    With one group, each of x's channels has its own kernel (depthwise). With several, each input channel is spread over
    all output channels: y[i, j] = sum_abc x[s i + a - k // 2, s j + b - k // 2, c] w[a, b, c], s the stride.

    Its derivatives, and its value where they are taken, go image by image: an image stays in the second-level cache,
    and the batch of a training step does not.
    """
    total: Any = None
    for tap, window in _windows(x, kernel.shape, stride).items():
        term = window * jnp.expand_dims(kernel[tap], (0, 1, 2))
        total = term if total is None else total + term
    return total


def _windows(x: Images, shape: tuple[int, ...], stride: int) -> dict[Tap, Images]:
    """Return what w[a, b, c] multiplies, (batch, ceil(H / s), ceil(W / s), 1 or C), for the taps that meet the image.

    `shape` is that of the kernel.
    """
    batch, height, width, channels = x.shape
    size, _, groups, _ = shape
    edge = (size // 2, size // 2)
    # Fused into the sum, the padding would be recomputed, with its bounds checks, for each of the k^2 terms.
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), edge, edge, (0, 0))))
    rows, columns = -(-height // stride), -(-width // stride)
    found = {}
    for a, b, c in itertools.product(_meeting(size, height, stride), _meeting(size, width, stride), range(groups)):
        channel, last = (0, channels) if groups == 1 else (c, c + 1)
        limits = (batch, a + (rows - 1) * stride + 1, b + (columns - 1) * stride + 1, last)
        found[a, b, c] = lax.slice(padded, (0, a, b, channel), limits, (1, stride, stride, 1))
    return found


def _meeting(size: int, length: int, stride: int) -> list[int]:
    """Return the offsets a for which s i + a - k // 2 lies in [0, length) for some place i; the rest meet padding."""
    places = [i - size // 2 for i in range(0, length, stride)]
    return [a for a in range(size) if any(0 <= place + a < length for place in places)]


def _forward(x: Images, kernel: Kernel, stride: int) -> tuple[Images, tuple[Images, Kernel]]:
    return lax.map(lambda one: shifted_products(one[None], kernel, stride)[0], x), (x, kernel)


def _reverse(stride: int, saved: tuple[Images, Kernel], received: Images) -> tuple[Images, Kernel]:
    x, kernel = saved
    height, width = x.shape[1:3]
    size, _, groups, n_out = kernel.shape
    taps = itertools.product(_meeting(size, height, stride), _meeting(size, width, stride), range(groups))

    def products(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        windows = _windows(pair[0][None], kernel.shape, stride).values()
        # Two steps: over several leading axes at once, XLA's CPU backend sums with a stride.
        by_row = lax.optimization_barrier(jnp.stack([jnp.sum(window[0] * pair[1], axis=1) for window in windows]))
        return total + by_row.sum(axis=1), None

    places = np.array(list(taps)).T
    sums, _ = lax.scan(products, jnp.zeros((places.shape[1], n_out), kernel.dtype), (x, received))
    d_kernel = jnp.zeros_like(kernel).at[tuple(places)].set(sums)
    return lax.map(lambda one: _spread(one[None], kernel, stride, (height, width))[0], received), d_kernel


def _spread(received: Images, kernel: Kernel, stride: int, shape: tuple[int, int]) -> Images:
    """Return dx of dy = `received`, for images of `shape` (H, W).

    dx[s p + u, s q + v] = sum_ab dy[p + (u + e - a) / s, q + (v + e - b) / s] w[a, b] over the taps for which these are
    whole numbers, e = k // 2: nothing is multiplied with the zeros between the rows of dy.
    """
    size, _, groups, _ = kernel.shape
    edge = size // 2
    batch, _, _, channels = received.shape
    rows, columns = (-(-length // stride) for length in shape)
    padded = lax.optimization_barrier(jnp.pad(received, ((0, 0), (edge, edge), (edge, edge), (0, 0))))
    width = channels if groups == 1 else groups

    def part(u: int, v: int) -> Images:
        total: Any = jnp.zeros((batch, rows, columns, width), received.dtype)
        for a, b in itertools.product(range(size), repeat=2):
            down, across = u + edge - a, v + edge - b
            if down % stride == 0 and across % stride == 0:
                i, j = edge + down // stride, edge + across // stride
                window = lax.slice(padded, (0, i, j, 0), (batch, i + rows, j + columns, channels))
                weight = kernel[a, b]
                total = total + (window * weight[None, None] if groups == 1 else window @ weight.T)
        return total

    whole = jnp.stack([jnp.stack([part(u, v) for v in range(stride)], axis=3) for u in range(stride)], axis=2)
    return whole.reshape(batch, rows * stride, columns * stride, width)[:, : shape[0], : shape[1]]


shifted_products.defvjp(_forward, _reverse)
