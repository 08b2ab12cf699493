"""Reader of the original WM-811K file, `LSWMD.pkl`: a pickled DataFrame of an old pandas."""

from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._reading import UNPACKED_BYTES, check_unpacked, reads
from qwafer.data._frame import frame_columns, plain_text, to_array, to_scalar
from qwafer.data._unpickle import Record, load_records
from qwafer.data.files import check_file
from qwafer.data.maps import Maps, WaferMaps, content_ids, one_hot

CLASSES = ("Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Random", "Scratch", "none")
REQUIRED_COLUMNS = ("waferMap", "failureType")


@reads("is not a whole table of wafer maps")
def read_lswmd(path: str | Path) -> WaferMaps:
    """Return the labelled maps of LSWMD.pkl (Wu, Jang and Chen 2015, doi 10.1109/TSM.2014.2364237).

    The pickle is read without running anything of it (see `_unpickle`): names other than those by which numpy and
    pandas rebuild arrays and frames are refused. Columns: `waferMap` (H_i, W_i) of 0..2, `failureType` nested as in
    [['Center']] and empty where unlabelled, `lotName` (optional, becomes the group). Unlabelled rows are left out and
    counted in `notes`. The nine classes exclude one another: `exclusive` is set.

    Raises:
        InputError: not a pickle, a pickle that asks for anything else (named), no such DataFrame, an unknown class, or
            a map with values outside 0..2.
    """
    path = check_file(path)
    content = load_records(path)
    try:
        columns = frame_columns(content)
        missing = [name for name in REQUIRED_COLUMNS if name not in columns]
        if missing:
            raise InputError(
                f"the DataFrame has the columns {', '.join(columns)}; LSWMD needs {', '.join(REQUIRED_COLUMNS)}: "
                f"{', '.join(missing)} missing"
            )
        names = [_nested_text(cell) for cell in columns["failureType"]]
        labelled = [i for i, name in enumerate(names) if name]
        codes = np.array([_class_number(names[i], i) for i in labelled], dtype=np.int64)
        maps = _maps([columns["waferMap"][i] for i in labelled], labelled, path)
        lots = columns.get("lotName")
        groups = None if lots is None else np.array([plain_text(lots[i], "lotName") for i in labelled], dtype=np.str_)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not labelled:
        raise InputError(
            f"{path}: none of the {len(names)} rows has a failureType; at least one labelled map is needed"
        )
    dropped = len(names) - len(labelled)
    stacked: Maps = np.stack(maps) if len({wafer.shape for wafer in maps}) == 1 else maps
    return WaferMaps(
        maps=stacked,
        labels=one_hot(codes, len(CLASSES)),
        label_names=CLASSES,
        content_ids=content_ids(stacked),
        source=f"WM-811K ({path.name})",
        sha256=file_sha256(path),
        groups=groups,
        notes=(f"{dropped} of {len(names)} rows have no failureType and were left out",) if dropped else (),
        exclusive=True,
    )


def _nested_text(cell: Any) -> str:
    """Return the text inside nested arrays or lists of one entry each, "" where they are empty."""
    for _ in range(8):
        if isinstance(cell, Record) and cell.name in ("_reconstruct", "_frombuffer"):
            cell = to_array(cell)
        if isinstance(cell, (np.ndarray, list, tuple)):
            entries = cell.ravel().tolist() if isinstance(cell, np.ndarray) else list(cell)
            if not entries:
                return ""
            if len(entries) > 1:
                raise InputError(f"failureType holds {len(entries)} entries in one row; a map has one class")
            cell = entries[0]
        else:
            break
    cell = to_scalar(cell)
    if cell is None or isinstance(cell, (int, float)):  # NaN, or the 0 that some copies have for "unlabelled"
        return ""
    return plain_text(cell, "failureType").strip()


def _class_number(name: str, row: int) -> int:
    spelled = "none" if name.casefold() == "none" else name
    if spelled not in CLASSES:
        raise InputError(f"row {row} has the failureType {name[:40]!r}; expected one of {', '.join(CLASSES)}")
    return CLASSES.index(spelled)


def _maps(cells: list[Any], rows: list[int], path: Path) -> tuple[np.ndarray, ...]:
    """Return the maps of some rows, which may be one object a million times: no more of them than a file may hold."""
    maps: list[np.ndarray] = []
    dies = 0
    for cell, row in zip(cells, rows, strict=True):
        maps.append(_map(cell, row))
        dies += maps[-1].size
        if dies > UNPACKED_BYTES:
            check_unpacked(path, dies)
    return tuple(maps)


def _map(cell: Any, row: int) -> np.ndarray:
    wafer = to_array(cell)
    if wafer.ndim != 2 or wafer.dtype.kind not in "iuf":
        raise InputError(
            f"waferMap of row {row} must be a two-dimensional array of 0..2, got {wafer.dtype} {wafer.shape}"
        )
    if wafer.dtype != np.uint8 and not np.isin(wafer, (0, 1, 2)).all():  # `WaferMaps` checks the values of uint8
        raise InputError(f"waferMap of row {row} must hold 0..2 only, got {wafer.min()}..{wafer.max()}")
    return np.ascontiguousarray(wafer, dtype=np.uint8)
