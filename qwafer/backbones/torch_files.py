"""Tensors out of torch's checkpoint files, without torch and without executing what a pickle asks for.

Two formats: since torch 1.6 a zip archive (`data.pkl` beside one raw storage a member), before it a sequence of pickles
followed by raw storages. Both pickles describe nested dictionaries of tensors; the unpickler below builds those and
admits nothing else that could run code.
"""

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qwafer._errors import InputError
from qwafer._reading import reads
from qwafer.data._unpickle import PlainUnpickler

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Ignored:
    """Stands for an object beside the tensors (training arguments, a best score): takes anything, keeps nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary(dict):
    """Stands for an OrderedDict: the attributes that torch sets on a state_dict (`_metadata`) are left out."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        if pairs != ():
            raise InputError("it makes an OrderedDict of what torch does not write")

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass(frozen=True, slots=True, eq=False)
class _StorageType:
    """A torch storage class by name."""

    dtype: np.dtype


@dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    """The numbers of one storage, one after the other: what a tensor is a view of."""

    flat: np.ndarray


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return the tensor that `torch._utils._rebuild_tensor_v2` would return: a strided view of its storage.

    It has at most as many entries as its storage, and none outside of it.
    """
    if not isinstance(storage, _Storage):
        raise InputError(f"a tensor rests on a {type(storage).__name__}, not on a storage of the file")
    sides, steps = _lengths(size), _lengths(stride)
    (start,) = _lengths((offset,))
    flat = storage.flat
    count = math.prod(sides)
    if len(sides) != len(steps) or len(sides) > 32:
        raise InputError("a tensor has not one stride for each of at most 32 sides")
    if count == 0 and math.prod(n for n in sides if n) < 2**31:
        return np.zeros(sides, flat.dtype)
    last = start + sum((n - 1) * s for n, s in zip(sides, steps, strict=True))
    if count == 0 or count > len(flat) or last >= len(flat):
        raise InputError(f"a tensor reaches beyond its storage of {len(flat)} entries")
    strides = tuple(s * flat.itemsize for s in steps)
    return np.lib.stride_tricks.as_strided(flat[start:], sides, strides, writeable=False)


def _lengths(values: Any) -> tuple[int, ...]:
    """Return a tuple of integers from 0 on."""
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise InputError("a tensor's place, sides and strides must be integers from 0 on")
    return values


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    ("_codecs", "encode"): _Ignored,
}


class _Unpickler(PlainUnpickler):
    """Builds dictionaries, lists, numbers, strings and tensors; refuses every other global by name."""

    builds = (_Ignored, _Dictionary)

    def __init__(self, file: Any, storage: Callable[[np.dtype, str, int, tuple[Any, ...]], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        raise InputError(
            f"it asks for `{module}.{name}`, which no list of tensors needs: it could run code and is refused; save "
            f"the state_dict alone, or use a .safetensors file"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and isinstance(pid[1], _StorageType)):
            raise InputError("it refers to an object that is not a tensor storage")
        what, kind, key, _, length = pid[:5]
        if not (type(what) is type(key) is str and what == "storage" and type(length) is int and length >= 0):
            raise InputError("it refers to an object that is not a tensor storage")
        return self._storage(kind.dtype, key, length, pid[5:])


@reads("is truncated or damaged, or no torch checkpoint")
def read_torch_file(path: Path) -> Any:
    """Return the object in a torch checkpoint, its tensors as NumPy arrays.

    Raises:
        InputError: a truncated or damaged file, or a pickle that asks for anything but tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise InputError("it is truncated: the directory at the end of the zip archive is missing")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read_legacy(content)
    except InputError as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {error}") from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise InputError("its members are compressed or encrypted, which torch's never are")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise InputError("it is damaged: its members are longer than the file")
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise InputError("the zip archive holds no `data.pkl` (TorchScript and other archives are not read)")
        root = pickles[0].rsplit("/", 1)[0]
        order = f"{root}/byteorder"
        if order in names and archive.read(order) != b"little":
            raise InputError("its numbers are big-endian")
        storages: dict[str, _Storage] = {}

        def storage(dtype: np.dtype, key: str, length: int, rest: tuple[Any, ...]) -> _Storage:
            if key not in storages:
                # The archive checks the member's CRC as it is read.
                storages[key] = _Storage(np.frombuffer(archive.read(f"{root}/data/{key}"), dtype))
            if len(storages[key].flat) < length:
                raise InputError(f"storage {key} is shorter than it should be")
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(file: mmap.mmap) -> Any:
    def refuse(dtype: np.dtype, key: str, length: int, rest: tuple[Any, ...]) -> _Storage:
        raise InputError("its header refers to a storage")

    magic = _Unpickler(file, refuse).load()
    if magic != LEGACY_MAGIC:
        raise InputError("it is a pickle, but none of torch's")
    _Unpickler(file, refuse).load()
    system = _Unpickler(file, refuse).load()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise InputError("its numbers are big-endian")
    storages: dict[str, _Storage] = {}
    claimed = 0

    def storage(dtype: np.dtype, key: str, length: int, rest: tuple[Any, ...]) -> _Storage:
        nonlocal claimed
        if rest and rest[0] is not None:
            raise InputError("it holds views of storages, which files since torch 0.4 do not")
        if key not in storages:
            claimed += length * dtype.itemsize
            if claimed > len(file):
                raise InputError("it is truncated: its storages are longer than the file")
            # The numbers follow behind the pickle: reserve them now, fill them in below.
            storages[key] = _Storage(np.zeros(length, dtype))
        return storages[key]

    result = _Unpickler(file, storage).load()
    for key in _Unpickler(file, refuse).load():
        (length,) = struct.unpack("<q", file.read(8))
        flat = storages[key].flat if type(key) is str and key in storages else None
        if flat is None or length != len(flat):
            raise InputError("a storage has another length than its tensors say")
        data = file.read(flat.nbytes)
        if len(data) != flat.nbytes:
            raise InputError("it is truncated")
        flat[:] = np.frombuffer(data, flat.dtype)
    return result
