"""Layers of the backbones in flax, for inference: NHWC, batch normalisation folded into the weights, fast on a CPU."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qwafer.backbones.shifted import Images as Images
from qwafer.backbones.shifted import shifted_products as shifted_products

Activation = Callable[[Any], Any]
Stage = Callable[[Array], Array]

_NHWC = ("NHWC", "HWIO", "NHWC")
THIN = 3
"""Input channels up to which a convolution on a CPU is a sum of shifted products: too thin for a matrix product."""


def swish(x: Array) -> Array:
    """Return x sigmoid(x), as x (1 + tanh(x / 2)) / 2: XLA's tanh is faster than its sigmoid on a CPU."""
    half = jnp.asarray(0.5, x.dtype)
    return x * (half + half * jnp.tanh(half * x))


def hard_sigmoid(x: Array) -> Array:
    """Return min(max(x + 3, 0), 6) / 6."""
    return jnp.clip(x + jnp.asarray(3, x.dtype), 0, 6) * jnp.asarray(1 / 6, x.dtype)


def hard_swish(x: Array) -> Array:
    """Return x hard_sigmoid(x)."""
    return x * hard_sigmoid(x)


def gelu_tanh(x: Array) -> Array:
    """Return x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    return jax.nn.gelu(x, approximate=True)


def gelu(x: Array) -> Array:
    """Return x Phi(x), Phi the normal distribution function, exactly (erf)."""
    return jax.nn.gelu(x, approximate=False)


def global_mean(x: Images) -> Float[Array, "batch channels"]:
    """Return the mean over height and width, in float32.

    Two reductions, kept apart: fused into one, XLA's CPU backend walks the image with a stride (seven times slower at
    112 x 112).
    """
    columns = lax.optimization_barrier(x.astype(jnp.float32).mean(axis=1))
    return columns.mean(axis=1)


def matmul(x: Array, kernel: Array) -> Array:
    """Return x (..., C) @ kernel (C, O), accumulated in float32 at least."""
    flat = x.reshape(-1, x.shape[-1])
    product = lax.dot(flat, kernel, preferred_element_type=jnp.float32).astype(x.dtype)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """x W + b over the last axis: a fully connected layer, or a 1 x 1 convolution."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., C) -> (..., features)."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features), x.dtype)
        y = matmul(x, kernel)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
        return y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


class Conv(nn.Module):
    """A k x k convolution with padding k // 2, and its bias (none for `use_bias=False`)."""

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> (batch, ceil(H / stride), ceil(W / stride), features)."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape, x.dtype)

        def convolution(x: Images, kernel: Array) -> Images:
            edge = (self.kernel // 2, self.kernel // 2)
            y = lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                (edge, edge),
                dimension_numbers=_NHWC,
                preferred_element_type=jnp.float32,
            )
            return y.astype(x.dtype)

        def shifted(x: Images, kernel: Array) -> Images:
            return shifted_products(x, kernel, self.stride)

        thin = shifted if x.shape[-1] <= THIN else convolution
        y = lax.platform_dependent(x, kernel, cpu=thin, default=convolution)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
        return y + jnp.expand_dims(bias, (0, 1, 2))


class Depthwise(nn.Module):
    """A k x k depthwise convolution with padding k // 2, and its bias.

    On a CPU it is the sum of k^2 shifted products, which XLA fuses into one vectorised loop over channels, with the
    activation behind it; its own depthwise convolution takes ten to fifty times as long there. Elsewhere it is the
    convolution.
    """

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> (batch, ceil(H / stride), ceil(W / stride), C)."""
        kernel = self.param("kernel", nn.initializers.zeros, (self.kernel, self.kernel, 1, x.shape[-1]), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), x.dtype)

        def shifted(x: Images, kernel: Array) -> Images:
            return shifted_products(x, kernel, self.stride)

        def convolution(x: Images, kernel: Array) -> Images:
            edge = (self.kernel // 2, self.kernel // 2)
            strides = (self.stride, self.stride)
            groups = x.shape[-1]
            return lax.conv_general_dilated(
                x, kernel, strides, (edge, edge), dimension_numbers=_NHWC, feature_group_count=groups
            )

        y = lax.platform_dependent(x, kernel, cpu=shifted, default=convolution)
        return y + jnp.expand_dims(bias, (0, 1, 2))


class SqueezeExcite(nn.Module):
    """Channel gates: x * gate(W2 inner(W1 mean(x) + b1) + b2) (Hu et al. 2018, arXiv 1709.01507)."""

    squeezed: int
    inner: Activation
    gate: Activation

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> the same."""
        mean = global_mean(x).astype(x.dtype)
        hidden = self.inner(Dense(self.squeezed, name="fc1")(mean))
        gate = self.gate(Dense(x.shape[-1], name="fc2")(hidden))
        return x * jnp.expand_dims(gate, (1, 2))


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-5) * scale + bias over the last axis, in float32."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., C) -> the same."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), x.dtype)
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        inverse = lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        leading = tuple(range(x.ndim - 1))
        scaled = centred * inverse * jnp.expand_dims(scale.astype(jnp.float32), leading)
        return (scaled + jnp.expand_dims(bias.astype(jnp.float32), leading)).astype(x.dtype)


class Staged(nn.Module):
    """A network as named stages, one after another: `__call__` runs all of them, or those from one stage to another."""

    @nn.nowrap
    def stages(self) -> list[tuple[str, Stage]]:
        """Return the stages, each with its name; the last one, `pool`, gives the features."""
        raise TypeError(f"{type(self).__name__} must define stages")

    @nn.nowrap
    def sown(self, x: Array) -> Array:
        """Return what a stage gives, and keep it as one of the intermediates `stages`."""
        self.sow("intermediates", "stages", x)
        return x

    @nn.compact
    def __call__(self, x: Array, begin: str | None = None, end: str | None = None) -> Array:
        """Return what enters stage `end` (if none: what the last stage gives), of `x`, which enters stage `begin`."""
        stages = self.stages()
        names = [name for name, _ in stages]
        first = 0 if begin is None else names.index(begin)
        last = len(names) if end is None else names.index(end)
        for _, stage in stages[first:last]:
            x = stage(x)
        return x
