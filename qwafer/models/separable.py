"""Models without entanglement (Bowles, Ahmed and Schuld 2024): the nulls of variational models and of kernels."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.models.base import ModelCircuit


def separable_variational(weights: Any, x: Any, *, encoding_layers: int) -> Any:
    """The mean of all <Z_i> after layers of a trained Rot and RY(x_i), and a last Rot, on every wire by itself."""
    import pennylane as qml

    n = len(x)
    for wire in range(n):
        for layer in range(encoding_layers):
            qml.Rot(*weights["angles"][wire, layer], wires=wire)
            qml.RY(x[wire], wire)
        qml.Rot(*weights["angles"][wire, encoding_layers], wires=wire)
    return qml.expval(qml.dot([1 / n] * n, [qml.Z(wire) for wire in range(n)]))


def separable_state(weights: Any, x: Any, *, encoding_layers: int) -> Any:
    """The state of one wire after RX(pi/4) and RY(x), `encoding_layers` times, for the separable kernel.

    In the other order the last RX would drop out of every overlap, and with one layer nothing but RY would be left.
    """
    import pennylane as qml

    for _ in range(encoding_layers):
        qml.RX(math.pi / 4, 0)
        qml.RY(x[0], 0)
    return qml.state()


@dataclass(frozen=True)
class SeparableVariational(ModelCircuit):
    """One wire per input, none of which meets another."""

    encoding_layers: int = 1
    """Encodings of the input, each after a trained rotation."""

    function: ClassVar[str] = "separable_variational"

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the angles."""
        return {"angles": (self.n_inputs, self.encoding_layers + 1, 3)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return the number of encodings."""
        return {"encoding_layers": self.encoding_layers}
