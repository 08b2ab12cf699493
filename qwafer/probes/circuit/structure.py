"""Why a parameter cannot matter: the light cone and commutation argument, on the Pauli strings of the observable.

In the Heisenberg picture the measured observables move backwards through the circuit. At every gate we hold the set
of Pauli strings that they can consist of there, for any angles. If every string of the set commutes with a rotation's
generator, the rotation drops out of every expectation value: outside the light cone where all strings are the
identity on its wire, by commutation where some are not. The argument is sufficient: what it finds is inert for all
angles.
"""

from collections.abc import Iterable

import numpy as np

from qwafer.circuits import CircuitSpec, Operation, operations, readout_operations

MAX_QUBITS = 9
"""Largest circuit for which the 4^n strings are followed."""

_I, _X, _Y, _Z = range(4)
_AXIS = {"RX": _X, "RY": _Y, "RZ": _Z}
_MIXES = {"RX": (_Y, _Z), "RY": (_X, _Z), "RZ": (_X, _Y)}

LIGHT_CONE = "outside the light cone"
COMMUTES = "commutes with all that is measured after it"


def inert_by_structure(spec: CircuitSpec) -> dict[tuple[str, tuple[int, ...]], str] | None:
    """Return {(group, index): reason} of the parameters that no output depends on, for any angles; None above 9 wires.

    A parameter is inert where every gate that holds it drops out for every output. Groups are `ansatz`, `readout` and
    `angles`.
    """
    if spec.n_qubits > MAX_QUBITS:
        return None
    verdicts: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for output in range(spec.n_outputs if spec.readout == "mean_z_readout" else 1):
        gates = [*operations(spec), *readout_operations(spec, output)]
        _walk(spec, gates, verdicts)
    reasons = {}
    for parameter, found in verdicts.items():
        if all(found):
            reasons[parameter] = COMMUTES if COMMUTES in found else LIGHT_CONE
    return reasons


def _walk(
    spec: CircuitSpec, gates: Iterable[Operation], verdicts: dict[tuple[str, tuple[int, ...]], list[str]]
) -> None:
    """Follow the strings backwards and append to each parameter's list a reason why its gate drops out, or ""."""
    strings = np.zeros((4,) * spec.n_qubits, bool)
    for wire in range(spec.n_qubits):
        for pauli in (_X, _Y, _Z) if spec.readout == "bloch" else (_Z,):
            strings[tuple(pauli if i == wire else _I for i in range(spec.n_qubits))] = True
    for gate in reversed(list(gates)):
        if gate.source:
            letters: np.ndarray = np.moveaxis(strings, gate.wires[0], 0)
            present: np.ndarray = np.any(letters.reshape(4, -1), axis=1)
            blocked = any(present[pauli] for pauli in _MIXES[gate.name])
            reason = "" if blocked else COMMUTES if present[_AXIS[gate.name]] else LIGHT_CONE
            verdicts.setdefault((gate.source, gate.index), []).append(reason)
            first, second = _MIXES[gate.name]
            letters[first] = letters[second] = letters[first] | letters[second]
        elif gate.name == "H":
            strings = np.take(strings, [_I, _Z, _Y, _X], axis=gate.wires[0])
        else:
            strings = _through_cnot(strings, *gate.wires)


def _through_cnot(strings: np.ndarray, control: int, target: int) -> np.ndarray:
    """Return the strings conjugated by CNOT: X_c -> X_c X_t, Z_t -> Z_c Z_t, and products of these."""
    pair = np.moveaxis(strings, (control, target), (0, 1))
    result = np.zeros_like(pair)
    for letter_c in range(4):
        for letter_t in range(4):
            image_c, image_t = _CNOT[letter_c, letter_t]
            result[image_c, image_t] = pair[letter_c, letter_t]
    return np.moveaxis(result, (0, 1), (control, target))


def _cnot_table() -> dict[tuple[int, int], tuple[int, int]]:
    # In (x, z) bits: I 00, X 10, Y 11, Z 01; CNOT maps x_t -> x_t + x_c and z_c -> z_c + z_t.
    to_bits = {_I: (0, 0), _X: (1, 0), _Y: (1, 1), _Z: (0, 1)}
    to_letter = {bits: letter for letter, bits in to_bits.items()}
    table = {}
    for letter_c, (x_c, z_c) in to_bits.items():
        for letter_t, (x_t, z_t) in to_bits.items():
            table[letter_c, letter_t] = (to_letter[x_c, z_c ^ z_t], to_letter[x_t ^ x_c, z_t])
    return table


_CNOT = _cnot_table()
