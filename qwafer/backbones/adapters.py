"""Low-rank adapters of a frozen network (LoRA: Hu et al. 2021, arXiv 2106.09685): which layers, what ranks, their file.

A layer's kernel, as a matrix W (n_in, n_out), is applied as W + (scale / r) A B, of A (n_in, r) and B (r, n_out).
A k x k convolution is the matrix (k k C_in, C_out).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer._io import digest
from qwafer._reading import reads
from qwafer.backbones.checkpoints import Checkpoint, read_tensors, write_tensors
from qwafer.backbones.keys import LayerTable
from qwafer.backbones.trained import ID_TENSORS

RECORD = "qwafer_adapters"
"""Key of the metadata that say what a file of adapters adapts."""
_IDENTITY = ("sha256", "random_weights", "adapters")
"""Entries of the record of a checkpoint that tell it from others, whatever its file is called."""


@dataclass(frozen=True)
class Place:
    """A layer that may be adapted."""

    name: str
    """Path of its module, `block1` or `stage3_2/mixer/qkv`."""
    n_in: int
    """Rows of its kernel as a matrix."""
    n_out: int
    """Columns."""

    def rank(self, rank: int) -> int:
        """Return the rank of its adapter where `rank` is asked for: never more than that of a matrix of its size."""
        return min(rank, self.n_in, self.n_out)

    def count(self, rank: int) -> int:
        """Return the parameters of its adapter."""
        return self.rank(rank) * (self.n_in + self.n_out)


def chosen(places: Sequence[Place], patterns: str) -> tuple[Place, ...]:
    """Return the places whose names match one of the `patterns`, separated by commas, in the order of `places`.

    Raises InputError for a pattern that matches none.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(place.name, pattern) for place in places):
            names = ", ".join(place.name for place in places)
            raise InputError(
                f"`head.layers` must match layers that can be adapted where the network is cut ({names or 'none'}), "
                f"got {pattern!r}"
            )
    return tuple(place for place in places if any(fnmatchcase(place.name, pattern) for pattern in wanted))


def rank_within(places: Sequence[Place], budget: int, others: int) -> int:
    """Return the largest rank at which adapters of `places` and `others` parameters beside them are at most `budget`.

    Raises InputError, with the smallest budget that is possible, where rank 1 is beyond it.
    """
    least = others + sum(place.count(1) for place in places)
    if least > budget:
        raise InputError(
            f"`head.budget` must be at least {least} for adapters of rank 1 in {len(places)} layers and {others} "
            f"parameters of the linear map behind them, got {budget}: raise it, or adapt fewer layers (head.layers)"
        )
    largest = max(min(place.n_in, place.n_out) for place in places)
    return max(rank for rank in range(1, largest + 1) if others + sum(place.count(rank) for place in places) <= budget)


def change(a: Any, b: Any, scale: float, shape: tuple[int, ...]) -> Any:
    """Return what adapters A (n_in, r) and B (r, n_out) add to a kernel of `shape`: (scale / r) A B."""
    return (a @ b * np.float32(scale / a.shape[1])).reshape(shape)


