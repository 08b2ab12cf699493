"""Which unitaries can the ansatz generate at all? The dimension of its dynamical Lie algebra, for small circuits."""

from collections.abc import Iterable

import numpy as np

from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec, operations
from qwafer.probes.circuit.subject import Subject
from qwafer.probes.report import Report

MAX_QUBITS = 6
"""Largest circuit for which the algebra, of up to 4^n - 1 dimensions, is closed."""

Pauli = tuple[int, int]
"""A Pauli string up to phase: bit masks (x, z), bit n - 1 - i for wire i."""


def pauli_string(text: str) -> Pauli:
    """Return the string of `text`, a letter a wire: `XIZ` is X on wire 0 and Z on wire 2."""
    x = z = 0
    for letter in text:
        if letter not in "IXYZ":
            raise InputError(f"`text` must be made of I, X, Y and Z, got {text!r}")
        x, z = 2 * x + (letter in "XY"), 2 * z + (letter in "YZ")
    return x, z


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


def spec_generators(spec: CircuitSpec) -> list[Pauli]:
    """Return the generators of the trainable gates of `spec`, with every fixed (Clifford) gate pulled out to the end.

    U = C prod_k exp(-i w_k P_k / 2): each rotation's Pauli conjugated by the H and CNOT gates before it. Encodings
    are data, not parameters, and are left out with re-uploading as well.
    """
    n = spec.n_qubits
    before: list[tuple[str, tuple[int, ...]]] = []
    generators = []
    for gate in operations(spec):
        if gate.source == "ansatz":
            bit = 1 << (n - 1 - gate.wires[0])
            pauli = {"RX": (bit, 0), "RY": (bit, bit), "RZ": (0, bit)}[gate.name]
            for name, wires in reversed(before):
                pauli = _conjugate(pauli, name, wires, n)
            generators.append(pauli)
        elif not gate.source:
            before.append((gate.name, gate.wires))
    return generators


def lie_algebra(subject: Subject) -> Report:
    """Report the dimension of the dynamical Lie algebra against 4^n - 1, that of all unitaries.

    Descriptive: polynomial dimension in n promises gradients that do not vanish exponentially, 4^n - 1 a deep circuit
    with a barren plateau (Ragone et al. 2024, arXiv:2309.09342; Larocca et al. 2022).
    """
    name, question = "lie algebra", "Which unitaries can the ansatz generate at all?"
    spec = subject.spec
    if spec is None:
        return Report(name, question, "skip", "no gate list: the circuit is not a CircuitSpec")
    if spec.n_qubits > MAX_QUBITS:
        return Report(name, question, "skip", f"more than {MAX_QUBITS} wires: the algebra is too large to close")
    dimension = lie_closure_dimension(spec_generators(spec), spec.n_qubits)
    full = 4**spec.n_qubits - 1
    share = "all unitaries" if dimension == full else f"of {full} for all unitaries"
    return Report(
        name=name,
        question=question,
        verdict="pass",
        headline=f"dimension {dimension} ({share})",
        numbers={"dimension": dimension, "full": full, "n_qubits": spec.n_qubits},
        tolerance="none: a description",
        meaning="The algebra bounds what depth can add; a full one means that a deep circuit becomes a 2-design.",
        remedy="A smaller algebra (fewer generators, a symmetric ansatz) keeps gradients, at the price of reach.",
    )


def _conjugate(pauli: Pauli, name: str, wires: tuple[int, ...], n: int) -> Pauli:
    """Return G^dagger P G up to sign, for G = H or CNOT (both their own inverse)."""
    x, z = pauli
    if name == "H":
        shift = n - 1 - wires[0]
        swap = ((x ^ z) >> shift & 1) << shift
        return x ^ swap, z ^ swap
    control, target = n - 1 - wires[0], n - 1 - wires[1]
    return x ^ ((x >> control & 1) << target), z ^ ((z >> target & 1) << control)
