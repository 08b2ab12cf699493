"""Which weights and inputs of a circuit no output depends on: gates that commute with all that is measured after them,
lie outside every light cone, or act on a state that they leave alone.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from qwafer.circuits.circuit import Circuit
from qwafer.circuits.gates import INPUTS
from qwafer.circuits.statevector import jacobian

MOST_QUBITS = 12
"""Largest circuit whose derivatives are taken: larger ones would take a minute."""
ZERO = 1e-10
"""A derivative below this is zero: rounding is 1e-14, and what matters is of the order of 2^-n at a random point."""


def inert(circuit: Circuit) -> Mapping[str, np.ndarray] | None:
    """Return which weights, and which `inputs`, no output depends on: a Boolean array by group; None above 12 wires.

    Outputs are analytic in every angle: one that they depend on has a derivative that is not zero at almost every
    point, so that exact derivatives at two random points tell. They are those of the definition
    (`statevector.jacobian`): nothing is compiled, and the answer is kept by circuit.
    """
    key: Any = circuit  # hashable, as `Circuit` asks
    return None if circuit.n_qubits > MOST_QUBITS else _inert(key)


@functools.lru_cache(maxsize=64)
def _inert(circuit: Any) -> Mapping[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {**circuit.weight_shapes(), INPUTS: (circuit.n_inputs,)}
    largest = {group: np.zeros(shape) for group, shape in shapes.items()}
    for _ in range(2):
        point = {group: generator.uniform(-np.pi, np.pi, shape) for group, shape in shapes.items()}
        for group, found in jacobian(circuit, point, point.pop(INPUTS)[None]).items():
            largest[group] = np.maximum(largest[group], np.abs(found).max(axis=(0, 1)))
    return MappingProxyType({group: value < ZERO for group, value in largest.items()})
