"""`WaferMaps`: labelled wafer maps in memory, however they were read or drawn."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from qwafer._arrays import check_unmasked, real_array, whole_array
from qwafer._checks import check_printable
from qwafer._errors import InputError

Maps: TypeAlias = np.ndarray | tuple[np.ndarray, ...]
"""(N, H, W) uint8, or N arrays (H_i, W_i) uint8 where shapes differ: 0 off the wafer, 1 passing die, 2 failing die."""

Recode: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From the dies of a file, uint8 of any shape, to those of this library: 0 off the wafer, 1 passing, 2 failing."""

MAX_SIDE = 2048
"""Dies a side of a map, at most: a 300 mm wafer of dies of 0.15 mm."""
MAX_LABELS = 1024
"""Labels, at most."""

CONTENT_ID_DTYPE = np.dtype("<U16")


@dataclass(frozen=True, eq=False)
class WaferMaps:
    """Wafer maps with their labels and where they come from; checked on construction. `from_arrays` makes them of
    anybody's own arrays. Maps without labels (K = 0) can be extracted and predicted, but not trained on.

    Raises `InputError` where a map holds a value other than 0, 1, 2, or where lengths, shapes or labels do not fit.
    """

    maps: Maps
    """(N, H, W) uint8, or a tuple of N arrays (H_i, W_i) uint8: 0 off the wafer, 1 passing die, 2 failing die."""
    labels: np.ndarray
    """(N, K) uint8 of 0 and 1."""
    label_names: tuple[str, ...]
    """K names, one per column of `labels`."""
    content_ids: np.ndarray
    """(N,) of 16 hex digits; equal for maps that are equal in shape and in every die."""
    source: str
    """What was read, in words: a format and a file name, or `synthetic` and its parameters."""
    sha256: str
    """SHA-256 of the file, or of the generator's name, version and parameters."""
    groups: np.ndarray | None = None
    """(N,) str: the lot of each map."""
    times: np.ndarray | None = None
    """(N,) float64, in any unit that orders."""
    notes: tuple[str, ...] = ()
    """Sentences on what the reader changed or left out."""
    exclusive: bool = False
    """Every map has exactly one label: the columns are classes, one of which may be `none`."""

    def __post_init__(self) -> None:
        check_maps(self.maps, self.source)
        n = len(self.maps)
        check_labels(self.labels, self.label_names, n, self.source, exclusive=self.exclusive)
        check_rows(self.content_ids, self.groups, self.times, n, self.source)

    @classmethod
    def from_arrays(
        cls,
        maps: Any,
        labels: Any = None,
        *,
        label_names: Sequence[str] | None = None,
        exclusive: bool = False,
        groups: Any = None,
        times: Any = None,
        source: str = "arrays",
    ) -> "WaferMaps":
        """Return wafer maps of anybody's own arrays, with ids made from their content.

        Args:
            maps: (N, H, W), or a list of N arrays (H_i, W_i), of any real type: 0 off the wafer, 1 passing, 2 failing.
            labels: see `data.arrays.as_labels`; none: maps without labels.
            label_names: names of the labels, or of the classes.
            exclusive: whether labels of 0 and 1 are exclusive classes.
            groups: (N,) texts or whole numbers: the lot of each map.
            times: (N,) finite numbers, in any unit that orders.
            source: what was read, in words; results repeat it.

        Raises:
            InputError: maps of other values, or labels, groups or times that do not fit.
        """
        from qwafer.data.arrays import as_labels, as_maps, as_texts, as_times, ids_sha256

        wafers = as_maps(maps)
        n = len(wafers)
        columns, names, classes = as_labels(labels, n, label_names, exclusive=exclusive)
        ids = content_ids(wafers)
        return cls(
            maps=wafers,
            labels=columns,
            label_names=names,
            content_ids=ids,
            source=source,
            sha256=ids_sha256(ids),
            groups=as_texts("groups", groups, n),
            times=as_times(times),
            exclusive=classes,
        )

    def __len__(self) -> int:
        return len(self.maps)

    def take(self, indices: np.ndarray) -> "WaferMaps":
        """Return the maps at `indices` ((M,) integers), in that order, with everything that belongs to them; raise
        InputError for truth values and for rows that are not there.
        """
        indices = row_indices(indices, len(self))
        if isinstance(self.maps, tuple):
            maps: Maps = tuple(self.maps[i] for i in indices)
        else:
            maps = self.maps[indices]
        return WaferMaps(
            maps=maps,
            labels=self.labels[indices],
            label_names=self.label_names,
            content_ids=self.content_ids[indices],
            source=self.source,
            sha256=self.sha256,
            groups=None if self.groups is None else self.groups[indices],
            times=None if self.times is None else self.times[indices],
            notes=self.notes,
            exclusive=self.exclusive,
        )


