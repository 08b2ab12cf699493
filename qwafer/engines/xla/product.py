"""Plan `product`: a circuit without entangling gates, or without layers, is n independent wires: Bloch vectors, no
state.

A wire starts at e_z and every gate turns its Bloch vector: RZ, RY, RX about their axes, a Hadamard gate by (x, y, z) ->
(z, -y, x).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qwafer.circuits import CircuitSpec
from qwafer.circuits.readouts import contract_readout
from qwafer.engines.base import Weights
from qwafer.engines.xla import gates

Vector = tuple[jax.Array, jax.Array, jax.Array]
"""x, y and z of every wire and example, each (n, batch)."""


def _turn(vector: Vector, waves: jax.Array, axis: int) -> Vector:
    """Turn about `axis` (0 x, 1 y, 2 z) by angles with `waves` = (cosine, sine), each (n, batch or 1)."""
    parts = list(vector)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = waves
    parts[i], parts[j] = cos * vector[i] - sin * vector[j], sin * vector[i] + cos * vector[j]
    return parts[0], parts[1], parts[2]


def _encoding(spec: CircuitSpec, waves: jax.Array) -> Callable[[Vector], Vector]:
    def encode(vector: Vector) -> Vector:
        if spec.encoding == "rz":
            x, y, z = vector
            return _turn((z, -y, x), waves, 2)
        return _turn(vector, waves, "xy".index(spec.encoding[1]))

    return encode


def forward(spec: CircuitSpec, weights: Weights, angles: jax.Array) -> jax.Array:
    """Return s (batch, n_outputs)."""
    encode = _encoding(spec, gates.wave(angles.T, 0))
    zero = jnp.zeros_like(angles.T)
    vector = encode((zero, zero, zero + 1))
    if spec.n_layers:
        turns = gates.wave(jnp.stack(gates.euler(spec, weights))[..., None], 0)  # (2, 3, n_layers, n, 1)
    for layer in range(spec.n_layers):
        if layer and spec.reupload:
            vector = encode(vector)
        for angle, axis in enumerate((2, 1, 2)):
            vector = _turn(vector, turns[:, angle, layer], axis)
    return contract_readout(spec, weights, jnp.stack(vector, -1).swapaxes(0, 1))
