"""Gates in PennyLane's own words: the one way in which circuits are told to its devices."""

from collections.abc import Iterable
from typing import Any

from qwafer._errors import CapabilityError
from qwafer.circuits import Circuit, Gate


def apply_gate(gate: Gate, wires: tuple[int, ...], theta: Any = None) -> Any:
    """Return the PennyLane operation of `gate`, queued where a circuit is recorded; `theta` (...) for a rotation.

    Raises CapabilityError for a gate that PennyLane does not have.
    """
    import pennylane as qml

    reason = _unknown([gate])
    if reason is not None:
        raise CapabilityError(f"{reason}: name its operation in `Gate.pennylane`")
    operation = getattr(qml, str(gate.pennylane))
    return operation(wires=wires) if gate.generator is None else operation(theta, wires=wires)


def why_not(circuit: Circuit) -> str | None:
    """Return which gate of `circuit` PennyLane does not have; None: it has all of them."""
    return _unknown(op.gate for op in (*circuit.operations(), *circuit.readout_operations(0)))


def _unknown(gates: Iterable[Gate]) -> str | None:
    import pennylane as qml

    for gate in gates:
        if gate.pennylane is None or not hasattr(qml, gate.pennylane):
            return f"gate {gate.name} has no PennyLane form"
    return None
