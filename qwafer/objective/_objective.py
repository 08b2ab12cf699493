"""The objective of a run: one number from the logits of a batch."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from qwafer.config import ObjectiveConfig
from qwafer.objective import losses
from qwafer.objective.priors import class_weights, example_weights, positive_weights


class Objective(eqx.Module):
    """The weighted mean of a loss over the examples of a batch and over all labels, as a JAX pytree."""

    pos_weight: Float[Array, " n_labels"]
    class_weight: Float[Array, " n_labels"]
    """Weight of each label's term; of the examples of each class with `softmax`."""
    config: ObjectiveConfig = eqx.field(static=True)

    def __call__(
        self,
        logits: Float[Array, "batch n_labels"],
        labels: Float[Array, "batch n_labels"],
        weights: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return sum_i w_i loss_i / sum_i w_i; an example of weight 0, as those that pad a batch, has no effect.

        loss_i is the mean over labels of c_k loss_ik; with `softmax`, c of the example's class times its cross-entropy.
        With `auc`, the mean over the labels that have a pair. The weights of a balanced batch have mean one by
        construction, so that the denominator is the number of real examples.
        """
        labels = labels.astype(logits.dtype)
        if self.config.loss == "auc":
            each, present = losses.pairwise_logistic(logits, labels, weights)
            per_label = self.class_weight.astype(logits.dtype) * present
            total = jnp.sum(per_label)
            return jnp.sum(per_label * each) / jnp.where(total > 0, total, jnp.ones_like(total))
        return jnp.sum(weights * self.per_example(logits, labels)) / jnp.sum(weights)

    def per_example(
        self, logits: Float[Array, "batch n_labels"], labels: Float[Array, "batch n_labels"]
    ) -> Float[Array, " batch"]:
        """Return the loss of every example (batch,), weights of labels and classes included; not defined for `auc`."""
        config, n_labels, dtype = self.config, logits.shape[1], logits.dtype
        labels = labels.astype(dtype)
        class_weight = self.class_weight.astype(dtype)
        smoothing = config.label_smoothing
        if config.loss == "softmax":
            smooth = (1 - smoothing) * labels + smoothing / n_labels
            return (labels @ class_weight) * losses.softmax_cross_entropy(logits, smooth)
        smooth = (1 - smoothing) * labels + smoothing / 2
        pos_weight = self.pos_weight.astype(dtype)
        if config.loss == "focal":
            each = losses.focal(logits, smooth, config.focal_gamma, pos_weight)
        elif config.loss == "asymmetric":
            gammas = config.asymmetric_gamma_pos, config.asymmetric_gamma_neg
            each = losses.asymmetric(logits, smooth, *gammas, config.asymmetric_clip, pos_weight)
        else:
            each = losses.binary_cross_entropy(logits, smooth, pos_weight)
        return jnp.mean(class_weight[None, :] * each, axis=1)


def make_objective(config: ObjectiveConfig, train_labels: UInt8[np.ndarray, "M n_labels"]) -> Objective:
    """Return the objective of `config`; `train_labels` (M, n_labels) of the training split give its weights."""
    beta = config.effective_beta
    pos_weight = positive_weights(config.pos_weight, train_labels, beta)
    weigh = example_weights if config.loss == "softmax" else class_weights
    class_weight = weigh(config.class_weights, train_labels, beta)
    return Objective(jnp.asarray(pos_weight, "float32"), jnp.asarray(class_weight, "float32"), config)
