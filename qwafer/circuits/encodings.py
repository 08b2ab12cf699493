"""Encodings: how the inputs of an example enter a circuit, one rotation per wire after fixed gates."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qwafer.circuits.gates import INPUTS, RX, RY, RZ, Gate, H, Operation, pauli_matrix


@dataclass(frozen=True)
class Encoding:
    """E(x): on every wire i the fixed gates, then a rotation by x_i; all else follows from the gates."""

    name: str
    rotation: Gate
    """The gate that rotates by the wire's input."""
    before: tuple[Gate, ...] = ()
    """Fixed gates before it."""

    @property
    def axis(self) -> str:
        """`X`, `Y` or `Z`: the axis about which an input turns its wire."""
        return self.rotation.generator or ""

    def operations(self, n_wires: int) -> Iterator[Operation]:
        """Yield the gates of the encoding, wire by wire."""
        for wire in range(n_wires):
            for gate in self.before:
                yield Operation(gate, (wire,))
            yield Operation(self.rotation, (wire,), INPUTS, (wire,))

    @functools.cached_property
    def columns(self) -> np.ndarray:
        """V (2, 2): the encoded state of a wire is V (cos x/2, sin x/2); real where it is real for every x."""
        start = functools.reduce(lambda state, gate: gate.matrix() @ state, self.before, np.array([1.0, 0.0]))
        columns = np.stack([start, -1j * pauli_matrix(self.axis) @ start], axis=1)
        return columns if columns.imag.any() else columns.real

    @functools.cached_property
    def bloch_rows(self) -> np.ndarray:
        """E (3, 4): (<I>, <X>, <Y>, <Z>) of an encoded wire is (1, cos x, sin x) E."""
        rows = []
        for letter in "IXYZ":
            m = (self.columns.conj().T @ pauli_matrix(letter) @ self.columns).real
            rows.append([m[0, 0] + m[1, 1], m[0, 0] - m[1, 1], m[0, 1] + m[1, 0]])
        return np.rint(np.array(rows).T / 2)


ENCODINGS = {
    encoding.name: encoding for encoding in (Encoding("ry", RY), Encoding("rx", RX), Encoding("rz", RZ, before=(H,)))
}
"""The encodings by name."""
