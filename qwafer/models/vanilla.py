"""Vanilla quantum neural network of Bowles, Ahmed and Schuld 2024 (arXiv:2403.07059)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.models.base import ModelCircuit


def vanilla(weights: Any, x: Any, *, embedding_layers: int) -> Any:
    """<Z_0> after layers of RX(x_i) and a ring of CNOT, then strongly entangling layers with CZ."""
    import pennylane as qml

    n = len(x)
    for _ in range(embedding_layers):
        for wire in range(n):
            qml.RX(x[wire], wire)
        for wire in range(n):
            qml.CNOT((wire, (wire + 1) % n))
    qml.StronglyEntanglingLayers(weights["angles"], wires=range(n), imprimitive=qml.CZ)
    return qml.expval(qml.Z(0))


@dataclass(frozen=True)
class Vanilla(ModelCircuit):
    """One wire per input. Its null is `separable_variational`."""

    embedding_layers: int = 2
    """Repetitions of the embedding."""
    n_layers: int = 3
    """Strongly entangling layers with CZ."""

    function: ClassVar[str] = "vanilla"
    least_inputs: ClassVar[int] = 2

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the angles."""
        return {"angles": (self.n_layers, self.n_inputs, 3)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return the repetitions of the embedding."""
        return {"embedding_layers": self.embedding_layers}
