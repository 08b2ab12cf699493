"""Reader of wafer maps in another encoding: 0 passing die, 1 failing die, 2 off the wafer."""

from pathlib import Path

import numpy as np

from qwafer._errors import InputError
from qwafer._reading import reads
from qwafer.data.files import npz_keys
from qwafer.data.maps import WaferMaps
from qwafer.data.mixedwm38 import read_mixedwm38
from qwafer.data.wm811k import read_wm811k


@reads("is not a whole file of wafer maps")
def read_outside_2(path: str | Path) -> WaferMaps:
    """Return the maps of a file in the layout of MixedWM38 or of packed WM-811K whose dies are 0 passing, 1 failing and
    2 off the wafer, as 1, 2 and 0.

    Raises:
        InputError: what these readers refuse, a value above 2, or a file whose maps have 0 in their corners.
    """
    return read_mixedwm38(path, recoded) if "arr_0" in npz_keys(Path(path)) else read_wm811k(path, recoded)


def recoded(dies: np.ndarray) -> np.ndarray:
    """Return `dies` of 0 passing, 1 failing, 2 off the wafer as 1, 2, 0."""
    if dies.size and dies.max() > 2:
        raise InputError(f"reader outside_2 takes dies of 0, 1 and 2, got {dies.max()}")
    if dies.size and dies.ravel()[0] == 0:
        raise InputError("reader outside_2 takes maps with 2 off the wafer; this one has 0 in its corners already")
    return ((dies + 1) % 3).astype(np.uint8)
