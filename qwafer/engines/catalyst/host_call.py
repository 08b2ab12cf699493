"""Calling NumPy functions from JAX programs: `jax.pure_callback` without its detour over JAX arrays."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qwafer.engines.forward_mode import refuse

Host = Callable[..., np.ndarray]


def host_call(host: Host, dtype: str, shapes: Sequence[tuple[int, ...]], *operands: jax.Array) -> list[jax.Array]:
    """Return the arrays of `shapes` and `dtype` that `host` computes from NumPy views of `operands`, see `joined`.

    `jax.pure_callback` makes JAX arrays of its operands inside the callback: 0.2 ms per call, and a deadlock when the
    runtime is waiting for that very callback. `host` must be a pure function. Under `jax.vmap` it is called once per
    element. Only inside `jax.jit`.

    The vector that crosses over has one entry more than is read. XLA (jaxlib 0.7.1, CPU) aborts while it compiles a
    module whose root is a host callback and which holds a product of small matrices; the slices keep the callback from
    being the root.
    """
    sizes = [math.prod(shape) for shape in shapes]
    vector = _HOST_CALL.bind(*operands, host=host, size=sum(sizes) + 1, dtype=np.dtype(dtype))
    ends = np.cumsum(sizes).tolist()
    return [
        jax.lax.slice_in_dim(vector, end - size, end).reshape(shape)
        for size, end, shape in zip(sizes, ends, shapes, strict=True)
    ]


def joined(dtype: str, *arrays: np.ndarray) -> np.ndarray:
    """Return `arrays` as the one vector that `host_call` expects."""
    return np.concatenate([*(array.reshape(-1) for array in arrays), np.zeros(1)]).astype(dtype)


def _abstract(*_: Any, host: Host, size: int, dtype: np.dtype[Any]) -> Any:
    return jax.core.ShapedArray((size,), dtype)


def _lowered(context: Any, *operands: Any, host: Host, size: int, dtype: np.dtype[Any]) -> Any:
    def callback(*arrays: np.ndarray) -> tuple[np.ndarray]:
        return (host(*arrays),)

    results, _, _ = mlir.emit_python_callback(
        context, callback, None, list(operands), context.avals_in, context.avals_out, has_side_effect=False
    )
    return results


def _batched(operands: Sequence[Any], axes: Sequence[Any], **parameters: Any) -> tuple[jax.Array, int]:
    size = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)
    stacked = [batching.bdim_at_front(operand, axis, size) for operand, axis in zip(operands, axes, strict=True)]
    return jax.lax.map(lambda row: _HOST_CALL.bind(*row, **parameters), tuple(stacked)), 0


_HOST_CALL = Primitive("qwafer_host_call")
_HOST_CALL.def_abstract_eval(_abstract)
mlir.register_lowering(_HOST_CALL, _lowered)
batching.primitive_batchers[_HOST_CALL] = _batched
ad.primitive_jvps[_HOST_CALL] = refuse
