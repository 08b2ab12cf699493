"""Writes checkpoints in torch's two formats without torch: what the reader is tested on."""

import collections
import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_STORAGES = {
    np.dtype("f4"): "FloatStorage",
    np.dtype("f8"): "DoubleStorage",
    np.dtype("f2"): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype("i8"): "LongStorage",
    np.dtype("?"): "BoolStorage",
}


class _Storage:
    def __init__(self, flat: np.ndarray, key: str) -> None:
        self.flat, self.key = flat, key


@contextlib.contextmanager
def _fake_torch() -> Iterator[tuple[Any, dict[str, type]]]:
    """Modules called torch and torch._utils while the pickler looks names up."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild() -> None:
        raise AssertionError("never called")

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = rebuild
    kinds = {name: type(name, (), {"__module__": "torch"}) for name in _STORAGES.values()}
    for name, kind in kinds.items():
        setattr(torch, name, kind)
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield rebuild, kinds
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def save_torch(content: Any, path: Path, *, legacy: bool = False) -> Path:
    """Write nested dictionaries of arrays as `torch.save` does, in the zip format or the one before torch 1.6."""
    storages: list[_Storage] = []
    with _fake_torch() as (rebuild, kinds):

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                if not isinstance(value, _Storage):
                    return None
                kind = kinds[_STORAGES[value.flat.dtype]]
                pid = ("storage", kind, value.key, "cpu", value.flat.size)
                return (*pid, None) if legacy else pid

            def reducer_override(self, value: Any) -> Any:
                if not isinstance(value, np.ndarray):
                    return NotImplemented
                base = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
                storages.append(_Storage(np.ascontiguousarray(base).reshape(-1), str(len(storages))))
                strides = tuple(s // value.itemsize for s in value.strides)
                start = (value.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // value.itemsize
                hooks: Any = collections.OrderedDict()
                return rebuild, (storages[-1], start, tuple(value.shape), strides, False, hooks)

        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(content)
    if legacy:
        return _write_legacy(path, buffer.getvalue(), storages)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.flat.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def _write_legacy(path: Path, content: bytes, storages: list[_Storage]) -> Path:
    with path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(header, file, 2)
        file.write(content)
        pickle.dump([storage.key for storage in storages], file, 2)
        for storage in storages:
            file.write(struct.pack("<q", storage.flat.size))
            file.write(storage.flat.tobytes())
    return path
