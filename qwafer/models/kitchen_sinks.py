"""Quantum kitchen sinks (Wilson et al. 2018, arXiv:1806.08321): random angles, one shot each, a linear classifier.

RX on |0> and CNOTs permute basis states of a product state: a shot is n independent bits, b_i = 1 with probability
sin^2(angle_i / 2), and exclusive ors of them. So the model is classical as it stands; the null is `features` = cosines,
the random Fourier features cos(omega x + beta) (Rahimi and Recht 2007) that the bits are shots of.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_choice, check_interval, check_positive_int, check_shape, plain_numbers
from qwafer._io import key_seed
from qwafer.models.base import neighbours
from qwafer.models.kernels import decisions, fitted_machines, scaling


def kitchen_sink(weights: Any, x: Any) -> Any:
    """The probabilities of all basis states after RX(x_i), CNOT(i, i + 1) for even i, CNOT(i, i + 2) for all i."""
    import pennylane as qml

    n = len(x)
    for wire in range(n):
        qml.RX(x[wire], wire)
    for pair in (*neighbours(n), *((i, i + 2) for i in range(n - 2))):
        qml.CNOT(pair)
    return qml.probs(wires=range(n))


@dataclass(frozen=True, eq=False)
class FittedSinks:
    """Random features and a logistic regression per label."""

    scaler: Any
    omegas: np.ndarray
    """(n_episodes, n_wires, inputs)."""
    betas: np.ndarray
    """(n_episodes, n_wires)."""
    draws: np.ndarray | None
    """(n_episodes,) uniform numbers, one per shot, for all examples; None: cosines."""
    machines: tuple[Any, ...]
    n_features: int

    def mapped(self, features: np.ndarray) -> np.ndarray:
        """Return the random features (N, n_episodes n_wires): bits of one shot, or cosines."""
        x = self.scaler.transform(np.asarray(features, np.float64))
        angles = np.einsum("ewd,nd->new", self.omegas, x) + self.betas[None]
        if self.draws is None:
            return np.cos(angles).reshape(len(x), -1)
        from qwafer.circuits.capture import circuit
        from qwafer.engines import get
        from qwafer.models.gram import run_circuit

        n_wires = angles.shape[2]
        sink = circuit(kitchen_sink, n_inputs=n_wires)
        p = run_circuit(get("xla"), sink, angles.reshape(-1, n_wires)).reshape(*angles.shape[:2], -1)
        total = np.cumsum(p.astype(np.float64), axis=2)
        shots = (total < self.draws[None, :, None] * total[..., -1:]).sum(axis=2)  # (N, n_episodes)
        bits = (shots[..., None] >> np.arange(n_wires)[::-1]) & 1
        return np.asarray(bits.reshape(len(x), -1), np.float64)

    @shaped()
    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return the logits of the logistic regressions."""
        check_shape("features", features, ("N", self.n_features))
        return decisions(self.machines, self.mapped(features))


@dataclass(frozen=True)
class KitchenSinksOptions:
    """`n_episodes` circuits at angles omega x + beta, omega normal, beta uniform over a turn; logistic regression."""

    n_episodes: int = 100
    """Random circuits, of one shot each."""
    n_wires: int | None = None
    """Wires of a circuit, at most 12; none: one per input."""
    variance: float = 1.0
    """Variance of omega."""
    features: str = "shots"
    """`shots`: the bits of one shot; `cosines`: cos(omega x + beta), the classical null."""
    n_components: int | None = None
    """As in `KernelOptions`."""

    sections: ClassVar[tuple[str, ...]] = ("objective",)

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("head.n_episodes", self.n_episodes, maximum=100_000)
        check_interval("head.variance", self.variance, 0, 1e6, open_low=True)
        check_choice("head.features", self.features, ("shots", "cosines"))
        for name, most in (("n_wires", 12), ("n_components", 4096)):
            if getattr(self, name) is not None:
                check_positive_int(f"head.{name}", getattr(self, name), maximum=most)

    def fit(self, prepared: Any, seed: int) -> FittedSinks:
        """Return the logistic regressions, fitted on the training split."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        features, labels = prepared.part("train")
        scaler = scaling(self.n_components, features, high=1.0)
        n_inputs = self.n_components or features.shape[1]
        n_wires = self.n_wires or n_inputs
        stream = {name: np.random.default_rng(key_seed(seed, f"sinks/{name}")) for name in ("omegas", "betas", "shots")}
        omegas = math.sqrt(self.variance) * stream["omegas"].standard_normal((self.n_episodes, n_wires, n_inputs))
        betas = stream["betas"].uniform(0, 2 * math.pi, (self.n_episodes, n_wires))
        draws = stream["shots"].uniform(size=self.n_episodes) if self.features == "shots" else None
        sinks = FittedSinks(scaler, omegas, betas, draws, (), features.shape[1])
        with warnings.catch_warnings():
            # Without a penalty, features that separate the classes have no finite optimum: where it stops is the model.
            warnings.simplefilter("ignore", ConvergenceWarning)
            make = functools.partial(LogisticRegression, C=np.inf, tol=1e-3)
            machines = fitted_machines(make, sinks.mapped(features), labels)
        return replace(sinks, machines=machines)
