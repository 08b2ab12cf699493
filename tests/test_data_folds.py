"""Folds: seed s tests on fold s mod K of the (s // K)-th partition, and each partition tests every example once."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer import InputError, RunConfig
from qwafer.config import DataConfig
from qwafer.data import Split, make_fold, make_split
from qwafer.experiment import load_experiment
from qwafer.training._prepare import prepare
from tests.factories import feature_set, head_options


def example(n: int, seed: int, n_labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, content ids, a tenth of the rows copies of others, and lots."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, n_labels)) < rng.uniform(0.05, 0.6, n_labels)).astype(np.uint8)
    source = np.where(rng.random(n) < 0.1, rng.integers(0, n, n), np.arange(n))
    lots = (np.arange(n) % max(n // 6, 12))[source].astype(str)
    return labels[source], np.array([f"{i:016x}" for i in source]), lots


def folds(n_folds: int, partition: int, *given: np.ndarray, by: str = "content", val: float = 0.1) -> list[Split]:
    labels, ids, lots = given
    seeds = range(partition * n_folds, (partition + 1) * n_folds)
    return [
        make_fold(labels, ids, seed=s, n_folds=n_folds, by=by, val_fraction=val, groups=lots if by == "group" else None)
        for s in seeds
    ]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(60, 300),
    seed=st.integers(0, 10**6),
    n_folds=st.integers(2, 8),
    partition=st.integers(0, 3),
    by=st.sampled_from(["content", "group"]),
)
def test_the_folds_of_a_partition_test_every_row_once_and_no_map_or_lot_straddles(n, seed, n_folds, partition, by):
    data = example(n, seed)
    found = folds(n_folds, partition, *data, by=by)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.test for split in found])), np.arange(n))
    for split in found:
        parts = split.parts()
        assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(n))
        assert all(len(getattr(split, name)) for name in ("train", "val", "test"))
        for column in data[1:] if by == "group" else data[1:2]:
            assert all(len(np.unique(parts[column == value])) == 1 for value in np.unique(column))


@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_folds_are_stratified_and_validation_keeps_its_fraction(n_folds):
    labels, ids, lots = example(1000, 3)
    for split in folds(n_folds, 1, labels, ids, lots):
        for rows, fraction in ((split.test, 1 / n_folds), (split.val, 0.1), (split.train, 0.9 - 1 / n_folds)):
            assert abs(len(rows) - fraction * 1000) <= 20
            assert (np.abs(labels[rows].sum(axis=0) - fraction * labels.sum(axis=0)) <= 24).all()
        assert split.notes == ()


def test_partitions_differ_and_the_order_of_rows_does_not_matter():
    labels, ids, lots = example(200, 5)
    first, second = folds(5, 0, labels, ids, lots), folds(5, 1, labels, ids, lots)
    assert len({split.digest for split in (*first, *second)}) == 10
    tests = [set(ids[split.test]) for split in first]
    assert all(set(ids[split.test]) not in tests for split in second)
    order = np.random.default_rng(0).permutation(200)
    for split, again in zip(first, folds(5, 0, labels[order], ids[order], lots[order]), strict=True):
        assert split.digest == again.digest
        assert set(ids[split.test]) == set(ids[order][again.test])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_folds": 1}, "`n_folds`"),
        ({"n_folds": 2, "val_fraction": 0.5}, "no training examples remain"),
        ({"by": "time"}, "`by` must be one of content, group"),
        ({"by": "group"}, "needs `groups`"),
        ({"n_folds": 41}, "41 folds need at least 41 distinct maps, got 40"),
    ],
)
def test_folds_that_cannot_be_are_refused(options, message):
    labels = np.tile([[0], [1]], (20, 1)).astype(np.uint8)
    with pytest.raises(InputError, match=re.escape(message)):
        make_fold(labels, np.arange(40).astype(str), **{"seed": 0, "n_folds": 5, **options})


def test_a_fold_that_leaves_one_unit_cannot_train_and_validate():
    """Three maps, one of them most of the rows: two folds leave one map to train and validate on."""
    ids = np.array(["a"] * 8 + ["b", "c"])
    make_fold(np.ones((10, 1), np.uint8), ids, seed=0, n_folds=2)
    with pytest.raises(InputError, match="at least two distinct maps"):
        make_fold(np.ones((10, 1), np.uint8), ids, seed=1, n_folds=2)


def test_a_run_takes_the_fold_of_its_seed():
    data, config = feature_set(150, k=2), RunConfig(head=head_options("linear"), data=DataConfig(n_folds=5))
    for seed in (0, 4, 7):
        expected = make_fold(data.labels, data.content_ids, seed=seed, n_folds=5)
        assert prepare(config, data, seed).split.digest == expected.digest


def test_the_limit_is_drawn_once_per_partition():
    """Else the folds were not folds of one set."""
    data = feature_set(150, k=2)
    config = RunConfig(head=head_options("linear"), data=DataConfig(n_folds=5, limit=60))
    runs = [prepare(config, data, seed) for seed in range(10)]
    assert len({run.data_digest for run in runs[:5]}) == len({run.data_digest for run in runs[5:]}) == 1
    assert runs[0].data_digest != runs[5].data_digest
    tested = np.concatenate([run.split.test for run in runs[:5]])
    np.testing.assert_array_equal(np.sort(tested), np.arange(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_by": "time"}, "`data.n_folds` cannot be combined with data.split_by = time"),
        ({"split_seed": 3}, "`data.n_folds` cannot be combined with data.split_seed"),
        ({"n_folds": 1}, "`data.n_folds`"),
        ({"n_folds": 2, "val_fraction": 0.6}, "no training examples remain"),
    ],
)
def test_options_that_folds_exclude_are_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        DataConfig(**{"n_folds": 5, **options})


def test_a_large_validation_part_needs_no_smaller_train_fraction():
    """`train_fraction` has no effect with folds, so its default excludes nothing."""
    assert DataConfig(n_folds=5, val_fraction=0.4).trained_fraction == pytest.approx(0.4)
    assert DataConfig(train_fraction=0.6).trained_fraction == 0.6


def test_a_split_of_its_own_and_the_training_fraction_are_refused(tmp_path: Path):
    split = np.array((["train"] * 7 + ["val"] + ["test"] * 2) * 12)
    own = feature_set(120, split=split)
    config = RunConfig(head=head_options("linear"), data=DataConfig(n_folds=5))
    with pytest.raises(InputError, match=r"`data.n_folds` .* brings its own split"):
        prepare(config, own, 0)
    own.save(tmp_path / "own.npz")
    feature_set(120).save(tmp_path / "plain.npz")
    file = tmp_path / "e.toml"
    file.write_text("[arms.a]\ntraining.epochs = 3\n[arms.b]\n")
    with pytest.raises(InputError, match=r"`data.n_folds` has no effect .* brings its own split"):
        load_experiment(file, [f"data.source={tmp_path / 'own.npz'}", "data.n_folds=5"])
    with pytest.raises(InputError, match=r"`data.train_fraction` has no effect .*data.n_folds is 5"):
        load_experiment(file, [f"data.source={tmp_path / 'plain.npz'}", "data.n_folds=5", "data.train_fraction=0.5"])
    kept = load_experiment(file, [f"data.source={tmp_path / 'plain.npz'}", "data.n_folds=5"])
    assert kept.effective("a")["data.n_folds"] == 5
    assert "data.train_fraction" not in kept.effective("a")


def test_every_lot_is_tested_as_often_as_others_over_seeds():
    """Else verdicts over seeds were about the lots that always test: a fixed split in all but its digest."""
    rng = np.random.default_rng(0)
    lots = np.arange(400) % 20
    rate = rng.uniform(0.05, 0.9, 20)[lots]
    labels, ids = (rng.random((400, 1)) < rate[:, None]).astype(np.uint8), np.arange(400).astype(str)
    tested = np.zeros((200, 20), dtype=bool)
    for seed in range(200):
        split = make_split(labels, ids, seed=seed, by="group", groups=lots.astype(str))
        tested[seed, lots[split.test]] = True
    assert 0.08 < tested.mean(axis=0).min() < tested.mean(axis=0).max() < 0.35  # 0.2, four standard errors
    assert len(np.unique(tested, axis=0)) > 150
