"""The Hamiltonian embedding of projected quantum kernels (Huang et al. 2021, arXiv:2011.01938)."""

from typing import Any


def heisenberg_bloch(weights: Any, x: Any, *, time: float, steps: int) -> Any:
    """All <X_i>, <Y_i>, <Z_i> of n = len(x) + 1 wires after random rotations and a Trotter evolution.

    Each of the `steps` applies exp(-i x_j time / 2 P_j P_j+1) for P = X, Y, Z and j in order; time is the evolution
    time over the steps, times the number of couplings.
    """
    import pennylane as qml

    n = len(x) + 1
    for wire in range(n):
        qml.Rot(*weights["rotations"][wire], wires=wire)
    for _ in range(steps):
        for j in range(n - 1):
            for gate in (qml.IsingXX, qml.IsingYY, qml.IsingZZ):
                gate(x[j] * time, wires=(j, j + 1))
    return [qml.expval(pauli(wire)) for pauli in (qml.X, qml.Y, qml.Z) for wire in range(n)]
