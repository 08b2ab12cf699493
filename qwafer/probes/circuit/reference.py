"""PennyLane's `default.qubit` on NumPy, with all points in one broadcast execution: a reference that needs no
compiler.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from qwafer.circuits import CircuitSpec, Operation, operations, readout_operations
from qwafer.probes.circuit.linear import CHUNK_AMPLITUDES


def default_qubit(spec: CircuitSpec) -> Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]:
    """Return (weights (M, *shape), angles (M, batch, n)) -> values (M, batch, n_outputs) of `spec`, in float64.

    The device of the `reference` engine, with every gate applied as written: readout gates are gates, never a
    contraction.
    """
    import pennylane as qml

    n = spec.n_qubits
    device = qml.device("default.qubit", wires=n)
    fixed = {"H": qml.Hadamard, "CNOT": qml.CNOT}
    rotations = {"RX": qml.RX, "RY": qml.RY, "RZ": qml.RZ}

    def execute(gates: Iterable[Operation], flat: Mapping[str, Any]) -> np.ndarray:
        queue: list[Any] = []
        for gate in gates:
            if gate.source:
                queue.append(rotations[gate.name](flat[gate.source][(slice(None), *gate.index)], gate.wires[0]))
            else:
                queue.append(fixed[gate.name](wires=gate.wires))
        paulis = (qml.X, qml.Y, qml.Z) if spec.readout == "bloch" else (qml.Z,)
        measured = [qml.expval(pauli(wire)) for wire in range(n) for pauli in paulis]
        (values,) = qml.execute([qml.tape.QuantumScript(queue, measured)], device, diff_method=None)
        values = values if len(measured) > 1 else (values,)
        rows = len(flat["angles"])
        return np.stack([np.broadcast_to(np.asarray(value, np.float64), (rows,)) for value in values], axis=-1)

    def many(weights: Mapping[str, np.ndarray], angles: np.ndarray) -> np.ndarray:
        size = max(1, (CHUNK_AMPLITUDES >> n) // angles.shape[1])
        parts = [slice(start, start + size) for start in range(0, len(angles), size)]
        return np.concatenate([some({k: v[part] for k, v in weights.items()}, angles[part]) for part in parts])

    def some(weights: Mapping[str, np.ndarray], angles: np.ndarray) -> np.ndarray:
        m, batch = angles.shape[:2]
        flat = {name: np.repeat(np.asarray(value, np.float64), batch, axis=0) for name, value in weights.items()}
        flat["angles"] = np.asarray(angles, np.float64).reshape(m * batch, n)
        if spec.readout == "mean_z_readout":
            body = list(operations(spec))
            outputs = [
                execute([*body, *readout_operations(spec, k)], flat).mean(axis=-1) for k in range(spec.n_outputs)
            ]
            return np.stack(outputs, axis=-1).reshape(m, batch, -1)
        values = execute(operations(spec), flat)
        if spec.readout == "mean_z":
            values = values.mean(axis=-1, keepdims=True)
        elif spec.readout == "z_vec":
            values = (flat["readout"] @ values[..., None])[..., 0]
        return values.reshape(m, batch, -1)

    return many
