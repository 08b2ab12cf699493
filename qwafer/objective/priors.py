"""Class priors, the importance weights that restore them, and weights of rare labels."""

import numpy as np
from jaxtyping import Float, UInt8

from qwafer._arrays import shaped, zero_one
from qwafer._checks import check_interval
from qwafer._errors import InputError


def class_prior(labels: UInt8[np.ndarray, "M n_labels"]) -> Float[np.ndarray, " n_labels"]:
    """Return pi_t of each label: the fraction of the examples (M, n_labels) that carry it."""
    return _positives(labels) / len(labels)


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


@shaped()
def class_importance_weights(
    pi_t: Float[np.ndarray, " n_classes"], pi_b: Float[np.ndarray, " n_classes"]
) -> Float[np.ndarray, " n_classes"]:
    """Return pi_t / pi_b: `importance_weights` of the examples of exclusive classes, from the shares `pi_t` of the
    classes in the data and `pi_b` in a batch, both of sum one.

    sum_k pi_b,k w_k E[l | class k] = sum_k pi_t,k E[l | class k], the expected loss of the data, and the mean of the
    weights over a batch, sum_k pi_b,k w_k, is one. Raises InputError for shares that are not positive or of another
    sum.
    """
    for name, shares in (("pi_t", pi_t), ("pi_b", pi_b)):
        if not (np.asarray(shares) > 0).all() or abs(float(np.sum(shares)) - 1) > 1e-6:
            raise InputError(f"`{name}` must be positive shares of sum one, got {np.asarray(shares).tolist()}")
    return np.asarray(pi_t, np.float64) / np.asarray(pi_b, np.float64)


@shaped()
def effective_number(counts: Float[np.ndarray, " n"], beta: float) -> Float[np.ndarray, " n"]:
    """Return (1 - beta^n) / (1 - beta) of n = `counts` examples: n for few, at most 1 / (1 - beta) for many.

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", equation 2.
    """
    # expm1 keeps the digits that 1 - beta^n loses for small n.
    return -np.expm1(np.asarray(counts, np.float64) * np.log(beta)) / (1 - beta)


def positive_weights(
    option: str | None, labels: UInt8[np.ndarray, "M n_labels"], beta: float = 0.999
) -> Float[np.ndarray, " n_labels"]:
    """Return the weight of positive examples of each label under `objective.pos_weight` = `option`.

    None: 1; `balanced`: negatives / positives of the training labels (M, n_labels), 1 for a label that has only one
    of the two; `effective`: the same of effective numbers; numbers: one for every label, or one per label.
    """
    positives = _positives(labels)
    numbers = _numbers("pos_weight", option, len(positives))
    if numbers is not None:
        return numbers
    negatives = len(labels) - positives
    both = (positives > 0) & (negatives > 0)
    if option == "effective":
        positives, negatives = effective_number(positives, beta), effective_number(negatives, beta)
    return np.where(both, negatives, 1) / np.where(both, positives, 1)


def class_weights(
    option: str | None, labels: UInt8[np.ndarray, "M n_labels"], beta: float = 0.999
) -> Float[np.ndarray, " n_labels"]:
    """Return the weight of each label's term under `objective.class_weights` = `option`; see `example_weights`.

    `balanced` and `effective` have mean one over the labels.
    """
    weights = _rarity(option, labels, beta)
    return weights if _is_given(option) else weights / weights.mean()


def example_weights(
    option: str | None, labels: UInt8[np.ndarray, "M n_classes"], beta: float = 0.999
) -> Float[np.ndarray, " n_classes"]:
    """Return the weight of the examples of each exclusive class under `objective.class_weights` = `option`.

    None: 1; `balanced`: inverse to the class's examples among the training labels (M, n_classes); `effective`:
    inverse to their effective number; both with mean one over the training examples, so that `balanced` is M /
    (n_classes n_k) as in scikit-learn. A class without an example weighs as if it had one. Numbers: one for all, or
    one per class, as they are.
    """
    weights = _rarity(option, labels, beta)
    if _is_given(option):
        return weights
    counts = _positives(labels)
    if not counts.any():
        raise InputError("`labels` must hold an example of at least one class")
    return weights * counts.sum() / (weights * counts).sum()


def _positives(labels: np.ndarray) -> np.ndarray:
    """Return the examples (n_labels,) of each label; raise InputError unless `labels` are (M, n_labels) of 0 and 1."""
    columns = zero_one("labels", labels, ("M", "n_labels"))
    if 0 in columns.shape:
        raise InputError(f"`labels` must hold at least one example of at least one label, got shape {columns.shape}")
    return columns.sum(axis=0, dtype=np.float64)


def _rarity(option: str | None, labels: np.ndarray, beta: float) -> np.ndarray:
    counts = np.maximum(_positives(labels), 1)
    numbers = _numbers("class_weights", option, len(counts))
    if numbers is not None:
        return numbers
    return 1 / (effective_number(counts, beta) if option == "effective" else counts)


def _is_given(option: str | None) -> bool:
    return option not in ("balanced", "effective")


def _numbers(name: str, option: str | None, n_labels: int) -> np.ndarray | None:
    """Return the numbers that `option` gives, one per label; None where the training labels decide."""
    if not _is_given(option):
        return None
    values = [1.0] if option is None else [float(part) for part in option.split(",")]
    if len(values) not in (1, n_labels):
        raise InputError(
            f"`objective.{name}` must hold one number, or one for each of {n_labels} labels, got {len(values)}"
        )
    return np.broadcast_to(np.asarray(values, np.float64), (n_labels,)).copy()
