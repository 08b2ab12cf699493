"""`Graph`: an ONNX graph, built layer by layer from the arrays of a network."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from qwafer.onnx.packages import onnx

OPSET = 17
"""Version of the operators: per-channel QuantizeLinear and HardSwish are older, what reads version 17 is common."""
IR_VERSION = 9
"""Version of the file format that goes with it."""

Port: TypeAlias = tuple[str, Any, Sequence[Any]]
"""Name, dtype and shape of an input or an output."""


class Graph:
    """Nodes and constants of a graph with one input and one output, each named after the layer that it belongs to.

    Values are NCHW, weights float32 in JAX's layouts: a kernel is (height, width, in / groups, out), a matrix
    (in, out).

    With `integer` the same function is written in operators for which ONNX Runtime has 8-bit kernels: HardSigmoid
    becomes a sum and a Clip, which the saturation of codes does, and its factor 1 / 6 goes into the weights of the next
    layer.
    """

    def __init__(self, name: str, *, integer: bool = False) -> None:
        self.name = name
        self.integer = integer
        self._factors: dict[str, float] = {}
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output, and return the name of that output, which is the node's own."""
        self._nodes.append(onnx().helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        """Add an array, as it is, and return its name."""
        self._constants[name] = np.array(array, order="C")
        return name

    def conv(self, x: str, name: str, layer: Mapping[str, Any], stride: int = 1, groups: int = 1) -> str:
        """Add a convolution of padding k // 2 with `kernel` and `bias` of `layer`; (in, out) is a 1 x 1 kernel."""
        kernel = np.asarray(layer["kernel"], np.float32)
        kernel = kernel.T[:, :, None, None] if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
        size, edge = kernel.shape[2], kernel.shape[2] // 2
        constants = self._weights(name, kernel * np.float32(self._owed(x)), layer["bias"])
        shape = {"kernel_shape": [size, size], "pads": [edge] * 4, "strides": [stride, stride]}
        return self.node("Conv", name, x, *constants, group=groups, **shape)

    def dense(self, x: str, name: str, layer: Mapping[str, Any]) -> str:
        """Add x W + b with `kernel` (in, out) and `bias` of `layer`, stored as (out, in): a row per output."""
        kernel = np.asarray(layer["kernel"], np.float32).T
        return self.node(
            "Gemm", name, x, *self._weights(name, kernel * np.float32(self._owed(x)), layer["bias"]), transB=1
        )

    def relu(self, x: str) -> str:
        """Add max(x, 0)."""
        return self.node("Relu", f"{x}.relu", x)

    def hard_sigmoid(self, x: str, *, integer: bool | None = None) -> str:
        """Add min(max(x + 3, 0), 6) / 6."""
        if not (self.integer if integer is None else integer):
            return self.node("HardSigmoid", f"{x}.hard_sigmoid", x, alpha=1 / 6, beta=0.5)
        bounds = [self.constant(f"bound{value}", np.float32(value)) for value in (3, 0, 6)]
        moved = self.node("Add", f"{x}.plus", x, bounds[0])
        gate = self.node("Clip", f"{x}.gate", moved, *bounds[1:])
        return self._owing(gate, 1 / 6)

    def hard_swish(self, x: str, *, integer: bool | None = None) -> str:
        """Add x min(max(x + 3, 0), 6) / 6."""
        return self.product(f"{x}.hard_swish", x, self.hard_sigmoid(x, integer=integer))

    def product(self, name: str, x: str, y: str) -> str:
        """Add x y, element by element."""
        return self._owing(self.node("Mul", name, x, y), self._owed(x) * self._owed(y))

    def max_pool(self, x: str) -> str:
        """Add the maximum over 2 x 2, without an odd last row or column."""
        return self.node("MaxPool", f"{x}.max", x, kernel_shape=[2, 2], strides=[2, 2])

    def mean(self, x: str) -> str:
        """Add the mean over height and width, which stay as 1 x 1."""
        return self._owing(self.node("GlobalAveragePool", f"{x}.mean", x), self._owed(x))

    def flat(self, x: str) -> str:
        """Add the same values as (batch, D)."""
        return self._owing(self.node("Flatten", f"{x}.flat", x), self._owed(x))

    def include(self, graph: Any, source: str, target: str) -> str:
        """Add the nodes and constants of a `ModelProto` whose input `target` is the value `source` of this graph.

        Return what their names begin with from then on.
        """
        prefix = f"{graph.graph.name}/"
        for node in graph.graph.node:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = prefix + node.name if node.name else ""  # quantised graphs have nodes without a name
            copy.input[:] = [source if name == target else prefix + name if name else "" for name in node.input]
            copy.output[:] = [prefix + name for name in node.output]
            self._nodes.append(copy)
        arrays = {each.name: onnx().numpy_helper.to_array(each) for each in graph.graph.initializer}
        self._constants |= {prefix + name: array for name, array in arrays.items()}
        return prefix

    def model(self, inputs: tuple[str, Sequence[Any]], output: tuple[str, Sequence[Any]], **said: str) -> Any:
        """Return the `ModelProto` of one float32 input and output; see `finished`."""
        first, last = ((name, np.float32, shape) for name, shape in (inputs, output))
        return self.finished(first, [last], **said)

    def finished(self, given: Port, outputs: Sequence[Port], **said: str) -> Any:
        """Return the `ModelProto`, checked, with `said` as its metadata.

        Input and outputs are each a name, a dtype and a shape, whose lengths may be names such as `batch`.
        """
        helper = onnx().helper
        values = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
            for name, dtype, shape in (given, *outputs)
        ]
        constants = [onnx().numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, self.name, values[:1], values[1:], constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="qwafer"
        )
        helper.set_model_props(model, said)
        onnx().checker.check_model(model, full_check=True)
        return model

    def _owing(self, x: str, factor: float) -> str:
        self._factors[x] = factor
        return x

    def _owed(self, x: str) -> float:
        """Return what `x` is still to be multiplied by, which the next layer's weights do."""
        return self._factors.get(x, 1.0)

    def _weights(self, name: str, kernel: np.ndarray, bias: Any) -> tuple[str, str]:
        bias = np.asarray(bias, np.float32)
        return self.constant(f"{name}.weight", kernel), self.constant(f"{name}.bias", bias)
