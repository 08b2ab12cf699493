"""One sentence for every violated precondition: "`name` must ..., got ..."."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from qwafer._errors import InputError


def plain_numbers(record: Any) -> None:
    """Replace NumPy's numbers among the fields of a frozen dataclass by Python's: called first in `__post_init__`.

    np.int64(4) is what `np.arange` gives. Kept as it is it would overflow in 2**n and be another text in a message.
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(record, field.name, value.item())


def check_positive_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return `value` as an int; raise unless it is an integer, Python's or NumPy's, >= `minimum` (bool is not one)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be an integer, got {value!r}")
    if value < minimum:
        raise InputError(f"`{name}` must be at least {minimum}, got {value}")
    return int(value)


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
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
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
