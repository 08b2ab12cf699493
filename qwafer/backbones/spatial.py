"""The `spatial` backbone: statistics of where dies fail; no weights, no training."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwafer._errors import InputError
from qwafer.backbones.base import Extractor
from qwafer.data.maps import Maps

N_RINGS = 13
N_SECTORS = 8
BORDER = 1e-9
"""Dies this near to the border of a ring or sector are on it, whatever the rounding: they belong to the next one."""
BLOCK = 4
"""Side of the blocks of the spatial entropy, in dies."""
GRID = 8
"""Cells a side of the coarse density grid."""
CHUNK = 1024
"""Maps worked on at a time, at most."""
CHUNK_DIES = 2**23
"""Dies worked on at a time, beyond a single map, which bounds memory."""

SPATIAL_FEATURE_NAMES: tuple[str, ...] = (
    "failing_ratio",
    *(f"ring_{k}" for k in range(N_RINGS)),
    *(f"sector_{k}" for k in range(N_SECTORS)),
    "centroid_distance",
    "entropy",
    *(f"density_{row}_{column}" for row in range(GRID) for column in range(GRID)),
)


def spatial_features(maps: Maps | Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, 88) float32 features of wafer maps; all lie in [0, 1].

    With f the failing dies, o the dies on the wafer (dies off it count nowhere), and every rate = f / o of its bin,
    0 where the bin holds no die:

    - `failing_ratio`: rate of the whole wafer.
    - `ring_0..12`: rate in 13 rings of equal width in rho, the distance from the wafer's centre over its radius. The
      centre is the centroid of o; the radius is half the extent of o, for rows and columns apart (dies are rarely
      square, wafers are round); rho >= 1 counts in the last ring.
    - `sector_0..7`: rate in 45-degree sectors; sector k holds 45 k <= angle < 45 (k + 1) degrees, angle =
      arctan2(row offset, column offset) modulo 360 in the coordinates of rho. A die at the very centre has no angle
      and counts in none.
    - `centroid_distance`: rho of the centroid of f, at most 1; 0 without failing dies.
    - `entropy`: with r_b the rate in each block of 4 x 4 dies (from the top left; the last ones may be cut) and
      p_b = r_b / sum r, it is -sum_b p_b ln p_b / ln B, over the B blocks that hold dies: 1 for a wafer that fails
      evenly, 0 where a single block fails, where none does, and where B = 1.
    - `density_i_j`: rate in an 8 x 8 grid over the map, a die shared among cells by the area that it covers in each.

    The features of a map are bit for bit the same alone and in any batch: all sums are of integers, which the floats
    used hold exactly. Region rates, angle, centroid and entropy are the features by
    which engineers name patterns; the density grid is what they leave out.

    Args:
        maps: (N, H, W) uint8, or a sequence of (H_i, W_i) arrays; 0 off the wafer, 1 passing, 2 failing.

    Raises:
        InputError: `maps` is not of that form.
    """
    features = np.empty((len(maps), len(SPATIAL_FEATURE_NAMES)), dtype=np.float32)
    if isinstance(maps, np.ndarray):
        if maps.ndim != 3:
            raise InputError(f"`maps` must have shape (N, H, W), got {maps.shape}")
        step = _step(maps.shape[1:])
        for start in range(0, len(maps), step):
            features[start : start + step] = _features_of_stack(maps[start : start + step])
        return features
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, wafer in enumerate(maps):
        by_shape.setdefault(wafer.shape, []).append(i)
    for shape, members in by_shape.items():
        step = _step(shape)
        for start in range(0, len(members), step):
            chunk = members[start : start + step]
            features[chunk] = _features_of_stack(np.stack([maps[i] for i in chunk]))
    return features


