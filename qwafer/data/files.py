"""Opening files that came from outside: every way in which they can be wrong ends in one `InputError`."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from qwafer._checks import check_exists
from qwafer._errors import InputError
from qwafer._reading import check_unpacked, reads

ZIP_MAGIC = b"PK"


def check_file(path: str | Path) -> Path:
    """Return `path` as a `Path`; raise `InputError` unless it is a readable, non-empty file."""
    path = check_exists(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a file")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not first:
        raise InputError(f"{path} is empty (0 bytes); was its download or its writing broken off?")
    return path


def check_count(path: str | Path, n: int) -> None:
    """Raise `InputError` where a file claims more maps than it has bytes (100,000 are always allowed)."""
    size = Path(path).stat().st_size
    if n > max(size, 100_000):
        raise InputError(f"{path} claims {n:,} maps in {size:,} bytes: is it damaged?")


@reads("is not a whole NPZ file; is it truncated, or another format?")
def npz_keys(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an NPZ without reading them; raise `InputError` unless it is one."""
    with zipfile.ZipFile(path) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


def load_npz(path: str | Path, required: Collection[str], what: str, optional: Collection[str] = ()) -> dict:
    """Return the arrays `required`, and those of `optional` that are there, of the NPZ at `path`; never unpickles.

    Raises:
        InputError: not an NPZ, an array missing, an array of Python objects, damaged content, or more of it than a file
            of its size may hold (`check_unpacked`).
    """
    path = check_file(path)
    keys = npz_keys(path)
    missing = [key for key in required if key not in keys]
    if missing:
        raise InputError(
            f"{path} has the arrays {', '.join(keys) or '(none)'}; {what} needs {', '.join(required)}: "
            f"{', '.join(missing)} missing"
        )
    return read_npz(path, (*required, *(key for key in optional if key in keys)))


@reads("is damaged")
def read_npz(path: Path, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays `keys` (if none: all) of the NPZ at `path`; never unpickles.

    The sizes that the zip directory and the headers claim are held against each other and against `check_unpacked`
    before anything is allocated.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        wanted = members if keys is None else {key: members[key] for key in keys}
        check_unpacked(path, sum(member.file_size for member in wanted.values()))
        return {key: _array(path, archive, member) for key, member in wanted.items()}


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    where = f"{path}: the array {member.filename.removesuffix('.npy')}"
    with archive.open(member) as file:
        header = _HEADERS.get(np.lib.format.read_magic(file))
        if header is None:
            raise InputError(f"{where} is in a version of NumPy's format that is not read; save it again")
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise InputError(
                f"{where} holds pickled Python objects, which are never loaded; save it again as a plain numeric or "
                f"string array"
            )
        held = member.file_size - file.tell()
        if math.prod(shape) * dtype.itemsize != held:
            raise InputError(f"{where} is damaged: its header says {shape} of {dtype}, and {held} bytes follow")
        check_unpacked(path, math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1))
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
