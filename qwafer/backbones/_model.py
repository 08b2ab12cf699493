"""Pretrained networks: the callable that `load` returns, and its way into extraction."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.backbones._architectures import NAMES, Architecture, architecture
from qwafer.backbones._base import Extractor, available_cores
from qwafer.backbones._checkpoints import Checkpoint, check_fit, fetch_from_hub, random_checkpoint, read_checkpoint
from qwafer.backbones._keys import Shapes, parameter_tree
from qwafer.backbones.wafercnn import PARTS, recorded_split

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
DEVICE_BATCH = 64
"""Images a call and device where that is no CPU."""


def load(
    name: str,
    weights: str | Path | None = None,
    *,
    random_weights: int | None = None,
    dtype: str = "float32",
    channels: str | None = None,
) -> "Backbone":
    """Return the network `name` with `weights`, as a callable from normalised images to features.

    Args:
        name: `efficientnet_b0`, `mobilenet_v3_small`, a MambaVision variant such as `mamba_vision_T2`, or `wafercnn`.
        weights: path of a checkpoint (torch's format or safetensors), or `hub` to fetch it from the Hugging Face hub.
        random_weights: seed of drawn weights instead; recorded, and shown wherever the features are used.
        dtype: `float32`, `bfloat16` or `float16`; sums are float32 in all of them.
        channels: how maps become images, `one-hot` (if none) or `grey`; see `Preprocessing`.

    Raises:
        InputError: an unknown name, no weights, or weights that do not fit: the keys are named.
    """
    check_choice("backbone", name, NAMES)
    check_choice("dtype", dtype, DTYPES)
    wanted = architecture(name, channels=channels)
    if weights is not None and random_weights is not None:
        raise InputError("give either weights or random weights, not both")
    if random_weights is not None:
        checkpoint = random_checkpoint(wanted.shapes, random_weights)
    elif weights is None:
        raise InputError(
            f"backbone {name} needs weights: give --weights PATH ({wanted.published}), --weights hub where they are on "
            f"the hub, or --random-weights SEED for a trial"
        )
    elif str(weights) == "hub":
        if wanted.hub is None:
            raise InputError(f"the weights of {name} are not on the hub: download {wanted.published} and give its path")
        checkpoint = read_checkpoint(fetch_from_hub(*wanted.hub))
    else:
        checkpoint = read_checkpoint(weights)
    fitted = architecture(name, checkpoint.state, channels)
    check_fit(checkpoint.state, fitted.shapes, name, fitted.unused, lambda: _other_shapes(checkpoint))
    return Backbone(fitted, checkpoint, dtype)


class Backbone:
    """A frozen network with its weights on the device: NHWC images in, float32 features out."""

    def __init__(self, architecture: Architecture, checkpoint: Checkpoint, dtype: str) -> None:
        self.architecture = architecture
        self.dtype = dtype
        self.weights = checkpoint.record
        self._devices = jax.devices()
        on_cpu = self._devices[0].platform == "cpu"
        self.batch = (architecture.cpu_batch if on_cpu else DEVICE_BATCH) * len(self._devices)
        """Images a call of the compiled program; other numbers are padded to it."""
        self._threads = available_cores() if on_cpu and len(self._devices) == 1 else 1
        mesh = Mesh(np.array(self._devices), ("batch",))
        self._rows = NamedSharding(mesh, PartitionSpec("batch"))
        tree = parameter_tree(architecture.table, checkpoint.state)
        self.parameters = jax.device_put(
            jax.tree.map(lambda array: array.astype(DTYPES[dtype]), tree), NamedSharding(mesh, PartitionSpec())
        )
        self._program = jax.jit(self.apply)
        self._split = partial(
            recorded_split, {key: checkpoint.state[key] for key in PARTS.values() if key in checkpoint.state}
        )

    @property
    def name(self) -> str:
        """Name as in torchvision or mambavision."""
        return self.architecture.name

    def apply(self, parameters: Any, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        """Return the features of images: the pure function behind the callable, to be traced by JAX."""
        # Without this, float32 means ten bits of mantissa in the matrix units of recent GPUs.
        precision = "highest" if self.dtype == "float32" else "default"
        with jax.default_matmul_precision(precision):
            return self.architecture.module.apply({"params": parameters}, images.astype(DTYPES[self.dtype]))

    def __call__(self, images: Any) -> np.ndarray:
        """Return features (batch, D) float32 of normalised images (batch, height, width, 3).

        A batch of any length is cut into pieces of `batch` images, the last one padded; on a CPU they run on all cores
        side by side. So an image's features do not depend on how many others come with it.
        """
        images = np.asarray(images, np.float32)
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise InputError(f"`images` must have shape (batch, height, width, 3), got {images.shape}")
        pieces = [images[i : i + self.batch] for i in range(0, len(images), self.batch)]
        if self._threads == 1 or len(pieces) == 1:
            return np.concatenate([self._piece(piece) for piece in pieces])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._piece, pieces)))

    def extractor(self) -> Extractor:
        """Return the way from maps to features: preprocessing, then the network."""
        record = {
            "weights": self.weights,
            "random_weights": self.weights.get("random_weights"),
            "preprocessing": self.architecture.preprocessing.record(),
            "dtype": self.dtype,
            "device": {"platform": self._devices[0].platform, "count": len(self._devices)},
            "versions": {package.__name__: package.__version__ for package in (jax, flax)},
        }

        def features(maps: Sequence[np.ndarray]) -> np.ndarray:
            return self._piece(self.architecture.preprocessing(maps))

        return Extractor(self.name, self.batch, record, features, split=self._split)

    def _piece(self, images: np.ndarray) -> np.ndarray:
        """Return the features of at most `batch` images."""
        n = len(images)
        if n < self.batch:
            images = np.concatenate([images, np.zeros((self.batch - n, *images.shape[1:]), np.float32)])
        return np.asarray(self._program(self.parameters, jax.device_put(images, self._rows)))[:n]


def _other_shapes(checkpoint: Checkpoint) -> dict[str, Shapes]:
    return {name: architecture(name, checkpoint.state).shapes for name in NAMES}
