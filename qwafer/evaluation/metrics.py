"""Metrics of binary and multi-label scores, in NumPy, over all labels at once.

Every function takes `scores` (N,) or (N, K) and `labels` (0 or 1) of the same shape, and returns a float or K numbers;
`as_columns` refuses what are not real numbers, predictions other than 0 and 1, and probabilities outside of [0, 1].
Scores rank examples; a logit l is positive evidence for the label, p = sigmoid(l), and an example is predicted positive
if l exceeds the threshold. A value that is not defined (a class is absent, a score is not finite) is NaN; nothing warns
and nothing raises on such data.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array, zero_one
from qwafer._errors import InputError

Floats = NDArray[np.float64]
Result = Any  # float for inputs (N,), (K,) float64 for inputs (N, K)

ECE_BINS = 15


class Confusion(NamedTuple):
    """Counts of true and false positives and negatives, each (K,) int64."""

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    tn: NDArray[np.int64]


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> Result:
    """Area under the ROC curve: P(score of a positive > score of a negative) + P(equal) / 2 (Mann-Whitney U over n_pos
    n_neg).

    `scores`, `labels`: (N,) or (N, K); returns a float or (K,). NaN where a class is absent or a score is not finite.
    Equal to scikit-learn's `roc_auc_score`; the numerator is counted in integers.
    """
    values, truth, flat = as_columns(scores, labels)
    return _result([ranking(s, y)[0] for s, y in zip(values.T, truth.T, strict=True)], flat)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> Result:
    """Average precision sum_t (R_t - R_(t-1)) P_t over all distinct scores t: the mean over positives of the precision
    at their score.

    `scores`, `labels`: (N,) or (N, K); returns a float or (K,). NaN where no example is positive or a score is not
    finite. Equal to scikit-learn's `average_precision_score`, which however calls it 0 where no example is positive.
    """
    values, truth, flat = as_columns(scores, labels)
    return _result([ranking(s, y)[1] for s, y in zip(values.T, truth.T, strict=True)], flat)


def ranking(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return (ROC-AUC, average precision) of one label from one sort; `scores` (N,) float64, `labels` (N,) bool."""
    positive, negative = np.sort(scores[labels]), np.sort(scores[~labels])
    n_pos, n_neg = len(positive), len(negative)
    if n_pos == 0 or not np.isfinite(scores).all():
        return np.nan, np.nan
    below = np.searchsorted(negative, positive, side="left")
    tp = n_pos - np.searchsorted(positive, positive, side="left")
    precision = float(np.mean(tp / (tp + (n_neg - below))))
    if n_neg == 0:
        return np.nan, precision
    not_above = np.searchsorted(negative, positive, side="right")
    return int(below.sum() + not_above.sum()) / (2 * n_pos * n_neg), precision


def separation(logits: ArrayLike, labels: ArrayLike) -> Result:
    """Separation of the classes in logit units, mean(l | y = 1) - mean(l | y = 0); (N,) or (N, K) to a float or (K,).

    NaN where a class is absent. Positive if positives score higher on average; unlike ROC-AUC it grows with the scale
    of the logits.
    """
    values, truth, flat = as_columns(logits, labels)
    n_pos = truth.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.where(truth, values, 0).sum(axis=0) / n_pos
        negative = np.where(truth, 0, values).sum(axis=0) / (len(truth) - n_pos)
        return _result(positive - negative, flat)


def bce_loss(logits: ArrayLike, labels: ArrayLike) -> Result:
    """Mean binary cross-entropy of sigmoid(l) in nats, mean(log(1 + e^l) - y l); (N,) or (N, K) to a float or (K,)."""
    values, truth, flat = as_columns(logits, labels)
    # log(1 + e^l) - y l is softplus(-l) for positives and softplus(l) for negatives.
    against = np.where(truth, -values, values)
    loss = np.maximum(against, 0) + np.log1p(np.exp(-np.abs(against)))
    return _result(loss.mean(axis=0), flat)


