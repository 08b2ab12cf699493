"""EfficientNet-B0 and MobileNetV3-Small on the dies, from scratch: a teacher and a student.

The networks of `backbones.efficientnet` and `backbones.mobilenet`, on maps of 64 x 64 dies in place of photographs of
224 x 224: strides are those of the papers, so that the last stage is 2 x 2. The classifier is a linear map of the
pooled features, as in EfficientNet's paper; MobileNetV3's hidden layer of 1,024 units is left out, for a head on the
frozen network reads the same features. There is no dropout and no stochastic depth.
"""

from dataclasses import replace
from functools import partial

from qwafer._errors import InputError
from qwafer.backbones import efficientnet, mobilenet
from qwafer.backbones.keys import ConvNorm, LayerTable, Linear, State
from qwafer.backbones.pretrained import Architecture, Pretrained
from qwafer.networks.unfolded import Unfolded
from qwafer.networks.wafercnn_module import WaferImages

SIZE = 64
MARK = "dies."
"""Prefix of the keys of weights. Otherwise they would be those of torchvision's checkpoints, of networks on other
images."""
CPU_BATCH = 16
ADAPTED = ("*/expand", "*/project", "head")


def unfolded(name: str) -> Unfolded:
    """Return the network called `name`, `efficientnet` or `mobilenet`, in training."""
    if name == "efficientnet":
        module, table, width = efficientnet.EfficientNetB0(), efficientnet.table(), efficientnet.HEAD
    else:
        module, table, width = mobilenet.MobileNetV3Small(), mobilenet.table(), mobilenet.HEAD
    return Unfolded(name, module, _marked(table), width, f"{MARK}classifier", SIZE)


def _marked(table: LayerTable) -> LayerTable:
    def marked(layer: object) -> ConvNorm | Linear:
        if isinstance(layer, ConvNorm):
            return replace(layer, conv=f"{MARK}{layer.conv}", norm=f"{MARK}{layer.norm}")
        if isinstance(layer, Linear):
            return replace(layer, key=f"{MARK}{layer.key}")
        raise TypeError(f"a layer of kind {type(layer).__name__} has no mark")

    return {path: marked(layer) for path, layer in table.items()}


def _frozen(name: str, state: State | None, channels: str | None) -> Architecture:
    if channels is not None:
        raise InputError(f"backbone {name} has channels of its own: leave out --channels")
    network = unfolded(name)
    return Architecture(
        name,
        network.module,
        network.table,
        WaferImages(SIZE),
        (network.classifier,),
        f"made by qwafer.fit --network {name}",
        cpu_batch=CPU_BATCH,
        adapted=ADAPTED,
    )


EFFICIENTNET = Pretrained("efficientnet", partial(_frozen, "efficientnet"))
"""The backbone `efficientnet`: EfficientNet-B0 with weights of `fit`, features (1280,)."""
MOBILENET = Pretrained("mobilenet", partial(_frozen, "mobilenet"))
"""The backbone `mobilenet`: MobileNetV3-Small with weights of `fit`, features (576,)."""
