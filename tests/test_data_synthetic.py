"""The synthetic generator: its combinations, its determinism, and that each pattern is where its cause puts it."""

import numpy as np
import pytest

from qwafer import InputError
from qwafer.data import synthetic_maps
from qwafer.data.mixedwm38 import LABEL_NAMES
from qwafer.data.synthetic import _FIELDS, _Wafer, combinations


def test_the_38_combinations_of_mixedwm38() -> None:
    combos = combinations()
    assert len(combos) == len(set(combos)) == 38
    assert combos[0] == ()
    sizes = np.bincount([len(names) for names in combos])
    assert sizes.tolist() == [1, 8, 13, 12, 4]
    for names in combos:
        assert set(names) <= set(LABEL_NAMES)
        assert not {"Center", "Donut"} <= set(names)
        assert not {"Edge-Loc", "Edge-Ring"} <= set(names)
        if {"Near-full", "Random"} & set(names):
            assert len(names) == 1


@pytest.mark.shared
def test_the_combinations_are_those_of_the_real_data(shared) -> None:  # type: ignore[no-untyped-def]
    labels = np.load(shared / "data" / "mixedwm38.npz")["arr_1"]
    real = {tuple(np.array(LABEL_NAMES)[row > 0]) for row in np.unique(labels, axis=0)}
    assert {frozenset(names) for names in combinations()} == {frozenset(names) for names in real}


def test_all_combinations_are_drawn_and_labels_are_theirs() -> None:
    drawn = synthetic_maps(1500, 0)
    found = {tuple(name for name, on in zip(LABEL_NAMES, row, strict=True) if on) for row in drawn.labels}
    assert {frozenset(names) for names in found} == {frozenset(names) for names in combinations()}
    normal = (~drawn.labels.any(axis=1)).mean()
    assert abs(normal - 4 / 41) < 4 * np.sqrt(4 / 41 * 37 / 41 / 1500)


def test_a_seed_reproduces_bit_for_bit_and_n_has_no_part_in_it() -> None:
    one, two, longer = synthetic_maps(20, 7), synthetic_maps(20, 7), synthetic_maps(33, 7)
    np.testing.assert_array_equal(one.maps, two.maps)
    np.testing.assert_array_equal(one.maps, longer.maps[:20])
    np.testing.assert_array_equal(one.labels, longer.labels[:20])
    assert one.sha256 == two.sha256
    assert one.sha256 != longer.sha256
    other = synthetic_maps(20, 8)
    assert (one.content_ids != other.content_ids).all()
    assert len(set(one.content_ids)) == 20


@pytest.mark.parametrize("size", [12, 26, 53])
def test_wafers_are_round_and_values_are_0_1_2(size: int) -> None:
    maps = synthetic_maps(10, 0, size).maps
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    on = np.hypot(axis[:, None], axis[None]) <= 1
    assert maps.shape == (10, size, size)
    assert set(np.unique(maps)) == {0, 1, 2}
    np.testing.assert_array_equal(maps > 0, np.broadcast_to(on, maps.shape))


def mean_field(name: str, n: int = 200) -> np.ndarray:
    wafer = _Wafer.of(52)
    fields = [_FIELDS[name](wafer, np.random.default_rng([11, i])) for i in range(n)]
    assert all(field.min() >= 0 and field.max() <= 1 for field in fields)
    return np.mean(fields, axis=0)


def test_patterns_lie_where_their_causes_put_them() -> None:
    wafer = _Wafer.of(52)
    inner, middle = wafer.radius < 0.15, (wafer.radius > 0.3) & (wafer.radius < 0.5)
    outer = (wafer.radius > 0.95) & wafer.on
    ring, center, donut = mean_field("Edge-Ring"), mean_field("Center"), mean_field("Donut")
    arc, near_full, uniform = mean_field("Edge-Loc"), mean_field("Near-full"), mean_field("Random")
    assert ring[outer].mean() > 0.3 > 0.01 > ring[wafer.radius < 0.6].max()
    assert 0.02 < arc[outer].mean() < 0.6 * ring[outer].mean()
    assert center[inner].mean() > 2 * center[middle].mean() > 10 * center[outer].mean()
    assert donut[middle].mean() > 2 * donut[inner].mean()
    assert np.ptp(uniform) == 0
    assert 0.3 < uniform.mean() < 0.5
    assert near_full.mean() > 0.75


def test_an_arc_and_a_cluster_are_local_and_a_scratch_is_thin() -> None:
    wafer = _Wafer.of(52)
    for i in range(50):
        arc = _FIELDS["Edge-Loc"](wafer, np.random.default_rng([1, i]))
        hot = arc > arc.max() / 2
        away = np.exp(1j * wafer.angle[hot])
        assert abs(away.mean()) > 0.5, "an arc points one way"
        cluster = _FIELDS["Loc"](wafer, np.random.default_rng([2, i]))
        assert (cluster > cluster.max() / 2).sum() < 0.2 * wafer.on.sum()
        scratch = _FIELDS["Scratch"](wafer, np.random.default_rng([3, i])) > 0
        assert 5 < scratch.sum() < 200
        rows, columns = np.nonzero(scratch)
        neighbours = [(abs(rows - r) <= 1) & (abs(columns - c) <= 1) for r, c in zip(rows, columns, strict=True)]
        assert min(n.sum() for n in neighbours) >= 2, "a line has no stray dies"


def test_intensities_overlap_so_that_no_threshold_tells_a_pattern() -> None:
    drawn = synthetic_maps(1500, 1)
    failing = (drawn.maps == 2).sum(axis=(1, 2)) / (drawn.maps > 0).sum(axis=(1, 2))
    normal = failing[~drawn.labels.any(axis=1)]
    for k, name in enumerate(LABEL_NAMES):
        if name not in ("Near-full", "Random"):
            alone = failing[(drawn.labels[:, k] == 1) & (drawn.labels.sum(axis=1) == 1)]
            assert alone.min() < normal.max(), name


@pytest.mark.parametrize(
    ("arguments", "fragment"), [((0, 0), "`n`"), ((5, -1), "`seed`"), ((5, 0, 11), "`size` must be at least 12")]
)
def test_bad_parameters_are_refused(arguments: tuple[int, ...], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        synthetic_maps(*arguments)
