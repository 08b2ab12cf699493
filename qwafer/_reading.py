"""The guard of every reader: whatever a parser raises on bytes from outside becomes one `InputError` with the path.

Parsers (zip, NPY headers, pickles, JSON, TOML, safetensors) raise nearly anything on damaged or hostile content. A
reader is marked once, with `reads`, instead of listing what it has been seen to raise.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from qwafer._errors import CapabilityError, InputError

P = ParamSpec("P")
T = TypeVar("T")

UNPACKED_RATIO = 100
"""A file may stand for so many times its own bytes in memory (wafer maps compress seven- to sixtyfold)."""
UNPACKED_BYTES = 256 << 20
"""What any file may stand for, however small it is."""


def reads(
    says: str, argument: str = "path", *, error: type[InputError] = InputError
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a reader: unexpected exceptions become `error`, "PATH `says` (reason)"; PATH is its `argument`.

    `InputError`, `CapabilityError`, and what the operating system says of a file by name (missing, not permitted) come
    out as they are.
    """

    def mark(reader: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(reader)

        @functools.wraps(reader)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return reader(*args, **kwargs)
            except (InputError, CapabilityError):
                raise
            except MemoryError as found:
                path = signature.bind(*args, **kwargs).arguments[argument]
                raise error(f"{path} does not fit into memory; is it damaged?") from found
            except Exception as found:
                if isinstance(found, OSError) and found.filename is not None:
                    raise
                path = signature.bind(*args, **kwargs).arguments[argument]
                raise error(f"{path} {says} ({_reason(found)})") from found

        return guarded

    return mark


def check_unpacked(path: str | Path, nbytes: int) -> None:
    """Raise InputError where the content of `path` would take `nbytes` in memory, and a file of its size should not."""
    limit = max(UNPACKED_RATIO * Path(path).stat().st_size, UNPACKED_BYTES)
    if nbytes > limit:
        raise InputError(
            f"{path} would unpack to {nbytes / 2**20:,.0f} MiB or more; a file of its size may unpack to "
            f"{limit / 2**20:,.0f} MiB ({UNPACKED_RATIO} times as much, at least {UNPACKED_BYTES >> 20} MiB): is it "
            "damaged?"
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
