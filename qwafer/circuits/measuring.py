"""PennyLane measurements as Pauli words of the state and a linear map from their values to outputs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer.circuits.expansion import Condition, real_words

MOST_PROBABILITIES = 12
"""Wires whose probabilities are measured together, at most: each is a sum of 2^k words."""


@dataclass(frozen=True)
class Expectation:
    """One output: sum_j c_j <P_j>."""

    words: tuple[int, ...]
    """Places of P_j among the values: 0 is the identity, then the words that are measured."""
    constants: tuple[float | None, ...]
    """c_j; None where it is traced."""
    coefficients: tuple[int, ...]
    """For each c_j that is traced its place among the coefficients, in order."""

    n_outputs = 1

    def read(self, values: Any, coefficients: Any, xp: ModuleType) -> Any:
        """Return the output (..., 1) of `values` (..., 1 + words), identity first, and `coefficients` (..., C)."""
        chosen = values[..., list(self.words)]
        fixed = np.array([0.0 if value is None else value for value in self.constants])
        total = xp.sum(chosen * xp.asarray(fixed, values.dtype).reshape((1,) * (values.ndim - 1) + (-1,)), axis=-1)
        if self.coefficients:
            traced = [place for place, value in enumerate(self.constants) if value is None]
            total = total + xp.sum(chosen[..., traced] * coefficients[..., list(self.coefficients)], axis=-1)
        return total[..., None]


@dataclass(frozen=True)
class Probabilities:
    """2^k outputs: the probabilities of the basis states of k wires, p = 2^-k H <Z words>, H the Walsh transform."""

    words: tuple[int, ...]
    """Places of the 2^k words among the values, in binary order of the wires that they have Z on."""

    @property
    def n_outputs(self) -> int:
        """Basis states."""
        return len(self.words)

    def read(self, values: Any, coefficients: Any, xp: ModuleType) -> Any:
        """Return the outputs (..., 2^k); see `Expectation.read`."""
        return walsh(values[..., list(self.words)], xp) / len(self.words)


def walsh(values: Any, xp: ModuleType) -> Any:
    """Return sum_j (-1)^(popcount(i & j)) values[..., j] for every i of the last axis, of length 2^k."""
    n = values.shape[-1].bit_length() - 1
    lead = values.shape[:-1]
    for place in range(n):
        pairs = values.reshape(*lead, 2**place, 2, 2 ** (n - 1 - place))  # there may be no rows
        zero, one = pairs[..., 0, :], pairs[..., 1, :]
        values = xp.stack([zero + one, zero - one], axis=-2).reshape(*lead, 2**n)
    return values


def sum_of_words(values: Any, matrix: np.ndarray, xp: ModuleType) -> Any:
    """Return values (..., words) times `matrix` (words, K), in full precision on every device."""
    options = {} if xp is np else {"precision": "highest"}
    return xp.matmul(values, xp.asarray(matrix, values.dtype), **options)


@dataclass(frozen=True)
class Measured:
    """What a function returns, as data."""

    words: tuple[str, ...]
    """The Pauli words, a letter per wire, without the identity; empty where the state is returned."""
    outputs: tuple[Expectation | Probabilities, ...]
    """How they become outputs; empty where the state is returned."""
    coefficients: tuple[Any, ...]
    """The traced coefficients."""
    conditions: tuple[Condition, ...] = ()
    """What must vanish for them to be real."""


def measurements(returned: Any) -> list[Any]:
    """Return the measurements that a function returned, one or (nested) tuples of them; none for None."""
    import pennylane as qml

    if returned is None:
        return []
    if isinstance(returned, (tuple, list)):
        return [leaf for part in returned for leaf in measurements(part)]
    if isinstance(returned, qml.measurements.MeasurementProcess):
        return [returned]
    raise InputError(
        f"the function must return PennyLane measurements, a tuple of them, or nothing, got {type(returned).__name__}: "
        "what is computed from expectation values belongs outside the circuit"
    )


def measured(found: Sequence[Any], wires: Mapping[Any, int]) -> Measured:
    """Return the words and the outputs of PennyLane measurements; `wires` are the places of PennyLane's labels.

    Raises CapabilityError for what is neither an expectation value, nor probabilities, nor the state.
    """
    import pennylane as qml

    if any(isinstance(one, qml.measurements.StateMP) for one in found):
        if len(found) > 1 or isinstance(found[0], qml.measurements.DensityMatrixMP):
            raise CapabilityError("a state is captured where it is all that is returned: return qml.state() alone")
        return Measured((), (), ())
    n, places = len(wires), {"I" * len(wires): 0}
    outputs: list[Expectation | Probabilities] = []
    coefficients: list[Any] = []
    conditions: list[Condition] = []

    def place(word: Sequence[tuple[Any, str]]) -> int:
        letters = ["I"] * n
        for wire, letter in word:
            letters[_place_of(wire, wires)] = letter
        return places.setdefault("".join(letters), len(places))

    for one in found:
        if isinstance(one, qml.measurements.ExpectationMP) and one.obs is not None:
            words, own_conditions = _observable(one.obs)
            conditions += own_conditions
            constants: list[float | None] = []
            own = []
            for value in words.values():
                traced = qml.math.is_abstract(value)
                constants.append(None if traced else float(value))
                if traced:
                    own.append(len(coefficients))
                    coefficients.append(value)
            outputs.append(Expectation(tuple(place(word) for word in words), tuple(constants), tuple(own)))
        elif isinstance(one, qml.measurements.ProbabilityMP) and one.obs is None:
            own_wires = list(one.wires) or list(wires)
            if len(own_wires) > MOST_PROBABILITIES:
                raise CapabilityError(
                    f"probabilities of {len(own_wires)} wires are {2 ** len(own_wires):,} outputs: measure at most "
                    f"{MOST_PROBABILITIES} wires, or return qml.state()"
                )
            subsets = itertools.product((False, True), repeat=len(own_wires))
            outputs.append(
                Probabilities(
                    tuple(
                        place([(w, "Z") for w, used in zip(own_wires, subset, strict=True) if used])
                        for subset in subsets
                    )
                )
            )
        else:
            raise CapabilityError(
                f"measurement {one} cannot be captured: return qml.expval, qml.probs(wires=...) or qml.state()"
            )
    return Measured(tuple(places)[1:], tuple(outputs), tuple(coefficients), tuple(conditions))


def _observable(observable: Any) -> tuple[dict[Any, Any], list[Condition]]:
    """Return the coefficient of every Pauli word of an observable, and what must vanish; a projector onto a basis state
    has 2^k of them.
    """
    import pennylane as qml

    if not isinstance(observable, qml.Projector) or len(observable.wires) != len(observable.parameters[0]):
        return real_words(observable)
    bits = [int(bit) for bit in observable.parameters[0]]
    found = {}
    for used in itertools.product((0, 1), repeat=len(bits)):
        word = tuple((wire, "Z") for wire, use in zip(observable.wires, used, strict=True) if use)
        found[word] = (-1.0) ** sum(use * bit for use, bit in zip(used, bits, strict=True)) / 2 ** len(bits)
    return found, []


def _place_of(wire: Any, wires: Mapping[Any, int]) -> int:
    if wire not in wires:
        raise InputError(f"wire {wire!r} is measured and the circuit has wires {', '.join(map(repr, wires))}")
    return wires[wire]
