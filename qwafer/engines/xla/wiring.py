"""Static facts of a circuit's wires, in NumPy: blocks of wires, signs of basis states, CNOTs as permutations."""

import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.engines.cache import kept

BLOCK = 4
"""Most wires in a Kronecker block of plan `schroedinger`: products of 16 x 16 matrices cost least on CPU (measured at
4, 5 and 6)."""

PAIR = 2
"""Wires in a block of rotations of plan `heisenberg`: matrices of 16 x 16."""


def blocks(n: int, largest: int) -> tuple[int, ...]:
    """Return the sizes of the fewest consecutive blocks of at most `largest` wires, as even as possible."""
    count = -(-n // largest)
    return tuple(n // count + (i < n % count) for i in range(count))


def signs(n: int) -> np.ndarray:
    """Return (-1)^bit_i(j), (2^n, n) int8: the value of Z_i in basis state j; wire 0 is the most significant bit."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)[None, :]) & 1
    return (1 - 2 * bits).astype(np.int8)


def mean_signs(n: int) -> np.ndarray:
    """Return the mean of Z over the wires in every basis state, (2^n,) float64, without the (2^n, n) table."""
    return (n - 2.0 * np.bitwise_count(np.arange(2**n, dtype=np.uint32))) / n


@kept
def permutation(n: int, pairs: tuple[tuple[int, int], ...]) -> np.ndarray | None:
    """Return p (2^n,) int32 such that the CNOTs `pairs`, in order, map psi to psi[p]; None for the identity."""
    p = np.arange(2**n, dtype=np.int32)
    for control, target in pairs:
        j = np.arange(2**n, dtype=np.int32)
        p = p[j ^ (((j >> (n - 1 - control)) & 1) << (n - 1 - target))]
    return None if np.array_equal(p, np.arange(2**n)) else p


def layer_permutation(spec: CircuitSpec, layer: int) -> np.ndarray | None:
    """Return the basis permutation of the CNOTs of `layer`; see `permutation`."""
    return permutation(spec.n_qubits, spec.entangling_pairs(layer))


def inverse(p: np.ndarray) -> np.ndarray:
    """Return the inverse permutation."""
    result = np.empty_like(p)
    result[p] = np.arange(len(p), dtype=p.dtype)
    return result


def reversed_blocks(sizes: tuple[int, ...]) -> np.ndarray:
    """Return q (2^n,) int32: a state stored with its blocks of wires in reverse order has amplitude q[j] at place j."""
    index = np.arange(2 ** sum(sizes), dtype=np.int32).reshape([2**size for size in sizes])
    return index.transpose(range(len(sizes) - 1, -1, -1)).reshape(-1)
