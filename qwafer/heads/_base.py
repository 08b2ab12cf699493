"""What every head offers: named, grouped parameters and logits."""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.engines import Program

GROUPS = ("projection", "circuit", "readout", "alpha")
"""The optimiser's groups; the first part of a parameter's name (`projection.weight`) is its group."""


class Head(eqx.Module):
    """A map from features (batch, D) to logits (batch, n_labels), as a JAX pytree.

    `params` holds what is trained and `buffers` what is not (standardisation, frozen projections, a frozen alpha),
    both by name. A name's part before the first dot is its group; classical layers belong to `projection`.
    """

    params: dict[str, Array]
    buffers: dict[str, Array]
    n_labels: int = eqx.field(static=True)
    dtype: str = eqx.field(static=True)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels) of `features` (batch, D).

        `program` executes the circuit of a quantum head for exactly this batch size; classical heads ignore it. `key`
        drives dropout and is needed only with `train=True` and a positive rate.
        """
        raise TypeError(f"{type(self).__name__} must define logits")

    def parameters(self) -> dict[str, Array]:
        """Return the trainable arrays by name."""
        return dict(self.params)

    def with_parameters(self, params: Mapping[str, Array]) -> Any:
        """Return the same head with other values of its trainable arrays."""
        return eqx.tree_at(lambda head: head.params, self, {name: params[name] for name in self.params})

    def count(self) -> dict[str, int]:
        """Return the number of `trainable` parameters, and of those `frozen` in the head (statistics and frozen
        arrays).
        """
        trainable = sum(math.prod(value.shape) for value in self.params.values())
        frozen = sum(math.prod(value.shape) for value in self.buffers.values())
        return {"trainable": trainable, "frozen": frozen, "total": trainable + frozen}

    def standardized(self, features: Float[Array, "batch D"]) -> Float[Array, "batch D"]:
        """Return (features - mean) / scale in the head's dtype; features as they are where the head does not
        standardise.
        """
        features = jnp.asarray(features, self.dtype)
        if "standardize.mean" not in self.buffers:
            return features
        return (features - self.buffers["standardize.mean"][None, :]) / self.buffers["standardize.scale"][None, :]


def draw(seed: int, name: str, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
    """Return the initial normal values of the parameter `name`, of standard deviation `scale`.

    They depend on the seed, the name and the shape alone, so that two arms share the start of every parameter that
    both have.
    """
    values = np.random.default_rng(key_seed(seed, f"parameter/{name}")).standard_normal(shape)
    return jnp.asarray(scale * values, dtype)


def standardization(features: np.ndarray, dtype: str) -> dict[str, Array]:
    """Return the mean and standard deviation (D,) of `features` (M, D); a feature without spread has scale 1.

    A spread below the rounding of float32 counts as none: dividing by it would turn rounding errors into features.
    """
    values = np.asarray(features, np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    constant = scale <= np.finfo(np.float32).eps * np.maximum(np.abs(mean), np.finfo(np.float32).tiny)
    scale = np.where(constant, 1.0, scale)
    return {"standardize.mean": jnp.asarray(mean, dtype), "standardize.scale": jnp.asarray(scale, dtype)}


def group_of(name: str) -> str:
    """Return the optimiser group of the parameter `name`."""
    return name.split(".", 1)[0]


def check_features(features: Any) -> None:
    """Raise InputError unless `features` is a finite array (M, D) with at least one row and one column."""
    shape = np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise InputError(f"`features` must have shape (examples, D) with at least one of each, got {shape}")
    if not np.isfinite(features).all():
        raise InputError("`features` must be finite: they hold NaN or infinite values")
