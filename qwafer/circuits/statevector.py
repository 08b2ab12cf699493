"""A small batched statevector, written from the matrices of the gates alone: what a circuit computes by its definition,
independent of every engine and of every shortcut that engines take.

The same code runs on NumPy (no compilation: right for thousands of random states of a small circuit) and on JAX
(differentiable). Wire 0 is the most significant bit of a basis state's index, as in PennyLane.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from qwafer.circuits.captured import CapturedCircuit
from qwafer.circuits.circuit import Circuit
from qwafer.circuits.gates import INPUTS, Operation, pauli_matrix
from qwafer.circuits.measuring import walsh
from qwafer.circuits.readouts import WEIGHT, Readout


def values(circuit: Circuit, weights: Mapping[str, Any], inputs: Any) -> np.ndarray:
    """Return s (..., n_outputs) of `circuit` in float64, its readout gates applied as gates.

    `weights` (..., *shape) and `inputs` (..., n_inputs), in radians, broadcast over their leading axes.
    """
    if isinstance(circuit, CapturedCircuit):
        slots = circuit.slots(weights, inputs)
        return np.asarray(circuit.outputs_of(values(circuit.core, slots.weights, slots.inputs), slots.coefficients, np))
    n, readout = circuit.n_qubits, circuit.readout_facts
    sources = {name: np.asarray(value, np.float64) for name, value in {**weights, INPUTS: inputs}.items()}
    body = evolve(n, circuit.operations(), sources)
    outputs = []
    for k in range(readout.n_circuits(circuit.n_outputs)):
        state = evolve(n, circuit.readout_operations(k), sources, body)
        outputs.append(readout.outputs(measured_values(state, n, readout), sources))
    found = np.concatenate(outputs, axis=-1)
    lead = np.broadcast_shapes(found.shape[:-1], sources[INPUTS].shape[:-1])  # a circuit need not use its inputs
    return np.broadcast_to(found, (*lead, found.shape[-1]))


def jacobian(circuit: Circuit, weights: Mapping[str, Any], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the derivative of every value by every weight and input at one set of weights, in float64.

    By group (N, n_outputs, *shape): d s_k(x_n) / d w, and d s_k(x_n) / d x_n for `inputs` (N, n_inputs). One adjoint
    sweep per output: with |l> = O_k |psi>, a rotation exp(-i w P / 2) contributes Im <l|P|psi> where it stands (Jones
    and Gacon 2020, arXiv:2009.02823). Readout gates are gates here; coefficients of a weighted readout are linear.
    """
    if isinstance(circuit, CapturedCircuit):
        return _chained(circuit, weights, np.asarray(inputs, np.float64))
    n, readout = circuit.n_qubits, circuit.readout_facts
    sources = {name: np.asarray(value, np.float64) for name, value in {**weights, INPUTS: inputs}.items()}
    rows = len(sources[INPUTS])
    body = np.broadcast_to(evolve(n, circuit.operations(), sources), (rows, 2**n))
    shapes = {**circuit.weight_shapes(), INPUTS: (circuit.n_inputs,)}
    found = {group: np.zeros((rows, circuit.n_outputs, *shape)) for group, shape in shapes.items()}
    lambdas = []
    for k in range(readout.n_circuits(circuit.n_outputs)):
        own = circuit.readout_operations(k)
        state = evolve(n, own, sources, body)
        if readout.amplitudes:  # d Re(psi_j) = 2 Re <l|d psi> with |l> = |j>/2, and d Im(psi_j) with i|j>/2
            basis = np.concatenate([np.eye(2**n) / 2, 1j * np.eye(2**n) / 2])
            costate = np.broadcast_to(basis[:, None], (len(basis), rows, 2**n))
        else:
            words = readout.measured_words(n)
            linear = readout.outputs(np.eye(len(words)), sources)  # (words, outputs of this circuit)
            paulis = [_apply_word(state, n, range(n), word) for word in words]
            costate = np.tensordot(linear.T, np.stack(paulis), 1)  # (outputs of this circuit, N, 2^n)
        if readout.is_weighted:
            each = measured_values(state, n, readout)
            outputs = np.arange(circuit.n_outputs)
            found[WEIGHT][:, outputs, outputs] = each[:, None, :]
        first = k if readout.gates else 0
        lambdas.append(_sweep(n, own, sources, state[None], costate, found, slice(first, first + len(costate)))[1])
    _sweep(n, circuit.operations(), sources, body[None], np.concatenate(lambdas), found, slice(None))
    return found


