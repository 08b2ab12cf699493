"""Can the data be trusted? Leaks between splits, priors that drift, and features that are useless or too good."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from qwafer._arrays import real_array, row_array, whole_array, zero_one
from qwafer._errors import InputError
from qwafer.data import Split
from qwafer.data.splits import PARTS
from qwafer.probes.data.copies import find_copies
from qwafer.probes.report import Report, Verdict

COPY_LEVEL = 0.01
"""Copies of training examples in a held-out part that are so improbable at the rate within training are worth a
warning.
"""
COPY_SHARE = 0.01
"""Equal features in more than this share of a part, and beyond chance, fail."""
DECIDES_AUC = 0.9995
"""A feature whose ROC-AUC (or that of its negative) for a label reaches this decides the label."""
TELLING_AUC = 0.98
"""A feature of at least this ROC-AUC, in a direction, may tell more than it can know."""
TELLING_RATIO = 4.0
"""It does where all other features together are so many times as far from 1."""
DUPLICATE_R = 1 - 1e-7
"""Features correlated to this degree are one feature."""
DRIFT_SIGMAS = 5.0
"""Priors of two parts that differ by so many standard deviations of chance have drifted."""


@dataclass(frozen=True, eq=False)
class ProbedData:
    """What the data probes look at: examples under the task, and the part of each."""

    features: Float[np.ndarray, "N D"]
    """As a head would get them."""
    labels: UInt8[np.ndarray, "N K"]
    """0 and 1."""
    split: Split
    """Rows of each part."""
    content_ids: np.ndarray
    """(N,) equal for identical maps."""
    label_names: tuple[str, ...] = ()
    """K names; `label 0` and so on where there are none."""
    feature_names: tuple[str, ...] = ()
    """D names."""
    groups: np.ndarray | None = None
    """(N,) the lot of each example."""
    times: np.ndarray | None = None
    """(N,) numbers that order."""
    stratified: bool = True
    """Whether the split promises equal priors."""
    labelled: tuple[str, ...] = PARTS
    """Parts whose labels may be read, `train` first."""

    def __post_init__(self) -> None:
        lengths: dict[str, int] = {}
        object.__setattr__(self, "features", real_array("features", self.features, ("N", "D"), lengths))
        labels = zero_one("labels", real_array("labels", self.labels, ("N", "K"), lengths))
        object.__setattr__(self, "labels", labels.astype(np.uint8))
        if 0 in lengths.values():
            raise InputError(f"the probed data must hold an example, a feature and a label, got {lengths}")
        for name in ("content_ids", "groups", "times"):
            if getattr(self, name) is not None or name == "content_ids":
                row_array(name, getattr(self, name), len(self.features), numbers=name == "times")
        for name, length in (("label_names", lengths["K"]), ("feature_names", lengths["D"])):
            if len(getattr(self, name)) not in (0, length):
                raise InputError(f"`{name}` must be {length} names, or none, got {len(getattr(self, name))}")
        for part in PARTS:
            whole_array(f"split.{part}", getattr(self.split, part), 0, len(self.features) - 1)

    def label(self, k: int) -> str:
        """Return the name of label `k`."""
        return self.label_names[k] if self.label_names else f"label {k}"

    def feature(self, j: int) -> str:
        """Return the name of feature `j`."""
        return self.feature_names[j] if self.feature_names else f"feature {j}"

    def part(self, name: str) -> np.ndarray:
        """Return the rows of `train`, `val` or `test`."""
        return np.asarray(getattr(self.split, name))


def probe_data(data: ProbedData) -> list[Report]:
    """Return the reports of every probe of this module, in the order of the trust table."""
    return [
        leakage(data),
        prior_drift(data),
        finite_features(data),
        constant_features(data),
        duplicated_features(data),
        label_deciding_features(data),
    ]


def leakage(data: ProbedData) -> Report:
    """Report whether identical or nearly identical examples lie on both sides of a split.

    Identical: equal content ids, or one row, in two parts; fails. Copies: held-out examples whose features equal those
    of a training example, or come nearer to it than 10% of the median nearest-neighbour distance within training,
    beyond what training holds of itself; see `copies.find_copies`. They warn where their number has a chance of at most
    1%, and fail where equal features are that and more than 1% of the part.
    """
    ids = {part: np.asarray(data.content_ids)[data.part(part)] for part in PARTS}
    shared = {f"{a}/{b}": len(np.intersect1d(ids[a], ids[b])) for i, a in enumerate(PARTS) for b in PARTS[i + 1 :]}
    rows = {part: data.part(part) for part in PARTS}
    overlap = sum(len(np.intersect1d(rows[a], rows[b])) for i, a in enumerate(PARTS) for b in PARTS[i + 1 :])
    copies = find_copies(data.features, np.asarray(data.content_ids), rows.pop("train"), rows)
    excess = [copy for copy in copies if min(copy.equal_p, copy.near_p) <= COPY_LEVEL]
    many = [copy for copy in excess if copy.equal_p <= COPY_LEVEL and copy.equal > COPY_SHARE * copy.examined]
    verdict: Verdict = "pass"
    if sum(shared.values()) or overlap:
        verdict = "fail"
        headline = f"identical maps on both sides: {', '.join(f'{n} in {pair}' for pair, n in shared.items() if n)}"
    else:
        verdict = "fail" if many else "warn" if excess else "pass"
        expected = sum(copy.equal_expected + copy.near_expected for copy in excess or copies)
        listed = ", ".join(f"{copy.equal + copy.near} of {copy.examined} in {copy.part}" for copy in excess or copies)
        headline = (
            f"{'copies of training examples' if excess else 'no identical examples across the split; near copies'}: "
            f"{listed} ({expected:.2g} expected from training's own)"
        )
    return Report(
        name="leakage",
        question="Is an example, or its near copy, on both sides of the split?",
        verdict=verdict,
        headline=headline,
        numbers={
            "shared_content_ids": shared,
            "rows_in_two_parts": overlap,
            "copies": [dataclasses.asdict(copy) for copy in copies],
        },
        tolerance=(
            f"fail: any shared content id, or equal features beyond chance in more than {COPY_SHARE:.0%} of a part; "
            f"warn: copies that have a chance of at most {COPY_LEVEL:.0%} at the rate within training"
        ),
        meaning="The test score then measures memory, not generalisation.",
        remedy=(
            "Split with make_split (identical maps stay together); for near copies split by lot (data.split_by = "
            "group)."
        ),
    )


def prior_drift(data: ProbedData) -> Report:
    """Report whether the class priors differ between the parts by more than chance: two-proportion z of each label.

    Fails beyond five standard deviations where the split is stratified, warns where it is by group or time.
    """
    counts = {part: len(data.part(part)) for part in data.labelled}
    priors = {part: data.labels[data.part(part)].mean(axis=0) for part in data.labelled}
    worst: tuple[float, str, int] = (0.0, "val", 0)
    for part in data.labelled[1:]:
        total, n = counts["train"] + counts[part], np.array([counts["train"], counts[part]])
        pooled = (priors["train"] * n[0] + priors[part] * n[1]) / total
        sigma = np.sqrt(np.maximum(pooled * (1 - pooled), 1 / total) * (1 / n).sum())
        z = np.abs(priors["train"] - priors[part]) / sigma
        k = int(np.argmax(z))
        if z[k] > worst[0]:
            worst = (float(z[k]), part, k)
    z_max, part, k = worst
    drifted = z_max > DRIFT_SIGMAS
    verdict: Verdict = "pass" if not drifted else "fail" if data.stratified else "warn"
    change = f"{data.label(k)}: {priors['train'][k]:.1%} in train, {priors[part][k]:.1%} in {part} ({z_max:.1f} sigma)"
    return Report(
        name="prior drift",
        question="Are the classes as frequent in every part of the split?",
        verdict=verdict,
        headline=f"priors differ: {change}" if drifted else f"largest difference {change}",
        numbers={"priors": priors, "counts": counts, "largest_z": z_max},
        tolerance=(
            f"{'fail' if data.stratified else 'warn'}: more than {DRIFT_SIGMAS:.0f} standard deviations of chance"
        ),
        meaning="Thresholds, calibration and weighted losses tuned on one prior are wrong under another.",
        remedy="Stratify the split (data.split_by = content), or report ranking metrics and correct the prior.",
    )


def finite_features(data: ProbedData) -> Report:
    """Report features that are not finite."""
    bad = np.flatnonzero(~np.isfinite(data.features).all(axis=0))
    count = int((~np.isfinite(data.features)).sum())
    return Report(
        name="finite features",
        question="Is every feature a finite number?",
        verdict="fail" if len(bad) else "pass",
        headline=(
            f"{count} values are not finite, in {_listed(data, bad)}" if len(bad) else f"all {data.features.size} are"
        ),
        numbers={"features": bad, "values": count},
        tolerance="fail: any NaN or infinity",
        meaning="One NaN makes every score of its example, and the loss of its batch, NaN.",
        remedy="Repair the extraction; do not impute silently.",
    )


def constant_features(data: ProbedData) -> Report:
    """Report features that carry no information: stuck at a value, or constant over the training split alone.

    A column that is 0 for every example is an empty bin (a cell of a grid without a die): counted, not blamed, unless
    more than half of all columns are empty. A column stuck at any other value fails, and so does one that is constant
    in training and moves elsewhere: its weight is never trained and acts on the test split.
    """
    finite = np.isfinite(data.features).all(axis=0)
    train, everything = data.features[data.part("train")], data.features
    constant = finite & (train == train[:1]).all(axis=0)
    moves = constant & ~(everything == everything[:1]).all(axis=0)
    empty = constant & ~moves & (everything[0] == 0)
    stuck = constant & ~moves & ~empty
    faults = []
    if stuck.any():
        faults.append(f"stuck at one value: {_listed(data, np.flatnonzero(stuck))}")
    if moves.any():
        faults.append(f"constant in training only: {_listed(data, np.flatnonzero(moves))}")
    n_empty = int(empty.sum())
    verdict: Verdict = "fail" if faults else "warn" if n_empty > everything.shape[1] / 2 else "pass"
    plain = f"none of {everything.shape[1]} is stuck" + (f"; {n_empty} are empty (0 throughout)" if n_empty else "")
    return Report(
        name="constant features",
        question="Does every feature vary?",
        verdict=verdict,
        headline="; ".join(faults) or plain,
        numbers={"stuck": np.flatnonzero(stuck), "constant_in_training": np.flatnonzero(moves), "empty": n_empty},
        tolerance="fail: stuck at a value other than 0, or constant in training alone; warn: more than half are empty",
        meaning=(
            "A constant feature costs parameters and says nothing; one that wakes up on test data shifts every score."
        ),
        remedy="Drop it, or repair the extraction.",
    )


def duplicated_features(data: ProbedData) -> Report:
    """Report groups of features that are one feature: correlated (or anti-correlated) to 1 - 1e-7 over the training
    split.
    """
    finite = np.isfinite(data.features).all(axis=0)
    train = np.asarray(data.features[data.part("train")], np.float64)
    columns = np.flatnonzero(finite & (np.ptp(np.where(finite, train, 0.0), axis=0) > 0))
    centred = train[:, columns] - train[:, columns].mean(axis=0)
    centred /= np.sqrt((centred**2).sum(axis=0))
    correlation = np.abs(np.triu(centred.T @ centred, 1))
    pairs = [(int(columns[i]), int(columns[j])) for i, j in np.argwhere(correlation >= DUPLICATE_R)]
    largest = float(correlation.max(initial=0.0))
    shown = "; ".join(f"{data.feature(i)} = {data.feature(j)}" for i, j in pairs[:3])
    return Report(
        name="duplicated features",
        question="Is every feature a feature of its own?",
        verdict="fail" if pairs else "pass",
        headline=(
            f"{len(pairs)} pairs are the same: {shown}"
            if pairs
            else f"largest correlation of two features {largest:.4f}"
        ),
        numbers={"pairs": pairs, "largest_correlation": largest},
        tolerance="fail: |r| of at least 1 - 1e-7 over the training split",
        meaning="A duplicate doubles a feature's learning rate and weight, and counts as capacity that is not there.",
        remedy="Drop one of each pair; look for a join or a backbone output that was concatenated twice.",
    )


def label_deciding_features(data: ProbedData) -> Report:
    """Report single features that decide a label, or say more of it than can be believed; on training rows.

    Decide: ROC-AUC of the feature, or of its negative, at least 0.9995; fails where the task has one label, or all
    labels are decided, and warns where some of several are. Implausible: an AUC a of at least 0.98 while neither the
    second best feature nor all others together (ridge regression, each half of the training rows scored by the other)
    reach 0.98 or come within 4 (1 - a) of 1, by more than three standard errors (Hanley and McNeil 1982); warns. No
    label of WM-811K or MixedWM38 is so on spatial features.
    """
    finite = np.flatnonzero(np.isfinite(data.features).all(axis=0))
    rows = data.part("train")
    features, labels = np.asarray(data.features[rows][:, finite], np.float64), data.labels[rows]
    auc = _auc_of_each(features, labels)  # (d, K)
    strength = np.nan_to_num(np.maximum(auc, 1 - auc))
    decided: dict[int, tuple[int, float]] = {}
    implausible: dict[int, tuple[int, float, float]] = {}
    for k in range(labels.shape[1]) if len(finite) else ():
        top = int(np.argmax(strength[:, k]))
        best = float(strength[top, k])
        if best >= DECIDES_AUC:
            decided[k] = (int(finite[top]), float(auc[top, k]))
        if best < TELLING_AUC:
            continue
        others = max(_auc_of_others(np.delete(features, top, axis=1), labels[:, k]), *np.delete(strength[:, k], top), 0)
        error = auc_error(others, labels[:, k].sum(), (1 - labels[:, k]).sum())
        if others < TELLING_AUC and 1 - others > TELLING_RATIO * (1 - best) and best - others > 3 * error:
            implausible[k] = (int(finite[top]), best, others)
    verdict: Verdict = "pass" if not (decided or implausible) else "warn"
    if decided and len(decided) == labels.shape[1]:
        verdict = "fail"
    found = [f"{data.feature(j)} alone decides {data.label(k)} (AUC {a:.4f})" for k, (j, a) in decided.items()]
    found += [
        f"{data.feature(j)} says {data.label(k)} (AUC {a:.4f}), all others together do not ({rest:.3f})"
        for k, (j, a, rest) in implausible.items()
        if k not in decided
    ]
    headline = "; ".join(found)
    if not found and strength.size:
        j, k = (int(i) for i in np.unravel_index(np.argmax(strength), strength.shape))
        name = data.feature(int(finite[j]))
        headline = f"strongest single feature: {name} for {data.label(k)}, AUC {strength[j, k]:.3f}"
    return Report(
        name="label-deciding features",
        question="Does a single feature decide a label by itself?",
        verdict=verdict,
        headline=headline,
        numbers={
            "decided": {data.label(k): {"feature": data.feature(j), "roc_auc": a} for k, (j, a) in decided.items()},
            "implausible": {
                data.label(k): {"feature": data.feature(j), "roc_auc": a, "others": rest}
                for k, (j, a, rest) in implausible.items()
            },
        },
        tolerance=(
            f"AUC of one feature at least {DECIDES_AUC}: fail if every label is decided, warn if some are; warn: at "
            f"least {TELLING_AUC} where all others together have {TELLING_RATIO:.0f} times its distance from 1"
        ),
        meaning=(
            "Either the label leaked into the features, or the task is so easy that no comparison of heads means much."
        ),
        remedy="Find out how the feature is computed; compare heads on labels that no single feature decides.",
    )


def _auc_of_each(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (D, K) the ROC-AUC of each feature (N, D) for each label (N, K), by rank sums; NaN for a single class."""
    from scipy.stats import rankdata

    positive = labels.sum(axis=0, dtype=np.float64)
    negative = len(labels) - positive
    ranks = rankdata(features, axis=0).T @ labels.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ranks - positive * (positive + 1) / 2) / (positive * negative))


