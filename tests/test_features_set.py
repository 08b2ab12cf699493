"""`FeatureSet`: what it holds, what it refuses, its tasks, and its way to the disk and back."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwafer import InputError
from qwafer.config import DataConfig
from qwafer.features import FeatureSet
from qwafer.source import SourceFacts, source_facts
from tests.factories import feature_set

NAMES = ("Center", "Donut", "Scratch")


def small(**changes: Any) -> FeatureSet:
    values: dict[str, Any] = {
        "labels": np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]], np.uint8),
        "label_names": NAMES,
        "provenance": {"backbone": "spatial", "data": {"sha256": "0" * 64}, "scale": 0.5},
    }
    return feature_set(6, signal=0, **{**values, **changes})


def full() -> FeatureSet:
    return small(
        groups=np.array(["a", "a", "b", "b", "c", "c"]),
        times=np.arange(6, dtype=np.float64),
        split=np.array(["train", "train", "train", "val", "test", "test"]),
        feature_names=("f0", "f1", "f2", "f3"),
    )


@pytest.mark.parametrize("features", [small(), full()])
def test_the_way_to_the_disk_and_back(tmp_path: Path, features: FeatureSet) -> None:
    features.save(tmp_path / "f.npz")
    loaded = FeatureSet.load(tmp_path / "f.npz")
    assert loaded.digest() == features.digest()
    for name in ("features", "labels", "content_ids", "groups", "times", "split"):
        one, other = getattr(features, name), getattr(loaded, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    for name in ("label_names", "provenance", "exclusive", "feature_names"):
        assert getattr(loaded, name) == getattr(features, name)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as archive:
        assert json.loads(archive["provenance"].item())["backbone"] == "spatial"


def test_equal_sets_give_equal_bytes(tmp_path: Path) -> None:
    full().save(tmp_path / "a.npz")
    full().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    FeatureSet.load(tmp_path / "a.npz").save(tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().save(tmp_path / "f.npz")
    before = (tmp_path / "f.npz").read_bytes()

    def full_disk(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        full().save(tmp_path / "f.npz")
    assert (tmp_path / "f.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]


def test_the_digest_follows_everything_a_run_depends_on() -> None:
    base = full()
    assert full().digest() == base.digest()
    features = base.features.copy()
    features[3, 2] = np.nextafter(features[3, 2], np.float32(9))
    labels = base.labels.copy()
    labels[0, 0] = 1
    split = np.array(["train", "train", "train", "val", "test", "train"])
    changes: list[dict[str, Any]] = [
        {"features": features},
        {"labels": labels},
        {"label_names": ("Center", "Donut", "Loc")},
        {"content_ids": base.content_ids[::-1]},
        {"groups": None},
        {"groups": base.content_ids},
        {"times": None},
        {"split": split},
        {"feature_names": None},
    ]
    values = {k: getattr(base, k) for k in ("groups", "times", "split", "feature_names")}
    digests = [small(**{**values, **change}).digest() for change in changes]
    assert len({base.digest(), *digests}) == len(changes) + 1
    assert small(**values, provenance={}).digest() == base.digest(), "how it was made is not what it is"


def test_arrays_cannot_be_written_to_because_the_digest_is_kept() -> None:
    features = full()
    for name in ("features", "labels", "content_ids", "groups", "times", "split"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(features, name)[0] = getattr(features, name)[1]
    assert features.digest() is features.digest()


def test_take_keeps_everything_that_belongs_to_an_example() -> None:
    taken = full().take(np.array([5, 0, 0]))
    assert len(taken) == 3
    for name in ("features", "labels", "content_ids", "groups", "times", "split"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(full(), name)[[5, 0, 0]])
    assert taken.feature_names == full().feature_names
    assert taken.digest() != full().digest()


def test_task_multilabel_changes_nothing() -> None:
    features = full()
    assert features.task("multilabel") is features


def test_task_any_is_one_label_defect() -> None:
    task = full().task("any")
    assert task.label_names == ("defect",)
    assert task.labels.tolist() == [[0], [1], [1], [1], [0], [1]]
    assert task.labels.dtype == np.uint8
    np.testing.assert_array_equal(task.features, full().features)


@pytest.mark.parametrize("innocent", ["none", "None", "normal"])
def test_task_any_of_exclusive_classes_is_not_none(innocent: str) -> None:
    classes = np.eye(3, dtype=np.uint8)[[0, 1, 2, 2, 1, 0]]
    features = small(labels=classes, label_names=("Center", "Loc", innocent), exclusive=True)
    task = features.task("any")
    assert task.labels.ravel().tolist() == [1, 1, 0, 0, 1, 1]
    assert not task.exclusive
    assert not features.task("Loc").exclusive


def test_task_of_a_label_is_that_column_against_the_rest() -> None:
    task = full().task("Scratch")
    assert task.label_names == ("Scratch",)
    assert task.labels.ravel().tolist() == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "changes", "fragment"),
    [
        ("Scrach", {}, "got 'Scrach'; did you mean `Scratch`?"),
        ("multi", {}, "must be one of multilabel, any, Center, Donut, Scratch, got 'multi'"),
        ("Center", {"labels": np.zeros((6, 3), np.uint8)}, "the task Center has only negative examples (6 of 6)"),
        ("any", {"labels": np.ones((6, 3), np.uint8)}, "the task any has only positive examples (6 of 6)"),
        ("any", {"labels": np.ones((6, 1), np.uint8), "label_names": ("none",)}, "only negative examples"),
    ],
)
def test_tasks_that_cannot_be_are_refused(name: str, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=re.escape(fragment)):
        small(**changes).task(name)


def non_finite(value: float) -> np.ndarray:
    features = np.zeros((6, 4), np.float32)
    features[4, 2] = value
    features[5, 0] = np.inf
    return features


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"features": non_finite(np.nan)}, "2 of 24 are not, the first is nan at row 4, column 2"),
        ({"features": non_finite(-np.inf), "feature_names": tuple("abcd")}, "the first is -inf at row 4, column 2 (c)"),
        ({"features": np.zeros((6, 4))}, "`features` must be float32, got float64"),
        ({"features": np.zeros((6, 0), np.float32)}, "`features` must have shape (N, D), neither of them 0"),
        ({"features": np.zeros(6, np.float32)}, "`features` must have shape (N, D)"),
        ({"labels": np.zeros((5, 3), np.uint8)}, "must have shape (6, 3)"),
        ({"labels": np.full((6, 3), 2, np.uint8)}, "must be 0 or 1; 6 rows"),
        ({"exclusive": True}, "exactly one 1"),
        ({"content_ids": np.arange(6)}, "`content_ids` of the feature set must be 6 strings"),
        ({"groups": np.array(["a"])}, "`groups` of the feature set must be 6 strings"),
        ({"times": np.array([0, 1, 2, np.inf, 4, 5])}, "row 3 is inf"),
        ({"split": np.array(["train", "val", "test", "train", "train", "dev"])}, "out of train, val, test"),
        ({"feature_names": ("a", "b")}, "`feature_names` must name all 4 features, got 2"),
        ({"provenance": "by hand"}, "`provenance` must be a dict"),
    ],
)
def test_sets_that_do_not_fit_are_refused(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError, match=re.escape(fragment)):
        small(**changes)


def test_non_finite_rows_far_down_are_found_and_counted() -> None:
    features = np.zeros((5000, 1200), np.float32)
    features[3600, 7] = np.nan
    features[4999, 1199] = np.inf
    with pytest.raises(InputError, match="2 of 6000000 are not, the first is nan at row 3600, column 7"):
        FeatureSet(features, np.ones((5000, 1), np.uint8), ("a",), np.arange(5000).astype(str), {})


def saved(path: Path, **changes: Any) -> Path:
    """The arrays of a whole feature set, some of them replaced, or left out where None."""
    full().save(path)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {**dict(archive), **changes}
    np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        (
            {"labels": None},
            "a feature set needs features, labels, label_names, content_ids, provenance: labels missing",
        ),
        ({"features": np.full((6, 4), np.nan)}, "24 of 24 are not"),
        ({"features": np.full((6, 4), 1e39)}, "the first is inf at row 0, column 0 (f0)"),
        ({"features": np.array([["a"] * 4] * 6)}, "`features` must be numbers"),
        ({"labels": np.full((6, 3), 0.5)}, "`labels` must be 0 or 1"),
        ({"labels": np.full((6, 3), -255, np.int64)}, "`labels` must be 0 or 1"),
        ({"label_names": np.array([1, 2, 3])}, "`label_names` must be strings"),
        ({"label_names": np.array(["a", "b"])}, "must have shape (6, 2)"),
        ({"content_ids": np.arange(6)}, "`content_ids` must be strings"),
        ({"provenance": np.array("not json")}, "`provenance` must be one string of JSON"),
        ({"provenance": np.array(["{}", "{}"])}, "`provenance` must be one string of JSON"),
        ({"provenance": np.array("[1]")}, "`provenance` must be a JSON object, got list"),
        ({"provenance": np.array(3)}, "`provenance` must be strings"),
        ({"split": np.array(["x"] * 6)}, "out of train, val, test"),
        ({"exclusive": np.array(True)}, "exactly one 1"),
        ({"times": np.array(["x"] * 6)}, "`times` must be numbers"),
        ({"exclusive": np.array("no")}, "`exclusive` must be one truth value"),
        ({"features": np.array([[None] * 4] * 6)}, "features holds pickled Python objects"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_their_path(
    tmp_path: Path, changes: dict[str, Any], fragment: str
) -> None:
    path = saved(tmp_path / "f.npz", **changes)
    with pytest.raises(InputError, match=re.escape(fragment)) as caught:
        FeatureSet.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_other_number_types_are_converted(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "f.npz", features=np.ones((6, 4)), labels=full().labels.astype(np.float64), times=np.arange(6)
    )
    loaded = FeatureSet.load(path)
    assert loaded.features.dtype == np.float32
    assert loaded.labels.dtype == np.uint8
    assert loaded.times is not None
    assert loaded.times.dtype == np.float64


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        FeatureSet.load(tmp_path / "absent.npz")
    full().save(tmp_path / "f.npz")
    (tmp_path / "f.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole NPZ file"):
        FeatureSet.load(tmp_path / "f.npz")


def test_feature_files_are_told_from_map_files(tmp_path: Path) -> None:
    full().save(tmp_path / "f.npz")
    np.savez(tmp_path / "m.npz", arr_0=np.zeros(2), arr_1=np.zeros(2))
    (tmp_path / "t.csv").write_text("a,b\n")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    assert source_facts(DataConfig(source=str(tmp_path / "f.npz"))) == SourceFacts("features", brings_split=True)
    for name in ("m.npz", "t.csv", "broken.npz", "absent.npz", "."):
        assert source_facts(DataConfig(source=str(tmp_path / name))).kind != "features"
