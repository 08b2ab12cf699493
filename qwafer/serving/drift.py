"""Whether answers have moved away from validation, and what chance alone would do at this number of wafers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer.comparison import holm
from qwafer.serving.evidence import Evidence, design_effect
from qwafer.serving.review import NONE
from qwafer.serving.reviewed import Reviewed, reviewed_accuracy
from qwafer.serving.store import Window

MODERATE, SIGNIFICANT = 0.1, 0.25
"""PSI from which a drift is moderate, and significant (references/001), where it is beyond chance."""
LEVEL = 0.01
"""Probability of any false alarm of drift in a window in which nothing has moved."""
DRAWS = 10_000
FEWEST, FEWEST_OF_CLASS = 30, 10
"""Answers below which nothing is said of drift; reviewed wafers of a label below which nothing is said of its F1."""
SLOW, TOO_SLOW = 45.0, 50.0
"""99th percentile of latency, milliseconds: a warning, and critical."""
ACCURACY, FLAGGED, CLASS_F1 = 0.90, 0.25, 0.70
"""Alerts: reviewed accuracy below, share flagged above, F1 of a class below."""
COMMON = 20
"""Predictions that are counted by themselves; the rarer ones are one class."""


@dataclass(frozen=True)
class DriftTest:
    """One statistic of a window against validation."""

    name: str
    """`predictions` (PSI), `confidence` or `distance` (largest gap of the distribution functions)."""
    value: float
    """The statistic."""
    by_chance: float
    """What it exceeds in one of 20 windows of this size in which nothing has moved."""
    p: float
    """Probability of as large a value by chance."""
    p_holm: float
    """The same, adjusted for the three tests (Holm)."""
    n_effective: float
    """Independent wafers that the answers are worth at least: wafers of one lot are alike; see `lot_effect`."""


@dataclass(frozen=True)
class Alert:
    """Something that somebody is to look at."""

    severity: str
    """`critical` or `warning`."""
    sentence: str
    """What it is."""


@dataclass(frozen=True)
class Monitoring:
    """A window of answers of one version against its evidence."""

    SCHEMA: ClassVar[str] = "qwafer/monitoring/1"

    version: str
    """The version."""
    since: float
    """Begin of the window, seconds since 1970."""
    until: float
    """Its end."""
    n: int
    """Answers."""
    n_lots: int
    """Lots that they name; 0: none, and wafers are taken for independent, which they may not be."""
    tests: tuple[DriftTest, ...]
    """Empty with fewer than `FEWEST` answers."""
    shares: dict[str, tuple[float, float]]
    """By prediction, its share here and on validation."""
    flagged: float
    """Share flagged for review."""
    latency: dict[str, float]
    """`p50`, `p90` and `p99` in milliseconds."""
    accuracy: Reviewed
    """From reviews, over all answers."""
    class_f1: dict[str, tuple[float, float, float]]
    """By label, F1 over all answers from reviews, and its 95% interval; labels with fewer than ten reviewed
    wafers are left out, and all are where too few answers of either stratum have been reviewed; see `class_f1`.
    """
    alerts: tuple[Alert, ...]
    """The gravest first."""


def monitor(
    window: Window, evidence: Evidence, version: str, *, since: float, until: float, seed: int = 0
) -> Monitoring:
    """Return what a window of answers says, of those that `version` gave.

    Raises InputError where there are none.
    """
    own = window.take(window.versions == version)
    if not len(own):
        raise InputError(f"version {version} has given no answers in this time: look at more of it (--days, --until)")
    known = own.lots != ""
    alone = np.array([f"{i} of no lot" for i in range(len(own))])  # a wafer whose lot is not known is one by itself
    lots = np.where(known, own.lots, alone) if known.any() else None
    tests, shares = _tests(own, lots, evidence, np.random.default_rng(seed))
    latency = {name: float(np.quantile(own.latency, q)) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    found = Monitoring(
        version=version,
        since=since,
        until=until,
        n=len(own),
        n_lots=len(np.unique(own.lots[known])),
        tests=tests,
        shares=shares,
        flagged=float(own.flagged.mean()),
        latency=latency,
        accuracy=reviewed_accuracy(own),
        class_f1=class_f1(own, evidence.label_names, seed=seed),
        alerts=(),
    )
    return Monitoring(**{**found.__dict__, "alerts": tuple(_alerts(found))})


def psi(current: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the population stability index sum_k (p_k - q_k) ln(p_k / q_k) of counts (..., K).

    Half a count is added to each class, so that an empty one has a share.
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (current, reference))
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=-1))


def psi_null(
    current: np.ndarray,
    reference: np.ndarray,
    effects: tuple[float, float] = (1.0, 1.0),
    *,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    """Return `DRAWS` values of the index where nothing has moved: both counts (K,) drawn from their common shares.

    Wafers of one lot are alike, so that N of them are worth N / effect (`design_effect`): so many are drawn.
    """
    generator = np.random.default_rng(seed)
    sizes = [
        check_positive_int("n", max(1, round(c.sum() / e))) for c, e in zip((current, reference), effects, strict=True)
    ]
    pooled = (current + reference) / (current + reference).sum()
    drawn = [generator.multinomial(n, pooled, size=DRAWS) for n in sizes]
    return psi(drawn[0], drawn[1])


def _tests(
    own: Window, lots: np.ndarray | None, evidence: Evidence, generator: np.random.Generator
) -> tuple[tuple[DriftTest, ...], dict[str, tuple[float, float]]]:
    reference = evidence.reference
    texts = own.predictions.tolist()
    names, current, before = _counts(Counter(texts), reference.predictions)
    shares = {
        name: (float(a / current.sum()), float(b / before.sum()))
        for name, a, b in zip(names, current, before, strict=True)
    }
    if len(own) < FEWEST:
        return (), shares
    effect = lot_effect(texts, lots)
    value = float(psi(current, before))
    null = psi_null(current, before, (effect, reference.design_effect), seed=generator)
    p = float((1 + (null >= value).sum()) / (1 + len(null)))
    found = [("predictions", value, float(np.quantile(null, 0.95)), p, len(own) / effect)]
    for name, values, past in (
        ("confidence", own.confidence, reference.confidence),
        ("distance", own.distance, reference.distance),
    ):
        found.append((name, *_gap(values, np.asarray(past), lots, reference.n / reference.design_effect)))
    adjusted = holm([each[3] for each in found])
    made = (DriftTest(*each[:4], p_holm, each[4]) for each, p_holm in zip(found, adjusted, strict=True))
    return tuple(made), shares


def _counts(current: Mapping[str, int], reference: Mapping[str, int]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the predictions that are counted by themselves, and the counts (K,) of both sides."""
    total = Counter(reference)
    total.update(current)
    names = sorted(name for name, _ in total.most_common(COMMON))
    pairs = [(current.get(name, 0), reference.get(name, 0)) for name in names]
    rest = [sum(side.values()) - sum(pair[k] for pair in pairs) for k, side in enumerate((current, reference))]
    if any(rest):
        names, pairs = [*names, "others"], [*pairs, (rest[0], rest[1])]
    columns = np.asarray(pairs, np.float64)
    return names, columns[:, 0], columns[:, 1]


