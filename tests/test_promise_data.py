"""Probes of data that must see planted leaks and stay silent on sound data, the ledger of test reads, encodings."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import make_split
from qwafer.features import FeatureSet
from qwafer.heads import LinearOptions
from qwafer.probes import ProbedData, Report, label_permutation, probe_data
from qwafer.probes.data.controls import linear_fit
from qwafer.probes.data.held import without_test
from qwafer.probes.trust import trust_table
from qwafer.training import prepare
from tests.factories import feature_set


def table(n: int = 1500, d: int = 12, k: int = 2, seed: int = 0, **changes: Any) -> ProbedData:
    """Return N sound examples, 300 of 1,500 of them for the test."""
    data = feature_set(n, d, k, seed=seed, signal=2.0)
    split = make_split(data.labels, data.content_ids, seed=seed)
    found = ProbedData(np.array(data.features), np.array(data.labels), split, data.content_ids, data.label_names)
    return dataclasses.replace(found, **changes)


def report_of(data: ProbedData, name: str) -> Report:
    return next(report for report in probe_data(data) if report.name == name)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_three_copies_in_a_test_split_of_300_are_found(noise: float) -> None:
    data = table()
    rng = np.random.default_rng(1)
    features = data.features.copy()
    chosen = features[data.split.train[rng.choice(1050, 3, replace=False)]]
    features[data.split.test[rng.choice(300, 3, replace=False)]] = chosen + noise * rng.standard_normal(chosen.shape)
    report = report_of(dataclasses.replace(data, features=features), "leakage")
    assert report.verdict == "warn"
    assert "3 of 300 in test" in report.headline
    assert report_of(data, "leakage").verdict == "pass"


def test_every_held_out_row_of_a_large_data_set_is_looked_at() -> None:
    data = table(30_000, 20, 1)
    assert len(data.split.val) + len(data.split.test) == 9000
    features = data.features.copy()
    features[data.split.test[3000:]] = features[data.split.train[:3000]]  # behind the first 4,000 held-out rows
    report = report_of(dataclasses.replace(data, features=features), "leakage")
    assert report.verdict == "fail"
    assert "3000 of 6000 in test" in report.headline


def test_twins_that_training_has_as_often_are_no_copies() -> None:
    data = table(3000)
    features = data.features.copy()
    rng = np.random.default_rng(2)
    for _ in range(60):  # pairs of equal features and unequal content, in any two parts
        first, second = rng.choice(3000, 2, replace=False)
        features[first] = features[second]
    assert report_of(dataclasses.replace(data, features=features), "leakage").verdict == "pass"


def leaked(data: ProbedData, auc: float) -> np.ndarray:
    """Return a feature of that ROC-AUC for the first label: two unit normals, so far apart."""
    from scipy.stats import norm

    shift = np.sqrt(2) * norm.ppf(auc)
    return np.random.default_rng(3).standard_normal(len(data.labels)) + shift * data.labels[:, 0]


def test_a_leaked_feature_of_auc_0_997_is_named() -> None:
    data = table()
    features = np.column_stack([data.features, leaked(data, 0.997)]).astype(np.float32)
    report = report_of(dataclasses.replace(data, features=features), "label-deciding features")
    assert report.verdict == "warn"
    assert "feature 12 says L0 (AUC 0.99" in report.headline
    assert report_of(data, "label-deciding features").verdict == "pass"


@pytest.mark.parametrize("name", ["mixedwm38", "wm811k_lots"])
def test_spatial_features_of_real_maps_raise_no_alarm(shared: Any, name: str) -> None:
    from qwafer.backbones import extractor, features_from_maps
    from qwafer.data import read_maps

    maps = read_maps(shared / "data" / f"{name}.npz")
    rows = np.sort(np.random.default_rng(0).permutation(len(maps))[:4000])
    features = features_from_maps(maps.take(rows), extractor("spatial"), jobs=1)
    for task in ("multilabel", "any"):
        data = features.task(task)
        split = make_split(data.labels, data.content_ids, seed=0)
        found = ProbedData(data.features, data.labels, split, data.content_ids, data.label_names, data.feature_names)
        assert report_of(found, "leakage").verdict == "pass"
        report = report_of(found, "label-deciding features")
        assert not report.numbers["implausible"]


def with_test_rows_in_training(data: ProbedData, share: float = 1.0) -> ProbedData:
    test = data.split.test
    train = np.sort(np.concatenate([data.split.train, test[: int(share * len(test))]]))
    return dataclasses.replace(data, split=dataclasses.replace(data.split, train=train))


@pytest.mark.parametrize("seed", range(4))
def test_label_permutation_finds_test_rows_in_training_with_every_seed(seed: int) -> None:
    data = table(1500, 40, 2, seed)
    assert label_permutation(data, seed=seed).verdict == "pass"
    assert label_permutation(with_test_rows_in_training(data), seed=seed).verdict == "fail"
    report = label_permutation(with_test_rows_in_training(data, 0.2), seed=seed)
    assert report.verdict == "fail"
    assert "100 permutations" in report.headline


@pytest.mark.parametrize("seed", range(4))
def test_a_pipeline_that_trains_on_test_rows_falls_with_few_permutations(seed: int) -> None:
    def peeking(data: ProbedData) -> tuple[np.ndarray, np.ndarray]:
        return linear_fit(with_test_rows_in_training(data))

    data = table(1500, 40, 2, seed)
    assert label_permutation(data, peeking, permutations=10, seed=seed).verdict == "fail"
    assert label_permutation(data, linear_fit, permutations=10, seed=seed).verdict == "pass"


def test_the_closed_form_is_the_fit_of_each_permutation() -> None:
    data = table(400, 10, 2)
    one = label_permutation(data, linear_fit, permutations=12, seed=5)
    all_at_once = label_permutation(data, permutations=12, seed=5)
    np.testing.assert_allclose(all_at_once.numbers["z"], one.numbers["z"], atol=1e-9)


def given_split(n: int = 400, **fields: Any) -> FeatureSet:
    """Return features that bring their split: 60% train, 20% validate, 20% test."""
    return feature_set(
        n, 6, 2, signal=2.0, split=np.repeat(["train", "val", "test"], [n * 3 // 5, n // 5, n // 5]), **fields
    )


def linear_config(**training: Any) -> RunConfig:
    return RunConfig(
        data=DataConfig(task="multilabel"),
        head=LinearOptions(),
        circuit=None,
        engine=None,
        training=TrainingConfig(**{"epochs": 2, "batch_size": 64, **training}),
    )


def test_the_trust_table_does_not_depend_on_the_labels_of_the_test_split() -> None:
    arms = {"a": linear_config(), "b": linear_config(learning_rate=0.1)}
    tables = []
    for turned in (False, True):
        data = given_split()
        labels = np.array(data.labels)
        if turned:
            labels[data.split == "test"] ^= 1
        data = dataclasses.replace(data, labels=labels)
        tables.append(trust_table(arms, dict.fromkeys(arms, data)))
    assert tables[0].sections == tables[1].sections
    assert tables[0].counts()["fail"] == 0


def test_halves_of_validation_are_disjoint_and_share_every_combination_of_labels() -> None:
    data = dataclasses.replace(given_split(), content_ids=np.array([f"map{i // 2}" for i in range(400)]))
    config, rest = without_test(linear_config(), data, 0)
    assert config.data.limit is None
    kept = {part: set(rest.content_ids[rest.split == part]) for part in ("train", "val", "test")}
    assert kept["train"] == set(data.content_ids[data.split == "train"])
    assert kept["val"] | kept["test"] == set(data.content_ids[data.split == "val"])
    assert not kept["val"] & kept["test"]
    assert abs(len(kept["val"]) - len(kept["test"])) <= 1
    _, rest = without_test(linear_config(), given_split(), 0)
    for combination in np.unique(rest.labels, axis=0):
        alike = (rest.labels == combination).all(axis=1)
        counts = [int((alike & (rest.split == part)).sum()) for part in ("val", "test")]
        assert abs(counts[0] - counts[1]) <= 1


def test_a_run_of_limited_folds_leaves_its_test_split_out() -> None:
    data = feature_set(300, 6, 1)
    config = dataclasses.replace(linear_config(), data=DataConfig(task="multilabel", limit=200, n_folds=4))
    prepared = prepare(config, data, 3)
    changed, rest = without_test(config, data, 3)
    assert not set(rest.content_ids) & set(prepared.data.content_ids[prepared.split.test])
    assert len(rest) == 200 - len(prepared.split.test)
    again = prepare(changed, rest, 3)
    np.testing.assert_array_equal(again.part("train")[0], prepared.part("train")[0])


@pytest.mark.slow
def test_no_false_alarm_over_100_sound_data_sets() -> None:
    """Spatial features of synthetic maps, and normal features of AUC at most 0.92: one that says a label to 0.98 where
    all others are noise looks like a leak to anybody.
    """
    from qwafer.backbones import extractor, features_from_maps
    from qwafer.data import synthetic_maps

    alarms = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(300, 3000))
        if seed % 2:
            data = features_from_maps(synthetic_maps(n, seed), extractor("spatial"), jobs=1)
        else:
            data = feature_set(
                n, int(rng.integers(2, 60)), int(rng.integers(1, 4)), seed=seed, signal=rng.uniform(0, 2)
            )
        split = make_split(data.labels, data.content_ids, seed=seed)
        found = ProbedData(data.features, data.labels, split, data.content_ids, data.label_names)
        reports = {report.name: report for report in [*probe_data(found), label_permutation(found, seed=seed)]}
        alarms += [(seed, name) for name in ("leakage", "label permutation") if reports[name].verdict != "pass"]
        alarms += [(seed, name) for name in reports["label-deciding features"].numbers["implausible"]]
    assert not alarms
