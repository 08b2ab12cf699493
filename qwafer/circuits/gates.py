"""Gates as facts: what engines apply, differentiate and compile, and what probes conclude, follows from these alone."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError, InputError

LETTERS = "IXYZ"
"""Pauli letters; a Pauli word is also the number that its letters are in base 4, first wire first."""

_PAULI = {
    "I": np.eye(2),
    "X": np.array([[0, 1], [1, 0]]),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]),
}


@dataclass(frozen=True)
class Gate:
    """A gate on `n_wires` wires: a Pauli rotation exp(-i theta P / 2) of one angle, a fixed unitary, or a given one.

    Make your own: `Gate("IsingZZ", 2, generator="ZZ", pennylane="IsingZZ")`, or a fixed one by its matrix. The numbers
    of a given gate, its matrix or its amplitudes, come from where a rotation has its angle. Raises InputError where it
    is none of them, or the matrix is not unitary.
    """

    name: str
    n_wires: int = 1
    generator: str | None = None
    """The rotation's Pauli word P, a letter per wire; None for a fixed gate."""
    fixed: tuple[tuple[complex, ...], ...] | None = None
    """The matrix of a fixed gate, row by row, its first wire the most significant bit; None for a rotation."""
    given: str | None = None
    """`unitary`: the matrix (2^n_wires, 2^n_wires) row by row; `state`: the amplitudes (2^n_wires,) of wires that no
    gate has acted on. Real parts, then imaginary parts; what is given must be unitary, or of norm 1."""
    pennylane: str | None = None
    """Name of the PennyLane operation; None: it is told to PennyLane by its Pauli word or its matrix."""

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.generator, self.fixed, self.given)) != 1:
            raise InputError(f"gate {self.name} must have either a `generator` or a `fixed` matrix, or be `given`")
        if self.given is not None:
            if self.given not in ("unitary", "state"):
                raise InputError(f"`given` of gate {self.name} must be unitary or state, got {self.given!r}")
            return
        if self.generator is not None:
            if len(self.generator) != self.n_wires or not set(self.generator) <= set(LETTERS):
                raise InputError(
                    f"`generator` of gate {self.name} must have {self.n_wires} of the letters {LETTERS}, "
                    f"got {self.generator!r}"
                )
            return
        matrix, dim = np.asarray(self.fixed), 2**self.n_wires
        if matrix.shape != (dim, dim) or not np.allclose(matrix @ matrix.conj().T, np.eye(dim), atol=1e-9):
            raise InputError(f"`fixed` of gate {self.name} must be a unitary matrix of {dim} x {dim}")

    @property
    def n_numbers(self) -> int:
        """How many numbers it takes from its source: one angle, none, or those that are given."""
        if self.given is None:
            return 0 if self.generator is None else 1
        return 2 * (4 if self.given == "unitary" else 2) ** self.n_wires

    def entries(self, theta: Any = None, *, xp: ModuleType = np) -> tuple[tuple[Any, ...], ...]:
        """Return the matrix row by row, for `theta` (...) in radians of the array module `xp`; for a given gate `theta`
        (..., n_numbers), of which a state is the first column.

        Entries that are 0 for every angle are the number 0, and those of fixed gates are numbers: nothing is promoted.
        """
        if self.fixed is not None:
            return self.fixed
        if self.given is not None:
            dim, half = 2**self.n_wires, self.n_numbers // 2
            given = [theta[..., i] + 1j * theta[..., half + i] for i in range(half)]
            if self.given == "state":
                return tuple((amplitude, *(0,) * (dim - 1)) for amplitude in given)
            return tuple(tuple(given[row * dim : (row + 1) * dim]) for row in range(dim))
        cos, sin = xp.cos(theta / 2), xp.sin(theta / 2)
        turn = -1j * pauli_matrix(self.generator or "")

        def entry(i: int, j: int) -> Any:
            if turn[i, j] == 0:
                return cos if i == j else 0
            factor = turn[i, j].real.item() if turn[i, j].imag == 0 else turn[i, j].item()
            return cos + factor * sin if i == j else factor * sin

        return tuple(tuple(entry(i, j) for j in range(len(turn))) for i in range(len(turn)))

    def matrix(self, theta: Any = None, *, xp: ModuleType = np) -> Any:
        """Return the matrix (..., 2^n_wires, 2^n_wires) for `theta` of the array module `xp`; see `entries`."""
        shape = 0 if theta is None else 0 * xp.asarray(theta if self.given is None else theta[..., 0])
        rows = self.entries(theta, xp=xp)
        return xp.stack([xp.stack([shape + xp.asarray(entry) for entry in row], axis=-1) for row in rows], axis=-2)

    @functools.cached_property
    def _conjugated(self) -> np.ndarray:
        """tr(P_q G+ P_p G) / 2^n_wires at [p, q], for a rotation at an angle at which nothing vanishes."""
        matrix = self.matrix(None if self.generator is None else np.asarray(1.0))
        paulis = np.stack([pauli_matrix("".join(word)) for word in itertools.product(LETTERS, repeat=self.n_wires)])
        moved = matrix.conj().T @ paulis @ matrix
        return np.einsum("qij,pji->pq", paulis, moved).real / len(matrix)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Whether G+ P G contains Q for some angle, at [P, Q] of Pauli words on its wires, (4^n_wires, 4^n_wires)."""
        if self.given is not None:
            return np.ones((4**self.n_wires,) * 2, bool)
        return np.abs(self._conjugated) > 1e-9

    @functools.cached_property
    def keeps_z(self) -> bool:
        """Whether G+ P G is made of I and Z wherever P is: CNOT, and everything diagonal."""
        if self.fixed is None:
            return self.generator is not None and set(self.generator) <= {"I", "Z"}
        return bool(((np.abs(np.asarray(self.fixed)) > 1e-9).sum(axis=0) == 1).all())

    def conjugation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (image, sign), each (4^n_wires,), with G+ P G = sign[P] image[P] for every Pauli word P.

        Raises CapabilityError where the gate is not a fixed Clifford gate.
        """
        if self.fixed is None or (self.images.sum(axis=1) != 1).any():
            raise CapabilityError(f"gate {self.name} is not a Clifford gate: it takes Pauli words to sums of several")
        image = self.images.argmax(axis=1)
        return image, np.rint(self._conjugated[np.arange(len(image)), image]).astype(np.int8)


