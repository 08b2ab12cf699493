"""One sentence for every violated precondition: "`name` must ..., got ..."."""

import dataclasses
import difflib
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from qwafer._errors import InputError

LARGEST_INT = 2**31 - 1
"""The bound of every count that has no smaller one of its own."""
LARGEST_SEED = 2**63 - 1
"""The bound of seeds."""


def plain(value: Any) -> Any:
    """Return Python's number for NumPy's; any other value as it is.

    np.int64(4) is what `np.arange` gives. Kept as it is it would overflow in 2**n and be another text in a message.
    """
    # Told without importing NumPy, which `--help` need not load; an array has dimensions, a number none.
    return value.item() if type(value).__module__ == "numpy" and not getattr(value, "ndim", 1) else value


def plain_numbers(record: Any) -> None:
    """Replace NumPy's numbers among the fields of a frozen dataclass by Python's: called first in `__post_init__`."""
    for field in dataclasses.fields(record):
        object.__setattr__(record, field.name, plain(getattr(record, field.name)))


def check_positive_int(name: str, value: Any, *, minimum: int = 1, maximum: int = LARGEST_INT) -> int:
    """Return `value` as an int; raise unless it is an integer, Python's or NumPy's, from `minimum` to `maximum` (bool
    is not an integer here).
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, got {value!r}")
    if value < minimum:
        raise InputError(f"`{name}` must be at least {minimum}, got {value}")
    if value > maximum:
        raise InputError(f"`{name}` must be at most {maximum:,}, got {value if value < 10**30 else 'far more'}")
    return value


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of `choices`; the message names the nearest."""
    if value not in choices:
        raise InputError(
            f"`{name}` must be one of {', '.join(sorted(choices))}, got {value!r}{nearest(value, choices)}"
        )


def check_interval(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless `value` is a finite real number in the interval from `low` to `high`."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise InputError(f"`{name}` must lie in {interval}, got {value}")


def check_shape(name: str, array: Any, shape: tuple[int | str, ...], lengths: dict[str, int] | None = None) -> None:
    """Raise unless `array.shape` matches `shape`; strings stand for any length, equal strings for equal lengths.

    A first `...` stands for any number of axes. `lengths` are those known from other arrays; the new ones are added.
    """
    actual = tuple(array.shape)
    lengths = {} if lengths is None else lengths
    known = ", ".join(f"{dim} = {lengths[dim]}" for dim in shape if isinstance(dim, str) and dim in lengths)
    some = shape[:1] == ("...",)
    have, want = (actual[1 - len(shape) or len(actual) :], shape[1:]) if some else (actual, shape)
    fits = len(have) == len(want)
    for length, dim in zip(have, want, strict=False):
        fits = fits and length == (lengths.setdefault(dim, length) if isinstance(dim, str) else dim)
    if not fits:
        given = f" with {known}" if known else ""
        raise InputError(f"`{name}` must have shape ({', '.join(map(str, shape))}){given}, got {actual}")


def check_path(path: str | Path) -> Path:
    """Return `path`; raise unless it is UTF-8 without control characters, as every report and record needs it."""
    check_printable("the path", str(Path(path).absolute()))
    return Path(path)


def check_exists(path: str | Path) -> Path:
    """Return `path` as a `Path`; raise `InputError` where nothing is there."""
    path = check_path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path")
    return path


def check_printable(name: str, text: str, *, lines: bool = False) -> None:
    """Raise if `text` holds control characters or parts of characters; `lines` allows newlines and tabs."""
    bad = next((c for c in text if not c.isprintable() and not (lines and c in "\n\t") and _unsafe(c)), None)
    if bad is not None:
        raise InputError(
            f"{name} must be printable text, without control characters and bytes that are not UTF-8, got "
            f"{(text if len(text) <= 100 else text[:97] + '...')!a}"
        )


def _unsafe(character: str) -> bool:
    """Return whether a character steers a terminal or cannot be written (other spaces and unassigned ones are fine)."""
    return unicodedata.category(character) in ("Cc", "Cs", "Cf", "Zl", "Zp")


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for the known name closest to `name`, or "" if none is close."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean `{match[0]}`?" if match else ""
