"""How many parameters count? Fisher spectrum and effective dimension (Abbas et al. 2021)."""

import math

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.probes.circuit.linear import effective_rank, spec_jacobian, spec_values
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report


def bernoulli_fisher(
    logits: Float[np.ndarray, "N K"], jacobian: Float[np.ndarray, "N K P"]
) -> Float[np.ndarray, "P P"]:
    """Return F = (1/N) sum_x sum_k p_k (1 - p_k) (dl_k/dw)(dl_k/dw)^T of independent labels with p = sigmoid(l)."""
    p = 1 / (1 + np.exp(-logits))
    weighted = jacobian * (p * (1 - p))[..., None]
    return np.tensordot(weighted, jacobian, axes=([0, 1], [0, 1])) / len(logits)


def categorical_fisher(
    probabilities: Float[np.ndarray, "N C"], jacobian: Float[np.ndarray, "N C P"]
) -> Float[np.ndarray, "P P"]:
    """Return F = (1/N) sum_x sum_c (1/p_c) (dp_c/dw)(dp_c/dw)^T; outcomes of probability 0 do not occur."""
    inverse = np.where(probabilities > 1e-12, 1 / np.maximum(probabilities, 1e-12), 0.0)
    return np.tensordot(jacobian * inverse[..., None], jacobian, axes=([0, 1], [0, 1])) / len(probabilities)


@shaped()
def effective_dimension(fishers: Float[np.ndarray, "S P P"], n_data: int, *, gamma: float = 1.0) -> float:
    """Return the effective dimension d_{gamma,n} of Fisher matrices at S random parameters.

    d = 2 log( (1/V) int sqrt(det(1 + kappa F^)) dw ) / log kappa, kappa = gamma n / (2 pi log n), with F^ = P F /
    mean tr F, so that the mean trace of F^ is P. Abbas et al. 2021, "The power of quantum neural networks", Nature
    Computational Science 1, 403, eq. 2 and 3. Raises InputError where kappa is at most 1: more data.
    """
    check_positive_int("n_data", n_data, minimum=2, maximum=10**300)
    check_interval("gamma", gamma, 0, 1, open_low=True)
    kappa = gamma * n_data / (2 * math.pi * math.log(n_data))
    if kappa <= 1:
        raise InputError(
            f"`n_data` = {n_data} is too small for an effective dimension: kappa = {kappa:.3g} must exceed 1"
        )
    trace = float(np.trace(fishers, axis1=1, axis2=2).mean())
    size = fishers.shape[-1]
    if trace <= 0:
        return 0.0
    normalized = fishers * (size / trace)
    _, logdet = np.linalg.slogdet(np.eye(size)[None] + kappa * normalized)
    half = logdet / 2
    top = half.max()
    return float(2 * (top + np.log(np.mean(np.exp(half - top)))) / math.log(kappa))


def spec_fishers(
    subject: Subject, *, n_weights: int = 40, n_inputs: int = 32, alpha: float = 4.0, seed: int = 0
) -> Float[np.ndarray, "S P P"]:
    """Return the Fisher matrices of p = sigmoid(alpha s(x)) at random weights, inputs uniform in +-pi/2."""
    inputs = np.random.default_rng(key_seed(seed, "fisher/angles")).uniform(
        -np.pi / 2, np.pi / 2, (n_inputs, subject.n_inputs)
    )
    fishers = []
    for index in range(n_weights):
        weights, _ = subject.point(key_seed(seed, "fisher/weights"), index)
        plain = {group: np.asarray(value, np.float64) for group, value in weights.items()}
        if subject.spec is not None:
            values, jacobian = spec_values(subject.spec, plain, inputs), spec_jacobian(subject.spec, plain, inputs)
        else:
            values, jacobian = subject.values_at(plain, inputs), _jax_jacobian(subject, plain, inputs)
        fishers.append(bernoulli_fisher(alpha * values, alpha * jacobian))
    return np.stack(fishers)


def fisher_report(
    subject: Subject, *, n_data: int = 1000, n_weights: int = 40, n_inputs: int = 32, alpha: float = 4.0, seed: int = 0
) -> Report:
    """Report the Fisher spectrum and the effective dimension of p = sigmoid(alpha s(x)) at random weights.

    Warns where one direction holds all of the Fisher information: the others are flat, and training cannot find its way
    along them.
    """
    name, question = "effective dimension", "How many parameters does the model really use?"
    n_parameters = sum(int(np.prod(shape)) for shape in subject.shapes.values())
    if n_parameters == 0:
        return Report(name, question, "skip", "the circuit has no parameters")
    fishers = spec_fishers(subject, n_weights=n_weights, n_inputs=n_inputs, alpha=alpha, seed=seed)
    dimension = effective_dimension(fishers, n_data)
    mean = fishers.mean(axis=0)
    eigenvalues = np.clip(np.linalg.eigvalsh(mean)[::-1], 0, None)
    directions = effective_rank(np.sqrt(eigenvalues))
    zero = float(np.mean(eigenvalues < 1e-9 * max(eigenvalues[0], 1e-300)))
    single = n_parameters > 1 and directions < 1.05
    return Report(
        name=name,
        question=question,
        verdict="warn" if single else "pass",
        headline=(
            f"{dimension:.1f} of {n_parameters} parameters at {n_data} examples; Fisher spectrum spans "
            f"{directions:.1f} directions, {zero:.0%} of it is zero"
        ),
        numbers={
            "effective_dimension": dimension,
            "normalized": dimension / n_parameters,
            "n_parameters": n_parameters,
            "n_data": n_data,
            "fisher_eigenvalues": eigenvalues,
            "fisher_directions": directions,
        },
        tolerance="warn: the Fisher spectrum spans fewer than 1.05 directions (exponential of its entropy)",
        meaning="Parameters without Fisher information do not change what the model says about the data.",
        remedy="Compare with `sensitivity` (inert parameters) and `output rank`; count this dimension as capacity.",
    )


def _jax_jacobian(subject: Subject, weights: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return d s / d w (N, K, P) of a user's circuit by JAX, a batch at a time."""
    import jax
    import jax.numpy as jnp

    arrays = {group: jnp.asarray(value, subject.dtype) for group, value in weights.items()}
    parts = []
    for start in range(0, len(inputs), subject.batch):
        part = inputs[start : start + subject.batch]
        padded = np.concatenate([part, np.repeat(part[-1:], subject.batch - len(part), axis=0)])
        blocks = jax.jacrev(subject.program)(arrays, jnp.asarray(padded, subject.dtype))
        flat = [
            np.asarray(blocks[group], np.float64).reshape(subject.batch, -1, arrays[group].size) for group in arrays
        ]
        parts.append(np.concatenate(flat, axis=-1)[: len(part)])
    return np.concatenate(parts)
