"""A pandas DataFrame put together from the `Record`s of its pickle, without pandas and whatever its version was."""

import functools
import itertools
import math
import re
import sys
from typing import Any, Literal

import numpy as np

from qwafer._errors import InputError
from qwafer.data._unpickle import Record

_TYPE = re.compile(r"(b1|[iu][1248]|f[248]|[SU][0-9]{1,6}|O[48]?)\Z")
MAX_TEXT = 1024
"""Characters of a name in a cell, at most: an array of texts is as wide as the longest."""
_NEWEST_LAYOUT = "0.14.1"
"""The pandas version by which block managers name the layout of their state."""


def frame_columns(frame: Any) -> dict[str, np.ndarray]:
    """Return the columns of a recorded DataFrame by name: (N,) arrays; object columns hold plain data and `Record`s.

    Raises:
        InputError: the record is of another object, or its parts do not fit together.
    """
    if _is(frame, "_reconstructor") and frame.args and getattr(frame.args[0], "__name__", "") == "DataFrame":
        name = "DataFrame"
    else:
        name = frame.name if isinstance(frame, Record) else type(frame).__name__
    if name != "DataFrame" or not isinstance(frame.state, dict):
        raise InputError(f"the pickle holds a {name}, not a pandas DataFrame")
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    try:
        axes, blocks = _manager(manager)
        names = _index(axes[0])
    except (KeyError, IndexError, TypeError) as error:
        raise InputError("the DataFrame in the pickle lacks parts of its blocks or axes") from error
    columns: dict[str, np.ndarray] = {}
    for values, placement in blocks:
        positions = _positions(placement, len(names))
        rows = _values(values)
        if rows.ndim == 1:
            rows = rows[None]
        if rows.ndim != 2 or len(rows) != len(positions):
            raise InputError(f"a block of shape {rows.shape} stands for {len(positions)} columns of the DataFrame")
        columns.update((names[p], row) for p, row in zip(positions, rows, strict=True))
    if len({len(column) for column in columns.values()}) > 1:
        raise InputError("the columns of the DataFrame differ in length")
    return columns


def to_array(record: Any) -> np.ndarray:
    """Return the array that a `Record` of numpy stands for; objects in it stay as they are.

    Raises:
        InputError: it is not a record of an array, its dtype is not plain, or shape and bytes do not fit.
    """
    if _is(record, "_frombuffer") and len(record.args) == 4:
        raw, dtype_record, shape, memory_order = record.args
        fortran = memory_order == "F"
    elif _is(record, "_reconstruct") and isinstance(record.state, tuple) and len(record.state) == 5:
        _, shape, dtype_record, fortran, raw = record.state
    else:
        raise InputError(f"expected an array in the pickle, found {_describe(record)}")
    if not (isinstance(shape, tuple) and len(shape) <= 4 and all(type(side) is int and side >= 0 for side in shape)):
        raise InputError("an array in the pickle has an impossible shape")
    dtype = _dtype(dtype_record)
    order: Literal["F", "C"] = "F" if fortran else "C"
    if dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != math.prod(shape):
            raise InputError(f"an array of {math.prod(shape)} objects in the pickle does not list as many")
        flat = np.empty(len(raw), dtype=object)
        for i, item in enumerate(raw):
            flat[i] = item
        return flat.reshape(shape, order=order)
    raw = _bytes(raw)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise InputError(f"an array of shape {shape} and type {dtype} in the pickle has {len(raw)} bytes")
    array = np.frombuffer(raw, dtype=dtype)
    if dtype.kind == "U" and array.size and array.view(f"{dtype.str[0]}u4").max() > sys.maxunicode:
        raise InputError("an array of text in the pickle holds what is not a character")
    return array.reshape(shape, order=order)


def to_scalar(value: Any) -> Any:
    """Return the plain value of a recorded numpy scalar or of recorded bytes; other values as they are."""
    if _is(value, "encode") or _is(value, "bytes"):
        return _bytes(value)
    if not _is(value, "scalar"):
        return value
    if len(value.args) != 2:
        raise InputError("a numpy scalar in the pickle is damaged")
    dtype = _dtype(value.args[0])
    raw = b"" if dtype.hasobject else _bytes(value.args[1])
    if dtype.kind not in "biuf" or len(raw) != dtype.itemsize:
        raise InputError(f"a numpy scalar of type {dtype} in the pickle has {len(raw)} bytes")
    return np.frombuffer(raw, dtype=dtype)[0].item()


def plain_text(value: Any, what: str) -> str:
    """Return `value`, a text or a number, as text; raise `InputError` about `what` if it is anything else."""
    value = to_scalar(value)
    if isinstance(value, (str, bytes)) and len(value) > MAX_TEXT:
        raise InputError(f"{what} is a text of {len(value)} characters; at most {MAX_TEXT} are read")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InputError(f"{what} is {_describe(value)}; expected text")


