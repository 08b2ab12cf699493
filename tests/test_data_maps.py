"""`WaferMaps`, the readers of NPZ files, and `read_maps`: what is read, and what is refused in one sentence."""

import hashlib
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from qwafer import InputError
from qwafer.data import WaferMaps, content_ids, read_maps, read_mixedwm38, read_wm811k, synthetic_maps
from qwafer.data.maps import one_hot, unpack_maps
from qwafer.data.mixedwm38 import LABEL_NAMES
from tests.factories import feature_set, wafer_maps


def small(n: int = 4, **changes: object) -> WaferMaps:
    more: dict = {
        "content_ids": wafer_maps(n).content_ids,
        "groups": np.array([f"lot{i}" for i in range(n)]),
        "times": np.arange(n, dtype=np.float64),
    }
    return wafer_maps(n, **{**more, **changes})


def refuses(fragment: str, call: object, *arguments: object, **options: object) -> None:
    """The call raises one sentence that holds the fragment."""
    with pytest.raises(InputError, match=re.escape(fragment)) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_content_id_is_the_hash_of_shape_and_dies() -> None:
    wafer = np.array([[0, 1], [2, 1], [1, 1]], dtype=np.uint8)
    expected = hashlib.sha256(b"3x2:" + wafer.tobytes()).hexdigest()[:16]
    assert content_ids(wafer[None]).tolist() == [expected]
    same_bytes_other_shape = wafer.reshape(2, 3)
    ids = content_ids((wafer, same_bytes_other_shape, wafer.copy(), np.asfortranarray(wafer)))
    assert ids[0] == ids[2] == ids[3] != ids[1]
    assert ids.dtype == np.dtype("<U16")


def test_take_keeps_everything_that_belongs_to_a_map() -> None:
    maps = small()
    taken = maps.take(np.array([3, 1, 1]))
    assert len(taken) == 3
    for name in ("maps", "labels", "content_ids", "groups", "times"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(maps, name)[[3, 1, 1]])
    ragged = small(maps=tuple(small().maps))
    assert [wafer.tolist() for wafer in ragged.take(np.array([2, 0])).maps] == [m.tolist() for m in maps.maps[[2, 0]]]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"maps": np.full((4, 5, 6), 3, np.uint8)}, "map 0 holds 3"),
        ({"maps": (*small().maps[:3], np.full((2, 2), 7, np.uint8))}, "map 3 holds 7"),
        ({"maps": np.zeros((4, 5, 6), np.int64)}, "must be uint8 arrays, got int64"),
        ({"maps": np.zeros((4, 5), np.uint8)}, "must have shape (N, H, W)"),
        ({"maps": (*small().maps[:3], np.zeros((0, 4), np.uint8))}, "not empty, got (0, 4) at map 3"),
        ({"maps": np.zeros((0, 5, 6), np.uint8)}, "holds no wafer maps"),
        ({"labels": np.zeros((3, 2), np.uint8)}, "must have shape (4, 2)"),
        ({"labels": np.array([[0, 1], [0, 0], [2, 0], [1, 1]], np.uint8)}, "first row 2: [2, 0]"),
        ({"labels": np.zeros((4, 2), np.int64)}, "must be uint8, got int64"),
        ({"label_names": ("a", "a")}, "distinct name"),
        ({"exclusive": True, "labels": one_hot(np.array([0, 1, 1, 0]), 2) * 0}, "exactly one 1"),
        ({"content_ids": np.zeros(4)}, "`content_ids` of a test must be 4 strings"),
        ({"groups": np.array(["a"])}, "`groups` of a test must be 4 strings"),
        ({"times": np.array([0, 1, np.nan, 2])}, "row 2 is nan"),
    ],
)
def test_wafer_maps_refuse_what_does_not_fit(changes: dict, fragment: str) -> None:
    refuses(fragment, small, **changes)


def test_unpack_maps_gives_each_its_shape() -> None:
    flat = np.arange(16, dtype=np.uint8)
    first, second = unpack_maps(flat, np.array([[2, 3], [5, 2]], dtype=np.uint16))
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.shape == (5, 2)
    assert second[-1, -1] == 15
    equal = unpack_maps(flat, np.array([[2, 4], [2, 4]]))
    assert isinstance(equal, np.ndarray)
    assert equal.shape == (2, 2, 4)


