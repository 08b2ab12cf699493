"""Networks with weights from a checkpoint: by name, as a callable on images, and their way into extraction."""

import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import flax
import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from qwafer._arrays import real_array
from qwafer._checks import check_choice, nearest
from qwafer._errors import InputError
from qwafer.backbones.adapters import Adapters
from qwafer.backbones.base import Extractor, available_cores
from qwafer.backbones.checkpoints import (
    Checkpoint,
    check_fit,
    fetch_from_hub,
    random_checkpoint,
    read_checkpoint,
    write_tensors,
)
from qwafer.backbones.keys import LayerTable, Shapes, State, expected_shapes, parameter_tree
from qwafer.backbones.layers import Staged
from qwafer.backbones.preprocess import Preprocessing
from qwafer.backbones.registry import BACKBONES, backbone_thing
from qwafer.backbones.trained import recorded_split

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
DEVICE_BATCH = 64
"""Images per call and device where that is not a CPU."""


class Images(Protocol):
    """From wafer maps to the images that a checkpoint was trained on."""

    def __call__(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size, 3) float32 images of n maps of any shapes."""

    def record(self) -> dict[str, Any]:
        """Return the provenance."""


@dataclass(frozen=True)
class Architecture:
    """A network as its checkpoints know it."""

    name: str
    """Name as in torchvision or mambavision."""
    module: Staged
    """The flax module, for inference, stage by stage."""
    table: LayerTable
    """Which tensors each layer takes."""
    preprocessing: Images
    """From maps to the images that the checkpoint was trained on."""
    unused: tuple[str, ...]
    """Prefixes of keys that extraction leaves out: the classification head."""
    published: str
    """Where weights are to be had, in words."""
    hub: tuple[str, str] | None = None
    """Repository and file on the Hugging Face hub, if they are there with these keys."""
    cpu_batch: int = 2
    """Images per call of the compiled program on a CPU: more leave the second-level cache between two layers."""
    adapted: tuple[str, ...] = ()
    """Patterns of the layers, by the path of their modules, that low-rank adapters may change."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """The stages before which the network can be cut."""
        return tuple(name for name, _ in self.module.stages())[:-1]

    @property
    def shapes(self) -> Shapes:
        """{key: shape} of every tensor needed."""
        return expected_shapes(self.table)


@dataclass(frozen=True)
class Pretrained:
    """A network by name, to be given weights."""

    name: str
    """Name of the backbone."""
    architecture: Callable[[State | None, str | None], Architecture]
    """(state, channels) -> the architecture, of which a state may tell more; channels: see `Preprocessing`."""
    cut: str | None = None
    """Stage before which it is cut: its features are what enters that stage; None: whole."""

    def at(self, cut: str) -> "Pretrained":
        """Return the network cut before its stage `cut`; raise InputError for a stage that it does not have."""
        stages = self.architecture(None, None).cuts
        if cut not in stages:
            raise InputError(
                f"backbone {self.name} has no stage `{cut}` to be cut at; its stages are {', '.join(stages)}"
                f"{nearest(cut, stages)}"
            )
        return replace(self, cut=cut)

    def load(
        self,
        weights: str | Path | Checkpoint | None = None,
        random_weights: int | None = None,
        dtype: str | None = None,
        channels: str | None = None,
        adapters: "str | Path | Adapters | None" = None,
    ) -> "Backbone":
        """Return the network with its weights; see `load`."""
        dtype = "float32" if dtype is None else dtype
        check_choice("dtype", dtype, DTYPES)
        if self.cut is not None and dtype != "float32":
            raise InputError(
                f"backbone {self.name}@{self.cut} is cut, and a head goes on in float32: leave out --dtype"
            )
        wanted = self.architecture(None, channels)
        if weights is not None and random_weights is not None:
            raise InputError("give either weights or random weights, not both")
        if isinstance(weights, Checkpoint):
            checkpoint = weights
        elif random_weights is not None:
            checkpoint = random_checkpoint(wanted.shapes, random_weights)
        elif weights is None:
            raise InputError(
                f"backbone {self.name} needs weights: give --weights PATH ({wanted.published}), --weights hub where "
                f"they are on the hub, or --random-weights SEED for a trial"
            )
        elif str(weights) == "hub":
            if wanted.hub is None:
                raise InputError(
                    f"the weights of {self.name} are not on the hub: download {wanted.published} and give its path"
                )
            checkpoint = read_checkpoint(fetch_from_hub(*wanted.hub))
        else:
            checkpoint = read_checkpoint(weights)
        fitted = self.architecture(checkpoint.state, channels)
        _check_fit(checkpoint, fitted)
        if adapters is not None:
            given = adapters if isinstance(adapters, Adapters) else Adapters.load(adapters)
            checkpoint = given.merged(checkpoint, fitted.name, fitted.table)
        return Backbone(fitted, checkpoint, dtype, self.cut)

    def __call__(
        self,
        weights: str | Path | Checkpoint | None = None,
        random_weights: int | None = None,
        dtype: str | None = None,
        channels: str | None = None,
        adapters: "str | Path | Adapters | None" = None,
    ) -> Extractor:
        """Return the network with its weights as an `Extractor`."""
        return self.load(weights, random_weights, dtype, channels, adapters).extractor()


def load(
    name: str,
    weights: str | Path | Checkpoint | None = None,
    *,
    random_weights: int | None = None,
    dtype: str | None = None,
    channels: str | None = None,
    adapters: "str | Path | Adapters | None" = None,
) -> "Backbone":
    """Return the network `name` with `weights`, as a callable from normalised images to features.

    Args:
        name: `efficientnet_b0`, `mobilenet_v3_small`, a MambaVision variant such as `mamba_vision_T2`, or `wafercnn`;
            with `@STAGE` the network is cut: its features are what enters that stage, flattened.
        weights: path of a checkpoint (torch's format or safetensors), or `hub` to fetch it from the Hugging Face hub.
        random_weights: seed of drawn weights instead; recorded, and shown wherever the features are used.
        dtype: `float32` (if none), `bfloat16` or `float16`; sums are float32 in all of them.
        channels: how maps become images, `one-hot` (if none) or `grey`; see `Preprocessing`.
        adapters: low-rank adapters that are merged into the weights, or the path of their file.

    Raises:
        InputError: an unknown name, no weights, or weights that do not fit: the keys are named.
    """
    return _pretrained(name).load(weights, random_weights, dtype, channels, adapters)


def architecture(name: str, state: State | None = None, channels: str | None = None) -> Architecture:
    """Return the architecture of the network `name`, as the checkpoint `state` has it."""
    return _pretrained(name).architecture(state, channels)


def write_merged(weights: str | Path, adapters: "str | Path | Adapters", path: str | Path) -> Path:
    """Write the checkpoint `weights` with `adapters` merged into it to `path` (safetensors) and return it.

    As `--weights` of the network that the adapters adapt, it gives the features of the adapted network.

    Raises InputError for adapters of other weights, or weights that do not fit.
    """
    given = adapters if isinstance(adapters, Adapters) else Adapters.load(adapters)
    checkpoint = read_checkpoint(weights)
    form = architecture(given.backbone, checkpoint.state)
    _check_fit(checkpoint, form)
    merged = given.merged(checkpoint, form.name, form.table)
    write_tensors(path, merged.state, {"merged": json.dumps({"weights": given.weights, "adapters": given.digest()})})
    return Path(path)


def _check_fit(checkpoint: Checkpoint, form: Architecture) -> None:
    unused = (*form.unused, "training.")
    check_fit(checkpoint.state, form.shapes, form.name, unused, lambda: _other_shapes(checkpoint))


def _pretrained(name: str) -> Pretrained:
    network = backbone_thing(name)
    if not isinstance(network, Pretrained):
        raise InputError(f"backbone {name} is not a network on images: use `extractor`")
    return network


class Backbone:
    """A frozen network with its weights on the device: NHWC images in, float32 features out."""

    def __init__(self, architecture: Architecture, checkpoint: Checkpoint, dtype: str, cut: str | None = None) -> None:
        self.architecture, self.cut = architecture, cut
        self.dtype = dtype
        self.weights = checkpoint.record
        self._devices = jax.devices()
        on_cpu = self._devices[0].platform == "cpu"
        self.batch = (architecture.cpu_batch if on_cpu else DEVICE_BATCH) * len(self._devices)
        """Images per call of the compiled program; other numbers are padded to it."""
        self._threads = available_cores() if on_cpu and len(self._devices) == 1 else 1
        mesh = Mesh(np.array(self._devices), ("batch",))
        self._rows = NamedSharding(mesh, PartitionSpec("batch"))
        tree = parameter_tree(architecture.table, checkpoint.state)
        self.parameters = jax.device_put(
            jax.tree.map(lambda array: array.astype(DTYPES[dtype]), tree), NamedSharding(mesh, PartitionSpec())
        )
        self._program = jax.jit(self.apply)
        self.state = {key: checkpoint.state[key] for key in architecture.shapes}
        """The tensors behind `parameters`, as the checkpoint has them."""
        self._split = recorded_split(checkpoint.state)

    @property
    def name(self) -> str:
        """Name as in torchvision or mambavision, with `@STAGE` where it is cut."""
        return self.architecture.name if self.cut is None else f"{self.architecture.name}@{self.cut}"

    def apply(self, parameters: Any, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        """Return the features of images: the pure function behind the callable, to be traced by JAX."""
        # Without this, float32 means ten bits of mantissa in the matrix units of recent GPUs.
        precision = "highest" if self.dtype == "float32" else "default"
        with jax.default_matmul_precision(precision):
            found = self.architecture.module.apply(
                {"params": parameters}, images.astype(DTYPES[self.dtype]), end=self.cut
            )
        return found if self.cut is None else found.reshape(len(found), -1)

    def cut_shape(self) -> tuple[int, ...]:
        """Return the shape (H, W, C) of what enters the stage before which the network is cut, for one map."""
        images = self.architecture.preprocessing([np.zeros((1, 1), np.uint8)])
        apply = functools.partial(self.architecture.module.apply, end=self.cut)
        return tuple(jax.eval_shape(apply, {"params": self.parameters}, images).shape[1:])

    def __call__(self, images: Any) -> np.ndarray:
        """Return features (batch, D) float32 of normalised images (batch, height, width, 3).

        A batch of any length is cut into pieces of `batch` images, the last one padded; on a CPU they run on all cores
        side by side. So an image's features do not depend on how many others come with it.
        """
        images = real_array("images", images, finite=True).astype(np.float32)
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise InputError(f"`images` must have shape (batch, height, width, 3), got {images.shape}")
        pieces = [images[i : i + self.batch] for i in range(0, len(images), self.batch)]
        if self._threads == 1 or len(pieces) == 1:
            return np.concatenate([self._piece(piece, self.batch) for piece in pieces])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(lambda piece: self._piece(piece, self.batch), pieces)))

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
        if "adapters" in self.weights:
            record["adapters"] = self.weights["adapters"]
        if self.cut is not None:
            record["cut"] = {"stage": self.cut, "shape": self.cut_shape()}

        def features(maps: Sequence[np.ndarray]) -> np.ndarray:
            return self._piece(self.architecture.preprocessing(maps), self.batch)

        def quick(maps: Sequence[np.ndarray]) -> np.ndarray:
            size = min(self.batch, 1 << (len(maps) - 1).bit_length())
            return self._piece(self.architecture.preprocessing(maps), size)

        images = self.architecture.preprocessing
        pictures = isinstance(images, Preprocessing) and images.channels == "grey"
        return Extractor(
            self.name,
            self.batch,
            record,
            features,
            pictures=pictures,
            split=self._split,
            state=self.state,
            quick=quick if len(self._devices) == 1 else None,
            cut=self.cut,
        )

    def _piece(self, images: np.ndarray, size: int) -> np.ndarray:
        """Return the features of at most `size` images, by the program of so many."""
        n = len(images)
        if n < size:
            images = np.concatenate([images, np.zeros((size - n, *images.shape[1:]), np.float32)])
        return np.asarray(self._program(self.parameters, jax.device_put(images, self._rows)))[:n]


def _other_shapes(checkpoint: Checkpoint) -> dict[str, Shapes]:
    networks = [thing for thing in map(BACKBONES.get, BACKBONES.names) if isinstance(thing, Pretrained)]
    return {network.name: network.architecture(checkpoint.state, None).shapes for network in networks}
