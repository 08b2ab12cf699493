"""The gates that the catalyst engine really applies: merged rotations, inert ones left out, angles as one vector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qwafer.circuits import INPUTS, Circuit, CircuitSpec, Gate, Operation


@dataclass(frozen=True)
class Step:
    """One gate as executed."""

    gate: Gate
    wires: tuple[int, ...]
    slot: int | None = None
    """Place of its angle in the vector theta; None for a fixed gate."""


@dataclass(frozen=True)
class GatePlan:
    """A gate sequence whose angles are theta_b = E x_b + A w: every angle an entry of one vector per example.

    A rotation that directly follows the same gate on the same wires is merged with it. Where only Pauli Z strings are
    measured, a diagonal rotation after which its light cone holds nothing but gates that keep Z strings commutes with
    what is measured; it is left out, and its derivative is exactly 0.
    """

    steps: tuple[Step, ...]
    from_inputs: Float[np.ndarray, "n_slots n_inputs"]
    """E: 1 where an input of an example enters a slot."""
    from_weights: dict[str, Float[np.ndarray, "n_slots n_weights"]]
    """A: 1 where a weight, by name and flat index, enters a slot."""

    @property
    def n_slots(self) -> int:
        """Length of theta."""
        return len(self.from_inputs)

    def theta(
        self, weights: Mapping[str, np.ndarray], inputs: Float[np.ndarray, "batch n_inputs"]
    ) -> Float[np.ndarray, "batch n_slots"]:
        """Return the gate angles of every example (batch, n_slots), radians, float64."""
        theta = inputs.astype(np.float64) @ self.from_inputs.T
        for name, matrix in self.from_weights.items():
            theta += matrix @ weights[name].astype(np.float64).reshape(-1)
        return theta

    def vjp(
        self, shapes: dict[str, tuple[int, ...]], d_theta: Float[np.ndarray, "batch n_slots"]
    ) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "batch n_inputs"]]:
        """Return the gradients of weights (summed over the batch) and inputs that belong to `d_theta`."""
        total = d_theta.sum(axis=0)
        weights = {name: (total @ matrix).reshape(shapes[name]) for name, matrix in self.from_weights.items()}
        return weights, d_theta @ self.from_inputs


def gate_plan(circuit: Circuit, *, z_only: bool, output: int | None = None) -> GatePlan:
    """Return the plan of the body of `circuit`, followed by the readout gates of `output` unless it is None.

    `z_only`: nothing but Pauli Z (on any wires) is measured afterwards.
    """
    shapes = circuit.body().weight_shapes()
    sequence = circuit.operations()
    if output is not None:
        shapes = circuit.weight_shapes()
        sequence += circuit.readout_operations(output)
    return _planned(sequence, circuit.n_inputs, shapes, z_only=z_only, needs_slot=True)


def ansatz_plan(spec: CircuitSpec, *, z_only: bool) -> GatePlan:
    """Return the plan of the ansatz alone, of a circuit that encodes once; see `gate_plan`."""
    sequence = [op for layer in range(spec.n_layers) for op in spec.layer_operations(layer)]
    return _planned(sequence, spec.n_inputs, spec.body().weight_shapes(), z_only=z_only, needs_slot=False)


def _planned(
    sequence: Sequence[Operation], n_inputs: int, shapes: dict[str, tuple[int, ...]], *, z_only: bool, needs_slot: bool
) -> GatePlan:
    merged = _merge(sequence)
    kept = _without_inert(merged) if z_only else merged
    if needs_slot and not any(sources for _, sources in kept):
        kept = merged  # a program needs an argument; the derivative of an inert gate comes out as 0 as well
    n_slots = sum(1 for _, sources in kept if sources)
    from_inputs = np.zeros((n_slots, n_inputs))
    from_weights = {name: np.zeros((n_slots, int(np.prod(shape)))) for name, shape in shapes.items()}
    steps = []
    slot = 0
    for op, sources in kept:
        for source, index in sources:
            if source == INPUTS:
                from_inputs[slot, index[0]] += 1
            else:
                from_weights[source][slot, np.ravel_multi_index(index, shapes[source])] += 1
        steps.append(Step(op.gate, op.wires, slot if sources else None))
        slot += bool(sources)
    return GatePlan(tuple(steps), from_inputs, from_weights)


_Sources = tuple[tuple[str, tuple[int, ...]], ...]


def _merge(sequence: Sequence[Operation]) -> list[tuple[Operation, _Sources]]:
    merged: list[tuple[Operation, _Sources]] = []
    last: dict[int, int] = {}  # wire -> place in `merged` of the last gate on it
    for op in sequence:
        before = {last.get(wire) for wire in op.wires}
        place = before.pop() if len(before) == 1 else None
        if op.source and place is not None and (merged[place][0].gate, merged[place][0].wires) == (op.gate, op.wires):
            merged[place] = (merged[place][0], (*merged[place][1], (op.source, op.index)))
            continue
        last.update(dict.fromkeys(op.wires, len(merged)))
        merged.append((op, ((op.source, op.index),) if op.source else ()))
    return merged


def _without_inert(sequence: list[tuple[Operation, _Sources]]) -> list[tuple[Operation, _Sources]]:
    kept = []
    dirty: set[int] = set()  # wires on which what is measured, carried back to here, is more than a Z
    for op, sources in reversed(sequence):
        if not op.gate.keeps_z or dirty.intersection(op.wires):
            dirty.update(op.wires)
        elif sources:
            continue
        kept.append((op, sources))
    return kept[::-1]
