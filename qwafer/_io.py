"""Atomic files, what to do with damaged ones, canonical JSON, digests and named random keys."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qwafer._errors import InputError

T = TypeVar("T")

TEMPORARY = ".qwafer-"
"""How the name of a file begins that is being written: `.qwafer-XXXXXXXX-NAME` becomes `NAME`."""
DAMAGED = ".damaged"
"""What follows the name of a file that was set aside."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    File and folder are flushed to disk, so that a reader sees the old file or the whole new one, after a loss of power,
    too. What killed writes of `path` have left goes first. The error of a full disk names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporaries(path.parent, path.name)

    def create() -> Path:
        new = temporary_path(path)
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        return new

    try:
        with held(create) as temporary:
            try:
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        flush_folder(path.parent)
    except OSError as error:
        if is_full(error):
            error.filename = str(path)
        raise


def temporary_path(path: Path) -> Path:
    """Return a new name beside `path` for what is to replace it; `remove_temporaries` knows it."""
    return path.with_name(f"{TEMPORARY}{os.urandom(4).hex()}-{path.name}")


def is_full(error: OSError) -> bool:
    """Return whether the disk is full, or a limit on the size of files or the user's quota is reached."""
    return error.errno in _FULL


@contextlib.contextmanager
def held(create: Callable[[], Path]) -> Iterator[Path]:
    """Yield the temporary file or folder that `create` made, locked, so that `remove_abandoned` leaves it alone.

    The operating system releases the lock of a process that dies.
    """
    while True:
        path = create()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():  # else another process took it, before the lock, for abandoned
                yield path
                return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process is in here with the file `lock`, which is made, with its folder, where it is not
    there.

    The operating system releases the lock of a process that dies.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusively(lock: Path, refusal: str) -> Iterator[None]:
    """Hold the file `lock`, which is made, with its folder, where it is not there; raise InputError, saying `refusal`,
    where another process does.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(refusal) from error
        yield


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove those of `paths`, files or folders that `held` has made, whose process is gone."""
    for path in list(paths):
        with contextlib.suppress(OSError):  # held, or removed by another process
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove what killed writes of the file `name` have left in `folder`; of any file, in folders within it, too, if
    none.
    """
    if name is None:
        remove_abandoned(folder.rglob(f"{TEMPORARY}????????-*"))
    else:
        remove_abandoned(folder.glob(f"{TEMPORARY}????????-{glob.escape(name)}"))


def read_or_set_aside(
    read: Callable[[Path], T], path: Path, *beside: Path, damage: type[InputError] = InputError
) -> T | None:
    """Return `read(path)`; None where there is no such file, or where it is damaged: then it is set aside.

    That is, where `read` raises `damage`, the file is renamed `NAME.damaged`, with those of `beside` that are there,
    and a `UserWarning` says so: whoever calls makes it again. Only for files of a folder that the caller holds.
    """
    if not os.path.lexists(path):
        return None
    try:
        if not (path.is_file() or path.is_dir()):
            raise damage(f"{path} is not a regular file")
        return read(path)
    except damage as error:
        aside = [_set_aside(each) for each in (path, *beside) if os.path.lexists(each)]
        warnings.warn(f"{error}; it was set aside as {aside[0].name}, and is made again", UserWarning, stacklevel=2)
        return None


def npz_damage(path: Path) -> str | None:
    """Return what is damaged in the NPZ at `path`, in words; None where every array is what was written.

    An NPZ is a zip archive, which holds a CRC-32 of each array; reading an array checks it, too.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # what zipfile and zlib raise for damaged bytes has no common class
        return str(error) or type(error).__name__
    return None if bad is None else f"the checksum of {bad} differs"


def _set_aside(path: Path) -> Path:
    names = (f"{path.name}{DAMAGED}{number}" for number in ("", *(f"-{i}" for i in range(2, 1000))))
    aside = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    path.rename(aside)
    return aside


def flush_folder(folder: Path) -> None:
    """Write the names in `folder` to disk: a rename is kept there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system that cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8; what of a path is not UTF-8 is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON; NaN and infinities become null, arrays become lists."""
    write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces; equal values give equal texts."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def jsonable(value: Any) -> Any:
    """Return `value` as plain JSON data; non-finite numbers become None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "__array__"):
        return jsonable(np.asarray(value))
    raise TypeError(f"`value` must be JSON data or an array, got {type(value).__name__}")


def digest(*parts: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of `parts` (arrays by dtype, shape and bytes; others by
    canonical JSON).
    """
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"")
        else:
            state.update(canonical_json(part).encode())
        state.update(b"\0")
    return state.hexdigest()[:16]


def hash_texts(texts: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash (BLAKE2b) of each of (N,) texts, (N,) uint64: equal texts have equal hashes anywhere."""
    known: dict[str, int] = {}
    for text in texts.tolist():
        if text not in known:
            content = str(text).encode(errors="surrogatepass")
            known[text] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return np.array([known[text] for text in texts.tolist()], np.uint64)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_seed(seed: int, name: str) -> int:
    """Return the 32-bit seed of the random stream called `name` in the run `seed`; independent of any order of
    calls.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")
