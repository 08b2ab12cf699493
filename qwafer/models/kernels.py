"""Support-vector machines on kernels, quantum and classical: contenders that share scaling, machine and logits."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_choice, check_interval, check_positive_int, check_shape, plain_numbers
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.models.base import DESCRIBED, PUBLISHED

CONSTANT = 1.0
"""Size of the logit of a label of which the training split has one value only."""


class Kernel:
    """A kernel of scaled inputs (N, D): what each example becomes on its own, and the matrix of all pairs of these."""

    def embedded(self, x: np.ndarray) -> Any:
        """Return what the kernel reads of inputs (N, D): states, expectation values, the inputs themselves."""
        raise NotImplementedError

    def gram(self, left: Any, right: Any) -> np.ndarray:
        """Return the kernel (N, M) of embedded examples."""
        raise NotImplementedError


def fitted_machines(make: Callable[[], Any], x: np.ndarray, labels: np.ndarray) -> tuple[Any, ...]:
    """Return scikit-learn's classifiers of x (M, D), one per label; a number where a label has one value only."""
    return tuple(
        make().fit(x, column) if 0 < column.mean() < 1 else CONSTANT * (2.0 * float(column[0]) - 1)
        for column in labels.T
    )


def decisions(machines: Sequence[Any], x: np.ndarray) -> np.ndarray:
    """Return the decision functions (N, n_labels) of `fitted_machines` at x (N, D)."""
    columns = [np.full(len(x), own) if isinstance(own, float) else own.decision_function(x) for own in machines]
    return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class FittedKernel:
    """A support-vector machine per label on a kernel, fitted; the logit is its decision function."""

    scaler: Any
    """scikit-learn's, of the training features."""
    kernel: Kernel
    train: Any
    """The embedded training examples."""
    machines: tuple[Any, ...]
    """scikit-learn's, one per label; a number where the label has one value only."""
    n_features: int

    @shaped()
    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return the decision functions: not probabilities, but their signs and their order decide."""
        check_shape("features", features, ("N", self.n_features))
        return decisions(
            self.machines, self.kernel.gram(self.kernel.embedded(self.scaler.transform(features)), self.train)
        )

    @property
    def n_parameters(self) -> int:
        """The coefficients and the training examples that the decision functions read."""
        used = [machine.support_ for machine in self.machines if not isinstance(machine, float)]
        rows = len(np.unique(np.concatenate(used))) if used else 0
        return sum(len(own) + 1 for own in used) + rows * self.n_features


@dataclass(frozen=True)
class KernelOptions:
    """What all kernel machines share: features from -pi/2 to pi/2 on the training split, and scikit-learn's SVC."""

    C: float = 1.0
    """Weight of a violated margin."""
    n_components: int | None = None
    """Principal components of the standardised features that the kernel sees; none: the features themselves."""

    sections: ClassVar[tuple[str, ...]] = ("objective",)

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_interval("head.C", self.C, 0, 1e9, open_low=True)
        if self.n_components is not None:
            check_positive_int("head.n_components", self.n_components, maximum=4096)

    def kernel(self, n_inputs: int, seed: int) -> Kernel:
        """Return the kernel of so many inputs."""
        raise NotImplementedError

    def fit(self, prepared: Any, seed: int) -> FittedKernel:
        """Return one machine per label, fitted on the training split: N states, and one matrix for all labels."""
        from sklearn.svm import SVC

        features, labels = prepared.part("train")
        scaler = scaling(self.n_components, features)
        x = scaler.transform(features)
        kernel = self.kernel(x.shape[1], seed)
        train = kernel.embedded(x)
        gram = kernel.gram(train, train)
        make = functools.partial(SVC, kernel="precomputed", C=self.C, random_state=key_seed(seed, "svc"))
        machines = fitted_machines(make, gram, labels)
        return FittedKernel(scaler, kernel, train, machines, features.shape[1])


def scaling(n_components: int | None, features: np.ndarray, high: float = math.pi / 2) -> Any:
    """Return scikit-learn's scaler of training features (M, D) to -high to high, of their principal components where
    `n_components` says so; raise InputError for more components than features or examples.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    steps: list[Any] = [MinMaxScaler((-high, high))]
    if n_components is not None:
        if n_components > min(features.shape):
            raise InputError(
                f"`head.n_components` must be at most {min(features.shape)}, the features or the training examples, "
                f"got {n_components}"
            )
        steps = [StandardScaler(), PCA(n_components, svd_solver="full"), *steps]
    return make_pipeline(*steps).fit(np.asarray(features, np.float64))


@dataclass(frozen=True, eq=False)
class StateKernel(Kernel):
    """|<psi(x)|psi(y)>|^2 of the states of a circuit; one of one wire embeds every input on its own."""

    circuit: Any

    def embedded(self, x: np.ndarray) -> np.ndarray:
        """Return the states (N, factors, amplitudes)."""
        from qwafer.engines import get
        from qwafer.models.gram import states_of

        rows = x.reshape(-1, self.circuit.n_inputs)
        return states_of(get("xla"), self.circuit, rows).reshape(len(x), -1, 2**self.circuit.n_qubits)

    def gram(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the fidelities (N, M)."""
        from qwafer.models.gram import fidelity_gram

        return fidelity_gram(left, right)


