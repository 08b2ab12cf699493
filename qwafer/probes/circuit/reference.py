"""PennyLane's `default.qubit` on NumPy, with all points in one broadcast execution: a reference that needs no
compiler.
"""

from collections.abc import Mapping

import numpy as np

from qwafer.circuits import Circuit
from qwafer.engines.reference import evaluate
from qwafer.probes.circuit.linear import CHUNK_AMPLITUDES


def default_qubit(circuit: Circuit, weights: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return the values (M, batch, n_outputs) of `circuit` in float64, as engine `reference` evaluates them.

    `weights` (M, *shape) and `inputs` (M, batch, n_inputs): M points, each with a batch of examples.
    """
    m, batch = inputs.shape[:2]
    size = max(1, (CHUNK_AMPLITUDES >> circuit.n_qubits) // batch)
    parts = []
    for part in (slice(start, start + size) for start in range(0, m, size)):
        rows = {k: np.repeat(np.asarray(v[part], np.float64), batch, axis=0) for k, v in weights.items()}
        flat = np.concatenate(np.asarray(inputs[part], np.float64))
        parts.append(evaluate(circuit, rows, flat).reshape(-1, batch, circuit.n_outputs))
    return np.concatenate(parts)
