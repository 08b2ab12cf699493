"""Which frequencies of each input does the model contain? Its Fourier coefficients, from values on a grid."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Complex

from qwafer.circuits import INPUTS
from qwafer.circuits.frequencies import is_periodic, uses
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report, Verdict

ZERO = 1e-5
"""A coefficient below this (in units of the values) counts as absent; float32 values carry errors of a few 1e-7."""


def fourier_coefficients(function: Callable[[np.ndarray], np.ndarray], degree: int) -> Complex[np.ndarray, "..."]:
    """Return c_0 ... c_degree of s(x) = sum_w c_w e^(i w x), c_-w = conj(c_w), for a 2 pi-periodic `function`.

    `function` maps x (G,) to values (G, ...); it is read at 2 degree + 1 equidistant points, which determine the
    coefficients exactly if no frequency exceeds `degree` (Schuld, Sweke and Meyer 2021, arXiv:2008.08605). Returns
    (degree + 1, ...).
    """
    points = 2 * degree + 1
    grid = 2 * np.pi * np.arange(points) / points
    return np.fft.fft(function(grid), axis=0)[: degree + 1] / points


def accessible_degree(subject: Subject) -> int | None:
    """Return the largest frequency that an input can have: how often it is encoded; None for an unknown circuit, and
    where values do not have the period 2 pi.
    """
    if subject.circuit is None or not is_periodic(subject.circuit, INPUTS):
        return None
    found = uses(subject.circuit, INPUTS)
    return None if found is None else round(found)


def fourier_spectrum(subject: Subject, *, n_points: int = 8, max_degree: int = 8, seed: int = 0) -> Report:
    """Report the Fourier spectrum of the model in each input, over random weights and values of the other inputs.

    For a Pauli rotation the accessible frequencies are 0 ... L, L the number of encodings of the input. Frequencies
    beyond that fail for a known circuit (the engine computes something else). An input that is in no frequency but 0
    does nothing. For a user's circuit frequencies up to `max_degree` are looked for, and power at the last one warns:
    the spectrum may go on.
    """
    limit = accessible_degree(subject)
    degree = max_degree if limit is None else limit + 2
    power = np.zeros((subject.n_inputs, degree + 1))
    zero = max(ZERO, 10 * subject.rounding() + 5 * subject.shot_noise())
    for index in range(n_points):
        weights, inputs = subject.point(seed, index)
        plain = {group: np.asarray(value, np.float64) for group, value in weights.items()}
        base = np.asarray(inputs, np.float64)[0]
        for i in range(subject.n_inputs):
            function = _along(subject, plain, base, i)
            coefficients = np.abs(fourier_coefficients(function, degree)).reshape(degree + 1, -1).max(axis=1)
            power[i] = np.maximum(power[i], coefficients)
    reached = [int(np.flatnonzero(row > zero)[-1]) if (row > zero).any() else 0 for row in power]
    verdict: Verdict = "pass"
    top = max(reached, default=0)
    least = min(reached, default=0)
    headline = f"every input reaches frequency {top}" if least == top else f"inputs reach frequencies {least} to {top}"
    if limit is not None:
        headline += f" of {limit} accessible"
        if top > limit:
            verdict = "fail"
            headline = f"input {reached.index(top)} shows frequency {top}, but only {limit} is accessible"
    elif top == degree:
        verdict = "warn"
        headline = f"input {reached.index(top)} still has power at frequency {degree}: the spectrum may go on"
    numbers: dict[str, Any] = {
        "largest_coefficients": power,
        "reached": reached,
        "accessible": limit,
        "zero": zero,
        "frequencies": list(range(degree + 1)),
    }
    return Report(
        name="fourier spectrum",
        question="Which frequencies of each input can the model express?",
        verdict=verdict,
        headline=headline,
        numbers=numbers,
        tolerance=f"a coefficient above {zero:.1g} at any of {n_points} random points counts",
        meaning="The model is a trigonometric polynomial of this degree in each input, whatever the ansatz does.",
        remedy="For higher frequencies encode the data again (circuit.reupload) or widen the angle map.",
    )


def _along(subject: Subject, weights: dict[str, np.ndarray], base: np.ndarray, i: int) -> Callable[[np.ndarray], Any]:
    """Return s as a function of input i (G,), the others fixed."""

    def function(grid: np.ndarray) -> np.ndarray:
        points = np.tile(base, (len(grid), 1))
        points[:, i] = grid
        return subject.values_at(weights, points)

    return function
