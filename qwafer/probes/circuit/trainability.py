"""Does the gradient survive more wires and layers? Its variance over random weights, and its rate of decay."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits import CircuitSpec
from qwafer.circuits.statevector import bloch_vectors, states
from qwafer.probes.circuit.linear import CHUNK_AMPLITUDES, MOST_QUBITS
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report, Verdict

COSTS = ("local", "global")
LOST_SIGMA = 1e-4
"""A standard deviation of the gradient below this is lost in float32 rounding and in any affordable number of shots."""
FAINT_SIGMA = 1e-3
"""Below this a million shots per value, or a mean over many examples, is needed to see a gradient."""
MOST_WIRES = 6
"""Wires by whose rotations the gradient is sampled, at most."""

States = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decay:
    """A fitted law Var = 2^(a - rate n) with its bootstrap interval."""

    rate: float
    """Bits of variance lost per step of the axis (per wire, or per layer)."""
    low: float
    """Lower end of the 95% interval of the rate."""
    high: float
    """Upper end."""
    intercept: float
    """a."""


def expectation_cost(state: np.ndarray, cost: str) -> np.ndarray:
    """Return the cost of states (..., 2^n): `local`, the mean <Z_i> over wires; `global`, |<0...0|psi>|^2.

    The two costs of Cerezo et al. 2021 (Nature Communications 12, 1791) up to sign and constants.
    """
    if cost == "global":
        return np.abs(state[..., 0]) ** 2
    n = int(state.shape[-1]).bit_length() - 1
    return bloch_vectors(state, n)[..., 2].mean(axis=-1)


def two_design_variance(n_qubits: int) -> float:
    """Return Var[d<P>/dw] of a Pauli string P where the circuit is a 2-design before and after the parameter's gate.

    N^2 / (2 (N^2 - 1)(N + 1)), N = 2^n, which tends to 2^-(n+1): the barren plateau of McClean et al. 2018 (Nature
    Communications 9, 4812), here exact, for a rotation exp(-i w G/2) with a Pauli generator.
    """
    dimension = 2**n_qubits
    return dimension**2 / (2 * (dimension**2 - 1) * (dimension + 1))


def gradient_samples(
    states_of: States,
    shapes: Mapping[str, tuple[int, ...]],
    n_inputs: int,
    parameters: Sequence[tuple[str, tuple[int, ...]]],
    *,
    n_samples: int = 500,
    seed: int = 0,
    scale: float | None = None,
) -> dict[str, Float[np.ndarray, "S P"]]:
    """Return dC/dw (n_samples, len(parameters)) of each cost, by the parameter-shift rule at random weights and inputs.

    `states_of` maps weights (S, ...) and inputs (S, n_inputs) to amplitudes (S, 2^n). `parameters` are (group, index)
    pairs. Weights are uniform over a turn, or normal of standard deviation `scale`; inputs are uniform in +-pi/2.
    """
    draws: dict[str, Any] = {}
    for name, shape in shapes.items():
        generator = np.random.default_rng(key_seed(seed, f"plateau/{name}"))
        size = (n_samples, *shape)
        draws[name] = (
            generator.uniform(-np.pi, np.pi, size) if scale is None else scale * generator.standard_normal(size)
        )
    generator = np.random.default_rng(key_seed(seed, "plateau/angles"))
    inputs = generator.uniform(-np.pi / 2, np.pi / 2, (n_samples, n_inputs))
    samples = {cost: np.empty((n_samples, len(parameters))) for cost in COSTS}
    for column, (group, index) in enumerate(parameters):
        displaced = []
        for sign in (1, -1):
            shifted = dict(draws)
            shifted[group] = np.array(draws[group])
            shifted[group][(slice(None), *index)] += sign * np.pi / 2
            displaced.append(states_of(shifted, inputs))
        for cost in COSTS:
            plus, minus = (expectation_cost(state, cost) for state in displaced)
            samples[cost][:, column] = (plus - minus) / 2
    return samples


def spec_gradient_samples(
    spec: CircuitSpec, *, n_samples: int = 500, seed: int = 0, scale: float | None = None
) -> dict[str, Float[np.ndarray, "S P"]]:
    """Return `gradient_samples` of the body of `spec` by one rotation per wire in its middle layer, L // 2.

    It is the first of the layer whose generator does not commute with the readout: RY of Rot, or RX of the basic
    entangler. Of more than six wires six are taken, evenly spaced. The first and the last layer would hide a plateau
    behind their light cones.
    """
    angle = next(place for place, gate in enumerate(spec.layer_gates) if not gate.keeps_z)
    wires = sorted({round(wire) for wire in np.linspace(0, spec.n_qubits - 1, min(spec.n_qubits, MOST_WIRES))})
    middle = [("ansatz", (spec.n_layers // 2, wire, angle)) for wire in wires]
    chunk = max(1, CHUNK_AMPLITUDES >> spec.n_qubits)
    parts = []
    for start in range(0, n_samples, chunk):
        parts.append(
            gradient_samples(
                lambda weights, inputs: states(spec, weights, inputs),
                {"ansatz": spec.weight_shapes()["ansatz"]},
                spec.n_qubits,
                middle,
                n_samples=min(chunk, n_samples - start),
                seed=key_seed(seed, f"chunk/{start}"),
                scale=scale,
            )
        )
    return {cost: np.concatenate([part[cost] for part in parts]) for cost in COSTS}


def gradient_variance(samples: Float[np.ndarray, "S P"]) -> float:
    """Return the variance of the gradient over samples (S, P), averaged over the parameters."""
    return float(np.var(samples, axis=0).mean())


def fit_decay(
    positions: Sequence[int], samples: Sequence[np.ndarray], *, n_resamples: int = 500, seed: int = 0
) -> Decay:
    """Return the least-squares line of log2 Var against `positions`, with a bootstrap interval over the samples.

    `samples` holds the gradients (S, P) at each position; the interval is the 2.5th to the 97.5th percentile of the
    slope over resamples of the rows of each.
    """
    x = np.asarray(positions, np.float64)
    if len(x) < 2:
        raise InputError(f"`positions` must hold at least two sizes for a rate, got {len(x)}")
    generator = np.random.default_rng(seed)
    floor = np.finfo(np.float64).tiny

    def slope(variances: np.ndarray) -> np.ndarray:
        y = np.log2(np.maximum(variances, floor))
        return ((x - x.mean()) @ (y - y.mean(axis=0))) / ((x - x.mean()) ** 2).sum()

    observed = np.array([gradient_variance(values) for values in samples])
    resampled = np.empty((len(samples), n_resamples))
    for row, values in enumerate(samples):
        counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), n_resamples) / len(values)
        resampled[row] = (counts @ values**2 - (counts @ values) ** 2).mean(axis=1)  # weighted variances, no copies
    rate = float(-slope(observed))
    intercept = float(np.log2(np.maximum(observed, floor)).mean() + rate * x.mean())
    low, high = np.percentile(-slope(resampled), [2.5, 97.5])
    return Decay(rate, float(low), float(high), intercept)


def trainability(
    spec: CircuitSpec,
    *,
    qubits: Sequence[int] = (2, 3, 4, 5, 6),
    layers: Sequence[int] = (),
    n_samples: int = 300,
    init_scale: float | None = None,
    seed: int = 0,
) -> Report:
    """Report the variance of the gradient against wires and layers, for a local and a global cost, with fitted decay
    rates.

    Weights are uniform over a turn and, where `init_scale` is given, also normal of that standard deviation, as
    training starts; the verdict is about the latter then. The rate of the local cost is that of sum_i <Z_i>: the
    factor 1/n of mean Z is not a plateau. Beside it stands the rate of a 2-design over the same sizes, the worst case.
    The verdict is about the gradient that is there: the standard deviation of mean Z's gradient at the spec's own
    size, by the rotations in the middle of the ansatz, fails below 1e-4 and warns below 1e-3. Above twelve wires it
    is extrapolated.
    """
    if spec.n_layers == 0:
        return Report("barren plateau", _QUESTION, "skip", "the circuit has no trainable layer")
    layers = tuple(sorted({*(layers or (1, 2 * spec.n_layers)), spec.n_layers}))
    scales = {"uniform": None} if init_scale is None else {"uniform": None, "initial": init_scale}
    rows: list[dict[str, Any]] = []
    fits: dict[str, Decay] = {}
    simulated = spec.n_qubits <= MOST_QUBITS
    sigma = 0.0
    for weights, scale in scales.items():

        def sample(n: int, depth: int, weights: str = weights, scale: float | None = scale) -> dict[str, np.ndarray]:
            resized = dataclasses.replace(spec, n_qubits=n, n_layers=depth, readout="mean_z", n_outputs=1)
            stream = key_seed(seed, f"{n}/{depth}")
            samples = spec_gradient_samples(resized, n_samples=n_samples, seed=stream, scale=scale)
            size = {"n_qubits": n, "n_layers": depth, "weights": weights}
            rows.extend({**size, "cost": cost, "variance": gradient_variance(samples[cost])} for cost in COSTS)
            return {"local": samples["local"] * n, "global": samples["global"]}

        by_size = [sample(n, spec.n_layers) for n in qubits]
        by_depth = [sample(spec.n_qubits, depth) for depth in layers] if simulated else []
        for cost in COSTS:
            fits[f"{cost}, {weights} weights, per wire"] = fit_decay(qubits, [s[cost] for s in by_size], seed=seed)
            if len(by_depth) > 1:
                fits[f"{cost}, {weights} weights, per layer"] = fit_decay(
                    layers, [s[cost] for s in by_depth], seed=seed
                )
        if simulated:
            variance = gradient_variance(by_depth[layers.index(spec.n_layers)]["local"])
        else:
            fit = fits[f"local, {weights} weights, per wire"]
            variance = 2 ** (fit.intercept - fit.rate * spec.n_qubits)
        sigma = variance**0.5 / spec.n_qubits
    own = list(scales)[-1]
    how = own if simulated else f"{own} (extrapolated)"
    local, other = (fits[f"{cost}, {own} weights, per wire"] for cost in COSTS)
    designs = np.log2([two_design_variance(n) * n for n in qubits])
    design = -float(np.polyfit(qubits, designs, 1)[0])
    verdict: Verdict = "fail" if sigma < LOST_SIGMA else "warn" if sigma < FAINT_SIGMA else "pass"
    headline = (
        f"gradient s.d. {sigma:.2g} of mean Z at {how} weights{': nothing to follow' if verdict == 'fail' else ''}; "
        f"bits of variance lost per wire: local cost {local.rate:.2f} [{local.low:.2f}, {local.high:.2f}], global "
        f"{other.rate:.2f} [{other.low:.2f}, {other.high:.2f}], 2-design {design:.2f}"
    )
    return Report(
        name="barren plateau",
        question=_QUESTION,
        verdict=verdict,
        headline=headline,
        numbers={
            "variances": rows,
            "decay": {name: dataclasses.asdict(fit) for name, fit in fits.items()},
            "sigma_at_own_size": sigma,
            "two_design_rate": design,
            "init_scale": init_scale,
            "n_samples": n_samples,
        },
        tolerance=_TOLERANCE,
        meaning=_MEANING,
        remedy=_REMEDY,
    )


_QUESTION = "Does the gradient survive more wires and layers?"
_TOLERANCE = f"fail: s.d. of the gradient below {LOST_SIGMA:g}; warn: below {FAINT_SIGMA:g}"
_MEANING = "An exponentially small gradient cannot be told from rounding or shot noise: more wires train worse."
_REMEDY = "Use fewer layers or wires, small initial weights, or a local readout (mean Z, not a global projector)."


def own_trainability(subject: Subject, *, n_points: int = 16, seed: int = 0) -> Report:
    """Report the gradient of a user's circuit at its own size: the standard deviation of ds/dw over random points.

    A function or QNode has one size, so no rate can be fitted; the verdict is that of `trainability`.
    """
    if not any(math.prod(shape) for shape in subject.shapes.values()):
        return Report("barren plateau", _QUESTION, "skip", "there are no weights to train")
    rows = []
    for index in range(n_points):
        weights, inputs = subject.point(key_seed(seed, "plateau"), index)
        blocks = jax.jacrev(subject.program)(weights, inputs)
        rows.append(
            np.concatenate([np.asarray(block, np.float64).reshape(subject.batch, -1) for block in blocks.values()], 1)
        )
    sigma = gradient_variance(np.concatenate(rows)) ** 0.5
    return Report(
        name="barren plateau",
        question=_QUESTION,
        verdict="fail" if sigma < LOST_SIGMA else "warn" if sigma < FAINT_SIGMA else "pass",
        headline=f"gradient s.d. {sigma:.2g} at random weights; one size only, so no rate",
        numbers={"sigma_at_own_size": sigma, "n_points": n_points},
        tolerance=_TOLERANCE,
        meaning=_MEANING,
        remedy=_REMEDY,
    )
