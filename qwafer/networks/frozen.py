"""A network of `fit`, frozen into a backbone: from its weights, whose record has its options, to an `Extractor`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import flax
import jax
import numpy as np
from jaxtyping import Array

from qwafer._errors import InputError
from qwafer.backbones import Extractor
from qwafer.backbones.checkpoints import Checkpoint, read_checkpoint, read_tensors
from qwafer.backbones.trained import recorded_split
from qwafer.heads import HEADS
from qwafer.networks.head import RECORD, Architecture, Tree
from qwafer.networks.wafercnn_module import WaferImages

COMPUTE_BATCH = 32
"""Maps per call of a frozen network."""


class Restorable(Architecture, Protocol):
    """An architecture whose arrays come back from a file."""

    def restored(self, tensors: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
        """Return parameters and statistics of what `tensors` gave; other keys of a file are left out.

        Raises InputError where tensors are missing or of other shapes, as those of other options are.
        """
        ...


def frozen(name: str, weights: str | Path) -> Extractor:
    """Return the frozen network called `name` with weights that `fit` wrote, whose record says its options.

    Its features are those that its own readout takes. A saved model holds the path of the weights. Raises InputError
    for those of another network.
    """
    record = json.loads(read_tensors(weights)[1].get(RECORD, "{}"))
    options = dict(record.get("config", {}).get("head", {}))
    if options.get("name") != name:
        raise InputError(f"{weights} holds no weights of a {name} that qwafer.fit has trained")
    kind: Any = HEADS.get(name)
    network = kind(**{field.name: options[field.name] for field in fields(kind)}).architecture()
    return replace(network_extractor(name, network, weights), state=None)


def network_extractor(name: str, network: Restorable, weights: str | Path | Checkpoint) -> Extractor:
    """Return the frozen `network` with `weights`; raise InputError for weights of other options."""
    checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
    params, statistics = network.restored(checkpoint.state)
    images = WaferImages(network.size)

    @jax.jit
    def read(codes: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return network.outputs(params, statistics, codes, train=False)[0].features

    def run(maps: Sequence[np.ndarray], size: int) -> np.ndarray:
        codes = images.codes(maps)
        padded = np.concatenate([codes, np.zeros((size - len(codes), images.size, images.size), np.uint8)])
        return np.asarray(read(padded))[: len(codes)]

    return Extractor(
        name,
        COMPUTE_BATCH,
        {
            "weights": checkpoint.record,
            "random_weights": checkpoint.record.get("random_weights"),
            "preprocessing": {"size": images.size, "resize": "nearest neighbour, pixel centres"},
            "network": {field.name: getattr(network, field.name) for field in fields(network)},  # type: ignore[arg-type]
            "dtype": "float32",
            "device": {"platform": jax.devices()[0].platform, "count": 1},
            "versions": {package.__name__: package.__version__ for package in (jax, flax)},
        },
        lambda maps: run(maps, COMPUTE_BATCH),
        split=recorded_split(checkpoint.state),
        state=checkpoint.state,
        quick=lambda maps: run(maps, min(COMPUTE_BATCH, 1 << (len(maps) - 1).bit_length())),
    )


WAFERRESNET = partial(frozen, "waferresnet")
"""The backbone `waferresnet`."""
TRM = partial(frozen, "trm")
"""The backbone `trm`."""