def _step(shape: tuple[int, ...]) -> int:
    """Return how many maps of `shape` are worked on at a time."""
    return min(CHUNK, max(1, CHUNK_DIES // max(1, math.prod(shape))))


def _features_of_stack(maps: np.ndarray) -> np.ndarray:
    """Return (n, 88) float64 features of (n, H, W) maps of one shape."""
    n, height, width = maps.shape
    # The largest integer that any sum can reach; float32 is exact up to 2^24, and twice as fast as float64.
    largest = height * width * max(GRID**2, height, width)
    dtype = np.float32 if largest < 2**24 else np.float64
    on = maps > 0
    fails = (maps == 2).astype(dtype)
    first, outline = _outlines(on)
    on = on[first]  # (u, H, W)
    features = np.empty((n, len(SPATIAL_FEATURE_NAMES)))
    end = N_RINGS + N_SECTORS + 2
    order = np.argsort(outline, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(outline))[:-1]):
        geometry = _geometry(np.packbits(on[outline[members[0]]]).tobytes(), height, width)
        sums = fails[members].reshape(len(members), -1) @ geometry.bins.astype(dtype, copy=False)  # (m, 24)
        features[members, :end] = _polar(sums.astype(np.float64), geometry)
    mask = on.astype(dtype)
    blocks = (_overlaps(height, -(-height // BLOCK), 1, BLOCK), _overlaps(width, -(-width // BLOCK), 1, BLOCK))
    features[:, end] = _entropy(_rate(_pooled(fails, *blocks), _pooled(mask, *blocks)[outline], empty=np.nan))
    grid = (_overlaps(height, GRID, GRID, height), _overlaps(width, GRID, GRID, width))
    features[:, end + 1 :] = _rate(_pooled(fails, *grid), _pooled(mask, *grid)[outline])
    return features


def _outlines(on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct outlines of (n, H, W) masks, as (u,) indices of their first, and (n,) the one of each map.

    Most maps of a product share one outline, so that what depends on it alone is worked out once.
    """
    numbers: dict[bytes, int] = {}
    outline = np.empty(len(on), dtype=np.int64)
    first: list[int] = []
    for i, packed in enumerate(np.packbits(on.reshape(len(on), -1), axis=1)):
        outline[i] = number = numbers.setdefault(packed.tobytes(), len(numbers))
        if number == len(first):
            first.append(i)
    return np.array(first), outline


@dataclass(frozen=True)
class _Geometry:
    """What the bins of one wafer outline are."""

    bins: np.ndarray
    """(H * W, 24) float32: 1 at the die's ring and at its sector, its row, its column, 1; all 0 off the wafer."""
    dies: np.ndarray
    """(24,) float64: `bins` summed over all dies."""
    center: tuple[float, float]
    """Row and column of the wafer's centre."""
    radius: tuple[float, float]
    """Half the extent of the wafer in rows and columns, in dies; 1 where there is no die."""


@functools.lru_cache(maxsize=64)
def _geometry(packed: bytes, height: int, width: int) -> _Geometry:
    """Return the bins of a wafer outline, given as packed bits (row-major)."""
    inside = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=height * width) > 0
    row, column = np.repeat(np.arange(height), width), np.tile(np.arange(width), height)
    if not inside.any():
        bins = np.zeros((height * width, N_RINGS + N_SECTORS + 3), dtype=np.float32)
        return _Geometry(bins, bins[0].astype(np.float64), (0.0, 0.0), (1.0, 1.0))
    rows, columns = row[inside], column[inside]
    center = (float(rows.mean()), float(columns.mean()))
    radius = (float(np.ptp(rows) + 1) / 2, float(np.ptp(columns) + 1) / 2)
    y, x = (row - center[0]) / radius[0], (column - center[1]) / radius[1]
    ring = np.minimum((np.hypot(y, x) * N_RINGS + BORDER).astype(np.int64), N_RINGS - 1)
    sector = _sector(y, x)
    indicators = np.column_stack([ring[:, None] == np.arange(N_RINGS), sector[:, None] == np.arange(N_SECTORS)])
    bins = np.column_stack([indicators, row, column, np.ones_like(row)]) * inside[:, None]
    return _Geometry(bins.astype(np.float32), bins.sum(axis=0).astype(np.float64), center, radius)


def _sector(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the 45-degree sector of arctan2(y, x) modulo 360 degrees, -1 at the origin.

    By comparisons instead of arctan2, and with BORDER, so that dies on a diagonal never fall to either side by
    rounding.
    """
    quadrant = np.select(
        [(x > 0) & (y >= 0), (x <= 0) & (y > 0), (x < 0) & (y <= 0), (x >= 0) & (y < 0)], [0, 1, 2, 3], -1
    )
    along = np.where(quadrant % 2 == 0, np.abs(x), np.abs(y))
    across = np.where(quadrant % 2 == 0, np.abs(y), np.abs(x))
    return np.where(quadrant < 0, -1, 2 * quadrant + (across >= along * (1 - BORDER)))


def _polar(sums: np.ndarray, geometry: _Geometry) -> np.ndarray:
    """Return (m, 23): failing ratio, rings, sectors, centroid distance, from the (m, 24) sums over failing dies."""
    binned = N_RINGS + N_SECTORS
    failing = sums[:, -1]
    rates = _rate(sums[:, :binned], geometry.dies[:binned])
    ratio = failing / max(geometry.dies[-1], 1)
    centroid = sums[:, binned : binned + 2] / np.maximum(failing, 1)[:, None]
    offset = (centroid - np.array([geometry.center])) / np.array([geometry.radius])
    distance = np.where(failing > 0, np.minimum(np.hypot(offset[:, 0], offset[:, 1]), 1), 0)
    return np.column_stack([ratio, rates, distance])


def _overlaps(n_dies: int, n_cells: int, die: int, cell: int) -> np.ndarray:
    """Return (n_cells, n_dies) int64: the length that dies of length `die` share with cells of length `cell`."""
    low = np.maximum(np.arange(n_cells)[:, None] * cell, np.arange(n_dies) * die)
    high = np.minimum(np.arange(1, n_cells + 1)[:, None] * cell, np.arange(1, n_dies + 1) * die)
    return np.maximum(high - low, 0)


def _pooled(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return (n, R * C) float64 sums of (n, H, W) `values` over cells given by (R, H) and (C, W) shares."""
    half = values @ columns.T.astype(values.dtype)  # (n, H, C)
    return (rows.astype(values.dtype) @ half).reshape(len(values), -1).astype(np.float64)


def _rate(failing: np.ndarray, dies: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """Return failing / dies, `empty` where there are no dies; (n, B) by (n, B) or (B,)."""
    dies = np.broadcast_to(dies, failing.shape)
    return np.divide(failing, dies, out=np.full_like(failing, empty), where=dies > 0)


def _entropy(rates: np.ndarray) -> np.ndarray:
    """Return (n,) the normalised Shannon entropy of (n, B) block rates; NaN marks blocks off the wafer."""
    n_blocks = np.isfinite(rates).sum(axis=1)
    filled = np.nan_to_num(rates)
    total = filled.sum(axis=1)
    p = filled / np.where(total > 0, total, 1)[:, None]
    log_p = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.abs((p * log_p).sum(axis=1)) / np.log(np.maximum(n_blocks, 2))


def spatial_extractor() -> Extractor:
    """Return the backbone."""

    def features(maps: Sequence[np.ndarray]) -> np.ndarray:
        same_shape = all(m.shape == maps[0].shape for m in maps)
        return spatial_features(np.stack(maps) if same_shape else tuple(maps))

    record = {
        "weights": None,
        "random_weights": None,
        "preprocessing": "none: statistics of the map itself",
        "dtype": "float32",
    }
    return Extractor("spatial", CHUNK, record, features, SPATIAL_FEATURE_NAMES)
