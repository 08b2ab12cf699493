"""WaferCNN: a small convolutional network on the maps themselves, as it is once it is trained.

The honest backbone where no pretrained weights can be had: three blocks of 32, 64 and 128 channels, each a 3 x 3
convolution, batch normalisation, 2 x 2 maximum and ReLU, then the mean over the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qwafer._errors import InputError
from qwafer.backbones.keys import ConvNorm, LayerTable, State
from qwafer.backbones.layers import Conv, Images, Stage, Staged, global_mean
from qwafer.backbones.preprocess import resize_nearest
from qwafer.backbones.pretrained import Architecture, Pretrained

SIZE = 52
CHANNELS = (32, 64, 128)
N_INPUTS = 3


class WaferCNNModule(Staged):
    """Images of wafer maps to features, (batch, 52, 52, 3) -> (batch, 128) float32, for inference: batch normalisation
    is folded into the convolutions.
    """

    @nn.nowrap
    def stages(self) -> list[tuple[str, Stage]]:
        """Return `block0`, `block1`, `block2` and `pool`."""
        blocks = [(f"block{block}", partial(_block, f"block{block}", width)) for block, width in enumerate(CHANNELS)]
        return [*blocks, ("pool", global_mean)]


def _block(name: str, width: int, x: Images) -> Images:
    return jax.nn.relu(pooled(Conv(width, name=name)(x)))


def pooled(x: Images) -> Images:
    """Return the maximum over 2 x 2 dies; an odd last row or column is left out."""
    corners = quarters(x)
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))


def quarters(x: Images) -> list[Images]:
    """Return the four (batch, H // 2, W // 2, C) images of the corners of all 2 x 2 squares."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


@dataclass(frozen=True)
class WaferImages:
    """Map (H, W) of 0 (off the wafer), 1 (passing), 2 (failing) to image (52, 52, 3), float32.

    Nearest neighbour first (nothing to do for 52 x 52), then the channels passing, failing (0 or 1) and the distance
    from the centre over half the side, which tells a central cluster from any other.
    """

    size: int = SIZE
    """Side of the image in dies."""

    def codes(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size) uint8 of n maps of any shapes."""
        return np.stack([resize_nearest(one, self.size) for one in maps])

    def __call__(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size, 3) float32 images."""
        return np.asarray(channels(self.codes(maps), np))

    def record(self) -> dict[str, Any]:
        """Return the provenance."""
        return {
            "size": self.size,
            "channels": "passing, failing, distance from the centre / half side",
            "resize": "nearest neighbour, pixel centres",
        }


def channels(codes: Any, xp: Any) -> Any:
    """Return (n, size, size, 3) float32 of (n, size, size) codes, in NumPy or JAX (`xp`)."""
    size = codes.shape[-1]
    offset = (2 * np.arange(size) + 1) / size - 1
    radius = np.hypot(offset[:, None], offset[None]).astype(np.float32)
    radii = xp.broadcast_to(xp.asarray(radius)[None], codes.shape)
    return xp.stack([(codes == 1).astype(np.float32), (codes == 2).astype(np.float32), radii], axis=-1)


def table() -> LayerTable:
    """Return which checkpoint keys each layer takes."""
    widths = (N_INPUTS, *CHANNELS)
    return {
        (f"block{i}",): ConvNorm(f"blocks.{i}.conv", f"blocks.{i}.norm", (widths[i + 1], widths[i], 3, 3))
        for i in range(len(CHANNELS))
    }


def _architecture(state: State | None, channels: str | None) -> Architecture:
    if channels is not None:
        raise InputError("backbone wafercnn has channels of its own: leave out --channels")
    unused = ("head.",)
    return Architecture(
        "wafercnn",
        WaferCNNModule(),
        table(),
        WaferImages(),
        unused,
        "made by --train",
        cpu_batch=8,
        adapted=("block*",),
    )


FROZEN = Pretrained("wafercnn", _architecture)