def as_is(dies: np.ndarray) -> np.ndarray:
    """Return `dies`."""
    return dies


def content_ids(maps: Maps | Sequence[np.ndarray]) -> np.ndarray:
    """Return (N,) ids of 16 hex digits: the start of the SHA-256 of each map's shape and uint8 bytes (row-major).

    Raises InputError for what are not two-dimensional arrays of uint8.
    """
    maps = as_sequence("maps", maps)
    ids = np.empty(len(maps), dtype=CONTENT_ID_DTYPE)
    for i, wafer in enumerate(maps):
        if not isinstance(wafer, np.ndarray) or np.ma.is_masked(wafer) or wafer.ndim != 2 or wafer.dtype != np.uint8:
            found = f"{wafer.dtype} of shape {wafer.shape}" if isinstance(wafer, np.ndarray) else type(wafer).__name__
            raise InputError(f"`maps` must be two-dimensional uint8 arrays, got {found} at map {i}")
        state = hashlib.sha256(f"{wafer.shape[0]}x{wafer.shape[1]}:".encode())
        state.update(np.ascontiguousarray(wafer).data)
        ids[i] = state.hexdigest()[:16]
    return ids


def as_sequence(name: str, values: Any) -> Any:
    """Return `values`, an array as it is and any other collection as a tuple; raise InputError for what is none."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(f"`{name}` must be a list of arrays, got {type(values).__name__}")
    return values if isinstance(values, np.ndarray) else tuple(values)


def row_indices(indices: Any, n: int) -> np.ndarray:
    """Return (M,) whole numbers as rows of n examples; raise InputError for others, such as a mask of truth values,
    which would be taken for rows 0 and 1, and negative numbers, which would count from the end.
    """
    rows = real_array("indices", indices, ("M",))
    if rows.dtype == np.bool_:
        raise InputError("`indices` must be row numbers, got truth values: numpy.flatnonzero gives the rows of a mask")
    return whole_array("indices", rows, 0, n - 1)


def unpack_maps(flat: np.ndarray, shapes: np.ndarray) -> Maps:
    """Return the maps that lie end to end, row-major, in `flat` (uint8); `shapes` is (N, 2): (H, W) of each.

    One array (N, H, W) where all shapes are equal, else a tuple of views into `flat`.
    """
    shapes = np.asarray(shapes, dtype=np.int64)
    if len(shapes) and np.all(shapes == shapes[0]):
        return flat.reshape(len(shapes), *(int(side) for side in shapes[0]))
    ends = np.concatenate([[0], np.cumsum(shapes[:, 0] * shapes[:, 1])]).tolist()
    sides = shapes.tolist()
    spans = pairwise(ends)
    return tuple(flat[start:stop].reshape(side) for (start, stop), side in zip(spans, sides, strict=True))


def one_hot(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Return (N, n_classes) uint8 with a single 1 per row, in column `codes[i]`."""
    return (np.asarray(codes)[:, None] == np.arange(n_classes)).astype(np.uint8)


def check_labels(
    labels: np.ndarray, label_names: tuple[str, ...], n: int, source: str, *, exclusive: bool = False
) -> None:
    """Raise `InputError` unless `labels` is (n, K) uint8 of 0 and 1, with K names, which may be none; if `exclusive`,
    one 1 per row.
    """
    check_ndarray("labels", labels, source)
    if labels.ndim != 2 or labels.shape != (n, len(label_names)):
        raise InputError(
            f"`labels` of {source} must have shape ({n}, {len(label_names)}): one row per example, one column per "
            f"label; got {labels.shape}"
        )
    if len(set(label_names)) != len(label_names):
        raise InputError(f"`label_names` of {source} must be distinct names, got {label_names}")
    if len(label_names) > MAX_LABELS:
        raise InputError(f"`label_names` of {source} must be at most {MAX_LABELS} names, got {len(label_names)}")
    for name in label_names:
        check_printable(f"a label of {source}", name)
    if labels.dtype != np.uint8:
        raise InputError(f"`labels` of {source} must be uint8, got {labels.dtype}")
    wrong = np.flatnonzero((labels > 1).any(axis=1))
    if len(wrong):
        raise InputError(
            f"`labels` of {source} must be 0 or 1; {len(wrong)} rows hold something else, first row {wrong[0]}: "
            f"{labels[wrong[0]].tolist()}"
        )
    if exclusive:
        wrong = np.flatnonzero(labels.sum(axis=1) != 1)
        if len(wrong):
            raise InputError(
                f"`labels` of {source} are exclusive classes, so each row must hold exactly one 1; {len(wrong)} rows "
                f"do not, first row {wrong[0]}: {labels[wrong[0]].tolist()}"
            )


