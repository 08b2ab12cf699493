"""Data re-uploading (Perez-Salinas et al. 2020, arXiv:1907.02085), three features per wire, and what it can do without.

The fidelity loss weighs each wire's probability of each class by a trained alpha: head `fidelity` is for it. The
variants are those of Bowles, Ahmed and Schuld 2024: `no_scaling`, `no_trainable_embedding`, `separable` (the null).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_choice
from qwafer.circuits.captured import Initial
from qwafer.models.base import ModelCircuit, neighbours

VARIANTS = ("full", "no_scaling", "no_trainable_embedding", "separable")
OBSERVABLES = ("single", "half", "full")


def reuploading(weights: Any, x: Any, *, n_layers: int, variant: str, n_observed: int) -> Any:
    """<Z_i> of the first `n_observed` wires; layer l applies Rot(omega_l x), Rot(theta_l) and CZ of neighbours."""
    import jax.numpy as jnp
    import pennylane as qml

    thetas = weights["thetas"]  # (n, L + 1, 3)
    n = len(thetas)
    triples = jnp.concatenate([x, jnp.zeros(3 * n - len(x), x.dtype)])
    scaled = weights.get("omegas", jnp.ones((n_layers + 1, 3 * n), x.dtype)) * triples[None, :]

    def rotate(*angles: Any) -> None:
        for wire in range(n):
            for own in angles:
                qml.Rot(*own[wire], wires=wire)

    def entangle(layer: int) -> None:
        for pair in neighbours(n, layer % 2):
            qml.CZ(pair)

    data = scaled.reshape(n_layers + 1, n, 3)
    if variant == "no_trainable_embedding":
        for layer in range(n_layers + 1):
            rotate(data[layer])
    for layer in range(n_layers + 1):
        theta = thetas[:, layer]
        if variant == "no_trainable_embedding":
            rotate(theta)
        elif variant == "full" and layer < n_layers:
            rotate(data[layer], theta)
        else:
            rotate(data[layer] + theta)
        if variant != "separable" and layer < n_layers:
            entangle(layer)
    return tuple(qml.expval(qml.Z(wire)) for wire in range(n_observed))


@dataclass(frozen=True)
class Reuploading(ModelCircuit):
    """ceil(n_inputs / 3) wires; x enters `n_layers` + 1 times, scaled by trained omegas."""

    n_layers: int = 4
    """Layers; the data enter once more after the last."""
    variant: str = "full"
    """`full`, `no_scaling` (all omegas 1), `no_trainable_embedding` (all data first, then the trained gates) or
    `separable` (no CZ)."""
    observable: str = "single"
    """Wires that are measured: `single` (the first), `half` or `full`."""

    function: ClassVar[str] = "reuploading"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("circuit.variant", self.variant, VARIANTS)
        check_choice("circuit.observable", self.observable, OBSERVABLES)

    @property
    def n_wires(self) -> int:
        """Wires: one for three inputs."""
        return -(-self.n_inputs // 3)

    def shapes(self, n_outputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the angles and of the scales."""
        shapes: dict[str, tuple[int, ...]] = {"thetas": (self.n_wires, self.n_layers + 1, 3)}
        return shapes if self.variant == "no_scaling" else {**shapes, "omegas": (self.n_layers + 1, 3 * self.n_wires)}

    def arguments(self, n_outputs: int) -> dict[str, Any]:
        """Return layers, variant and the number of observed wires."""
        observed = {"single": 1, "half": max(self.n_wires // 2, 1), "full": self.n_wires}[self.observable]
        return {"n_layers": self.n_layers, "variant": self.variant, "n_observed": observed}

    def initial(self) -> dict[str, Initial]:
        """Return how angles and scales start: between 0 and 1."""
        return dict.fromkeys(self.shapes(1), ("uniform", 0.0, 1.0))
