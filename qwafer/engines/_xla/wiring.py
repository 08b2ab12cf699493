"""Static facts of a circuit's wires: blocks of wires, signs of basis states, CNOT sequences as permutations (NumPy, host)."""

import functools

import numpy as np

from qwafer.circuits import CircuitSpec


def blocks(n: int, largest: int) -> tuple[int, ...]:
    """Return the sizes of the fewest consecutive blocks of at most `largest` wires, as even as possible."""
    count = -(-n // largest)
    return tuple(n // count + (i < n % count) for i in range(count))


def signs(n: int) -> np.ndarray:
    """Return (-1)^bit_i(j), (2^n, n) int8: the eigenvalue of Z_i on basis state j; wire 0 is the most significant bit."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)[None, :]) & 1
    return (1 - 2 * bits).astype(np.int8)


@functools.lru_cache(maxsize=256)
def permutation(n: int, pairs: tuple[tuple[int, int], ...]) -> np.ndarray | None:
    """Return p (2^n,) int32 such that the CNOTs `pairs`, applied in order, map state psi to psi[p]; None for the identity."""
    p = np.arange(2**n, dtype=np.int32)
    for control, target in pairs:
        j = np.arange(2**n, dtype=np.int32)
        p = p[j ^ (((j >> (n - 1 - control)) & 1) << (n - 1 - target))]
    return None if np.array_equal(p, np.arange(2**n)) else p


def layer_permutation(spec: CircuitSpec, layer: int) -> np.ndarray | None:
    """Return the basis permutation of the CNOTs of `layer`; see `permutation`."""
    return permutation(spec.n_qubits, spec.entangling_pairs(layer))
