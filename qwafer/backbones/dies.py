"""The dies themselves as features, for heads that are networks on the map."""

from collections.abc import Sequence

import numpy as np

from qwafer.backbones.base import Extractor
from qwafer.backbones.preprocess import resize_nearest

SIZES = (26, 32, 52, 64)
"""Sides of the grids that maps are brought to, in dies."""
GROUP = 256
"""Maps a call."""


def dies_extractor(size: int) -> Extractor:
    """Return the backbone `dies_SIZE`: (n, size * size) float32 of the dies, row by row, 0 off the wafer, 1 passing and
    2 failing, after nearest neighbour (pixel centres), which leaves a map of that size as it is.
    """

    def features(maps: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([resize_nearest(one, size).reshape(-1) for one in maps]).astype(np.float32)

    record = {
        "weights": None,
        "random_weights": None,
        "preprocessing": f"{size} x {size} dies, nearest neighbour, pixel centres",
        "dtype": "float32",
    }
    return Extractor(f"dies_{size}", GROUP, record, features)


DIES_26, DIES_32, DIES_52, DIES_64 = (dies_extractor(size) for size in SIZES)