def write_mixed(path: Path, maps: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(path, arr_0=maps, arr_1=labels)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_mixedwm38_is_read_in_the_published_order(tmp_path: Path, dtype: type) -> None:
    maps = np.random.default_rng(1).integers(0, 3, (5, 52, 52)).astype(dtype)
    labels = np.eye(8, dtype=dtype)[:5]
    read = read_maps(write_mixed(tmp_path / "Wafer_Map_Datasets.npz", maps, labels))
    np.testing.assert_array_equal(read.maps, maps)
    assert read.maps.dtype == np.uint8
    assert read.label_names == LABEL_NAMES
    assert LABEL_NAMES[:5] == ("Center", "Donut", "Edge-Loc", "Edge-Ring", "Loc")
    assert [LABEL_NAMES[k] for k in read.labels.argmax(axis=1)] == list(LABEL_NAMES[:5])
    assert read.sha256 == hashlib.sha256((tmp_path / "Wafer_Map_Datasets.npz").read_bytes()).hexdigest()
    assert read.notes == ()
    assert not read.exclusive


def test_threes_become_failing_dies_and_are_counted(tmp_path: Path) -> None:
    maps = np.ones((3, 6, 6), dtype=np.uint8)
    maps[0, 0, :2] = 3
    maps[2, 5, 5] = 3
    path = write_mixed(tmp_path / "m.npz", maps, np.zeros((3, 8), np.uint8))
    with pytest.warns(UserWarning, match="3 dies of value 3 in 2 maps were mapped to 2"):
        read = read_mixedwm38(path)
    assert read.maps[0, 0, :3].tolist() == [2, 2, 1]
    assert read.maps[2, 5, 5] == 2
    assert read.notes == ("3 dies of value 3 in 2 maps were mapped to 2 (failing)",)
    maps[maps == 3] = 2
    np.testing.assert_array_equal(read.content_ids, content_ids(maps))


@pytest.mark.parametrize(
    ("value", "fragment"), [(4, "the first is 4.0 at row 1"), (-1, "is -1.0"), (0.5, "is 0.5"), (np.nan, "is nan")]
)
def test_other_die_values_are_refused(tmp_path: Path, value: float, fragment: str) -> None:
    maps = np.zeros((2, 6, 6))
    maps[1, 2, 3] = value
    refuses(fragment, read_maps, write_mixed(tmp_path / "m.npz", maps, np.zeros((2, 8))))
    labels = np.zeros((2, 8))
    labels[1, 0] = 2
    refuses("arr_1 must hold 0..1", read_maps, write_mixed(tmp_path / "n.npz", np.zeros((2, 6, 6)), labels))


def test_mixedwm38_of_other_shapes_is_refused(tmp_path: Path) -> None:
    maps = np.zeros((2, 6, 6), np.uint8)
    refuses("arr_1 must be labels (2, 8)", read_maps, write_mixed(tmp_path / "a.npz", maps, np.zeros((2, 9), np.uint8)))
    refuses("arr_0 must be wafer maps", read_maps, write_mixed(tmp_path / "b.npz", maps[0], np.zeros((6, 8), np.uint8)))
    refuses("arr_0 must be", read_maps, write_mixed(tmp_path / "c.npz", maps.astype(str), np.zeros((2, 8), np.uint8)))
    refuses("holds no wafer maps", read_maps, write_mixed(tmp_path / "d.npz", maps[:0], np.zeros((0, 8), np.uint8)))


def packed(**changes: object) -> dict:
    values: dict = {
        "flat": np.array([0, 1, 2, 1, 2, 2, 0, 1, 1, 1], np.uint8),
        "shape": np.array([[2, 3], [4, 1]], np.uint16),
        "label": np.array([1, 0], np.uint8),
        "classes": np.array(["Center", "None"]),
    }
    return {**values, **changes}


def test_packed_wm811k_keeps_native_shapes_and_lots(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **packed(lot=np.array(["lot7", "lot9"])))
    read = read_maps(tmp_path / "w.npz")
    assert [wafer.tolist() for wafer in read.maps] == [[[0, 1, 2], [1, 2, 2]], [[0], [1], [1], [1]]]
    assert read.label_names == ("Center", "none")
    assert read.labels.tolist() == [[0, 1], [1, 0]]
    assert read.exclusive
    assert read.groups is not None
    assert read.groups.tolist() == ["lot7", "lot9"]
    np.savez(tmp_path / "w.npz", **packed())
    assert read_wm811k(tmp_path / "w.npz").groups is None


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"shape": np.array([[2, 3], [4, 2]])}, "must add up to the 10 dies of `flat`, got 14"),
        ({"shape": np.array([[2, 3], [-4, -1]])}, "smallest side -4"),
        ({"shape": np.array([2, 3])}, "`shape` must be one (height, width) per label"),
        ({"label": np.array([1, 2])}, "`label` must lie in 0..1"),
        ({"label": np.array([1, -1])}, "got -1..1"),
        ({"label": np.array([0.5, 1])}, "`label` must be one class number per map"),
        ({"flat": np.zeros(10, np.int64)}, "`flat` must be one row of uint8 dies"),
        ({"flat": np.full(10, 3, np.uint8)}, "map 0 holds 3"),
        ({"classes": np.array([1, 2])}, "`classes` must be class names"),
        ({"lot": np.array(["one"])}, "`groups` of WM-811K (w.npz) must be 2 strings"),
    ],
)
def test_damaged_wm811k_is_refused(tmp_path: Path, changes: dict, fragment: str) -> None:
    np.savez(tmp_path / "w.npz", **packed(**changes))
    refuses(fragment, read_maps, tmp_path / "w.npz")


