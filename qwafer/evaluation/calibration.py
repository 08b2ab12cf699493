"""Calibration of logits: temperature and Platt scaling, fitted on the validation split, and the reliability curve."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array
from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.evaluation import degeneracy, metrics
from qwafer.evaluation import exclusive as exclusive_metrics
from qwafer.evaluation.metrics import ECE_BINS, Floats

METHODS = ("temperature", "platt")
SCALE_RANGE = (1e-2, 1e2)
"""Bounds of 1/T in temperature scaling; separable data push it to the upper one."""


@dataclass(frozen=True)
class Calibration:
    """The map l -> scale * l + shift of the logits of each label."""

    method: str
    """`temperature` or `platt`."""
    exclusive: bool
    """Whether the classes are exclusive (softmax): then one scale is shared by all."""
    scale: tuple[float, ...]
    """K slopes: 1/T of temperature scaling, a of Platt's sigmoid(a l + b)."""
    shift: tuple[float, ...]
    """K offsets in logit units; 0 for temperature scaling."""
    degenerate: tuple[bool, ...]
    """Whether a label could not be fitted (then its logits stay as they are) or its scale stopped at a bound."""
    reasons: tuple[str, ...]
    """Why, one text per label; empty where nothing is wrong."""

    def apply(self, logits: ArrayLike) -> Floats:
        """Return the calibrated logits scale * l + shift; `logits` (N, K) to (N, K)."""
        return real_array("logits", logits, ("N", len(self.scale))).astype(np.float64) * np.asarray(
            self.scale
        ) + np.asarray(self.shift)


@dataclass(frozen=True)
class CalibrationScores:
    """How well probabilities are calibrated: the metrics `ece`, `brier` and `loss`."""

    per_class: dict[str, tuple[float, ...]]
    """Metric name to K values."""
    macro: dict[str, float]
    """Metric name to the mean over classes; exclusive classes add `top_label_ece`, and their `loss` is the softmax
    cross-entropy."""


@dataclass(frozen=True)
class CalibrationEffect:
    """What a calibration changes on data that it was not fitted on."""

    before: CalibrationScores
    after: CalibrationScores


@dataclass(frozen=True)
class Reliability:
    """Observed frequency against predicted probability of one label, in bins of equal width."""

    edges: tuple[float, ...]
    """The B + 1 edges of the bins; a bin is closed on the right."""
    count: tuple[int, ...]
    """Examples in each bin."""
    predicted: tuple[float, ...]
    """Mean predicted probability in each bin; NaN in empty ones."""
    observed: tuple[float, ...]
    """Fraction of positives in each bin; NaN in empty ones."""

    def interval(self) -> tuple[Floats, Floats]:
        """Return the ends (B,) of the 95% interval of the observed frequency in each bin; NaN in empty ones.

        Wilson's score interval of n examples with frequency f: (f + z^2 / 2n +- z sqrt(f (1 - f) / n + z^2 / 4n^2)) /
        (1 + z^2 / n), z = 1.96. Wilson 1927, Journal of the American Statistical Association 22, 209-212.
        """
        n, f = np.maximum(np.asarray(self.count, np.float64), 1.0), np.asarray(self.observed, np.float64)
        z = 1.959963984540054
        half = z * np.sqrt(f * (1 - f) / n + (z / (2 * n)) ** 2)
        centre, scale = f + z**2 / (2 * n), 1 + z**2 / n
        return (centre - half) / scale, (centre + half) / scale

    @property
    def ece(self) -> float:
        """The expected calibration error sum_b n_b / N |observed_b - predicted_b|."""
        count = np.asarray(self.count)
        gap = np.abs(np.asarray(self.observed) - np.asarray(self.predicted))
        return float(np.where(count > 0, count * gap, 0).sum() / count.sum())


