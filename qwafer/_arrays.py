"""Arrays of callers, in one place: real numbers, in shapes that belong together, or one sentence.

`@shaped()` makes the jaxtyping annotations of a public function the check of its arguments.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from qwafer._checks import check_shape
from qwafer._errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
Shape = tuple[int | str, ...]


def check_unmasked(name: str, values: Any, source: str = "") -> None:
    """Raise InputError where `values`, of `source` if one is given, has masked entries."""
    if np.ma.is_masked(values):
        of = f" of {source}" if source else ""
        raise InputError(f"`{name}`{of} has masked entries: leave their rows out, or fill them")


def as_array(name: str, values: Any) -> np.ndarray:
    """Return `values` as a NumPy array; raise InputError for ragged rows, and for masked entries, whose numbers mean
    nothing and would be taken for data.
    """
    check_unmasked(name, values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"`{name}` must be an array ({error})") from error


def real_array(
    name: str, values: Any, shape: Shape | None = None, lengths: dict[str, int] | None = None, *, finite: bool = False
) -> np.ndarray:
    """Return real numbers of any type, truth values included, as a NumPy array of that type.

    Raises InputError for anything else (complex numbers, texts, objects), for another `shape` (see `check_shape`), and
    with `finite` for NaN and infinite numbers.
    """
    array = as_array(name, values)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"`{name}` must be real numbers, got {array.dtype}")
    if shape is not None:
        check_shape(name, array, shape, lengths)
    if finite:
        _check_finite(name, array)
    return array


def whole_array(name: str, values: Any, low: int, high: int) -> np.ndarray:
    """Return whole numbers from `low` to `high`, of any real type, as int64; raise InputError for others."""
    array = real_array(name, values)
    if not ((array >= low) & (array <= high) & (array == np.floor(array))).all():
        raise InputError(f"`{name}` must be whole numbers from {low} to {high}")
    return array.astype(np.int64)


def zero_one(name: str, values: Any, shape: Shape | None = None) -> np.ndarray:
    """Return numbers 0 and 1 of any real type as truth values; raise InputError for others."""
    array = real_array(name, values, shape)
    if array.dtype == np.bool_:
        return array
    one = array == 1
    if not (one | (array == 0)).all():
        raise InputError(f"`{name}` must hold 0 and 1 only")
    return np.asarray(one)


def row_array(name: str, values: Any, n: int, *, numbers: bool = False) -> np.ndarray:
    """Return a column of n texts or whole numbers, or of finite `numbers`; raise InputError for others."""
    array = real_array(name, values, finite=True) if numbers else as_array(name, values)
    if array.shape != (n,):
        raise InputError(f"`{name}` must have one entry per row ({n}), got shape {array.shape}")
    if not numbers and array.dtype.kind not in "iuU":
        raise InputError(f"`{name}` must be texts or whole numbers, got {array.dtype}")
    return array


def check_traced(
    name: str, value: Any, shape: Shape, lengths: dict[str, int] | None = None, *, floating: bool = False
) -> None:
    """Raise InputError unless `value` is an array of real numbers, JAX's or NumPy's or traced, of this shape; with
    `floating` of floating-point ones: the negative of a uint8 is no negative.

    Only shape and type are looked at, so that tracing costs nothing more.
    """
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        wanted = ", ".join(map(str, shape))
        raise InputError(f"`{name}` must be an array of shape ({wanted}), got {type(value).__name__}")
    if "float" not in str(value.dtype) and (floating or getattr(value.dtype, "kind", "") not in ("i", "u")):
        raise InputError(f"`{name}` must hold {'floating-point' if floating else 'real'} numbers, got {value.dtype}")
    check_unmasked(name, value)
    check_shape(name, value, shape, lengths)


def shaped(*, empty: bool = False, finite: bool = True) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator by which the arrays of a call must be what its jaxtyping annotations say.

    Dimensions of one name have one length in all arguments. NumPy arguments may be anything that makes an array of
    real numbers (floats of 16 bits and whole numbers are given on as float64), and are finite unless `finite` is
    false. Arguments annotated as JAX arrays may be traced; `Real[Array, ...]` may be integers. No length is 0 unless
    `empty`. Arguments without such an annotation, and None where it is allowed, are given on as they are.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        arrays = {name: found for name, p in signature.parameters.items() if (found := _annotation(p.annotation))}

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            call = signature.bind(*args, **kwargs)
            lengths: dict[str, int] = {}
            for name, (kind, optional) in arrays.items():
                if name in call.arguments and not (optional and call.arguments[name] is None):
                    call.arguments[name] = _checked(name, call.arguments[name], kind, lengths, finite)
                    if not empty and 0 in call.arguments[name].shape:
                        raise InputError(f"`{name}` must not be empty, got shape {call.arguments[name].shape}")
            return function(*call.args, **call.kwargs)

        return checked

    return decorate


def _annotation(annotation: Any) -> tuple[Any, bool] | None:
    """Return (the jaxtyping annotation, whether None is allowed); None for any other annotation."""
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    found = [part for part in parts if isinstance(part, Hashable) and hasattr(part, "dim_str")]
    return (found[0], type(None) in parts) if found else None


def _checked(name: str, value: Any, kind: Any, lengths: dict[str, int], finite: bool) -> Any:
    shape = tuple(int(dim) if dim.isdigit() else dim for dim in kind.dim_str.split())
    if kind.array_type is not np.ndarray:
        check_traced(name, value, shape, lengths, floating=kind.dtype.__name__ == "Float")
        return value
    if kind.dtype.__name__ != "Complex":
        array = real_array(name, value, shape, lengths)
        array = array if array.dtype.char in "fd" else array.astype(np.float64)
    else:
        array = as_array(name, value)
        if array.dtype.kind not in "biufc":
            raise InputError(f"`{name}` must be numbers, got {array.dtype}")
        check_shape(name, array, shape, lengths)
        array = array.astype(np.complex128)
    if finite:
        _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind in "biu":
        return
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(f"`{name}` must be finite: {bad} of {array.size} entries are NaN or infinite")
