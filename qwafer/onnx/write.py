"""From a `Model` to an ONNX graph that gives its logits."""

from typing import Any

from qwafer._errors import CapabilityError, InputError
from qwafer._io import canonical_json
from qwafer.backbones.keys import parameter_tree
from qwafer.backbones.preprocess import chosen_channels
from qwafer.backbones.pretrained import Architecture, architecture
from qwafer.model import Model
from qwafer.onnx.graph import Graph
from qwafer.onnx.networks import BACKBONES, add_head, head_layers

IMAGES, LOGITS = "images", "logits"
"""Input and output of a graph."""
RECORD = "qwafer_onnx"
"""The entry of a graph's metadata that says what it needs beside its nodes."""


def model_graph(model: Model, *, integer: bool = False) -> Any:
    """Return the ONNX `ModelProto` of a model: images (batch, H, W, 3) float32, as its preprocessing makes them, to
    logits (batch, n_labels).

    Batch normalisation is folded into the convolutions, the standardisation of features into the head. The metadata
    hold the labels, the thresholds and how maps become images, which `OnnxModel` reads. Logits are those of
    `model.predict` up to rounding in float32. With `integer` the graph has the operators that are quantised: see
    `Graph`.

    Raises:
        CapabilityError: a backbone or a head that cannot be written, or a model that computes in another dtype; onnx is
            not installed.
        InputError: what is not a `Model`.
    """
    if not isinstance(model, Model):
        raise InputError(f"`model` must be a qwafer.Model, got {type(model).__name__}: Model.from_run or Model.load")
    layers = head_layers(model.head.config.name("head"), model.head.head)
    form, channels = network_of(model)
    graph = Graph(model.backbone.name, integer=integer)
    parameters = parameter_tree(form.table, model.backbone.state or {})
    images = graph.node("Transpose", f"{IMAGES}.nchw", IMAGES, perm=[0, 3, 1, 2])
    add_head(graph, BACKBONES[model.backbone.name].write(graph, images, parameters), layers)
    said = {
        "backbone": model.backbone.name,
        "channels": channels,
        "exclusive": bool(model.head.config.objective.exclusive),
        "labels": model.label_names,
        "thresholds": model.head.thresholds,
    }
    shape = ("batch", "height", "width", 3)
    return graph.model((IMAGES, shape), (LOGITS, ("batch", len(model.label_names))), **{RECORD: canonical_json(said)})


def network_of(model: Model) -> tuple[Architecture, str | None]:
    """Return the network behind a model's backbone, and its `channels`; raise CapabilityError where it has none that
    can be written.
    """
    backbone = model.backbone
    if backbone.name not in BACKBONES or backbone.state is None:
        raise CapabilityError(
            f"backbone {backbone.name} cannot be written as an ONNX graph: take {' or '.join(BACKBONES)}"
        )
    if backbone.record.get("dtype") != "float32":
        raise CapabilityError(
            f"the model computes in {backbone.record.get('dtype')}: graphs are those of float32 models"
        )
    channels = chosen_channels(backbone.record)
    return architecture(backbone.name, None, channels), channels
