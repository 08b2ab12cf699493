"""The classical surrogate of an angle-encoding circuit: a linear map of products of cosines and sines of its angles."""

import itertools
import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._arrays import shaped
from qwafer.engines import Program
from qwafer.heads._base import HeadInputs, draw, rounded
from qwafer.heads._classical import ClassicalHead
from qwafer.heads._quantum import to_angles

if TYPE_CHECKING:
    from qwafer.heads.options import TrigonometricOptions

MAX_MONOMIALS = 1024
"""Above so many products of trigonometric features, only products of two angles are taken."""


class TrigonometricHead(ClassicalHead):
    """l = V^T T(angles(W^T x + b)) + c on standardised features x; T are the `trigonometric_features`."""

    degree: int = eqx.field(static=True)
    angle_map: str = eqx.field(static=True)
    angle_scale: float = eqx.field(static=True)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        z = self.layer(self.standardized(features), "projection")
        products = trigonometric_features(to_angles(z, self.angle_map, self.angle_scale), self.degree)
        return self.layer(products, "projection.output")


def trigonometric_head(options: "TrigonometricOptions", inputs: HeadInputs) -> TrigonometricHead:
    """Return an untrained `TrigonometricHead`: weights of standard deviation 1/sqrt(inputs) of each map, biases 0."""
    width, n, seed, dtype = inputs.features.shape[1], options.n_angles, inputs.seed, inputs.dtype
    n_products = trigonometric_features(jnp.zeros((1, n), dtype), options.degree).shape[1]
    output = "projection.output.weight"
    params = {
        "projection.weight": draw(seed, "projection.weight", (width, n), dtype, 1 / math.sqrt(width)),
        "projection.bias": rounded(np.zeros(n), dtype),
        output: draw(seed, output, (n_products, inputs.n_labels), dtype, 1 / math.sqrt(n_products)),
        "projection.output.bias": rounded(np.zeros(inputs.n_labels), dtype),
    }
    form = options.degree, options.angle_map, options.angle_scale
    return TrigonometricHead(params, inputs.buffers, inputs.n_labels, dtype, *form)


@shaped()
def trigonometric_features(angles: Float[Array, "batch n"], degree: int = 1) -> Float[Array, "batch M"]:
    """Return the products over angles of {1, cos(k x_i), sin(k x_i), k = 1 ... degree}, without the constant.

    All (2 degree + 1)^n - 1 of them, in which a circuit that encodes each input `degree` times by a Pauli rotation is
    linear (Schreiber, Eisert and Meyer 2023, arXiv:2206.11740); beyond 1,024 only products of at most two angles.
    """
    n = angles.shape[1]
    waves = [wave(k * angles) for k in range(1, degree + 1) for wave in (jnp.cos, jnp.sin)]
    single = jnp.stack(waves, axis=2)  # (batch, n, 2 degree)
    if (2 * degree + 1) ** n > MAX_MONOMIALS:
        first, second = jnp.asarray(list(itertools.combinations(range(n), 2))).T
        pairs = single[:, first, :, None] * single[:, second, None, :]
        return jnp.concatenate([single.reshape(len(angles), -1), pairs.reshape(len(angles), -1)], axis=1)
    products = jnp.ones_like(angles[:, :1])
    for i in range(n):
        factors = jnp.concatenate([jnp.ones_like(angles[:, :1]), single[:, i]], axis=1)
        products = (products[:, :, None] * factors[:, None, :]).reshape(len(angles), -1)
    return products[:, 1:]
