"""PennyLane operations as gates of the house: Pauli rotations, fixed unitaries, and what must be given."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer.circuits.gates import CNOT, CZ, LETTERS, RX, RY, RZ, Gate, H, S, X, Y, Z, pauli_matrix

MOST_WIRES = 4
"""Largest gate that is kept as a matrix; larger ones are decomposed."""
MOST_CONTROLS = 8
"""Control wires of a rotation that is the product of its words' rotations, 2^controls of them."""
SINGLE = 1e-5
"""How far from unitary a matrix of single precision may be."""
DEEPEST = 40
"""Decompositions within decompositions, at most."""

_ROTATIONS = {"X": RX, "Y": RY, "Z": RZ}
_FIXED = (H, X, Y, Z, S, CNOT, CZ)
_NAMES = {"XX": "IsingXX", "YY": "IsingYY", "ZZ": "IsingZZ"}
_IGNORED = ("Barrier", "Snapshot", "WireCut")


@dataclass(frozen=True)
class Turn:
    """A gate on the wires of PennyLane's labels, with what it takes: an angle, numbers (n_numbers,), or None."""

    gate: Gate
    wires: tuple[Any, ...]
    numbers: Any = None


@dataclass(frozen=True)
class Phase:
    """A global phase: exp(-i angle / 2)."""

    angle: Any


@dataclass(frozen=True)
class Condition:
    """What must vanish, or what is captured is not what was written; values are known only after the trace."""

    text: str
    """What is wrong where it does not vanish, as a sentence."""
    value: Any
    """An array that JAX traces."""
    whatever_inputs: bool = True
    """Whether it must vanish for all inputs; False: data may be such that it does."""


Parts = list[Turn | Phase | Condition]
"""What an operation is made of."""


def expand(op: Any, depth: int = 0) -> Iterator[Turn | Phase | Condition]:
    """Yield the gates that the PennyLane operation `op` is made of; their angles may be traced by JAX.

    An operation of one parameter whose generator is a sum of commuting Pauli words is the product of their rotations,
    exactly: exp(i t sum_j g_j P_j) = prod_j exp(i t g_j P_j). What is neither that nor a fixed matrix is decomposed by
    PennyLane. Raises CapabilityError for what is not a unitary, and for broadcast parameters.
    """
    import pennylane as qml

    if op.name in _IGNORED:
        return
    if getattr(op, "batch_size", None) is not None:
        raise InputError(
            f"{_named(op)} has a batch of {op.batch_size} parameters: write the function for one example, engines batch"
        )
    _refuse_non_unitary(op)
    if isinstance(op, qml.GlobalPhase):
        yield Phase(2 * op.parameters[0])
        return
    if isinstance(op, qml.StatePrep):
        yield from _prepared(op)
        return
    traced = any(qml.math.is_abstract(parameter) for parameter in op.parameters)
    if isinstance(op, qml.QubitUnitary) and traced and len(op.wires) <= MOST_WIRES:
        yield from _given_matrix(op)
        return
    rules: list[Callable[[Any], Parts | None]] = [_fixed] if not traced else [_rotations, _diagonal]
    for rule in rules:
        found = rule(op)
        if found is not None:
            yield from found
            return
    if depth < DEEPEST and op.has_decomposition:
        for part in op.decomposition():
            yield from expand(part, depth + 1)
    elif op.has_matrix and len(op.wires) <= MOST_WIRES:
        yield from _given_matrix(op)
    else:
        raise CapabilityError(
            f"{_named(op)} cannot be captured: PennyLane has no decomposition of it, and no matrix on at most "
            f"{MOST_WIRES} wires"
        )


