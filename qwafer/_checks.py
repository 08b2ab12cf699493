"""One sentence for every violated precondition: "`name` must ..., got ..."."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from qwafer._errors import InputError


def check_positive_int(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise unless `value` is an int >= `minimum` (bool is not an int here)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, got {value!r}")
    if value < minimum:
        raise InputError(f"`{name}` must be at least {minimum}, got {value}")


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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise InputError(f"`{name}` must lie in {interval}, got {value}")


def check_shape(name: str, array: Any, shape: tuple[int | str, ...]) -> None:
    """Raise unless `array.shape` matches `shape`; strings stand for any length, equal strings for equal lengths."""
    actual = tuple(array.shape)
    bound: dict[str, int] = {}
    fits = len(actual) == len(shape)
    if fits:
        for have, want in zip(actual, shape, strict=True):
            if isinstance(want, str):
                want = bound.setdefault(want, have)
            fits = fits and have == want
    if not fits:
        raise InputError(f"`{name}` must have shape ({', '.join(map(str, shape))}), got {actual}")


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean `x`?" for the known name closest to `name`, or "" if none is close."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean `{match[0]}`?" if match else ""
