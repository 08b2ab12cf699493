"""The quantum head: projection, angles, circuit, readout, alpha and bias."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec
from qwafer.config import HeadConfig
from qwafer.engines import Program
from qwafer.heads._base import Head, draw
from qwafer.heads._projection import ANGLE_MAPS, orthonormal_frame, principal_axes

ALPHA_FLOOR = 1e-3
"""Least alpha of `alpha_mode = "softplus"`."""


class QuantumHead(Head):
    """l(x) = alpha (s(x) + bias) with s the readout of a circuit at angles = angle_scale * map(P^T x + c).

    x are the standardised features, P (D, n_qubits) and c (n_qubits,) the projection. The bias (one a label, trained)
    starts at 0. Alpha is one number, or one a label: softplus(a) + 1e-3 with `alpha.raw` = a, or `alpha.value` itself
    (mode `direct`, which may cross zero and then inverts the ranking).
    """

    spec: CircuitSpec = eqx.field(static=True)
    angle_map: str = eqx.field(static=True)
    angle_scale: float = eqx.field(static=True)

    def angles(self, features: Float[Array, "batch D"]) -> Float[Array, "batch n_qubits"]:
        """Return the encoding angles (batch, n_qubits) in radians of `features` (batch, D)."""
        x = self.standardized(features)
        z = x @ self._array("projection.weight") + self._array("projection.bias")[None, :]
        return self.angle_scale * ANGLE_MAPS[self.angle_map](z)

    def circuit_weights(self) -> dict[str, Array]:
        """Return the weights that the engine's program takes, by the names of `CircuitSpec.weight_shapes`."""
        weights = {"ansatz": self._array("circuit.ansatz")}
        if self.spec.readout_facts.parameter is not None:
            weights["readout"] = self._array(self.spec.readout_facts.parameter)
        return weights

    def alpha(self) -> Float[Array, " n_labels"]:
        """Return alpha of each label (n_labels,), also where all share one."""
        if "alpha.raw" in self.params:
            value = jax.nn.softplus(self.params["alpha.raw"]) + jnp.asarray(ALPHA_FLOOR, self.dtype)
        else:
            value = self._array("alpha.value")
        return jnp.broadcast_to(value, (self.n_labels,))

    def scores(self, features: Float[Array, "batch D"], program: Program | None) -> Float[Array, "batch n_labels"]:
        """Return the readout s(x) (batch, n_labels), before bias and alpha."""
        if program is None:
            raise InputError("a quantum head needs the `program` of an engine; see `qwafer.heads.make_program`")
        return program(self.circuit_weights(), self.angles(features))

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits alpha (s + bias) (batch, n_labels); see `Head.logits`."""
        return self.alpha()[None, :] * (self.scores(features, program) + self._array("readout.bias")[None, :])

    def _array(self, name: str) -> Array:
        return self.params[name] if name in self.params else self.buffers[name]


def quantum_head(
    config: HeadConfig, spec: CircuitSpec, features: np.ndarray, buffers: dict[str, Array], seed: int
) -> QuantumHead:
    """Return an untrained `QuantumHead` for `spec.n_outputs` labels.

    `features` (M, D) are the training features after standardisation. Initial values: projection weights of standard
    deviation 1/sqrt(D), biases 0, ansatz angles and readout angles normal of standard deviation `init_scale`, `z_vec`
    weights 1/n_qubits plus such a number. Readout angles do not start at 0: there every label would be the same mean
    Z, and the first angle of a wire would have no gradient.
    """
    n_features, n, dtype, scale = features.shape[1], spec.n_qubits, spec.dtype, config.init_scale
    params = {"circuit.ansatz": draw(seed, "circuit.ansatz", spec.weight_shapes()["ansatz"], dtype, scale)}
    buffers = dict(buffers)
    if config.projection == "linear":
        params["projection.weight"] = draw(seed, "projection.weight", (n_features, n), dtype, 1 / math.sqrt(n_features))
        params["projection.bias"] = jnp.zeros((n,), dtype)
    else:
        if config.projection == "fixed":
            weight, shift = orthonormal_frame(n_features, n, seed), np.zeros(n)
        else:
            weight, shift = principal_axes(features, n)
        buffers["projection.weight"] = jnp.asarray(weight, dtype)
        buffers["projection.bias"] = jnp.asarray(shift, dtype)
    name = spec.readout_facts.parameter
    if name is not None:
        start = draw(seed, name, spec.weight_shapes()["readout"], dtype, scale)
        params[name] = start + jnp.asarray(spec.readout_facts.offset(n), dtype)
    params["readout.bias"] = jnp.zeros((spec.n_outputs,), dtype)

    shape = (spec.n_outputs,) if config.alpha_per_label else ()
    if not config.alpha_train:
        buffers["alpha.value"] = jnp.full(shape, config.alpha_init, dtype)
    elif config.alpha_mode == "direct":
        params["alpha.value"] = jnp.full(shape, config.alpha_init, dtype)
    else:
        params["alpha.raw"] = jnp.full(shape, inverse_softplus(config.alpha_init - ALPHA_FLOOR), dtype)
    return QuantumHead(params, buffers, spec.n_outputs, dtype, spec, config.angle_map, config.angle_scale)


def inverse_softplus(value: float) -> float:
    """Return a with log(1 + e^a) = `value` > 0, in the form that loses no digits at either end."""
    return value + math.log(-math.expm1(-value))
