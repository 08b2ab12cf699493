"""Circuit-centric classifier (Schuld et al. 2020, arXiv:1804.00633): copies of amplitudes, strongly entangling layers.

Null: the square of the inputs is linear in |psi><psi|, so a polynomial kernel of degree 2 `copies` bounds it (`svc`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.models.base import ModelCircuit, embed_amplitudes, wires_for


def circuit_centric(weights: Any, x: Any, *, n_wires: int, copies: int) -> Any:
    """<Z_0> after strongly entangling layers on copies of the normalised x."""
    import pennylane as qml

    embed_amplitudes(x, n_wires, copies)
    qml.StronglyEntanglingLayers(weights["angles"], wires=range(n_wires * copies))
    return qml.expval(qml.Z(0))


@dataclass(frozen=True)
class CircuitCentric(ModelCircuit):
    """Amplitudes of x, `n_copies` times, on ceil(log2 n_inputs) wires each; `n_layers` strongly entangling layers."""

    n_copies: int = 2
    """Copies of the encoded state."""
    n_layers: int = 4
    """Strongly entangling layers."""

    function: ClassVar[str] = "circuit_centric"
    least_inputs: ClassVar[int] = 2

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the angles."""
        return {"angles": (self.n_layers, self.n_copies * wires_for(self.n_inputs), 3)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return wires of one copy, and copies."""
        return {"n_wires": wires_for(self.n_inputs), "copies": self.n_copies}