def test_read_maps_refuses_what_holds_no_maps(tmp_path: Path) -> None:
    refuses("absent.npz does not exist", read_maps, tmp_path / "absent.npz")
    refuses("is not a file", read_maps, tmp_path)
    (tmp_path / "empty").touch()
    refuses("is empty (0 bytes)", read_maps, tmp_path / "empty")
    (tmp_path / "text.csv").write_text("frame.time,ip.src_host\n1,2\n")
    refuses("read_edge_iiot", read_maps, tmp_path / "text.csv")
    (tmp_path / "noise").write_bytes(b"\x00\x01\x02")
    refuses("expected a MixedWM38 or packed WM-811K NPZ", read_maps, tmp_path / "noise")
    np.savez(tmp_path / "keys.npz", images=np.zeros(3), targets=np.zeros(3))
    refuses("images, targets; wafer maps are arr_0, arr_1", read_maps, tmp_path / "keys.npz")
    np.savez(tmp_path / "half.npz", arr_0=np.zeros((1, 6, 6), np.uint8))
    refuses("has the arrays arr_0; MixedWM38 needs arr_0, arr_1: arr_1 missing", read_maps, tmp_path / "half.npz")
    whole = write_mixed(tmp_path / "whole.npz", np.ones((20, 20, 20), np.uint8), np.zeros((20, 8), np.uint8))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:4000])
    refuses("is it truncated, or another format?", read_maps, tmp_path / "cut.npz")
    damaged = bytearray(whole.read_bytes())
    damaged[200:220] = bytes(20)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    refuses("is damaged", read_maps, tmp_path / "damaged.npz")


def test_features_are_not_taken_for_maps(tmp_path: Path) -> None:
    feature_set().save(tmp_path / "f.npz")
    refuses("holds features, not wafer maps", read_maps, tmp_path / "f.npz")


class Bomb:
    """A pickled object that leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bombs = np.empty(1, dtype=object)
    bombs[0] = Bomb(trace)
    np.savez(tmp_path / "o.npz", arr_0=bombs, arr_1=np.zeros((1, 8)))
    refuses("arr_0 holds pickled Python objects", read_maps, tmp_path / "o.npz")
    assert not trace.exists()
    np.load(tmp_path / "o.npz", allow_pickle=True)["arr_0"]
    assert trace.exists(), "the bomb must work where pickles are allowed, or this test proves nothing"


def test_read_maps_draws_synthetic_maps() -> None:
    drawn = read_maps("synthetic", n=12, seed=5)
    np.testing.assert_array_equal(drawn.maps, synthetic_maps(12, 5).maps)
    assert len(read_maps("synthetic")) == 2000


def test_options_of_the_generator_are_refused_with_a_file(tmp_path: Path) -> None:
    path = write_mixed(tmp_path / "m.npz", np.ones((2, 6, 6), np.uint8), np.zeros((2, 8), np.uint8))
    refuses("`n` = 5 has no effect on a file", read_maps, path, n=5)
    refuses("`seed` = 0 has no effect on a file", read_maps, path, seed=0)


@pytest.mark.shared
def test_the_real_files_are_read_whole(shared: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = read_maps(shared / "data" / "mixedwm38.npz")
        wm811k = read_maps(shared / "data" / "wm811k.npz")
        lots = read_maps(shared / "data" / "wm811k_lots.npz")
    assert len(mixed) == 19389
    assert len(np.unique(mixed.labels, axis=0)) == 38
    assert len(wm811k) == 49798
    assert wm811k.labels.sum(axis=0).tolist() == [3435, 444, 4151, 7744, 2874, 119, 693, 955, 29383]
    assert wm811k.label_names[-1] == "none"
    assert lots.groups is not None
    assert len(lots) == 2892
    assert len(np.unique(lots.groups)) == 1334
