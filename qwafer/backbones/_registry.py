"""Names of backbones, and the extractor behind each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.backbones._base import Extractor


def extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    random_weights: int | None = None,
    dtype: str = "float32",
) -> Extractor:
    """Return the extractor called `name`, ready to run.

    Raises:
        InputError: an unknown name, missing or unusable weights, or an option that the backbone does not have.
    """
    check_choice("backbone", name, ("spatial",))
    if weights is not None or random_weights is not None:
        raise InputError("backbone spatial has no weights: leave out --weights and --random-weights")
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
