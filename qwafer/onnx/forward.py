"""A graph in JAX: the operators that `Graph` writes and their 8-bit form, with straight-through gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer._errors import CapabilityError
from qwafer.backbones.layers import shifted_products
from qwafer.onnx.packages import onnx
from qwafer.onnx.write import IMAGES, LOGITS

LEVELS = 127
"""Largest code of a weight."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Forward:
    """A graph, float32 or quantised, as a function of its constants."""

    nodes: tuple[Node, ...]
    """In the order in which they run."""
    constants: Mapping[str, np.ndarray]
    """Weights, biases, codes, scales, zero points, by name."""
    codes: Mapping[str, str]
    """The scale of each array of 8-bit codes of weights, by name."""

    @classmethod
    def of(cls, graph: Any) -> "Forward":
        """Return the function of a `ModelProto` that `model_graph` or `post_training` made; raise CapabilityError for
        one with other operators.
        """
        read = onnx().helper.get_attribute_value
        nodes = tuple(
            Node(node.op_type, tuple(node.input), node.output[0], {a.name: read(a) for a in node.attribute})
            for node in graph.graph.node
        )
        for node in nodes:
            if node.operator not in OPERATORS:
                raise CapabilityError(f"the operator {node.operator} of the graph cannot be run in JAX")
        constants = {each.name: onnx().numpy_helper.to_array(each) for each in graph.graph.initializer}
        codes = {
            node.inputs[0]: node.inputs[1]
            for node in nodes
            if node.operator == "DequantizeLinear" and node.inputs[0] in constants
        }
        return cls(nodes, constants, codes)

    def trained(self) -> tuple[str, ...]:
        """Return the names of the float32 weights and biases behind the graph: what fine-tuning moves.

        ONNX Runtime's tools call the codes of a weight `NAME_quantized`.
        """
        layers = [node for node in self.nodes if node.operator in ("Conv", "Gemm")]
        floats = {name for node in layers for name in node.inputs[1:] if name in self.constants}
        return tuple(sorted({*floats, *(name.removesuffix("_quantized") for name in self.codes)}))

    def quantised(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constants for float32 `weights` by the names of `trained`: codes with their scales, and floats.

        s_c = max abs(w) / 127 for each output channel c, codes round(w / s_c). The gradient takes rounding for the
        identity, and scales for constants.
        """
        found: dict[str, Any] = {name: value for name, value in weights.items() if name in self.constants}
        for codes, scale in self.codes.items():
            weight = weights[codes.removesuffix("_quantized")]
            largest = jnp.abs(weight).max(axis=tuple(range(1, weight.ndim)))
            step = lax.stop_gradient(jnp.where(largest > 0, largest / LEVELS, 1).astype(jnp.float32))
            found[codes] = _rounded(weight / _along_first(step, weight.ndim))
            found[scale] = step
        return found

    def logits(self, images: Any, constants: Mapping[str, Any] | None = None) -> Any:
        """Return the logits (batch, n_labels) of images (batch, H, W, 3), with other `constants` where given."""
        values: dict[str, Any] = {**self.constants, **(constants or {}), IMAGES: images}
        steps: dict[str, Any] = {}  # the scale of each value that comes from codes
        for node in self.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.operator == "DequantizeLinear":
                steps[node.output] = inputs[1]
            if node.operator in ("Conv", "Gemm") and set(node.inputs[:2]) <= set(steps):
                step = jnp.asarray(steps[node.inputs[0]]) * jnp.asarray(steps[node.inputs[1]])
                inputs[2] = _rounded(inputs[2] / step) * step  # as the runtime stores it
            values[node.output] = OPERATORS[node.operator](node.attributes, *inputs)
        return values[LOGITS]


def _rounded(x: Any) -> Any:
    """Return x rounded to the nearest integer, of two the even one, with the gradient of x."""
    return x + lax.stop_gradient(jnp.round(x) - x)


def _along_first(vector: Any, ndim: int) -> Any:
    return jnp.asarray(vector).reshape(-1, *[1] * (ndim - 1))


def _quantize(_: Mapping[str, Any], x: Any, scale: Any, zero: Any) -> Any:
    """Return clip(round(x / s) + z), as float32: the gradient is that of x / s where nothing is clipped."""
    limits = np.iinfo(np.asarray(zero).dtype)
    return jnp.clip(_rounded(x / scale) + np.float32(zero), limits.min, limits.max)


def _dequantize(_: Mapping[str, Any], codes: Any, scale: Any, zero: Any) -> Any:
    codes = jnp.asarray(codes, jnp.float32) - jnp.asarray(zero, jnp.float32).reshape(-1)[0]
    return codes * (_along_first(scale, codes.ndim) if np.ndim(scale) else scale)


def _conv(said: Mapping[str, Any], x: Any, kernel: Any, bias: Any) -> Any:
    pads, kernel = said["pads"], jnp.asarray(kernel)
    if said["group"] > 1:  # depthwise, which XLA's own convolution takes ten times as long for on a CPU
        moved = shifted_products(jnp.moveaxis(x, 1, 3), jnp.transpose(kernel, (2, 3, 1, 0)), said["strides"][0])
        return jnp.moveaxis(moved, 3, 1) + jnp.asarray(bias)[None, :, None, None]
    y = lax.conv_general_dilated(
        x,
        kernel,
        said["strides"],
        [(pads[0], pads[2]), (pads[1], pads[3])],
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        preferred_element_type=jnp.float32,
    )
    return y + jnp.asarray(bias)[None, :, None, None]


def _max_pool(_: Mapping[str, Any], x: Any) -> Any:
    window = (1, 1, 2, 2)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _product(_: Mapping[str, Any], x: Any, y: Any) -> Any:
    x, y = jnp.asarray(x), jnp.asarray(y)
    return x * jnp.broadcast_to(y, x.shape)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Transpose": lambda said, x: jnp.transpose(x, said["perm"]),
    "Conv": _conv,
    "Gemm": lambda _, x, matrix, bias: x @ jnp.asarray(matrix).T + jnp.asarray(bias)[None],
    "Relu": lambda _, x: jax.nn.relu(x),
    "Clip": lambda _, x, low, high: jnp.clip(x, np.float32(low), np.float32(high)),
    "HardSigmoid": lambda said, x: jnp.clip(np.float32(said["alpha"]) * x + np.float32(said["beta"]), 0, 1),
    "Add": lambda _, x, y: jnp.asarray(x) + jnp.broadcast_to(jnp.asarray(y), jnp.shape(x)),
    "Mul": _product,
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda _, x: x.mean(axis=(2, 3), keepdims=True),
    "Flatten": lambda _, x: x.reshape(x.shape[0], -1),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
"""Each operator of ONNX that these graphs have: (attributes, inputs) to its output."""