def _sweep(
    n: int,
    gates: Sequence[Operation],
    sources: Mapping[str, np.ndarray],
    state: np.ndarray,
    costate: np.ndarray,
    found: dict[str, np.ndarray],
    outputs: slice,
) -> tuple[np.ndarray, np.ndarray]:
    """Undo `gates` on `state` (1, N, 2^n) and `costate` (K, N, 2^n), and add what each angle contributes to `found`."""
    for i, op in reversed(list(enumerate(gates))):
        if op.gate.given is not None:
            entries = _adjoint(op.gate.entries(op.numbers(sources)))
            if op.gate.given == "unitary":
                state = _apply(state, n, op.wires, entries, np)
            else:  # a state cannot be undone, only made again
                state = np.broadcast_to(evolve(n, gates[:i], sources), state.shape[1:])[None]
            place: Any = (slice(None), outputs, *op.slice())
            found[op.source][place] += _of_entries(n, op, state, costate)
            costate = _apply(costate, n, op.wires, entries, np)
            continue
        if op.source:
            turned = _apply_word(state, n, op.wires, op.gate.generator or "")
            place = (slice(None), outputs, *op.index)
            found[op.source][place] += np.sum(costate.conj() * turned, axis=-1).imag.T
            state, costate = (_turned(part, n, op, -op.numbers(sources), np) for part in (state, costate))
        else:
            entries = np.asarray(op.gate.fixed).conj().T.tolist()
            state, costate = (_apply(part, n, op.wires, entries, np) for part in (state, costate))
    return state, costate


def _of_entries(n: int, op: Operation, before: np.ndarray, costate: np.ndarray) -> np.ndarray:
    """Return the derivative (N, K, n_numbers) by what is given to `op`, of `before` (1, N, 2^n) and `costate` (K, N,
    2^n) after it: 2 Re(l_r* psi_c) by Re U_rc, and -2 Im(l_r* psi_c) by Im U_rc.
    """
    rows, columns = _by_basis(costate, n, op.wires), _by_basis(before, n, op.wires)
    overlap = np.einsum("rknj,cnj->nkrc", rows.conj(), columns[:, 0])
    overlap = overlap if op.gate.given == "unitary" else overlap[..., :1]
    overlap = overlap.reshape(*overlap.shape[:2], -1)
    return np.concatenate([2 * overlap.real, -2 * overlap.imag], axis=-1)


def _by_basis(state: np.ndarray, n: int, wires: tuple[int, ...]) -> np.ndarray:
    """Return the amplitudes (2^k, ..., 2^(n - k)) of `state` (..., 2^n) by the basis state of `wires`."""
    lead = state.ndim - 1
    split = np.moveaxis(state.reshape(*state.shape[:-1], *(2,) * n), [lead + wire for wire in wires], range(len(wires)))
    return split.reshape(2 ** len(wires), *state.shape[:-1], -1)


