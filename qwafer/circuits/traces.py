"""JAX's traces of functions as data: what depends on what, what they are equal by."""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")


def explicit(closed: Any) -> Any:
    """Return a trace whose literals and constants have the dtypes that it says, whatever JAX is set to later."""
    import jax.extend.core as core

    def atom(value: Any) -> Any:
        if not isinstance(value, core.Literal):
            return value
        return core.Literal(np.asarray(value.val, value.aval.dtype), value.aval)

    def inner(value: Any) -> Any:
        if isinstance(value, core.ClosedJaxpr):
            return whole(value)
        if isinstance(value, core.Jaxpr):
            return within(value)
        return type(value)(map(inner, value)) if type(value) in (tuple, list) else value

    def within(jaxpr: Any) -> Any:
        equations = [
            equation.replace(
                invars=[atom(value) for value in equation.invars],
                params={name: inner(value) for name, value in equation.params.items()},
            )
            for equation in jaxpr.eqns
        ]
        return jaxpr.replace(eqns=equations, outvars=[atom(value) for value in jaxpr.outvars])

    def whole(closed: Any) -> Any:
        constants = [
            np.asarray(value, variable.aval.dtype) if isinstance(value, np.ndarray) else value
            for variable, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
        ]
        return closed.replace(jaxpr=within(closed.jaxpr), consts=constants)

    return whole(closed)


def depends(jaxpr: Any, inputs: Sequence[frozenset[bool]]) -> list[frozenset[bool]]:
    """Return on which kinds of inputs every output of `jaxpr` depends; a call is looked into, anything else mixes."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> frozenset[bool]:
        return frozenset() if hasattr(atom, "val") else known.get(atom, frozenset())

    for equation in jaxpr.eqns:
        own = [of(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        called = equation.primitive.name in _CALLS
        if called and inner is not None and len(inner.invars) == len(own):
            found = depends(inner, own)
        else:
            found = [frozenset().union(*own)] * len(equation.outvars)
        known.update(zip(equation.outvars, found, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


class NotPlainError(Exception):
    """A trace holds what cannot be told in single precision: loops, branches, derivatives that somebody has written."""


def in_single_precision(closed: Any, *arrays: Any) -> list[Any]:
    """Return the outputs of a trace in double precision for `arrays` of single precision, all of it computed in single
    precision, constants included; to be called where JAX has no 64 bit. Raises NotPlainError.
    """

    def run(jaxpr: Any, constants: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
        values = dict(zip(jaxpr.constvars, map(_single, constants), strict=True))
        values |= zip(jaxpr.invars, arrays, strict=True)

        def of(atom: Any) -> Any:
            return _single(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            own = [of(atom) for atom in equation.invars]
            if equation.primitive.name in ("jit", "pjit", "closed_call"):
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                found = run(inner.jaxpr, inner.consts, own)
            elif "custom" in equation.primitive.name or _inner(equation):
                raise NotPlainError
            else:
                parameters = {name: _single(value) for name, value in equation.params.items()}
                functions, parameters = equation.primitive.get_bind_params(parameters)
                found = equation.primitive.bind(*functions, *own, **parameters)
                found = found if equation.primitive.multiple_results else [found]
            values |= zip(equation.outvars, found, strict=True)
        return [of(atom) for atom in jaxpr.outvars]

    return run(closed.jaxpr, closed.consts, arrays)


def holds_double(closed: Any) -> bool:
    """Return whether a constant or a value of a trace has double precision."""
    variables = [
        *closed.jaxpr.constvars,
        *(variable for equation in closed.jaxpr.eqns for variable in equation.outvars),
    ]
    return any(getattr(variable.aval, "dtype", None) in (np.float64, np.complex128) for variable in variables)


_SINGLE = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}


def _single(value: Any) -> Any:
    """Return an array or a dtype in single precision, and anything else as it is."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(_SINGLE.get(np.dtype(value).name, value))
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return value
    if not isinstance(value.dtype, np.dtype):
        raise NotPlainError  # a random key
    return np.asarray(value, _SINGLE.get(value.dtype.name, value.dtype))


def constant_outputs(closed: Any, places: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the outputs of a trace at `places`, which depend on none of its inputs, in float64."""
    import jax
    import jax.experimental

    def chosen(*arrays: Any) -> list[Any]:
        found = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *arrays)
        return [found[place] for place in places]

    if not places:
        return {}
    with jax.experimental.enable_x64():
        zeros = [np.zeros(variable.aval.shape, variable.aval.dtype) for variable in closed.jaxpr.invars]
        return dict(zip(places, map(np.asarray, jax.jit(chosen)(*zeros)), strict=True))


def trace_digest(function: Callable[..., Any], closed: Any, arguments: Sequence[Any]) -> str:
    """Return a digest of what `function`, traced as `closed`, computes of `arguments`, and of its derivatives.

    These follow from the trace, but for functions with rules of their own: then the reverse pass is traced, too.
    """
    import jax

    def reverse(*arrays: Any) -> Any:
        values, pull = jax.vjp(function, *arrays)
        return values, pull(values)

    said = hashlib.sha256()
    passes = [closed, jax.make_jaxpr(reverse)(*arguments)] if _has_own_rules(closed.jaxpr) else [closed]
    for one in passes:
        said.update(_ADDRESS.sub("", str(one.jaxpr)).encode())
        _add_constants(one.jaxpr, one.consts, said)
    return said.hexdigest()


def _has_own_rules(jaxpr: Any) -> bool:
    """Return whether a trace calls a function whose derivative somebody has written."""
    return any(
        "custom" in equation.primitive.name or any(map(_has_own_rules, _inner(equation))) for equation in jaxpr.eqns
    )


def calls_python(jaxpr: Any) -> str:
    """Return the name of the operation by which a trace calls Python for a value; empty where there is none."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("pure_callback", "io_callback"):
            return str(equation.primitive.name)
        found = next(filter(None, map(calls_python, _inner(equation))), "")
        if found:
            return found
    return ""


def _inner(equation: Any) -> list[Any]:
    """Return the traces within the parameters of an equation, without their constants."""
    values = equation.params.values()
    flat = [inner for value in values for inner in (value if isinstance(value, (tuple, list)) else (value,))]
    return [getattr(inner, "jaxpr", inner) for inner in flat if hasattr(inner, "jaxpr") or hasattr(inner, "eqns")]


def _add_constants(jaxpr: Any, constants: Sequence[Any], said: Any) -> None:
    """Add the bytes of all constants to `said`: text shows arrays by their shape alone."""
    for constant in constants:
        array = np.asarray(constant)
        said.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            if hasattr(atom, "val"):
                said.update(np.asarray(atom.val).tobytes())
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr") and hasattr(inner, "consts"):
                    _add_constants(inner.jaxpr, inner.consts, said)
                elif hasattr(inner, "eqns"):
                    _add_constants(inner, (), said)
                elif isinstance(inner, np.ndarray):
                    said.update(inner.tobytes())
