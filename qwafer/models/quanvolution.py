"""Quanvolutional network (Henderson et al. 2020, arXiv:1904.04767): a random circuit on windows of 2 x 2 pixels, a CNN.

The windows are binary, so that a filter is a table of 16 numbers: the ones in the likeliest outcome of its circuit. All
of it is computed once, by 16 circuits per channel. The null is `filters` = classical: the same CNN on the binary image.
"""

import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits import statevector
from qwafer.engines import Program
from qwafer.heads import HeadInputs, draw
from qwafer.heads._base import rounded
from qwafer.heads._classical import ClassicalHead

if TYPE_CHECKING:
    from qwafer.models.options import QuanvolutionalOptions

WINDOW = 2
"""Rows and columns of a window: four wires."""


def random_filter(weights: Any, x: Any) -> Any:
    """The probabilities of four wires after RY(pi x_i) and `RandomLayers`, whose gates are one fixed draw."""
    import pennylane as qml

    for wire in range(WINDOW**2):
        qml.RY(math.pi * x[wire], wire)
    qml.RandomLayers(weights["angles"], wires=range(WINDOW**2), seed=42)
    return qml.probs(wires=range(WINDOW**2))


def filter_table(angles: np.ndarray) -> np.ndarray:
    """Return the ones in the likeliest outcome for every binary window (channels, 16), of angles (channels, depth,
    rotations); windows count their pixels in binary, the first pixel first.
    """
    from qwafer.circuits.capture import circuit

    patterns = (np.arange(16)[:, None] >> np.arange(4)[::-1]) & 1
    own = circuit(random_filter, {"angles": angles.shape[1:]}, WINDOW**2)
    found = [statevector.values(own, {"angles": one}, patterns.astype(np.float64)) for one in angles]
    # Equal probabilities go to the first: a table must not depend on the last bit.
    likeliest = np.argmax(np.round(np.stack(found), 9), axis=2)
    return patterns.sum(axis=1)[likeliest].astype(np.float32)


class QuanvolutionalHead(ClassicalHead):
    """A filter table on binary windows, then convolution, pooling, convolution, pooling, a hidden layer, one output.

    Buffers: `filter.table` (channels, 16); without it the network sees the binary image itself.
    """

    side: int = eqx.field(static=True)

    def channels(self, features: Float[Array, "batch D"]) -> Float[Array, "batch rows columns channels"]:
        """Return what the first convolution sees: pixels above the middle of their range, or the filters of windows."""
        binary = (self.standardized(features) > 0.5).astype(self.dtype).reshape(-1, self.side, self.side)
        if "filter.table" not in self.buffers:
            return binary[..., None]
        a, b = binary[:, :-1], binary[:, 1:]
        index = 8 * a[:, :, :-1] + 4 * a[:, :, 1:] + 2 * b[:, :, :-1] + b[:, :, 1:]
        return jnp.moveaxis(self.array("filter.table")[:, index.astype(jnp.int32)], 0, -1)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        x = self.channels(features)
        for name in ("projection.first", "projection.second"):
            weight, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.lax.reduce_window(
                x + bias[None, None, None], -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
            )
        hidden = jax.nn.relu(self.layer(x.reshape(len(x), -1), "projection.hidden"))
        return self.layer(hidden, "projection.output")


def quanvolutional_head(options: "QuanvolutionalOptions", inputs: HeadInputs) -> QuanvolutionalHead:
    """Return the untrained head; raise InputError for features that are not a square image."""
    n, seed, dtype = inputs.features.shape[1], inputs.seed, inputs.dtype
    k, width = options.kernel_size, options.n_filters
    side = math.isqrt(n)
    if side**2 != n or side < WINDOW + 1:
        raise InputError(f"the features must be the pixels of a square image of at least 3 x 3, got {n} features")
    buffers = dict(inputs.buffers)
    quantum = options.filters == "quantum"
    if quantum:
        rng = np.random.default_rng(key_seed(seed, "quanvolution"))
        angles = rng.uniform(0, 2 * math.pi, (options.n_channels, options.depth, options.rotations))
        buffers["filter.table"] = rounded(filter_table(angles), dtype)
    n_in, left = (options.n_channels, side - 1) if quantum else (1, side)
    for _ in range(2):
        left = -(-left // 2)
    flat = left**2 * 2 * width
    shapes = {
        "first": (k, k, n_in, width),
        "second": (k, k, width, 2 * width),
        "hidden": (flat, 4 * width),
        "output": (4 * width, inputs.n_labels),
    }
    params = {}
    for name, shape in shapes.items():  # LeCun normal, as flax starts its layers
        scale = 1 / math.sqrt(math.prod(shape[:-1]))
        params[f"projection.{name}.weight"] = draw(seed, f"projection.{name}.weight", shape, dtype, scale)
        params[f"projection.{name}.bias"] = rounded(np.zeros(shape[-1]), dtype)
    return QuanvolutionalHead(params, buffers, inputs.n_labels, dtype, side)
