"""Names of backbones, and the extractor behind each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.backbones._base import Extractor

NAMES = (
    "spatial",
    "wafercnn",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "mamba_vision_T",
    "mamba_vision_T2",
    "mamba_vision_S",
    "mamba_vision_B",
    "mamba_vision_B_21k",
    "mamba_vision_L",
    "mamba_vision_L_21k",
    "mamba_vision_L2",
    "mamba_vision_L2_512_21k",
    "mamba_vision_L3_256_21k",
    "mamba_vision_L3_512_21k",
)
"""Every backbone; written out, so that a wrong name is refused before flax is loaded."""


def extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    dtype: str = "float32",
    channels: str | None = None,
) -> Extractor:
    """Return the extractor called `name`, ready to run; see `load` for the options of networks.

    Raises:
        InputError: an unknown name, missing or unusable weights, or an option that the backbone does not have.
    """
    check_choice("backbone", name, NAMES)
    if name != "spatial":
        from qwafer.backbones._model import load

        return load(name, weights, random_weights=random_weights, dtype=dtype, channels=channels).extractor()
    if weights is not None or random_weights is not None:
        raise InputError("backbone spatial has no weights: leave out --weights and --random-weights")
    if channels is not None:
        raise InputError("backbone spatial works on the map itself: leave out --channels")
    if dtype != "float32":
        raise InputError(f"backbone spatial computes in float32 only, got dtype {dtype!r}")
    return _spatial()


def _spatial() -> Extractor:
    from qwafer.backbones.spatial import CHUNK, SPATIAL_FEATURE_NAMES, spatial_features

    def features(maps: Sequence[np.ndarray]) -> np.ndarray:
        same_shape = all(m.shape == maps[0].shape for m in maps)
        return spatial_features(np.stack(maps) if same_shape else tuple(maps))

    record = {
        "weights": None,
        "random_weights": None,
        "preprocessing": "none: statistics of the map itself",
        "dtype": "float32",
    }
    return Extractor("spatial", CHUNK, record, features, SPATIAL_FEATURE_NAMES)
