"""Opening files that came from outside: every way in which they can be wrong ends in one `InputError`."""

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from qwafer._errors import InputError

ZIP_MAGIC = b"PK"


def check_file(path: str | Path) -> Path:
    """Return `path` as a `Path`; raise `InputError` unless it is a readable, non-empty file."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
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


def npz_keys(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an NPZ without reading them; raise `InputError` unless it is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole NPZ file ({error}); is it truncated, or another format?") from error
    return tuple(name.removesuffix(".npy") for name in names)


def load_npz(path: str | Path, required: Collection[str], what: str, optional: Collection[str] = ()) -> dict:
    """Return the arrays `required`, and those of `optional` that are there, of the NPZ at `path`; never unpickles.

    Raises:
        InputError: not an NPZ, an array missing, an array of Python objects, or damaged content.
    """
    path = check_file(path)
    keys = npz_keys(path)
    missing = [key for key in required if key not in keys]
    if missing:
        raise InputError(
            f"{path} has the arrays {', '.join(keys) or '(none)'}; {what} needs {', '.join(required)}: "
            f"{', '.join(missing)} missing"
        )
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in (*required, *(key for key in optional if key in keys)):
                try:
                    arrays[key] = archive[key]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    raise InputError(
                        f"{path}: the array {key} holds pickled Python objects, which are never loaded; "
                        f"save it again as a plain numeric or string array"
                    ) from error
                except MemoryError as error:
                    raise InputError(
                        f"{path}: the array {key} does not fit into memory; is the file damaged?"
                    ) from error
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, SyntaxError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return arrays
