"""LSWMD.pkl: read in the layout of any pandas, and never run."""

import io
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.data import content_ids, read_lswmd, read_maps
from qwafer.data._unpickle import ALLOWED, load_records
from qwafer.data.lswmd import CLASSES

WAFERS = [
    np.array([[0, 1, 2], [1, 2, 1]], np.uint8),
    np.array([[1, 1], [1, 1]], np.uint8),
    np.array([[0, 2], [2, 1], [1, 0]], np.uint8),
]
"""The second is not labelled."""


def nested(text: str) -> np.ndarray:
    """A label as in the file: [['Center']], or an empty array."""
    return np.array([[text]]) if text else np.zeros((0, 0))


def objects(items: list[Any]) -> pd.Series:
    column = np.empty(len(items), dtype=object)
    column[:] = items
    return pd.Series(column)


def frame(**changes: Any) -> pd.DataFrame:
    columns = {
        "waferMap": objects(WAFERS),
        "dieSize": [6.0, 4.0, 6.0],
        "lotName": ["lot1", "lot1", "lot2"],
        "waferIndex": [1.0, 2.0, 1.0],
        "trianTestLabel": objects([nested("Training"), nested(""), nested("Test")]),
        "failureType": objects([nested("Center"), nested(""), nested("none")]),
    }
    return pd.DataFrame({**columns, **changes})


def write(path: Path, value: Any, protocol: int = 2) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


def assert_read(path: Path) -> None:
    read = read_maps(path)
    assert [wafer.tolist() for wafer in read.maps] == [WAFERS[0].tolist(), WAFERS[2].tolist()]
    assert read.labels.argmax(axis=1).tolist() == [CLASSES.index("Center"), CLASSES.index("none")]
    assert read.exclusive
    assert read.label_names == CLASSES
    assert read.groups is not None
    assert read.groups.tolist() == ["lot1", "lot2"]
    assert read.notes == ("1 of 3 rows have no failureType and were left out",)
    np.testing.assert_array_equal(read.content_ids, content_ids(read.maps))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_frame_of_the_current_pandas(tmp_path: Path, protocol: int) -> None:
    assert_read(write(tmp_path / "LSWMD.pkl", frame(), protocol))


@pytest.mark.parametrize("lots", [objects(["lot1", "lot1", "lot2"]), pd.Series(["lot1", "lot1", "lot2"])])
def test_lots_of_either_kind_of_text(tmp_path: Path, lots: pd.Series) -> None:
    assert_read(write(tmp_path / "a.pkl", frame(lotName=lots)))


def test_maps_of_other_types_and_memory_orders(tmp_path: Path) -> None:
    maps = [np.asfortranarray(WAFERS[0].astype(">i4")), WAFERS[1], WAFERS[2].astype(float)]
    for protocol in (2, 5):
        assert_read(write(tmp_path / "a.pkl", frame(waferMap=objects(maps)), protocol))


def test_labels_nested_in_other_ways(tmp_path: Path) -> None:
    labels = objects([np.array([[np.array(["Center"], dtype=object)]], dtype=object), [], [["None"]]])
    assert_read(write(tmp_path / "a.pkl", frame(failureType=labels)))
    labels = objects([np.array([b"Center"]), 0, np.array(["none "], dtype=object)])
    assert_read(write(tmp_path / "b.pkl", frame(failureType=labels)))