def _gap(
    values: np.ndarray, past: np.ndarray, lots: np.ndarray | None, n_past: float
) -> tuple[float, float, float, float]:
    """Return the largest gap of two distribution functions, what chance exceeds once in 20 times, its p (Kolmogorov and
    Smirnov, at the effective numbers of wafers), and the effective number of `values`.
    """
    from scipy.stats import ks_2samp, kstwo

    gap = float(ks_2samp(values, past, method="asymp").statistic)
    tenths = np.quantile(past, np.linspace(0.1, 0.9, 9))
    n = len(values) / lot_effect(np.searchsorted(tenths, values), lots)
    joint = max(1, round(n * n_past / (n + n_past)))
    return gap, float(kstwo.isf(0.05, joint)), float(kstwo.sf(gap, joint)), n


def lot_effect(codes: Any, lots: np.ndarray | None) -> float:
    """Return an upper limit of `design_effect`, since few lots say little of how alike their wafers are.

    The estimate has L - 1 degrees of freedom: it is divided by the lower 5% quantile of chi^2 / (L - 1). No effect
    exceeds sum_l n_l^2 / N, that of lots whose wafers are all the same, which is taken for one lot alone.
    """
    from scipy.stats import chi2

    if lots is None:
        return 1.0
    sizes = np.unique(lots, return_counts=True)[1].astype(np.float64)
    most, free = float((sizes**2).sum() / sizes.sum()), len(sizes) - 1
    return min(most, design_effect(codes, lots) * free / float(chi2.ppf(0.05, free))) if free else most


