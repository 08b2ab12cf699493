"""What a head's scores are worth: spread, range, sign, rank, equality with a linear function, fragile thresholds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from qwafer._arrays import real_array, shaped, zero_one
from qwafer._errors import InputError
from qwafer.comparison.signs import SIGN_SIGMAS
from qwafer.evaluation import roc_auc, tune_thresholds
from qwafer.evaluation.degeneracy import LARGEST, rate_reasons, score_reasons
from qwafer.evaluation.fragility import FRAGILE_F1
from qwafer.evaluation.metrics import f1
from qwafer.probes.circuit.linear import effective_rank, numerical_rank
from qwafer.probes.report import Report, Verdict

LEAST_RANGE = 0.02
"""Of the readout's range of 2, at least this share must be reached between the 1st and the 99th percentile."""
LINEAR_R2 = 0.999
"""A score whose variance an affine function of the features explains to this degree is that function."""
NOT_FINITE = "some of the numbers are not finite, or overflow when squared; see `score spread`"
"""Why most of these questions cannot be asked."""


@shaped(finite=False)
def score_spread(
    logits: Float[np.ndarray, "N K"],
    labels: Float[np.ndarray, "N K"],
    thresholds: Sequence[float] | None = None,
    label_names: Sequence[str] = (),
    *,
    exclusive: bool = False,
) -> Report:
    """Report whether the scores are constant, not finite, or predict (almost) everything or nothing positive.

    Constant or non-finite scores fail; an extreme predicted-positive rate at `thresholds` (logit units; 0 by default)
    warns: ranking metrics stay valid, thresholded ones do not. Of `exclusive` classes the largest logit is predicted. A
    single example is skipped: its scores cannot differ.
    """
    logits, labels = logits.astype(np.float64), zero_one("labels", labels)
    title, question = "score spread", "Do the scores differ, and are some examples predicted positive and some not?"
    if len(logits) < 2:
        return Report(title, question, "skip", f"{len(logits)} held-out example is too few to tell")
    names = _names(label_names, logits.shape[1])
    cuts = np.zeros(logits.shape[1])
    if thresholds is not None:
        cuts = real_array("thresholds", thresholds, cuts.shape, finite=True).astype(np.float64)
    if exclusive:
        predicted, rule = logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1]), "the largest logit"
    else:
        predicted, rule = logits > cuts, "its threshold"
    collapsed, extreme, rows = [], [], {}
    for k, name in enumerate(names):
        reasons = [reason for reason in score_reasons(logits[:, k], labels[:, k]) if reason.startswith("scores")]
        rate = float(np.mean(predicted[:, k]))
        if reasons:
            collapsed.append(f"{name}: {reasons[0]}")
        elif rate_reasons(rate, labels[:, k], rule):
            extreme.append(f"{name}: {rate:.2%} predicted positive, {labels[:, k].mean():.2%} are")
        finite = logits[np.abs(logits[:, k]) <= LARGEST, k]
        rows[name] = {
            "std": float(finite.std()) if finite.size else None,
            "range": float(np.ptp(finite)) if finite.size else None,
            "predicted_positive_rate": rate,
            "threshold": None if exclusive else float(cuts[k]),
            "degenerate": bool(reasons),
        }
    verdict: Verdict = "fail" if collapsed else "warn" if extreme else "pass"
    smallest = min((row["std"] or 0.0 for row in rows.values()), default=0.0)
    headline = "; ".join(collapsed or extreme) or f"smallest standard deviation of a logit {smallest:.3g}"
    return Report(
        name=title,
        question=question,
        verdict=verdict,
        headline=headline,
        numbers={"labels": rows},
        tolerance="fail: range at most 1e-6 of the scale, or not finite; warn: extreme rate (evaluation.degeneracy)",
        meaning="Constant scores rank nothing: AUC is 0.5 by construction and every thresholded metric is arbitrary.",
        remedy="Look at the initial angles, the projection and alpha; compare with `sensitivity` and `focal stall`.",
    )


