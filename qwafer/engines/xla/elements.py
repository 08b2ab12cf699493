"""The gates of a circuit as a scheduler sees them: what commutes with what, what is diagonal, what moves amplitudes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qwafer.circuits import INPUTS, Operation
from qwafer.circuits.gates import Gate, pauli_matrix

LETTERS = "ZXY"


@dataclasses.dataclass(frozen=True)
class Element:
    """One gate: a Pauli rotation exp(-i theta P / 2), a fixed unitary, or a given one."""

    gate: Gate
    wires: tuple[int, ...]
    op: Operation | None = None
    """Where its numbers come from; None for a fixed gate."""

    @property
    def turns(self) -> bool:
        """Whether it is a rotation."""
        return self.gate.generator is not None

    @property
    def own(self) -> bool:
        """Whether its numbers are those of an example."""
        return self.op is not None and self.op.source == INPUTS

    @property
    def letters(self) -> tuple[str, ...]:
        """For every wire the Pauli letter that it commutes with, "" for none; what shares a letter on every wire
        commutes.
        """
        return _letters(self.gate)

    @property
    def diagonal(self) -> bool:
        """Whether it is diagonal in the basis of Z."""
        return set(self.letters) <= {"Z"}

    @property
    def real(self) -> bool:
        """Whether its matrix is real."""
        return _real(self.gate)

    @property
    def moves(self) -> tuple[tuple[int, ...], int] | None:
        """The map of basis states k -> A k ^ b that it is, linear over GF(2), as the images of its wires' bits, last
        wire first, and b; None where it is not one.
        """
        return _moves(self.gate)


def elements(operations: Iterable[Operation]) -> list[Element]:
    """Return the gates in order; letters I are left out of words."""
    found = []
    for op in operations:
        gate, wires = op.gate, op.wires
        if gate.generator is not None and "I" in gate.generator and set(gate.generator) != {"I"}:
            kept = [(wire, letter) for wire, letter in zip(wires, gate.generator, strict=True) if letter != "I"]
            wires, word = tuple(wire for wire, _ in kept), "".join(letter for _, letter in kept)
            gate = Gate(gate.name, len(wires), generator=word)
        found.append(Element(gate, wires, op if op.source else None))
    return found


def fixed(matrix: np.ndarray, wires: Sequence[int], name: str) -> Element:
    """Return a fixed gate."""
    rows = tuple(tuple(complex(entry) for entry in row) for row in matrix)
    return Element(Gate(name, len(wires), fixed=rows), tuple(wires))


@functools.lru_cache(maxsize=4096)
def _letters(gate: Gate) -> tuple[str, ...]:
    if gate.generator is not None:
        return tuple("Z" if letter == "I" else letter for letter in gate.generator)
    if gate.fixed is None:
        return ("",) * gate.n_wires
    matrix, found = np.asarray(gate.fixed), []
    for wire in range(gate.n_wires):
        words = {letter: "I" * wire + letter + "I" * (gate.n_wires - 1 - wire) for letter in LETTERS}
        paulis = {letter: pauli_matrix(word) for letter, word in words.items()}
        found.append(next((c for c, p in paulis.items() if np.allclose(p @ matrix, matrix @ p, atol=1e-9)), ""))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _real(gate: Gate) -> bool:
    if gate.generator is not None:
        return gate.generator.count("Y") % 2 == 1
    return gate.fixed is not None and not np.asarray(gate.fixed).imag.any()


@functools.lru_cache(maxsize=4096)
def _moves(gate: Gate) -> tuple[tuple[int, ...], int] | None:
    matrix = None if gate.fixed is None else np.asarray(gate.fixed)
    if matrix is None or not np.isin(matrix, (0, 1)).all():
        return None
    image = matrix.argmax(axis=0)
    offset = int(image[0])
    images = tuple(int(image[1 << k]) ^ offset for k in range(gate.n_wires))
    for state, place in enumerate(image):
        linear = functools.reduce(int.__xor__, (own for k, own in enumerate(images) if state >> k & 1), offset)
        if linear != place:
            return None
    return images, offset


def absorbed(found: Sequence[Element], accepts: Callable[[Element], bool], wires: set[int]) -> list[int]:
    """Return the places of the elements that `accepts` takes and that may go first: all that stays before one of them
    commutes with it. `wires` are all that it takes elements on: nothing is left to find when these are blocked.
    """
    blocked: dict[int, str] = {}  # the letter of all that stays on a wire, "" for none
    taken, open_wires = [], set(wires)
    for place, element in enumerate(found):
        letters = element.letters
        if accepts(element) and all(
            blocked.get(wire, letter or "-") == (letter or "-")
            for wire, letter in zip(element.wires, letters, strict=True)
        ):
            taken.append(place)
            continue
        for wire, letter in zip(element.wires, letters, strict=True):
            blocked[wire] = letter if blocked.get(wire, letter) == letter else ""
            if not blocked[wire]:
                open_wires.discard(wire)
        if not open_wires:
            break
    return taken


def without_effect(found: Sequence[Element], words: Sequence[str]) -> list[Element]:
    """Return the elements that reach what is measured, the Pauli `words`: the light cone, without what commutes."""
    kept: list[Element] = []
    seen: dict[int, str] = {}  # the letters of all that is kept, or measured, on a wire, "" for several
    for wire in range(len(words[0]) if words else 0):
        letters = {word[wire] for word in words} - {"I"}
        if letters:
            seen[wire] = letters.pop() if len(letters) == 1 else ""
    for element in reversed(found):
        pairs = list(zip(element.wires, element.letters, strict=True))
        if all(seen.get(wire, letter or "-") == (letter or "-") for wire, letter in pairs):
            continue
        kept.append(element)
        for wire, letter in pairs:
            seen[wire] = letter if seen.get(wire, letter) == letter else ""
    return kept[::-1]
