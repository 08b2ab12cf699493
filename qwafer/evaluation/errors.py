"""Error analysis of any predictor: which decisions are wrong, how sure it was of them, and where errors are frequent.

The *decisions* of a map are one for exclusive classes, the class of the largest logit, and K for several labels, each
by its threshold. The *confidence* of a decision is the probability that the predictor gives to it: softmax(l) of the
decided class; sigmoid(l) of a label that is decided, else 1 - sigmoid(l). A map is wrong where a decision is. For
exclusive classes the true class is *missed* and the decided one *invented*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwafer._arrays import real_array, row_array, zero_one
from qwafer._checks import check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.data.maps import Maps, as_sequence, check_maps
from qwafer.evaluation import exclusive as exclusive_metrics
from qwafer.evaluation import metrics
from qwafer.evaluation.exclusive import decide, probabilities
from qwafer.evaluation.intervals import clopper_pearson
from qwafer.evaluation.metrics import Floats

NEIGHBOURS = (("Center", "Donut"), ("Edge-Loc", "Edge-Ring"), ("Loc", "Random"), ("Near-full", "Random"))
"""Pairs of wafer patterns that pass into each other (references/001, section 3.7)."""


@dataclass(frozen=True)
class ErrorOptions:
    """What counts as a finding."""

    confident: float = 0.8
    """Confidence above which a wrong decision is a confident error."""
    bins: int = 5
    """Bins of defect density, of about equal numbers of maps; equal densities are never parted, so that there may be
    fewer."""
    neighbours: tuple[tuple[str, str], ...] | None = None
    """Pairs of labels that are looked at by themselves; none: those of `NEIGHBOURS` of which both are labels."""
    level: float = 0.95
    """Coverage of the intervals."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_interval("confident", self.confident, 0, 1, open_high=True)
        check_positive_int("bins", self.bins)
        check_interval("level", self.level, 0, 1, open_low=True, open_high=True)
        for pair in self.neighbours or ():
            if len(pair) != 2 or pair[0] == pair[1]:
                raise InputError(f"`neighbours` must be pairs of different labels, got {':'.join(pair)}")


@dataclass(frozen=True)
class Rate:
    """A share of maps with its exact interval, which takes them for independent: maps of one lot may not be."""

    n: int
    """Maps."""
    hits: int
    """Those that count."""
    low: float
    """Lower end (Clopper and Pearson 1934)."""
    high: float
    """Upper end."""

    @property
    def value(self) -> float:
        """The share hits / n; NaN without a map."""
        return self.hits / self.n if self.n else np.nan


@dataclass(frozen=True)
class MeanConfidence:
    """Mean confidence of decisions."""

    right: float
    """Where they are right; NaN where none is."""
    wrong: float
    """Where they are wrong; NaN where none is."""
    n_right: int
    """Right decisions."""
    n_wrong: int
    """Wrong decisions."""


@dataclass(frozen=True)
class ConfusionPair:
    """How often one label was missed where another one was invented."""

    true: str
    """The missed label; empty: none of the map's was."""
    predicted: str
    """The invented label; empty: none was."""
    n: int
    """Maps; one that misses or invents several labels counts in every pair."""
    of: int
    """Maps that have the missed label; all where it is empty."""


@dataclass(frozen=True)
class NeighbourErrors:
    """Errors between two labels that are neighbours, in either direction."""

    first: str
    second: str
    n: int
    """Maps on which one is missed and the other invented."""
    n_wrong: int
    """All wrong maps."""


@dataclass(frozen=True)
class DensityBin:
    """Errors among the maps of a range of defect density."""

    low: float
    """Lower edge; only the first bin includes it."""
    high: float
    """Upper edge, included."""
    errors: Rate
    """Wrong maps."""


@dataclass(frozen=True)
class WrongMap:
    """A map on which a decision is wrong."""

    row: int
    """Among the maps that were looked at."""
    id: str
    """Its content id; empty where ids were not given."""
    true: tuple[str, ...]
    """Its labels."""
    predicted: tuple[str, ...]
    """What was decided."""
    confidence: float
    """Of the wrong decision with the largest one."""


