"""From checkpoint keys to the parameters of the flax modules: which tensors a layer owns, and how it folds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

State: TypeAlias = Mapping[str, np.ndarray]
"""A checkpoint: {key: tensor}, in torch's own layouts."""
Shapes: TypeAlias = dict[str, tuple[int, ...]]


class Layer(Protocol):
    """A layer's claim on a checkpoint."""

    def shapes(self) -> Shapes:
        """Return {key: shape} of the tensors that it needs."""

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return the float32 parameters of the flax module."""


LayerTable: TypeAlias = dict[tuple[str, ...], Layer]
"""{path of the flax module: the layer's claim}: the whole of a model."""


@dataclass(frozen=True)
class ConvNorm:
    """A convolution, with or without a bias, and the batch normalisation behind it, folded into one.

    kernel = w gamma / sqrt(var + eps), bias = beta + (b - mean) gamma / sqrt(var + eps).
    """

    conv: str
    norm: str | None
    shape: tuple[int, int, int, int]
    """Torch's: (out, in / groups, height, width)."""
    eps: float = 1e-5
    bias: bool = False
    squeeze: bool = False
    """A 1 x 1 convolution that is applied as a matrix (in, out)."""

    def shapes(self) -> Shapes:
        """Return the shapes of weight and bias, and of the normalisation's four vectors."""
        out = (self.shape[0],)
        shapes: Shapes = {f"{self.conv}.weight": self.shape}
        if self.bias:
            shapes[f"{self.conv}.bias"] = out
        if self.norm is not None:
            shapes |= {f"{self.norm}.{name}": out for name in ("weight", "bias", "running_mean", "running_var")}
        return shapes

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return `kernel` (height, width, in / groups, out), or (in, out) if squeezed, and `bias` if there is any."""
        weight = state[f"{self.conv}.weight"].astype(np.float64)
        bias = state[f"{self.conv}.bias"].astype(np.float64) if self.bias else np.zeros(self.shape[0])
        if self.norm is not None:
            scale, shift = _affine(self.norm, self.eps, state)
            weight = weight * scale[:, None, None, None]
            bias = bias * scale + shift
        kernel = weight[:, :, 0, 0].T if self.squeeze else weight.transpose(2, 3, 1, 0)
        parameters = {"kernel": kernel.astype(np.float32)}
        if self.bias or self.norm is not None:
            parameters["bias"] = bias.astype(np.float32)
        return parameters

    def weight(self, kernel: np.ndarray) -> dict[str, np.ndarray]:
        """Return the weight, in torch's layout, of a kernel in the module's."""
        weight = kernel.T[:, :, None, None] if self.squeeze else kernel.transpose(3, 2, 0, 1)
        return {f"{self.conv}.weight": np.ascontiguousarray(weight, dtype=np.float32)}

    def with_kernel(self, state: State, kernel: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors of this layer with which `parameters` gives `kernel`, and the same bias.

        The normalisation becomes an addition of the bias: its scale is in the kernel.
        """
        tensors = self.weight(kernel)
        if self.norm is None:
            return tensors
        shift, zero = self.parameters(state)["bias"], np.zeros(self.shape[0], np.float32)
        if self.bias:
            tensors[f"{self.conv}.bias"] = zero
        gain = np.full(self.shape[0], np.sqrt(1 + self.eps), np.float32)
        values = {"weight": gain, "bias": shift, "running_mean": zero, "running_var": zero + 1}
        return tensors | {f"{self.norm}.{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; torch keeps (out, in), or (out, in, 1, 1) where it is written as a convolution."""

    key: str
    n_in: int
    n_out: int
    bias: bool = True
    conv: bool = False

    def shapes(self) -> Shapes:
        """Return the shapes of weight and bias."""
        shapes: Shapes = {f"{self.key}.weight": (self.n_out, self.n_in, 1, 1) if self.conv else (self.n_out, self.n_in)}
        if self.bias:
            shapes[f"{self.key}.bias"] = (self.n_out,)
        return shapes

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return `kernel` (in, out) and `bias` if there is any."""
        weight = state[f"{self.key}.weight"].reshape(self.n_out, self.n_in)
        parameters = {"kernel": np.ascontiguousarray(weight.T, dtype=np.float32)}
        if self.bias:
            parameters["bias"] = state[f"{self.key}.bias"].astype(np.float32)
        return parameters

    def with_kernel(self, state: State, kernel: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors of this layer with which `parameters` gives `kernel`, and the same bias."""
        shape = self.shapes()[f"{self.key}.weight"]
        return {f"{self.key}.weight": np.ascontiguousarray(kernel.T, dtype=np.float32).reshape(shape)}


@dataclass(frozen=True)
class LayerNormKeys:
    """A layer normalisation."""

    key: str
    width: int

    def shapes(self) -> Shapes:
        """Return the shapes of weight and bias."""
        return {f"{self.key}.weight": (self.width,), f"{self.key}.bias": (self.width,)}

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return `scale` and `bias`."""
        return {
            "scale": state[f"{self.key}.weight"].astype(np.float32),
            "bias": state[f"{self.key}.bias"].astype(np.float32),
        }


@dataclass(frozen=True)
class Affine:
    """A batch normalisation that follows no convolution: x scale + shift."""

    key: str
    width: int
    eps: float = 1e-5

    def shapes(self) -> Shapes:
        """Return the shapes of its four vectors."""
        return {f"{self.key}.{name}": (self.width,) for name in ("weight", "bias", "running_mean", "running_var")}

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return `scale` and `shift`."""
        scale, shift = _affine(self.key, self.eps, state)
        return {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}


@dataclass(frozen=True)
class Tensors:
    """Tensors that a module takes as they are: {parameter: (key, shape)}."""

    entries: tuple[tuple[str, str, tuple[int, ...]], ...]
    """(parameter, key, shape) of each."""

    def shapes(self) -> Shapes:
        """Return their shapes."""
        return {key: shape for _, key, shape in self.entries}

    def parameters(self, state: State) -> dict[str, np.ndarray]:
        """Return them as float32."""
        return {name: state[key].astype(np.float32) for name, key, _ in self.entries}


def expected_shapes(table: LayerTable) -> Shapes:
    """Return {key: shape} of every tensor that a model needs."""
    return {key: shape for layer in table.values() for key, shape in layer.shapes().items()}


def parameter_tree(table: LayerTable, state: State) -> dict:
    """Return the nested parameters of the flax module, float32, batch normalisation folded."""
    tree: dict = {}
    for path, layer in table.items():
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch.update(layer.parameters(state))
    return tree


def _affine(key: str, eps: float, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, shift), float64, of the batch normalisation `key`."""
    scale = state[f"{key}.weight"].astype(np.float64) / np.sqrt(state[f"{key}.running_var"].astype(np.float64) + eps)
    return scale, state[f"{key}.bias"] - state[f"{key}.running_mean"] * scale
