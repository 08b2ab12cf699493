"""Likely errors of the labels themselves, by confident learning; the package cleanlab does it (extra `labels`)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import row_array
from qwafer._errors import InputError
from qwafer._lazy import optional_package
from qwafer.evaluation.errors import decisions_of
from qwafer.evaluation.metrics import Floats

FEWEST = 2
"""Maps with a label, and without it, below which nothing is said of it."""


@dataclass(frozen=True)
class LabelSuspect:
    """A map whose label is likely wrong: a suggestion, which somebody who can tell is to look at."""

    row: int
    """Among the maps that were looked at."""
    id: str
    """Its content id; empty where ids were not given."""
    given: tuple[str, ...]
    """Its labels."""
    suggested: tuple[str, ...]
    """The labels that the predictor takes for the true ones."""
    quality: float
    """Probability of the given class; of several labels that of the given value of the flagged label, the least where
    several are. The smaller, the more likely the label is wrong."""


@dataclass(frozen=True)
class JointCount:
    """An entry beside the diagonal of the confident joint."""

    given: str
    """The label that is given; `not NAME` of several labels."""
    likely: str
    """The label that is likely."""
    n: int
    """Estimated number of maps."""


@dataclass(frozen=True)
class LabelErrors:
    """Which labels of some maps are likely wrong."""

    package: str
    """What found them, with its version."""
    n_maps: int
    """Maps that were looked at."""
    joint: tuple[JointCount, ...]
    """Pairs with a count, the largest first."""
    suspects: tuple[LabelSuspect, ...]
    """The maps with a flagged label, the most suspicious first."""
    unsaid: tuple[str, ...]
    """Labels of which nothing can be said: fewer than `FEWEST` maps have them or, of several labels, lack them."""


def likely_label_errors(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_names: Sequence[str],
    exclusive: bool = False,
    ids: Any = None,
) -> LabelErrors:
    """Return the maps whose labels are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021, Journal
    of Artificial Intelligence Research 70, 1373-1411).

    A map counts as confidently of class j where p_j is at least t_j, the mean of p_j over the maps with the given label
    j; the counts of given i and confident j, calibrated to the numbers of given labels, are the confident joint. As
    many maps of i as it estimates for j are flagged, those of the largest p_j - p_i (`prune_by_noise_rate`), but where
    the given label is the most probable one. Several labels are one problem of two classes each.

    The logits must be *out of sample*: of maps on which neither the predictor nor what made its features was trained.
    A predictor that is wrong about a pattern flags right labels.

    Args:
        logits: (N, K), finite.
        labels: (N, K) of 0 and 1; of exclusive classes one-hot, or class indices (N,).
        label_names: K names.
        exclusive: whether exactly one label applies to a map.
        ids: (N,) texts that name the maps.

    Raises:
        InputError: arrays that do not belong together, or labels of which nothing can be said: fewer than two
            classes, or of every label fewer than `FEWEST` maps with it or without it.
        CapabilityError: cleanlab is not installed.
    """
    cleanlab = optional_package("cleanlab", "labels", "likely label errors need")
    found = decisions_of(logits, labels, exclusive=exclusive)
    names = tuple(str(name) for name in label_names)
    n, n_labels = found.truth.shape
    if len(names) != n_labels:
        raise InputError(f"`label_names` must name each of the {n_labels} columns of `logits`, got {len(names)} names")
    texts = [""] * n if ids is None else [str(text) for text in row_array("ids", ids, n).tolist()]
    counts = found.truth.sum(axis=0)
    said = counts >= FEWEST if exclusive else np.minimum(counts, n - counts) >= FEWEST
    if (np.count_nonzero(counts) < 2) if exclusive else not said.any():
        raise InputError("label errors cannot be looked for: these maps have too few of every label, or of other ones")
    p, suggested, quality = found.probabilities, found.truth.copy(), np.full(n, np.inf)
    joint: list[JointCount] = []
    if exclusive:
        given = found.truth.argmax(axis=1)
        flags = _flags(cleanlab, given, p)
        suggested[flags] = found.decided[flags]
        quality[flags] = p[flags, given[flags]]
        joint += _joint(cleanlab, given, p, names)
    for k in () if exclusive else np.flatnonzero(said):
        given, both = found.truth[:, k].astype(np.int64), np.stack([1 - p[:, k], p[:, k]], axis=1)
        flags = _flags(cleanlab, given, both)
        suggested[flags, k] ^= True
        quality[flags] = np.minimum(quality[flags], both[flags, given[flags]])
        joint += _joint(cleanlab, given, both, (f"not {names[k]}", names[k]))
    order = np.argsort(quality, kind="stable")[: int(np.isfinite(quality).sum())]
    return LabelErrors(
        package=f"cleanlab {cleanlab.__version__}",
        n_maps=n,
        joint=tuple(sorted(joint, key=lambda entry: -entry.n)),
        suspects=tuple(
            LabelSuspect(row, texts[row], _named(found.truth[row], names), _named(suggested[row], names), float(value))
            for row, value in zip(order.tolist(), quality[order], strict=True)
        ),
        unsaid=tuple(name for name, known in zip(names, said, strict=True) if not known),
    )


def _flags(cleanlab: Any, given: NDArray[np.int64], p: Floats) -> NDArray[np.bool_]:
    """Return (N,) which of the labels `given`, class indices, are likely wrong by the probabilities `p` (N, K)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with one map, which `unsaid` names
        flags = cleanlab.filter.find_label_issues(given, p, filter_by="prune_by_noise_rate", n_jobs=1)
    return np.asarray(flags, bool)


def _joint(cleanlab: Any, given: NDArray[np.int64], p: Floats, names: Sequence[str]) -> list[JointCount]:
    """Return the entries beside the diagonal of the confident joint that are not 0."""
    counts = np.asarray(cleanlab.count.compute_confident_joint(given, p))
    np.fill_diagonal(counts, 0)
    pairs = np.argwhere(counts).tolist()
    return [JointCount(names[i], names[j], int(counts[i, j])) for i, j in pairs]


def _named(flags: NDArray[np.bool_], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(names, flags, strict=True) if flag)