def brier(probabilities: ArrayLike, labels: ArrayLike) -> Result:
    """Brier score mean((p - y)^2) of the probabilities of the positive class; (N,) or (N, K) to a float or (K,)."""
    values, truth, flat = as_columns(probabilities, labels, "probabilities")
    return _result(np.square(values - truth).mean(axis=0), flat)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = ECE_BINS) -> Result:
    """Expected calibration error of the probability of the positive class, sum_b n_b / N |mean_b(y) - mean_b(p)|.

    The bins b are `n_bins` of equal width over [0, 1], closed on the right (0 belongs to the first), as in
    scikit-learn's `calibration_curve`. With several labels each has its own value, over its own bins. (N,) or (N, K) to
    a float or (K,). Finite bins bias it upwards: even calibrated probabilities do not score 0.

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, section 2 (there for the confidence of the predicted
    class, which is `top_label_ece`).
    """
    values, truth, flat = as_columns(probabilities, labels, "probabilities")
    _, total, hits = calibration_bins(values, truth, n_bins)
    error = np.abs(total - hits).sum(axis=0) / len(values)
    return _result(np.where(np.isfinite(values).all(axis=0), error, np.nan), flat)


def calibration_bins(
    probabilities: Floats, labels: NDArray[np.bool_], n_bins: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return the number of examples, the sum of p and the sum of y in each bin, each (n_bins, K); inputs (N, K)."""
    n_labels = probabilities.shape[1]
    edges = np.linspace(0, 1, n_bins + 1)
    # A guess by arithmetic, off by at most one through rounding, corrected against the edges: faster than a search.
    bins = np.clip(np.nan_to_num(probabilities) * n_bins, 0, n_bins - 1).astype(np.int64)
    bins -= (bins > 0) & (probabilities <= edges[bins])
    bins += (bins < n_bins - 1) & (probabilities > edges[bins + 1])
    bins += np.arange(n_labels) * n_bins  # (N, K): one range of bins per label
    size = n_bins * n_labels
    count = np.bincount(bins.ravel(), minlength=size)
    total = np.bincount(bins.ravel(), weights=probabilities.ravel(), minlength=size)
    hits = np.bincount(bins[labels], minlength=size).astype(np.float64)
    return tuple(array.reshape(n_labels, n_bins).T for array in (count, total, hits))  # type: ignore[return-value]


def confusion(predictions: ArrayLike, labels: ArrayLike) -> Confusion:
    """Count true and false positives and negatives per label; `predictions`, `labels` (N, K) or (N,) of 0 and 1, counts
    (K,).
    """
    predicted, truth, _ = as_columns(predictions, labels, "predictions")
    hit = predicted > 0
    tp = (hit & truth).sum(axis=0)
    fp, fn = hit.sum(axis=0) - tp, truth.sum(axis=0) - tp
    return Confusion(tp, fp, fn, len(truth) - tp - fp - fn)


def precision(predictions: ArrayLike, labels: ArrayLike, zero_division: float = 0.0) -> Result:
    """Precision tp / (tp + fp); `zero_division` where none is predicted positive. (N,) or (N, K) to a float or (K,)."""
    counts = confusion(predictions, labels)
    return _result(divide(counts.tp, counts.tp + counts.fp, zero_division), np.ndim(predictions) == 1)


def recall(predictions: ArrayLike, labels: ArrayLike, zero_division: float = 0.0) -> Result:
    """Recall tp / (tp + fn); `zero_division` where no example is positive. (N,) or (N, K) to a float or (K,)."""
    counts = confusion(predictions, labels)
    return _result(divide(counts.tp, counts.tp + counts.fn, zero_division), np.ndim(predictions) == 1)


def f1(predictions: ArrayLike, labels: ArrayLike, zero_division: float = 0.0) -> Result:
    """F1 = 2 tp / (2 tp + fp + fn); `zero_division` where nothing is positive or predicted so. (N,) or (N, K) to a
    float or (K,).
    """
    counts = confusion(predictions, labels)
    total = 2 * counts.tp + counts.fp + counts.fn
    return _result(divide(2 * counts.tp, total, zero_division), np.ndim(predictions) == 1)


def balanced_accuracy(predictions: ArrayLike, labels: ArrayLike) -> Result:
    """Mean recall of positives and negatives; NaN where a class is absent. (N,) or (N, K) to a float or (K,)."""
    counts = confusion(predictions, labels)
    sensitivity = divide(counts.tp, counts.tp + counts.fn, np.nan)
    specificity = divide(counts.tn, counts.tn + counts.fp, np.nan)
    return _result((sensitivity + specificity) / 2, np.ndim(predictions) == 1)


def exact_match_ratio(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Fraction of the examples whose labels are all predicted right (subset accuracy); `predictions`, `labels` (N, K)
    or (N,).
    """
    predicted, truth, _ = as_columns(predictions, labels, "predictions")
    return float(((predicted > 0) == truth).all(axis=1).mean())


def predict(logits: ArrayLike, thresholds: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Return l > threshold; `logits` (N, K) or (N,), `thresholds` (K,) or a number, in logit units (0 is p = 0.5).

    Raises InputError for other shapes, and for NaN, which no threshold decides.
    """
    values, limits = real_array("logits", logits), real_array("thresholds", thresholds)
    if values.ndim not in (1, 2) or limits.shape not in ((), values.shape[1:]):
        raise InputError(
            "`logits` must have shape (N,) or (N, K), and `thresholds` be a number or of shape (K,), got "
            f"{values.shape} and {limits.shape}"
        )
    if np.isnan(values).any() or np.isnan(limits).any():
        raise InputError("`logits` and `thresholds` must not be NaN: nothing can be decided by them")
    return np.asarray(values.astype(np.float64) > limits)


def sigmoid(logits: ArrayLike) -> Floats:
    """Return 1 / (1 + e^-l) without overflow; any shape."""
    values = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)


def divide(numerator: ArrayLike, denominator: ArrayLike, otherwise: float) -> Floats:
    """Return numerator / denominator, and `otherwise` where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, float(otherwise)), where=bottom != 0)


