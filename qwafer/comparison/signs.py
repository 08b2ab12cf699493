"""Signs that a run's scores mean less than they seem, from what every run stores: its curves, logits and metrics."""

from collections.abc import Callable

import numpy as np

from qwafer.config import RunConfig
from qwafer.evaluation.fragility import FRAGILE_F1, f1_over_thresholds
from qwafer.evaluation.stall import StallWatch
from qwafer.training import RunResult

SIGN_SIGMAS = 4.0
"""An AUC so many standard deviations of the null below 0.5 is an inverted ranking."""
RESAMPLES = 50
"""Bootstrap resamples of validation behind a spread of F1."""


def inverted(run: RunResult) -> list[str]:
    """Return the labels whose test ROC-AUC lies four standard deviations of the null below 0.5.

    Mann-Whitney: sigma^2 = (n + 1) / (12 n_pos n_neg).
    """
    n, found = run.test.n_examples, []
    for name, auc, up in zip(run.label_names, run.test.per_class["roc_auc"], run.test.n_positive, strict=True):
        if 0 < up < n and auc < 0.5 - SIGN_SIGMAS * np.sqrt((n + 1) / (12 * up * (n - up))):
            found.append(f"{name} {auc:.3f}")
    return found


def alpha_sign(run: RunResult) -> list[str]:
    """Return how alpha lost its sign in training, if it did: it crossed zero, or ended below it."""
    path = run.curve("alpha")
    if not path.size:
        return []
    path = path.reshape(len(path), -1)
    if (np.ptp(np.sign(path), axis=0) > 0).any():
        return ["crossed zero"]
    return ["negative"] if (path[-1] < 0).any() else []


def stalled(run: RunResult) -> list[str]:
    """Return the sentence of `StallWatch` on the last evaluations of the run, if it ended in the stall.

    The level is that of the validation labels, which weigh as those of training but for chance.
    """
    objective = RunConfig.from_dict(run.config).objective
    at_zero = getattr(objective, "level_at_zero", None)
    level = None if at_zero is None or not run.labels else at_zero(run.labels["val"])
    if level is None or not run.curves:
        return []
    watch = StallWatch(getattr(objective, "focal_gamma", 0.0), level=level, patience=min(2, len(run.curves["epoch"])))
    for values in zip(*run.curves.values(), strict=True):
        watch(dict(zip(run.curves, values, strict=True)))
    return [] if watch.since is None else [f"loss at {level:.3f}"]


def constant(run: RunResult) -> list[str]:
    """Return the labels whose scores are constant or not finite on test."""
    reasons = zip(run.label_names, run.test.reasons, strict=True)
    return [name for name, reason in reasons if "scores are" in reason]


def fragile(run: RunResult) -> list[str]:
    """Return the labels whose test F1 spreads over more than 0.1 (5th to 95th percentile) with validation's luck."""
    if run.exclusive or not run.outputs:
        return []
    parts = (run.logits["val"], run.labels["val"], run.logits["test"], run.labels["test"])
    f1 = f1_over_thresholds(*parts, n_resamples=RESAMPLES, seed=run.seed)
    known = np.isfinite(f1).all(axis=0)
    low, high = np.percentile(np.where(known, f1, 0), [5, 95], axis=0)
    return [name for name, width in zip(run.label_names, high - low, strict=True) if width > FRAGILE_F1]


Sign = Callable[[RunResult], list[str]]
SIGNS: tuple[tuple[str, Sign], ...] = (
    ("the ranking is inverted (ROC-AUC far below 0.5): a negative alpha, or labels that mean the opposite", inverted),
    ("alpha lost its sign in training: logits were flipped on the way; use head.alpha_mode = softplus", alpha_sign),
    ("training ended in a stall: the loss is that of logits that are all 0, and nothing was learned", stalled),
    ("the scores are constant or not finite: they rank nothing", constant),
    ("the tuned F1 moves by more than 0.1 with the luck of the validation split: compare ranking metrics", fragile),
)
"""What each sign means, and how it is told; the gravest first."""
