"""Losses of single examples: logits (batch, n_labels) and labels of 0 and 1 to (batch, n_labels), in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def binary_cross_entropy(
    logits: Float[Array, "batch n_labels"],
    labels: Float[Array, "batch n_labels"],
    pos_weight: Float[Array, " n_labels"],
) -> Float[Array, "batch n_labels"]:
    """Return w y log(1 + e^-l) + (1 - y) log(1 + e^l) with w = `pos_weight`; finite for every finite logit l."""
    positive = pos_weight[None, :] * labels * jax.nn.softplus(-logits)
    return positive + (1 - labels) * jax.nn.softplus(logits)


def focal(
    logits: Float[Array, "batch n_labels"],
    labels: Float[Array, "batch n_labels"],
    gamma: float,
    pos_weight: Float[Array, " n_labels"],
) -> Float[Array, "batch n_labels"]:
    """Return (1 - p_t)^gamma times the binary cross-entropy, p_t the probability of the true value (Lin et al. 2017).

    1 - p_t enters as exp(-softplus(l)) of a positive, and exp(-softplus(-l)) of a negative, which keeps value and
    gradient finite where p_t rounds to 1. At l = 0 and gamma = 2 the loss is log(2) / 4 = 0.1733: a stall there is a
    model that says nothing, not one that has learned.
    """
    gain, cost = jax.nn.softplus(logits), jax.nn.softplus(-logits)
    positive = pos_weight[None, :] * labels * jnp.exp(-gamma * gain) * cost
    return positive + (1 - labels) * jnp.exp(-gamma * cost) * gain
