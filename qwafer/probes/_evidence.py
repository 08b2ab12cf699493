"""What the gradient probes look at: values, displaced values and gradients of a subject at random points, measured
once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._io import key_seed
from qwafer.engines import get as get_engine
from qwafer.probes._subject import ANGLES, Subject, Weights

Function = Callable[[Weights, Array], Array]

SHIFT = np.pi / 2
"""Displacement of the parameter-shift rule."""


@dataclass(frozen=True)
class Point:
    """One random point of a subject, with all that was measured there. P is the number of parameters of a group."""

    weights: Mapping[str, np.ndarray]
    angles: np.ndarray
    values: Float[np.ndarray, "batch outputs"]
    moved: Mapping[str, np.ndarray]
    """By group (P, batch, outputs): the largest change of each value when that parameter is displaced by +-pi/2."""
    derivative: Mapping[str, np.ndarray]
    """By group (P, batch, outputs): the derivative from displaced values alone, by the group's rule."""
    jacobian: Mapping[str, np.ndarray]
    """By group (batch, outputs, P): the engine's gradient of each value; for `angles`, of the example's own inputs."""
    crosstalk: float
    """Largest gradient of an example's value by another example's inputs; must be exactly 0."""
    dense: Mapping[str, np.ndarray]
    """By group (P,): the engine's gradient for a cotangent without zeros."""
    cotangent: Float[np.ndarray, "batch outputs"]
    """That cotangent."""
    reference_values: np.ndarray | None = None
    """The reference engine's values (batch, outputs), in float64 where JAX has it."""
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
        """Return the largest error of one value that rounding and shots explain, with a safety factor of 4."""
        return 4 * self.scale * self.subject.value_noise()

    def gradient_tolerance(self, group: str) -> float:
        """Return the largest difference between the engine's gradient and the derivative from its values.

        4 (delta (1 + 1/(h sqrt 2)) + R^3 h^2 / 6) scale: delta the error of one value, h the step, R the largest
        frequency; the last term is the truncation of a central difference, absent from the exact rules.
        """
        noise, rule = self.subject.value_noise(), self.subject.rule(group)
        if rule != "difference":
            return 4 * self.scale * 2 * noise
        step = difference_step(self.subject)
        return 4 * self.scale * (noise * (1 + 1 / (step * 2**0.5)) + max_frequency(self.subject) ** 3 * step**2 / 6)


def difference_step(subject: Subject) -> float:
    """Return the step of central differences that balances rounding against truncation: (3 delta / R^3)^(1/3)."""
    return float((3 * subject.value_noise()) ** (1 / 3) / max_frequency(subject))


def max_frequency(subject: Subject) -> int:
    """Return R, the largest frequency of the values in one input: the encodings of that input; 4 for an unknown
    circuit.
    """
    if subject.spec is None:
        return 4
    return max(subject.spec.n_layers, 1) if subject.spec.reupload else 1


