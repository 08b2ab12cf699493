"""WaferResNet: a residual network on the dies, three stages of convolutions with shortcuts, as its arrays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array

from qwafer.backbones.checkpoints import check_fit
from qwafer.backbones.keys import Shapes
from qwafer.backbones.layers import Images, global_mean
from qwafer.heads import draw
from qwafer.networks.augmentation import Codes
from qwafer.networks.batch_norm import batch_norm, spread
from qwafer.networks.head import Outputs, Tree
from qwafer.networks.options import WaferResNetShape
from qwafer.networks.wafercnn_module import N_INPUTS, SIZE, channels

EPS = 1e-5
MOMENTUM = 0.05
"""Weight of a batch in the running mean and variance."""


@dataclass(frozen=True)
class WaferResNet(WaferResNetShape):
    """An `Architecture`: residual blocks (He et al. 2016, arXiv:1512.03385) on 26 x 26, 13 x 13 and 7 x 7.

    Squares of 2 x 2 dies are the channels of 26 x 26, as half the side costs a quarter of the time. A stage is a 3 x 3
    convolution (but for the first, behind the maximum over 2 x 2), then `blocks` of relu(x + b(relu(a(x)))), a and b
    3 x 3 convolutions; each convolution has a batch normalisation. Stages have w, 2 w and 3 w channels, w the width;
    features are the mean over the map.
    """

    size: ClassVar[int] = SIZE

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return (self.width, 2 * self.width, 3 * self.width)

    def layers(self) -> dict[str, tuple[int, int]]:
        """Return the channels into and out of each convolution, by name."""
        found: dict[str, tuple[int, int]] = {}
        n_in = 4 * N_INPUTS
        for i, width in enumerate(self.widths):
            found[f"stage{i}.enter"] = (n_in, width)
            for block in range(self.blocks):
                found |= {f"stage{i}.block{block}.{part}": (width, width) for part in ("a", "b")}
            n_in = width
        return found

    def shapes(self, n_labels: int) -> tuple[Shapes, Shapes]:
        """Return {key: shape} of the parameters, and of the moments."""
        params: Shapes = {}
        moments: Shapes = {}
        for name, (n_in, n) in self.layers().items():
            params |= {f"{name}.kernel": (3, 3, n_in, n), f"{name}.scale": (n,), f"{name}.bias": (n,)}
            moments |= {f"{name}.mean": (n,), f"{name}.var": (n,)}
        params |= {"head.kernel": (self.widths[-1], n_labels), "head.bias": (n_labels,)}
        return params, moments

    def initial(self, seed: int, n_labels: int) -> tuple[Tree, Tree]:
        """Return He-normal kernels, moments 0 and 1, and blocks that start as the identity: the last scale of each is 0
        (Goyal et al. 2017, arXiv:1706.02677).
        """

        def drawn(key: str, shape: tuple[int, ...]) -> Array:
            if key.endswith("kernel"):
                return draw(seed, f"waferresnet/{key}", shape, "float32", math.sqrt(2 / math.prod(shape[:-1])))
            ones = key.endswith((".scale", ".var")) and not key.endswith(".b.scale")
            return jnp.full(shape, 1 if ones else 0, jnp.float32)

        params, moments = (
            unflatten_dict({key: drawn(key, shape) for key, shape in shapes.items()}, sep=".")
            for shapes in self.shapes(n_labels)
        )
        return params, moments

    def outputs(
        self, params: Tree, statistics: Tree, codes: Codes, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Tree]:
        """Return the outputs, with the moments of the batch in training and the running ones else."""
        weights, known = flatten_dict(params, sep="."), flatten_dict(statistics, sep=".")
        moved = dict(known)

        def layer(name: str, x: Images) -> Images:
            x = lax.conv_general_dilated(
                x, weights[f"{name}.kernel"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            scale, bias = weights[f"{name}.scale"], weights[f"{name}.bias"]
            moments = {part: known[f"{name}.{part}"] for part in ("mean", "var")}
            if not train:
                gain = scale * lax.rsqrt(moments["var"] + EPS)
                return x * spread(gain) + spread(bias - moments["mean"] * gain)
            x, *seen = batch_norm(x, scale, bias, EPS)
            for (part, old), new in zip(moments.items(), seen, strict=True):
                moved[f"{name}.{part}"] = old + MOMENTUM * (lax.stop_gradient(new) - old)
            return x

        x = _squares(channels(codes, jnp))
        x = x.reshape(*x.shape[:3], -1)
        for i in range(len(self.widths)):
            if i:
                x = _squares(jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))).max(axis=3)
            x = jax.nn.relu(layer(f"stage{i}.enter", x))
            for block in range(self.blocks):
                name = f"stage{i}.block{block}"
                x = jax.nn.relu(x + layer(f"{name}.b", jax.nn.relu(layer(f"{name}.a", x))))
        features = global_mean(x)
        logits = features @ params["head"]["kernel"] + params["head"]["bias"][None]
        return Outputs(logits[None], features), unflatten_dict(moved, sep=".")

    def tensors(self, params: Tree, statistics: Tree) -> dict[str, np.ndarray]:
        """Return what a file holds: {key: tensor}."""
        flat = flatten_dict(params, sep=".") | flatten_dict(statistics, sep=".")
        return {key: np.asarray(value) for key, value in flat.items()}

    def restored(self, tensors: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
        """Return parameters and moments of what `tensors` gave; other keys of a file are left out.

        Raises InputError where tensors are missing or of other shapes, as those of other options are.
        """
        bias = tensors.get("head.bias")
        params, moments = self.shapes(1 if bias is None or bias.ndim != 1 else len(bias))
        check_fit(tensors, {**params, **moments}, "waferresnet with these options", ("training.",), dict)
        trees = (
            unflatten_dict({key: jnp.asarray(tensors[key]) for key in keys}, sep=".") for keys in (params, moments)
        )
        return next(trees), next(trees)


def _squares(x: Images) -> Array:
    """Return (batch, H / 2, W / 2, 4, C) of the squares of 2 x 2 of (batch, H, W, C)."""
    batch, height, width, n = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, n).swapaxes(2, 3)
    return squares.reshape(batch, height // 2, width // 2, 4, n)
