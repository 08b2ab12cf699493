"""A backbone of a stranger's own: a plain function of maps."""

from collections.abc import Sequence

import numpy as np


def quadrants(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return the failing rate in the four quadrants of each map, (n, 4)."""
    rows = []
    for wafer in maps:
        parts = [half for part in np.array_split(wafer, 2) for half in np.array_split(part, 2, axis=1)]
        rows.append([(part == 2).sum() / max((part > 0).sum(), 1) for part in parts])
    return np.array(rows)
