"""A circuit of a stranger's own: inputs by RY, trained ZZ rotations along a line, RY on every wire."""

from dataclasses import dataclass

from qwafer.circuits import Circuit, Gate, GateCircuit, Operation
from qwafer.circuits.gates import RY

IsingZZ = Gate("IsingZZ", 2, generator="ZZ", pennylane="IsingZZ")


@dataclass(frozen=True)
class Ising:
    """The transverse-field Ising model, one layer."""

    n_qubits: int = 3
    """Wires."""
    readout: str = "mean_z_readout"
    """Readout."""

    def circuit(self, n_outputs: int) -> Circuit:
        n = self.n_qubits
        encoding = [Operation(RY, (i,), "inputs", (i,)) for i in range(n)]
        bonds = [Operation(IsingZZ, (i, i + 1), "ansatz", (i,)) for i in range(n - 1)]
        turns = [Operation(RY, (i,), "ansatz", (n - 1 + i,)) for i in range(n)]
        shapes = (("ansatz", (2 * n - 1,)),)
        return GateCircuit(n, (*encoding, *bonds, *turns), n, shapes, self.readout, n_outputs)
