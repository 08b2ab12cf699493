"""Losses of single examples: logits (batch, n_labels) and labels of 0 and 1 to (batch, n_labels), in nats.

Arrays of shapes that do not fit raise InputError, while JAX traces, too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from qwafer._arrays import shaped


@shaped()
def binary_cross_entropy(
    logits: Float[Array, "batch n_labels"],
    labels: Real[Array, "batch n_labels"],
    pos_weight: Float[Array, " n_labels"],
) -> Float[Array, "batch n_labels"]:
    """Return w y log(1 + e^-l) + (1 - y) log(1 + e^l) with w = `pos_weight`; finite for every finite logit l."""
    gain, cost = _softplus(logits)
    return pos_weight[None, :] * labels * cost + (1 - labels) * gain


@jax.custom_jvp
def _softplus(logits: Array) -> tuple[Array, Array]:
    """Return log(1 + e^l) and log(1 + e^-l): the greater of +-l and 0, and log(1 + e^-|l|), which both share."""
    shared = jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.maximum(logits, 0) + shared, jnp.maximum(-logits, 0) + shared


@_softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    gain, cost = _softplus(*primals)
    return (gain, cost), (jnp.exp(-cost) * tangents[0], -jnp.exp(-gain) * tangents[0])


@shaped()
def focal(
    logits: Float[Array, "batch n_labels"],
    labels: Real[Array, "batch n_labels"],
    gamma: float | Array,
    pos_weight: Float[Array, " n_labels"],
) -> Float[Array, "batch n_labels"]:
    """Return (1 - p_t)^gamma times the binary cross-entropy, p_t the probability of the true value (Lin et al. 2017).

    1 - p_t enters as exp(-softplus(l)) of a positive, and exp(-softplus(-l)) of a negative, which keeps value and
    gradient finite where p_t rounds to 1. At l = 0 and gamma = 2 the loss is log(2) / 4 = 0.1733: a stall there is a
    model that says nothing, not one that has learned.
    """
    gain, cost = _softplus(logits)
    positive = pos_weight[None, :] * labels * jnp.exp(-gamma * gain) * cost
    return positive + (1 - labels) * jnp.exp(-gamma * cost) * gain


@shaped()
def asymmetric(
    logits: Float[Array, "batch n_labels"],
    labels: Real[Array, "batch n_labels"],
    gamma_pos: float | Array,
    gamma_neg: float | Array,
    clip: float | Array,
    pos_weight: Float[Array, " n_labels"],
) -> Float[Array, "batch n_labels"]:
    """Return -w y (1 - p)^gamma_pos log(p) - (1 - y) q^gamma_neg log(1 - q), q = max(p - clip, 0), p = sigmoid(l).

    Negatives below the probability `clip` cost nothing, and easy ones little: for labels that most examples lack.
    Source: Ridnik et al. 2021, "Asymmetric loss for multi-label classification", equations 4 to 7.
    """
    gain, cost = _softplus(logits)
    positive = pos_weight[None, :] * labels * jnp.exp(-gamma_pos * gain) * cost
    shifted = jax.nn.sigmoid(logits) - clip
    # Both branches of a `where` are differentiated: where the shifted probability is negative, neither may see it.
    counts = shifted > 0
    safe = jnp.where(counts, shifted, jnp.full_like(shifted, 0.5))
    # log(1 - q): without a clip it is -softplus(l), which is exact in the tail where 1 - q rounds to 0.
    unclipped = jnp.asarray(clip) == 0
    log_rest = jnp.where(unclipped, -gain, jnp.log1p(-jnp.where(unclipped, jnp.full_like(safe, 0.5), safe)))
    negative = jnp.where(counts, -(safe**gamma_neg) * log_rest, jnp.zeros_like(shifted))
    return positive + (1 - labels) * negative


@shaped()
def softmax_cross_entropy(
    logits: Float[Array, "batch n_labels"], labels: Real[Array, "batch n_labels"]
) -> Float[Array, " batch"]:
    """Return -sum_k y_k log softmax(l)_k of each example (batch,); rows of `labels` are distributions over the
    classes.
    """
    return -jnp.sum(labels * jax.nn.log_softmax(logits, axis=1), axis=1)


@shaped()
def pairwise_logistic(
    logits: Float[Array, "batch n_labels"],
    labels: Real[Array, "batch n_labels"],
    weights: Float[Array, " batch"],
) -> tuple[Float[Array, " n_labels"], Float[Array, " n_labels"]]:
    """Return, a label, the mean of log(1 + exp(l_j - l_i)) over all pairs of a positive i and a negative j, and whether
    there is a pair (1 or 0; the mean is 0 where there is none).

    A pair weighs w_i w_j. The mean bounds log(2) (1 - ROC-AUC) of the batch from above and is consistent with it (Gao
    and Zhou 2015). It depends on differences alone: the bias of a label has no gradient, and its logits no zero.
    """
    margin = logits[:, None, :] - logits[None, :, :]  # (positive, negative, n_labels)
    positive, negative = weights[:, None] * labels, weights[:, None] * (1 - labels)
    pairs = positive[:, None, :] * negative[None, :, :]
    total = jnp.sum(pairs, axis=(0, 1))
    present = total > 0
    mean = jnp.sum(pairs * jax.nn.softplus(-margin), axis=(0, 1)) / jnp.where(present, total, jnp.ones_like(total))
    return mean, present.astype(logits.dtype)
