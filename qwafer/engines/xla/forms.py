"""Matrices of few wires in one form: F_m D_m ... F_1 D_1 F_0, with F fixed and D = exp(-i/2 sum_g theta_g Z_g).

A rotation about any Pauli word is one about a Z word between fixed gates. So everything fixed is multiplied here, in
NumPy, once; what is left to compute are diagonals, and matrices of one shape are computed side by side.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from qwafer.circuits import Operation
from qwafer.circuits.gates import H, S
from qwafer.engines.xla.elements import Element

Key = tuple[str, tuple[int, ...]]
"""Where an angle comes from: a source and its index."""

_H, _S = np.asarray(H.fixed), np.asarray(S.fixed)
_FROM_Z = {"X": _H, "Y": _S @ _H, "Z": np.eye(2)}


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The form of one matrix."""

    fixed: tuple[np.ndarray, ...]
    """F_0, ..., F_m, each (2^k, 2^k) complex."""
    turns: tuple[tuple[tuple[int, Key], ...], ...]
    """For D_1, ..., D_m the rotations: the mask of their Z word (first wire most significant), and their angle."""


def key(op: Operation) -> Key:
    """Return where the angle of a rotation comes from."""
    return op.source, op.index


def form(found: Sequence[Element], wires: Sequence[int]) -> Form:
    """Return the form of the product of `found`, in order, on `wires`, the first the most significant bit."""
    k, level = len(wires), dict.fromkeys(wires, 0)
    basis: dict[int, dict[int, str]] = {0: {}}  # of every level the letters in which wires turn
    closed = dict.fromkeys(wires, True)  # whether a fixed gate came after the last level of a wire
    gates: list[list[Element]] = [[]]
    turns: list[list[tuple[int, Key]]] = [[]]
    for element in found:
        if not element.turns or element.op is None:
            at = max(level[wire] for wire in element.wires)
            gates[at].append(element)
            level.update(dict.fromkeys(element.wires, at))
            closed.update(dict.fromkeys(element.wires, True))
            continue
        letters = dict(zip(element.wires, element.letters, strict=True))
        at = max(
            level[wire] + (closed[wire] or basis[level[wire]].get(wire, letter) != letter)
            for wire, letter in letters.items()
        )
        if at == len(gates):
            gates.append([])
            turns.append([])
            basis[at] = {}
        basis[at] |= letters
        level.update(dict.fromkeys(letters, at))
        closed.update(dict.fromkeys(letters, False))
        word = element.gate.generator or ""
        mask = sum(1 << k - 1 - wires.index(w) for w, c in zip(element.wires, word, strict=True) if c != "I")
        turns[at].append((mask, key(element.op)))
    fixed = []
    for at, own in enumerate(gates):
        matrix = _change(basis[at], wires)
        for element in own:
            matrix = embedded(np.asarray(element.gate.fixed), element.wires, wires) @ matrix
        if at + 1 < len(gates):
            matrix = _change(basis[at + 1], wires).conj().T @ matrix
        fixed.append(matrix)
    return Form(tuple(fixed), tuple(tuple(own) for own in turns[1:]))


def _change(letters: dict[int, str], wires: Sequence[int]) -> np.ndarray:
    """Return the fixed gate V with V Z V+ = the letter, on every wire that has one."""
    matrix = np.eye(1, dtype=complex)
    for wire in wires:
        matrix = np.kron(matrix, _FROM_Z[letters.get(wire, "Z")])
    return matrix


def embedded(matrix: np.ndarray, on: Sequence[int], wires: Sequence[int]) -> np.ndarray:
    """Return `matrix` on the wires `on` as one on `wires`, (2^k, 2^k)."""
    k, m = len(wires), len(on)
    places = [list(wires).index(wire) for wire in on]
    state = np.eye(2**k, dtype=complex).reshape(*(2,) * k, 2**k)
    moved = np.tensordot(matrix.reshape(*(2,) * (2 * m)), state, (range(m, 2 * m), places))
    return np.moveaxis(moved, range(m), places).reshape(2**k, 2**k)


def signs(mask: int, k: int) -> np.ndarray:
    """Return (-1)^(mask . j) for all basis states j of k wires, (2^k,)."""
    j = np.arange(2**k)
    bits = np.zeros_like(j)
    for bit in range(k):
        if mask >> bit & 1:
            bits ^= j >> bit & 1
    return 1.0 - 2.0 * bits


def as_real(matrix: np.ndarray) -> np.ndarray:
    """Return [[Re, -Im], [Im, Re]], which multiplies real parts over imaginary parts: (..., 2 d, 2 d)."""
    return np.concatenate(
        [
            np.concatenate([matrix.real, -matrix.imag], -1),
            np.concatenate([matrix.imag, matrix.real], -1),
        ],
        -2,
    )


def walsh_angles(matrix: np.ndarray, wires: Sequence[int], n: int) -> list[tuple[int, float]]:
    """Return (mask of n bits, angle) of the Z rotations whose product is the diagonal `matrix` on `wires`."""
    m = len(wires)
    angles = -2 * np.angle(np.diag(matrix))
    found = []
    for word in range(2**m):
        angle = float(signs(word, m) @ angles) / 2**m
        if abs(angle) > 1e-15:
            found.append((sum(1 << n - 1 - wire for k, wire in enumerate(wires) if word >> m - 1 - k & 1), angle))
    return found