def _manager(manager: Any) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Return the axes of a recorded BlockManager, and (values, placement) of each block."""
    if not _is(manager, "BlockManager"):
        raise InputError(f"the DataFrame in the pickle keeps its data in {_describe(manager)}, not in a BlockManager")
    if len(manager.args) == 2:  # pandas >= 1.3: BlockManager(blocks, axes)
        blocks, axes = manager.args
        if all(_is(block, "_unpickle_block") and len(block.args) == 3 for block in blocks):
            return list(axes), [(block.args[0], block.args[1]) for block in blocks]
    state = manager.state
    if isinstance(state, tuple) and len(state) >= 4 and isinstance(state[3], dict) and _NEWEST_LAYOUT in state[3]:
        layout = state[3][_NEWEST_LAYOUT]
        return list(layout["axes"]), [(block["values"], block["mgr_locs"]) for block in layout["blocks"]]
    raise InputError("the DataFrame in the pickle has a layout of blocks that is not known (pandas < 0.14.1?)")


def _index(record: Any) -> list[str]:
    """Return the entries of a recorded Index of names."""
    if _is(record, "_new_Index") and len(record.args) == 2 and isinstance(record.args[1], dict):
        data = record.args[1].get("data")
        if data is not None:
            return [plain_text(item, "a column's name") for item in _values(data).tolist()]
    raise InputError(f"the columns of the DataFrame in the pickle are {_describe(record)}, not an Index of names")


def _values(record: Any) -> np.ndarray:
    """Return the array of a block or an index: of numpy, or behind a pandas string array."""
    if _is(record, "__pyx_unpickle_NDArrayBacked") and isinstance(record.state, tuple):
        arrays = [part for part in record.state if _is(part, "_reconstruct") or _is(part, "_frombuffer")]
        if len(arrays) == 1:
            return to_array(arrays[0])
    if _is(record, "_reconstructor") and record.args and getattr(record.args[0], "__name__", "") == "ArrowStringArray":
        return _arrow_texts(record.state)
    return _arrow_texts(record.state) if _is(record, "ArrowStringArray") else to_array(record)


def _arrow_texts(state: Any) -> np.ndarray:
    """Return the texts (N,) of a pandas string array that pyarrow holds, a bitmap, offsets and bytes; NaN for none."""
    try:
        ((kind, n, _, start, (present, offsets, content), _, _),) = state["_pa_array"].args
        width = {"string": 4, "large_string": 8}[kind.args[0]]
        there, edges, texts = (
            None if buffer is None else _bytes(buffer.args[0]) for buffer in (present, offsets, content)
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError("an array of text in the pickle is damaged, or has a layout that is not known") from error
    if not all(type(number) is int and number >= 0 for number in (n, start)) or edges is None:
        raise InputError("an array of text in the pickle has an impossible shape")
    texts = texts or b""
    if len(edges) < (start + n + 1) * width or (there is not None and 8 * len(there) < start + n):
        raise InputError(f"an array of {n} texts in the pickle does not list as many")
    at = np.frombuffer(edges, f"<i{width}", n + 1, start * width).tolist()
    if at[0] < 0 or at[-1] > len(texts) or any(one > other for one, other in itertools.pairwise(at)):
        raise InputError("an array of text in the pickle is damaged: a text ends before it begins")
    found = np.empty(n, dtype=object)
    for i in range(n):
        known = there is None or there[(start + i) // 8] >> (start + i) % 8 & 1
        try:
            found[i] = texts[at[i] : at[i + 1]].decode() if known else math.nan
        except UnicodeDecodeError as error:
            raise InputError("an array of text in the pickle holds what is not a character") from error
    return found


def _positions(placement: Any, n_columns: int) -> list[int]:
    """Return the column numbers that a block stands for."""
    if _is(placement, "slice") and all(part is None or type(part) is int for part in placement.args):
        found = list(range(n_columns))[slice(*placement.args)]
    else:
        numbers = to_array(placement)
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise InputError("a block of the DataFrame does not say for which columns it stands")
        found = numbers.tolist()
    if any(not 0 <= position < n_columns for position in found):
        raise InputError(f"a block of the DataFrame stands for columns beyond the {n_columns} that there are")
    return found


def _dtype(record: Any) -> np.dtype:
    """Return the dtype of a record, out of the plain ones: bool, integers, floats, bytes, text and objects."""
    text = record.args[0] if _is(record, "dtype") and record.args else record
    if not isinstance(text, str):
        raise InputError(f"the pickle holds an array whose type is {_describe(text)}, not the name of one")
    big_endian = isinstance(record, Record) and isinstance(record.state, tuple) and record.state[1:2] == (">",)
    return _plain_dtype(text, big_endian)


@functools.lru_cache(maxsize=256)
def _plain_dtype(text: str, big_endian: bool) -> np.dtype:
    if not _TYPE.match(text):
        raise InputError(f"the pickle holds an array of type {text[:20]!r}; only numbers, text and objects are read")
    return np.dtype(object) if text.startswith("O") else np.dtype((">" if big_endian else "<") + text)


def _bytes(raw: Any) -> bytes:
    """Return raw bytes, however this version of Python pickled them."""
    if _is(raw, "encode") and len(raw.args) == 2 and isinstance(raw.args[0], str):
        raw = raw.args[0]
    elif _is(raw, "bytes") and not raw.args:
        raw = b""
    elif _is(raw, "bytearray") and len(raw.args) <= 1:
        return _bytes(raw.args[0]) if raw.args else b""
    if isinstance(raw, str):
        try:
            return raw.encode("latin-1")
        except UnicodeEncodeError as error:
            raise InputError("the raw bytes of an array in the pickle are text") from error
    if isinstance(raw, (bytes, bytearray)):
        return bytes(raw)
    raise InputError(f"expected the raw bytes of an array in the pickle, found {_describe(raw)}")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Record) and value.name == name


def _describe(value: Any) -> str:
    return f"a {value.name if isinstance(value, Record) else type(value).__name__}"
