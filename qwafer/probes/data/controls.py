"""Controls on the whole pipeline: labels permuted must score at chance; lots or time must score as a random split
does.
"""

import dataclasses
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from qwafer._errors import InputError
from qwafer.data import Split, make_split
from qwafer.evaluation import roc_auc
from qwafer.probes.data.probed import ProbedData, auc_error, ridge_scores
from qwafer.probes.report import Report

FALSE_ALARM = 0.001
"""Chance that labels which were permuted are taken to reach the scores, over all labels together."""
PERMUTATIONS = 100
"""Permutations of the labels, where the fit has a closed form."""
BLOCK_LABELS = 2**23
"""Entries of permuted labels that are fitted at a time: 64 MB."""
DROP = 0.02
"""A loss of ROC-AUC beyond this, and beyond two standard errors, is worth a warning."""

Fit = Callable[[ProbedData], tuple[np.ndarray, np.ndarray]]
"""Trains on the training rows; returns scores (M, K) and labels (M, K) of the test rows."""


def linear_fit(data: ProbedData) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of the test rows by ridge regression on standardised features: the linear probe."""
    train, test = data.part("train"), data.part("test")
    features = np.asarray(data.features, np.float64)
    labels = np.asarray(data.labels[train], np.float64)
    return ridge_scores(features[train], labels, features[test]), np.asarray(data.labels[test])


def label_permutation(
    data: ProbedData, fit: Fit | None = None, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Report:
    """Report whether a pipeline trained on permuted labels scores at chance, as it must.

    Labels are permuted over all rows (rows of labels stay whole), then `fit` trains and scores, `permutations` times;
    without a `fit` it is `linear_fit`, all permutations in one solve. Each AUC is z = (AUC - 1/2) / sigma standard
    deviations from chance (Mann-Whitney null); sum z / sqrt(P) over P permutations is standard normal. Where it exceeds
    the quantile 1 - 0.001 / K of that for one of K labels, labels reach the scores by another way than the features:
    fails, and with a chance of at most 0.1% where nothing is wrong.
    """
    n, k = data.labels.shape
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(permutations)]
    step = 1 if fit is not None else max(1, BLOCK_LABELS // (n * k))  # permutations at a time, side by side
    fitted = []
    for start in range(0, permutations, step):
        block = orders[start : start + step]
        permuted = np.concatenate([data.labels[order] for order in block], axis=1)
        wide = dataclasses.replace(data, labels=permuted, label_names=data.label_names if step == 1 else ())
        fitted.append((fit or linear_fit)(wide))
    scores, labels = (np.concatenate(parts, axis=1) for parts in zip(*fitted, strict=True))
    auc = np.asarray(roc_auc(np.asarray(scores, np.float64), labels), np.float64).reshape(permutations, k)
    n_pos = np.asarray(labels).sum(axis=0, dtype=np.float64).reshape(permutations, k)
    n_neg = len(labels) - n_pos
    sigma = np.sqrt((len(labels) + 1) / (12 * np.maximum(n_pos * n_neg, 1)))
    z = np.where(np.isfinite(auc), (auc - 0.5) / sigma, 0.0).sum(axis=0) / np.sqrt(permutations)
    mean = np.where(np.isfinite(auc), auc, 0.5).mean(axis=0)
    limit = NormalDist().inv_cdf(1 - FALSE_ALARM / k)
    worst = int(np.argmax(z))
    failed = z[worst] > limit
    times = "1 permutation" if permutations == 1 else f"{permutations} permutations"
    return Report(
        name="label permutation",
        question="Does the pipeline fall to chance when the labels are permuted?",
        verdict="fail" if failed else "pass",
        headline=(
            f"AUC {mean[worst]:.3f} over {times} of the labels ({data.label(worst)}, {z[worst]:+.1f} sigma)"
            + ("" if failed else ": chance")
        ),
        numbers={"roc_auc": mean, "z": z, "permutations": permutations},
        tolerance=f"fail: more than {limit:.2f} standard deviations above 0.5 (false alarms: {FALSE_ALARM:.1%})",
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
    try:
        by_origin = _resplit(data, by, seed)
    except InputError as refusal:
        return Report(name, question, "skip", f"these examples cannot be split by {by}: {refusal}")
    random_auc, random_error = _macro_auc(_resplit(data, "content", seed), fit)
    origin_auc, origin_error = _macro_auc(by_origin, fit)
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
    n_pos = np.asarray(labels).sum(axis=0)
    error = auc_error(auc, n_pos, len(labels) - n_pos)
    known = np.isfinite(auc)
    if not known.any():
        return float("nan"), float("nan")
    return float(auc[known].mean()), float(np.sqrt((error[known] ** 2).sum()) / known.sum())