def class_f1(window: Window, names: tuple[str, ...], *, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Return F1 of each label over all answers, from reviews, with its 95% bootstrap interval.

    A review stands for the answers of its stratum (flagged, or not) over its reviews: weighted counts in
    2 tp / (2 tp + fp + fn). Reviews are drawn again within their stratum. Nothing is told where a stratum has fewer
    than `FEWEST` reviews, and has not all: F1 of the doubtful answers is not that of all.
    """
    counted = window.counted
    if any((counted & part).sum() < min(FEWEST, part.sum()) for part in (window.flagged, ~window.flagged)):
        return {}
    weight = np.zeros(len(window))
    for part in (window.flagged, ~window.flagged):
        weight[part & counted] = part.sum() / max(1, (part & counted).sum())
    rows = np.flatnonzero(counted)
    said, true = (_sets(column[rows], names) for column in (window.predictions, window.labels))
    draws = _resampled(window.flagged[rows], np.random.default_rng(seed)) * weight[rows]
    found = {}
    for k, name in enumerate(names):
        hits, either = said[:, k] & true[:, k], said[:, k].astype(float) + true[:, k]
        if true[:, k].sum() < FEWEST_OF_CLASS:
            continue
        value = 2 * weight[rows] @ hits / max(weight[rows] @ either, 1e-12)
        spread = 2 * draws @ hits / np.maximum(draws @ either, 1e-12)
        found[name] = (float(value), float(np.quantile(spread, 0.025)), float(np.quantile(spread, 0.975)))
    return found


def _sets(texts: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return (N, K) which labels predictions name."""
    parts = [set(str(text).split(" + ")) for text in texts]
    return np.array([[name in part for name in names] for part in parts], bool).reshape(len(parts), len(names))


def _resampled(flagged: np.ndarray, generator: np.random.Generator, draws: int = 500) -> np.ndarray:
    """Return (draws, N) how often each review is drawn, within its stratum."""
    counts = np.zeros((draws, len(flagged)))
    for part in (np.flatnonzero(flagged), np.flatnonzero(~flagged)):
        if len(part):
            counts[:, part] = generator.multinomial(len(part), np.full(len(part), 1 / len(part)), size=draws)
    return counts


def _alerts(found: Monitoring) -> list[Alert]:
    alerts = []
    for test in found.tests:
        if test.p_holm > LEVEL:
            continue
        beyond = f"{test.value:.3f}, by chance at most {test.by_chance:.3f} in 19 of 20 windows (p = {test.p_holm:.2g})"
        if test.name == "predictions":
            grave = test.value > SIGNIFICANT
            size = "significant" if grave else "moderate" if test.value > MODERATE else "small"
            text = f"{size} drift of the predicted classes: PSI {beyond}"
            alerts.append(Alert("critical" if grave else "warning", text))
        else:
            alerts.append(Alert("warning", f"the distribution of {test.name} has moved: gap {beyond}"))
    p99 = found.latency["p99"]
    if p99 > SLOW:
        limit = TOO_SLOW if p99 > TOO_SLOW else SLOW
        alerts.append(
            Alert("critical" if p99 > TOO_SLOW else "warning", f"p99 latency {p99:.0f} ms is above {limit:.0f} ms")
        )
    accuracy = found.accuracy
    if accuracy.high < ACCURACY:
        alerts.append(
            Alert(
                "critical",
                f"reviewed accuracy {accuracy.estimate:.4f} (at most {accuracy.high:.4f}) is below {ACCURACY:g}",
            )
        )
    if found.flagged > FLAGGED:
        alerts.append(
            Alert("warning", f"{found.flagged:.1%} of the answers are flagged for review, above {FLAGGED:.0%}")
        )
    for name, (value, _, high) in found.class_f1.items():
        if name != NONE and high < CLASS_F1:
            alerts.append(Alert("warning", f"F1 of {name} is {value:.4f} (at most {high:.4f}), below {CLASS_F1:g}"))
    return sorted(alerts, key=lambda alert: alert.severity)
