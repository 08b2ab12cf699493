"""Splits: a partition that no map straddles, stratified, the same whatever the order of rows."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.data import Split, make_split, read_maps
from qwafer.data.splits import PARTS, _joined

FRACTIONS = np.array([0.7, 0.1, 0.2])


def example(n: int, seed: int, duplicates: float = 0.1, n_labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and content ids, some of the rows copies of others."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, n_labels)) < rng.uniform(0.02, 0.6, n_labels)).astype(np.uint8)
    source = np.where(rng.random(n) < duplicates, rng.integers(0, n, n), np.arange(n))
    return labels[source], np.array([f"{i:016x}" for i in source])


def parts_of(split: Split, ids: np.ndarray) -> dict[str, str]:
    """The part of each content id; fails if one is in two."""
    found: dict[str, str] = {}
    for name in PARTS:
        for content in ids[getattr(split, name)]:
            assert found.setdefault(str(content), name) == name, f"{content} straddles"
    return found


def assert_partition(split: Split, n: int) -> None:
    rows = np.concatenate([split.train, split.val, split.test])
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(rows), np.arange(n))
    for name in PARTS:
        part = getattr(split, name)
        assert len(part)
        assert (np.diff(part) > 0).all()
        assert (split.parts()[part] == name).all()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(10, 400),
    seed=st.integers(0, 10**6),
    duplicates=st.sampled_from([0.0, 0.1, 0.7]),
    by=st.sampled_from(["content", "group", "time"]),
)
def test_a_split_is_a_partition_that_no_map_straddles(n: int, seed: int, duplicates: float, by: str) -> None:
    labels, ids = example(n, seed, duplicates)
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, max(n // 3, 3), n).astype(str)
    units = len(np.unique(_joined(np.unique(ids, return_inverse=True)[1], groups)))
    assume(by == "content" or units >= 3)
    split = make_split(labels, ids, seed=seed, by=by, groups=groups, times=rng.random(n))
    assert_partition(split, n)
    parts_of(split, ids)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(200, 1500), seed=st.integers(0, 10**6), n_labels=st.integers(1, 8))
def test_fractions_hold_for_rows_and_for_every_label(n: int, seed: int, n_labels: int) -> None:
    labels, ids = example(n, seed, 0.05, n_labels)
    split = make_split(labels, ids, seed=seed)
    for name, fraction in zip(PARTS, FRACTIONS, strict=True):
        part = getattr(split, name)
        assert abs(len(part) - fraction * n) <= 0.02 * n
        # Proportional to within a few rows: one for the label itself, the rest for what its companions pull along.
        assert (np.abs(labels[part].sum(axis=0) - fraction * labels.sum(axis=0)) <= 4 + 0.02 * n).all()


def test_frequent_combinations_are_shared_out_exactly() -> None:
    combos = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]], np.uint8)
    labels = np.repeat(combos, 100, axis=0)
    split = make_split(labels, np.arange(400).astype(str), seed=3)
    for name, count in zip(PARTS, (70, 10, 20), strict=True):
        part = labels[getattr(split, name)]
        for combo in combos:
            assert (part == combo).all(axis=1).sum() == count


def test_a_rare_label_reaches_every_part() -> None:
    """Three positives that a random split would put into train; each of them alone in its combination."""
    labels = np.zeros((300, 5), np.uint8)
    labels[:, 0] = np.arange(300) % 2
    labels[0, 4] = labels[1, 4] = labels[2, 4] = labels[0, 1] = labels[1, 2] = labels[2, 3] = 1
    ids = np.arange(300).astype(str)
    rare_in_test = [
        labels[make_split(labels, ids, seed=s, train_fraction=1 / 3, val_fraction=1 / 3).test, 4].sum()
        for s in range(20)
    ]
    assert rare_in_test == [1] * 20


def test_iterative_stratification_beats_chance_on_rare_labels() -> None:
    def worst(split_rows: list[np.ndarray], labels: np.ndarray) -> float:
        shares = [
            np.abs(labels[rows].sum(axis=0) / labels.sum(axis=0) - f).max()
            for rows, f in zip(split_rows, FRACTIONS, strict=True)
        ]
        return float(max(shares))

    gains = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = (rng.random((600, 20)) < 0.05).astype(np.uint8)
        split = make_split(labels, np.arange(600).astype(str), seed=seed)
        shuffled = np.split(rng.permutation(600), [420, 480])
        gains.append(worst(shuffled, labels) - worst([split.train, split.val, split.test], labels))
    assert min(gains) > 0


@pytest.mark.parametrize("by", ["content", "group", "time"])
def test_the_order_of_rows_does_not_matter(by: str) -> None:
    labels, ids = example(500, 1, 0.3)
    rng = np.random.default_rng(0)
    groups, times = rng.integers(0, 200, 500).astype(str), rng.integers(0, 50, 500).astype(float)
    order = rng.permutation(500)
    one = make_split(labels, ids, seed=4, by=by, groups=groups, times=times)
    two = make_split(labels[order], ids[order], seed=4, by=by, groups=groups[order], times=times[order])
    assert parts_of(one, ids) == parts_of(two, ids[order])
    assert one.digest == two.digest


def test_the_seed_decides_and_the_digest_tells() -> None:
    labels, ids = example(300, 2)
    one, again, other = (make_split(labels, ids, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.train, again.train)
    assert one.digest == again.digest
    assert one.digest != other.digest
    assert parts_of(one, ids) != parts_of(other, ids)
    renamed = make_split(labels, np.char.add("x", ids), seed=0)
    assert renamed.digest != one.digest, "other content is another split"
    fewer = make_split(labels, ids, seed=0, train_fraction=0.6)
    assert fewer.digest != one.digest


def test_contradictory_duplicates_stay_together_and_are_reported() -> None:
    labels = np.tile(np.eye(2, dtype=np.uint8), (30, 1))
    ids = np.arange(60).astype(str)
    ids[1] = ids[0]
    ids[5] = ids[4] = ids[3]
    ids[9] = ids[7]  # equal labels: a duplicate, but no contradiction
    split = make_split(labels, ids, seed=0)
    assert split.notes[0] == "2 maps occur with contradictory labels (5 rows); they stay together in one part"
    parts_of(split, ids)
    assert make_split(labels, np.arange(60).astype(str), seed=0).notes == ()


def test_many_copies_of_one_map_do_not_upset_the_fractions() -> None:
    labels, ids = example(1000, 3, 0.0)
    ids[:150] = ids[0]
    labels[:150] = labels[0]
    split = make_split(labels, ids, seed=0)
    assert [len(split.train), len(split.val), len(split.test)] == pytest.approx([700, 100, 200], abs=12)


def test_groups_stay_together_and_labels_in_balance() -> None:
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 300, 3000).astype(str)
    labels = (rng.random((3000, 5)) < [0.5, 0.2, 0.1, 0.05, 0.02]).astype(np.uint8)
    split = make_split(labels, np.arange(3000).astype(str), seed=0, by="group", groups=groups)
    assert_partition(split, 3000)
    parts_of(split, groups)
    for name, fraction in zip(PARTS, FRACTIONS, strict=True):
        part = getattr(split, name)
        assert abs(len(part) / 3000 - fraction) < 0.02
        assert (np.abs(labels[part].sum(axis=0) / labels.sum(axis=0) - fraction) < 0.05).all()


def test_groups_that_share_a_map_become_one() -> None:
    groups = np.repeat([f"lot{i}" for i in range(30)], 10)
    ids = np.arange(300).astype(str)
    ids[5], ids[15] = ids[25], ids[35]  # lot0 = lot2 and lot1 = lot3
    labels = np.ones((300, 1), np.uint8)
    for seed in range(10):
        parts = make_split(labels, ids, seed=seed, by="group", groups=groups).parts()
        assert parts[0] == parts[20]
        assert parts[10] == parts[30]
        assert len(np.unique(parts[::10])) == 3


def test_time_puts_the_oldest_into_train_and_the_newest_into_test() -> None:
    rng = np.random.default_rng(0)
    times = rng.permutation(1000).astype(float)
    labels, ids = example(1000, 6, 0.0)
    split = make_split(labels, ids, seed=0, by="time", times=times)
    assert [len(split.train), len(split.val), len(split.test)] == [700, 100, 200]
    assert times[split.train].max() < times[split.val].min()
    assert times[split.val].max() < times[split.test].min()
    assert make_split(labels, ids, seed=1, by="time", times=times).digest == split.digest


def test_by_time_training_sees_nothing_newer_than_the_cut_even_with_copies() -> None:
    times = np.arange(1000.0)
    labels, ids = example(1000, 6, 0.0)
    ids[990] = ids[3]  # a map of the oldest days comes back
    labels[990] = labels[3]
    split = make_split(labels, ids, seed=0, by="time", times=times)
    parts_of(split, ids)
    assert {3, 990} <= set(split.test.tolist())
    assert times[split.train].max() < times[split.val].min()


def test_absent_labels_and_unequal_shares_are_reported() -> None:
    labels = np.zeros((100, 2), np.uint8)
    labels[:99, 0] = 1
    labels[99, 1] = 1
    ids = np.arange(100).astype(str)
    notes = make_split(labels, ids, seed=0).notes
    assert len(notes) == 2
    assert all(re.fullmatch(r"the (train|val|test) part holds no positive example of label column 1", n) for n in notes)
    ids[:50] = ids[0]
    labels[:] = 1
    notes = make_split(labels, ids, seed=0, train_fraction=0.3, val_fraction=0.3).notes
    assert any("% of the rows instead of" in note for note in notes)


def test_ten_rows_fill_three_parts() -> None:
    for seed in range(30):
        labels, ids = example(10, seed, 0.0)
        assert_partition(make_split(labels, ids, seed=seed), 10)
        assert_partition(make_split(labels, ids, seed=seed, by="group", groups=ids), 10)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"by": "lot"}, "`by` must be one of content, group, time"),
        ({"train_fraction": 0.9, "val_fraction": 0.1}, "must be less than 1"),
        ({"train_fraction": 1.5}, "`train_fraction` must lie in (0, 1)"),
        ({"by": "group"}, "a split by group needs `groups`"),
        ({"by": "time"}, "a split by time needs `times`"),
        ({"by": "time", "times": np.full(20, np.nan)}, "`times` must be finite"),
        ({"by": "group", "groups": np.array(["a", "b"])}, "must have one entry per row (20), got shape (2,)"),
        ({"by": "group", "groups": np.array(["a", "b"] * 10)}, "needs at least 3 groups"),
        ({"content_ids": np.array(["a", "b"] * 10)}, "needs at least 3 distinct maps, one per part; got 2"),
        ({"content_ids": np.array(["a"])}, "`content_ids` must have one entry per row"),
        ({"labels": np.ones(20, np.uint8)}, "`labels` must have shape (N, K)"),
        ({"labels": np.ones((0, 1), np.uint8), "content_ids": np.array([], "U1")}, "at least one row"),
        ({"seed": -1}, "`seed` must be at least 0"),
    ],
)
def test_bad_requests_are_refused(changes: dict, fragment: str) -> None:
    values: dict = {"labels": np.ones((20, 1), np.uint8), "content_ids": np.arange(20).astype(str), "seed": 0}
    with pytest.raises(InputError, match=re.escape(fragment)):
        make_split(**{**values, **changes})


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mixedwm38", "wm811k"])
def test_real_data_are_split_in_proportion(shared, name: str) -> None:  # type: ignore[no-untyped-def]
    maps = read_maps(shared / "data" / f"{name}.npz")
    split = make_split(maps.labels, maps.content_ids, seed=0)
    assert_partition(split, len(maps))
    parts_of(split, maps.content_ids)
    for part, fraction in zip(PARTS, FRACTIONS, strict=True):
        rows = getattr(split, part)
        assert abs(len(rows) / len(maps) - fraction) < 0.001
        assert (np.abs(maps.labels[rows].sum(axis=0) / maps.labels.sum(axis=0) - fraction) < 0.01).all()
    if name == "wm811k":
        assert split.notes[0].startswith("10 maps occur with contradictory labels (20 rows)")
