"""Readouts as contractions of the single-qubit Pauli expectation values (Bloch vectors) of a circuit's body."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer.circuits.spec import CircuitSpec


def readout_matrix(spec: CircuitSpec, weights: Mapping[str, Array]) -> Float[Array, "n_outputs n_qubits 3"]:
    """Return M with s_k = sum_i M_ki . (<X_i>, <Y_i>, <Z_i>), differentiable in `weights["readout"]`.

    `mean_z_readout` measures Z after RZ(a), RY(b), RZ(c), that is the unit vector m = (-sin b cos a, sin b sin a,
    cos b) before them; c commutes with Z and drops out.
    """
    n, dtype = spec.n_qubits, spec.dtype
    e_z = jnp.asarray([0, 0, 1], dtype)
    if spec.readout == "mean_z":
        return jnp.broadcast_to(e_z / n, (1, n, 3))
    if spec.readout == "z_vec":
        return weights["readout"].astype(dtype)[:, :, None] * e_z[None, None, :]
    if spec.readout == "mean_z_readout":
        a, b, _ = jnp.moveaxis(weights["readout"].astype(dtype), -1, 0)  # (n_outputs, n_qubits)
        return jnp.stack([-jnp.sin(b) * jnp.cos(a), jnp.sin(b) * jnp.sin(a), jnp.cos(b)], axis=-1) / n
    eye = jnp.eye(n, dtype=dtype)
    if spec.readout == "z":
        return eye[:, :, None] * e_z[None, None, :]
    return jnp.eye(3 * n, dtype=dtype).reshape(3 * n, n, 3)


def contract_readout(
    spec: CircuitSpec, weights: Mapping[str, Array], bloch: Float[Array, "batch n_qubits 3"]
) -> Float[Array, "batch n_outputs"]:
    """Return the readout s (batch, n_outputs) from the Bloch vectors of the body (batch, n_qubits, 3)."""
    matrix = readout_matrix(spec, weights).astype(bloch.dtype)
    flat = bloch.reshape(bloch.shape[0], -1)  # (batch, 3 n_qubits)
    return flat @ matrix.reshape(matrix.shape[0], -1).T
