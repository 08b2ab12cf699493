"""Quantum metric learner (Lloyd et al. 2020, arXiv:2001.03622): an embedding trained to part the classes.

Loss 1 - D_HS, with D_HS = (aa + bb) / 2 - ab of mean fidelities within and between the classes. `as_published`, the
code of Bowles, Ahmed and Schuld 2024 compares example i of a class with example i of the same class, so that
aa = bb = 1 whatever the weights, and only ab is trained; `as_described` takes the mean over all pairs, tr rho^2. Null:
head `svc`.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_choice, check_interval, check_positive_int, check_shape, plain_numbers
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits.captured import CapturedCircuit
from qwafer.models.base import DESCRIBED, PUBLISHED
from qwafer.models.kernels import scaling

INTERVAL = 200
"""Steps of which the mean losses are compared to tell convergence, as in the published code."""
FLOOR = 1e-12
"""Least mean fidelity, so that logits are finite."""


def qaoa_state(weights: Any, x: Any) -> Any:
    """The state of a QAOA embedding on len(x) + 1 wires: RX(x_i), H on the last, a ring of ZZ, RY, and RX once more."""
    import pennylane as qml

    qml.QAOAEmbedding(features=x, weights=weights["angles"], wires=range(len(x) + 1))
    return qml.state()


def self_overlap(weights: Any, x: Any) -> Any:
    """|<psi(x)|psi(x)>|^2 as the published loss takes it: U(x), its adjoint, and the projector on |0...0>."""
    import pennylane as qml

    wires = range(len(x) + 1)
    qml.QAOAEmbedding(features=x, weights=weights["angles"], wires=wires)
    qml.adjoint(qml.QAOAEmbedding)(features=x, weights=weights["angles"], wires=wires)
    return qml.expval(qml.Projector([0] * len(wires), wires=wires))


def angle_shapes(n_inputs: int, n_layers: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of the angles of the embedding."""
    return {"angles": (n_layers, 3 if n_inputs == 1 else 2 * (n_inputs + 1))}


@functools.lru_cache(maxsize=16)
def embedding(n_inputs: int, n_layers: int) -> CapturedCircuit:
    """Return the circuit that embeds inputs, on one wire more."""
    from qwafer.circuits.capture import circuit

    return circuit(qaoa_state, angle_shapes(n_inputs, n_layers), n_inputs)


