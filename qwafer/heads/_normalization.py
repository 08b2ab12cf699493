"""How a head normalises its features: statistics of the training split, kept in its buffers."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from qwafer._checks import check_choice
from qwafer.heads.options import NORMALIZATIONS

MEAN, SCALE = "standardize.mean", "standardize.scale"
"""Buffers (D,) of an affine way: (x - mean) / scale."""
LENGTH = "normalize.length"
"""Buffer of `l2`: the least length that counts as one, so that an example of zeros stays what it is."""


def normalization(features: np.ndarray, how: str, dtype: str) -> dict[str, np.ndarray]:
    """Return the buffers of the way `how` for training features (M, D).

    - `standard`: (x - mean) / standard deviation.
    - `min_max`: (x - minimum) / (maximum - minimum), 0 to 1 on the training split; other examples may lie outside.
    - `l2`: x / |x|_2, each example of length 1: no statistics.
    - `raw`: x.

    A feature without spread has scale 1; a spread below the rounding of float32 counts as none, for dividing by it
    would turn rounding errors into features.
    """
    check_choice("head.normalize", how, NORMALIZATIONS)
    if how == "raw":
        return {}
    if how == "l2":
        return {LENGTH: np.array(np.finfo(dtype).tiny, dtype)}
    values = np.asarray(features, np.float64)
    if how == "standard":
        shift, scale = values.mean(axis=0), values.std(axis=0)
        size = np.abs(shift)
    else:
        shift, size = values.min(axis=0), np.abs(values).max(axis=0)
        scale = values.max(axis=0) - shift
    constant = scale <= np.finfo(np.float32).eps * np.maximum(size, np.finfo(np.float32).tiny)
    return {MEAN: shift.astype(dtype), SCALE: np.where(constant, 1.0, scale).astype(dtype)}


def normalized(features: Any, buffers: Mapping[str, Any]) -> Any:
    """Return features (batch, D) as `buffers` say; arrays of NumPy or of JAX."""
    if MEAN in buffers:
        return (features - buffers[MEAN][None, :]) / buffers[SCALE][None, :]
    if LENGTH not in buffers:
        return features
    # By the largest entry first: the square of an entry of 1e20 is beyond float32.
    xp = np if isinstance(features, np.ndarray) else jnp  # float64 stays float64, whatever JAX is set to
    scaled = features / xp.maximum(abs(features).max(axis=1, keepdims=True, initial=0.0), buffers[LENGTH])
    # At least 1, but for zeros; times and not through: XLA would divide once, by a product of two that may be 0 or inf.
    return scaled * (1 / xp.maximum(xp.sqrt((scaled**2).sum(axis=1, keepdims=True)), 1))
