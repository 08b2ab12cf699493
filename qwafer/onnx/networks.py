"""The forward passes that can be written as ONNX graphs: backbones on images, heads on features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError
from qwafer.backbones.mobilenet import BLOCKS
from qwafer.heads._normalization import LENGTH, MEAN, SCALE
from qwafer.networks.wafercnn_module import CHANNELS
from qwafer.onnx.graph import Graph

Parameters = Mapping[str, Any]
"""The nested parameters of a flax module, batch normalisation folded: `parameter_tree`."""


def wafercnn(graph: Graph, x: str, parameters: Parameters) -> str:
    """Add WaferCNN, images (batch, 3, H, W) to features (batch, 128, 1, 1): see `WaferCNNModule`.

    The maximum follows the ReLU, which is the same and lets a runtime join the ReLU to the convolution.
    """
    for block in range(len(CHANNELS)):
        x = graph.max_pool(graph.relu(graph.conv(x, f"block{block}", parameters[f"block{block}"])))
    return graph.mean(x)


def mobilenet_v3_small(graph: Graph, x: str, parameters: Parameters) -> str:
    """Add MobileNetV3-Small, images (batch, 3, H, W) to features (batch, 576, 1, 1): see `MobileNetV3Small`."""
    x = graph.hard_swish(graph.conv(x, "stem", parameters["stem"], stride=2), integer=False)
    width = parameters["stem"]["bias"].shape[0]
    for number, (_, expanded, features, _, hard, stride) in enumerate(BLOCKS, 1):
        name, layers = f"block{number}", parameters[f"block{number}"]
        activation = graph.hard_swish if hard else graph.relu
        y = x
        if "expand" in layers:
            y = activation(graph.conv(y, f"{name}.expand", layers["expand"]))
        y = activation(graph.conv(y, f"{name}.depthwise", layers["depthwise"], stride, groups=expanded))
        if "se" in layers:
            hidden = graph.relu(graph.conv(graph.mean(y), f"{name}.se.fc1", layers["se"]["fc1"]))
            gate = graph.hard_sigmoid(graph.conv(hidden, f"{name}.se.fc2", layers["se"]["fc2"]))
            y = graph.product(f"{name}.se", y, gate)
        y = graph.conv(y, f"{name}.project", layers["project"])
        x = graph.node("Add", f"{name}.sum", x, y) if stride == 1 and width == features else y
        width = features
    return graph.mean(graph.hard_swish(graph.conv(x, "head", parameters["head"])))


@dataclass(frozen=True)
class Written:
    """How a backbone is written."""

    write: Callable[[Graph, str, Parameters], str]
    """Adds it to a graph."""
    floating: tuple[str, ...] = ()
    """Nodes that stay in float32 in the INT8 form: three input channels are too thin for the 8-bit kernel of a large
    image, which takes three times as long as the float32 one."""


_MOBILENET = Written(mobilenet_v3_small, ("stem", "stem.hard_sigmoid", "stem.hard_swish"))
BACKBONES = {"wafercnn": Written(wafercnn), "mobilenet_v3_small": _MOBILENET, "mobilenet": _MOBILENET}
"""Every backbone that can be written, by name."""


def head_layers(name: str, head: Any) -> list[dict[str, np.ndarray]]:
    """Return kernel (in, out) and bias of each layer of a `linear` or `mlp` head, ReLU between them.

    The normalisation (x - m) / s of the features is folded into the first: W' = W / s, b' = b - (m / s) W.
    Raises CapabilityError for any other head, and for one that normalises each example.
    """
    if LENGTH in getattr(head, "buffers", {}):
        raise CapabilityError("head.normalize = l2 cannot be written as an ONNX graph: take standard, min_max or raw")
    layers = {"linear": ("projection.linear",), "mlp": ("projection.hidden", "projection.output")}.get(name)
    if layers is None:
        raise CapabilityError(
            f"head {name} cannot be written as an ONNX graph: take linear or mlp, on the features of a frozen network"
        )
    found = [
        {part: np.asarray(head.array(f"{layer}.{part}"), np.float64) for part in ("weight", "bias")} for layer in layers
    ]
    first = found[0]
    if MEAN in head.buffers:
        mean, scale = (np.asarray(head.buffers[part], np.float64) for part in (MEAN, SCALE))
        first["weight"] = first["weight"] / scale[:, None]
        first["bias"] = first["bias"] - mean @ first["weight"]
    return [{"kernel": layer["weight"], "bias": layer["bias"]} for layer in found]


def add_head(graph: Graph, x: str, layers: list[dict[str, np.ndarray]]) -> str:
    """Add the layers of a head, features (batch, D, 1, 1) to logits (batch, n_labels)."""
    x = graph.flat(x)
    for place, layer in enumerate(layers):
        last = place == len(layers) - 1
        x = graph.dense(x, "logits" if last else "hidden", layer)
        x = x if last else graph.relu(x)
    return x
