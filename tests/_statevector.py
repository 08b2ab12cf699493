"""An oracle for engines: the gates of a spec applied one by one to a complex NumPy state, nothing fused."""

import numpy as np

from qwafer.circuits import CircuitSpec, operations, readout_operations

_PAULI = {
    "X": np.array([[0, 1], [1, 0]], complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]).astype(complex),
}


def _apply(state, matrix, wire):
    batch = state.shape[0]
    folded = state.reshape(batch, 2**wire, 2, -1)
    return (
        np.einsum("...ij,bxjy->bxiy", matrix, folded).reshape(batch, -1)
        if matrix.ndim == 2
        else np.einsum("bij,bxjy->bxiy", matrix, folded).reshape(batch, -1)
    )


def _gates(ops, state, n, weights, angles):
    for op in ops:
        if op.name == "CNOT":
            control, target = (n - 1 - wire for wire in op.wires)
            j = np.arange(2**n)
            state = state[:, j ^ (((j >> control) & 1) << target)]
        elif op.name == "H":
            state = _apply(state, (_PAULI["X"] + _PAULI["Z"]) / np.sqrt(2), op.wires[0])
        else:
            theta = angles[:, op.index[0]] if op.source == "angles" else np.asarray(weights[op.source][op.index])
            cos, sin = np.cos(theta / 2)[..., None, None], np.sin(theta / 2)[..., None, None]
            state = _apply(state, cos * np.eye(2) - 1j * sin * _PAULI[op.name[1]], op.wires[0])
    return state


def expected(spec: CircuitSpec, weights, angles):
    """Return s (batch, n_outputs) for weights by name and angles (batch, n_qubits)."""
    n, angles = spec.n_qubits, np.asarray(angles, float)
    weights = {name: np.asarray(value, float) for name, value in weights.items()}
    state = np.zeros((len(angles), 2**n), complex)
    state[:, 0] = 1
    state = _gates(operations(spec), state, n, weights, angles)

    def values(state, axis):
        return np.stack(
            [np.einsum("bj,bj->b", state.conj(), _apply(state, _PAULI[axis], i)).real for i in range(n)], -1
        )

    if spec.readout == "bloch":
        return np.stack([values(state, axis) for axis in "XYZ"], -1).reshape(len(angles), 3 * n)
    if spec.readout == "mean_z_readout":
        ends = [_gates(readout_operations(spec, k), state, n, weights, angles) for k in range(spec.n_outputs)]
        return np.stack([values(end, "Z").mean(-1) for end in ends], -1)
    z = values(state, "Z")
    if spec.readout == "mean_z":
        return z.mean(-1, keepdims=True)
    return z @ weights["readout"].T if spec.readout == "z_vec" else z


def inputs(spec: CircuitSpec, batch: int, seed: int = 0):
    """Return random weights by name and angles (batch, n_qubits), float64 NumPy."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=shape) for name, shape in spec.weight_shapes().items()}
    return weights, rng.uniform(-2, 2, size=(batch, spec.n_qubits))
