"""Reader of MixedWM38 in its official layout (Wang et al. 2020, doi 10.1109/TSM.2020.3020985)."""

import warnings
from pathlib import Path

import numpy as np

from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._reading import reads
from qwafer.data.files import check_count, load_npz
from qwafer.data.maps import Recode, WaferMaps, as_is, content_ids

LABEL_NAMES = ("Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc", "Near-full", "Scratch", "Random")
"""The columns of `arr_1`, in the published order."""


@reads("is not a whole file of MixedWM38")
def read_mixedwm38(path: str | Path, recode: Recode = as_is) -> WaferMaps:
    """Return the maps of a MixedWM38 NPZ: `arr_0` (N, 52, 52) of 0..2, `arr_1` (N, 8) multi-hot; all zero is normal.

    The official file holds a few values 3, whose meaning was never published; they are mapped to 2 (failing die), and
    counted in `notes` and in a `UserWarning`. `recode` turns a file of another encoding into this one.

    Raises:
        InputError: another layout, a value of `arr_0` outside 0..3, or of `arr_1` outside 0..1.
    """
    arrays = load_npz(path, ("arr_0", "arr_1"), "MixedWM38")
    maps, labels = arrays["arr_0"], arrays["arr_1"]
    if maps.ndim != 3 or maps.dtype.kind not in "iubf":
        raise InputError(
            f"{path}: arr_0 must be wafer maps (N, H, W) of integers, got {maps.dtype} of shape {maps.shape}"
        )
    if labels.ndim != 2 or labels.shape != (len(maps), len(LABEL_NAMES)) or labels.dtype.kind not in "iubf":
        raise InputError(
            f"{path}: arr_1 must be labels ({len(maps)}, {len(LABEL_NAMES)}) of 0 and 1, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    check_count(path, len(maps))
    _check_values(path, "arr_0", maps, 3)
    _check_values(path, "arr_1", labels, 1)
    maps = recode(maps.astype(np.uint8))
    notes: tuple[str, ...] = ()
    threes = maps == 3
    if threes.any():
        n_maps = int(threes.any(axis=(1, 2)).sum())
        note = f"{int(threes.sum())} dies of value 3 in {n_maps} maps were mapped to 2 (failing)"
        warnings.warn(f"{path}: {note}", UserWarning, stacklevel=2)
        notes = (note,)
        maps[threes] = 2
    return WaferMaps(
        maps=maps,
        labels=labels.astype(np.uint8),
        label_names=LABEL_NAMES,
        content_ids=content_ids(maps),
        source=f"MixedWM38 ({Path(path).name})",
        sha256=file_sha256(path),
        notes=notes,
    )


def _check_values(path: str | Path, name: str, array: np.ndarray, largest: int) -> None:
    """Raise `InputError` unless `array` holds whole numbers 0 .. `largest` only."""
    if not array.size:
        return
    wrong = ~((array >= 0) & (array <= largest))  # so written, NaN is wrong too
    if array.dtype.kind == "f":
        wrong |= array != np.floor(array)
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise InputError(
            f"{path}: {name} must hold 0..{largest} only; {int(wrong.sum())} values do not, the first is "
            f"{array[tuple(first)]} at row {first[0]}"
        )
