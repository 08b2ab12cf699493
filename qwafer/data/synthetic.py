"""Synthetic mixed-type wafer maps: each pattern is a spatial process of its physical cause."""

import hashlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from qwafer._checks import LARGEST_SEED, check_positive_int
from qwafer._errors import InputError
from qwafer._io import canonical_json
from qwafer.data.maps import WaferMaps, content_ids
from qwafer.data.mixedwm38 import LABEL_NAMES

VERSION = 1
"""Raised whenever the same seed would give other maps."""

MAX_MAPS = 1_000_000
"""Maps of one draw, at most."""
NORMAL_SHARE = 4
"""Normal maps are so many times as frequent as each of the other 37 combinations, so that small draws hold some."""


CANNOT_SHOW = (
    "the maps are synthetic: linear regression tells them from real ones at a ROC-AUC of 0.93 to 0.95, and heads "
    "trained on them have 0.38 to 0.51 on real Scratch and 0.59 to 0.79 on real Edge-Loc "
    "(benchmarks/synthetic_transfer.py), so that a verdict here says nothing about real wafers"
)
"""What a reader of results on these maps must know."""


def combinations() -> tuple[tuple[str, ...], ...]:
    """Return the 38 label combinations of MixedWM38, the empty one (normal) first.

    Centre or Donut, Edge-Loc or Edge-Ring, Loc, and Scratch combine freely, up to four at once; Near-full and Random
    stand alone (Wang et al. 2020, doi 10.1109/TSM.2020.3020985, table I).
    """
    factors = (("", "Center", "Donut"), ("", "Edge-Loc", "Edge-Ring"), ("", "Loc"), ("", "Scratch"))
    mixed = [tuple(name for name in choice if name) for choice in product(*factors)]
    return (*sorted(mixed, key=lambda names: (len(names), names)), ("Near-full",), ("Random",))


@dataclass(frozen=True)
class _Wafer:
    """The grid of dies of a round wafer, in units of its radius."""

    x: np.ndarray
    """(size, size): horizontal position, -1 .. 1."""
    y: np.ndarray
    """(size, size): vertical position, downwards."""
    radius: np.ndarray
    """(size, size): distance from the wafer's centre."""
    angle: np.ndarray
    """(size, size): arctan2(y, x), radians."""
    on: np.ndarray
    """(size, size) bool: the die lies on the wafer."""

    @classmethod
    def of(cls, size: int) -> "_Wafer":
        axis = (2 * np.arange(size) + 1 - size) / size
        y, x = np.meshgrid(axis, axis, indexing="ij")
        radius = np.hypot(x, y)
        return cls(x, y, radius, np.arctan2(y, x), radius <= 1)


def synthetic_maps(n: int, seed: int, size: int = 52) -> WaferMaps:
    """Return `n` synthetic wafer maps of `size` x `size` dies with the eight labels of MixedWM38.

    Each map draws one of the 38 combinations, then for every die the probability of failure
    p = 1 - (1 - p_background) * prod_k (1 - p_k), where p_k is the field of pattern k:

    - Edge-Ring: a band at the edge (coating, edge-bead removal), width and strength random, modulated round the wafer;
    - Edge-Loc: the same band over an arc only (clamps, uneven heating);
    - Center: a Gaussian blob near the middle (gas flow); Donut: an annulus with an offset centre (pooled liquid);
    - Loc: an elliptic cluster away from the centre and the edge (particles, local contamination);
    - Scratch: a bent line, one to two dies wide, with dies that it skipped (handling, polishing);
    - Random: a high uniform rate; Near-full: almost every die.

    The labels are exact, but strengths and sizes overlap: a faint pattern may drown in the background. Map i comes from
    its own generator `numpy.random.default_rng([seed, i])`, so it depends on neither `n` nor the other maps.

    Raises:
        InputError: `n` < 1, `seed` < 0 or `size` < 12.
    """
    check_positive_int("n", n, maximum=MAX_MAPS)
    check_positive_int("seed", seed, minimum=0, maximum=LARGEST_SEED)
    check_positive_int("size", size, minimum=12)
    wafer = _Wafer.of(size)
    combos = combinations()
    weights = np.ones(len(combos))
    weights[0] = NORMAL_SHARE
    cumulative = np.cumsum(weights / weights.sum())
    maps = np.empty((n, size, size), dtype=np.uint8)
    labels = np.zeros((n, len(LABEL_NAMES)), dtype=np.uint8)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        names = combos[min(int(np.searchsorted(cumulative, rng.random(), side="right")), len(combos) - 1)]
        maps[i] = _draw(wafer, names, rng)
        for name in names:
            labels[i, LABEL_NAMES.index(name)] = 1
    parameters = {"generator": "synthetic_maps", "version": VERSION, "n": n, "seed": seed, "size": size}
    return WaferMaps(
        maps=maps,
        labels=labels,
        label_names=LABEL_NAMES,
        content_ids=content_ids(maps),
        source=f"synthetic (n={n}, seed={seed}, size={size})",
        sha256=hashlib.sha256(canonical_json(parameters).encode()).hexdigest(),
    )


