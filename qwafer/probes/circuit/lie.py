"""Which unitaries can the ansatz generate at all? The dimension of its dynamical Lie algebra, for small circuits."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer.circuits import INPUTS, CapturedCircuit, Circuit, Gate
from qwafer.circuits.frequencies import reached
from qwafer.circuits.gates import LETTERS
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report

MAX_QUBITS = 6
"""Largest circuit for which the algebra, of up to 4^n - 1 dimensions, is closed."""

Pauli = tuple[int, int]
"""A Pauli string up to phase: bit masks (x, z), bit n - 1 - i for wire i."""

_BITS = {"I": (0, 0), "X": (1, 0), "Y": (1, 1), "Z": (0, 1)}


def pauli_string(text: str) -> Pauli:
    """Return the string of `text`, a letter per wire: `XIZ` is X on wire 0 and Z on wire 2."""
    if not set(text) <= set(LETTERS):
        raise InputError(f"`text` must be made of I, X, Y and Z, got {text!r}")
    return _placed(text, range(len(text)), len(text))


def lie_closure_dimension(generators: Iterable[Pauli], n_qubits: int) -> int:
    """Return dim span_R of the Lie closure of i P over Pauli strings P: all nested commutators.

    Two strings commute or their commutator is a string again (up to a factor), so the closure is a set of strings and
    is found by search. Larocca et al. 2022 (arXiv:2105.14377), section on the dynamical Lie algebra.
    """
    if n_qubits > MAX_QUBITS:
        raise InputError(f"`n_qubits` must be at most {MAX_QUBITS} for the Lie closure, got {n_qubits}")
    start = sorted({p for p in generators if p != (0, 0)})
    member = np.zeros(4**n_qubits, bool)
    parity = np.array([bin(i).count("1") & 1 for i in range(2**n_qubits)], bool)
    found = np.array([(x << n_qubits) | z for x, z in start], np.int64)
    member[found] = True
    # [P, Q] for P among the generators alone: nested commutators with the generators span the algebra (Jacobi).
    frontier = found
    mask = 2**n_qubits - 1
    while frontier.size:
        fresh = []
        for x, z in start:
            other_x, other_z = frontier >> n_qubits, frontier & mask
            anticommute = parity[x & other_z] ^ parity[z & other_x]
            products = ((x ^ other_x) << n_qubits | (z ^ other_z))[anticommute]
            new = np.unique(products[~member[products]])
            member[new] = True
            fresh.append(new)
        frontier = np.concatenate(fresh) if fresh else np.zeros(0, np.int64)
    return int(member.sum())


def circuit_generators(circuit: Circuit) -> list[Pauli]:
    """Return the generators of the trainable gates of the body, with every fixed (Clifford) gate pulled out to the end.

    U = C prod_k exp(-i w_k P_k / 2): each rotation's Pauli word conjugated by the fixed gates before it. Encodings are
    data, not parameters, and are left out with re-uploading as well. Raises CapabilityError where a fixed gate is not a
    Clifford gate.
    """
    if isinstance(circuit, CapturedCircuit):
        _check_generators(circuit)
    n = circuit.n_qubits
    before: list[tuple[Gate, tuple[int, ...]]] = []
    generators = []
    for op in circuit.operations():
        if op.gate.given == "state":  # where the ansatz starts, not what it does
            continue
        if not op.source:
            before.append((op.gate, op.wires))
        elif op.source != INPUTS or (isinstance(circuit, CapturedCircuit) and circuit.trained[op.index[0]]):
            if op.gate.given is not None:
                raise CapabilityError(f"gate {op.gate.name} is given by numbers that are trained: it has no generator")
            pauli = _placed(op.gate.generator or "", op.wires, n)
            for gate, wires in reversed(before):
                pauli = _conjugate(pauli, gate, wires, n)
            generators.append(pauli)
    return generators


def _check_generators(circuit: CapturedCircuit) -> None:
    """Raise CapabilityError where a weight turns several gates, whose generators are then not words but their sum."""
    for group, reach in reached(circuit).items():
        if group != INPUTS and reach.size and reach.sum(axis=0).max() > 1:
            raise CapabilityError(
                f"a weight of {group} enters several rotations, whose sum generates less than their Pauli words do"
            )
    if any(op.gate.given == "unitary" for op in circuit.operations()):
        raise CapabilityError("a gate is given by its matrix: it has no generator")


def lie_algebra(subject: Subject) -> Report:
    """Report the dimension of the dynamical Lie algebra against 4^n - 1, that of all unitaries.

    Descriptive: polynomial dimension in n promises gradients that do not vanish exponentially, 4^n - 1 a deep circuit
    with a barren plateau (Ragone et al. 2024, arXiv:2309.09342; Larocca et al. 2022).
    """
    name, question = "lie algebra", "Which unitaries can the ansatz generate at all?"
    circuit = subject.circuit
    if circuit is None:
        return Report(name, question, "skip", "the gates of the circuit are not known")
    n = circuit.n_qubits
    if n > MAX_QUBITS:
        return Report(name, question, "skip", f"more than {MAX_QUBITS} wires: the algebra is too large to close")
    try:
        dimension = lie_closure_dimension(circuit_generators(circuit), n)
    except CapabilityError as error:
        return Report(name, question, "skip", str(error))
    full = 4**n - 1
    share = "all unitaries" if dimension == full else f"of {full} for all unitaries"
    return Report(
        name=name,
        question=question,
        verdict="pass",
        headline=f"dimension {dimension} ({share})",
        numbers={"dimension": dimension, "full": full, "n_qubits": n},
        tolerance="none: a description",
        meaning="The algebra bounds what depth can add; a full one means that a deep circuit becomes a 2-design.",
        remedy="A smaller algebra (fewer generators, a symmetric ansatz) keeps gradients, at the price of reach.",
    )


def _placed(word: str, wires: Sequence[int], n: int) -> Pauli:
    """Return the string on n wires that has the letters of `word` on `wires`."""
    x = z = 0
    for letter, wire in zip(word, wires, strict=True):
        x, z = x | _BITS[letter][0] << (n - 1 - wire), z | _BITS[letter][1] << (n - 1 - wire)
    return x, z


def _conjugate(pauli: Pauli, gate: Gate, wires: tuple[int, ...], n: int) -> Pauli:
    """Return G^dagger P G up to sign, for a Clifford gate G on `wires`."""
    image, _ = gate.conjugation()
    letters = {bits: letter for letter, bits in _BITS.items()}
    shifts = [n - 1 - wire for wire in wires]
    word = [letters[pauli[0] >> shift & 1, pauli[1] >> shift & 1] for shift in shifts]
    place = int(image[functools.reduce(lambda number, letter: 4 * number + LETTERS.index(letter), word, 0)])
    moved = [LETTERS[place >> 2 * i & 3] for i in reversed(range(len(wires)))]
    rest = ~sum(1 << shift for shift in shifts)
    x, z = _placed("".join(moved), wires, n)
    return pauli[0] & rest | x, pauli[1] & rest | z