def words_of(operator: Any) -> dict[tuple[tuple[Any, str], ...], Any]:
    """Return the coefficient of every Pauli word ((wire, letter), ...) of a Hermitian `operator`, in an order of
    their own: PennyLane's may differ from process to process. One that JAX traces may be complex, see `real_words`.

    Raises CapabilityError for one that has no Pauli form, and whose matrix acts on more than `MOST_WIRES` wires, and
    InputError for one that is not Hermitian.
    """
    import pennylane as qml

    sentence = operator.pauli_rep
    if sentence is not None:
        words = {tuple(sorted(word.items(), key=str)): _real(operator, value) for word, value in sentence.items()}
        return dict(sorted(words.items(), key=str))
    if isinstance(operator, (qml.ops.Sum, qml.ops.SProd)):  # part by part: a matrix of all wires holds every word
        scaled = isinstance(operator, qml.ops.SProd)
        total: dict[Any, Any] = {}
        for part in [operator.base] if scaled else operator.operands:
            for word, value in words_of(part).items():
                total[word] = total.get(word, 0) + (operator.scalar * value if scaled else value)
        return {word: _real(operator, value) for word, value in sorted(total.items(), key=str)}
    wires = tuple(operator.wires)
    if len(wires) > MOST_WIRES:
        raise CapabilityError(
            f"{_named(operator)} has no Pauli form, and its matrix acts on more than {MOST_WIRES} wires"
        )
    matrix = qml.matrix(operator, wire_order=wires)
    found = {}
    for letters in itertools.product(LETTERS, repeat=len(wires)):
        product = qml.math.sum(np.asarray(pauli_matrix("".join(letters))).T * matrix) / len(matrix)
        value = _real(operator, product)
        if qml.math.is_abstract(value) or abs(value) > 1e-12:
            found[tuple((wire, letter) for wire, letter in zip(wires, letters, strict=True) if letter != "I")] = value
    return found


def _real(operator: Any, value: Any) -> Any:
    """Return a coefficient of a Hermitian operator as a real number, or as it is where JAX traces it."""
    import pennylane as qml

    if qml.math.is_abstract(value):
        return value
    if abs(np.imag(value)) > 1e-9 * max(1.0, abs(value)):
        raise InputError(_not_hermitian(operator))
    return qml.math.real(value)


def real_words(operator: Any) -> tuple[dict[Any, Any], list[Condition]]:
    """Return `words_of` with real coefficients, and what must vanish for them to be real."""
    import pennylane as qml

    words = words_of(operator)
    # A matrix of the data may be Hermitian for the data alone.
    given = any(isinstance(own, qml.Hermitian) for own in _within(operator))
    text = _not_hermitian(operator)
    conditions = [one for value in words.values() for one in _must_be_real(value, text, whatever_inputs=not given)]
    return {word: qml.math.real(value) for word, value in words.items()}, conditions


def _must_be_real(value: Any, text: str, *, whatever_inputs: bool = True) -> list[Condition]:
    """Return the condition that a number is real, where JAX traces it as a complex one."""
    import pennylane as qml

    if not qml.math.is_abstract(value) or not np.issubdtype(value.dtype, np.complexfloating):
        return []
    return [Condition(text, qml.math.imag(value), whatever_inputs)]


def _within(operator: Any) -> Iterator[Any]:
    """Yield an operator and all that it is made of."""
    yield operator
    parts = getattr(operator, "operands", None) or [getattr(operator, "base", None)]
    for part in parts:
        if part is not None:
            yield from _within(part)


def _not_hermitian(operator: Any) -> str:
    return f"{_named(operator)} is not Hermitian: a coefficient of a Pauli word, or a part of its matrix, is complex"


def rotation(word: Sequence[tuple[Any, str]], angle: Any) -> Turn | Phase:
    """Return exp(-i angle P / 2) for the Pauli word P."""
    if not word:
        return Phase(angle)
    wires, letters = zip(*word, strict=True)
    text = "".join(letters)
    return Turn(
        _ROTATIONS.get(text) or Gate(f"R{text}", len(text), generator=text, pennylane=_NAMES.get(text)), wires, angle
    )


