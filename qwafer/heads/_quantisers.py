"""Quantisers of weights and activations: whole-number codes times a scale, with straight-through gradients."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer.heads.few_bits import PRECISIONS

BITS = {name: int(name) for name in PRECISIONS if name.isdigit()}
"""The precisions of k bits."""
TERNARY = ("bitnet", "qesc")
"""The precisions with codes -1, 0, 1."""
MSE_STEPS = 48
"""Ranges that `mse` tries: max |w| times 1/48, 2/48, ..., 1."""
BITNET_LEVEL = 127
"""Largest code of BitNet's 8-bit activations."""


@dataclass(frozen=True)
class Quantiser:
    """How the weights and the inputs of a layer are quantised; see `QuantisedOptions`."""

    precision: str
    """One of `PRECISIONS`."""
    calibration: str = "max"
    """One of `CALIBRATIONS`; of k bits, k > 1."""
    percentile: float = 99.9
    """Of |w|, for calibration `percentile`."""
    activation_bits: int = 8
    """Sign planes of the inputs, for `qesc`."""
    straight_through: bool = True
    """Whether training sees the quantised values."""


def top_code(precision: str) -> int:
    """Return the largest code: 2^(k-1) - 1 for k > 1 bits, 1 for a sign and for ternary codes."""
    return max(2 ** (BITS[precision] - 1) - 1, 1) if precision in BITS else 1


def quantise(weight: Float[Array, "n_in n_out"], quantiser: Quantiser) -> tuple[Array, Array]:
    """Return codes (n_in, n_out), whole numbers as floats, and scales (n_out,) or (1,): the weights become their
    product.

    - 1 bit: sign(w) with sign(0) = 1, scale mean |w| of the channel (Rastegari et al. 2016, arXiv:1603.05279).
    - k = 2, 4, 8, 16 bits: clip(round(w / s), -T, T), T = 2^(k-1) - 1, s = range / T for each channel. `max`: the range
      is max |w|, and no error exceeds s / 2. `percentile`: that percentile of |w|. `mse`: max |w| times j/48 with the
      least squared error, j = 1 ... 48.
    - `bitnet`: clip(round(w / s), -1, 1), s = mean |w| of the whole matrix (Ma et al. 2024, arXiv:2402.17764).
    - `qesc`: the same with a scale for each channel.

    A channel is a column, an output. Channels of zeros have scale 1 (1 bit: 0).
    """
    size, precision = jnp.abs(weight), quantiser.precision
    if precision == "1":
        return jnp.where(weight < 0, -1.0, 1.0).astype(weight.dtype), size.mean(axis=0)
    if precision in TERNARY:
        return _rounded(weight, size.mean(axis=None if precision == "bitnet" else 0).reshape(-1), 1)
    top = top_code(precision)
    if quantiser.calibration == "percentile":
        reach, largest = jnp.percentile(size, quantiser.percentile, axis=0), size.max(axis=0)
        return _rounded(weight, jnp.where(reach == 0, largest, reach), top)
    if quantiser.calibration == "mse":
        return _rounded(weight, _least_error(weight, size.max(axis=0), top), top)
    return _rounded(weight, size.max(axis=0), top)


def quantise_inputs(x: Float[Array, "rows n"], quantiser: Quantiser) -> tuple[Array, Array] | None:
    """Return codes (rows, n) and scales (rows,) of a layer's inputs; None where they stay as they are (k bits).

    - `bitnet`: clip(round(x / t), -127, 127), t = max |x| / 127 of the row (8 bits).
    - `qesc`: odd codes 2 floor(x / 2t) + 1 from 1 - 2^m to 2^m - 1 in m = `activation_bits` sign planes, t = max |x| /
      (2^m - 1) of the row; no error exceeds t. For m = 1 sign(x) with t = mean |x|.
    """
    if quantiser.precision not in TERNARY:
        return None
    size = jnp.abs(x)
    if quantiser.precision == "bitnet":
        scale = size.max(axis=1) / BITNET_LEVEL
        return jnp.clip(jnp.round(x / _divisor(scale)[:, None]), -BITNET_LEVEL, BITNET_LEVEL), scale
    top = 2**quantiser.activation_bits - 1
    scale = size.mean(axis=1) if top == 1 else size.max(axis=1) / top
    return jnp.clip(2 * jnp.floor(x / (2 * _divisor(scale)[:, None])) + 1, -top, top), scale


def straight_through(codes: Array, value: Array, scale: Array) -> Array:
    """Return `codes`, exactly, with the gradient of `value` / `scale` (Bengio, Leonard and Courville 2013,
    arXiv:1308.3432): rounding and clipping count as the identity, also outside of the range.
    """
    identity = value / jax.lax.stop_gradient(_divisor(scale))
    return jax.lax.stop_gradient(codes) + (identity - jax.lax.stop_gradient(identity))


def _divisor(scale: Array) -> Array:
    return jnp.where(scale == 0, jnp.ones_like(scale), scale)


def _rounded(weight: Array, reach: Array, top: int) -> tuple[Array, Array]:
    """Return codes and scales of weights whose channels reach from -`reach` to `reach` (n_out,) or (1,)."""
    scale = _divisor(reach / top)
    return jnp.clip(jnp.round(weight / scale[None]), -top, top), scale


def _least_error(weight: Array, largest: Array, top: int) -> Array:
    """Return of each channel the range with the least squared error, of equal ones the largest."""

    def tried(best: tuple[Array, Array], part: Array) -> tuple[tuple[Array, Array], None]:
        reach = largest * part
        codes, scale = _rounded(weight, reach, top)
        error = ((codes * scale[None] - weight) ** 2).sum(axis=0)
        less = error < best[1]
        return (jnp.where(less, reach, best[0]), jnp.where(less, error, best[1])), None

    parts = jnp.arange(MSE_STEPS, 0, -1, dtype=weight.dtype) / MSE_STEPS
    start = (largest, jnp.full_like(largest, jnp.inf))
    return jax.lax.scan(tried, start, parts)[0][0]
