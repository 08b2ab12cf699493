"""Spatial features: a per-map loop as the oracle, patterns with known answers, and the laws of symmetry."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.backbones.spatial import SPATIAL_FEATURE_NAMES, spatial_features
from qwafer.data import read_maps, synthetic_maps

INDEX = {name: i for i, name in enumerate(SPATIAL_FEATURE_NAMES)}
RINGS = slice(INDEX["ring_0"], INDEX["ring_12"] + 1)
SECTORS = slice(INDEX["sector_0"], INDEX["sector_7"] + 1)
DENSITY = slice(INDEX["density_0_0"], INDEX["density_7_7"] + 1)


def oracle(wafer: np.ndarray) -> list[float]:
    """The features of one map by their definition, die by die, without numpy's help."""
    height, width = wafer.shape
    on = [(r, c) for r in range(height) for c in range(width) if wafer[r, c] > 0]
    failing = [(r, c) for r, c in on if wafer[r, c] == 2]
    if not on:
        return [0.0] * 88
    center = [sum(die[axis] for die in on) / len(on) for axis in (0, 1)]
    radius = [(max(die[a] for die in on) - min(die[a] for die in on) + 1) / 2 for a in (0, 1)]

    def rate(dies: dict) -> float:
        return dies["f"] / dies["o"] if dies["o"] else 0.0

    rings = [{"f": 0, "o": 0} for _ in range(13)]
    sectors = [{"f": 0, "o": 0} for _ in range(8)]
    blocks: dict[tuple[int, int], dict] = {}
    cells = {(i, j): {"f": 0.0, "o": 0.0} for i in range(8) for j in range(8)}
    for r, c in on:
        y, x = (r - center[0]) / radius[0], (c - center[1]) / radius[1]
        bins = [
            rings[min(int(13 * math.sqrt(y * y + x * x) + 1e-9), 12)],
            blocks.setdefault((r // 4, c // 4), {"f": 0, "o": 0}),
        ]
        if (y, x) != (0, 0):
            degrees = math.degrees(math.atan2(y, x)) % 360
            nearest = round(degrees / 45) * 45
            if abs(degrees - nearest) < 1e-9:  # on a border: it belongs to the sector that begins there
                degrees = nearest % 360
            bins.append(sectors[int(degrees // 45)])
        for dies in bins:
            dies["o"] += 1
            dies["f"] += wafer[r, c] == 2
        for i in range(r * 8 // height, min((r + 1) * 8 // height + 1, 8)):
            for j in range(c * 8 // width, min((c + 1) * 8 // width + 1, 8)):
                overlap = 1.0
                for die, cell, side in ((r, i, height), (c, j, width)):
                    overlap *= max(0.0, min((die + 1) / side, (cell + 1) / 8) - max(die / side, cell / 8))
                if overlap > 1e-12:
                    cells[i, j]["o"] += overlap
                    cells[i, j]["f"] += overlap * (wafer[r, c] == 2)
    distance = 0.0
    if failing:
        offset = [(sum(die[a] for die in failing) / len(failing) - center[a]) / radius[a] for a in (0, 1)]
        distance = min(math.hypot(*offset), 1.0)
    rates = [rate(block) for block in blocks.values()]
    shares = [r / sum(rates) for r in rates if r > 0]
    entropy = -sum(p * math.log(p) for p in shares) / math.log(len(blocks)) if len(blocks) > 1 else 0.0
    return [
        len(failing) / len(on),
        *map(rate, rings),
        *map(rate, sectors),
        distance,
        entropy,
        *map(rate, cells.values()),
    ]


def disc(size: int, value: int = 1) -> np.ndarray:
    axis = (2 * np.arange(size) + 1 - size) / size
    return np.where(np.hypot(axis[:, None], axis[None]) <= 1, value, 0).astype(np.uint8)


def test_names() -> None:
    assert len(SPATIAL_FEATURE_NAMES) == len(set(SPATIAL_FEATURE_NAMES)) == 88 == 1 + 13 + 8 + 1 + 1 + 64


def test_every_feature_is_what_the_loop_over_dies_finds() -> None:
    maps = synthetic_maps(25, 3).maps
    np.testing.assert_allclose(spatial_features(maps), [oracle(wafer) for wafer in maps], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6), st.floats(0, 1))
def test_maps_of_any_shape_agree_with_the_loop(height: int, width: int, seed: int, off: float) -> None:
    rng = np.random.default_rng(seed)
    wafer = rng.integers(1, 3, (height, width)) * (rng.random((height, width)) >= off)
    wafer = wafer.astype(np.uint8)
    features = spatial_features(wafer[None])[0]
    assert (features >= 0).all()
    assert (features <= 1).all()
    # Without the rings: on odd shapes rho can be k/13 exactly, and rounding decides between two rings.
    np.testing.assert_allclose(features[RINGS.stop :], oracle(wafer)[RINGS.stop :], atol=1e-6)
    np.testing.assert_allclose(features[0], oracle(wafer)[0], atol=1e-6)


@pytest.mark.shared
def test_real_maps_of_many_shapes_agree_with_the_loop(shared: Path) -> None:
    maps = read_maps(shared / "data" / "wm811k.npz").take(np.arange(0, 49798, 2500))
    features = spatial_features(maps.maps)
    assert len({wafer.shape for wafer in maps.maps}) > 10
    np.testing.assert_allclose(features, [oracle(wafer) for wafer in maps.maps], atol=1e-6)


def test_known_patterns_have_known_features() -> None:
    passing, failing = disc(52), disc(52, 2)
    spot = passing.copy()
    spot[24:28, 24:28] = 2  # centred, and one block of the 4 x 4 grid
    clean, full, center = spatial_features(np.stack([passing, failing, spot]))
    assert not clean.any()
    np.testing.assert_allclose(full[: INDEX["centroid_distance"]], 1)
    assert full[INDEX["centroid_distance"]] == pytest.approx(0, abs=1e-7)
    assert full[INDEX["entropy"]] == pytest.approx(1, abs=1e-6)
    assert center[INDEX["failing_ratio"]] == pytest.approx(16 / (passing > 0).sum())
    assert center[INDEX["ring_0"]] == 1
    assert not center[INDEX["ring_2"] : RINGS.stop].any()
    assert np.ptp(center[SECTORS]) < 0.01
    assert center[INDEX["entropy"]] == 0
    half = passing.copy()
    half[:, 26:][half[:, 26:] > 0] = 2
    right = spatial_features(half[None])[0]
    assert right[SECTORS].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert right[DENSITY].reshape(8, 8)[4].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert right[INDEX["centroid_distance"]] == pytest.approx(4 / (3 * np.pi), abs=0.01), "centroid of a half disc"


def test_the_verification_map_of_the_reference() -> None:
    """Reference 001, section 3.2: rows cut off at top and bottom, a 4 x 4 cluster in the middle."""
    wafer = np.ones((26, 26), np.uint8)
    wafer[:3] = wafer[-3:] = 0
    wafer[11:15, 11:15] = 2
    features = spatial_features(wafer[None])[0]
    assert features[INDEX["failing_ratio"]] == pytest.approx(16 / (20 * 26))
    assert features[INDEX["centroid_distance"]] < 0.3


def rotated(features: np.ndarray) -> np.ndarray:
    """What `np.rot90` (counter-clockwise on screen) does to the features."""
    turned = features.copy()
    # (row, column) offsets (y, x) go to (-x, y): the angle arctan2(y, x) falls by 90 degrees.
    turned[:, SECTORS] = np.roll(features[:, SECTORS], -2, axis=1)
    grid = features[:, DENSITY].reshape(-1, 8, 8)
    turned[:, DENSITY] = np.rot90(grid, axes=(1, 2)).reshape(len(features), 64)
    return turned


@pytest.mark.parametrize("size", [52, 48])
def test_a_quarter_turn_permutes_sectors_and_grid_and_leaves_the_rest(size: int) -> None:
    maps = synthetic_maps(40, 4, size).maps
    turned = spatial_features(np.rot90(maps, axes=(1, 2)))
    np.testing.assert_allclose(turned, rotated(spatial_features(maps)), atol=1e-6)


def test_a_mirror_swaps_the_sides_of_the_grid_and_keeps_what_has_no_side() -> None:
    maps = synthetic_maps(40, 5).maps
    features, mirrored = spatial_features(maps), spatial_features(maps[:, :, ::-1])
    sideless = [0, *range(RINGS.start, RINGS.stop), INDEX["centroid_distance"], INDEX["entropy"]]
    np.testing.assert_allclose(mirrored[:, sideless], features[:, sideless], atol=1e-6)
    grid = features[:, DENSITY].reshape(-1, 8, 8)[:, :, ::-1]
    np.testing.assert_allclose(mirrored[:, DENSITY].reshape(-1, 8, 8), grid, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_resolution_changes_neither_grid_nor_centroid(factor: int) -> None:
    maps = synthetic_maps(20, 6).maps
    finer = np.kron(maps, np.ones((1, factor, factor), np.uint8))
    features, fine = spatial_features(maps), spatial_features(finer)
    same = [0, INDEX["centroid_distance"], *range(DENSITY.start, DENSITY.stop)]
    np.testing.assert_allclose(fine[:, same], features[:, same], atol=1e-6)
    assert np.abs(fine[:, RINGS] - features[:, RINGS]).mean() < 0.02


def test_stretched_dies_leave_the_polar_features_alone() -> None:
    """Dies twice as wide as high: the wafer stays round in the features."""
    wafer = disc(40)
    wafer[25:30, 8:16] = 2
    features = spatial_features(wafer[None])
    wide = spatial_features(np.repeat(wafer, 2, axis=0)[None])
    np.testing.assert_allclose(wide[:, INDEX["centroid_distance"]], features[:, INDEX["centroid_distance"]], atol=1e-6)
    np.testing.assert_allclose(wide[:, DENSITY], features[:, DENSITY], atol=1e-6)
    np.testing.assert_allclose(wide[:, SECTORS], features[:, SECTORS], atol=0.02)


def test_dies_off_the_wafer_never_count() -> None:
    """A frame of nothing round the map moves every die and changes no polar feature."""
    maps = synthetic_maps(10, 7).maps
    framed = np.pad(maps, ((0, 0), (3, 5), (8, 1)))
    end = INDEX["centroid_distance"] + 1
    np.testing.assert_array_equal(spatial_features(framed)[:, :end], spatial_features(maps)[:, :end])
    assert not spatial_features(np.zeros((2, 9, 7), np.uint8)).any()


def test_features_of_a_map_are_the_same_bits_alone_and_in_any_batch() -> None:
    maps = synthetic_maps(1100, 8).maps
    together = spatial_features(maps)
    for i in (0, 1, 517, 1023, 1024, 1099):
        np.testing.assert_array_equal(spatial_features(maps[i : i + 1])[0], together[i])
    np.testing.assert_array_equal(spatial_features(maps[::-1])[::-1], together)
    np.testing.assert_array_equal(spatial_features(list(maps[:300])), together[:300])
    assert together.dtype == np.float32


def test_ragged_maps_keep_their_order() -> None:
    shapes = [(12, 15), (9, 9), (12, 15), (30, 22), (9, 9)]
    rng = np.random.default_rng(0)
    maps = tuple(rng.integers(0, 3, shape, dtype=np.uint8) for shape in shapes)
    np.testing.assert_array_equal(spatial_features(maps), np.concatenate([spatial_features(m[None]) for m in maps]))


def test_large_maps_are_summed_exactly() -> None:
    """Beyond 2^24 the sums leave float32; this map's would."""
    rng = np.random.default_rng(1)
    wafer = rng.integers(1, 3, (600, 600), dtype=np.uint8)
    features = spatial_features(wafer[None])[0]
    rows, columns = np.nonzero(wafer == 2)
    offset = np.hypot((rows.mean() - 299.5) / 300, (columns.mean() - 299.5) / 300)
    assert features[INDEX["centroid_distance"]] == pytest.approx(offset, rel=1e-6)
    np.testing.assert_allclose(
        features[DENSITY].reshape(8, 8), (wafer == 2).reshape(8, 75, 8, 75).mean(axis=(1, 3)), rtol=1e-6
    )


def test_a_single_map_is_not_a_stack() -> None:
    with pytest.raises(InputError, match=r"`maps` must have shape \(N, H, W\), got \(52, 52\)"):
        spatial_features(disc(52))
    assert spatial_features(()).shape == (0, 88)
