"""`OnnxArrays`: the part of NumPy's interface that exported functions use; each call becomes a node of a `Graph`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwafer.onnx.graph import Graph
from qwafer.onnx.packages import onnx


class Value:
    """An array of a graph: its name and its dtype. Operators add nodes; numbers become constants of its dtype."""

    __array_ufunc__ = None  # arrays of NumPy leave their operators to this class

    def __init__(self, arrays: "OnnxArrays", name: str, dtype: Any) -> None:
        self.arrays, self.name, self.dtype = arrays, name, np.dtype(dtype)

    def _with(self, operator: str, other: Any, *, swapped: bool = False, dtype: Any = None) -> "Value":
        pair = (self, self.arrays.of(other, self.dtype))
        return self.arrays.node(operator, *(pair[::-1] if swapped else pair), dtype=dtype or self.dtype)

    def __add__(self, other: Any) -> "Value":
        return self._with("Add", other)

    def __sub__(self, other: Any) -> "Value":
        return self._with("Sub", other)

    def __mul__(self, other: Any) -> "Value":
        return self._with("Mul", other)

    def __truediv__(self, other: Any) -> "Value":
        return self._with("Div", other)

    def __floordiv__(self, other: Any) -> "Value":
        """Return the quotient of whole numbers that are not negative."""
        return self._with("Div", other)

    def __matmul__(self, other: Any) -> "Value":
        return self._with("MatMul", other)

    def __radd__(self, other: Any) -> "Value":
        return self._with("Add", other, swapped=True)

    def __rsub__(self, other: Any) -> "Value":
        return self._with("Sub", other, swapped=True)

    def __rmul__(self, other: Any) -> "Value":
        return self._with("Mul", other, swapped=True)

    def __rtruediv__(self, other: Any) -> "Value":
        return self._with("Div", other, swapped=True)

    def __neg__(self) -> "Value":
        return self.arrays.node("Neg", self)

    def __gt__(self, other: Any) -> "Value":
        return self._with("Greater", other, dtype=bool)

    def __lt__(self, other: Any) -> "Value":
        return self._with("Less", other, dtype=bool)

    def __ge__(self, other: Any) -> "Value":
        return self._with("GreaterOrEqual", other, dtype=bool)

    def __le__(self, other: Any) -> "Value":
        return self._with("LessOrEqual", other, dtype=bool)

    def __eq__(self, other: Any) -> "Value":  # type: ignore[override]
        return self._with("Equal", other, dtype=bool)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> "Value":
        return self._with("And", other)

    def __or__(self, other: Any) -> "Value":
        return self._with("Or", other)

    def astype(self, dtype: Any) -> "Value":
        """Return the values as another dtype."""
        kind = onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.arrays.node("Cast", self, dtype=dtype, to=kind)


class OnnxArrays:
    """An array module, as `numpy` is, whose arrays are `Value`s of `graph`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._count = 0

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what.lower()}_{self._count}"

    def node(self, operator: str, *inputs: Value, dtype: Any = None, **attributes: Any) -> Value:
        """Add a node, and return its output, of the dtype of its first input if none is given."""
        name = self.graph.node(operator, self._name(operator), *(value.name for value in inputs), **attributes)
        return Value(self, name, inputs[0].dtype if dtype is None else dtype)

    def of(self, value: Any, dtype: Any) -> Value:
        """Return `value`, a constant of `dtype` where it is a number or an array of NumPy."""
        if isinstance(value, Value):
            return value
        array = np.asarray(value, dtype)
        return Value(self, self.graph.constant(self._name("constant"), array), array.dtype)

    def asarray(self, value: Any, dtype: Any = None) -> Value:
        """Return an array of NumPy as a constant."""
        return self.of(value, dtype or np.asarray(value).dtype)

    def length(self, x: Value, axis: int) -> Value:
        """Return the length of an axis, an int64 of no axes."""
        shape = self.node("Shape", x, dtype=np.int64)
        return self.node("Gather", shape, self.of(axis, np.int64))

    def indices(self, x: Value, axis: int, per: int = 1) -> Value:
        """Return 0, 1, ... to the length of an axis over `per`, rounded up."""
        stop = (self.length(x, axis) + (per - 1)) // per
        return self.node("Range", self.of(0, np.int64), stop, self.of(1, np.int64))

    def take(self, x: Any, indices: Any, axis: int) -> Value:
        """Return the entries of `x` at `indices` along an axis."""
        source = x if isinstance(x, Value) else self.asarray(x)
        return self.node("Gather", source, self.of(indices, np.int64), axis=axis)

    def expand_dims(self, x: Value, axis: int | Sequence[int]) -> Value:
        """Return `x` with axes of length 1 more."""
        axes = np.atleast_1d(np.asarray(axis, np.int64))
        return self.node("Unsqueeze", x, self.of(axes, np.int64))

    def flatten(self, x: Value) -> Value:
        """Return the values as (batch, what is left)."""
        return self.node("Flatten", x, axis=1)

    def swapaxes(self, x: Value, first: int, second: int, rank: int = 2) -> Value:
        """Return `x`, of `rank` axes, with two of them exchanged."""
        order = list(range(rank))
        order[first], order[second] = order[second], order[first]
        return self.node("Transpose", x, perm=order)

    def concatenate(self, values: Sequence[Value], axis: int) -> Value:
        """Return the values end to end along an axis."""
        return self.node("Concat", *values, axis=axis)

    def where(self, condition: Value, x: Any, y: Any) -> Value:
        """Return `x` where `condition`, else `y`, of which one is a `Value`."""
        dtype = x.dtype if isinstance(x, Value) else y.dtype
        return self.node("Where", condition, self.of(x, dtype), self.of(y, dtype), dtype=dtype)

    def sum(self, x: Value, axis: int | Sequence[int], *, keepdims: bool = False) -> Value:
        """Return the sum over axes."""
        axes = self.of(np.atleast_1d(np.asarray(axis)), np.int64)
        return self.node("ReduceSum", x, axes, keepdims=int(keepdims))

    def max(self, x: Value, axis: int | Sequence[int], *, keepdims: bool = False) -> Value:
        """Return the maximum over axes."""
        return self.node("ReduceMax", x, axes=np.atleast_1d(np.asarray(axis)).tolist(), keepdims=int(keepdims))

    def argmax(self, x: Value, axis: int) -> Value:
        """Return the place of the maximum along an axis, the first of equals."""
        return self.node("ArgMax", x, dtype=np.int64, axis=axis, keepdims=0)

    def minimum(self, x: Value, y: Any) -> Value:
        """Return the smaller values."""
        return self.node("Min", x, self.of(y, x.dtype))

    def maximum(self, x: Value, y: Any) -> Value:
        """Return the larger values."""
        return self.node("Max", x, self.of(y, x.dtype))

    def abs(self, x: Value) -> Value:
        """Return the absolute values."""
        return self.node("Abs", x)

    def sqrt(self, x: Value) -> Value:
        """Return the square roots."""
        return self.node("Sqrt", x)

    def floor(self, x: Value) -> Value:
        """Return the largest whole numbers that are not larger."""
        return self.node("Floor", x)

    def exp(self, x: Value) -> Value:
        """Return e^x."""
        return self.node("Exp", x)

    def log(self, x: Value) -> Value:
        """Return the natural logarithm."""
        return self.node("Log", x)

    def sin(self, x: Value) -> Value:
        """Return the sine, x in radians."""
        return self.node("Sin", x)

    def cos(self, x: Value) -> Value:
        """Return the cosine, x in radians."""
        return self.node("Cos", x)

    def tanh(self, x: Value) -> Value:
        """Return the hyperbolic tangent."""
        return self.node("Tanh", x)

    def arctan(self, x: Value) -> Value:
        """Return the inverse of the tangent, in radians."""
        return self.node("Atan", x)
