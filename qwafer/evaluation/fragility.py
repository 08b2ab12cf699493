"""How much a tuned F1 depends on the luck of the validation split that tuned its threshold."""

import numpy as np
from numpy.typing import ArrayLike

from qwafer.evaluation.metrics import Floats

FRAGILE_F1 = 0.1
"""A spread of F1 (5th to 95th percentile over tuned thresholds) above this is fragile."""


def f1_over_thresholds(
    val_logits: ArrayLike, val_labels: ArrayLike, logits: ArrayLike, labels: ArrayLike, *, n_resamples: int, seed: int
) -> Floats:
    """Return the F1 (n_resamples, K) on `logits`, `labels` (N, K) at thresholds of bootstrap resamples of validation.

    The threshold of a resample is the midpoint of neighbouring validation logits (M, K) of the largest F1 there. NaN
    for a label of one class, and for logits that are constant or not finite.
    """
    tuned, truth = np.asarray(val_logits, np.float64), np.asarray(val_labels) > 0
    scores, targets = np.asarray(logits, np.float64), np.asarray(labels) > 0
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(tuned), np.full(len(tuned), 1 / len(tuned)), size=n_resamples)  # (n_resamples, M)
    found = np.full((n_resamples, tuned.shape[1]), np.nan)
    for k in range(tuned.shape[1]):
        order = np.argsort(tuned[:, k])[::-1]
        ranked, drawn = tuned[order, k], counts[:, order]
        places = np.flatnonzero(np.diff(ranked) < 0)  # cuts between neighbouring distinct logits
        if not len(places) or not truth[:, k].any() or not targets[:, k].any() or not np.isfinite(ranked).all():
            continue
        hits = np.cumsum(drawn * truth[order, k], axis=1)
        f1 = 2 * hits / np.maximum(np.cumsum(drawn, axis=1) + hits[:, -1:], 1)
        best = places[f1[:, places].argmax(axis=1)]
        cuts = (ranked[best] + ranked[best + 1]) / 2
        every, own = np.sort(scores[:, k]), np.sort(scores[targets[:, k], k])
        above, right = (len(part) - np.searchsorted(part, cuts, side="right") for part in (every, own))
        found[:, k] = 2 * right / (above + len(own))
    return found
