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

from qwafer.circuits.circuit import Circuit
from qwafer.circuits.gates import INPUTS, Operation, pauli_matrix
from qwafer.circuits.readouts import WEIGHT


def values(circuit: Circuit, weights: Mapping[str, Any], inputs: Any) -> np.ndarray:
    """Return s (..., n_outputs) of `circuit` in float64, its readout gates applied as gates.

    `weights` (..., *shape) and `inputs` (..., n_inputs), in radians, broadcast over their leading axes.
    """
    n, readout = circuit.n_qubits, circuit.readout_facts
    sources = {name: np.asarray(value, np.float64) for name, value in {**weights, INPUTS: inputs}.items()}
    body, letters = evolve(n, circuit.operations(), sources), ["XYZ".index(letter) for letter in readout.measured]
    outputs = []
    for k in range(readout.n_circuits(circuit.n_outputs)):
        vectors = bloch_vectors(evolve(n, circuit.readout_operations(k), sources, body), n)
        outputs.append(readout.outputs(vectors[..., letters].reshape(*vectors.shape[:-2], -1), sources))
    found = np.concatenate(outputs, axis=-1)
    lead = np.broadcast_shapes(found.shape[:-1], sources[INPUTS].shape[:-1])  # a circuit need not use its inputs
    return np.broadcast_to(found, (*lead, found.shape[-1]))


def jacobian(circuit: Circuit, weights: Mapping[str, Any], inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the derivative of every value by every weight and input at one set of weights, in float64.

    By group (N, n_outputs, *shape): d s_k(x_n) / d w, and d s_k(x_n) / d x_n for `inputs` (N, n_inputs). One adjoint
    sweep per output: with |l> = O_k |psi>, a rotation exp(-i w P / 2) contributes Im <l|P|psi> where it stands (Jones
    and Gacon 2020, arXiv:2009.02823). Readout gates are gates here; coefficients of a weighted readout are linear.
    """
    n, readout = circuit.n_qubits, circuit.readout_facts
    sources = {name: np.asarray(value, np.float64) for name, value in {**weights, INPUTS: inputs}.items()}
    rows = len(sources[INPUTS])
    body = np.broadcast_to(evolve(n, circuit.operations(), sources), (rows, 2**n))
    shapes = {**circuit.weight_shapes(), INPUTS: (circuit.n_inputs,)}
    found = {group: np.zeros((rows, circuit.n_outputs, *shape)) for group, shape in shapes.items()}
    letters = ["XYZ".index(letter) for letter in readout.measured]
    lambdas = []
    for k in range(readout.n_circuits(circuit.n_outputs)):
        own = circuit.readout_operations(k)
        state = evolve(n, own, sources, body)
        each = bloch_vectors(state, n)[..., letters].reshape(rows, -1)  # (N, wires x letters)
        linear = readout.outputs(np.eye(each.shape[1]), sources)  # (wires x letters, outputs of this circuit)
        paulis = [_apply_word(state, n, (wire,), letter) for wire in range(n) for letter in readout.measured]
        costate = np.tensordot(linear.T, np.stack(paulis), 1)  # (outputs of this circuit, N, 2^n)
        if readout.is_weighted:
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
    for op in reversed(gates):
        if op.source:
            turned = _apply_word(state, n, op.wires, op.gate.generator or "")
            place: Any = (slice(None), outputs, *op.index)
            found[op.source][place] += np.sum(costate.conj() * turned, axis=-1).imag.T
            place = (..., *op.index)
            entries = op.gate.entries(-sources[op.source][place])
        else:
            entries = np.asarray(op.gate.fixed).conj().T.tolist()
        state, costate = (_apply(part, n, op.wires, entries, np) for part in (state, costate))
    return state, costate


def _apply_word(state: np.ndarray, n_qubits: int, wires: tuple[int, ...], word: str) -> np.ndarray:
    """Return the Pauli `word` on `wires` applied to `state` (..., 2^n_qubits)."""
    return np.asarray(_apply(state, n_qubits, wires, pauli_matrix(word).tolist(), np))


def states(circuit: Circuit, weights: Mapping[str, Any], inputs: Any, *, xp: ModuleType = np) -> Any:
    """Return the state after the body of `circuit` (..., 2^n_qubits), complex128 on NumPy.

    `weights` (..., *shape), of which those of the readout are not needed, and `inputs` (..., n_inputs), in radians,
    broadcast over their leading axes. `xp` is the array module: `numpy` or `jax.numpy`.
    """
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
        theta = sources[op.source][(..., *op.index)] if op.source else None
        state = _apply(state, n_qubits, op.wires, op.gate.entries(theta, xp=xp), xp)
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
        moved[place] = sum(terms[1:], terms[0])
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