def _adjoint(entries: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [[np.conj(row[i]) if not _is(row[i], 0) else 0 for row in entries] for i in range(len(entries))]


def _chained(circuit: CapturedCircuit, weights: Mapping[str, Any], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return `jacobian` of a captured circuit: that of its core times that of its slots."""
    slots, core = circuit.slots(weights, inputs), circuit.core
    measured = values(core, slots.weights, slots.inputs)  # (N, values)
    inner = jacobian(core, slots.weights, slots.inputs)
    names = [*dict(circuit.weights), INPUTS]
    by_value = circuit.outputs_of(np.eye(core.n_outputs)[None], slots.coefficients[:, None], np)
    by_value = by_value - circuit.outputs_of(np.zeros((1, 1, core.n_outputs)), slots.coefficients[:, None], np)
    found = {WEIGHT: np.einsum("nmk,nm...->nk...", by_value, inner[WEIGHT])} if WEIGHT in inner else {}
    shared = np.einsum("nmk,nms->nks", by_value, inner[circuit.shared]) if circuit.shared in inner else None
    own = np.einsum("nmk,nme->nke", by_value, inner[INPUTS])
    ones = np.eye(slots.coefficients.shape[1])[None]
    by_coefficient = circuit.outputs_of(measured[:, None], ones, np)
    by_coefficient = by_coefficient - circuit.outputs_of(measured[:, None], 0 * ones, np)  # (N, coefficients, K)
    for name, moved in circuit.slot_derivatives(weights, inputs).items():
        if name in names:
            total = np.einsum("nke,ne...->nk...", own, moved.inputs)
            total = total + np.einsum("nck,nc...->nk...", by_coefficient, moved.coefficients)
            if shared is not None:
                total = total + np.einsum("nks,ns...->nk...", shared, moved.weights[circuit.shared])
            found[name] = total
    return found


def measured_values(state: np.ndarray, n: int, readout: Readout) -> np.ndarray:
    """Return what `readout` measures of `state` (..., 2^n): (..., values)."""
    if readout.amplitudes:
        return np.concatenate([state.real, state.imag], axis=-1)
    if readout.per_wire:
        vectors = bloch_vectors(state, n)[..., ["XYZ".index(letter) for letter in readout.measured]]
        return vectors.reshape(*vectors.shape[:-2], -1)
    if len(readout.words) > 2 and readout.z_only:
        places = [sum((letter == "Z") << n - 1 - wire for wire, letter in enumerate(word)) for word in readout.words]
        return np.asarray(walsh(np.abs(state) ** 2, np))[..., places]
    overlaps = [np.sum(state.conj() * _apply_word(state, n, range(n), word), axis=-1).real for word in readout.words]
    return np.stack(overlaps, axis=-1)


def _apply_word(state: Any, n_qubits: int, wires: Iterable[int], word: str, xp: ModuleType = np) -> Any:
    """Return the Pauli `word` on `wires` applied to `state` (..., 2^n_qubits)."""
    for wire, letter in zip(wires, word, strict=True):
        if letter != "I":
            state = _apply(state, n_qubits, (wire,), pauli_matrix(letter).tolist(), xp)
    return state


def _turned(state: Any, n_qubits: int, op: Operation, theta: Any, xp: ModuleType) -> Any:
    """Return `state` after the rotation `op` by `theta` (...): cos(theta/2) psi - i sin(theta/2) P psi."""
    if op.gate.n_wires <= 2:
        return _apply(state, n_qubits, op.wires, op.gate.entries(theta, xp=xp), xp)
    word = _apply_word(state, n_qubits, op.wires, op.gate.generator or "", xp)
    return _times(xp.cos(theta / 2), state, 1) + _times(-1j * xp.sin(theta / 2), word, 1)


def states(circuit: Circuit, weights: Mapping[str, Any], inputs: Any, *, xp: ModuleType = np) -> Any:
    """Return the state after the body of `circuit` (..., 2^n_qubits), complex128 on NumPy.

    `weights` (..., *shape), of which those of the readout are not needed, and `inputs` (..., n_inputs), in radians,
    broadcast over their leading axes. `xp` is the array module: `numpy` or `jax.numpy`.
    """
    if isinstance(circuit, CapturedCircuit):
        slots = circuit.slots(weights, inputs)
        return states(circuit.core, slots.weights, slots.inputs, xp=xp)
    sources = {**weights, INPUTS: inputs}
    if xp is np:  # the truth about an engine in single precision is not one in single precision
        sources = {name: np.asarray(value, np.float64) for name, value in sources.items()}
    return evolve(circuit.n_qubits, circuit.operations(), sources, xp=xp)


def evolve(
    n_qubits: int, gates: Iterable[Operation], values: Mapping[str, Any], start: Any = None, *, xp: ModuleType = np
) -> Any:
    """Return the state (..., 2^n_qubits) of `gates` applied to `start`, or to |0...0>.

    `values[source][..., *index]` is a gate's angle.
    """
    sources = {name: xp.asarray(value) for name, value in values.items()}
    state = start
    if state is None:
        dtype = next((value.dtype for value in sources.values()), np.dtype("float64"))
        amplitudes = np.zeros(2**n_qubits)
        amplitudes[0] = 1.0
        state = xp.asarray(amplitudes, dtype) + xp.zeros((1,), dtype) * 1j
    for op in gates:
        if op.gate.generator is not None:
            state = _turned(state, n_qubits, op, op.numbers(sources), xp)
        else:
            state = _apply(state, n_qubits, op.wires, op.gate.entries(op.numbers(sources), xp=xp), xp)
    return state


def bloch_vectors(state: Any, n_qubits: int, *, xp: ModuleType = np) -> Any:
    """Return (<X_i>, <Y_i>, <Z_i>) of every wire (..., n_qubits, 3) of `state` (..., 2^n_qubits)."""
    vectors = []
    for wire in range(n_qubits):
        zero, one = _parts(state, n_qubits, [wire])
        overlap = xp.sum(xp.conj(zero) * one, axis=(-2, -1))
        excess = xp.sum(xp.abs(zero) ** 2 - xp.abs(one) ** 2, axis=(-2, -1))
        vectors.append(xp.stack([2 * overlap.real, 2 * overlap.imag, excess], axis=-1))
    return xp.stack(vectors, axis=-2)


def _parts(state: Any, n_qubits: int, wires: Sequence[int]) -> list[Any]:
    """Return the amplitudes for each value of the bits of `wires` (ascending), each (..., rest before, ..., after)."""
    shape, last = [], -1
    for wire in wires:
        shape += [2 ** (wire - last - 1), 2]
        last = wire
    split = state.reshape(*state.shape[:-1], *shape, 2 ** (n_qubits - 1 - last))
    places = itertools.product((0, 1), repeat=len(wires))
    return [split[(..., slice(None), *(part for bit in bits for part in (bit, slice(None))))] for bits in places]


def _apply(state: Any, n_qubits: int, wires: tuple[int, ...], entries: Sequence[Sequence[Any]], xp: ModuleType) -> Any:
    """Return `state` under the matrix `entries` of a gate on `wires`, the first its most significant bit."""
    ascending = sorted(wires)
    parts = _parts(state, n_qubits, ascending)
    # Row r of the matrix has bit j of `wires` at place j; `parts` have them in ascending order of the wires.
    bits = itertools.product((0, 1), repeat=len(wires))
    order = [sum(b[wires.index(wire)] << place for place, wire in enumerate(reversed(ascending))) for b in bits]
    moved: list[Any] = [None] * len(parts)
    for row, place in zip(entries, order, strict=True):
        present = [(entry, parts[source]) for entry, source in zip(row, order, strict=True) if not _is(entry, 0)]
        terms = [_times(entry, part, len(wires) + 1) for entry, part in present]
        moved[place] = sum(terms[1:], terms[0]) if terms else xp.zeros_like(parts[0])
    shape = moved[0].shape
    for axis in range(len(wires)):
        moved = [xp.stack(pair, axis=-2 * axis - 2) for pair in zip(moved[::2], moved[1::2], strict=True)]
    return moved[0].reshape(*shape[: -len(wires) - 1], -1)


def _is(entry: Any, number: int) -> bool:
    return isinstance(entry, (int, float, complex)) and entry == number


def _times(entry: Any, part: Any, n_axes: int) -> Any:
    """Return `entry` (...) times `part` (..., n_axes more), both of one rank, so that none is promoted silently."""
    if isinstance(entry, (int, float, complex)):
        return part if entry == 1 else entry * part
    entry = entry.reshape(*entry.shape, *(1,) * n_axes)
    ndim = max(entry.ndim, part.ndim)
    return _pad(entry, ndim) * _pad(part, ndim)


def _pad(array: Any, ndim: int) -> Any:
    return array.reshape(*(1,) * (ndim - array.ndim), *array.shape)