def fixed_gate(name: str, matrix: np.ndarray) -> Gate:
    """Return the gate of a constant unitary: one of the house's, one that PennyLane has under that name, or neither."""
    import pennylane as qml

    known = next(
        (
            gate
            for gate in _FIXED
            if 2**gate.n_wires == len(matrix) and np.allclose(np.asarray(gate.fixed), matrix, rtol=0, atol=1e-14)
        ),
        None,
    )
    if known is not None:
        return known
    n_wires = len(matrix).bit_length() - 1
    kind = getattr(qml, name, None)
    rows = tuple(tuple(_plain(entry) for entry in row) for row in matrix)
    if isinstance(kind, type) and getattr(kind, "num_params", 1) == 0:
        try:
            own = qml.matrix(kind(wires=range(n_wires)), wire_order=range(n_wires))
            same = np.allclose(own, matrix, rtol=0, atol=1e-14)
        except (TypeError, ValueError):
            same = False
        if same:
            return Gate(name, n_wires, fixed=rows, pennylane=name)
    return Gate(name, n_wires, fixed=rows)


def _plain(entry: complex) -> complex | float:
    entry = complex(entry)
    real, imag = (
        float(np.rint(part)) if abs(part - np.rint(part)) < 1e-15 else part for part in (entry.real, entry.imag)
    )
    return real if imag == 0 else complex(real, imag)


def _fixed(op: Any) -> Parts | None:
    """Return the gate of an operation without traced parameters; None where it has no matrix of a size to keep."""
    import pennylane as qml

    if not op.has_matrix or len(op.wires) > MOST_WIRES or not len(op.wires):
        return _rotations(op)
    import jax

    with jax.ensure_compile_time_eval():
        matrix = np.asarray(qml.matrix(op, wire_order=op.wires), np.complex128)
    apart = np.abs(matrix @ matrix.conj().T - np.eye(len(matrix))).max()
    if apart > SINGLE:
        raise InputError(f"{_named(op)} is not unitary")
    if apart > 1e-9:  # given in single precision: the nearest unitary is what was meant
        left, _, right = np.linalg.svd(matrix)
        matrix = left @ right
    if np.array_equal(matrix, np.eye(len(matrix))):
        return []
    return [Turn(fixed_gate(op.name, matrix), tuple(op.wires))]


def _rotations(op: Any) -> Parts | None:
    """Return the rotations of an operation exp(i t G) whose generator G is a sum of commuting Pauli words."""
    found = _exponent(op)
    if found is None:
        return None
    words, turn, conditions = found
    if not _commute(words):
        if _is_exponential(op):
            raise CapabilityError(
                f"{_named(op)} is the exponential of Pauli words that do not commute: write it as qml.TrotterProduct"
            )
        return None
    return [*conditions, *(rotation(word, -2 * value * turn) for word, value in words.items())]


def _exponent(op: Any) -> tuple[dict[Any, Any], Any, list[Condition]] | None:
    """Return the words of G, t, and what must vanish, of an operation exp(i t G); None where it is not known to be one.

    An adjoint has -t. A control multiplies every word by the projector (I +- Z) / 2 of its wire.
    """
    import pennylane as qml

    if isinstance(op, (qml.ops.Adjoint, qml.ops.Pow)) and (isinstance(op, qml.ops.Adjoint) or _is_exponential(op)):
        found = _exponent(op.base)
        return found and (found[0], found[1] * (-1 if isinstance(op, qml.ops.Adjoint) else op.z), found[2])
    if isinstance(op, qml.ops.Controlled) and len(op.control_wires) <= MOST_CONTROLS:
        found = _exponent(op.base)
        return found and (_controlled(found[0], op.control_wires, op.control_values), found[1], found[2])
    if isinstance(op, qml.ops.Exp):
        words, conditions = real_words(op.base)
        text = f"{_named(op)} is not unitary: its coefficient has a real part"
        if isinstance(op, qml.ops.Evolution):
            conditions += _must_be_real(op.param, text)
        else:
            growth = qml.math.real(op.coeff)
            if qml.math.is_abstract(growth) and np.issubdtype(op.coeff.dtype, np.complexfloating):
                conditions.append(Condition(text, growth))
            elif qml.math.is_abstract(growth) or growth != 0:
                raise InputError(text)
        return words, qml.math.imag(op.coeff), conditions
    if op.num_params != 1 or not op.has_generator:
        return None
    generator = op.generator()
    if generator.pauli_rep is None and len(op.wires) > MOST_WIRES:
        return None
    words, conditions = real_words(generator)
    return words, op.parameters[0], conditions


