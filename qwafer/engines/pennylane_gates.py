"""Gates and observables in PennyLane's own words: the one way in which circuits are told to its devices."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError
from qwafer.circuits import Circuit, Gate


def apply_gate(gate: Gate, wires: tuple[int, ...], numbers: Any = None) -> Any:
    """Return the PennyLane operation of `gate`, queued where a circuit is recorded; `numbers` (...) for a rotation,
    (..., n_numbers) for a given gate.

    A gate that has no name in PennyLane is told by its Pauli word or its matrix. Raises CapabilityError for a name that
    PennyLane does not have.
    """
    import pennylane as qml

    reason = _unknown([gate])
    if reason is not None:
        raise CapabilityError(f"{reason}: name its operation in `Gate.pennylane`")
    if gate.pennylane is not None:
        operation = getattr(qml, gate.pennylane)
        return operation(wires=wires) if gate.generator is None else operation(numbers, wires=wires)
    if gate.fixed is not None:
        return qml.QubitUnitary(np.asarray(gate.fixed, np.complex128), wires=wires)
    if gate.given is not None:
        half, dim = gate.n_numbers // 2, 2**gate.n_wires
        entries = numbers[..., :half] + 1j * numbers[..., half:]
        if gate.given == "state":
            return qml.StatePrep(entries, wires=wires, validate_norm=False)
        return qml.QubitUnitary(entries.reshape(*entries.shape[:-1], dim, dim), wires=wires)
    word = gate.generator or ""
    if set(word) == {"I"}:
        return qml.GlobalPhase(numbers / 2)
    return qml.MultiRZ(numbers, wires=wires) if set(word) == {"Z"} else qml.PauliRot(numbers, word, wires=wires)


def observable(word: str) -> Any:
    """Return the operator of a Pauli `word`, a letter per wire."""
    import pennylane as qml

    letters = [getattr(qml, letter)(wire) for wire, letter in enumerate(word) if letter != "I"]
    if len(letters) < 2:
        return letters[0] if letters else qml.Identity(0)
    return qml.prod(*letters)


def why_not(circuit: Circuit) -> str | None:
    """Return which gate of `circuit` PennyLane does not have; None: it has all of them."""
    return _unknown(op.gate for op in (*circuit.operations(), *circuit.readout_operations(0)))


def _unknown(gates: Iterable[Gate]) -> str | None:
    import pennylane as qml

    for gate in gates:
        if gate.pennylane is not None and not hasattr(qml, gate.pennylane):
            return f"gate {gate.name} has no PennyLane form: PennyLane has no {gate.pennylane}"
    return None