def _auc_of_others(features: np.ndarray, label: np.ndarray) -> float:
    """Return the ROC-AUC for `label` (N,) of ridge regression on `features`, each half scored by the other's fit."""
    if not features.shape[1]:
        return 0.5
    scores = np.empty((len(label), 1))
    halves = np.arange(0, len(label), 2), np.arange(1, len(label), 2)
    for own, other in (halves, halves[::-1]):
        scores[own] = ridge_scores(features[other], label[other, None], features[own])
    return float(np.nan_to_num(_auc_of_each(scores, label[:, None])[0, 0], nan=0.5))


def ridge_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, ridge: float = 1e-2) -> np.ndarray:
    """Return (M, K) scores of `test` (M, D) by ridge regression of `labels` (N, K) on `train` (N, D), standardised.

    w = (X^T X + ridge N 1)^-1 X^T (y - mean y).
    """
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = (train - mean) / scale
    gram = design.T @ design + ridge * len(train) * np.eye(design.shape[1])
    weights = np.linalg.solve(gram, design.T @ (labels - labels.mean(axis=0)))
    return np.asarray((test - mean) / scale @ weights)


def auc_error(auc: Any, n_positive: Any, n_negative: Any) -> Any:
    """Return the standard error of a ROC-AUC (Hanley and McNeil 1982), elementwise."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    return np.sqrt(np.maximum(variance, 0) / (np.maximum(n_positive, 1) * np.maximum(n_negative, 1)))


def _listed(data: ProbedData, columns: Sequence[int] | np.ndarray) -> str:
    names = [data.feature(int(j)) for j in columns[:3]]
    return ", ".join(names) + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")
