"""Tensors out of torch's checkpoint files, without torch and without executing what a pickle asks for.

Two formats: since torch 1.6 a zip archive (`data.pkl` beside one raw storage a member), before it a sequence of pickles
followed by raw storages. Both pickles describe nested dictionaries of tensors; the unpickler below builds those and
admits nothing else that could run code.
"""

import collections
import errno
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from qwafer._errors import InputError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What the standard library's readers raise on bytes that are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
)

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


class _StorageType:
    """A torch storage class by name."""

    def __init__(self, name: str) -> None:
        self.dtype = _DTYPES[name]


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return the tensor that `torch._utils._rebuild_tensor_v2` would return: a strided view of its storage."""
    extent = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if 0 not in size else offset
    if offset < 0 or any(n < 0 for n in size) or any(s < 0 for s in stride) or extent > len(storage):
        raise InputError(f"a tensor of size {tuple(size)} reaches beyond its storage of {len(storage)} entries")
    strides = tuple(s * storage.itemsize for s in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), strides, writeable=False)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): _Ignored,
    ("numpy", "dtype"): _Ignored,
    ("numpy.core.multiarray", "scalar"): _Ignored,
    ("numpy._core.multiarray", "scalar"): _Ignored,
    ("_codecs", "encode"): _Ignored,
}


class _Unpickler(pickle._Unpickler):
    """Builds dictionaries, lists, numbers, strings and tensors; refuses every other global by name.

    It rests on the unpickler in Python: the one in C fills the memory when a damaged byte makes a memo index large.
    """

    def __init__(self, file: Any, storage: Callable[[tuple[Any, ...]], np.ndarray]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ADMITTED:
            return _ADMITTED[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        raise InputError(
            f"it asks for `{module}.{name}`, which no list of tensors needs: it could run code and is refused; save "
            f"the state_dict alone, or use a .safetensors file"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise InputError("it refers to an object that is not a tensor storage")
        return self._storage(pid)


def read_torch_file(path: Path) -> Any:
    """Return the object in a torch checkpoint, its tensors as NumPy arrays.

    Raises:
        InputError: a truncated or damaged file, or a pickle that asks for anything but tensors.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(path):
                return _read_zip(path)
            if file.read(4) == b"PK\x03\x04":
                raise InputError("it is truncated: the directory at the end of the zip archive is missing")
            file.seek(0)
            return _read_legacy(file)
    except InputError as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {error}") from error
    except _DAMAGE as error:
        raise InputError(f"{path} is truncated or damaged, or no torch checkpoint ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # what zipfile raises for an offset before the file's start
            raise
        raise InputError(f"{path} is damaged ({error})") from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in archive.infolist()):
            raise InputError("its members are compressed or encrypted, which torch's never are")
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise InputError("the zip archive holds no `data.pkl` (TorchScript and other archives are not read)")
        root = pickles[0].rsplit("/", 1)[0]
        order = f"{root}/byteorder"
        if order in names and archive.read(order) != b"little":
            raise InputError("its numbers are big-endian")
        storages: dict[str, np.ndarray] = {}

        def storage(pid: tuple[Any, ...]) -> np.ndarray:
            _, kind, key, _, length = pid[:5]
            if key not in storages:
                # The archive checks the member's CRC as it is read.
                storages[key] = np.frombuffer(archive.read(f"{root}/data/{key}"), kind.dtype)
            if len(storages[key]) < length:
                raise InputError(f"storage {key} is shorter than it should be")
            return storages[key]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    def refuse(pid: tuple[Any, ...]) -> np.ndarray:
        raise InputError("its header refers to a storage")

    size = os.fstat(file.fileno()).st_size
    magic = _Unpickler(file, refuse).load()
    if magic != LEGACY_MAGIC:
        raise InputError("it is a pickle, but none of torch's")
    _Unpickler(file, refuse).load()
    system = _Unpickler(file, refuse).load()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise InputError("its numbers are big-endian")
    storages: dict[str, np.ndarray] = {}

    def storage(pid: tuple[Any, ...]) -> np.ndarray:
        _, kind, key, _, length = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise InputError("it holds views of storages, which files since torch 0.4 do not")
        if length * kind.dtype.itemsize > size:
            raise InputError(f"it is truncated: storage {key} alone is longer than the file")
        # The numbers follow behind the pickle: reserve them now, fill them in below.
        return storages.setdefault(key, np.zeros(length, kind.dtype))

    result = _Unpickler(file, storage).load()
    for key in _Unpickler(file, refuse).load():
        (length,) = struct.unpack("<q", file.read(8))
        if key not in storages or length != len(storages[key]):
            raise InputError(f"storage {key} has another length than its tensors say")
        data = file.read(storages[key].nbytes)
        if len(data) != storages[key].nbytes:
            raise InputError("it is truncated")
        storages[key][:] = np.frombuffer(data, storages[key].dtype)
    return result
