"""The classical null of the dressed circuit: a layer of tanh in the place of the circuit."""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer.engines import Program
from qwafer.heads import HeadInputs, draw
from qwafer.heads._classical import ClassicalHead

if TYPE_CHECKING:
    from qwafer.models.options import DressedNnOptions


class DressedNnHead(ClassicalHead):
    """l = W_3 g(W_2 g(W_1 x)), g(z) = pi/2 tanh(z), on standardised features x, without biases."""

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        x = self.standardized(features)
        for name in ("first", "second"):
            x = math.pi / 2 * jnp.tanh(x @ self.array(f"projection.{name}.weight"))
        return x @ self.array("projection.output.weight")


def dressed_nn_head(options: "DressedNnOptions", inputs: HeadInputs) -> DressedNnHead:
    """Return the untrained head: weights of standard deviation 1/sqrt(D), then 1/n_units."""
    n, width = inputs.features.shape[1], options.n_units
    shapes = {"first": (n, width), "second": (width, width), "output": (width, inputs.n_labels)}
    params = {}
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(n) if name == "first" else 1 / width
        params[f"projection.{name}.weight"] = draw(inputs.seed, f"projection.{name}.weight", shape, inputs.dtype, scale)
    return DressedNnHead(params, inputs.buffers, inputs.n_labels, inputs.dtype)
