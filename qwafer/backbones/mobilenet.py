"""MobileNetV3-Small (Howard et al. 2019, arXiv 1905.02244) with the keys of torchvision's checkpoint."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer.backbones.keys import ConvNorm, LayerTable, Linear, State
from qwafer.backbones.layers import (
    Conv,
    Dense,
    Depthwise,
    Images,
    SqueezeExcite,
    Stage,
    Staged,
    global_mean,
    hard_sigmoid,
    hard_swish,
)
from qwafer.backbones.preprocess import Preprocessing
from qwafer.backbones.pretrained import Architecture, Pretrained

STEM = 16
HEAD = 576
EPS = 1e-3
# Table 2 of the paper: kernel, expanded, channels, squeeze and excite, hard swish, stride.
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def squeezed_width(expanded: int) -> int:
    """Return a quarter of the width, rounded to a multiple of 8 and never below 90% of it."""
    rounded = max(8, int(expanded / 4 + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * expanded / 4 else rounded + 8


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite (where the table says so), project; plus the input where shapes agree."""

    kernel: int
    expanded: int
    features: int
    excite: bool
    hard: bool
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> (batch, ceil(H / stride), ceil(W / stride), features)."""
        activation = hard_swish if self.hard else jax.nn.relu
        y = x
        if self.expanded != x.shape[-1]:
            y = activation(Dense(self.expanded, name="expand")(y))
        y = activation(Depthwise(self.kernel, self.stride, name="depthwise")(y))
        if self.excite:
            y = SqueezeExcite(squeezed_width(self.expanded), jax.nn.relu, hard_sigmoid, name="se")(y)
        y = Dense(self.features, name="project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV3Small(Staged):
    """Images, normalised, to pooled features, (batch, H, W, 3) -> (batch, 576) float32. Sows the output of every stage
    as `stages`.
    """

    @nn.nowrap
    def stages(self) -> list[tuple[str, Stage]]:
        """Return `stem`, `block1` to `block11`, `head` and `pool`."""

        def stem(x: Images) -> Images:
            return self.sown(hard_swish(Conv(STEM, 3, 2, name="stem")(x)))

        def head(x: Images) -> Images:
            return self.sown(hard_swish(Dense(HEAD, name="head")(x)))

        blocks = [(f"block{index}", partial(self._block, index)) for index in range(1, len(BLOCKS) + 1)]
        return [("stem", stem), *blocks, ("head", head), ("pool", _pool)]

    @nn.nowrap
    def _block(self, index: int, x: Images) -> Images:
        return self.sown(InvertedResidual(*BLOCKS[index - 1], name=f"block{index}")(x))


def _pool(x: Images) -> Float[Array, "batch channels"]:
    return global_mean(x).astype(jnp.float32)


def table() -> LayerTable:
    """Return which checkpoint keys each layer takes."""
    layers: LayerTable = {("stem",): ConvNorm("features.0.0", "features.0.1", (STEM, 3, 3, 3), EPS)}
    width = STEM
    for index, (kernel, expanded, features, excite, _, _) in enumerate(BLOCKS, 1):
        key, path = f"features.{index}.block", f"block{index}"
        position = 0
        if expanded != width:
            layers[path, "expand"] = _pointwise(f"{key}.0", width, expanded)
            position = 1
        depthwise = f"{key}.{position}"
        layers[path, "depthwise"] = ConvNorm(f"{depthwise}.0", f"{depthwise}.1", (expanded, 1, kernel, kernel), EPS)
        if excite:
            position += 1
            squeezed = squeezed_width(expanded)
            layers[path, "se", "fc1"] = Linear(f"{key}.{position}.fc1", expanded, squeezed, conv=True)
            layers[path, "se", "fc2"] = Linear(f"{key}.{position}.fc2", squeezed, expanded, conv=True)
        layers[path, "project"] = _pointwise(f"{key}.{position + 1}", expanded, features)
        width = features
    layers["head",] = _pointwise(f"features.{len(BLOCKS) + 1}", width, HEAD)
    return layers


def _pointwise(key: str, n_in: int, n_out: int) -> ConvNorm:
    return ConvNorm(f"{key}.0", f"{key}.1", (n_out, n_in, 1, 1), EPS, squeeze=True)


def _architecture(state: State | None, channels: str | None) -> Architecture:
    file = "download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth"
    images = Preprocessing(224, channels or "one-hot")
    adapted = ("*/expand", "*/project", "head")
    module = MobileNetV3Small()
    return Architecture("mobilenet_v3_small", module, table(), images, ("classifier.",), file, adapted=adapted)


MOBILENET_V3_SMALL = Pretrained("mobilenet_v3_small", _architecture)