@dataclass(frozen=True)
class ErrorAnalysis:
    """What is wrong with the decisions on some maps."""

    label_names: tuple[str, ...]
    """The labels."""
    exclusive: bool
    """Whether they are exclusive classes."""
    thresholds: tuple[float, ...]
    """Logit above which each label is decided; empty for exclusive classes."""
    options: ErrorOptions
    """With which it was made."""
    errors: Rate
    """Wrong maps."""
    confident: Rate
    """Maps with a wrong decision of a confidence above `ErrorOptions.confident`."""
    confidence: MeanConfidence
    """Of right and of wrong decisions."""
    confusions: tuple[ConfusionPair, ...]
    """The pairs that occur, the most frequent first."""
    neighbours: tuple[NeighbourErrors, ...]
    """Of each pair of `ErrorOptions.neighbours`."""
    density: tuple[DensityBin, ...]
    """By share of failing dies; empty where it is not given."""
    wrong: tuple[WrongMap, ...]
    """All wrong maps, the worst first; see `worst_examples`."""


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions on N maps against their K labels; J = 1 for exclusive classes, else K."""

    truth: NDArray[np.bool_]
    """(N, K) the labels."""
    decided: NDArray[np.bool_]
    """(N, K) what was decided."""
    probabilities: Floats
    """(N, K) of every label."""
    confidence: Floats
    """(N, J) of every decision."""
    wrong: NDArray[np.bool_]
    """(N, J) whether it is wrong."""
    thresholds: tuple[float, ...]
    """Logit above which each label is decided; empty for exclusive classes."""


def decisions_of(
    logits: ArrayLike, labels: ArrayLike, *, thresholds: ArrayLike | None = None, exclusive: bool = False
) -> Decisions:
    """Return the decisions of `logits` (N, K) against `labels`, (N, K) of 0 and 1 or, exclusive, class indices (N,).

    `thresholds` (K,) in logit units; none: logit 0. Raises InputError for arrays that do not fit or are not finite,
    and for thresholds of exclusive classes.
    """
    values = real_array("logits", logits, ("N", "K"), finite=True).astype(np.float64)
    if not values.size:
        raise InputError("`logits` must hold at least one example and one label")
    if exclusive:
        if thresholds is not None:
            raise InputError("`thresholds` have no effect on exclusive classes (arg max): leave them out")
        truth = np.eye(values.shape[1], dtype=bool)[exclusive_metrics.class_indices(labels, values.shape)]
        limits: tuple[float, ...] = ()
    else:
        truth = zero_one("labels", labels, values.shape)
        cuts = np.zeros(values.shape[1]) if thresholds is None else thresholds
        limits = tuple(real_array("thresholds", cuts, values.shape[1:], finite=True).tolist())
    decided = decide(values, limits)
    p = probabilities(values, exclusive=exclusive)
    missed = decided != truth
    if exclusive:
        return Decisions(truth, decided, p, p.max(axis=1, keepdims=True), missed.any(axis=1, keepdims=True), limits)
    return Decisions(truth, decided, p, np.where(decided, p, 1 - p), missed, limits)


def analyse_errors(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_names: Sequence[str],
    thresholds: ArrayLike | None = None,
    exclusive: bool = False,
    density: ArrayLike | None = None,
    ids: Any = None,
    options: ErrorOptions | None = None,
) -> ErrorAnalysis:
    """Return what is wrong with the decisions of `logits` (N, K) on maps with `labels` (N, K).

    Args:
        logits: (N, K), finite.
        labels: (N, K) of 0 and 1; of exclusive classes one-hot, or class indices (N,).
        label_names: K names.
        thresholds: (K,) in logit units; none: logit 0. None for exclusive classes.
        exclusive: whether exactly one label applies to a map.
        density: (N,) share of failing dies of each map, in [0, 1]; see `defect_density`.
        ids: (N,) texts that name the maps.
        options: what counts as a finding.

    Raises:
        InputError: arrays that do not belong together, or neighbours that are not labels.
    """
    options = ErrorOptions() if options is None else options
    found = decisions_of(logits, labels, thresholds=thresholds, exclusive=exclusive)
    n, n_labels = found.truth.shape
    names = tuple(str(name) for name in label_names)
    if len(names) != n_labels:
        raise InputError(f"`label_names` must name each of the {n_labels} columns of `logits`, got {len(names)} names")
    pairs = _neighbours(options, names)
    wrong = np.asarray(found.wrong.any(axis=1))
    sure = np.where(found.wrong, found.confidence, -1).max(axis=1)  # (N,), of the surest wrong decision
    right_ones, wrong_ones = (found.confidence[which] for which in (~found.wrong, found.wrong))
    order = worst_examples(logits, labels, n, thresholds=found.thresholds or 0.0, exclusive=exclusive)
    texts = [""] * n if ids is None else [str(text) for text in row_array("ids", ids, n).tolist()]
    return ErrorAnalysis(
        label_names=names,
        exclusive=exclusive,
        thresholds=found.thresholds,
        options=options,
        errors=_rate(wrong, options.level),
        confident=_rate(sure > options.confident, options.level),
        confidence=MeanConfidence(
            right=float(right_ones.mean()) if right_ones.size else np.nan,
            wrong=float(wrong_ones.mean()) if wrong_ones.size else np.nan,
            n_right=right_ones.size,
            n_wrong=wrong_ones.size,
        ),
        confusions=_confusions(found, names),
        neighbours=_between_neighbours(found, names, pairs),
        density=() if density is None else _by_density(density, wrong, options),
        wrong=tuple(
            WrongMap(row, texts[row], _named(found.truth[row], names), _named(found.decided[row], names), float(value))
            for row, value in zip(order.tolist(), sure[order], strict=True)
        ),
    )


def worst_examples(
    logits: ArrayLike, labels: ArrayLike, n: int = 9, *, thresholds: ArrayLike = 0.0, exclusive: bool = False
) -> NDArray[np.int64]:
    """Return the rows of the (at most `n`) wrongly predicted examples of largest loss, the worst first.

    The loss of an example is the sum over its wrong labels of |l - threshold|; of exclusive classes -log p of the true
    class. `logits`, `labels` (N, K), or class indices (N,) with `exclusive`.
    """
    values = np.asarray(logits, np.float64)
    if exclusive:
        classes = exclusive_metrics.class_indices(labels, values.shape)
        wrong = values.argmax(axis=1) != classes
        own = np.take_along_axis(exclusive_metrics.one_vs_rest_logits(values), classes[:, None], axis=1)[:, 0]
        loss = np.logaddexp(0, -own)
    else:
        values, truth, _ = metrics.as_columns(values, labels, "logits")
        errors = (values > np.asarray(thresholds)) != truth
        wrong = errors.any(axis=1)
        loss = np.where(errors, np.abs(values - np.asarray(thresholds, np.float64)), 0).sum(axis=1)
    order = np.lexsort((np.arange(len(loss)), -np.nan_to_num(loss, nan=np.inf)))
    return order[wrong[order]][:n]


def defect_density(maps: Maps | Sequence[NDArray[np.uint8]]) -> Floats:
    """Return (N,) the share of failing dies among the dies of each map; 0 for a map without dies.

    `maps`: (N, H, W), or N arrays (H_i, W_i), uint8: 0 off the wafer, 1 passing die, 2 failing die. Raises InputError
    for anything else.
    """
    wafers = as_sequence("maps", maps)
    check_maps(wafers, "`defect_density`")
    counts = [np.bincount(wafer.ravel(), minlength=3) for wafer in wafers]
    passing, failing = np.array(counts, np.float64)[:, 1:].T
    return failing / np.maximum(passing + failing, 1)


def _rate(hits: NDArray[np.bool_], level: float) -> Rate:
    count = int(hits.sum())
    low, high = clopper_pearson(count, len(hits), (1 - level) / 2)
    return Rate(len(hits), count, float(low), float(high))


def _confusions(found: Decisions, names: tuple[str, ...]) -> tuple[ConfusionPair, ...]:
    """Return the pairs (missed, invented) that occur; K + 1 rows and columns, the last for none."""
    missed, invented = found.truth & ~found.decided, found.decided & ~found.truth
    sides = [np.column_stack([flags, ~np.asarray(flags.any(axis=1))]).astype(np.int64) for flags in (missed, invented)]
    table = np.asarray(sides[0].T @ sides[1])
    table[-1, -1] = 0  # right maps, which miss and invent nothing
    named, of = (*names, ""), [*found.truth.sum(axis=0).tolist(), len(found.truth)]
    rows, columns = np.nonzero(table)
    pairs = [ConfusionPair(named[i], named[j], int(table[i, j]), of[i]) for i, j in zip(rows, columns, strict=True)]
    return tuple(sorted(pairs, key=lambda pair: (-pair.n, pair.true, pair.predicted)))


def _neighbours(options: ErrorOptions, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    if options.neighbours is None:
        return tuple(pair for pair in NEIGHBOURS if set(pair) <= set(names))
    for name in (name for pair in options.neighbours for name in pair):
        if name not in names:
            raise InputError(f"`neighbours` must be pairs of the labels {', '.join(names)}, got {name}")
    return options.neighbours


def _between_neighbours(
    found: Decisions, names: tuple[str, ...], pairs: tuple[tuple[str, str], ...]
) -> tuple[NeighbourErrors, ...]:
    missed, invented = found.truth & ~found.decided, found.decided & ~found.truth
    total = int(found.wrong.any(axis=1).sum())
    counted = []
    for first, second in pairs:
        a, b = names.index(first), names.index(second)
        swapped = (missed[:, a] & invented[:, b]) | (missed[:, b] & invented[:, a])
        counted.append(NeighbourErrors(first, second, int(swapped.sum()), total))
    return tuple(counted)


def _by_density(density: ArrayLike, wrong: NDArray[np.bool_], options: ErrorOptions) -> tuple[DensityBin, ...]:
    """Return the error rate between the quantiles of density."""
    values = real_array("density", density, wrong.shape, finite=True).astype(np.float64)
    if values.min() < 0 or values.max() > 1:
        raise InputError("`density` must be shares of failing dies, from 0 to 1")
    edges = np.unique(np.quantile(values, np.linspace(0, 1, options.bins + 1)))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, len(edges) - 2)
    return tuple(
        DensityBin(float(edges[b]), float(edges[b + 1]), _rate(wrong[place == b], options.level))
        for b in np.unique(place).tolist()
    )


def _named(flags: NDArray[np.bool_], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(names, flags, strict=True) if flag)
