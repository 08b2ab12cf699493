"""Class priors, the importance weights that restore them, and weights of rare labels."""

import numpy as np
from jaxtyping import Float, UInt8

from qwafer._checks import check_interval
from qwafer._errors import InputError


def class_prior(labels: UInt8[np.ndarray, "M n_labels"]) -> Float[np.ndarray, " n_labels"]:
    """Return pi_t of each label: the fraction of the examples (M, n_labels) that carry it."""
    if len(labels) == 0:
        raise InputError("`labels` must hold at least one example to have a prior")
    return np.asarray(labels, np.float64).mean(axis=0)


def importance_weights(pi_t: float, pi_b: float) -> tuple[float, float]:
    """Return (w_pos, w_neg) = (pi_t / pi_b, (1 - pi_t) / (1 - pi_b)) for batches of prior `pi_b` from data of prior
    `pi_t`.

    With positives and negatives drawn uniformly, the expected weighted loss of a batch is that of the data:
    pi_b w_pos E[l | y = 1] + (1 - pi_b) w_neg E[l | y = 0] = pi_t E[l | y = 1] + (1 - pi_t) E[l | y = 0].
    Their mean over a batch, pi_b w_pos + (1 - pi_b) w_neg, is one, so that the loss keeps its scale.
    """
    check_interval("pi_t", pi_t, 0, 1, open_low=True, open_high=True)
    check_interval("pi_b", pi_b, 0, 1, open_low=True, open_high=True)
    return pi_t / pi_b, (1 - pi_t) / (1 - pi_b)


def positive_weights(option: str, labels: UInt8[np.ndarray, "M n_labels"]) -> Float[np.ndarray, " n_labels"]:
    """Return the weight of positive examples of each label under `objective.pos_weight` = `option`.

    `none`: 1; `balanced`: negatives / positives of the training labels (M, n_labels), 1 for a label that has only one
    of the two; a number: that number for every label.
    """
    if option == "none":
        return np.ones(labels.shape[1])
    if option == "balanced":
        positives = np.asarray(labels, np.float64).sum(axis=0)
        negatives = len(labels) - positives
        both = (positives > 0) & (negatives > 0)
        return np.where(both, negatives, 1) / np.where(both, positives, 1)
    return np.full(labels.shape[1], float(option))
