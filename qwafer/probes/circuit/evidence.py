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
from qwafer.circuits import INPUTS
from qwafer.probes.circuit.reference import default_qubit
from qwafer.probes.circuit.subject import Subject, Weights

Function = Callable[[Weights, Array], Array]

Many = Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""Many sets of weights (M, *shape) and inputs (M, batch, n_inputs) to values (M, batch, outputs) in float64."""

SIGMAS = 5.0
"""Standard deviations of shot noise that a difference may have: hundreds of differences are looked at."""
SHIFT = np.pi / 2
"""Displacement of the parameter-shift rule."""


@dataclass(frozen=True)
class Point:
    """One random point of a subject, with all that was measured there. P is the number of parameters of a group."""

    weights: Mapping[str, np.ndarray]
    inputs: np.ndarray
    values: Float[np.ndarray, "batch outputs"]
    moved: Mapping[str, np.ndarray]
    """By group (P, batch, outputs): the largest change of each value when that parameter is displaced by +-pi/2."""
    derivative: Mapping[str, np.ndarray]
    """By group (P, batch, outputs): the derivative from displaced values alone, by the group's rule."""
    jacobian: Mapping[str, np.ndarray]
    """By group (batch, outputs, P): the engine's gradient of each value; for `inputs`, of the example's own."""
    crosstalk: float
    """Largest gradient of an example's value by another example's inputs; must be exactly 0."""
    dense: Mapping[str, np.ndarray]
    """By group (P,): the engine's gradient for a cotangent without zeros."""
    cotangent: Float[np.ndarray, "batch outputs"]
    """That cotangent."""
    reference_values: np.ndarray | None = None
    """The reference engine's values (batch, outputs), in float64."""
    reference: Mapping[str, np.ndarray] | None = None
    """By group (P, batch, outputs): the derivative of the reference engine's values."""


@dataclass(frozen=True)
class Evidence:
    """The points at which a subject was measured, and the errors to expect there."""

    subject: Subject
    points: tuple[Point, ...]
    scale: float
    """Size of the values: 1, or more where readout coefficients are larger."""

    def value_tolerance(self) -> float:
        """Return the largest difference of two values that rounding (safety factor 4) and shots (5 sigma) explain."""
        return self.scale * (4 * self.subject.rounding() + SIGMAS * 2**0.5 * self.subject.shot_noise())

    def zero_gradient(self) -> float:
        """Return the size below which a gradient is zero; a dead one is exactly so, with and without shots."""
        return 8 * self.scale * self.subject.rounding()

    def gradient_tolerance(self, group: str) -> float:
        """Return the largest difference between the engine's gradient and the derivative from its values.

        With delta the rounding and sigma the shot noise of a value: 8 delta + 5 sqrt(2) sigma for the exact rules;
        (4 delta + 5 sqrt(2) sigma)(1 + 1/(h sqrt 2)) + 4 R^3 h^2 / 6 for a central difference of step h, R the largest
        frequency; both times the size of the values. The last term is the truncation of a central difference.
        """
        delta, sigma = self.subject.rounding(), SIGMAS * 2**0.5 * self.subject.shot_noise()
        if self.subject.rule(group) != "difference":
            return self.scale * (8 * delta + sigma)
        step = difference_step(self.subject)
        truncation = 4 * max_frequency(self.subject) ** 3 * step**2 / 6
        return self.scale * ((4 * delta + sigma) * (1 + 1 / (step * 2**0.5)) + truncation)


def difference_step(subject: Subject) -> float:
    """Return the step (3 (delta + sigma) / R^3)^(1/3), which balances noise against truncation."""
    return float((3 * (subject.rounding() + subject.shot_noise())) ** (1 / 3) / max_frequency(subject))


def max_frequency(subject: Subject) -> int:
    """Return R, the largest frequency of the values in one angle; 4 for an unknown circuit."""
    return subject.max_frequency() or 4


def gather(subject: Subject, *, points: int = 2, seed: int = 0, reference: bool = True) -> Evidence:
    """Measure `subject` at random points: values, displaced values, gradients and, with `reference`, the truth.

    Costs 2 P values and (batch * outputs + 1) gradients per point. The truth is PennyLane's `default.qubit`, as engine
    `reference` uses it, on NumPy: nothing to compile; there is none for a circuit without a gate list.
    """
    gradient = _gradient(subject.program)
    truth = functools.partial(default_qubit, subject.circuit) if reference and subject.circuit is not None else None
    measured = []
    scale = 1.0
    for index in range(points):
        weights, inputs = subject.point(seed, index)
        measured.append(_measure(subject, gradient, truth, weights, inputs, key_seed(seed, f"probe/{index}/cotangent")))
        if subject.circuit is not None:
            scale = max(scale, subject.circuit.readout_facts.bound(weights))
    return Evidence(subject, tuple(measured), scale)


