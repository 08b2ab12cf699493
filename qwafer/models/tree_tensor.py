"""Tree tensor network (Zhang et al. 2020, arXiv:2011.06258): a binary tree of RY and CNOT on amplitudes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.models.base import ModelCircuit, embed_amplitudes, wires_for


def tree_tensor(weights: Any, x: Any, *, n_wires: int) -> Any:
    """<Z_0> after log2(n_wires) layers: RY on every wire that is left, CNOT of pairs, of which one is left."""
    import pennylane as qml

    embed_amplitudes(x, n_wires)
    angles = iter(weights["angles"])
    for layer in range(wires_for(n_wires)):
        for wire in range(0, n_wires, 2**layer):
            qml.RY(next(angles), wire)
        for wire in range(0, n_wires, 2 ** (layer + 1)):
            qml.CNOT((wire + 2**layer, wire))
    qml.RY(next(angles), 0)
    return qml.expval(qml.Z(0))


@dataclass(frozen=True)
class TreeTensor(ModelCircuit):
    """Amplitudes on a power of two of wires, at least ceil(log2 n_inputs)."""

    function: ClassVar[str] = "tree_tensor"

    @property
    def n_wires(self) -> int:
        """Wires."""
        return int(2 ** wires_for(max(wires_for(self.n_inputs), 1)))

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the angles."""
        return {"angles": (2 * self.n_wires - 1,)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return the wires."""
        return {"n_wires": self.n_wires}
