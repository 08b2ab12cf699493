"""A small batched statevector, written from `operations(spec)` alone: the probes' own eyes, independent of every
engine.

The same code runs on NumPy (no compilation: right for thousands of random states of a small circuit) and on JAX
(differentiable). Wire 0 is the most significant bit of a basis state's index, as in PennyLane.
"""

import functools
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from qwafer.circuits import CircuitSpec, Operation, operations

_SQRT_HALF = 0.5**0.5


def states(spec: CircuitSpec, weights: Mapping[str, Any], angles: Any, *, xp: ModuleType = np) -> Any:
    """Return the state after the body of `spec` (..., 2^n_qubits), complex128 on NumPy.

    `weights["ansatz"]` (..., layers, wires, angles) and `angles` (..., n_qubits), in radians, broadcast over their
    leading axes. `xp` is the array module: `numpy` or `jax.numpy`.
    """
    return evolve(spec.n_qubits, operations(spec), {**weights, "angles": angles}, xp=xp)


def evolve(n_qubits: int, gates: Iterable[Operation], values: Mapping[str, Any], *, xp: ModuleType = np) -> Any:
    """Return the state (..., 2^n_qubits) of `gates` applied to |0...0>; `values[source][..., *index]` is a gate's
    angle.
    """
    sources = {name: xp.asarray(value) for name, value in values.items()}
    amplitudes = np.zeros(2**n_qubits)
    amplitudes[0] = 1.0
    dtype = next((value.dtype for value in sources.values()), np.dtype("float64"))
    state = xp.asarray(amplitudes, dtype) + xp.zeros((1,), dtype) * 1j
    for gate in gates:
        if gate.source:
            state = _rotate(state, n_qubits, gate, sources[gate.source][(..., *gate.index)], xp)
        elif gate.name == "H":
            state = _hadamard(state, n_qubits, gate.wires[0], xp)
        else:
            state = state[..., _cnot_permutation(n_qubits, *gate.wires)]
    return state


def bloch_vectors(state: Any, n_qubits: int, *, xp: ModuleType = np) -> Any:
    """Return (<X_i>, <Y_i>, <Z_i>) of every wire (..., n_qubits, 3) of `state` (..., 2^n_qubits)."""
    vectors = []
    for wire in range(n_qubits):
        zero, one = _halves(state, n_qubits, wire)
        overlap = xp.sum(xp.conj(zero) * one, axis=(-2, -1))
        excess = xp.sum(xp.abs(zero) ** 2 - xp.abs(one) ** 2, axis=(-2, -1))
        vectors.append(xp.stack([2 * overlap.real, 2 * overlap.imag, excess], axis=-1))
    return xp.stack(vectors, axis=-2)


def _halves(state: Any, n_qubits: int, wire: int) -> tuple[Any, Any]:
    """Return the amplitudes with `wire` in |0> and in |1>, each (..., 2^wire, 2^(n - wire - 1))."""
    split = state.reshape(*state.shape[:-1], 2**wire, 2, 2 ** (n_qubits - wire - 1))
    return split[..., 0, :], split[..., 1, :]


def _join(zero: Any, one: Any, xp: ModuleType) -> Any:
    joined = xp.stack([zero, one], axis=-2)
    return joined.reshape(*joined.shape[:-3], -1)


def _rotate(state: Any, n_qubits: int, gate: Operation, angle: Any, xp: ModuleType) -> Any:
    zero, one = _halves(state, n_qubits, gate.wires[0])
    half = _pad(angle[..., None, None] / 2, zero.ndim)
    zero, one = _pad(zero, half.ndim), _pad(one, half.ndim)
    cos, sin = xp.cos(half), xp.sin(half)
    if gate.name == "RX":
        return _join(cos * zero - 1j * sin * one, cos * one - 1j * sin * zero, xp)
    if gate.name == "RY":
        return _join(cos * zero - sin * one, cos * one + sin * zero, xp)
    return _join((cos - 1j * sin) * zero, (cos + 1j * sin) * one, xp)


def _pad(array: Any, ndim: int) -> Any:
    """Return `array` with leading axes of length 1 up to `ndim` axes, so that no rank is promoted silently."""
    return array.reshape(*(1,) * (ndim - array.ndim), *array.shape)


def _hadamard(state: Any, n_qubits: int, wire: int, xp: ModuleType) -> Any:
    zero, one = _halves(state, n_qubits, wire)
    return _join((zero + one) * _SQRT_HALF, (zero - one) * _SQRT_HALF, xp)


@functools.lru_cache(maxsize=256)
def _cnot_permutation(n_qubits: int, control: int, target: int) -> np.ndarray:
    index = np.arange(2**n_qubits)
    on = (index >> (n_qubits - 1 - control)) & 1
    return index ^ (on << (n_qubits - 1 - target))
