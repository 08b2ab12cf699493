"""An unpickler that runs nothing: it admits the names by which numpy, pandas and pyarrow rebuild objects, and records.

A pickle is a program: it names callables and has them called. Here every admitted name stands for a `Record`, an inert
class that keeps the arguments and the state it is given; nothing of theirs runs while the file is read, and
what the records mean is worked out afterwards (`_frame`). Every other name is refused before anything is called.
"""

import gc
import mmap
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from qwafer._errors import InputError
from qwafer._reading import reads

_NUMPY_CORE = ("numpy.core", "numpy._core")

_NAMES: dict[str, tuple[str, ...]] = {
    "_reconstruct": tuple(f"{core}.multiarray" for core in _NUMPY_CORE),
    "scalar": tuple(f"{core}.multiarray" for core in _NUMPY_CORE),
    "_frombuffer": tuple(f"{core}.numeric" for core in _NUMPY_CORE),
    "ndarray": ("numpy",),
    "dtype": ("numpy",),
    "DataFrame": ("pandas.core.frame", "pandas"),
    "BlockManager": ("pandas.core.internals", "pandas.core.internals.managers"),
    "_unpickle_block": ("pandas._libs.internals",),
    "_new_Index": ("pandas.core.index", "pandas.indexes.base", "pandas.core.indexes.base"),
    "Index": ("pandas.core.index", "pandas.indexes.base", "pandas.core.indexes.base", "pandas"),
    "Int64Index": ("pandas.core.index", "pandas.indexes.numeric", "pandas.core.indexes.numeric"),
    "RangeIndex": ("pandas.core.index", "pandas.indexes.range", "pandas.core.indexes.range", "pandas"),
    "StringArray": ("pandas.arrays", "pandas.core.arrays.string_"),
    "StringDtype": ("pandas", "pandas.core.arrays.string_"),
    "__pyx_unpickle_NDArrayBacked": ("pandas._libs.arrays",),
    "ArrowStringArray": ("pandas.arrays", "pandas.core.arrays.string_arrow"),
    "_restore_array": ("pyarrow.lib",),
    "type_for_alias": ("pyarrow.lib",),
    "py_buffer": ("pyarrow.lib",),
    "_reconstructor": ("copy_reg", "copyreg"),
    "object": ("__builtin__", "builtins"),
    "slice": ("__builtin__", "builtins"),
    "bytes": ("__builtin__", "builtins"),
    "bytearray": ("__builtin__", "builtins"),
    "encode": ("_codecs",),
}

ALLOWED = frozenset(f"{module}.{name}" for name, modules in _NAMES.items() for module in modules)
"""Every name that is admitted: reconstruction of arrays, frames, indexes and strings, in old and in new spelling."""


class Record:
    """What a pickle said about one object: the callable's name is the class's name; see `args` and `state`."""

    __slots__ = ("args", "state")

    args: tuple[Any, ...]
    """What the callable was called with."""
    state: Any
    """What was set on the object afterwards, or None."""

    def __new__(cls, *args: Any) -> "Record":
        record = object.__new__(cls)
        record.args = args
        record.state = None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def name(self) -> str:
        """The name of the callable, without its module."""
        return type(self).__name__


class _Memo:
    """The unpickler's memo as a list: a table of wafer maps has millions of entries, numbered one after the other.

    Numbers that are not in order, as only a damaged file has them, go to a dict, so that none of them claims memory.
    """

    def __init__(self) -> None:
        self._items: list[Any] = [_UNSET]  # number 0, which Python 2 leaves out
        self._others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._items) - (self._items[0] is _UNSET) + len(self._others)

    def __setitem__(self, number: int, value: Any) -> None:
        if number == len(self._items):
            self._items.append(value)
        elif number < len(self._items):
            self._items[number] = value
        else:
            self._others[number] = value

    def __getitem__(self, number: int) -> Any:
        value = self._items[number] if 0 <= number < len(self._items) else self._others[number]
        if value is _UNSET:
            raise KeyError(number)
        return value


_UNSET = object()


class PlainUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python; it allocates nothing that the file only claims, as the one in C does.

    What a pickle could do beside naming callables is taken from it: keys of dictionaries and members of sets are texts
    and numbers, for hashing a nested tuple may take 2^depth steps or the whole stack, and only instances of `builds`
    are given a state.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    builds: ClassVar[tuple[Any, ...]] = ()
    """Classes with a `__setstate__` of their own, which BUILD may call."""
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    stack: list[Any]
    memo: Any

    def __init__(self, content: Any, encoding: str) -> None:
        super().__init__(content, encoding=encoding)
        self.memo = _Memo()

    def _load_bytearray8(self) -> None:
        """Read bytes for a bytearray: only as many as the file has, where the standard method allocates first."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(min(size, sys.maxsize)))

    def _load_items(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    def _load_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def _load_dict(self) -> None:
        found: dict[Any, Any] = {}
        _set_items(found, self.pop_mark())
        self.append(found)

    def _load_members(self) -> None:
        members = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise InputError(f"the pickle adds members to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(_plain_key, members))

    def _load_frozenset(self) -> None:
        self.append(frozenset(map(_plain_key, self.pop_mark())))

    def _load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], self.builds):
            raise InputError(f"the pickle sets the state of a {type(self.stack[-1]).__name__}, which has none")
        target: Any = self.stack[-1]
        target.__setstate__(state)

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8
    dispatch[pickle.SETITEM[0]] = _load_item
    dispatch[pickle.SETITEMS[0]] = _load_items
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.ADDITEMS[0]] = _load_members
    dispatch[pickle.FROZENSET[0]] = _load_frozenset
    dispatch[pickle.BUILD[0]] = _load_build


def _set_items(target: Any, items: list[Any]) -> None:
    """Set the items [key, value, key, value, ...] of a dictionary."""
    if not isinstance(target, dict):
        raise InputError(f"the pickle sets items of a {type(target).__name__}")
    for i in range(0, len(items), 2):
        target[_plain_key(items[i])] = items[i + 1]


def _plain_key(key: Any) -> Any:
    if key is None or type(key) in (str, bytes, int, float, bool):
        return key
    raise InputError(f"the pickle has a {type(key).__name__} for a key; texts and numbers are keys")


class _Unpickler(PlainUnpickler):
    """Admits the names of `ALLOWED`, each of which stands for a `Record`."""

    builds = (Record,)

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        # Python 2 pickled raw bytes as its `str`; Latin-1 gives each byte its own character.
        super().__init__(content, encoding="latin-1")
        self._path = path
        self._classes: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        if f"{module}.{name}" not in ALLOWED or "." in name:
            raise InputError(
                f"{self._path}: the pickle asks for {module}.{name}, which is not among the numpy and pandas "
                f"names that a table of wafer maps needs; nothing was run, and the file is refused"
            )
        # One class per name and file: what a pickle might do to a class dies with it.
        return self._classes.setdefault(name, type(name, (Record,), {"__slots__": ()}))


@reads("is not a whole pickle")
def load_records(path: Path) -> Any:
    """Return the content of the pickle at `path`: plain data and `Record`s.

    Raises:
        InputError: a name outside `ALLOWED` (it is named), or a file that is not a whole pickle.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of small records, none of them garbage: the collector would go over them again and again
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Unpickler(content, path).load()
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    finally:
        if collecting:
            gc.enable()
