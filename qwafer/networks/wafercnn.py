"""WaferCNN in training: blocks of convolution, batch normalisation, 2 x 2 maximum and ReLU, then a linear layer."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qwafer.backbones.layers import Images, global_mean
from qwafer.heads import draw
from qwafer.networks.augmentation import Codes
from qwafer.networks.batch_norm import channel_sum, spread
from qwafer.networks.head import Outputs, Tree
from qwafer.networks.wafercnn_module import CHANNELS, N_INPUTS, SIZE, channels, quarters

EPS = 1e-5
MOMENTUM = 0.05
"""Weight of a batch in the running mean and variance."""


@dataclass(frozen=True)
class WaferCnn:
    """An `Architecture`: 94,504 parameters for eight labels."""

    size: ClassVar[int] = SIZE

    def initial(self, seed: int, n_labels: int) -> tuple[Tree, Tree]:
        """Return He-normal kernels, and moments 0 and 1."""
        params: Tree = {}
        statistics: Tree = {}
        for i, (n_in, n) in enumerate(pairwise((N_INPUTS, *CHANNELS))):
            kernel = draw(seed, f"wafercnn/block{i}.kernel", (3, 3, n_in, n), "float32", math.sqrt(2 / (9 * n_in)))
            zeros, ones = jnp.zeros(n, jnp.float32), jnp.ones(n, jnp.float32)
            params[f"block{i}"] = {"kernel": kernel, "scale": ones, "bias": zeros}
            statistics[f"block{i}"] = {"mean": zeros, "var": ones}
        wide = CHANNELS[-1]
        kernel = draw(seed, "wafercnn/head.kernel", (wide, n_labels), "float32", math.sqrt(2 / wide))
        params["head"] = {"kernel": kernel, "bias": jnp.zeros(n_labels, jnp.float32)}
        return params, statistics

    def outputs(
        self, params: Tree, statistics: Tree, codes: Codes, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Tree]:
        """Return the outputs, with the moments of the batch in training and the running ones else."""
        x, moved = channels(codes, jnp), dict(statistics)
        for name, known in statistics.items():
            block = params[name]
            x = lax.conv_general_dilated(
                x, block["kernel"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            if train:
                x, *seen = norm_pool_relu(x, block["scale"], block["bias"])
                new = dict(zip(("mean", "var"), lax.stop_gradient(seen), strict=True))
                moved[name] = {part: old + MOMENTUM * (new[part] - old) for part, old in known.items()}
            else:
                x = pooled_norm(x, block["scale"], block["bias"], known["mean"], known["var"])
        features = global_mean(x)
        logits = features @ params["head"]["kernel"] + params["head"]["bias"][None]
        return Outputs(logits[None], features), moved

    def tensors(self, params: Tree, statistics: Tree) -> dict[str, np.ndarray]:
        """Return the weights in torch's layouts, as the frozen `wafercnn` reads them."""
        state: dict[str, np.ndarray] = {}
        for i in range(len(CHANNELS)):
            block, known = params[f"block{i}"], statistics[f"block{i}"]
            state[f"blocks.{i}.conv.weight"] = np.ascontiguousarray(block["kernel"].transpose(3, 2, 0, 1))
            state |= {f"blocks.{i}.norm.weight": block["scale"], f"blocks.{i}.norm.bias": block["bias"]}
            state |= {f"blocks.{i}.norm.running_{part}": value for part, value in known.items()}
        state["head.weight"] = np.ascontiguousarray(params["head"]["kernel"].T)
        state["head.bias"] = params["head"]["bias"]
        return state


def pooled_norm(x: Images, scale: Array, bias: Array, mean: Array, variance: Array) -> Images:
    """Return relu(max over 2 x 2 of (x - mean) / sqrt(var + eps) * scale + bias) with given moments."""
    gain = scale * lax.rsqrt(variance + EPS)
    corners = [y * spread(gain) + spread(bias - mean * gain) for y in quarters(x)]
    return jax.nn.relu(jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3])))


@jax.custom_vjp
def norm_pool_relu(x: Images, scale: Array, bias: Array) -> tuple[Images, Array, Array]:
    """Return relu(max over 2 x 2 of (x - mean) / sqrt(var + eps) * scale + bias), and mean and variance over the batch.

    Its own reverse pass: all but one sum of it are taken at a quarter of the size, where autodiff's walk the full image
    several times (half the time of a training step on a CPU). Mean and variance are constants to it.
    """
    return _norm_pool_relu(x, scale, bias)[0]


def _norm_pool_relu(x: Images, scale: Array, bias: Array) -> tuple[tuple[Images, Array, Array], tuple[Array, ...]]:
    count = x.size // x.shape[-1]
    mean = channel_sum(x) / count
    variance = channel_sum((x - spread(mean)) ** 2) / count
    inverse = lax.rsqrt(variance + EPS)
    gain = scale * inverse
    corners = [y * spread(gain) + spread(bias - mean * gain) for y in quarters(x)]
    top = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    return (jax.nn.relu(top), mean, variance), (x, scale, bias, mean, inverse, top)


def _norm_pool_relu_reverse(saved: tuple[Array, ...], cotangents: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse, top = saved
    batch, height, width, n = x.shape
    rows, columns = height // 2, width // 2
    gain = scale * inverse
    received = jnp.where(top > 0, cotangents[0], 0)
    corners = [y * spread(gain) + spread(bias - mean * gain) for y in quarters(x)]
    winner = jnp.where(corners[0] == top, 0, jnp.where(corners[1] == top, 1, jnp.where(corners[2] == top, 2, 3)))
    winner, received = lax.optimization_barrier((winner.astype(jnp.int8), received))
    chosen = _pick(winner, [(y - spread(mean)) * spread(inverse) for y in quarters(x)])
    d_bias, d_scale = channel_sum(received), channel_sum(received * chosen)
    count = x.size // n

    def through_moments(y: Images) -> Images:
        return spread(-gain / count) * (spread(d_bias) + (y - spread(mean)) * spread(inverse * d_scale))

    def spread_squares(y: Images) -> Array:
        return jnp.broadcast_to(y[:, :, None, :, None], (batch, rows, 2, columns, 2, n))

    place = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    direct = jnp.where(spread_squares(winner) == place, spread_squares(received * spread(gain)), 0)
    direct = direct.reshape(batch, 2 * rows, 2 * columns, n)
    direct = jnp.pad(direct, ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns), (0, 0)))
    return direct + through_moments(x), d_scale, d_bias


norm_pool_relu.defvjp(_norm_pool_relu, _norm_pool_relu_reverse)


def _pick(winner: Images, corners: list[Images]) -> Images:
    picked = corners[3]
    for index in (2, 1, 0):
        picked = jnp.where(winner == index, corners[index], picked)
    return picked
