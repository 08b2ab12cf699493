"""Metrics of exclusive classes: one of K applies, p = softmax(l), the prediction is the class of the largest logit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array
from qwafer._errors import InputError
from qwafer.evaluation import metrics
from qwafer.evaluation.metrics import Floats


def softmax(logits: ArrayLike) -> Floats:
    """Return e^l_k / sum_j e^l_j over the last axis, without overflow; (N, K) to (N, K)."""
    values = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which is what they mean
        weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def probabilities(logits: ArrayLike, *, exclusive: bool) -> Floats:
    """Return softmax(l) of exclusive classes, else sigmoid(l), each label on its own; (N, K) to (N, K)."""
    return softmax(logits) if exclusive else metrics.sigmoid(logits)


def decide(logits: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Return (N, K) what is decided: logits above each label's threshold; without thresholds the largest alone."""
    if thresholds:
        return np.asarray(logits > np.asarray(thresholds)[None])
    return np.asarray(np.arange(logits.shape[1])[None] == logits.argmax(axis=1)[:, None])


def one_vs_rest_logits(logits: ArrayLike) -> Floats:
    """Return log(p_k / (1 - p_k)) with p = softmax(l): the logits whose sigmoids are the class probabilities; (N, K) to
    (N, K).

    With them every binary metric applies to a class against the rest. One class alone has p = 1 and the logit +inf.
    """
    values = np.asarray(logits, np.float64)
    if not np.isfinite(values).all():
        return np.where(
            np.isfinite(values).all(axis=-1, keepdims=True), one_vs_rest_logits(np.nan_to_num(values)), np.nan
        )
    if values.shape[-1] == 1:
        return np.full(values.shape, np.inf)
    top = values.argmax(axis=-1, keepdims=True)
    shifted = values - np.take_along_axis(values, top, axis=-1)  # at most 0, and 0 for the largest
    weights = np.exp(shifted)
    logits_out = shifted - np.log(np.maximum(weights.sum(axis=-1, keepdims=True) - weights, 1))
    # For the largest class the sum of the others may underflow; it is taken relative to the second largest.
    others = shifted.copy()
    np.put_along_axis(others, top, -np.inf, axis=-1)
    second = others.max(axis=-1, keepdims=True)
    rest = second + np.log(np.exp(others - second).sum(axis=-1, keepdims=True))
    np.put_along_axis(logits_out, top, -rest, axis=-1)
    return logits_out


def class_indices(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the class of each of N examples from indices (N,) or one-hot rows (N, K); `shape` is (N, K), that of the
    logits. Raises InputError on anything else, and for no example.
    """
    array = real_array("labels", labels)
    n, n_classes = shape
    if array.ndim == 1 and array.dtype.kind in "iu" and array.shape == (n,) and n:
        if not 0 <= array.min() <= array.max() < n_classes:
            raise InputError(f"`labels` must be class indices from 0 to {n_classes - 1}")
        return array.astype(np.int64)
    if array.shape != shape or not n or not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
        raise InputError(
            f"`labels` of exclusive classes must be one-hot rows of shape {shape}, or {n} class indices from 0 to "
            f"{n_classes - 1}, got {array.dtype} of shape {array.shape}"
        )
    return array.argmax(axis=1)


def confusion_matrix(predictions: ArrayLike, labels: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return counts (K, K): rows true, columns predicted classes; `predictions`, `labels` class indices (N,)."""
    flat = np.asarray(labels, np.int64) * n_classes + np.asarray(predictions, np.int64)
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of the examples whose largest logit (the first of equals) is that of their class; `logits` (N, K)."""
    values = np.asarray(logits)
    return float((values.argmax(axis=1) == class_indices(labels, values.shape)).mean())


def macro_f1(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean over classes of F1 of the arg-max prediction; classes without an example are left out (NaN if all are)."""
    values = np.asarray(logits)
    truth = class_indices(labels, values.shape)
    counts = confusion_matrix(values.argmax(axis=1), truth, values.shape[1])
    tp, predicted, actual = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    return metrics.nanmean(np.where(actual > 0, metrics.divide(2 * tp, predicted + actual, np.nan), np.nan))


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log softmax(l)_y in nats; `logits` (N, K), `labels` indices (N,) or one-hot (N, K)."""
    values = np.asarray(logits, np.float64)
    truth = class_indices(labels, values.shape)
    if not np.isfinite(values).all():
        return np.nan
    shifted = values - values.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, truth[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - own))


def top_label_ece(logits: ArrayLike, labels: ArrayLike, n_bins: int = metrics.ECE_BINS) -> float:
    """Expected calibration error of the confidence max_k p_k in the event that the predicted class is right.

    Bins as in `expected_calibration_error`. Source: Guo et al. 2017, equation 3.
    """
    probabilities = softmax(logits)
    right = probabilities.argmax(axis=1) == class_indices(labels, probabilities.shape)
    return float(metrics.expected_calibration_error(probabilities.max(axis=1), right, n_bins))
