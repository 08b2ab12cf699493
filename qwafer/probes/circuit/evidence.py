"""What the gradient probes look at: values, displaced values and gradients at random points, measured once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._io import key_seed
from qwafer._process import compiler_options
from qwafer.circuits import INPUTS
from qwafer.circuits.statevector import bloch_vectors, states
from qwafer.circuits.statevector import jacobian as adjoint
from qwafer.circuits.statevector import values as definition
from qwafer.probes.circuit.reference import default_qubit
from qwafer.probes.circuit.subject import Subject, Weights

Function = Callable[[Weights, Array], Array]

SIGMAS = 7.0
"""Standard deviations of shot noise that a difference may have: 10^5 differences are looked at (64 examples, 8 outputs,
150 parameters), of which one in 4 x 10^11 exceeds it by chance."""
SHIFT = np.pi / 2
"""Displacement of the parameter-shift rule. A sinusoid of frequency 1 moves under it, or under its opposite, by its
amplitude or more."""
DISPLACEMENTS = (1.251, 2.698, 1.225)
"""Displacements (radians) of an angle that several gates hold: under one of them every frequency up to 200 moves by
0.44 of the most that it can. Under +-pi/2, and any fraction of a turn, some frequency does not move at all."""
PROBED_ROWS = 3
"""Examples of a batch whose values are differentiated one by one; all others by random sums."""
MIXTURES = 2
"""Random sums of all values of a batch whose gradient is taken."""


@dataclass(frozen=True)
class Point:
    """One point of a subject, with all that was measured there.

    P is the number of parameters of a group, R that of the probed rows of the batch, C that of the random sums.
    """

    weights: Mapping[str, np.ndarray]
    inputs: np.ndarray
    values: Float[np.ndarray, "batch outputs"]
    moved: Mapping[str, np.ndarray]
    """By group (P, R, outputs): the largest change of each value when that parameter is displaced."""
    derivative: Mapping[str, np.ndarray]
    """By group (P, batch, outputs): the derivative from displaced values alone, by the group's rule."""
    jacobian: Mapping[str, np.ndarray]
    """By group (R, outputs, P): the engine's gradient of each value; for `inputs`, of the example's own."""
    crosstalk: float
    """Largest gradient of an example's value by another example's inputs; must be exactly 0."""
    dense: Mapping[str, np.ndarray]
    """By group (C, P): the engine's gradient of random sums of all values; for `inputs` (C, batch, P)."""
    cotangents: Float[np.ndarray, "C batch outputs"]
    """The coefficients of these sums."""
    evaluated: tuple[np.ndarray, np.ndarray] | None = None
    """Values of the evaluation program at examples of its own batch, and what they are by definition, in float64."""
    reference_values: np.ndarray | None = None
    """The values by definition (batch, outputs), in float64: the reference engine's at the probed rows."""
    reference: Mapping[str, np.ndarray] | None = None
    """By group (R, outputs, P): their derivative, by an adjoint sweep of the gates."""
    place: str = ""
    """Where it is, if not anywhere: `where a run starts`."""


