"""Atomic files, canonical JSON, digests and named random keys."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    The content is flushed to disk before the rename, so that a reader sees the old file or the whole new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