def fit_calibration(
    logits: ArrayLike, labels: ArrayLike, method: str = "temperature", exclusive: bool = False
) -> Calibration:
    """Fit the calibration of `logits` (N, K) on `labels` (N, K): give the validation split.

    - `temperature` minimises the cross-entropy of sigmoid(l / T) over T, label by label; with `exclusive` that of
      softmax(l / T) over one T (Guo et al. 2017). It never changes a ranking.
    - `platt` minimises the cross-entropy of sigmoid(a l + b) over a and b, with Platt's targets
      (n_pos + 1) / (n_pos + 2) and 1 / (n_neg + 2) in place of 1 and 0, which keep separable data finite (Platt 1999;
      Lin, Lin and Weng 2007).

    Labels with a class absent or with constant or non-finite logits keep their logits and are marked; nothing is raised
    for them.
    """
    check_choice("method", method, METHODS)
    values = real_array("logits", logits, ("N", "K")).astype(np.float64)
    n_labels = values.shape[1]
    if exclusive:
        if method != "temperature":
            raise InputError(
                "`method` must be temperature for exclusive classes: Platt scaling is defined for two classes"
            )
        scale, reason = _fit_softmax(values, exclusive_metrics.class_indices(labels, values.shape))
        return Calibration(
            method, True, (scale,) * n_labels, (0.0,) * n_labels, (bool(reason),) * n_labels, (reason,) * n_labels
        )
    values, truth, _ = metrics.as_columns(values, labels, "logits")
    fit = _fit_temperature if method == "temperature" else _fit_platt
    rows = []
    for scores, y in zip(values.T, truth.T, strict=True):
        reasons = degeneracy.score_reasons(scores, y)
        rows.append((1.0, 0.0, "; ".join(reasons)) if reasons else fit(scores, y))
    scales, shifts, texts = zip(*rows, strict=True)
    return Calibration(method, False, scales, shifts, tuple(bool(text) for text in texts), texts)


def reliability_curve(probabilities: ArrayLike, labels: ArrayLike, n_bins: int = ECE_BINS) -> tuple[Reliability, ...]:
    """Return the reliability curve of each label; `probabilities`, `labels` (N, K) or (N,). Bins as in
    `expected_calibration_error`.
    """
    values, truth, _ = metrics.as_columns(probabilities, labels, "probabilities")
    count, total, hits = metrics.calibration_bins(values, truth, n_bins)
    predicted, observed = metrics.divide(total, count, np.nan), metrics.divide(hits, count, np.nan)
    edges = tuple(np.linspace(0, 1, n_bins + 1).tolist())
    return tuple(
        Reliability(edges, tuple(count[:, k].tolist()), tuple(predicted[:, k].tolist()), tuple(observed[:, k].tolist()))
        for k in range(values.shape[1])
    )


def compare_calibration(calibration: Calibration, logits: ArrayLike, labels: ArrayLike) -> CalibrationEffect:
    """Return ECE, Brier score and loss before and after `calibration`, on data that it was not fitted on.

    `logits` (N, K), `labels` (N, K), or (N,) indices of exclusive classes.
    """
    values = real_array("logits", logits, ("N", len(calibration.scale))).astype(np.float64)
    return CalibrationEffect(
        before=_calibration_scores(values, labels, calibration.exclusive),
        after=_calibration_scores(calibration.apply(values), labels, calibration.exclusive),
    )


def _calibration_scores(logits: Floats, labels: ArrayLike, exclusive: bool) -> CalibrationScores:
    truth: ArrayLike = labels
    scores = logits
    if exclusive:
        classes = exclusive_metrics.class_indices(labels, logits.shape)
        truth, scores = np.eye(logits.shape[1], dtype=bool)[classes], exclusive_metrics.one_vs_rest_logits(logits)
    probabilities = metrics.sigmoid(scores)
    per_class = {
        "ece": metrics.expected_calibration_error(probabilities, truth),
        "brier": metrics.brier(probabilities, truth),
        "loss": metrics.bce_loss(scores, truth),
    }
    macro = {name: float(value.mean()) for name, value in per_class.items()}
    if exclusive:
        macro["loss"] = exclusive_metrics.cross_entropy(logits, classes)
        macro["top_label_ece"] = exclusive_metrics.top_label_ece(logits, classes)
    return CalibrationScores({name: tuple(value.tolist()) for name, value in per_class.items()}, macro)


