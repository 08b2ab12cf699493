"""The objective of a run: one number from the logits of a batch."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


class Objective(eqx.Module):
    """A loss with what it takes from the labels of the training split, as a JAX pytree."""

    constants: dict[str, Array]
    """What `loss.constants` gave, float32."""
    loss: Any = eqx.field(static=True)
    """The `Loss`."""

    def __call__(
        self,
        logits: Float[Array, "batch n_labels"],
        labels: Float[Array, "batch n_labels"],
        weights: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return the weighted mean of the loss over a batch; an example of weight 0 has no effect."""
        value: Array = self.loss.value(logits, labels.astype(logits.dtype), weights, self.constants)
        return value

    def per_example(
        self, logits: Float[Array, "batch n_labels"], labels: Float[Array, "batch n_labels"]
    ) -> Float[Array, " batch"]:
        """Return the loss of every example (batch,); not defined for losses of pairs (`roc_auc`)."""
        value: Array = self.loss.per_example(logits, labels.astype(logits.dtype), self.constants)
        return value


def make_objective(loss: Any, train_labels: UInt8[np.ndarray, "M n_labels"]) -> Objective:
    """Return the objective of `loss`; `train_labels` (M, n_labels) of the training split give its constants."""
    constants = {name: jnp.asarray(value, "float32") for name, value in loss.constants(train_labels).items()}
    return Objective(constants, loss)