def read_synthetic(path: Path, n: int = 2000, seed: int = 0) -> WaferMaps:
    """Return `synthetic_maps(n, seed)`: the reader of the source `synthetic`, which is not a file."""
    if str(path) != "synthetic":
        raise InputError(f"reader synthetic draws its maps and reads no {path}: set data.source to synthetic")
    return synthetic_maps(n, seed)


def _draw(wafer: _Wafer, names: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Return one map (size, size) uint8 with the patterns `names`."""
    passing = np.full(wafer.on.shape, 1 - rng.uniform(0.02, 0.14))
    for name in names:
        passing *= 1 - _FIELDS[name](wafer, rng)
    fails = rng.random(wafer.on.shape) >= passing
    return np.where(wafer.on, 1 + fails, 0).astype(np.uint8)


def _strength(rng: np.random.Generator) -> float:
    """Peak probability of failure of a pattern, from faint to solid."""
    return float(rng.uniform(0.3, 0.95))


def _band(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    """A band that rises towards the edge within a random width."""
    width = rng.uniform(0.08, 0.25)
    soft = rng.uniform(0.01, 0.05)
    return 1 / (1 + np.exp(np.clip((1 - width - wafer.radius) / soft, -50, 50)))


def _edge_ring(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    phase = rng.uniform(-np.pi, np.pi)
    depth = rng.uniform(0, 0.6)
    around = 1 - depth * (1 + np.cos(wafer.angle - phase)) / 2
    return _strength(rng) * _band(wafer, rng) * around


def _edge_loc(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    middle = rng.uniform(-np.pi, np.pi)
    half_width = rng.uniform(0.2, 1.1)
    away = np.abs((wafer.angle - middle + np.pi) % (2 * np.pi) - np.pi)
    arc = 1 / (1 + np.exp(np.clip((away - half_width) / 0.08, -50, 50)))
    return _strength(rng) * _band(wafer, rng) * arc


def _center(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    x0, y0 = rng.normal(0, 0.08, 2)
    spread = rng.uniform(0.12, 0.32)
    return _strength(rng) * np.exp(-((wafer.x - x0) ** 2 + (wafer.y - y0) ** 2) / (2 * spread**2))


def _donut(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    x0, y0 = rng.normal(0, 0.1, 2)
    radius = rng.uniform(0.25, 0.55)
    thickness = rng.uniform(0.06, 0.16)
    distance = np.hypot(wafer.x - x0, wafer.y - y0)
    return _strength(rng) * np.exp(-((distance - radius) ** 2) / (2 * thickness**2))


def _loc(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    direction = rng.uniform(-np.pi, np.pi)
    distance = rng.uniform(0.35, 0.8)
    tilt = rng.uniform(0, np.pi)
    long, short = rng.uniform(0.12, 0.26), rng.uniform(0.09, 0.16)
    dx = wafer.x - distance * np.cos(direction)
    dy = wafer.y - distance * np.sin(direction)
    u = dx * np.cos(tilt) + dy * np.sin(tilt)
    v = dy * np.cos(tilt) - dx * np.sin(tilt)
    return rng.uniform(0.45, 0.98) * np.exp(-((u / long) ** 2 + (v / short) ** 2) / 2)


def _scratch(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    """A path whose direction drifts, marked die by die; some dies on it are skipped."""
    size = wafer.on.shape[0]
    step = 0.5 / size  # a quarter of a die, so that the line has no holes of its own
    n_steps = int(rng.uniform(0.6, 1.6) / step)
    start_angle, start_radius = rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.75)
    turn = rng.normal(0, 1.2)
    wobble = np.cumsum(rng.normal(0, 0.02, n_steps))
    heading = rng.uniform(-np.pi, np.pi) + turn * step * np.arange(n_steps) + wobble
    x = start_radius * np.cos(start_angle) + np.cumsum(step * np.cos(heading))
    y = start_radius * np.sin(start_angle) + np.cumsum(step * np.sin(heading))
    column = np.floor((x + 1) * size / 2).astype(np.int64)
    row = np.floor((y + 1) * size / 2).astype(np.int64)
    thick = rng.random() < 0.4
    rows, columns = (np.concatenate([row, row + 1]), np.concatenate([column, column])) if thick else (row, column)
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    field = np.zeros(wafer.on.shape)
    field[rows[inside], columns[inside]] = rng.uniform(0.7, 1)
    return field


def _random(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    return np.full(wafer.on.shape, rng.uniform(0.2, 0.6))


def _near_full(wafer: _Wafer, rng: np.random.Generator) -> np.ndarray:
    spared = np.hypot(wafer.x - rng.normal(0, 0.5), wafer.y - rng.normal(0, 0.5))
    return rng.uniform(0.8, 0.99) * (1 - 0.4 * np.exp(-((spared / 0.25) ** 2)))


_FIELDS = {
    "Center": _center,
    "Donut": _donut,
    "Edge-Loc": _edge_loc,
    "Edge-Ring": _edge_ring,
    "Loc": _loc,
    "Near-full": _near_full,
    "Scratch": _scratch,
    "Random": _random,
}