def _measure(
    subject: Subject, gradient: Any, truth: Many | None, weights: dict[str, Array], inputs: Array, seed: int
) -> Point:
    values = np.asarray(subject.program(weights, inputs), np.float64)
    moved, derivative = _displace(_one_by_one(subject.program, subject.dtype), subject, weights, inputs, values)
    jacobian, crosstalk = _jacobian(subject, gradient, weights, inputs, values.shape)
    cotangent = np.random.default_rng(seed).standard_normal(values.shape)
    grad_weights, grad_inputs = gradient(weights, inputs, jnp.asarray(cotangent, subject.dtype))
    dense = {group: np.asarray(value, np.float64).ravel() for group, value in grad_weights.items()}
    dense[INPUTS] = np.asarray(grad_inputs, np.float64).ravel()
    point = Point(
        weights={group: np.asarray(value) for group, value in weights.items()},
        inputs=np.asarray(inputs),
        values=values,
        moved=moved,
        derivative=derivative,
        jacobian=jacobian,
        crosstalk=crosstalk,
        dense=dense,
        cotangent=cotangent,
    )
    if truth is None:
        return point
    exact = {group: np.asarray(value, np.float64)[None] for group, value in weights.items()}
    reference_values = truth(exact, np.asarray(inputs, np.float64)[None])[0]
    _, reference = _displace(truth, subject, weights, inputs, reference_values, precise=True)
    return dataclasses.replace(point, reference_values=reference_values, reference=reference)


def _gradient(program: Function) -> Any:
    @jax.jit
    def gradient(weights: Weights, inputs: Array, cotangent: Array) -> Any:
        return jax.vjp(program, dict(weights), inputs)[1](cotangent)

    return gradient


def _one_by_one(program: Function, dtype: str) -> Many:
    """Return `program` for many sets of weights and inputs, called once for each."""

    def many(weights: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
        values = []
        for index in range(len(inputs)):
            one = {group: jnp.asarray(value[index], dtype) for group, value in weights.items()}
            values.append(np.asarray(program(one, jnp.asarray(inputs[index], dtype)), np.float64))
        return np.stack(values)

    return many


def _displace(
    many: Many,
    subject: Subject,
    weights: Mapping[str, Array],
    inputs: Array,
    values: np.ndarray,
    *,
    precise: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the movement and the derivative of every value by every parameter, from values at displaced points."""
    dtype = "float64" if precise else subject.dtype
    step = 1e-5 if precise else difference_step(subject)
    base = {**{group: np.asarray(value, dtype) for group, value in weights.items()}, INPUTS: np.asarray(inputs, dtype)}
    moved, derivative = {}, {}
    for group, shape in subject.group_shapes().items():
        rule = subject.rule(group)
        indices = list(np.ndindex(*shape))
        if not indices:
            moved[group] = derivative[group] = np.zeros((0, *values.shape))
            continue
        changes = [SHIFT, -SHIFT] + ([step, -step] if rule == "difference" else [])
        stacked = np.repeat(base[group][None], len(indices) * len(changes), axis=0)
        actual = np.empty(len(stacked))  # the steps that the precision leaves
        for row in range(len(stacked)):
            place, change = divmod(row, len(changes))
            where = (row, slice(None), *indices[place]) if group == INPUTS else (row, *indices[place])
            before = np.ravel(stacked[where])[0]
            stacked[where] += np.asarray(changes[change], dtype)
            actual[row] = np.ravel(stacked[where])[0] - before
        full = {name: np.repeat(value[None], len(stacked), axis=0) for name, value in base.items() if name != group}
        full[group] = stacked
        found = many(full, full.pop(INPUTS)).reshape(len(indices), len(changes), *values.shape)
        steps = actual.reshape(len(indices), len(changes))
        moved[group] = np.abs(found[:, :2] - values).max(axis=1)
        if rule == "shift":
            derivative[group] = (found[:, 0] - found[:, 1]) / 2
        else:
            width = (steps[:, -2] - steps[:, -1])[:, None, None]
            derivative[group] = (found[:, -2] - found[:, -1]) / width
    return moved, derivative


def _jacobian(
    subject: Subject, gradient: Any, weights: dict[str, Array], inputs: Array, shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], float]:
    """Return the engine's gradient of each value, one cotangent at a time, and the cross-talk between examples."""
    rows: dict[str, list[np.ndarray]] = {group: [] for group in subject.group_shapes()}
    crosstalk = 0.0
    for example, output in np.ndindex(*shape):
        cotangent = np.zeros(shape)
        cotangent[example, output] = 1.0
        grad_weights, grad_inputs = gradient(weights, inputs, jnp.asarray(cotangent, subject.dtype))
        for group, value in grad_weights.items():
            rows[group].append(np.asarray(value, np.float64).ravel())
        d_inputs = np.asarray(grad_inputs, np.float64)
        rows[INPUTS].append(d_inputs[example])
        crosstalk = max(crosstalk, float(np.max(np.abs(np.delete(d_inputs, example, axis=0)), initial=0.0)))
    return {group: np.reshape(value, (*shape, -1)) for group, value in rows.items()}, crosstalk
