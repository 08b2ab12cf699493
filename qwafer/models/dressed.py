"""Dressed quantum circuit (Mari et al. 2020, arXiv:1912.08278): linear layer, circuit, linear layer.

The first layer and tanh are the head's (`projection` = linear, `angle_map` = tanh). Nulls: `entangled` = false, and
head `dressed_nn`, where a layer of tanh takes the place of the circuit.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.circuits.captured import Initial
from qwafer.models.base import TURN, ModelCircuit, ring


def dressed(weights: Any, x: Any, *, n_layers: int, n_outputs: int, entangled: bool) -> Any:
    """sum_i w_ki <Z_i> for every output k, after H, RY(x_i), and layers of RY and a ring of CNOT."""
    import pennylane as qml

    n = len(x)
    for wire in range(n):
        qml.Hadamard(wire)
        qml.RY(x[wire], wire)
    for layer in range(n_layers):
        for wire in range(n):
            qml.RY(weights["circuit"][layer, wire], wire)
        if entangled:
            for pair in ring(n):
                qml.CNOT(pair)
    observables = [qml.Z(wire) for wire in range(n)]
    return tuple(qml.expval(qml.dot(weights["output"][k], observables)) for k in range(n_outputs))


@dataclass(frozen=True)
class Dressed(ModelCircuit):
    """One wire per input; the outputs are trained sums of all <Z_i>."""

    n_layers: int = 3
    """Layers of RY and CNOT."""
    entangled: bool = True
    """A ring of CNOT after each layer; false: the separable null."""

    function: ClassVar[str] = "dressed"

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of angles and output weights."""
        return {"circuit": (self.n_layers, self.n_inputs), "output": (n_outputs, self.n_inputs)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return layers, outputs and entanglement."""
        return {"n_layers": self.n_layers, "n_outputs": n_outputs, "entangled": self.entangled}

    def initial(self) -> dict[str, Initial]:
        """Return how the weights start."""
        return {"circuit": TURN, "output": ("normal", 0.0, 1 / self.n_inputs)}