@shaped(finite=False)
def score_range(scores: Float[np.ndarray, "N K"], *, bound: float = 1.0) -> Report:
    """Report how much of its range [-bound, bound] the readout s(x) reaches over the data.

    The reached range is from the 1st to the 99th percentile of each output. Alpha can stretch a narrow range, and so
    hides it.
    """
    name, question = "score range", "How much of its range does the readout reach over the data?"
    if not _usable(scores):
        return Report(name, question, "skip", NOT_FINITE)
    low, high = np.percentile(scores, [1, 99], axis=0)
    shares = (high - low) / (2 * bound)
    narrow = [k for k, share in enumerate(shares) if share < LEAST_RANGE]
    worst = int(np.argmin(shares))
    return Report(
        name=name,
        question=question,
        verdict="warn" if narrow else "pass",
        headline=f"output {worst} reaches [{low[worst]:.3f}, {high[worst]:.3f}], {shares[worst]:.1%} of its range",
        numbers={"low": low, "high": high, "share": shares, "bound": bound},
        tolerance=f"warn: less than {LEAST_RANGE:.0%} of the range between the 1st and the 99th percentile",
        meaning="Alpha becomes a mere temperature: it amplifies differences that rounding and shots can drown.",
        remedy="Widen the angles (head.angle_scale, projection), or change the encoding or the readout.",
    )


@shaped(finite=False)
def output_rank(
    jacobian: Float[np.ndarray, "N K P"], *, n_live: int | None = None, gram: Float[np.ndarray, "G G"] | None = None
) -> Report:
    """Report the rank and condition of the output Jacobian over the data and of the Gram matrix.

    `jacobian` is d s / d w at the data; its rank is the number of directions in which a step changes the scores, at
    most `n_live`, the number of live parameters. `gram`: fidelities |<psi(x)|psi(x')>|^2; rank 1 means that the
    encoding maps all examples to one state. Rank at most 1, with more than one live parameter, fails.
    """
    name, question = "output rank", "In how many directions can a training step change the scores?"
    if not _usable(jacobian, *(() if gram is None else (gram,))):
        return Report(name, question, "skip", NOT_FINITE)
    flat = jacobian.astype(np.float64).reshape(-1, jacobian.shape[-1])
    rank, condition, singular = numerical_rank(flat)
    live = int((np.abs(flat).max(axis=0, initial=0.0) > 1e-9).sum()) if n_live is None else n_live
    possible = min(live, len(flat))
    numbers: dict[str, Any] = {
        "rank": rank,
        "live_parameters": live,
        "condition": condition,
        "effective_rank": effective_rank(singular),
        "singular_values": singular,
    }
    faults = []
    if rank <= 1 < possible:
        faults.append(f"the output Jacobian has rank {rank} with {live} live parameters")
    headline = f"rank {rank} of {live} live parameters, effective rank {numbers['effective_rank']:.1f}"
    if gram is not None:
        gram_rank, gram_condition, gram_singular = numerical_rank(gram)
        numbers |= {
            "gram_rank": gram_rank,
            "gram_condition": gram_condition,
            "gram_effective_rank": effective_rank(np.sqrt(gram_singular)),
        }
        headline += f"; Gram matrix rank {gram_rank} of {len(gram)}"
        if gram_rank <= 1 < len(gram):
            faults.append("all examples are encoded into one state (Gram matrix of rank 1)")
    return Report(
        name=name,
        question=question,
        verdict="fail" if faults else "pass",
        headline="; ".join(faults) or headline,
        numbers=numbers,
        tolerance="fail: rank at most 1; singular values below 1e-6 of the largest count as zero",
        meaning=(
            "Every step moves all scores along one line: the circuit cannot tell examples apart, however long it "
            "trains."
        ),
        remedy="Check the encoding, the angle range and the depth; use a readout with more outputs.",
    )