@dataclass(frozen=True, eq=False)
class Adapters:
    """Low-rank adapters of the network whose weights they name."""

    backbone: str
    """Name of the network."""
    weights: dict[str, Any]
    """What tells its weights from others: the sha256 of their file, or the seed that drew them."""
    scale: float
    """Factor of the changes; see `change`."""
    matrices: dict[str, tuple[np.ndarray, np.ndarray]]
    """{layer: (A (n_in, r), B (r, n_out))}, float32."""
    ids: dict[str, np.ndarray]
    """Content ids, as numbers, of the maps that trained the adapters (`train`) and watched (`val`)."""

    def __post_init__(self) -> None:
        check_interval("scale", self.scale, 0, 1e6)
        object.__setattr__(self, "weights", identity(self.weights))
        for name, (a, b) in self.matrices.items():
            if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
                raise InputError(
                    f"the adapters of {name} must be (n_in, r) and (r, n_out), got {a.shape} and {b.shape}"
                )
            if {a.dtype, b.dtype} != {np.dtype(np.float32)} or not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise InputError(f"the adapters of {name} must be finite float32 numbers, got {a.dtype} and {b.dtype}")
        if set(self.ids) != set(ID_TENSORS) or any(
            ids.dtype != np.uint64 or ids.ndim != 1 for ids in self.ids.values()
        ):
            raise InputError(f"`ids` must hold uint64 arrays (n,) called {' and '.join(ID_TENSORS)}")

    def digest(self) -> str:
        """Return 16 hex digits over everything that they hold."""
        parts = (part for key, value in sorted(self._tensors().items()) for part in (key, value))
        return digest(self.backbone, self.weights, self.scale, *parts)

    def count(self) -> int:
        """Return the number of parameters in them."""
        return sum(a.size + b.size for a, b in self.matrices.values())

    def save(self, path: str | Path) -> None:
        """Write them to `path` (safetensors), atomically: matrices alone, with what they adapt in the metadata."""
        said = {"backbone": self.backbone, "weights": self.weights, "scale": self.scale}
        write_tensors(path, self._tensors(), {RECORD: json.dumps(said, sort_keys=True)})

    @classmethod
    @reads("is not a file of adapters, or a damaged one")
    def load(cls, path: str | Path) -> "Adapters":
        """Return the adapters saved at `path`; raise InputError where the file does not hold any."""
        tensors, metadata = read_tensors(path)
        if RECORD not in metadata:
            raise InputError(f"{path} is not a file of adapters: it is another safetensors file")
        said = json.loads(metadata[RECORD])
        ids = {part: tensors.pop(key) for part, key in ID_TENSORS.items()}
        names = sorted({name.rpartition(".")[0] for name in tensors})
        matrices = {name: (tensors.pop(f"{name}.a"), tensors.pop(f"{name}.b")) for name in names}
        if tensors:
            raise InputError(f"{path} is not a file of adapters: it holds {next(iter(tensors))} besides")
        return cls(str(said["backbone"]), dict(said["weights"]), float(said["scale"]), matrices, ids)

    def merged(self, checkpoint: Checkpoint, name: str, table: LayerTable) -> Checkpoint:
        """Return the weights of `checkpoint`, of the network `name`, with the changes of the adapters in them.

        A normalisation behind a changed convolution is folded into it. The maps that trained the adapters count among
        those that trained the weights.

        Raises InputError for adapters of another network or of other weights.
        """
        self.check_adapts(name, checkpoint.record)
        state = dict(checkpoint.state)
        layers = {"/".join(path): layer for path, layer in table.items()}
        for place, (a, b) in self.matrices.items():
            layer = layers.get(place)
            with_kernel = getattr(layer, "with_kernel", None)
            if layer is None or with_kernel is None:
                raise InputError(f"the adapters change a layer {place}, and {name} has none that can be adapted")
            kernel = layer.parameters(checkpoint.state)["kernel"]
            if (math.prod(kernel.shape[:-1]), kernel.shape[-1]) != (len(a), b.shape[1]):
                raise InputError(
                    f"the adapters of {place} are of a matrix ({len(a)}, {b.shape[1]}), and in {name} it is "
                    f"({math.prod(kernel.shape[:-1])}, {kernel.shape[-1]})"
                )
            state |= with_kernel(checkpoint.state, kernel + change(a, b, self.scale, kernel.shape))
        state |= self._seen(checkpoint.state)
        return Checkpoint(state, {**checkpoint.record, "adapters": self.digest()})

    def check_adapts(self, name: str, weights: Mapping[str, Any]) -> None:
        """Raise InputError unless they adapt the network `name` with the `weights` of this record."""
        if self.backbone != name:
            raise InputError(
                f"the adapters adapt backbone {self.backbone}, not {name}: give the backbone that they adapt"
            )
        given = identity(weights)
        if given != self.weights:
            raise InputError(
                f"the adapters adapt {name} with the weights of {_words(self.weights)}, and those given are of "
                f"{_words(given)}: give the weights that they adapt"
            )

    def _seen(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the ids of the maps that trained either, and of those that watched and trained neither."""
        empty = np.zeros(0, np.uint64)
        seen = {part: np.union1d(state.get(key, empty), self.ids[part]) for part, key in ID_TENSORS.items()}
        seen["val"] = np.setdiff1d(seen["val"], seen["train"])
        return {ID_TENSORS[part]: ids for part, ids in seen.items()}

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {ID_TENSORS[part]: ids for part, ids in self.ids.items()}
        for name, (a, b) in self.matrices.items():
            tensors |= {f"{name}.a": a, f"{name}.b": b}
        return tensors


def identity(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the record of a checkpoint tells it from others."""
    return {key: weights[key] for key in _IDENTITY if weights.get(key) is not None}


def _words(weights: Mapping[str, Any]) -> str:
    if "sha256" in weights:
        said = f"sha256 {weights['sha256'][:16]}"
    else:
        said = f"seed {weights['random_weights']}" if "random_weights" in weights else "no file"
    return said + (f" with adapters {weights['adapters']}" if "adapters" in weights else "")