@dataclass(frozen=True)
class Evidence:
    """The points at which a subject was measured, and the errors to expect there."""

    subject: Subject
    points: tuple[Point, ...]
    scale: float
    """Size of the values: 1, or more where readout coefficients are larger."""
    rows: tuple[int, ...]
    """Examples of a batch that are looked at one by one: the first, the last, and one between."""

    def agrees(self, point: Point) -> bool:
        """Return whether the values of a point are those of the definition."""
        if point.reference_values is None:
            return False
        return float(np.abs(point.values - point.reference_values).max()) <= self.value_tolerance()

    def bloch(self, point: Point) -> Float[np.ndarray, "batch n_qubits 3"] | None:
        """Return the Bloch vectors of the body at a point; None where nothing gives them.

        Those of the definition where the values agree with it, which no program needs to be compiled for; else those
        that the engine measures, so that a wrong body is not taken for a wrong readout.
        """
        circuit = self.subject.circuit
        if circuit is None or self.subject.bloch is None:
            return None
        if self.agrees(point):
            exact = bloch_vectors(states(circuit, point.weights, point.inputs), circuit.n_qubits)
            return np.broadcast_to(exact, (len(point.inputs), circuit.n_qubits, 3))  # a circuit need not use its inputs
        weights = {group: jnp.asarray(point.weights[group]) for group in circuit.body().weight_shapes()}
        found = np.asarray(self.subject.bloch(weights, jnp.asarray(point.inputs)), np.float64)
        return found.reshape(len(point.inputs), circuit.n_qubits, 3)

    def value_tolerance(self) -> float:
        """Return the largest difference of two values that rounding (safety factor 4) and shots (7 sigma) explain."""
        return self.scale * (4 * self.subject.rounding() + SIGMAS * 2**0.5 * self.subject.shot_noise())

    def zero_gradient(self) -> float:
        """Return the size below which a gradient is zero; a dead one is exactly so, with and without shots."""
        return 8 * self.scale * self.subject.rounding()

    def gradient_tolerance(self, group: str) -> float:
        """Return the largest difference between the engine's gradient and the derivative from its values.

        With delta the rounding and sigma the shot noise of a value: 8 delta + 7 sqrt(2) sigma for the exact rules;
        (4 delta + 7 sqrt(2) sigma)(1 + 1/(h sqrt 2)) + 4 R^3 h^2 / 6 for a central difference of step h, R the largest
        frequency; both times the size of the values. The last term is the truncation of a central difference.
        """
        delta, sigma = self.subject.rounding(), SIGMAS * 2**0.5 * self.subject.shot_noise()
        if self.subject.rule(group) != "difference":
            return self.scale * (8 * delta + sigma)
        step = difference_step(self.subject)
        truncation = 4 * max_frequency(self.subject) ** 3 * step**2 / 6
        return self.scale * ((4 * delta + sigma) * (1 + 1 / (step * 2**0.5)) + truncation)

    def reference_tolerance(self) -> float:
        """Return the largest difference between the engine's gradient and the exact derivative.

        R (8 delta + 7 sqrt(2) sigma) times the size of the values, R the gates that hold one angle at most: there is no
        truncation in it.
        """
        delta, sigma = self.subject.rounding(), SIGMAS * 2**0.5 * self.subject.shot_noise()
        return self.scale * max_frequency(self.subject) * (8 * delta + sigma)


def difference_step(subject: Subject) -> float:
    """Return the step (3 (delta + sigma) / R^3)^(1/3), which balances noise against truncation."""
    return float((3 * (subject.rounding() + subject.shot_noise())) ** (1 / 3) / max_frequency(subject))


def max_frequency(subject: Subject) -> float:
    """Return R, the largest frequency of the values in one angle; 4 for an unknown circuit."""
    return subject.max_frequency() or 4


def gather(subject: Subject, *, points: int = 2, seed: int = 0, reference: bool = True) -> Evidence:
    """Measure `subject` at random points and where its runs start: values, displaced values, gradients and, with
    `reference`, the truth.

    Costs 2 P values (5 P where angles are used more than once) and 3 n_outputs + 2 gradients of a batch per point.
    Every example of the batch counts: three are differentiated value by value, all together in random sums. The truth
    is made on NumPy, with nothing to compile: PennyLane's `default.qubit` at these three, the definition of the circuit
    at all; there is none for a circuit without a gate list.
    """
    gradient = _gradient(subject.program)
    between = np.random.default_rng(key_seed(seed, "probe/rows")).integers(1, max(subject.batch - 1, 2))
    rows = tuple(sorted({0, min(int(between), subject.batch - 1), subject.batch - 1}))[:PROBED_ROWS]
    places = [(*subject.point(seed, index), "") for index in range(points)]
    places += [
        (*start, "where the run starts" if subject.starts else "at small weights")
        for start in subject.start_points(seed)
    ]
    measured = []
    scale = 1.0
    for index, (weights, inputs, place) in enumerate(places):
        stream = key_seed(seed, f"probe/{index}")
        point = _measure(subject, gradient, rows, weights, inputs, reference, stream)
        measured.append(dataclasses.replace(point, place=place))
        if subject.circuit is not None:
            scale = max(scale, subject.circuit.readout_facts.bound(weights))
    return Evidence(subject, tuple(measured), scale, rows)


