"""IQP circuits (Havlicek et al. 2019, arXiv:1804.11326): products of features in the phases between Hadamards."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.models.base import ModelCircuit


def iqp_variational(weights: Any, x: Any, *, repeats: int) -> Any:
    """<Z_0 Z_1> after an IQP embedding and strongly entangling layers with CZ."""
    import pennylane as qml

    n = len(x)
    qml.IQPEmbedding(x, wires=range(n), n_repeats=repeats)
    qml.StronglyEntanglingLayers(weights["angles"], wires=range(n), imprimitive=qml.CZ)
    return qml.expval(qml.Z(0) @ qml.Z(1))


def iqp_state(weights: Any, x: Any, *, repeats: int) -> Any:
    """The state of an IQP embedding: H, RZ(x_i), ZZ(x_i x_j) of all pairs, `repeats` times."""
    import pennylane as qml

    qml.IQPEmbedding(x, wires=range(len(x)), n_repeats=repeats)
    return qml.state()


def iqp_bloch(weights: Any, x: Any, *, repeats: int) -> Any:
    """All <X_i>, <Y_i>, <Z_i> of an IQP embedding."""
    import pennylane as qml

    qml.IQPEmbedding(x, wires=range(len(x)), n_repeats=repeats)
    return [qml.expval(pauli(wire)) for pauli in (qml.X, qml.Y, qml.Z) for wire in range(len(x))]


@dataclass(frozen=True)
class IqpVariational(ModelCircuit):
    """One wire per input; `n_layers` strongly entangling layers with CZ after the embedding."""

    repeats: int = 1
    """Repetitions of the embedding."""
    n_layers: int = 10
    """Strongly entangling layers."""

    function: ClassVar[str] = "iqp_variational"
    least_inputs: ClassVar[int] = 2

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the angles."""
        return {"angles": (self.n_layers, self.n_inputs, 3)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return the repetitions of the embedding."""
        return {"repeats": self.repeats}
