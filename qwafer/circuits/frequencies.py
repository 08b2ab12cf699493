"""How fast the values of a circuit turn in its angles: the largest frequencies, from gates and from slots."""

import functools
import math
from collections import Counter
from typing import Any

import numpy as np

from qwafer.circuits.captured import SHARED, CapturedCircuit
from qwafer.circuits.circuit import Circuit
from qwafer.circuits.gates import INPUTS

_POINTS = 4
_ZERO = 1e-9


def uses(circuit: Circuit, source: str) -> float | None:
    """Return the largest frequency of the values in one angle of `source`: how many gates hold it, at most.

    In a captured circuit a gate counts as often as its angle contains the parameter (R(2 x) twice); None where an angle
    is no linear function of it, or where it is in an amplitude, a matrix or a coefficient.
    """
    if isinstance(circuit, CapturedCircuit) and source in {INPUTS, *dict(circuit.weights)}:
        steps = slopes(circuit)[source]
        return None if steps is None else float(max(np.abs(steps).sum(axis=0).max(initial=0.0), 1.0))
    ops = (*circuit.operations(), *circuit.readout_operations(0))
    return max(Counter(op.index for op in ops if op.source == source).values(), default=1)


def is_periodic(circuit: Circuit, source: str) -> bool:
    """Whether the values have the period 2 pi in every parameter of `source`, up to the sign of the state."""
    if not isinstance(circuit, CapturedCircuit) or source not in {INPUTS, *dict(circuit.weights)}:
        return True
    steps = slopes(circuit)[source]
    return steps is not None and bool(np.allclose(steps, np.rint(steps), atol=_ZERO))


def slopes(circuit: CapturedCircuit) -> dict[str, np.ndarray | None]:
    """Return for every group the factor (angles, parameters) with which each parameter enters each angle of a gate;
    None where angles depend on the group otherwise, or something else than angles does.
    """
    found: dict[str, np.ndarray | None] = _slopes(circuit)
    return found


def reached(circuit: CapturedCircuit) -> dict[str, np.ndarray]:
    """Return for every group which numbers of the gates, shared ones first, then coefficients, each parameter reaches
    (numbers, parameters).
    """
    return {group: np.abs(found).max(axis=0) > _ZERO for group, found in _derivatives(circuit).items()}


@functools.lru_cache(maxsize=64)
def _derivatives(circuit: CapturedCircuit) -> dict[str, np.ndarray]:
    """Return the derivatives (points, numbers, parameters) by group at random points: shared, own, coefficients."""
    generator = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {}
    for _ in range(_POINTS):
        weights = {name: generator.uniform(-np.pi, np.pi, shape) for name, shape in circuit.weights}
        blocks = circuit.slot_derivatives(weights, generator.uniform(-np.pi, np.pi, (1, circuit.n_inputs)))
        for group, block in blocks.items():
            rows = [block.weights[SHARED][0], block.inputs[0], block.coefficients[0]]
            found.setdefault(group, []).append(
                np.concatenate([row.reshape(len(row), math.prod(row.shape[1:])) for row in rows])
            )
    return {group: np.stack(rows) for group, rows in found.items()}


@functools.lru_cache(maxsize=64)
def _slopes(circuit: CapturedCircuit) -> Any:
    n_shared = dict(circuit.core.weights).get(SHARED, (0,))[0]
    angle = np.zeros(n_shared + circuit.core.n_inputs, bool)
    for op in circuit.operations():
        if op.source and op.gate.generator is not None:
            angle[op.index[0] + (n_shared if op.source == INPUTS else 0)] = True
    found: dict[str, np.ndarray | None] = {}
    for group, derivatives in _derivatives(circuit).items():
        slots, coefficients = derivatives[:, : len(angle)], derivatives[:, len(angle) :]
        plain = np.abs(coefficients).max(initial=0.0) < _ZERO and np.abs(slots[:, ~angle]).max(initial=0.0) < _ZERO
        constant = np.abs(slots - slots[:1]).max(initial=0.0) < _ZERO
        found[group] = slots[0][angle] if plain and constant else None
    return found