def _is_exponential(op: Any) -> bool:
    """Whether it is `qml.exp` or `qml.evolve`, or one of their adjoint, controlled and other forms."""
    import pennylane as qml

    while hasattr(op, "base") and not isinstance(op, qml.ops.Exp):
        op = op.base
    return isinstance(op, qml.ops.Exp)


def _controlled(words: dict[Any, Any], wires: Sequence[Any], values: Sequence[bool]) -> dict[Any, Any]:
    """Return the words of G under the projectors onto `values` of the control `wires`."""
    for wire, value in zip(wires, values, strict=True):
        sign = -1 if value else 1
        words = {
            tuple(sorted((*word, *letter), key=str)): factor * part / 2
            for word, part in words.items()
            for letter, factor in (((), 1), (((wire, "Z"),), sign))
        }
    return dict(sorted(words.items(), key=str))


def _diagonal(op: Any) -> Parts | None:
    """Return a diagonal unitary of traced phases as rotations by Z words: their angles are its Walsh transform."""
    import pennylane as qml

    if not isinstance(op, qml.DiagonalQubitUnitary):
        return None
    angles, n = qml.math.angle(op.parameters[0]), len(op.wires)
    signs = np.array([[1]])
    for _ in range(n):
        signs = np.kron(signs, np.array([[1, 1], [1, -1]]))
    sizes = qml.math.abs(op.parameters[0]) ** 2 - 1
    found: Parts = [Condition(f"{_named(op)} is not unitary", sizes, whatever_inputs=False)]
    for row, letters in zip(signs, itertools.product("IZ", repeat=n), strict=True):
        word = [(wire, letter) for wire, letter in zip(op.wires, letters, strict=True) if letter != "I"]
        found.append(rotation(word, -2 * qml.math.sum(row * angles) / 2**n))
    return found


def _given_matrix(op: Any) -> Parts:
    """Return the gate whose matrix is that of `op`, which must be unitary."""
    import pennylane as qml

    matrix = qml.matrix(op, wire_order=op.wires)
    identity = np.eye(2 ** len(op.wires))
    # A matrix that is given may be unitary for the data alone; any other operation is what it is.
    given = any(isinstance(own, (qml.QubitUnitary, qml.DiagonalQubitUnitary)) for own in _within(op))
    residual = qml.math.abs(qml.math.conj(qml.math.transpose(matrix)) @ matrix - identity)
    condition = Condition(f"{_named(op)} is not unitary", residual, whatever_inputs=not given)
    return [condition, Turn(_given(op, "unitary"), tuple(op.wires), _parts(qml.math.reshape(matrix, (-1,))))]


def _prepared(op: Any) -> Iterator[Turn]:
    """Yield the gate that prepares amplitudes (2^k,) on wires in |0>."""
    yield Turn(_given(op, "state"), tuple(op.wires), _parts(op.parameters[0]))


def _given(op: Any, kind: str) -> Gate:
    return Gate("QubitUnitary" if kind == "unitary" else "StatePrep", len(op.wires), given=kind)


def _parts(values: Any) -> Any:
    """Return the real parts of complex numbers, then the imaginary ones."""
    import jax.numpy as jnp

    values = jnp.asarray(values)
    return jnp.concatenate([jnp.real(values), jnp.imag(values)])


def _commute(words: Any) -> bool:
    """Whether all Pauli words commute: an even number of wires on which two of them have different letters."""
    listed = [dict(word) for word in words]
    return all(
        sum(one[wire] != other[wire] for wire in one.keys() & other.keys()) % 2 == 0
        for one, other in itertools.combinations(listed, 2)
    )


def _refuse_non_unitary(op: Any) -> None:
    import pennylane as qml

    name = _named(op)
    if isinstance(op, qml.operation.Channel):
        raise CapabilityError(f"{name} is a channel: circuits here are pure states; take it out, or use default.mixed")
    if type(op).__name__ in ("MidMeasureMP", "MidMeasure", "PauliMeasure", "Conditional"):
        raise CapabilityError(
            f"{name} measures in the middle of a circuit, which is not captured: defer it by a controlled gate"
        )


def _named(op: Any) -> str:
    return f"operation {op.name} on wires {list(op.wires)}"
