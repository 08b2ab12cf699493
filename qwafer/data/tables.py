"""Tables of numbers with labels, from CSV, NPZ or Parquet: columns by name, and what of them must not be a feature."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import check_printable, nearest
from qwafer._errors import CapabilityError, InputError
from qwafer._reading import check_unpacked, reads
from qwafer.data.files import ZIP_MAGIC, check_file, read_npz

PARQUET_MAGIC = b"PAR1"
SHOWN = 8
"""Names of columns that a message lists."""
GLANCE = 512
"""Rows that rule out most columns as copies of the label, before all are asked."""


@dataclass(frozen=True)
class Roles:
    """Which columns of a table are not features."""

    labels: tuple[str, ...] = ("label",)
    """The class of each row, or one column of 0 and 1 per label."""
    fold: str | None = None
    """The published fold of each row; none: the column `fold`, if there is one."""
    group: str | None = None
    """The lot, recording or person of each row; none: the column `group`, if there is one."""
    time: str | None = None
    """A number that orders the rows in time."""
    id: str | None = None
    """Equal for rows that no split may separate; none: equal rows stay together."""
    drop: tuple[str, ...] = ()
    """Columns that are left out."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The rows of a table, sorted by role."""

    features: np.ndarray
    """(N, D) real numbers."""
    feature_names: tuple[str, ...]
    """D names."""
    labels: np.ndarray
    """(N,) classes, or (N, K) of 0 and 1."""
    label_names: tuple[str, ...] | None
    """Names of the labels; None for classes, which name themselves."""
    columns: dict[str, np.ndarray]
    """`folds`, `groups`, `times` and `content_ids`, those that there are."""
    roles: Roles
    """The roles as they were found."""


@reads("is not a whole table")
def read_table(path: str | Path, roles: Roles | None = None) -> Embeddings:
    """Return the table of a CSV, NPZ or Parquet file; every column without a role is a feature.

    In an NPZ, an array (N,) is a column and an array (N, D) so many of them, `NAME_0` to `NAME_(D-1)`; so is a column
    of lists in Parquet.

    Raises:
        InputError: a damaged file, names that are missing, empty or occur twice, features that are not numbers or not
            finite, columns that are a label once more or number the rows, and rows without a fold, group or id where
            others have one.
        CapabilityError: Parquet without pyarrow.
    """
    roles = Roles() if roles is None else roles
    path = check_file(path)
    columns = read_columns(path)
    _check_names(path, list(columns))
    n = len(next(iter(columns.values())))
    uneven = [name for name, column in columns.items() if len(column) != n]
    if uneven:
        raise InputError(
            f"{path}: the columns must have one length; {uneven[0]} has {len(columns[uneven[0]])}, not {n}"
        )
    if not n:
        raise InputError(f"{path} has columns and no rows; at least one is needed")
    roles = _found(path, columns, roles)
    single = {"folds": roles.fold, "groups": roles.group, "times": roles.time, "content_ids": roles.id}
    taken = {*roles.labels, *roles.drop, *(name for name in single.values() if name is not None)}
    features, names = _features(path, {name: column for name, column in columns.items() if name not in taken})
    labels = _labels(path, columns, roles.labels)
    for role, column in (("fold", roles.fold), ("group", roles.group), ("id", roles.id)):
        if column is not None:
            check_whole(path, role, column, columns[column])
    _check_copies(path, features, names, labels)
    named = roles.labels if labels.ndim == 2 and len(roles.labels) == labels.shape[1] else None
    if labels.ndim == 1 and labels.dtype.kind != "U" and set(np.unique(labels).tolist()) <= {0, 1}:
        named = roles.labels
    return Embeddings(
        features=features,
        feature_names=names,
        labels=labels,
        label_names=named,
        columns={key: columns[name] for key, name in single.items() if name is not None},
        roles=roles,
    )


@reads("is not a whole table")
def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV, NPZ or Parquet file by name; raise InputError for a damaged one."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(ZIP_MAGIC):
        return read_npz(path)
    return _of_parquet(path) if start == PARQUET_MAGIC else _of_csv(path)


def _of_csv(path: Path) -> dict[str, np.ndarray]:
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as file:
        if "\0" in file.read(4096):
            raise InputError(f"{path} is not a table: expected CSV, NPZ or Parquet")
        file.seek(0)
        header = next(csv.reader(file), [])
    _check_names(path, header)
    # Nothing stands for "missing": a class may be called none, and an empty feature must not pass as a number.
    frame = pd.read_csv(path, keep_default_na=False, low_memory=False, encoding="utf-8-sig", skip_blank_lines=True)
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(f"{path} is not a whole CSV file: its rows have more entries than its header")
    return {str(name): _plain(column) for name, column in frame.items()}


def _of_parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise CapabilityError(
            f"{path} is Parquet, which needs the package pyarrow: install qwafer[parquet], or write the table as "
            "CSV or NPZ"
        ) from error
    with parquet.ParquetFile(path) as file:
        check_unpacked(path, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)))
        names = file.schema_arrow.names
        _check_names(path, names)
        table = file.read()
    return {name: _stacked(path, name, _plain(table.column(name).to_pandas())) for name in names}


def _plain(column: Any) -> np.ndarray:
    """Return a column of pandas as an array: numbers as they are, texts as str, what is mixed as objects."""
    values = column.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    objects = column.to_numpy(dtype=object)
    return objects.astype(np.str_) if all(isinstance(value, str) for value in objects) else objects