def gather(
    subject: Subject,
    *,
    points: int = 2,
    seed: int = 0,
    reference: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> Evidence:
    """Measure `subject` at random points: values, displaced values, gradients and, for a spec, the reference engine.

    Costs 2 P values and (batch * outputs + 1) gradients a point; `progress` is called after each point.
    """
    gradient = _gradient(subject.program)
    truth = _reference(subject) if reference and subject.spec is not None else None
    measured = []
    scale = 1.0
    for index in range(points):
        weights, angles = subject.point(seed, index)
        measured.append(_measure(subject, gradient, truth, weights, angles, key_seed(seed, f"probe/{index}/cotangent")))
        if subject.spec is not None and subject.spec.readout == "z_vec":
            scale = max(scale, float(jnp.max(jnp.sum(jnp.abs(weights["readout"]), axis=-1))))
        progress()
    return Evidence(subject, tuple(measured), scale)


def _measure(
    subject: Subject, gradient: Any, truth: Function | None, weights: dict[str, Array], angles: Array, seed: int
) -> Point:
    values = np.asarray(subject.program(weights, angles), np.float64)
    moved, derivative = _displace(subject.program, subject, weights, angles, values)
    jacobian, crosstalk = _jacobian(subject, gradient, weights, angles, values.shape)
    cotangent = np.random.default_rng(seed).standard_normal(values.shape)
    grad_weights, grad_angles = gradient(weights, angles, jnp.asarray(cotangent, subject.dtype))
    dense = {group: np.asarray(value, np.float64).ravel() for group, value in grad_weights.items()}
    dense[ANGLES] = np.asarray(grad_angles, np.float64).ravel()
    point = Point(
        weights={group: np.asarray(value) for group, value in weights.items()},
        angles=np.asarray(angles),
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
    reference_values = np.asarray(truth(weights, angles), np.float64)
    _, reference = _displace(truth, subject, weights, angles, reference_values, precise=bool(jax.config.jax_enable_x64))
    return dataclasses.replace(point, reference_values=reference_values, reference=reference)


def _gradient(program: Function) -> Any:
    @jax.jit
    def gradient(weights: Weights, angles: Array, cotangent: Array) -> Any:
        return jax.vjp(program, dict(weights), angles)[1](cotangent)

    return gradient


def _reference(subject: Subject) -> Function:
    """Return the reference engine's program, in float64 where JAX has it: its derivatives come from its values.

    Outputs with weights of their own are evaluated one at a time by the program of a single output, which compiles many
    times faster than one of all of them.
    """
    assert subject.spec is not None
    dtype = "float64" if jax.config.jax_enable_x64 else subject.spec.dtype
    spec = dataclasses.replace(subject.spec, dtype=dtype, n_outputs=1)
    program = get_engine("reference").program(spec, subject.batch, gradient=False)
    if "readout" not in subject.shapes:
        return program

    def outputs(weights: Weights, angles: Array) -> Array:
        blocks = [{**weights, "readout": weights["readout"][k : k + 1]} for k in range(subject.shapes["readout"][0])]
        return jnp.concatenate([program(block, angles) for block in blocks], axis=1)

    return outputs


def _displace(
    program: Function,
    subject: Subject,
    weights: dict[str, Array],
    angles: Array,
    values: np.ndarray,
    *,
    precise: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the movement and the derivative of every value by every parameter, from values at displaced points."""
    dtype = "float64" if precise else subject.dtype
    step = 1e-5 if precise else difference_step(subject)
    base = {**{group: np.asarray(value, dtype) for group, value in weights.items()}, ANGLES: np.asarray(angles, dtype)}

    def at(group: str, index: tuple[Any, ...], change: float) -> tuple[np.ndarray, float]:
        displaced = base[group].copy()
        displaced[index] += change
        actual = float(np.ravel(displaced[index] - base[group][index])[0])  # the step that the precision leaves
        full = {**base, group: displaced}
        arrays = {name: jnp.asarray(value) for name, value in full.items()}
        inputs = arrays.pop(ANGLES)
        return np.asarray(program(arrays, inputs), np.float64), actual

    moved, derivative = {}, {}
    for group, shape in subject.group_shapes().items():
        rule = subject.rule(group)
        moves, slopes = [], []
        for index in np.ndindex(*shape):
            where = (slice(None), *index) if group == ANGLES else index
            (plus, up), (minus, down) = at(group, where, SHIFT), at(group, where, -SHIFT)
            moves.append(np.maximum(np.abs(plus - values), np.abs(minus - values)))
            if rule == "shift":
                slopes.append((plus - minus) / 2)
            elif rule == "linear":
                slopes.append((plus - minus) / (up - down))
            else:
                (plus, up), (minus, down) = at(group, where, step), at(group, where, -step)
                slopes.append((plus - minus) / (up - down))
        moved[group] = np.reshape(moves, (-1, *values.shape))
        derivative[group] = np.reshape(slopes, (-1, *values.shape))
    return moved, derivative


def _jacobian(
    subject: Subject, gradient: Any, weights: dict[str, Array], angles: Array, shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], float]:
    """Return the engine's gradient of each value, one cotangent at a time, and the cross-talk between examples."""
    rows: dict[str, list[np.ndarray]] = {group: [] for group in subject.group_shapes()}
    crosstalk = 0.0
    for example, output in np.ndindex(*shape):
        cotangent = np.zeros(shape)
        cotangent[example, output] = 1.0
        grad_weights, grad_angles = gradient(weights, angles, jnp.asarray(cotangent, subject.dtype))
        for group, value in grad_weights.items():
            rows[group].append(np.asarray(value, np.float64).ravel())
        inputs = np.asarray(grad_angles, np.float64)
        rows[ANGLES].append(inputs[example])
        crosstalk = max(crosstalk, float(np.max(np.abs(np.delete(inputs, example, axis=0)), initial=0.0)))
    return {group: np.reshape(value, (*shape, -1)) for group, value in rows.items()}, crosstalk