@shaped(finite=False)
def linear_equality(
    scores: Float[np.ndarray, "N K"],
    features: Float[np.ndarray, "N D"],
    fit_scores: Float[np.ndarray, "M K"],
    fit_features: Float[np.ndarray, "M D"],
) -> Report:
    """Report whether the scores are an affine function of the features: R^2 of the best one, the linear null.

    Least squares on `fit_scores` and `fit_features` (the training split), R^2 on `scores` and `features` (held out).
    A score that is affine in its features could have been a linear head's.
    """
    name, question = "linear null equality", "Are the scores a linear function of the features?"
    if not _usable(scores, features, fit_scores, fit_features):
        return Report(name, question, "skip", NOT_FINITE)
    fit_features = fit_features.astype(np.float64)
    mean, scale = fit_features.mean(axis=0), fit_features.std(axis=0)
    kept = scale > 0

    def design(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float64)
        return np.column_stack([(values[:, kept] - mean[kept]) / scale[kept], np.ones(len(values))])

    if len(fit_features) <= 2 * (int(kept.sum()) + 1):
        return Report(name, question, "skip", f"{len(fit_features)} examples are too few to fit {kept.sum()} features")
    weights = np.linalg.lstsq(design(fit_features), fit_scores.astype(np.float64), rcond=None)[0]
    scores = scores.astype(np.float64)
    residual = ((scores - design(features) @ weights) ** 2).sum(axis=0)
    total = ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)
    if not total.any():
        return Report(name, question, "skip", "the scores are constant; see `score spread`")
    r2 = 1 - residual / np.where(total > 0, total, np.inf)
    best = int(np.argmax(r2))
    return Report(
        name=name,
        question=question,
        verdict="warn" if r2.min() >= LINEAR_R2 else "pass",
        headline=(
            f"the best linear function of the features explains {max(r2[best], 0):.1%} of output {best}'s variance"
        ),
        numbers={"r2": r2},
        tolerance=f"warn: R^2 of every output at least {LINEAR_R2}",
        meaning="The head computes what a linear head computes: nothing in its result is due to the circuit.",
        remedy="Compare with head.name = linear; widen the angles so that the encoding is not in its linear range.",
    )


@shaped(finite=False)
def score_sign(
    logits: Float[np.ndarray, "N K"],
    labels: Float[np.ndarray, "N K"],
    alpha: Sequence[Sequence[float]] = (),
    label_names: Sequence[str] = (),
) -> Report:
    """Report whether the ranking is inverted: AUC of the scores against that of the negated ones, and alpha's path.

    `alpha` holds the alpha of each label at each evaluation. An AUC four standard deviations below 0.5 (Mann-Whitney
    null, sigma^2 = (n + 1) / (12 n_pos n_neg)) fails; an alpha that crossed zero in training, or ended below it, warns,
    and so does a label of which the examples hold one class alone: no AUC says anything of it. Scores that are not
    finite rank nothing, and fail.
    """
    labels = zero_one("labels", labels)
    names = _names(label_names, logits.shape[1])
    auc = np.atleast_1d(np.asarray(roc_auc(logits, labels), np.float64))
    n_pos = labels.sum(axis=0)
    n_neg = len(labels) - n_pos
    sigma = np.sqrt((len(labels) + 1) / (12.0 * np.maximum(n_pos * n_neg, 1)))
    inverted = [k for k in range(len(names)) if auc[k] < 0.5 - SIGN_SIGMAS * sigma[k]]
    unscored = [name for name, up, down in zip(names, n_pos, n_neg, strict=True) if not up or not down]
    path = real_array("alpha", alpha).astype(np.float64)
    if path.ndim not in (1, 2) or (path.size and path.ndim == 2 and path.shape[1] not in (1, len(names))):
        raise InputError(f"`alpha` must have one number per label, or one, at each evaluation, got {path.shape}")
    path = path.reshape(len(path), -1) if path.size else np.zeros((0, 0))
    broken = [k for k in range(path.shape[1]) if not np.isfinite(path[:, k]).all()]
    crossed = [k for k in range(path.shape[1]) if k not in broken and np.ptp(np.sign(path[:, k])) > 0]
    negative = [k for k in range(path.shape[1]) if path[-1, k] < 0]
    infinite = [name for name, values in zip(names, logits.T, strict=True) if not np.isfinite(values).all()]
    verdict: Verdict = "pass"
    low = int(np.nanargmin(auc)) if np.isfinite(auc).any() else 0
    headline = f"lowest AUC {auc[low]:.3f} ({names[low]}), negated {1 - auc[low]:.3f}"
    if path.size:
        headline += (
            f"; alpha stays {'positive' if path.min() > 0 else 'negative'} ({path[0, 0]:.2f} to {path[-1, 0]:.2f})"
        )
    if infinite:
        verdict = "fail"
        headline = f"{', '.join(infinite[:3])}: scores are not finite, so that nothing ranks them"
    elif inverted:
        k = inverted[0]
        verdict = "fail"
        sign = f", alpha ended at {path[-1, min(k, path.shape[1] - 1)]:.3g}" if path.size else ""
        headline = f"{names[k]}: ranking inverted, AUC {auc[k]:.3f} and {1 - auc[k]:.3f} when negated{sign}"
    elif broken or crossed or negative:
        k = (broken or crossed or negative)[0]
        verdict = "warn"
        what = "is not finite" if broken else "crossed zero in training" if crossed else "is negative"
        headline = f"alpha {what}: {path[0, k]:.3g} to {path[-1, k]:.3g}, AUC {auc[min(k, len(auc) - 1)]:.3f}"
    elif unscored:
        verdict = "warn"
        listed = ", ".join(unscored[:3]) + (f" and {len(unscored) - 3} more" if len(unscored) > 3 else "")
        headline = f"{listed}: one class alone among {len(labels)} held-out examples, so that nothing ranks them"
    return Report(
        name="score sign",
        question="Do positives score higher than negatives, and did alpha keep its sign?",
        verdict=verdict,
        headline=headline,
        numbers={"roc_auc": auc, "roc_auc_negated": 1 - auc, "sigma": sigma, "alpha": path, "unscored": unscored},
        tolerance=f"fail: AUC below 0.5 - {SIGN_SIGMAS:.0f} sigma; warn: alpha crosses zero or is negative, or a label "
        "has one class alone",
        meaning="A negative alpha flips every logit: the ranking is inverted while the loss may still look reasonable.",
        remedy="Use head.alpha_mode = softplus (alpha > 0), or freeze alpha; check the labels' meaning.",
    )


