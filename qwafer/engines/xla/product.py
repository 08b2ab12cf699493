"""Plan `product`: a circuit without entangling gates, or without layers, is n independent wires: Bloch vectors only.

A wire starts at e_z and every gate turns its Bloch vector: RZ, RY, RX about their axes, a fixed Clifford gate by a
signed permutation of x, y and z.
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
        for gate in spec.encoding_facts.before:
            image, sign = gate.conjugation()
            x, y, z = (vector[image[p] - 1] if sign[p] > 0 else -vector[image[p] - 1] for p in (1, 2, 3))
            vector = (x, y, z)
        return _turn(vector, waves, "XYZ".index(spec.encoding_facts.axis))

    return encode


def forward(spec: CircuitSpec, weights: Weights, inputs: jax.Array) -> jax.Array:
    """Return s (batch, n_outputs)."""
    encode = _encoding(spec, gates.wave(inputs.T, 0))
    zero = jnp.zeros_like(inputs.T)
    vector = encode((zero, zero, zero + 1))
    if spec.n_layers:
        turns = gates.wave(jnp.stack(gates.euler(spec, weights))[..., None], 0)  # (2, 3, n_layers, n, 1)
    for layer in range(spec.n_layers):
        if layer and spec.reupload:
            vector = encode(vector)
        for angle, axis in enumerate((2, 1, 2)):
            vector = _turn(vector, turns[:, angle, layer], axis)
    return contract_readout(spec, weights, jnp.stack(vector, -1).swapaxes(0, 1), jnp)
