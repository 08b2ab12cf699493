"""Decision thresholds per label, tuned on the validation split, with a safe fall-back where tuning means nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array
from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.evaluation import degeneracy, metrics
from qwafer.evaluation.metrics import Floats

METHODS = ("f1", "youden", "prevalence", "cost")
FALLBACK = 0.0
"""The threshold of a degenerate label: logit 0, that is p = 0.5."""


@dataclass(frozen=True)
class Thresholds:
    """One threshold per label, in logit units: an example is predicted positive if its logit exceeds it."""

    method: str
    """`f1`, `youden`, `prevalence` or `cost`."""
    values: tuple[float, ...]
    """The K thresholds; 0 for degenerate labels."""
    objective: tuple[float, ...]
    """What the method optimises, at the best threshold (also where that is not used, for its extreme rate): F1,
    Youden's J, |predicted-positive rate - prevalence|, or the mean cost per example; NaN for labels that are
    degenerate before any threshold is tried."""
    predicted_positive_rate: tuple[float, ...]
    """Fraction of the examples it was tuned on that the threshold in `values` predicts positive."""
    degenerate: tuple[bool, ...]
    """Whether the metrics of a label at its threshold cannot be trusted."""
    reasons: tuple[str, ...]
    """Why, one text per label; empty where nothing is wrong."""

    def predict(self, logits: ArrayLike) -> NDArray[np.bool_]:
        """Return the predictions (N, K) of `logits` (N, K); see `metrics.predict`."""
        return metrics.predict(real_array("logits", logits, ("N", len(self.values))), self.values)


def tune_thresholds(
    logits: ArrayLike, labels: ArrayLike, method: str = "f1", cost_matrix: ArrayLike | None = None
) -> Thresholds:
    """Return the threshold of each label that is best on `logits` (N, K) and `labels` (N, K): give the validation
    split.

    - `f1`: largest F1 = 2 tp / (2 tp + fp + fn);
    - `youden`: largest J = tp / n_pos - fp / n_neg (Youden 1950);
    - `prevalence`: predicted-positive rate nearest to the prevalence;
    - `cost`: smallest total cost under `cost_matrix` (2, 2) or (K, 2, 2), rows the true and columns the predicted
      class: [[c_tn, c_fp], [c_fn, c_tp]].

    Candidates are the midpoints between neighbouring distinct logits, so every threshold predicts at least one example
    of each kind. Of equally good ones the nearest to logit 0 is taken, of two as near the lower. A label is degenerate,
    and its threshold logit 0, if a class is absent, if its logits are constant or not finite, or if the best
    threshold's predicted-positive rate is extreme (`degeneracy.rate_reasons`): nothing is raised for it. InputError is
    for arrays of wrong shape and for unusable options.
    """
    check_choice("method", method, METHODS)
    values, truth, flat = metrics.as_columns(logits, labels, "logits")
    if flat:
        raise InputError(f"`logits` must have shape (N, K), got {np.shape(logits)}")
    costs = _check_costs(method, cost_matrix, values.shape[1])
    rows = [
        _tune_one(values[:, k], truth[:, k], method, None if costs is None else costs[k]) for k in range(len(values.T))
    ]
    thresholds, objective, reasons = zip(*rows, strict=True)
    return Thresholds(
        method=method,
        values=thresholds,
        objective=objective,
        predicted_positive_rate=tuple((values > np.asarray(thresholds)).mean(axis=0).tolist()),
        degenerate=tuple(bool(reason) for reason in reasons),
        reasons=reasons,
    )


def _tune_one(scores: Floats, labels: NDArray[np.bool_], method: str, costs: Floats | None) -> tuple[float, float, str]:
    """Return (threshold, objective, reason) of one label."""
    reasons = degeneracy.score_reasons(scores, labels)
    if reasons:
        return FALLBACK, np.nan, "; ".join(reasons)
    distinct, inverse = np.unique(scores, return_inverse=True)  # ascending
    size = len(distinct)
    positives = np.bincount(inverse[labels], minlength=size)
    everyone = np.bincount(inverse, minlength=size)
    n_pos, n = int(positives.sum()), len(scores)
    tp = n_pos - np.cumsum(positives)[:-1]  # of the cut above each distinct score but the last
    predicted = n - np.cumsum(everyone)[:-1]
    fp, fn = predicted - tp, n_pos - tp
    tn = n - n_pos - fp
    low, high = distinct[:-1], distinct[1:]
    cuts = low + (high - low) / 2
    cuts = np.where(cuts < high, cuts, low)  # neighbouring floats: the midpoint rounds up, and would exclude the upper

    if method == "f1":
        objective = 2 * tp / (predicted + n_pos)
        loss = -objective
    elif method == "youden":
        loss = -(tp * (n - n_pos) - fp * n_pos)  # integers, so that ties are exact
        objective = -loss / (n_pos * (n - n_pos))
    elif method == "prevalence":
        loss = np.abs(predicted - n_pos)
        objective = loss / n
    else:
        assert costs is not None
        objective = (costs[0, 0] * tn + costs[0, 1] * fp + costs[1, 0] * fn + costs[1, 1] * tp) / n
        loss = objective
    best = np.flatnonzero(loss == loss.min())
    pick = best[np.lexsort((cuts[best], np.abs(cuts[best])))[0]]
    extreme = degeneracy.rate_reasons(float(predicted[pick] / n), labels, f"the {method} threshold")
    return (FALLBACK if extreme else float(cuts[pick])), float(objective[pick]), "; ".join(extreme)


def _check_costs(method: str, cost_matrix: ArrayLike | None, n_labels: int) -> Floats | None:
    """Return the costs (K, 2, 2), or None for the methods that have none."""
    if method != "cost":
        if cost_matrix is not None:
            raise InputError(f"`cost_matrix` has no effect on method {method}: it belongs to `cost`")
        return None
    if cost_matrix is None:
        raise InputError("`cost_matrix` must be given with method cost: [[c_tn, c_fp], [c_fn, c_tp]]")
    costs = real_array("cost_matrix", cost_matrix).astype(np.float64)
    if costs.shape not in ((2, 2), (n_labels, 2, 2)) or not np.isfinite(costs).all():
        raise InputError(
            f"`cost_matrix` must hold finite costs of shape (2, 2) or ({n_labels}, 2, 2), got {costs.shape}"
        )
    costs = np.broadcast_to(costs, (n_labels, 2, 2))
    if not ((costs[:, 0, 1] > costs[:, 0, 0]) & (costs[:, 1, 0] > costs[:, 1, 1])).all():
        raise InputError(
            "`cost_matrix` must make an error cost more than the right decision: c_fp > c_tn and c_fn > c_tp"
        )
    return costs
