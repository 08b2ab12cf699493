"""A backbone in training: behind each of its convolutions stands the batch normalisation that the frozen one folds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array

from qwafer.backbones.keys import ConvNorm, LayerTable, Linear, Shapes
from qwafer.backbones.layers import Staged
from qwafer.heads import draw
from qwafer.networks.augmentation import Codes
from qwafer.networks.batch_norm import batch_norm
from qwafer.networks.head import Outputs, Tree
from qwafer.networks.wafercnn_module import channels

MOMENTUM = 0.05
"""Weight of a batch in the running mean and variance."""


@dataclass(frozen=True)
class Unfolded:
    """An `Architecture` of a flax module for inference and the table of its layers, convolutions and linear ones.

    In training a convolution has no bias, and what it gives is normalised by the moments of the batch; else kernels and
    biases are folded as a checkpoint's are on loading, with the running moments, and the module runs as it is. The
    logits are a linear map of the module's features.
    """

    name: str
    """Of the head; names the streams of the initial values."""
    module: Staged
    """From images (batch, size, size, 3) to features (batch, n_features)."""
    table: LayerTable
    """The tensors of each layer in a file of weights."""
    n_features: int
    """Features of the module."""
    classifier: str
    """Key of the linear map in a file of weights."""
    size: int
    """Side of the maps in dies."""

    def shapes(self, n_labels: int) -> tuple[Shapes, Shapes]:
        """Return {key: shape} of the parameters, and of the moments."""
        params: Shapes = {}
        moments: Shapes = {}
        for path, layer in self.table.items():
            name = ".".join(path)
            if isinstance(layer, ConvNorm):
                out, n_in, height, width = layer.shape
                params[f"{name}.kernel"] = (n_in, out) if layer.squeeze else (height, width, n_in, out)
                params |= {f"{name}.{part}": (out,) for part in ("scale", "bias")}
                moments |= {f"{name}.{part}": (out,) for part in ("mean", "var")}
            elif isinstance(layer, Linear):
                params |= {f"{name}.kernel": (layer.n_in, layer.n_out), f"{name}.bias": (layer.n_out,)}
            else:
                raise TypeError(f"a layer of kind {type(layer).__name__} cannot be trained here")
        params |= {"classifier.kernel": (self.n_features, n_labels), "classifier.bias": (n_labels,)}
        return params, moments

    def initial(self, seed: int, n_labels: int) -> tuple[Tree, Tree]:
        """Return He-normal kernels, scales 1, biases 0, and moments 0 and 1."""

        def drawn(key: str, shape: tuple[int, ...]) -> Array:
            if key.endswith(".kernel"):
                return draw(seed, f"{self.name}/{key}", shape, "float32", math.sqrt(2 / math.prod(shape[:-1])))
            return jnp.full(shape, 1 if key.endswith((".scale", ".var")) else 0, jnp.float32)

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
        moved, images = dict(known), channels(codes, jnp)
        if train:
            tree = self._layers(
                weights, lambda name, layer: (weights[f"{name}.kernel"], jnp.zeros(layer.shape[0], jnp.float32))
            )
            with nn.intercept_methods(self._normalisation(weights, known, moved)):
                features = self.module.apply({"params": tree}, images)
        else:
            features = self.module.apply({"params": self._layers(weights, self._folding(weights, known))}, images)
        logits = features @ weights["classifier.kernel"] + weights["classifier.bias"][None]
        return Outputs(logits[None], features), unflatten_dict(moved, sep=".")

    def _layers(
        self, weights: Mapping[str, Array], convolution: Callable[[str, ConvNorm], tuple[Array, Array]]
    ) -> dict[str, Any]:
        """Return the module's parameters, kernel and bias of each layer; `convolution` gives those of a convolution."""
        tree: dict[str, Array] = {}
        for path, layer in self.table.items():
            name = ".".join(path)
            if isinstance(layer, ConvNorm):
                kernel, bias = convolution(name, layer)
            else:
                kernel, bias = weights[f"{name}.kernel"], weights[f"{name}.bias"]
            tree |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
        found: dict[str, Any] = unflatten_dict(tree, sep=".")
        return found

    def _folding(
        self, weights: Mapping[str, Array], known: Mapping[str, Array]
    ) -> Callable[[str, ConvNorm], tuple[Array, Array]]:
        def folded(name: str, layer: ConvNorm) -> tuple[Array, Array]:
            kernel = weights[f"{name}.kernel"]
            gain = weights[f"{name}.scale"] * lax.rsqrt(known[f"{name}.var"] + layer.eps)
            shift = weights[f"{name}.bias"] - known[f"{name}.mean"] * gain
            return kernel * jnp.expand_dims(gain, tuple(range(kernel.ndim - 1))), shift

        return folded

    def _normalisation(
        self, weights: Mapping[str, Array], known: Mapping[str, Array], moved: dict[str, Array]
    ) -> Callable[..., Any]:
        """Return flax's interceptor that normalises what each convolution gives, and puts new moments into `moved`."""

        def normalised(
            call: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            found = call(*args, **kwargs)
            layer = self.table.get(context.module.path)
            if context.method_name != "__call__" or not isinstance(layer, ConvNorm):
                return found
            name = ".".join(context.module.path)
            found, *seen = batch_norm(found, weights[f"{name}.scale"], weights[f"{name}.bias"], layer.eps)
            for part, new in zip(("mean", "var"), lax.stop_gradient(seen), strict=True):
                old = known[f"{name}.{part}"]
                moved[f"{name}.{part}"] = old + MOMENTUM * (new - old)
            return found

        return normalised

    def tensors(self, params: Tree, statistics: Tree) -> dict[str, np.ndarray]:
        """Return what a file holds, {key: tensor} in torch's layouts: what the frozen backbone reads, and the linear
        map under `classifier`.
        """
        weights, known = flatten_dict(params, sep="."), flatten_dict(statistics, sep=".")
        state: dict[str, np.ndarray] = {
            f"{self.classifier}.weight": weights["classifier.kernel"].T,
            f"{self.classifier}.bias": weights["classifier.bias"],
        }
        for path, layer in self.table.items():
            name = ".".join(path)
            kernel, bias = np.asarray(weights[f"{name}.kernel"]), weights[f"{name}.bias"]
            if isinstance(layer, ConvNorm):
                state |= layer.weight(kernel)
                state |= {f"{layer.norm}.weight": weights[f"{name}.scale"], f"{layer.norm}.bias": bias}
                state |= {f"{layer.norm}.running_{part}": known[f"{name}.{part}"] for part in ("mean", "var")}
            elif isinstance(layer, Linear):
                state |= layer.with_kernel({}, kernel) | {f"{layer.key}.bias": bias}
        return {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in state.items()}