def _fit_temperature(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float, str]:
    """Return (1/T, 0, reason): the root of the derivative of the convex loss in 1/T."""

    def derivative(scale: float) -> tuple[float, float]:
        p = metrics.sigmoid(scale * scores)
        return float(np.mean((p - labels) * scores)), float(np.mean(p * (1 - p) * scores**2))

    scale, reason = _root(derivative)
    return scale, 0.0, reason


def _fit_softmax(logits: Floats, classes: NDArray[np.int64]) -> tuple[float, str]:
    """Return (1/T, reason) of exclusive classes."""
    if not np.isfinite(logits).all():
        return 1.0, "scores are not finite"
    if np.abs(logits).max() > degeneracy.LARGEST:
        return 1.0, f"scores are beyond {degeneracy.LARGEST:g}"
    if len(np.unique(classes)) < 2:
        return 1.0, "one class only"
    if np.ptp(logits, axis=1).max() <= degeneracy.CONSTANT_RANGE:
        return 1.0, "scores are constant"
    own = np.take_along_axis(logits, classes[:, None], axis=1)[:, 0]

    def derivative(scale: float) -> tuple[float, float]:
        p = exclusive_metrics.softmax(scale * logits)
        mean = (p * logits).sum(axis=1)
        return float(np.mean(mean - own)), float(np.mean((p * logits**2).sum(axis=1) - mean**2))

    return _root(derivative)


def _root(derivative: Callable[[float], tuple[float, float]]) -> tuple[float, str]:
    """Return the scale in `SCALE_RANGE` where an increasing function is 0, and a reason if it stops at a bound.

    `derivative(scale)` gives the function and its own derivative. Newton's steps in log scale, held inside a bracket
    that shrinks.
    """
    low, high = (float(np.log(bound)) for bound in SCALE_RANGE)
    if derivative(SCALE_RANGE[1])[0] <= 0:
        return SCALE_RANGE[1], f"the scale 1/T stops at its upper bound {SCALE_RANGE[1]:g}: the classes are separated"
    if derivative(SCALE_RANGE[0])[0] >= 0:
        return SCALE_RANGE[
            0
        ], f"the scale 1/T stops at its lower bound {SCALE_RANGE[0]:g}: the scores do not rank the classes"
    point = 0.0
    for _ in range(200):
        value, slope = derivative(float(np.exp(point)))
        if value > 0:
            high = point
        else:
            low = point
        step = value / (slope * np.exp(point)) if slope > 0 else np.inf
        following = point - step
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - point) <= 1e-15 * max(1.0, abs(point)) or high - low <= 1e-15:
            break
        point = following
    return float(np.exp(following)), ""


def _fit_platt(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, float, str]:
    """Return (a, b, "") by Newton's method with backtracking on the convex loss (Lin, Lin and Weng 2007)."""
    n_pos = int(labels.sum())
    n_neg = len(labels) - n_pos
    target = np.where(labels, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    # Standardised scores keep the Hessian well conditioned whatever the scale of the logits.
    centre, spread = float(scores.mean()), float(scores.std())
    design = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)  # (N, 2)

    def loss(weights: Floats) -> float:
        z = design @ weights
        return float(np.mean(np.logaddexp(0, z) - target * z))

    weights = np.array([0.0, np.log((n_pos + 1) / (n_neg + 1))])
    current = loss(weights)
    for _ in range(100):
        p = metrics.sigmoid(design @ weights)
        gradient = design.T @ (p - target) / len(scores)
        if np.abs(gradient).max() < 1e-14:
            break
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(scores) + 1e-12 * np.eye(2)
        direction = np.linalg.solve(hessian, gradient)
        size = 1.0
        # Near the minimum the loss cannot tell steps apart and the full step is the best one: allow for rounding.
        while loss(weights - size * direction) > current + 1e-14 * (1 + current):
            size /= 2
        weights = weights - size * direction
        current = loss(weights)
        if size * np.abs(direction).max() <= 1e-15 * max(1.0, float(np.abs(weights).max())):
            break
    slope = float(weights[0] / spread)
    return slope, float(weights[1] - slope * centre), ""
