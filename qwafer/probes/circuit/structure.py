"""Why a parameter cannot matter: the light cone and commutation argument, on the Pauli strings of the observable.

In the Heisenberg picture the measured observables move backwards through the circuit. At every gate we hold the set
of Pauli strings that they can consist of there, for any angles. If every string of the set commutes with a rotation's
generator, the rotation drops out of every expectation value: outside the light cone where all strings are the
identity on its wire, by commutation where some are not. The argument is sufficient: what it finds is inert for all
angles.
"""

from collections.abc import Sequence

import numpy as np

from qwafer.circuits import Circuit, Operation
from qwafer.circuits.gates import LETTERS

MAX_QUBITS = 9
"""Largest circuit for which the 4^n strings are followed."""

LIGHT_CONE = "outside the light cone"
COMMUTES = "commutes with all that is measured after it"


def inert_by_structure(circuit: Circuit) -> dict[tuple[str, tuple[int, ...]], str] | None:
    """Return {(group, index): reason} of the parameters that no output depends on, for any angles; None above 9 wires.

    A parameter is inert where every gate that holds it drops out for every output. Groups are the sources of angles:
    the weights, and `inputs`.
    """
    if circuit.n_qubits > MAX_QUBITS:
        return None
    verdicts: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for output in range(circuit.readout_facts.n_circuits(circuit.n_outputs)):
        _walk(circuit, [*circuit.operations(), *circuit.readout_operations(output)], verdicts)
    reasons = {}
    for parameter, found in verdicts.items():
        if all(found):
            reasons[parameter] = COMMUTES if COMMUTES in found else LIGHT_CONE
    return reasons


def _walk(circuit: Circuit, gates: Sequence[Operation], verdicts: dict[tuple[str, tuple[int, ...]], list[str]]) -> None:
    """Follow the strings backwards and append to each parameter's list a reason why its gate drops out, or ""."""
    n = circuit.n_qubits
    strings = np.zeros((4,) * n, bool)
    for wire in range(n):
        for letter in circuit.readout_facts.measured:
            strings[tuple(LETTERS.index(letter) if i == wire else 0 for i in range(n))] = True
    for op in reversed(gates):
        images, k = op.gate.images, len(op.wires)
        words = np.moveaxis(strings, op.wires, range(k)).reshape(4**k, -1)
        present = np.flatnonzero(words.any(axis=1))
        if op.source:
            blocked = (images[present].sum(axis=1) > 1).any()
            reason = "" if blocked else COMMUTES if present.any() else LIGHT_CONE
            verdicts.setdefault((op.source, op.index), []).append(reason)
        moved = np.zeros_like(words)
        for word in present:
            moved[images[word]] |= words[word]
        strings = np.moveaxis(moved.reshape((4,) * n), range(k), op.wires)
