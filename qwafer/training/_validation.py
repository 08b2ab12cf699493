"""What is measured on the validation split while training."""

import math
from typing import NamedTuple

import jax
import numpy as np

from qwafer.evaluation import roc_auc, separation
from qwafer.evaluation.exclusive import macro_f1, one_vs_rest_logits
from qwafer.evaluation.metrics import f1, nanmean
from qwafer.objective import Objective

LOSS_BLOCK = 1024


class Scores(NamedTuple):
    """Validation loss, ROC-AUC and separation (NaN where a class is absent), and macro F1 at p = 0.5."""

    loss: float
    roc_auc: float
    separation: float
    macro_f1: float
    roc_auc_per_label: list[float]

    def value(self, objective: str) -> float:
        """Return what to maximise under `training.val_objective` = `objective`."""
        return -self.loss if objective == "loss" else float(getattr(self, objective))


def validate(objective: Objective, logits: np.ndarray, labels: np.ndarray, typical: float = 0) -> Scores:
    """Return the scores of `logits` (N, n_labels) against `labels` (N, n_labels), under the natural prior.

    Exclusive classes (`Softmax`) are scored one against the rest, as in `evaluate`. `typical`: see `mean_loss`.
    """
    exclusive = objective.loss.exclusive
    scores = one_vs_rest_logits(logits) if exclusive else logits
    areas = roc_auc(scores, labels)
    return Scores(
        loss=mean_loss(objective, logits, labels, typical),
        roc_auc=nanmean(areas),
        separation=nanmean(separation(scores, labels)),
        macro_f1=macro_f1(logits, labels) if exclusive else _mean_f1(logits > 0, labels),
        roc_auc_per_label=np.asarray(areas).tolist(),
    )


def _mean_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of F1 over the labels that some example carries, as in `evaluate`; NaN where there is none."""
    return nanmean(np.where(labels.any(axis=0), f1(predictions, labels), np.nan))


def mean_loss(objective: Objective, logits: np.ndarray, labels: np.ndarray, typical: float = 0) -> float:
    """Return the objective over all examples, in blocks of at most 1,024 that each span the whole split.

    The size of a validation split differs from seed to seed, and each size would be a program of its own: blocks are
    padded to a power of two that has room for the `typical` size and a quarter more.
    """
    n_blocks = math.ceil(len(logits) / LOSS_BLOCK)
    size = min(LOSS_BLOCK, 1 << (max(len(logits), int(1.25 * typical)) - 1).bit_length())
    total = 0.0
    for block in range(n_blocks):
        part = slice(block, None, n_blocks)
        pad = size - len(logits[part])
        weights = np.pad(np.ones(len(logits[part]), logits.dtype), (0, pad))
        rows = [np.pad(array[part], ((0, pad), (0, 0))) for array in (logits, labels)]
        total += float(_loss(objective, rows[0], rows[1], weights)) * float(weights.sum())
    return total / len(logits)


@jax.jit
def _loss(objective: Objective, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    return objective(logits, labels, weights)
