"""What weights remember of the maps that trained them, so that no head is tested on what its backbone has learnt."""

from collections.abc import Callable

import numpy as np

from qwafer.backbones.keys import State
from qwafer.data import Split

ID_TENSORS = {"train": "training.train_ids", "val": "training.val_ids"}
"""Tensors beside the weights: the content ids of the maps that trained them, and of those that watched."""


def id_tensors(split: Split, content_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return `ID_TENSORS` of weights that are trained on the `train` part of maps with these content ids."""
    return {key: np.unique(id_numbers(content_ids[getattr(split, part)])) for part, key in ID_TENSORS.items()}


def id_numbers(content_ids: np.ndarray) -> np.ndarray:
    """Return (n,) uint64 of (n,) content ids of 16 hex digits."""
    return np.array([int(identity, 16) for identity in content_ids], np.uint64)


def recorded_split(state: State) -> Callable[[np.ndarray], np.ndarray | None] | None:
    """Return the `Extractor.split` of the weights in `state`; None for weights that remember nothing.

    It takes (n,) content ids and returns (n,) of `train`, `val`, `test`: a map that trained the weights is `train`, one
    that watched the training `val`, any other `test`. For data of which they have seen nothing it returns None: those
    may be split at will.
    """
    if not all(key in state for key in ID_TENSORS.values()):
        return None
    seen = {part: state[key] for part, key in ID_TENSORS.items()}

    def split_of(content_ids: np.ndarray) -> np.ndarray | None:
        numbers = id_numbers(content_ids)
        split = np.full(len(numbers), "test", dtype="<U5")
        for part, ids in seen.items():
            split[np.isin(numbers, ids)] = part
        return None if (split == "test").all() else split

    return split_of
