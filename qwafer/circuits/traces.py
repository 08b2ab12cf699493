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


def trace_digest(function: Callable[..., Any], arguments: Sequence[Any]) -> str:
    """Return a digest of what `function` computes of `arguments`, and of its reverse pass, as JAX traces them."""
    import jax

    def reverse(*arrays: Any) -> Any:
        values, pull = jax.vjp(function, *arrays)
        return values, pull(values)

    said = hashlib.sha256()
    for closed in (jax.make_jaxpr(function)(*arguments), jax.make_jaxpr(reverse)(*arguments)):
        said.update(_ADDRESS.sub("", str(closed.jaxpr)).encode())
        _add_constants(closed.jaxpr, closed.consts, said)
    return said.hexdigest()


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