def nanmean(values: ArrayLike) -> float:
    """Return the mean of the values that are not NaN; NaN, without a warning, if there are none."""
    array = np.asarray(values, np.float64)
    defined = array[~np.isnan(array)]
    return float(defined.mean()) if defined.size else np.nan


def as_columns(scores: ArrayLike, labels: ArrayLike, name: str = "scores") -> tuple[Floats, NDArray[np.bool_], bool]:
    """Return scores (N, K) float64, labels (N, K) bool, and whether the input was (N,); raises InputError on other
    input.
    """
    values, truth = real_array(name, scores), real_array("labels", labels)
    if values.ndim not in (1, 2) or values.shape != truth.shape:
        raise InputError(
            f"`{name}` and `labels` must have one shape, (N,) or (N, K), got {values.shape} and {truth.shape}"
        )
    if 0 in values.shape:
        raise InputError(f"`{name}` must hold at least one example, got shape {values.shape}")
    truth = zero_one("labels", truth)
    if name == "predictions":
        values = zero_one(name, values)
    if name == "probabilities" and ((values < 0) | (values > 1)).any():
        raise InputError("`probabilities` must lie in [0, 1]; those of logits are 1 / (1 + exp(-logits))")
    flat = values.ndim == 1
    if flat:
        values, truth = values[:, None], truth[:, None]
    return values.astype(np.float64, copy=False), truth, flat


def _result(values: ArrayLike, flat: bool) -> Result:
    array = np.asarray(values, np.float64)
    return float(array[0]) if flat else array