@dataclass(frozen=True)
class IqpKernelOptions(KernelOptions):
    """|<psi(x)|psi(y)>|^2 of IQP states on one wire per input (Havlicek et al. 2019, arXiv:1804.11326)."""

    repeats: int = 2
    """Repetitions of the embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("head.repeats", self.repeats)

    def kernel(self, n_inputs: int, seed: int) -> Kernel:
        """Return the kernel of the states."""
        return StateKernel(_captured("iqp:iqp_state", n_inputs, repeats=self.repeats))


@dataclass(frozen=True)
class SeparableKernelOptions(KernelOptions):
    """prod_i |<psi(x_i)|psi(y_i)>|^2 of one wire each: the null of quantum kernels."""

    encoding_layers: int = 1
    """Encodings of an input, each with a fixed rotation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_int("head.encoding_layers", self.encoding_layers)

    def kernel(self, n_inputs: int, seed: int) -> Kernel:
        """Return the kernel of the states of single wires."""
        return StateKernel(_captured("separable:separable_state", 1, encoding_layers=self.encoding_layers))


@dataclass(frozen=True, eq=False)
class BlochKernel(Kernel):
    """exp(-gamma |b(x) - b(y)|^2) of all <X_i>, <Y_i>, <Z_i>, gamma = `factor` / (n_features Var b).

    Var b is that of the training examples; `as_published`, that of the left side, so that a prediction depends on which
    examples are predicted with it.
    """

    circuit: Any
    weights: dict[str, np.ndarray]
    factor: float
    n_features: int
    variant: str

    def embedded(self, x: np.ndarray) -> np.ndarray:
        """Return the expectation values (N, 3 n)."""
        from qwafer.engines import get
        from qwafer.models.gram import run_circuit

        return run_circuit(get("xla"), self.circuit, x, self.weights).astype(np.float64)

    def gram(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the kernel (N, M); `right` are the training examples."""
        from qwafer.models.gram import rbf_gram

        variance = float(np.var(left if self.variant == PUBLISHED else right))
        return rbf_gram(left, right, self.factor / self.n_features / max(variance, float(np.finfo(np.float32).eps)))


@dataclass(frozen=True)
class ProjectedKernelOptions(KernelOptions):
    """exp(-gamma sum_i |b_i(x) - b_i(y)|^2) of the Bloch vectors of all wires (Huang et al. 2021, arXiv:2011.01938)."""

    gamma_factor: float = 1.0
    """Factor of gamma = 1 / (n_features Var b)."""
    embedding: str = "hamiltonian"
    """`hamiltonian` (random rotations, then a Trotter evolution of Heisenberg couplings x_j) or `iqp`."""
    t: float = 1 / 3
    """Evolution time per input, of the Hamiltonian embedding."""
    trotter_steps: int = 5
    """Trotter steps of the Hamiltonian embedding."""
    variant: str = DESCRIBED
    """`as_described`: gamma of the training examples; `as_published`: of those that are predicted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("head.embedding", self.embedding, ("hamiltonian", "iqp"))
        check_choice("head.variant", self.variant, (DESCRIBED, PUBLISHED))
        check_interval("head.gamma_factor", self.gamma_factor, 0, 1e6, open_low=True)
        check_interval("head.t", self.t, 0, 1e3, open_low=True)
        check_positive_int("head.trotter_steps", self.trotter_steps)

    def kernel(self, n_inputs: int, seed: int) -> Kernel:
        """Return the kernel of the Bloch vectors; the random rotations are those of the seed."""
        if self.embedding == "iqp":
            found, weights = _captured("iqp:iqp_bloch", n_inputs, repeats=2), {}
        else:
            shapes, time = {"rotations": (n_inputs + 1, 3)}, self.t / self.trotter_steps * n_inputs
            options = {"time": time, "steps": self.trotter_steps}
            found = _captured("projected:heisenberg_bloch", n_inputs, shapes, **options)
            stream = np.random.default_rng(key_seed(seed, "projected kernel"))
            weights = {"rotations": stream.uniform(0, 2 * math.pi, (n_inputs + 1, 3))}
        return BlochKernel(found, weights, self.gamma_factor, n_inputs, self.variant)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option in ("t", "trotter_steps") and self.embedding == "iqp":
            return "head.embedding is iqp"
        return None


@dataclass(frozen=True, eq=False)
class RbfKernel(Kernel):
    """exp(-gamma |x - y|^2) of the scaled inputs."""

    gamma: float

    def embedded(self, x: np.ndarray) -> np.ndarray:
        """Return the inputs."""
        return np.asarray(x, np.float64)

    def gram(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the kernel (N, M)."""
        from qwafer.models.gram import rbf_gram

        return rbf_gram(left, right, self.gamma)


@dataclass(frozen=True)
class SvcOptions(KernelOptions):
    """exp(-gamma |x - y|^2) of the scaled features: the classical null of the kernels."""

    gamma: float | None = None
    """Width of the kernel; none: 1 / (inputs x pi^2 / 12), that of inputs uniform over the scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is not None:
            check_interval("head.gamma", self.gamma, 0, 1e6, open_low=True)

    def kernel(self, n_inputs: int, seed: int) -> Kernel:
        """Return the kernel of the inputs."""
        return RbfKernel(12 / (math.pi**2 * n_inputs) if self.gamma is None else self.gamma)


def _captured(place: str, n_inputs: int, shapes: Any = (), **arguments: Any) -> Any:
    from qwafer.circuits.capture import circuit_of_name

    return circuit_of_name(f"qwafer.models.{place}", weights=shapes or {}, n_inputs=n_inputs, arguments=arguments)
