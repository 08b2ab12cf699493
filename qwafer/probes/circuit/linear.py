"""Small exact pieces that several probes share: values and Jacobians of a spec in NumPy, numerical rank."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from qwafer.circuits import Circuit, CircuitSpec
from qwafer.circuits.readouts import WEIGHT, readout_matrix
from qwafer.circuits.statevector import bloch_vectors, states

Arrays = Mapping[str, np.ndarray]

CHUNK_AMPLITUDES = 1 << 22
"""Most amplitudes held at once."""


MOST_QUBITS = 12
"""Largest circuit that the probes simulate themselves over many random points; larger ones would take minutes."""


def spec_values(spec: Circuit, weights: Arrays, inputs: np.ndarray) -> np.ndarray:
    """Return s (..., n_outputs) of `spec` in float64; weights (..., *shape) and inputs (..., n) broadcast.

    Contracts Bloch vectors, as engines do: the truth about an engine is `statevector.values`.
    """
    bloch = bloch_vectors(states(spec, weights, inputs), spec.n_qubits)  # (..., n, 3)
    if spec.readout_facts.is_each:
        z = bloch[..., 2:] if spec.readout_facts.z_only else bloch
        return z.reshape(*bloch.shape[:-2], -1)
    matrix = readout_matrix(spec, weights, np, "float64")  # (..., n_outputs, n, 3)
    return (matrix * bloch[..., None, :, :]).sum(axis=(-2, -1))


def spec_jacobian(spec: CircuitSpec, weights: Arrays, inputs: Float[np.ndarray, "N n_qubits"]) -> np.ndarray:
    """Return d s / d w (N, n_outputs, P) at one set of weights, by exact shifts; P runs through the groups in order.

    Parameter shift for angles of gates, a unit difference for the coefficients of `z_vec`.
    """
    shapes = spec.weight_shapes()
    n_weights = spec.n_weights()
    if n_weights == 0:
        return np.zeros((len(inputs), spec.n_outputs, 0))
    displaced, column = {}, 0
    for group, shape in shapes.items():
        step = 1.0 if group == WEIGHT and spec.readout_facts.is_weighted else np.pi / 2
        value = np.tile(np.asarray(weights[group], np.float64), (2, n_weights, 1, *(1,) * len(shape)))
        for index in np.ndindex(*shape):
            value[(0, column, 0, *index)] += step
            value[(1, column, 0, *index)] -= step
            column += 1
        displaced[group] = value  # (2, P, 1, *shape)
    rows = max(1, CHUNK_AMPLITUDES // (2 * n_weights) >> spec.n_qubits)
    parts = []
    for start in range(0, len(inputs), rows):
        values = spec_values(spec, displaced, np.asarray(inputs[start : start + rows])[None, None])  # (2, P, N, K)
        parts.append(np.moveaxis(values[0] - values[1], 0, -1) / 2)
    return np.concatenate(parts)


def numerical_rank(matrix: np.ndarray, tolerance: float = 1e-6) -> tuple[int, float, np.ndarray]:
    """Return rank, condition number of the non-zero part, and singular values; zero is below `tolerance` x largest."""
    singular = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    if not singular.size or singular[0] == 0:
        return 0, 1.0, singular
    kept = singular > tolerance * singular[0]
    return int(kept.sum()), float(singular[0] / singular[kept][-1]), singular


def effective_rank(singular: np.ndarray) -> float:
    """Return exp(entropy of the normalised squared singular values): effective rank of Roy and Vetterli 2007."""
    weights = singular**2 / max(float((singular**2).sum()), np.finfo(np.float64).tiny)
    weights = weights[weights > 0]
    return float(np.exp(-(weights * np.log(weights)).sum()))