def check_rows(ids: np.ndarray, groups: np.ndarray | None, times: np.ndarray | None, n: int, source: str) -> None:
    """Raise `InputError` unless ids are (n,) strings, and groups (n,) strings and times (n,) finite numbers, where
    given.
    """
    check_ndarray("content_ids", ids, source)
    for name, column, kinds, what in (
        ("content_ids", ids, "U", "strings"),
        ("groups", groups, "U", "strings"),
        ("times", times, "f", "floats"),
    ):
        if column is None:
            continue
        check_ndarray(name, column, source)
        if column.shape != (n,) or column.dtype.kind not in kinds:
            raise InputError(f"`{name}` of {source} must be {n} {what}, got {column.dtype} of shape {column.shape}")
    if times is not None and not np.isfinite(times).all():
        row = int(np.flatnonzero(~np.isfinite(times))[0])
        raise InputError(f"`times` of {source} must be finite; row {row} is {times[row]}")


def check_ndarray(name: str, value: Any, source: str) -> None:
    """Raise InputError unless `value` is a NumPy array without masked entries."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"`{name}` of {source} must be a NumPy array, got {type(value).__name__}")
    check_unmasked(name, value, source)


def check_maps(maps: Maps, source: str) -> None:
    """Raise `InputError` unless `maps` are (N, H, W) uint8, or (H_i, W_i) arrays of it, of 0, 1 and 2 only.

    A wafer is round, so that the corners of its map lie off it. Where all four corners of most maps hold one value that
    is not 0, the maps are in another encoding and are refused.
    """
    if not isinstance(maps, (np.ndarray, tuple, list)):
        raise InputError(f"`maps` of {source} must be an array or a tuple of arrays, got {type(maps).__name__}")
    if isinstance(maps, np.ndarray):
        check_ndarray("maps", maps, source)
    if not len(maps):
        raise InputError(f"{source} holds no wafer maps; at least one is needed")
    if isinstance(maps, np.ndarray) and maps.ndim != 3:
        raise InputError(f"`maps` of {source} must have shape (N, H, W), got {maps.shape}")
    for i, block in _blocks(maps):
        if not isinstance(block, np.ndarray) or block.dtype != np.uint8:
            kind = getattr(block, "dtype", type(block).__name__)
            raise InputError(f"`maps` of {source} must be uint8 arrays, got {kind} at map {i}")
        if block.ndim not in (2, 3) or 0 in block.shape:
            raise InputError(f"`maps` of {source} must be two-dimensional and not empty, got {block.shape} at map {i}")
        if max(block.shape[-2:]) > MAX_SIDE:
            raise InputError(f"`maps` of {source} must be at most {MAX_SIDE} dies a side, got {block.shape} at map {i}")
        if block.max() > 2:
            bad = np.argwhere(block > 2)[0]
            first = i + (int(bad[0]) if block.ndim == 3 else 0)
            raise InputError(
                f"`maps` of {source} must hold 0 (off the wafer), 1 (passing) and 2 (failing) only; map {first} holds "
                f"{int(block[tuple(bad)])}"
            )
    corners = np.array([wafer[[0, 0, -1, -1], [0, -1, 0, -1]] for wafer in maps])  # (N, 4)
    for value, remedy in (
        (2, "convert them with (maps + 1) % 3, or read the file with data.reader = outside_2"),
        (1, "set what lies off the wafer to 0"),
    ):
        alike = (corners == value).all(axis=1)
        if 2 * alike.sum() > len(maps):
            raise InputError(
                f"`maps` of {source} hold {value} in all four corners of {alike.sum()} of {len(maps)} maps, where a "
                f"wafer has no die: 0 must be off the wafer, 1 passing and 2 failing; {remedy}"
            )


def _blocks(maps: Maps) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first index, array): the whole stack at once, or map by map where shapes differ."""
    if isinstance(maps, np.ndarray):
        yield 0, maps
    else:
        yield from enumerate(maps)
