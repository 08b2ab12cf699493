"""The features of backbone `spatial` in array operations alone, so that they can be written into a file."""

from typing import Any

import numpy as np

from qwafer.backbones.spatial import BLOCK, BORDER, GRID, N_RINGS, N_SECTORS


def spatial(xp: Any, maps: Any) -> Any:
    """Return the features (batch, 88) float32 of maps (batch, H, W) uint8; `spatial_features` has the formulas.

    `xp` is an array module: `ModuleArrays` or `OnnxArrays`. Sums that decide a bin are float64, as there.
    """
    on, fails = (maps > 0).astype(np.float64), (maps == 2).astype(np.float64)
    rows = xp.expand_dims(xp.indices(maps, 1).astype(np.float64), (0, 2))  # (1, H, 1)
    columns = xp.expand_dims(xp.indices(maps, 2).astype(np.float64), (0, 1))  # (1, 1, W)
    dies = _total(xp, on)  # (batch, 1, 1), as all that follow
    holds = dies > 0
    failing, some = _total(xp, fails), xp.maximum(dies, 1.0)
    centre, radius, offsets = [], [], []
    for place in (rows, columns):
        centre.append(_total(xp, on * place) / some)
        last = xp.max(xp.where(on > 0, on * place, -1.0), axis=(1, 2), keepdims=True)
        first = xp.max(xp.where(on > 0, on * (0.0 - place), -1e9), axis=(1, 2), keepdims=True)
        radius.append(xp.where(holds, (last + first + 1.0) / 2.0, 1.0))
        offsets.append((place - centre[-1]) / radius[-1])
    y, x = offsets  # (batch, H, 1), (batch, 1, W)
    ring = xp.minimum(xp.floor(xp.sqrt(y * y + x * x) * N_RINGS + BORDER), N_RINGS - 1.0)
    sector = _sector(xp, y, x)
    flat = [xp.expand_dims(xp.flatten(part), 1) for part in (ring, sector, fails, on)]  # (batch, 1, H W) each
    numbers = [xp.asarray(np.arange(n, dtype=np.float64)[None, :, None]) for n in (N_RINGS, N_SECTORS)]
    inside = [(of == number).astype(np.float32) for of, number in zip(flat, numbers, strict=False)]
    counted = xp.concatenate([part.astype(np.float32) for part in flat[2:]], axis=1)  # whole numbers below 2^24
    sums = xp.concatenate(inside, axis=1) @ xp.swapaxes(counted, 1, 2, rank=3)  # (batch, 21, 2)
    sums = sums.astype(np.float64)
    rates = _rate(xp, xp.take(sums, np.array([0]), axis=2), xp.take(sums, np.array([1]), axis=2))
    centroid = [_total(xp, fails * place) / xp.maximum(failing, 1.0) for place in (rows, columns)]
    dy, dx = ((at - middle) / half for at, middle, half in zip(centroid, centre, radius, strict=True))
    distance = xp.where(failing > 0, xp.minimum(xp.sqrt(dy * dy + dx * dx), 1.0), 0.0)
    density = _rate(xp, _pooled(xp, fails, GRID), _pooled(xp, on, GRID))
    parts = (failing / some, rates, distance, _entropy(xp, fails, on), density)
    return xp.concatenate([xp.flatten(part) for part in parts], axis=1).astype(np.float32)


def _total(xp: Any, values: Any) -> Any:
    return xp.sum(values, axis=(1, 2), keepdims=True)


def _rate(xp: Any, failing: Any, dies: Any) -> Any:
    return xp.where(dies > 0, failing / xp.maximum(dies, 1.0), 0.0)


def _sector(xp: Any, y: Any, x: Any) -> Any:
    """Return the sector of each die, -1 at the centre."""
    even = ((x > 0) & (y >= 0)) | ((x < 0) & (y <= 0))
    quadrant = xp.where((x <= 0) & (y > 0), 0.0 * (y + x) + 1.0, 3.0)
    quadrant = xp.where(even, xp.where((x > 0) & (y >= 0), 0.0 * (y + x), 2.0), quadrant)
    height, width = xp.abs(y) + 0.0 * x, xp.abs(x) + 0.0 * y
    along, across = xp.where(even, width, height), xp.where(even, height, width)
    sector = quadrant * 2.0 + (across >= along * (1.0 - BORDER)).astype(np.float64)
    return xp.where((height + width) > 0, sector, -1.0)


def _pooled(xp: Any, values: Any, cells: int) -> Any:
    """Return the sums (batch, cells, cells) over a grid of `cells` a side, a die shared by the area in each, in units
    of a die over `cells`^2.
    """
    shares = []
    for axis in (1, 2):
        length = xp.length(values, axis).astype(np.float64)
        die = xp.expand_dims(xp.indices(values, axis).astype(np.float64), 0) * float(cells)  # (1, length)
        cell = xp.asarray(np.arange(cells, dtype=np.float64)[:, None]) * length  # (cells, 1)
        shared = xp.minimum(cell + length, die + float(cells)) - xp.maximum(cell + die * 0.0, die + cell * 0.0)
        shares.append(xp.maximum(shared, 0.0))
    return _summed(xp, shares, values)


def _summed(xp: Any, shares: list[Any], values: Any) -> Any:
    return xp.expand_dims(shares[0], 0) @ (values @ xp.expand_dims(xp.swapaxes(shares[1], 0, 1), 0))


def _entropy(xp: Any, fails: Any, on: Any) -> Any:
    """Return the entropy (batch, 1, 1) of the rates in blocks of `BLOCK` dies a side."""
    shares = []
    for axis in (1, 2):
        block = xp.expand_dims(xp.indices(on, axis, per=BLOCK), 1)
        shares.append((block == xp.expand_dims(xp.indices(on, axis) // BLOCK, 0)).astype(np.float64))
    failing, dies = _summed(xp, shares, fails), _summed(xp, shares, on)
    rates = _rate(xp, failing, dies)
    total = _total(xp, rates)
    p = rates / xp.where(total > 0, total, 1.0)
    terms = xp.where(p > 0, p * xp.log(xp.where(p > 0, p, 1.0)), 0.0)
    blocks = _total(xp, (dies > 0).astype(np.float64))
    return xp.abs(_total(xp, terms)) / xp.log(xp.maximum(blocks, 2.0))
