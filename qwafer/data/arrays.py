"""Labels, maps and columns as they come in arrays of anybody's own, into the one form that the library keeps."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qwafer._arrays import as_array, real_array
from qwafer._errors import InputError
from qwafer.data.maps import CONTENT_ID_DTYPE, Maps, as_sequence, one_hot

MOST_CLASSES = 1000
"""Integers or texts of more distinct values are no classes: they number or measure the examples."""


def as_labels(
    labels: Any, n: int, names: Iterable[str] | None = None, *, exclusive: bool = False
) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Return labels of n examples as (n, K) uint8 of 0 and 1, their K names, and whether they are exclusive classes.

    - None: no labels, K = 0.
    - (n, K) of 0 and 1: one column per label, named `label_0` to `label_{K-1}` if `names` is none.
    - (n,) of 0 and 1 only: one label, called `label`; two exclusive classes if two names are given, or `exclusive`.
    - (n,) of other integers: exclusive classes. With names, class k is `names[k]`; without, each distinct value is a
      class, in ascending order.
    - (n,) of texts: exclusive classes in the order of `names`, or sorted.

    Numbers may be of any real type as long as they are whole.

    Raises InputError for another shape, values that are none of these, or names that do not fit.
    """
    if isinstance(names, str):
        raise InputError(f"`label_names` must be a list of names, got {names!r}")
    given = None if names is None else tuple(str(name) for name in names)
    if labels is None:
        if given or exclusive:
            raise InputError("`label_names` and `exclusive` belong to `labels`, and there are none")
        return np.zeros((n, 0), np.uint8), (), False
    array = _plain("labels", labels)
    if array.ndim not in (1, 2):
        raise InputError(f"`labels` must have shape (N,) or (N, K), got {array.shape}")
    if len(array) != n:
        raise InputError(f"`labels` must have {n} rows, one per example, got shape {array.shape}")
    is_text = array.dtype.kind == "U"
    if not is_text:
        array = array.astype(np.int64)
    if array.ndim == 2:
        if is_text or not np.isin(array, (0, 1)).all():
            raise InputError("`labels` of shape (N, K) must be 0 or 1: one column per label")
        return array.astype(np.uint8), given or tuple(f"label_{k}" for k in range(array.shape[1])), exclusive
    values = np.unique(array)
    if not is_text and not exclusive and set(values.tolist()) <= {0, 1} and (given is None or len(given) == 1):
        return array[:, None].astype(np.uint8), given or ("label",), False
    if len(values) > MOST_CLASSES:
        raise InputError(f"`labels` has {len(values)} distinct values, and classes are at most {MOST_CLASSES}")
    if given is None:
        return one_hot(np.searchsorted(values, array), len(values)), tuple(map(str, values.tolist())), True
    if is_text:
        unknown = [value for value in values.tolist() if value not in given]
        if unknown:
            raise InputError(f"`label_names` has no class {unknown[0]}, which occurs in `labels`")
        place = {name: k for k, name in enumerate(given)}
        array = np.array([place[value] for value in array.tolist()], np.int64)
    elif n and not 0 <= array.min() <= array.max() < len(given):
        raise InputError(
            f"`labels` must lie in 0..{len(given) - 1}, for `label_names` names {len(given)} classes; got "
            f"{array.min()}..{array.max()}"
        )
    return one_hot(array, len(given)), given, True


def as_texts(name: str, column: Any, n: int) -> np.ndarray | None:
    """Return (n,) texts or whole numbers as strings, None as None; raise InputError, naming the column, for others."""
    if column is None:
        return None
    array = _plain(name, column)
    if array.shape != (n,):
        raise InputError(f"`{name}` must be {n} texts or whole numbers, got shape {array.shape}")
    return array if array.dtype.kind == "U" else array.astype(np.int64).astype(np.str_)


def as_times(times: Any) -> np.ndarray | None:
    """Return times as float64, None as None; raise InputError for what are not numbers."""
    return None if times is None else real_array("times", times).astype(np.float64)


def as_maps(maps: Any) -> Maps:
    """Return maps of whole numbers 0, 1 and 2, of any real type, as uint8: (N, H, W), or a tuple where shapes differ.

    Raises InputError for another shape, or other values.
    """
    if isinstance(maps, np.ndarray) or hasattr(maps, "__array__"):
        maps = as_array("maps", maps)
        if maps.ndim != 3:
            raise InputError(f"`maps` must have shape (N, H, W), or be a list of 2-D arrays, got {maps.shape}")
        return _dies(maps)
    wafers = tuple(_dies(as_array("maps", wafer)) for wafer in as_sequence("maps", maps))
    for wafer in wafers:
        if wafer.ndim != 2:
            raise InputError(f"`maps` must have shape (N, H, W), or be a list of 2-D arrays, got one of {wafer.shape}")
    return np.stack(wafers) if wafers and len({wafer.shape for wafer in wafers}) == 1 else wafers


def row_ids(features: np.ndarray) -> np.ndarray:
    """Return (N,) ids of 16 hex digits, equal for equal rows of (N, D) float32: the start of each row's SHA-256."""
    rows = np.ascontiguousarray(features + np.float32(0))  # -0.0 equals 0.0
    head = f"{features.shape[1]}:".encode()
    return np.array([hashlib.sha256(head + row.tobytes()).hexdigest()[:16] for row in rows], CONTENT_ID_DTYPE)


def ids_sha256(ids: Sequence[str] | np.ndarray) -> str:
    """Return the SHA-256 of the content ids of some data, in their order."""
    return hashlib.sha256("\n".join(map(str, ids)).encode()).hexdigest()


def _plain(name: str, values: Any) -> np.ndarray:
    """Return whole numbers, truth values or texts as an array of one of these; raise InputError for others."""
    array = as_array(name, values)
    if array.dtype == object and all(isinstance(value, str) for value in array.ravel()):
        array = array.astype(np.str_)
    if array.dtype.kind not in "biufU":
        raise InputError(f"`{name}` must be whole numbers, truth values or texts, got {array.dtype}")
    if array.dtype.kind == "f":
        wrong = np.argwhere(~(array == np.floor(array)) | ~np.isfinite(array))
        if len(wrong):
            raise InputError(
                f"`{name}` must be whole numbers, truth values or texts; row {wrong[0][0]} is {array[tuple(wrong[0])]}"
            )
    return array


def _dies(maps: np.ndarray) -> np.ndarray:
    """Return dies as uint8 where they are 0, 1 and 2; raise InputError for others."""
    if maps.dtype.kind not in "biuf":
        raise InputError(f"`maps` must be whole numbers, got {maps.dtype}")
    if maps.dtype == np.uint8:
        return maps
    dies = np.zeros(maps.shape, np.uint8)
    for value in (1, 2):
        dies[maps == value] = value
    if not np.array_equal(dies, maps):
        wrong = maps[dies != maps].flat[0]
        raise InputError(
            f"`maps` must hold the whole numbers 0 (off the wafer), 1 (passing) and 2 (failing) only, got {wrong}"
        )
    return dies