# A pickle of Python 2 and pandas 0.18 to 0.19, written opcode by opcode: no present pandas can write one.


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def py(value: Any) -> bytes:
    """Plain data as Python 2 pickled it: its `str`, which holds raw bytes as well as text, is opcode T."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        value = value.encode()
    return b"T" + struct.pack("<i", len(value)) + value


def seq(start: bytes, items: list[bytes], end: bytes) -> bytes:
    return start + b"(" + b"".join(items) + end


def tup(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def lst(*items: bytes) -> bytes:
    return seq(b"]", list(items), b"e")


def dct(**items: bytes) -> bytes:
    return seq(b"}", [py(key) + item for key, item in items.items()], b"u")


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tup(*arguments) + b"R"


def old_dtype(text: str, order: str = "<") -> bytes:
    state = tup(py(3), py(order), py(None), py(None), py(None), py(-1), py(-1), py(0))
    return call(name("numpy", "dtype"), py(text), py(0), py(1)) + state + b"b"


def old_array(shape: tuple[int, ...], dtype: bytes, content: bytes, fortran: bool = False) -> bytes:
    empty = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), tup(py(0)), py(b"b"))
    return empty + tup(py(1), tup(*map(py, shape)), dtype, py(fortran), content) + b"b"


def old_text(*entries: str) -> bytes:
    width = max(map(len, entries))
    return old_array((len(entries), 1), old_dtype(f"S{width}", "|"), py("".join(e.ljust(width, "\0") for e in entries)))


def old_objects(shape: tuple[int, ...], *items: bytes) -> bytes:
    return old_array(shape, old_dtype("O8", "|"), lst(*items))


def old_frame(index_module: str = "pandas.indexes.base", range_module: str = "pandas.indexes.range") -> bytes:
    """Columns in two blocks, as pandas keeps them: objects in one, floats in the other."""
    names = ("waferMap", "dieSize", "lotName", "waferIndex", "trianTestLabel", "failureType")
    new_index = name(index_module, "_new_Index")
    columns = call(new_index, name(index_module, "Index"), dct(data=old_objects((6,), *map(py, names)), name=py(None)))
    rows = call(new_index, name(range_module, "RangeIndex"), dct(start=py(0), stop=py(3), step=py(1), name=py(None)))
    nothing = old_array((0, 0), old_dtype("f8"), py(b""))
    values = old_objects(
        (4, 3),
        *[old_array(wafer.shape, old_dtype("u1", "|"), py(wafer.tobytes())) for wafer in WAFERS],
        *[py("lot1"), py("lot1"), py("lot2")],
        *[old_text("Training"), nothing, old_text("Test")],
        *[old_text("Center"), nothing, old_text("none")],
    )
    placed = old_array((4,), old_dtype("i8"), py(struct.pack("<4q", 0, 2, 4, 5)))
    floats = old_array((2, 3), old_dtype("f8"), py(struct.pack("<6d", 6, 4, 6, 1, 2, 1)))
    stride = call(name("__builtin__", "slice"), py(1), py(5), py(2))
    blocks = lst(dct(values=values, mgr_locs=placed), dct(values=floats, mgr_locs=stride))
    axes = lst(columns, rows)
    layout = seq(b"}", [py("0.14.1"), dct(axes=axes, blocks=blocks)], b"u")
    manager = name("pandas.core.internals", "BlockManager") + b")\x81" + tup(axes, lst(), lst(), layout) + b"b"
    state = dct(_metadata=lst(), _typ=py("dataframe"), _data=manager)
    return b"\x80\x02" + name("pandas.core.frame", "DataFrame") + b")\x81" + state + b"b."


@pytest.mark.parametrize(
    ("index_module", "range_module"),
    [
        ("pandas.indexes.base", "pandas.indexes.range"),
        ("pandas.core.index", "pandas.core.index"),
        ("pandas.core.indexes.base", "pandas.core.indexes.range"),
    ],
)
def test_the_old_layout(tmp_path: Path, index_module: str, range_module: str) -> None:
    assert_read(write(tmp_path / "LSWMD.pkl", old_frame(index_module, range_module)))


def bombs(trace: Path) -> dict[str, tuple[str, bytes]]:
    """Pickles that write the file `trace` where they are run, and the name that must be refused."""
    touch = f"touch {trace}".encode()
    write_file = f"open({str(trace)!r}, 'w').close()".encode()

    def text(value: bytes) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value

    def stacked(module: bytes, attribute: bytes, *arguments: bytes) -> bytes:
        return b"\x80\x04" + text(module) + text(attribute) + b"\x93(" + b"".join(map(text, arguments)) + b"tR."

    inside = old_frame().replace(
        name("__builtin__", "slice") + b"(" + py(1) + py(5) + py(2), name("os", "system") + b"(" + py(touch)
    )
    return {
        "reduce": ("posix.system", b"\x80\x02" + call(name("posix", "system"), py(touch)) + b"."),
        "eval": ("builtins.eval", b"\x80\x02" + call(name("builtins", "eval"), py(write_file)) + b"."),
        "python 2": ("__builtin__.eval", b"\x80\x02" + call(name("__builtin__", "eval"), py(write_file)) + b"."),
        "stack global": ("os.system", stacked(b"os", b"system", touch)),
        "dotted": ("numpy.os.system", stacked(b"numpy", b"os.system", touch)),
        "dotted module": ("numpy.ndarray.tofile", stacked(b"numpy.ndarray", b"tofile", str(trace).encode())),
        "method of an admitted name": ("numpy.ndarray.tofile", stacked(b"numpy", b"ndarray.tofile", touch)),
        "numpy.load": ("numpy.load", b"\x80\x02" + call(name("numpy", "load"), py(str(trace))) + b"."),
        "pandas.eval": ("pandas.eval", stacked(b"pandas", b"eval", write_file)),
        "read_pickle": ("pandas.read_pickle", stacked(b"pandas", b"read_pickle", str(trace).encode())),
        "getattr": ("builtins.getattr", stacked(b"builtins", b"getattr", b"system")),
        "inst": ("os.system", b"(" + py(touch) + b"ios\nsystem\n."),
        "obj": ("os.system", b"(" + name("os", "system") + py(touch) + b"o."),
        "newobj": ("subprocess.Popen", b"\x80\x02" + name("subprocess", "Popen") + tup(py(touch)) + b"\x81."),
        "inside a frame": ("os.system", inside),
    }


@pytest.mark.parametrize("kind", sorted(bombs(Path("x"))))
def test_pickles_that_call_something_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "trace"
    named, content = bombs(trace)[kind]
    path = write(tmp_path / "bomb.pkl", content)
    with pytest.raises(InputError, match=re.escape(f"the pickle asks for {named}, ")) as caught:
        read_maps(path) if kind != "inst" and kind != "obj" else read_lswmd(path)
    assert str(path) in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["reduce", "eval", "stack global", "inst", "obj"])
def test_the_bombs_are_live(tmp_path: Path, kind: str) -> None:
    """What the tests above refuse does harm where pickles are simply loaded."""
    trace = tmp_path / "trace"
    pickle.load(io.BytesIO(bombs(trace)[kind][1]))
    assert trace.exists()


def test_admitted_names_are_not_run_either(tmp_path: Path) -> None:
    """An endless slice, a codec, an array of a terabyte: recorded, and refused as no DataFrame."""
    huge = old_array((2**20, 2**20), old_dtype("f8"), py(b""))
    for content in (
        huge,
        call(name("_codecs", "encode"), py("x"), py("no such codec")),
        call(name("pandas", "DataFrame")),
    ):
        with pytest.raises(InputError, match="not a pandas DataFrame"):
            read_lswmd(write(tmp_path / "a.pkl", b"\x80\x02" + content + b"."))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x80\x02(U\x01aq\x00U\x01bq\x01h\x00h\x01t.", ("a", "b", "a", "b")),
        (b"\x80\x02(U\x01aq\x01U\x01bq\x02h\x01h\x02t.", ("a", "b", "a", "b")),  # Python 2 counts from 1
        (b"\x80\x04(\x8c\x01a\x94\x8c\x01b\x94h\x00h\x01t.", ("a", "b", "a", "b")),
        (b"\x80\x02(U\x01ar\xff\xff\xff\xffU\x01bq\x07j\xff\xff\xff\xffh\x07t.", ("a", "b", "a", "b")),
    ],
)
def test_the_memo_in_every_numbering(tmp_path: Path, content: bytes, expected: tuple[str, ...]) -> None:
    assert load_records(write(tmp_path / "a.pkl", content)) == expected
    if b"\xff" not in content:  # there the unpickler in C claims gigabytes
        assert pickle.loads(content, encoding="latin-1") == expected
    with pytest.raises(InputError, match="is not a whole pickle"):
        load_records(write(tmp_path / "a.pkl", content.replace(b"h", b"h\x09h", 1)))


def test_only_reconstruction_is_admitted() -> None:
    """The list, spelled out: whoever lengthens it sees this test."""
    assert {entry.rpartition(".")[2] for entry in ALLOWED} == {
        *("_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype", "_reconstructor", "object", "slice", "bytes"),
        *("encode", "DataFrame", "BlockManager", "_unpickle_block", "_new_Index", "Index", "Int64Index", "RangeIndex"),
        *("StringArray", "StringDtype", "__pyx_unpickle_NDArrayBacked", "bytearray"),
        *("ArrowStringArray", "_restore_array", "type_for_alias", "py_buffer"),
    }


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ({"a": 1}, "the pickle holds a dict, not a pandas DataFrame"),
        (np.zeros(3), "the pickle holds a _reconstruct, not a pandas DataFrame"),
        (frame().drop(columns="failureType"), "failureType missing"),
        (frame(failureType=objects([nested("Centre"), nested(""), nested("")])), "row 0 has the failureType 'Centre'"),
        (frame(failureType=objects([nested("")] * 3)), "none of the 3 rows has a failureType"),
        (frame(failureType=objects([np.array(["Loc", "Donut"])] * 3)), "holds 2 entries in one row"),
        (frame(failureType=objects([b"Loc", {}, {}])), "failureType is a dict; expected text"),
        (frame(waferMap=objects([np.full((2, 2), 3, np.uint8)] * 3)), "map 0 holds 3"),
        (frame(waferMap=objects([np.full((2, 2), -1)] * 3)), "row 0 must hold 0..2 only, got -1..-1"),
        (frame(waferMap=objects([np.full((2, 2), np.nan)] * 3)), "row 0 must hold 0..2 only"),
        (frame(waferMap=objects([np.zeros(4, np.uint8)] * 3)), "must be a two-dimensional array"),
        (frame(waferMap=objects(["map"] * 3)), "expected an array in the pickle, found a str"),
        (pickle.dumps(frame())[:-40], "is not a whole pickle"),
        (b"\x80\x02\x82\x05.", "unregistered extension code 5"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.", "is not a whole pickle (EOFError"),
        (b"\x80\x02K\x01r" + struct.pack("<I", 2**32 - 1) + b".", "the pickle holds a int, not"),
        (b"\x80\x02Pid\n.", "is not a whole pickle (UnpicklingError"),
        (old_frame().replace(b"0.14.1", b"0.99.9"), "a layout of blocks that is not known"),
        (
            old_frame().replace(py(struct.pack("<4q", 0, 2, 4, 5)), py(struct.pack("<4q", 0, 2, 4, 9))),
            "columns beyond the 6 that there are",
        ),
        (old_frame().replace(py("u1"), py("V1")), "an array of type 'V1'; only numbers"),
        (old_frame().replace(tup(py(2), py(3)), tup(py(2), py(-3)), 1), "impossible shape"),
        (old_frame().replace(tup(py(2), py(3)), tup(py(2**15), py(2**15)), 1), "has 6 bytes"),
    ],
)
def test_other_pickles_are_refused_in_one_sentence(tmp_path: Path, value: Any, fragment: str) -> None:
    path = write(tmp_path / "a.pkl", value)
    with pytest.raises(InputError, match=re.escape(fragment)) as caught:
        read_lswmd(path)
    assert "\n" not in str(caught.value)
    assert "a.pkl" in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_ends_in_an_input_error_or_in_valid_maps(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from([old_frame(), pickle.dumps(frame(), protocol=4)])))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(content)
    try:
        read = read_lswmd(path)
    except InputError:
        return
    assert all(wafer.max() <= 2 for wafer in read.maps)
