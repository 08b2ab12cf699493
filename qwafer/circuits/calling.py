"""How a function of a circuit is called: by which names, with which shapes, on which wires, and where it is found."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qwafer._checks import check_positive_int
from qwafer._errors import CapabilityError, InputError
from qwafer._registry import Registry
from qwafer.circuits.gates import INPUTS

Shape = tuple[int, ...]


def weight_shapes(weights: Any) -> dict[str, Shape]:
    """Return the shape of every weight by name, checked."""
    named = weights if isinstance(weights, Mapping) else {"weights": weights} if weights != () else {}
    shapes: dict[str, Shape] = {}
    for name, shape in named.items():
        if not isinstance(name, str) or not name.isidentifier() or name in (INPUTS, "readout"):
            raise InputError(f"`weights` must have names of their own, other than inputs and readout, got {name!r}")
        sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        for size in sizes:
            check_positive_int(f"weights[{name!r}]", size)
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def as_called(
    function: Any, shapes: Mapping[str, Shape], arguments: Mapping[str, Any], n_inputs: int, *, single: bool
) -> Callable[[Sequence[Any], Any], Any]:
    """Return (arrays of the weights, x) -> what the function returns, by the way in which it is to be called.

    By name where it has a parameter for every weight, or one parameter and no weights are named; else by position.
    """
    import pennylane as qml

    if isinstance(function, qml.QNode):
        if function.shots:
            raise CapabilityError(
                "the QNode has shots: capture it without, and ask engine catalyst for them (`engine.shots`)"
            )
        if len(function.compile_pipeline):
            raise CapabilityError(
                "the QNode has transforms, which are not captured: give the function underneath, `qnode.func`"
            )
        function = function.func
    if isinstance(function, (list, tuple)):
        listed = list(function)
        return lambda arrays, x: listed
    if not callable(function):
        raise TypeError(
            f"`function` must be a function, a QNode or a list of operations, got {type(function).__name__}"
        )
    function = functools.partial(function, **arguments)
    parameters = _parameters(function)
    if set(shapes) <= set(parameters) and (shapes or len(parameters) == 1):
        rest = [parameter for parameter in parameters if parameter not in shapes]
        if len(rest) > 1:
            raise InputError(
                f"the function must have one parameter beside the weights, the inputs; got {', '.join(rest)}"
            )
        if n_inputs and not rest:
            raise InputError(f"the function has no parameter for its {n_inputs} inputs, beside {', '.join(parameters)}")
        return lambda arrays, x: function(**dict(zip(shapes, arrays, strict=True)), **dict.fromkeys(rest, x))
    if single:
        return lambda arrays, x: function(arrays[0] if arrays else {}, x)
    return lambda arrays, x: function(dict(zip(shapes, arrays, strict=True)), x)


def _parameters(function: Any) -> list[str]:
    """Return the names of the parameters that a function must be given; none where they have no names."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in found):
        return []
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        parameter.name for parameter in found if parameter.default is parameter.empty and parameter.kind not in variable
    ]


def device_wires(function: Any) -> tuple[Any, ...] | None:
    """Return the wires of a QNode's device; None where it has none, or there is no QNode."""
    import pennylane as qml

    if not isinstance(function, qml.QNode) or function.device.wires is None:
        return None
    return tuple(function.device.wires)


def source_of(function: Any, options: Mapping[str, Any]) -> Any:
    """Return what a pickle names: place of the function, or operations, and arguments; None: nothing finds it."""
    if isinstance(function, (list, tuple)):
        return list(function), options
    try:
        name = Registry("circuit.function", {}).name_of(function)
    except (InputError, AttributeError):
        return None
    found: Any = sys.modules.get(getattr(function, "__module__", ""))
    for part in name.rpartition(":")[2].split("."):
        found = getattr(found, part, None)
    return (name, options) if found is function else None