def pauli_matrix(word: str) -> np.ndarray:
    """Return the matrix (2^n, 2^n) of a Pauli word of n letters, first wire first."""
    return functools.reduce(np.kron, [_PAULI[letter] for letter in word], np.eye(1))


_R = 0.5**0.5

H = Gate("H", fixed=((_R, _R), (_R, -_R)), pennylane="Hadamard")
X = Gate("X", fixed=((0, 1), (1, 0)), pennylane="PauliX")
Y = Gate("Y", fixed=((0, -1j), (1j, 0)), pennylane="PauliY")
Z = Gate("Z", fixed=((1, 0), (0, -1)), pennylane="PauliZ")
S = Gate("S", fixed=((1, 0), (0, 1j)), pennylane="S")
RX = Gate("RX", generator="X", pennylane="RX")
RY = Gate("RY", generator="Y", pennylane="RY")
RZ = Gate("RZ", generator="Z", pennylane="RZ")
CNOT = Gate("CNOT", 2, fixed=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0)), pennylane="CNOT")
CZ = Gate("CZ", 2, fixed=((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, -1)), pennylane="CZ")

INPUTS = "inputs"
"""The source of angles that come from an example; all other sources are names of weights."""


@dataclass(frozen=True)
class Operation:
    """One gate of a circuit: on which wires, and where its angle (radians) comes from."""

    gate: Gate
    wires: tuple[int, ...]
    source: str = ""
    """"" for a fixed gate, `inputs`, or the name of a weight."""
    index: tuple[int, ...] = ()
    """Place of the angle in its source: (input,), or an index into the weight; of a given gate, its first number."""

    def __post_init__(self) -> None:
        if not isinstance(self.gate, Gate):
            raise InputError(f"`gate` must be a Gate of qwafer.circuits.gates or your own, got {self.gate!r}")
        if len(set(self.wires)) != self.gate.n_wires or len(self.wires) != self.gate.n_wires:
            raise InputError(f"gate {self.gate.name} acts on {self.gate.n_wires} different wires, got {self.wires}")
        if (self.source == "") != (self.gate.fixed is not None):
            kind = "a fixed gate has no angle" if self.source else "a rotation needs an angle: `inputs` or a weight"
            raise InputError(f"`source` of gate {self.gate.name} must fit: {kind}")

    def numbers(self, sources: Mapping[str, Any]) -> Any:
        """Return what the gate takes from `sources`: the angle (...), for a given gate (..., n_numbers); None for a
        fixed one.
        """
        if not self.source:
            return None
        return sources[self.source][(..., *self.slice())]

    def slice(self) -> tuple[Any, ...]:
        """Return the index of these numbers into the last axes of the source."""
        if self.gate.given is None:
            return self.index
        return (*self.index[:-1], slice(self.index[-1], self.index[-1] + self.gate.n_numbers))
