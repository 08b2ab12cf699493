"""Projections of D features on n wires, and the map from projected features to angles."""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._arrays import shaped
from qwafer._errors import InputError
from qwafer._io import key_seed

AngleMap = Callable[[Array], Array]

ANGLE_MAPS: dict[str, AngleMap] = {
    "tanh": jnp.tanh,
    "atan": lambda z: (2 / math.pi) * jnp.arctan(z),
    "linear": lambda z: z,
}
"""The shape of each angle map, to be multiplied by `head.angle_scale`; `tanh` and `atan` stay within (-1, 1)."""


def orthonormal_frame(n_features: int, n_wires: int, seed: int) -> np.ndarray:
    """Return a random frame Q (D, n_wires) with Q^T Q = 1, uniform over all frames (QR of a normal matrix, Mezzadri
    2007).
    """
    _check_width("fixed", n_features, n_wires)
    normal = np.random.default_rng(key_seed(seed, "projection/frame")).standard_normal((n_features, n_wires))
    q, r = np.linalg.qr(normal)
    return np.asarray(q * np.sign(np.diag(r)))


@shaped()
def principal_axes(
    features: Float[np.ndarray, "M D"], n_wires: int
) -> tuple[Float[np.ndarray, "D n_wires"], Float[np.ndarray, " n_wires"]]:
    """Return (V, c) such that z = V^T x + c are the first principal components of `features` (M, D), centred, of unit
    variance.

    An axis's sign makes its largest coefficient positive. A component without variance stays 0: its column of V is 0.
    """
    _check_width("pca", features.shape[1], n_wires)
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    variances, axes = np.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    variances, axes = variances[::-1][:n_wires], axes[:, ::-1][:, :n_wires]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_wires)])
    absent = variances <= 1e-12 * max(variances[0], np.finfo(np.float64).tiny)
    axes = np.where(absent, 0.0, axes / np.sqrt(np.where(absent, 1.0, variances)))
    return axes, -mean @ axes


def _check_width(projection: str, n_features: int, n_wires: int) -> None:
    if n_features < n_wires:
        raise InputError(
            f"`head.projection` = {projection} needs at least as many features as wires, got {n_features} features for "
            f"{n_wires} qubits: use projection linear, or fewer qubits"
        )
