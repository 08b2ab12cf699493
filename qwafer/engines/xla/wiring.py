"""Static facts of a circuit's wires, in NumPy: blocks of wires, signs of basis states, CNOTs as permutations."""

import dataclasses
import functools

import numpy as np

from qwafer.circuits import CircuitSpec

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


@dataclasses.dataclass(frozen=True)
class Permutation:
    """A permutation p of basis states that is linear over GF(2): p(j ^ k) = p(j) ^ p(k).

    CNOTs and changes of the order of wires are. n numbers say what a table of 2^n says.
    """

    images: tuple[int, ...]
    """p(1), p(2), p(4), ..."""

    def __call__(self, state: int) -> int:
        """Return p(state)."""
        return functools.reduce(int.__xor__, (image for k, image in enumerate(self.images) if state >> k & 1), 0)

    def __getitem__(self, first: "Permutation") -> "Permutation":
        """Return j -> p(first(j)), as tables are indexed by tables."""
        return Permutation(tuple(map(self, first.images)))

    @property
    def inverse(self) -> "Permutation":
        """The inverse permutation, by Gauss-Jordan elimination."""
        rows = [(image, 1 << k) for k, image in enumerate(self.images)]
        for bit in range(len(rows)):
            pivot = next(k for k in range(bit, len(rows)) if rows[k][0] >> bit & 1)
            rows[bit], rows[pivot] = rows[pivot], rows[bit]
            image, source = rows[bit]
            rows = [(a ^ image, b ^ source) if k != bit and a >> bit & 1 else (a, b) for k, (a, b) in enumerate(rows)]
        return Permutation(tuple(source for _, source in rows))

    def table(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Return p of the numbers that the bits from `first` to before `last` make, in order; of all: (2^n,) int32."""
        result = np.zeros(1, np.int32)
        for image in self.images[first:last]:
            result = np.concatenate([result, result ^ np.int32(image)])
        return result


def identity(n: int) -> Permutation:
    """Return the permutation of 2^n basis states that leaves all where they are."""
    return Permutation(tuple(1 << k for k in range(n)))


def permutation(n: int, pairs: tuple[tuple[int, int], ...]) -> Permutation | None:
    """Return p such that the CNOTs `pairs`, in order, map psi to psi[p]; None for the identity."""
    p = identity(n)
    for control, target in pairs:
        images = list(identity(n).images)
        images[n - 1 - control] ^= 1 << (n - 1 - target)
        p = p[Permutation(tuple(images))]
    return None if p == identity(n) else p


def layer_permutation(spec: CircuitSpec, layer: int) -> Permutation | None:
    """Return the basis permutation of the CNOTs of `layer`; see `permutation`."""
    return permutation(spec.n_qubits, spec.entangling_pairs(layer))


def inverse(p: np.ndarray) -> np.ndarray:
    """Return the inverse of a permutation that is given as a table."""
    result = np.empty_like(p)
    result[p] = np.arange(len(p), dtype=p.dtype)
    return result


def reversed_blocks(sizes: tuple[int, ...]) -> Permutation:
    """Return q: a state stored with its blocks of wires in reverse order has amplitude q(j) at place j."""
    images: list[int] = []
    for first, size in enumerate(sizes):  # the first block has the lowest bits of a place, the highest of an amplitude
        below = sum(sizes[first + 1 :])
        images += [1 << (below + k) for k in range(size)]
    return Permutation(tuple(images))
