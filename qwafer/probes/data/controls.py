"""Controls on the whole pipeline: labels permuted must score at chance; lots or time must score as a random split
does.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from qwafer.data import Split, make_split
from qwafer.evaluation import roc_auc
from qwafer.probes.data.probed import ProbedData
from qwafer.probes.report import Report

SIGMAS = 4.0
"""A control that scores so many standard deviations of the null above chance has failed."""
DROP = 0.02
"""A loss of ROC-AUC beyond this, and beyond two standard errors, is worth a warning."""

Fit = Callable[[ProbedData], tuple[np.ndarray, np.ndarray]]
"""Trains on the training rows; returns scores (M, K) and labels (M, K) of the test rows."""


def linear_fit(data: ProbedData, *, ridge: float = 1e-2) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of the test rows by ridge regression on standardised features: the linear probe.

    w = (X^T X + ridge M 1)^-1 X^T (y - mean y), with M training rows.
    """
    train, test = data.part("train"), data.part("test")
    features = np.asarray(data.features, np.float64)
    mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
    design = (features - mean) / np.where(scale > 0, scale, 1.0)
    targets = data.labels[train].astype(np.float64)
    gram = design[train].T @ design[train] + ridge * len(train) * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design[train].T @ (targets - targets.mean(axis=0)))
    return design[test] @ weights, np.asarray(data.labels[test])


def label_permutation(data: ProbedData, fit: Fit = linear_fit, *, seed: int = 0) -> Report:
    """Report whether a pipeline trained on permuted labels scores at chance, as it must.

    Labels are permuted over all rows (rows of labels stay whole), then `fit` trains and scores. An AUC four standard
    deviations above 0.5 (Mann-Whitney null) fails: labels reach the scores by another way than the features.
    """
    order = np.random.default_rng(seed).permutation(len(data.labels))
    scores, labels = fit(dataclasses.replace(data, labels=data.labels[order]))
    auc = np.atleast_1d(np.asarray(roc_auc(np.asarray(scores, np.float64), labels), np.float64))
    n_pos = np.asarray(labels).sum(axis=0).astype(np.float64)
    n_neg = len(labels) - n_pos
    sigma = np.sqrt((len(labels) + 1) / (12 * np.maximum(n_pos * n_neg, 1)))
    z = np.where(np.isfinite(auc), (auc - 0.5) / sigma, 0.0)
    worst = int(np.argmax(z))
    failed = z[worst] > SIGMAS
    return Report(
        name="label permutation",
        question="Does the pipeline fall to chance when the labels are permuted?",
        verdict="fail" if failed else "pass",
        headline=(
            f"AUC {auc[worst]:.3f} on permuted labels ({data.label(worst)}, {z[worst]:+.1f} sigma)"
            + ("" if failed else ": chance")
        ),
        numbers={"roc_auc": auc, "z": z},
        tolerance=f"fail: more than {SIGMAS:.0f} standard deviations above 0.5",
        meaning="Labels reach the scores by another way than through what the features say: the pipeline leaks.",
        remedy=(
            "Look for test labels in fitting, selection or standardisation, and for scores of rows that were trained "
            "on."
        ),
    )


def split_by_origin(data: ProbedData, fit: Fit = linear_fit, *, seed: int = 0) -> Report:
    """Report whether a split by lot (or by time) scores as the random one does, where the data have lots or times.

    The AUC of `fit` under `make_split(by="group")`, or `by="time"`, against `by="content"`, macro over labels; warns
    where it is more than 0.02 and two standard errors lower.
    """
    name, question = "split by origin", "Does the score survive a split by lot or by time?"
    if data.groups is None and data.times is None:
        return Report(name, question, "skip", "the data have neither lots nor times")
    by = "group" if data.groups is not None else "time"
    random_auc, random_error = _macro_auc(_resplit(data, "content", seed), fit)
    origin_auc, origin_error = _macro_auc(_resplit(data, by, seed), fit)
    drop, error = random_auc - origin_auc, float(np.hypot(random_error, origin_error))
    return Report(
        name=name,
        question=question,
        verdict="warn" if drop > max(DROP, 2 * error) else "pass",
        headline=f"AUC {random_auc:.3f} on the random split, {origin_auc:.3f} by {by} ({-drop:+.3f} +- {error:.3f})",
        numbers={"random": random_auc, "by_origin": origin_auc, "by": by, "drop": drop, "standard_error": error},
        tolerance=f"warn: a drop of more than {DROP} and two standard errors",
        meaning="Wafers of one lot resemble each other: a random split then tests on what training has all but seen.",
        remedy=f"Report results with data.split_by = {by}.",
    )


def _resplit(data: ProbedData, by: str, seed: int) -> ProbedData:
    split: Split = make_split(data.labels, data.content_ids, seed=seed, by=by, groups=data.groups, times=data.times)
    return dataclasses.replace(data, split=split)


def _macro_auc(data: ProbedData, fit: Fit) -> tuple[float, float]:
    """Return the mean AUC over labels and its standard error (Hanley and McNeil 1982)."""
    scores, labels = fit(data)
    auc = np.atleast_1d(np.asarray(roc_auc(np.asarray(scores, np.float64), labels), np.float64))
    n_pos = np.maximum(np.asarray(labels).sum(axis=0), 1)
    n_neg = np.maximum(len(labels) - n_pos, 1)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n_pos - 1) * (q1 - auc**2) + (n_neg - 1) * (q2 - auc**2)) / (n_pos * n_neg)
    known = np.isfinite(auc)
    if not known.any():
        return float("nan"), float("nan")
    return float(auc[known].mean()), float(np.sqrt(np.maximum(variance[known], 0).sum()) / known.sum())