@dataclass(frozen=True, eq=False)
class FittedMetric:
    """A trained embedding, and the states of examples of both classes."""

    scaler: Any
    angles: np.ndarray
    examples: tuple[np.ndarray, np.ndarray]
    """States (n_examples, 2^n) of class 0 and class 1."""
    n_inputs: int
    n_features: int
    losses: np.ndarray
    """The loss of every step."""
    converged: bool
    """Whether the mean loss had stopped to fall before `head.max_steps`."""

    @property
    def n_parameters(self) -> int:
        """The angles."""
        return int(self.angles.size)

    @shaped()
    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return log(mean fidelity with class 1 / mean fidelity with class 0), (N, 1)."""
        check_shape("features", features, ("N", self.n_features))
        states = _states(self.scaler.transform(np.asarray(features, np.float64)), self.angles)
        means = [(np.abs(states.conj() @ own.T) ** 2).mean(axis=1) + FLOOR for own in self.examples]
        return np.asarray(np.log(means[1] / means[0]), np.float64)[:, None]


@dataclass(frozen=True)
class MetricLearnerOptions:
    """A QAOA embedding trained on the Hilbert-Schmidt distance of the classes, by Adam."""

    n_layers: int = 3
    """Layers of the embedding."""
    n_examples: int = 32
    """Training examples of each class that predictions are compared with."""
    learning_rate: float = 0.01
    """Of Adam."""
    batch_size: int = 32
    """Examples of each class per step."""
    max_steps: int = 2000
    """Most steps, in multiples of 200; fewer where the mean loss of 200 steps stops to change."""
    variant: str = DESCRIBED
    """`as_described`: fidelities of all pairs within a class; `as_published`: of each example with itself."""
    n_components: int | None = None
    """As in `KernelOptions`."""

    sections: ClassVar[tuple[str, ...]] = ("objective",)

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name in ("n_layers", "n_examples", "batch_size"):
            check_positive_int(f"head.{name}", getattr(self, name), maximum=100_000)
        check_positive_int("head.max_steps", self.max_steps, minimum=INTERVAL, maximum=1_000_000)
        if self.n_components is not None:
            check_positive_int("head.n_components", self.n_components, maximum=4096)
        check_interval("head.learning_rate", self.learning_rate, 0, 10, open_low=True)
        check_choice("head.variant", self.variant, (DESCRIBED, PUBLISHED))

    def fit(self, prepared: Any, seed: int) -> FittedMetric:
        """Return the trained embedding; raise InputError for several labels, or a training split of one class."""
        features, labels = prepared.part("train")
        if labels.shape[1] != 1:
            raise InputError(f"the metric learner parts two classes, got {labels.shape[1]} labels: set data.task")
        scaler = scaling(self.n_components, features)
        x = scaler.transform(np.asarray(features, np.float64))
        classes = [x[labels[:, 0] == value] for value in (0, 1)]
        angles, losses, converged = self._trained(classes, seed)
        rng = np.random.default_rng(key_seed(seed, "metric/examples"))
        chosen = [own[rng.permutation(len(own))[: self.n_examples]] for own in classes]
        zero, one = (_states(own, angles) for own in chosen)
        return FittedMetric(scaler, angles, (zero, one), x.shape[1], features.shape[1], losses, converged)

    def _trained(self, classes: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return the angles, the loss of every step, and whether it had converged."""
        import jax.numpy as jnp

        n_inputs = classes[0].shape[1]
        begin, many = _steps(n_inputs, self.n_layers, self.batch_size, self.learning_rate, self.variant == PUBLISHED)
        shape = angle_shapes(n_inputs, self.n_layers)["angles"]
        start = 0.1 * np.random.default_rng(key_seed(seed, "metric/angles")).standard_normal(shape)
        rng = np.random.default_rng(key_seed(seed, "metric/batches"))
        carry, losses, converged = begin(jnp.asarray(start, "float32")), np.zeros(0), False
        while len(losses) + INTERVAL <= self.max_steps and not converged:
            rows = [rng.integers(len(own), size=(INTERVAL, self.batch_size)) for own in classes]
            batches = [own[chosen].astype(np.float32) for own, chosen in zip(classes, rows, strict=True)]
            carry, found = many(carry, jnp.asarray(np.concatenate(batches, axis=1)))
            losses = np.concatenate([losses, np.asarray(found, np.float64)])
            before, last = losses[-2 * INTERVAL : -INTERVAL], losses[-INTERVAL:]
            converged = bool(len(before)) and abs(before.mean() - last.mean()) <= last.std() / INTERVAL**0.5 / 2
        return np.asarray(carry[0]), losses, bool(converged)


@functools.lru_cache(maxsize=8)
def _steps(n_inputs: int, n_layers: int, batch: int, rate: float, same: bool) -> tuple[Any, Any]:
    """Return angles -> the state of Adam, and the compiled (state, x (steps, 2 batch, n_inputs)) -> state, losses."""
    import jax
    import jax.numpy as jnp
    import optax

    from qwafer.engines import get

    program, optimizer = get("xla").program(embedding(n_inputs, n_layers), 2 * batch), optax.adam(rate)

    def loss(angles: Any, x: Any) -> Any:
        real, imaginary = jnp.split(program({"angles": angles}, x), 2, axis=1)
        return hilbert_schmidt_loss(real + 1j * imaginary, same=same)

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        angles, state = carry
        value, gradient = jax.value_and_grad(loss)(angles, x)
        updates, state = optimizer.update(gradient, state, angles)
        return (optax.apply_updates(angles, updates), state), value

    return lambda angles: (angles, optimizer.init(angles)), jax.jit(lambda carry, x: jax.lax.scan(step, carry, x))


def hilbert_schmidt_loss(states: Any, *, same: bool) -> Any:
    """Return 1 - (aa + bb) / 2 + ab of states (2 B, 2^n), those of class 0 first.

    aa, bb and ab are mean fidelities of all pairs, each state taken once; with `same`, as published, of example i with
    example i: aa = bb = 1.
    """
    import jax.numpy as jnp

    half = len(states) // 2
    if same:
        between = jnp.abs(jnp.sum(states[:half].conj() * states[half:], axis=1)) ** 2
        within = jnp.abs(jnp.sum(states.conj() * states, axis=1)) ** 2
        return 1 - jnp.mean(within) + jnp.mean(between)
    gram = jnp.abs(states.conj() @ states.T) ** 2
    return 1 - (jnp.mean(gram[:half, :half]) + jnp.mean(gram[half:, half:])) / 2 + jnp.mean(gram[:half, half:])


def _states(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    from qwafer.engines import get
    from qwafer.models.gram import states_of

    return states_of(get("xla"), embedding(x.shape[1], len(angles)), x, {"angles": angles})
