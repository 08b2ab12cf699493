"""What the features of a network learn from another task: its readout, and its loss."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer.objective.losses import binary_cross_entropy, softmax_cross_entropy

NAMES = ("projection.other.weight", "projection.other.bias")
"""Its arrays, in the group of the optimiser that trains a network."""


class OtherTask(eqx.Module):
    """The readout f -> f W + b from features of a head (batch, D) to logits (batch, L) of another task."""

    arrays: dict[str, Array]
    """W (D, L) and b (L,), by `NAMES`."""
    exclusive: bool = eqx.field(static=True)
    """Whether its labels are exclusive classes."""

    @property
    def width(self) -> int:
        """L + 1: its labels, and 1 for an example of the other task, 0 for one of the run's own."""
        return int(self.arrays[NAMES[1]].shape[0]) + 1

    def per_example(
        self, features: Float[Array, "batch D"], told: Float[Array, "batch n_told"]
    ) -> Float[Array, " batch"]:
        """Return the softmax cross-entropy of each example, or the mean over labels of the binary one; `told` are
        its labels, as `width` has them.
        """
        weight, bias = (self.arrays[name].astype(features.dtype) for name in NAMES)
        logits, labels = features @ weight + bias[None], told[:, :-1].astype(features.dtype)
        if self.exclusive:
            found: Array = softmax_cross_entropy(logits, labels)
            return found
        return jnp.mean(binary_cross_entropy(logits, labels, jnp.ones_like(bias)), axis=1)

    @staticmethod
    def weights(
        told: Float[Array, "batch n_told"], weights: Float[Array, " batch"], other: Array
    ) -> tuple[Array, Array, Array]:
        """Return the weights (batch,) in the loss of the run's own examples and of the others, `other` times as much
        each, and the sum of both.
        """
        is_other = told[:, -1].astype(weights.dtype)
        own, others = weights * (1 - is_other), weights * is_other * other.astype(weights.dtype)
        return own, others, jnp.sum(own) + jnp.sum(others)
