"""Train, validation and test: stratified, with identical maps always on one side."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qwafer._arrays import row_array, zero_one
from qwafer._checks import LARGEST_SEED, check_choice, check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer._io import digest, key_seed

PARTS = ("train", "val", "test")
_UNITS = {"content": "distinct maps", "group": "groups of rows that share no map", "time": "distinct maps"}
"""What a split shares out, by what it goes."""
DRAWS = 100
"""Random partitions of the groups that a split by group chooses from."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows train, validate and test: a partition of all rows, each part in ascending order."""

    train: np.ndarray
    """(n_train,) int64."""
    val: np.ndarray
    """(n_val,) int64."""
    test: np.ndarray
    """(n_test,) int64."""
    digest: str
    """16 hex digits over the content ids and the part of each; independent of the order of rows."""
    notes: tuple[str, ...] = ()
    """Sentences on what a reader of the results should know: contradictory duplicates, labels absent from a part."""

    def parts(self) -> np.ndarray:
        """Return (N,) of `train`, `val` and `test`: the part of each row."""
        names = np.empty(len(self.train) + len(self.val) + len(self.test), dtype="<U5")
        for part in PARTS:
            names[getattr(self, part)] = part
        return names


def make_split(
    labels: np.ndarray,
    content_ids: np.ndarray,
    *,
    seed: int,
    by: str = "content",
    train_fraction: float = 0.7,
    val_fraction: float = 0.1,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> Split:
    """Return a split of N examples; rows of equal content id are never in two parts.

    - `by="content"`: stratified over label combinations. Every combination is shared out in proportion; what does not
      divide evenly, and identical maps that must stay together, go by iterative stratification (Sechidis, Tsoumakas and
      Vlahavas 2011, "On the stratification of multi-label data"): the rarest label first, to the part that lacks most.
    - `by="group"`: rows of a group stay together, too (groups that share a map become one). Of 100 random partitions of
      the groups, the one whose label counts come closest to the fractions is taken.
    - `by="time"`: oldest to train, newest to test. Identical maps go where the newest of them belongs, so that training
      never sees anything newer than the cut. The seed has no effect.

    The assignment depends on the content ids and the seed, not on the order of rows.

    Args:
        labels: (N, K) of 0 and 1.
        content_ids: (N,) strings.
        seed: of the run; the split draws from the stream `split` of it.
        by: `content`, `group` or `time`.
        train_fraction: of the rows, in (0, 1).
        val_fraction: of the rows; the rest is the test part.
        groups: (N,) strings, for `by="group"`.
        times: (N,) finite numbers, for `by="time"`.

    Raises:
        InputError: lengths that differ, fractions that leave no test part, groups or times that are needed and absent,
            or too few distinct maps (or groups) to fill three parts.
    """
    check_interval("train_fraction", train_fraction, 0, 1, open_low=True, open_high=True)
    check_interval("val_fraction", val_fraction, 0, 1, open_low=True, open_high=True)
    if train_fraction + val_fraction >= 1:
        raise InputError("`train_fraction` + `val_fraction` must be less than 1, so that a test part remains")
    check_choice("by", by, ("content", "group", "time"))
    labels, ids, content, unit = units_of(labels, content_ids, seed, by, groups, times)
    fractions = np.array([train_fraction, val_fraction, 1 - train_fraction - val_fraction])
    n_units = int(unit.max()) + 1
    if n_units < len(PARTS):
        raise InputError(
            f"the split needs at least {len(PARTS)} {_UNITS[by]}, one per part; got {n_units} in {len(labels)} rows"
        )
    if by == "time":
        part_of_unit = _oldest_first(np.asarray(times), unit, n_units, fractions)
    else:
        part_of_unit = _shared_out(labels, unit, fractions, by, np.random.default_rng(key_seed(seed, "split")))
    return split_of(labels, ids, content, part_of_unit[unit], fractions)


def make_fold(
    labels: np.ndarray,
    content_ids: np.ndarray,
    *,
    seed: int,
    n_folds: int,
    by: str = "content",
    val_fraction: float = 0.1,
    groups: np.ndarray | None = None,
) -> Split:
    """Return the split of N examples that tests on fold `seed` mod K of the (`seed` // K)-th random partition, K =
    `n_folds`.

    The K parts of a partition are shared out as those of `make_split`, with a fraction 1 / K each; K consecutive seeds
    from a multiple of K on test every row once. Of the other rows, a fraction `val_fraction` of all N validates and
    the rest trains, again shared out as by `make_split`.

    Args:
        labels: (N, L) of 0 and 1.
        content_ids: (N,) strings; rows of equal content id are never in two parts.
        seed: of the run.
        n_folds: K, at least 2.
        by: `content` or `group`, as for `make_split`; time has one order, and no folds.
        val_fraction: of all rows, less than 1 - 1 / K.
        groups: (N,) strings, for `by="group"`.

    Raises:
        InputError: lengths that differ, fractions that leave nothing to train on, groups that are needed and absent,
            or too few distinct maps (or groups).
    """
    check_positive_int("n_folds", n_folds, minimum=2)
    check_interval("val_fraction", val_fraction, 0, 1, open_low=True, open_high=True)
    train_fraction = 1 - 1 / n_folds - val_fraction
    if train_fraction <= 1e-9:
        raise InputError(
            f"`val_fraction` must be less than 1 - 1 / n_folds = {1 - 1 / n_folds:.3g}, or no training examples "
            f"remain; got {val_fraction}"
        )
    check_choice("by", by, ("content", "group"))
    labels, ids, content, unit = units_of(labels, content_ids, seed, by, groups, None)
    n_units = int(unit.max()) + 1
    if n_units < n_folds:
        raise InputError(f"{n_folds} folds need at least {n_folds} {_UNITS[by]}, got {n_units} in {len(labels)} rows")
    partition, fold = divmod(seed, n_folds)
    rng = np.random.default_rng(key_seed(partition, "folds"))
    fold_of_unit = _shared_out(labels, unit, np.full(n_folds, 1 / n_folds), by, rng)
    rest = np.flatnonzero(fold_of_unit[unit] != fold)
    units, renumbered = np.unique(unit[rest], return_inverse=True)
    if len(units) < 2:
        raise InputError(
            f"fold {fold} of {n_folds} leaves {len(units)} of the {_UNITS[by]}; at least two {_UNITS[by]} are needed, "
            "to train and to validate"
        )
    fractions = np.array([train_fraction, val_fraction, 1 / n_folds])
    part = np.full(len(labels), PARTS.index("test"))
    rng = np.random.default_rng(key_seed(seed, "split"))
    part[rest] = _shared_out(labels[rest], renumbered, fractions[:2] / fractions[:2].sum(), by, rng)[renumbered]
    return split_of(labels, ids, content, part, fractions)


def check_labelled(labels: np.ndarray) -> None:
    """Raise InputError where the examples of `labels` (N, K) have no labels, K = 0."""
    if not labels.shape[1]:
        raise InputError("these examples have no labels: they can be predicted, but not trained on")


def units_of(
    labels: np.ndarray,
    content_ids: np.ndarray,
    seed: int,
    by: str,
    groups: np.ndarray | None,
    times: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels, the distinct content ids, and (N,) the number of each row's content id and unit.

    A unit is what stays together: the rows of one map, and by group those of one group, too.
    """
    labels = zero_one("labels", labels, ("N", "K")).astype(np.uint8)
    check_positive_int("seed", seed, minimum=0, maximum=LARGEST_SEED)
    if not len(labels):
        raise InputError(f"`labels` must have shape (N, K) with at least one row, got {labels.shape}")
    check_labelled(labels)
    for name, column, needed_by in (("groups", groups, "group"), ("times", times, "time")):
        if by == needed_by and column is None:
            raise InputError(f"a split by {by} needs `{name}`, and these data have none; use `content` instead")
        if column is not None:
            row_array(name, column, len(labels), numbers=name == "times")
    ids, content = np.unique(row_array("content_ids", content_ids, len(labels)), return_inverse=True)
    return labels, ids, content, _joined(content, np.asarray(groups)) if by == "group" else content


def _shared_out(
    labels: np.ndarray, unit: np.ndarray, fractions: np.ndarray, by: str, rng: np.random.Generator
) -> np.ndarray:
    """Return (U,) the part of each unit, of as many parts as there are `fractions`; none is empty."""
    counts = _label_counts(labels, unit, int(unit.max()) + 1)
    part = _drawn(counts, fractions, rng) if by == "group" else _stratified(labels, unit, counts, fractions, rng)
    return _filled(part, counts[:, -1], len(fractions))


def split_of(
    labels: np.ndarray, ids: np.ndarray, content: np.ndarray, part: np.ndarray, fractions: np.ndarray
) -> Split:
    """Return the split with the rows of part 0, 1 and 2, its digest and its notes."""
    rows = [np.flatnonzero(part == j) for j in range(len(PARTS))]
    part_of_content = np.zeros(len(ids), dtype=np.int64)
    part_of_content[content] = part
    notes = (*_contradictions(labels, content, len(ids)), *_absences(labels, rows), *_deviations(rows, fractions))
    record = digest(ids, np.bincount(content), part_of_content)
    return Split(rows[0], rows[1], rows[2], record, notes)


def _joined(content: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (N,) the connected component of each row, where rows of one map or of one group are connected.

    Components are numbered by their smallest content number, so that the order of rows does not matter.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group = np.unique(groups, return_inverse=True)[1]
    n_content = int(content.max()) + 1
    n_nodes = n_content + int(group.max()) + 1
    links = coo_array((np.ones(len(content), dtype=np.int8), (content, n_content + group)), shape=(n_nodes, n_nodes))
    component = connected_components(links, directed=False)[1][:n_content]
    first_seen = np.unique(component, return_index=True)[1]
    number = np.argsort(np.argsort(first_seen))
    return number[component][content]


def _label_counts(labels: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """Return (U, K + 2): rows of each unit that carry each label, that carry none, and rows in all."""
    extended = np.column_stack([labels, ~labels.any(axis=1), np.ones(len(labels), dtype=np.uint8)])
    return np.column_stack([np.bincount(unit, weights=column, minlength=n_units) for column in extended.T])


def _stratified(
    labels: np.ndarray, unit: np.ndarray, counts: np.ndarray, fractions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return (U,) the part of each unit; see `make_split`."""
    n_units = len(counts)
    bits = np.packbits(labels.astype(bool), axis=1)
    union = np.zeros((n_units, bits.shape[1]), dtype=np.uint8)
    np.bitwise_or.at(union, unit, bits)  # contradictory duplicates count as the union of their labels
    stratum = np.unique(union, axis=0, return_inverse=True)[1].ravel()
    n_strata = int(stratum.max()) + 1
    size = counts[:, -1].astype(np.int64)
    part = np.full(n_units, -1, dtype=np.int64)
    order = rng.permutation(n_units)

    several = order[size[order] > 1]
    several = several[np.argsort(-size[several], kind="stable")]
    _iterate(several, part, counts, fractions)

    single = order[size[order] == 1]
    single = single[np.argsort(stratum[single], kind="stable")]  # stratum by stratum, shuffled within
    bounds = np.searchsorted(stratum[single], np.arange(n_strata + 1))
    rows_in_stratum = np.bincount(stratum, weights=size, minlength=n_strata)
    placed = np.zeros((n_strata, len(fractions)))
    np.add.at(placed, (stratum[several], part[several]), size[several])
    for s, (start, stop) in enumerate(pairwise(bounds.tolist())):
        lack = np.maximum(rows_in_stratum[s] * fractions - placed[s], 0)
        if stop == start or not lack.any():
            continue
        shares = np.floor(lack * min(1.0, (stop - start) / lack.sum()) + 1e-9).astype(np.int64)
        part[single[start : start + shares.sum()]] = np.repeat(np.arange(len(fractions)), shares)

    rest = order[part[order] < 0]
    _iterate(rest, part, counts, fractions)
    return part


def _iterate(members: np.ndarray, part: np.ndarray, counts: np.ndarray, fractions: np.ndarray) -> None:
    """Assign `members` (unit numbers, in random order) by iterative stratification, writing into `part`.

    The label (or the absence of all) with the fewest unassigned rows comes first; each of its units goes to the part
    that lacks most of that label, ties to the part that lacks most rows, then to the first.
    """
    if not len(members):
        return
    placed = part >= 0
    lack = np.outer(fractions, counts.sum(axis=0))  # (parts, K + 2)
    np.subtract.at(lack, part[placed], counts[placed])
    have = counts[members]  # (M, K + 2)
    open_members = np.ones(len(members), dtype=bool)
    remaining = have[:, :-1].sum(axis=0)
    while open_members.any():
        label = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        chosen = np.flatnonzero(open_members & (have[:, label] > 0))
        for m in chosen.tolist():
            wants = [
                (round(label_lack, 6), round(row_lack, 6)) for label_lack, row_lack in lack[:, [label, -1]].tolist()
            ]
            j = wants.index(max(wants))
            part[members[m]] = j
            lack[j] -= have[m]
        open_members[chosen] = False
        remaining = have[open_members, :-1].sum(axis=0)


def _drawn(counts: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (U,) the part of each unit: of `DRAWS` random orders, cut where the rows reach the fractions, the best.

    The best has the least sum_jl (a_jl / T_l - f_j)^2 over parts j and labels l, with a_jl the rows of label l in part
    j and T_l all of them. To search further would give every seed the same balanced split, and so the same test part.

    Morgan and Rubin 2012, "Rerandomization to improve covariate balance in experiments".
    """
    total = counts.sum(axis=0)
    shares = counts[:, total > 0] / total[total > 0]  # (U, L): of each label's rows
    ends = np.cumsum(fractions)[:-1] * total[-1]
    best, least = np.zeros(len(counts), dtype=np.int64), np.inf
    for _ in range(DRAWS):
        order = rng.permutation(len(counts))
        size = counts[order, -1]
        part = np.empty(len(counts), dtype=np.int64)
        part[order] = np.searchsorted(ends, np.cumsum(size) - size / 2, side="right")
        sums = np.zeros((len(fractions), shares.shape[1]))
        np.add.at(sums, part, shares)
        deviation = float(np.sum((sums - fractions[:, None]) ** 2))
        if deviation < least:
            best, least = part, deviation
    return best


def _filled(part: np.ndarray, size: np.ndarray, n_parts: int) -> np.ndarray:
    """Return (U,) `part` with an empty part given the smallest unit of the part that has most units (tiny data)."""
    part = part.copy()
    for j in range(n_parts):
        if not (part == j).any():
            members = np.flatnonzero(part == np.bincount(part).argmax())
            part[members[np.argmin(size[members])]] = j
    return part


def _oldest_first(times: np.ndarray, unit: np.ndarray, n_units: int, fractions: np.ndarray) -> np.ndarray:
    """Return (U,) the part of each unit, cut where the cumulated rows come closest to the fractions."""
    newest = np.full(n_units, -np.inf)
    np.maximum.at(newest, unit, times.astype(np.float64))
    order = np.lexsort((np.arange(n_units), newest))
    size = np.bincount(unit, minlength=n_units)[order]
    middle = np.cumsum(size) - size / 2
    first, second = np.searchsorted(middle, np.cumsum(fractions)[:2] * size.sum(), side="right").tolist()
    first = min(max(first, 1), n_units - 2)  # no part is empty
    second = min(max(second, first + 1), n_units - 1)
    part = np.empty(n_units, dtype=np.int64)
    part[order] = np.repeat(np.arange(len(PARTS)), [first, second - first, n_units - second])
    return part


def _contradictions(labels: np.ndarray, content: np.ndarray, n_contents: int) -> list[str]:
    """Count the maps that occur with more than one combination of labels."""
    rows = np.unique(np.column_stack([content, labels]), axis=0)[:, 0]
    times_seen = np.bincount(rows, minlength=n_contents)
    maps = np.flatnonzero(times_seen > 1)
    if not len(maps):
        return []
    n_rows = int(np.isin(content, maps).sum())
    return [f"{len(maps)} maps occur with contradictory labels ({n_rows} rows); they stay together in one part"]


def _absences(labels: np.ndarray, rows: list[np.ndarray]) -> list[str]:
    """Name the labels that have a positive somewhere, but none in some part."""
    notes = []
    for name, members in zip(PARTS, rows, strict=True):
        absent = np.flatnonzero(labels.any(axis=0) & ~labels[members].any(axis=0))
        if len(absent):
            notes.append(f"the {name} part holds no positive example of label column {', '.join(map(str, absent))}")
    return notes


def _deviations(rows: list[np.ndarray], fractions: np.ndarray) -> list[str]:
    """Report parts whose share of the rows is off by more than two percentage points."""
    n = sum(map(len, rows))
    return [
        f"the {name} part holds {len(members) / n:.1%} of the rows instead of {fraction:.1%}"
        for name, members, fraction in zip(PARTS, rows, fractions, strict=True)
        if abs(len(members) / n - fraction) > 0.02 and abs(len(members) - fraction * n) > 1
    ]
