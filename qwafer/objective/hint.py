"""What a student's features learn from a teacher's: a linear map between them, trained beside the student."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

NAMES = ("projection.hint.weight", "projection.hint.bias")
"""Its arrays, in the group of the optimiser that trains a network."""


class Hint(eqx.Module):
    """The map f -> f W + b from features of a head (batch, D) to those of a teacher (batch, D_t).

    FitNets (Romero et al. 2015, arXiv:1412.6550) put it where the widths differ; here it always stands, for the
    teacher's features are standardised.
    """

    arrays: dict[str, Array]
    """W (D, D_t) and b (D_t,), by `NAMES`."""

    @property
    def width(self) -> int:
        """D_t, the features of the teacher."""
        return int(self.arrays[NAMES[1]].shape[0])

    def loss(
        self, features: Float[Array, "batch D"], taught: Float[Array, "batch D_t"], weights: Float[Array, " batch"]
    ) -> Float[Array, ""]:
        """Return sum_i w_i mean_k ((f_i W + b)_k - t_ik)^2 / sum_i w_i."""
        weight, bias = (self.arrays[name].astype(features.dtype) for name in NAMES)
        each = jnp.mean((features @ weight + bias[None] - taught) ** 2, axis=1)
        return jnp.sum(weights * each) / jnp.sum(weights)