def _stacked(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """Return a column of lists as (N, D)."""
    if column.dtype != object or not any(isinstance(value, (np.ndarray, list)) for value in column):
        return column
    rows = [np.atleast_1d(np.asarray(value)) for value in column]
    if len({row.shape for row in rows}) > 1:
        raise InputError(
            f"{path}: the lists of column {name} must have one length, got {sorted({len(r) for r in rows})[:3]}"
        )
    return np.stack(rows)


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"{path} has no columns")
    for name in names:
        check_printable(f"a column of {path}", name)
    blank = [i + 1 for i, name in enumerate(names) if not name.strip()]
    if blank:
        raise InputError(
            f"{path}: column {blank[0]} has no name (is it an index? write the table without it, as "
            "to_csv(index=False) does)"
        )
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{path}: the name {twice[0]} stands above more than one column; names must be distinct")


def _found(path: Path, columns: Mapping[str, np.ndarray], roles: Roles) -> Roles:
    """Return the roles with the columns `fold` and `group` found by name; raise InputError for columns that are not
    there, or that have two roles.
    """
    wanted = [*roles.labels, *roles.drop, *(name for name in (roles.fold, roles.group, roles.time, roles.id) if name)]
    for name in wanted:
        if name not in columns:
            listed = ", ".join([*columns][:SHOWN]) + (", ..." if len(columns) > SHOWN else "")
            raise InputError(f"{path} has no column {name}{nearest(name, columns)} (it has {listed})")
    twice = [name for name in wanted if wanted.count(name) > 1]
    if twice:
        raise InputError(f"{path}: the column {twice[0]} is named for two purposes")
    if not roles.labels:
        raise InputError(f"{path}: name at least one column of labels")

    def by_name(name: str) -> str | None:
        return name if name in columns and name not in wanted and columns[name].ndim == 1 else None

    return Roles(
        roles.labels, roles.fold or by_name("fold"), roles.group or by_name("group"), roles.time, roles.id, roles.drop
    )


def _features(path: Path, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (N, D) numbers and D names; raise InputError for what is not a finite number."""
    blocks, names = [], []
    for name, column in columns.items():
        if column.dtype.kind not in "biuf" or column.ndim not in (1, 2):
            odd = next((value for value in column.ravel().tolist() if not _is_number(value)), None)
            raise InputError(
                f"{path}: the column {name} is not of numbers (it holds {odd!r:.40}): give it a role, or leave it out "
                f"(drop {name})"
            )
        block = column.reshape(len(column), -1)
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            raise InputError(
                f"{path}: the column {name} must be finite; row {bad[0][0] + 1} of the data is {block[tuple(bad[0])]}"
            )
        blocks.append(block)
        names += [name] if column.ndim == 1 else [f"{name}_{j}" for j in range(block.shape[1])]
    if not names:
        raise InputError(f"{path} has no column that is a feature")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: the arrays give two features of one name; rename one of them")
    return np.concatenate(blocks, axis=1), tuple(names)


def _is_number(text: Any) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except (TypeError, ValueError, OverflowError):
        return False


def _labels(path: Path, columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return the (N,) classes of one column, or (N, K) of 0 and 1."""
    for name in names:
        column = columns[name]
        check_whole(path, "label", name, column)
        if column.dtype.kind not in "biufU":
            raise InputError(f"{path}: the column {name} must hold whole numbers or texts, as labels are")
    if len(names) == 1:
        return columns[names[0]]
    if any(columns[name].ndim != 1 for name in names):
        raise InputError(f"{path}: labels are either one array (N, K) or columns, not both")
    return np.stack([columns[name] for name in names], axis=1)


def check_whole(path: Path, role: str, name: str, column: np.ndarray) -> None:
    """Raise InputError for a row that has no entry in a column: all such rows would be one class, fold or lot."""
    empty = [i for i, value in enumerate(column.tolist()) if value == "" or value is None or value != value]
    if column.ndim == 1 and empty:
        raise InputError(f"{path}: row {empty[0] + 1} of the data has no {role} (column {name} is empty there)")


def _check_copies(path: Path, features: np.ndarray, names: Sequence[str], labels: np.ndarray) -> None:
    """Raise InputError for a feature that is a label in other words, or all of them, or that numbers the rows: a head
    would learn the answer, or the order of the file, from it.
    """
    n = len(features)
    answers = [labels, *(labels.T if labels.ndim == 2 else ())]
    every = [np.unique(answer, axis=0, return_inverse=True)[1].ravel() for answer in answers]
    every = [codes for codes in every if 2 <= int(codes.max()) + 1 < n / 2]
    for name, column in zip(names, features.T, strict=True):
        if n > 2 and column[1] != column[0] and (np.diff(column) == column[1] - column[0]).all():
            raise InputError(f"{path}: the column {name} numbers the rows: leave it out (drop {name})")
        if any(_same(column[:GLANCE], codes[:GLANCE]) and _same(column, codes) for codes in every):
            raise InputError(
                f"{path}: the column {name} is the label in other words (one value for each class): leave it out "
                f"(drop {name})"
            )


def _same(column: np.ndarray, codes: np.ndarray) -> bool:
    """Return whether each value stands for one code, and each code for one value."""
    values = np.unique(column, return_inverse=True)[1].ravel()
    pairs = len(np.unique(values * (int(codes.max()) + 1) + codes))
    return pairs == int(values.max()) + 1 == len(np.unique(codes))
