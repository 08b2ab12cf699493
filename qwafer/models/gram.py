"""Gram matrices of quantum kernels: every example is run once, and all pairs are one matrix product."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Complex, Float

from qwafer._arrays import shaped
from qwafer.engines import Engine

BATCH = 256
"""Examples of one call, whatever their number: one size is one compilation."""


def run_circuit(
    engine: Engine, circuit: Any, inputs: np.ndarray, weights: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """Return the outputs (N, n_outputs) of `circuit` for `inputs` (N, n_inputs), each run once, in batches of
    256, the last one filled up.
    """
    program = engine.program(circuit, BATCH, gradient=False)
    arrays = {name: np.asarray(value, circuit.dtype) for name, value in (weights or {}).items()}
    parts = []
    for start in range(0, len(inputs), BATCH):
        part = np.asarray(inputs[start : start + BATCH], circuit.dtype)
        filled = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), axis=0)])
        parts.append(np.asarray(program(arrays, jax.numpy.asarray(filled)))[: len(part)])
    return np.concatenate(parts) if parts else np.zeros((0, circuit.n_outputs), circuit.dtype)


def states_of(
    engine: Engine, circuit: Any, inputs: np.ndarray, weights: dict[str, np.ndarray] | None = None
) -> np.ndarray:
    """Return the amplitudes (N, 2^n) of a circuit that returns its state; see `run_circuit`."""
    real, imaginary = np.split(run_circuit(engine, circuit, inputs, weights), 2, axis=1)
    return real + 1j * imaginary


@shaped()
def fidelity_gram(
    left: Complex[np.ndarray, "N wires amplitudes"], right: Complex[np.ndarray, "M wires amplitudes"]
) -> Float[np.ndarray, "N M"]:
    """Return k_ij = prod_w |<left_iw|right_jw>|^2 of products of states, each (wires, amplitudes) per example.

    One matrix product per factor; a state that is not a product has one.
    """
    overlaps = np.einsum("iwa,jwa->wij", left.conj(), right, optimize=True)
    return np.asarray(np.prod(np.abs(overlaps) ** 2, axis=0))


@shaped()
def rbf_gram(left: Float[np.ndarray, "N D"], right: Float[np.ndarray, "M D"], gamma: float) -> Float[np.ndarray, "N M"]:
    """Return k_ij = exp(-gamma |left_i - right_j|^2)."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * left @ right.T
    return np.asarray(np.exp(-gamma * np.maximum(squares, 0)))
