"""Derivatives by forward mode where an engine has a hand-written reverse pass alone: refused, whatever the plan."""

from typing import Any, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qwafer._errors import CapabilityError

T = TypeVar("T")


def reverse_only(arrays: T) -> T:
    """Return `arrays` (any pytree) with tangents that JAX may transpose, as reverse mode does, but not evaluate.

    Evaluating one (`jax.jvp`, `jacfwd`, `hessian`) raises CapabilityError. JAX refuses the same for a function with a
    custom reverse pass, but without a way out, and only in plans that have one.
    """
    return jax.tree.map(_SAME.bind, arrays)


def refuse(*_: Any, **__: Any) -> Any:
    """Raise CapabilityError: the rule of what has no forward mode."""
    raise CapabilityError(
        "this program has derivatives by reverse mode alone (jax.grad, jax.vjp): for forward mode and for derivatives "
        'of higher order use the engine xla with derivatives="any"'
    )


def _same_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (tangent,) = tangents
    return _SAME.bind(*primals), tangent if isinstance(tangent, ad.Zero) else _TANGENT.bind(tangent)


def _tangent_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (tangent,) = tangents
    return _TANGENT.bind(*primals), tangent if isinstance(tangent, ad.Zero) else _TANGENT.bind(tangent)


_SAME, _TANGENT = Primitive("qwafer_reverse_only"), Primitive("qwafer_tangent")
_SAME.def_impl(lambda x: x)
_SAME.def_abstract_eval(lambda x: x)
mlir.register_lowering(_SAME, lambda _, x: [x])
batching.defvectorized(_SAME)
ad.primitive_jvps[_SAME] = _same_jvp
_TANGENT.def_impl(refuse)
_TANGENT.def_abstract_eval(lambda x: x)
mlir.register_lowering(_TANGENT, refuse)
batching.primitive_batchers[_TANGENT] = refuse
ad.primitive_jvps[_TANGENT] = _tangent_jvp
ad.primitive_transposes[_TANGENT] = lambda cotangent, _: [cotangent]
