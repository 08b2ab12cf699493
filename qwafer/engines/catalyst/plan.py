"""The gates that the catalyst engine really applies: merged rotations, inert ones left out, angles as one vector."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from qwafer.circuits import CircuitSpec, Operation, operations, readout_operations

_ROTATIONS = ("RX", "RY", "RZ")


@dataclasses.dataclass(frozen=True)
class Gate:
    """One gate as executed: `slot` is its place in the vector theta of gate angles, None for fixed gates."""

    name: str
    wires: tuple[int, ...]
    slot: int | None = None


@dataclasses.dataclass(frozen=True)
class GatePlan:
    """A gate sequence whose angles are theta_b = E x_b + A w: every angle an entry of one vector an example.

    A rotation that directly follows one about the same axis on the same wire is merged with it. Where only Pauli Z
    strings are
    measured, an RZ after which its light cone holds nothing but CNOT and RZ commutes with what is measured; it is
    left out,
    and its derivative is exactly 0.
    """

    gates: tuple[Gate, ...]
    from_angles: Float[np.ndarray, "n_slots n_qubits"]
    """E: 1 where the angle of an example enters a slot."""
    from_weights: dict[str, Float[np.ndarray, "n_slots n_weights"]]
    """A: 1 where a weight, by name and flat index, enters a slot."""

    @property
    def n_slots(self) -> int:
        """Length of theta."""
        return len(self.from_angles)

    def theta(
        self, weights: Mapping[str, np.ndarray], angles: Float[np.ndarray, "batch n_qubits"]
    ) -> Float[np.ndarray, "batch n_slots"]:
        """Return the gate angles of every example (batch, n_slots), radians, float64."""
        theta = angles.astype(np.float64) @ self.from_angles.T
        for name, matrix in self.from_weights.items():
            theta += matrix @ weights[name].astype(np.float64).reshape(-1)
        return theta

    def pull_back(
        self, shapes: dict[str, tuple[int, ...]], d_theta: Float[np.ndarray, "batch n_slots"]
    ) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "batch n_qubits"]]:
        """Return the gradients of weights (summed over the batch) and angles that belong to `d_theta`."""
        total = d_theta.sum(axis=0)
        weights = {name: (total @ matrix).reshape(shapes[name]) for name, matrix in self.from_weights.items()}
        return weights, d_theta @ self.from_angles


def gate_plan(spec: CircuitSpec, *, z_only: bool, output: int | None = None, encode: bool = True) -> GatePlan:
    """Return the plan of the body of `spec`, followed by the readout gates of `output` unless it is None.

    `z_only`: nothing but Pauli Z (on any wires) is measured afterwards. `encode=False` leaves the encoding out: the
    ansatz
    alone, of a circuit that encodes once.
    """
    sequence = [op for op in operations(spec) if encode or (op.source != "angles" and op.name != "H")]
    if output is not None:
        sequence += readout_operations(spec, output)
    merged = _merge(sequence)
    kept = _without_inert(merged) if z_only else merged
    if encode and not any(sources for _, sources in kept):
        kept = merged  # a program needs an argument; the derivative of an inert gate comes out as 0 as well

    shapes = spec.weight_shapes()
    n_slots = sum(1 for _, sources in kept if sources)
    from_angles = np.zeros((n_slots, spec.n_qubits))
    from_weights = {name: np.zeros((n_slots, int(np.prod(shape)))) for name, shape in shapes.items()}
    gates = []
    slot = 0
    for op, sources in kept:
        if not sources:
            gates.append(Gate(op.name, op.wires))
            continue
        for source, index in sources:
            if source == "angles":
                from_angles[slot, index[0]] += 1
            else:
                from_weights[source][slot, np.ravel_multi_index(index, shapes[source])] += 1
        gates.append(Gate(op.name, op.wires, slot))
        slot += 1
    names = ["ansatz"] if output is None or "readout" not in shapes else ["ansatz", "readout"]
    return GatePlan(tuple(gates), from_angles, {name: from_weights[name] for name in names})


_Sources = tuple[tuple[str, tuple[int, ...]], ...]


def _merge(sequence: Sequence[Operation]) -> list[tuple[Operation, _Sources]]:
    merged: list[tuple[Operation, _Sources]] = []
    last: dict[int, int] = {}  # wire -> place in `merged` of the last gate on it
    for op in sequence:
        before = last.get(op.wires[0])
        if op.name in _ROTATIONS and before is not None and merged[before][0].name == op.name:
            merged[before] = (merged[before][0], (*merged[before][1], (op.source, op.index)))
            continue
        last.update(dict.fromkeys(op.wires, len(merged)))
        merged.append((op, ((op.source, op.index),) if op.source else ()))
    return merged


def _without_inert(sequence: list[tuple[Operation, _Sources]]) -> list[tuple[Operation, _Sources]]:
    kept = []
    dirty: set[int] = set()  # wires on which what is measured, carried back to here, is more than a Z
    for op, sources in reversed(sequence):
        if op.name == "RZ" and op.wires[0] not in dirty:
            continue
        if op.name == "CNOT":
            if dirty.intersection(op.wires):
                dirty.update(op.wires)
        elif op.name != "RZ":
            dirty.update(op.wires)
        kept.append((op, sources))
    return kept[::-1]
