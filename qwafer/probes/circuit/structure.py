"""Why a parameter cannot matter: the light cone and commutation argument, on the Pauli strings of the observable.

In the Heisenberg picture the measured observables move backwards through the circuit. At every gate we hold the set
of Pauli strings that they can consist of there, for any angles. If every string of the set commutes with a rotation's
generator, the rotation drops out of every expectation value: outside the light cone where all strings are the
identity on its wire, by commutation where some are not. The argument is sufficient: what it finds is inert for all
angles.
"""

from collections.abc import Sequence

import numpy as np

from qwafer.circuits import INPUTS, CapturedCircuit, Circuit, Operation
from qwafer.circuits.frequencies import reached
from qwafer.circuits.gates import LETTERS
from qwafer.circuits.readouts import WEIGHT

MAX_QUBITS = 9
"""Largest circuit for which the 4^n strings are followed."""

LIGHT_CONE = "outside the light cone"
COMMUTES = "commutes with all that is measured after it"
NOWHERE = "enters no gate"

_Parameter = tuple[str, tuple[int, ...]]


def inert_by_structure(circuit: Circuit) -> dict[tuple[str, tuple[int, ...]], str] | None:
    """Return {(group, index): reason} of the parameters that no output depends on, for any angles; None above 9 wires.

    A parameter is inert where every gate that holds it drops out for every output. Groups are the sources of angles:
    the weights, and `inputs`.
    """
    if (
        circuit.readout_facts.amplitudes
        or max([circuit.n_qubits, *(2 * op.gate.n_wires for op in circuit.operations())]) > MAX_QUBITS
    ):
        return None
    verdicts: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for output in range(circuit.readout_facts.n_circuits(circuit.n_outputs)):
        _walk(circuit, [*circuit.operations(), *circuit.readout_operations(output)], verdicts)
    if isinstance(circuit, CapturedCircuit):
        verdicts = _of_parameters(circuit, verdicts)
    reasons = {}
    for parameter, found in verdicts.items():
        if all(found):
            reasons[parameter] = COMMUTES if COMMUTES in found else LIGHT_CONE if LIGHT_CONE in found else NOWHERE
    return reasons


def _of_parameters(circuit: CapturedCircuit, verdicts: dict[_Parameter, list[str]]) -> dict[_Parameter, list[str]]:
    """Return the verdicts of the parameters that reach slots from those of the slots; a parameter that reaches none is
    inert, too.
    """
    slots: list[list[str]] = []
    for source, size in (*circuit.core.weights, (INPUTS, (circuit.core.n_inputs,))):
        slots += [verdicts.get((source, (i,)), [""]) for i in range(size[0])]
    found = {key: own for key, own in verdicts.items() if key[0] == WEIGHT}
    shapes = {**dict(circuit.weights), INPUTS: (circuit.n_inputs,)}
    for group, reach in reached(circuit).items():
        for place, index in enumerate(np.ndindex(*shapes[group])):
            own = [slots[i] if i < len(slots) else [""] for i in np.flatnonzero(reach[:, place])]
            found[group, tuple(index)] = [reason for part in own for reason in part] or [NOWHERE]
    return found


def _walk(circuit: Circuit, gates: Sequence[Operation], verdicts: dict[tuple[str, tuple[int, ...]], list[str]]) -> None:
    """Follow the strings backwards and append to each parameter's list a reason why its gate drops out, or ""."""
    n = circuit.n_qubits
    strings = np.zeros((4,) * n, bool)
    for letters in circuit.readout_facts.measured_words(n):
        strings[tuple(LETTERS.index(letter) for letter in letters)] = True
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
