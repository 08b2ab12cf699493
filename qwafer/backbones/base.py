"""What every backbone looks like to extraction: a frozen function from maps to features, and its record."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Features = np.ndarray
"""Feature rows: float32, (n, D)."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone bound to its preprocessing and precision.

    Extraction calls `features` with groups of `compute_batch` maps whose composition depends on the data alone (the
    last group may be shorter), and never with other groups: that is why neither `--batch` nor an interruption can
    change a bit of the result.
    """

    name: str
    """Name of the backbone in `BACKBONES`, or `package.module:thing`."""
    compute_batch: int
    """Maps per call of `features`."""
    record: dict[str, Any]
    """What determines the numbers: weights and their sha256, preprocessing, dtype, device, versions of packages."""
    features: Callable[[Sequence[np.ndarray]], Features]
    """Maps, 2-D uint8 arrays of any shapes -> (n, D) float32. Safe to call from several threads at once."""
    feature_names: tuple[str, ...] | None = None
    """D names, where features have a meaning of their own."""
    pictures: bool = False
    """Whether `features` takes pictures, 2-D float32 arrays from 0 to 1, as well as wafer maps; a function of one's own
    is given whatever there is."""
    split: Callable[[np.ndarray], np.ndarray | None] | None = None
    """Content ids (n,) -> `train`, `val` or `test` of each, where the weights were trained on such maps: heads on these
    features must be trained and tested on the same split, or the test would hold what the backbone has learnt."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options with which `extractor(name, ...)` gives this backbone again, beside the weights in `state`."""
    state: Mapping[str, np.ndarray] | None = None
    """Its weights by key, where `extractor(name, weights=Checkpoint(state, record["weights"]))` makes it from them."""
    quick: Callable[[Sequence[np.ndarray]], Features] | None = None
    """`features` for few maps in less time, equal to rounding: a program for each power of two of maps, where that of
    `features` is one that it pads to. None: `features` is as quick."""
    cut: str | None = None
    """The stage before which the network is cut, and a head goes on with it: `state` then travels with the features."""
