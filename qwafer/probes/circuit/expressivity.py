"""Which states can the circuit reach, and how entangled are they? Expressibility and entangling capability."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Complex, Float

from qwafer._arrays import shaped
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits.statevector import bloch_vectors
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report

BINS = 75
"""Bins of the fidelity histogram, as in Sim et al. 2019."""
NORM_TOLERANCE = 1e-2
"""Deviation of a state's norm from 1 that rounding, in half precision, too, may explain."""

States = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]


def haar_fidelities(dimension: int, bins: int = BINS) -> Float[np.ndarray, " bins"]:
    """Return the Haar probability of each bin: the integral of (N - 1)(1 - F)^(N - 2), exactly."""
    edges = np.linspace(0, 1, bins + 1)
    return (1 - edges[:-1]) ** (dimension - 1) - (1 - edges[1:]) ** (dimension - 1)


@shaped()
def expressibility(
    first: Complex[np.ndarray, "S dim"], second: Complex[np.ndarray, "S dim"], bins: int = BINS
) -> float:
    """Return KL(P(F) || P_Haar(F)) of the fidelities F = |<psi|phi>|^2 of pairs of states, in nats.

    Smaller is more expressive; 0 for Haar-random states, (N - 1) log(bins) for a circuit without parameters. A finite
    sample of S pairs adds about (occupied bins - 1) / (2 S). Sim, Johnson and Aspuru-Guzik 2019, arXiv:1905.10876,
    eq. 9.
    """
    for name, states in (("first", first), ("second", second)):
        _check_states(name, states)
    fidelities = np.abs((np.conj(first) * second).sum(axis=-1)) ** 2
    counts, _ = np.histogram(np.clip(fidelities, 0, 1), bins=bins, range=(0, 1))
    found = counts / counts.sum()
    # In the last bins the Haar probability underflows long before a histogram is empty: its logarithm does not.
    dimension = first.shape[-1]
    edges = np.linspace(0, 1, bins + 1)
    ratio = np.where(edges[1:] < 1, (1 - edges[1:]) / (1 - edges[:-1]), 0.0)
    log_haar = (dimension - 1) * np.log(1 - edges[:-1]) + np.log1p(-(ratio ** (dimension - 1)))
    occupied = found > 0
    return float((found[occupied] * (np.log(found[occupied]) - log_haar[occupied])).sum())


@shaped()
def meyer_wallach(state: Complex[np.ndarray, "... dim"]) -> Float[np.ndarray, "..."]:
    """Return Q = 2 (1 - mean_i Tr rho_i^2) = 1 - mean_i |b_i|^2 of each state, b_i the Bloch vector of wire i.

    0 for product states, 1 where every wire is maximally mixed (GHZ). Meyer and Wallach 2002; Brennen 2003.
    """
    _check_states("state", state)
    n_qubits = int(state.shape[-1]).bit_length() - 1
    if 2**n_qubits != state.shape[-1]:
        raise InputError(f"`state` must hold 2^n amplitudes, got {state.shape[-1]}")
    bloch = bloch_vectors(state, n_qubits)
    return 1 - (bloch**2).sum(axis=-1).mean(axis=-1)


def _check_states(name: str, states: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(states, axis=-1)
    if np.abs(norms - 1).max() > NORM_TOLERANCE:
        raise InputError(
            f"`{name}` must hold states of norm 1, got one of norm {norms.flat[np.abs(norms - 1).argmax()]:.3g}"
        )


def haar_meyer_wallach(n_qubits: int) -> float:
    """Return the mean Q of Haar-random states, (N - 2) / (N + 1) with N = 2^n."""
    dimension = 2**n_qubits
    return (dimension - 2) / (dimension + 1)


def sample_states(
    states_of: States, shapes: Mapping[str, tuple[int, ...]], n_inputs: int, n_samples: int, seed: int, stream: str
) -> Complex[np.ndarray, "S dim"]:
    """Return the states of uniform random weights at one random input, the same for every stream of a seed."""
    weights = {
        name: np.random.default_rng(key_seed(seed, f"{stream}/{name}")).uniform(-np.pi, np.pi, (n_samples, *shape))
        for name, shape in shapes.items()
    }
    inputs = np.random.default_rng(key_seed(seed, "expressibility/angles")).uniform(
        -np.pi / 2, np.pi / 2, (1, n_inputs)
    )
    return states_of(weights, np.broadcast_to(inputs, (n_samples, n_inputs)))


def expressive_power(subject: Subject, *, n_pairs: int = 5000, seed: int = 0) -> tuple[Report, Report]:
    """Return the reports on expressibility and on entangling capability, from the same random states.

    Weights are uniform over a turn, the input is one random point. Neither fails: they describe. A circuit with more
    than one wire whose states are all product states warns, unless it is the separable null.
    """
    question = "How much of the state space do random weights reach?", "How entangled are the states it reaches?"
    names = "expressibility", "entangling capability"
    if subject.states is None:
        reason = "no statevector: give a circuit, a QNode, or a function that returns amplitudes"
        return Report(names[0], question[0], "skip", reason), Report(names[1], question[1], "skip", reason)
    shapes = dict(subject.shapes if subject.circuit is None else subject.circuit.body().weight_shapes())
    first = sample_states(subject.states, shapes, subject.n_inputs, n_pairs, seed, "expressibility/first")
    second = sample_states(subject.states, shapes, subject.n_inputs, n_pairs, seed, "expressibility/second")
    dimension = first.shape[-1]
    n_qubits = dimension.bit_length() - 1
    divergence = expressibility(first, second)
    floor = (BINS - 1) / (2 * n_pairs)
    idle = (dimension - 1) * np.log(BINS)
    q = meyer_wallach(first)
    error = float(q.std() / np.sqrt(len(q)))
    separable = n_qubits > 1 and float(q.max()) < 1e-6
    expected = subject.circuit is not None and all(op.gate.n_wires == 1 for op in subject.circuit.operations())
    return (
        Report(
            name=names[0],
            question=question[0],
            verdict="pass",
            headline=f"KL to Haar {divergence:.3f} (Haar itself: about {floor:.3f}; no parameters: {idle:.1f})",
            numbers={"kl": divergence, "sampling_floor": floor, "idle": idle, "n_pairs": n_pairs, "bins": BINS},
            tolerance=f"none: a description; {n_pairs} pairs, {BINS} bins, weights uniform over a turn",
            meaning="A large divergence means few reachable states; a small one often comes with a barren plateau.",
            remedy="More layers or another entanglement reach more; compare with `barren plateau` before adding any.",
        ),
        Report(
            name=names[1],
            question=question[1],
            verdict="warn" if separable and not expected else "pass",
            headline=(
                f"Meyer-Wallach Q {q.mean():.3f} +- {error:.3f} (Haar: {haar_meyer_wallach(n_qubits):.3f})"
                + ("; separable on purpose" if separable and expected else "")
            ),
            numbers={
                "q_mean": q.mean(),
                "q_std": q.std(),
                "standard_error": error,
                "haar": haar_meyer_wallach(n_qubits),
            },
            tolerance="warn: no state is entangled though the ansatz has entangling gates",
            meaning="Product states can be simulated wire by wire: nothing in the result needs a quantum computer.",
            remedy="Check the entangling gates; with one wire there is nothing to entangle.",
        ),
    )