def _measure(
    subject: Subject,
    gradient: Any,
    rows: tuple[int, ...],
    weights: dict[str, Array],
    inputs: Array,
    reference: bool,
    seed: int,
) -> Point:
    chosen = list(rows)
    values = np.asarray(subject.program(weights, inputs), np.float64)
    moved, derivative = _displace(subject, weights, inputs, values, chosen)
    jacobian, crosstalk = _jacobian(subject, gradient, weights, inputs, values.shape, chosen)
    cotangents = np.random.default_rng(key_seed(seed, "cotangent")).standard_normal((MIXTURES, *values.shape))
    sums = [gradient(weights, inputs, jnp.asarray(cotangent, subject.dtype)) for cotangent in cotangents]
    dense = {group: np.stack([np.ravel(np.asarray(own[group], np.float64)) for own, _ in sums]) for group in weights}
    dense[INPUTS] = np.stack([np.asarray(by_inputs, np.float64) for _, by_inputs in sums])
    exact = {group: np.asarray(value, np.float64) for group, value in weights.items()}
    plain = np.asarray(inputs, np.float64)
    evaluated = truth = by_parameter = None
    if reference and subject.circuit is not None:
        truth = np.array(definition(subject.circuit, exact, plain))
        one = {group: value[None] for group, value in exact.items()}
        truth[chosen] = default_qubit(subject.circuit, one, plain[None, chosen])[0]
        found = adjoint(subject.circuit, exact, plain[chosen])
        by_parameter = {group: value.reshape(*value.shape[:2], -1) for group, value in found.items()}
        if subject.evaluation is not None:
            shown = jnp.asarray(subject.filled(plain, subject.evaluation.batch, seed, "evaluation"), subject.dtype)
            at_evaluation = np.asarray(subject.evaluation(weights, shown), np.float64)
            evaluated = at_evaluation, definition(subject.circuit, exact, np.asarray(shown, np.float64))
    return Point(
        weights={group: np.asarray(value) for group, value in weights.items()},
        inputs=np.asarray(inputs),
        values=values,
        moved=moved,
        derivative=derivative,
        jacobian=jacobian,
        crosstalk=crosstalk,
        dense=dense,
        cotangents=cotangents,
        evaluated=evaluated,
        reference_values=truth,
        reference=by_parameter,
    )


def _gradient(program: Function) -> Any:
    @functools.partial(jax.jit, compiler_options=compiler_options())
    def gradient(weights: Weights, inputs: Array, cotangent: Array) -> Any:
        return jax.vjp(program, dict(weights), inputs)[1](cotangent)

    return gradient


def _displace(
    subject: Subject, weights: Mapping[str, Array], inputs: Array, values: np.ndarray, rows: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the movement and the derivative of every value by every parameter, from values at displaced points."""
    step = difference_step(subject)
    base = {**weights, INPUTS: inputs}
    moved, derivative = {}, {}
    for group, shape in subject.group_shapes().items():
        rule = subject.rule(group)
        changes = (*DISPLACEMENTS, step, -step) if rule == "difference" else (SHIFT, -SHIFT)
        indices = list(np.ndindex(*shape))
        movements = np.zeros((len(indices), len(rows), values.shape[1]))
        derivatives = np.zeros((len(indices), *values.shape))
        for place, index in enumerate(indices):
            where = (slice(None), *index) if group == INPUTS else index
            found, steps = [], []
            for change in changes:
                value = np.array(base[group])
                before = np.ravel(value[where])[0]
                value[where] += np.asarray(change, subject.dtype)
                steps.append(float(np.ravel(value[where])[0]) - float(before))  # the step that the precision leaves
                arguments = {**base, group: jnp.asarray(value)}
                found.append(np.asarray(subject.program(arguments, arguments.pop(INPUTS)), np.float64))
            kept = found[:-2] if rule == "difference" else found
            movements[place] = np.abs(np.stack(kept)[:, rows] - values[rows]).max(axis=0)
            width = 2.0 if rule == "shift" else steps[-2] - steps[-1]
            derivatives[place] = (found[-2] - found[-1]) / width
        moved[group], derivative[group] = movements, derivatives
    return moved, derivative


def _jacobian(
    subject: Subject,
    gradient: Any,
    weights: dict[str, Array],
    inputs: Array,
    shape: tuple[int, ...],
    chosen: list[int],
) -> tuple[dict[str, np.ndarray], float]:
    """Return the engine's gradient of each value of the `chosen` examples, one cotangent at a time, and the cross-talk
    between examples.
    """
    rows: dict[str, list[np.ndarray]] = {group: [] for group in subject.group_shapes()}
    crosstalk = 0.0
    for place, output in np.ndindex(len(chosen), shape[1]):
        example = chosen[place]
        cotangent = np.zeros(shape)
        cotangent[example, output] = 1.0
        grad_weights, grad_inputs = gradient(weights, inputs, jnp.asarray(cotangent, subject.dtype))
        for group, value in grad_weights.items():
            rows[group].append(np.asarray(value, np.float64).ravel())
        d_inputs = np.asarray(grad_inputs, np.float64)
        rows[INPUTS].append(d_inputs[example])
        crosstalk = max(crosstalk, float(np.max(np.abs(np.delete(d_inputs, example, axis=0)), initial=0.0)))
    return {group: np.reshape(value, (len(chosen), shape[1], -1)) for group, value in rows.items()}, crosstalk
