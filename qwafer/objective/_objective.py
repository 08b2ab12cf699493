"""The objective of a run: one number from the logits of a batch."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from qwafer.config import ObjectiveConfig
from qwafer.objective.losses import binary_cross_entropy, focal
from qwafer.objective.priors import positive_weights


class Objective(eqx.Module):
    """The weighted mean of a loss over the examples of a batch and over all labels, as a JAX pytree."""

    pos_weight: Float[Array, " n_labels"]
    loss: str = eqx.field(static=True)
    focal_gamma: float = eqx.field(static=True)

    def __call__(
        self,
        logits: Float[Array, "batch n_labels"],
        labels: Float[Array, "batch n_labels"],
        weights: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return sum_i w_i mean_k loss_ik / sum_i w_i; an example of weight 0, as those that pad a batch, has no
        effect.

        The weights of a balanced batch have mean one by construction, so that the denominator is the number of
        real examples.
        """
        per_example = jnp.mean(self.per_label(logits, labels), axis=1)  # (batch,)
        return jnp.sum(weights * per_example) / jnp.sum(weights)

    def per_label(
        self, logits: Float[Array, "batch n_labels"], labels: Float[Array, "batch n_labels"]
    ) -> Float[Array, "batch n_labels"]:
        """Return the unweighted loss of every example and label (batch, n_labels)."""
        labels = labels.astype(logits.dtype)
        pos_weight = self.pos_weight.astype(logits.dtype)
        if self.loss == "focal":
            return focal(logits, labels, self.focal_gamma, pos_weight)
        return binary_cross_entropy(logits, labels, pos_weight)


def make_objective(config: ObjectiveConfig, train_labels: UInt8[np.ndarray, "M n_labels"]) -> Objective:
    """Return the objective that `config` describes; `train_labels` (M, n_labels) of the training split give its
    weights.
    """
    pos_weight = positive_weights(config.pos_weight, train_labels)
    return Objective(jnp.asarray(pos_weight, "float32"), config.loss, config.focal_gamma)
