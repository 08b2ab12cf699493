"""EfficientNet-B0 (Tan & Le 2019, arXiv 1905.11946) with the keys of torchvision's checkpoint."""

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
    swish,
)
from qwafer.backbones.preprocess import Preprocessing
from qwafer.backbones.pretrained import Architecture, Pretrained

STEM = 32
HEAD = 1280
# Table 1 of the paper: expansion, kernel, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(nn.Module):
    """An inverted bottleneck: expand, depthwise, squeeze and excite, project; plus the input where shapes agree."""

    expanded: int
    kernel: int
    stride: int
    features: int
    squeezed: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """(batch, H, W, C) -> (batch, ceil(H / stride), ceil(W / stride), features)."""
        y = x
        if self.expanded != x.shape[-1]:
            y = swish(Dense(self.expanded, name="expand")(y))
        y = swish(Depthwise(self.kernel, self.stride, name="depthwise")(y))
        y = SqueezeExcite(self.squeezed, swish, jax.nn.sigmoid, name="se")(y)
        y = Dense(self.features, name="project")(y)
        return x + y if x.shape == y.shape else y


class EfficientNetB0(Staged):
    """Images, normalised, to pooled features, (batch, H, W, 3) -> (batch, 1280) float32. Sows the output of every
    stage as `stages`.
    """

    @nn.nowrap
    def stages(self) -> list[tuple[str, Stage]]:
        """Return `stem`, `stage1` to `stage7`, `head` and `pool`."""

        def stem(x: Images) -> Images:
            return self.sown(swish(Conv(STEM, 3, 2, name="stem")(x)))

        def head(x: Images) -> Images:
            return self.sown(swish(Dense(HEAD, name="head")(x)))

        blocks = [(f"stage{stage}", partial(self._blocks, stage)) for stage in range(1, len(STAGES) + 1)]
        return [("stem", stem), *blocks, ("head", head), ("pool", _pool)]

    @nn.nowrap
    def _blocks(self, stage: int, x: Images) -> Images:
        expansion, kernel, stride, features, blocks = STAGES[stage - 1]
        for block in range(blocks):
            width = x.shape[-1]
            x = MBConv(
                width * expansion,
                kernel,
                stride if block == 0 else 1,
                features,
                max(1, width // 4),
                name=f"stage{stage}_{block}",
            )(x)
        return self.sown(x)


def _pool(x: Images) -> Float[Array, "batch channels"]:
    return global_mean(x).astype(jnp.float32)


def table() -> LayerTable:
    """Return which checkpoint keys each layer takes."""
    layers: LayerTable = {("stem",): ConvNorm("features.0.0", "features.0.1", (STEM, 3, 3, 3))}
    width = STEM
    for stage, (expansion, kernel, _, features, blocks) in enumerate(STAGES, 1):
        for block in range(blocks):
            key, path = f"features.{stage}.{block}.block", f"stage{stage}_{block}"
            expanded, squeezed = width * expansion, max(1, width // 4)
            index = 0
            if expansion != 1:
                layers[path, "expand"] = _pointwise(f"{key}.0", width, expanded)
                index = 1
            depthwise = f"{key}.{index}"
            layers[path, "depthwise"] = ConvNorm(f"{depthwise}.0", f"{depthwise}.1", (expanded, 1, kernel, kernel))
            layers[path, "se", "fc1"] = Linear(f"{key}.{index + 1}.fc1", expanded, squeezed, conv=True)
            layers[path, "se", "fc2"] = Linear(f"{key}.{index + 1}.fc2", squeezed, expanded, conv=True)
            layers[path, "project"] = _pointwise(f"{key}.{index + 2}", expanded, features)
            width = features
    layers["head",] = _pointwise("features.8", width, HEAD)
    return layers


def _pointwise(key: str, n_in: int, n_out: int) -> ConvNorm:
    return ConvNorm(f"{key}.0", f"{key}.1", (n_out, n_in, 1, 1), squeeze=True)


def _architecture(state: State | None, channels: str | None) -> Architecture:
    file = "download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth"
    images = Preprocessing(224, channels or "one-hot")
    adapted = ("*/expand", "*/project", "head")
    return Architecture("efficientnet_b0", EfficientNetB0(), table(), images, ("classifier.",), file, adapted=adapted)


EFFICIENTNET_B0 = Pretrained("efficientnet_b0", _architecture)