def threshold_fragility(
    val: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    label_names: Sequence[str] = (),
    *,
    n_resamples: int = 100,
    seed: int = 0,
) -> Report:
    """Report how much test F1 depends on the luck of the validation split that tuned the threshold.

    `val` and `test` hold `logits` (N, K) and `labels` (N, K). Thresholds are tuned on bootstrap resamples of the
    validation split; the spread is from the 5th to the 95th percentile of the test F1 at them.
    """
    title, question = (
        "threshold fragility",
        "How much does test F1 depend on the threshold that validation happened to give?",
    )
    lengths: dict[str, int] = {}
    parts = []
    for n, part in (("M", val), ("N", test)):
        parts.append(real_array("logits", part["logits"], (n, "K"), lengths))
        parts.append(zero_one("labels", real_array("labels", part["labels"], (n, "K"), lengths)))
    logits, labels, test_logits, test_labels = parts
    if 0 in lengths.values():
        raise InputError("`val` and `test` must hold at least one example each")
    if not _usable(logits, test_logits):
        return Report(title, question, "skip", NOT_FINITE)
    names = _names(label_names, logits.shape[1])
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        rows = generator.integers(0, len(logits), len(logits))
        cuts = np.asarray(tune_thresholds(logits[rows], labels[rows]).values)
        values.append(np.atleast_1d(f1(test_logits > cuts[None, :], test_labels)))
    low, high = np.percentile(values, [5, 95], axis=0)
    width = high - low
    worst = int(np.argmax(width))
    return Report(
        name=title,
        question=question,
        verdict="warn" if width[worst] > FRAGILE_F1 else "pass",
        headline=f"{names[worst]}: test F1 {low[worst]:.3f} to {high[worst]:.3f} over resampled thresholds",
        numbers={"low": low, "high": high, "n_resamples": n_resamples},
        tolerance=f"warn: 5th to 95th percentile wider than {FRAGILE_F1}",
        meaning="Differences of F1 smaller than this spread are differences of thresholds, not of heads.",
        remedy="Report ranking metrics (ROC-AUC, average precision), or use a larger validation split.",
    )


def _usable(*arrays: np.ndarray) -> bool:
    """Return whether all numbers are finite, and their squares, too."""
    return all(bool((np.abs(array) <= np.float64(LARGEST)).all()) for array in arrays)


def _names(label_names: Sequence[str], n_labels: int) -> list[str]:
    return list(label_names) if len(label_names) == n_labels else [f"label {k}" for k in range(n_labels)]
