"""Plan `gates`: any circuit, its gates applied one by one to the states of the batch, undone in the reverse pass.

A state is two arrays (2^n, batch), real and imaginary parts; the batch is last, so that every gate is arithmetic on
long rows. Every distinct gate (on its wires) is one compiled function, which all its places call: the time to compile
grows with the distinct gates.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from qwafer.circuits import INPUTS, Circuit, Gate, Operation
from qwafer.circuits.readouts import READOUTS, contract_readout
from qwafer.engines.base import Weights
from qwafer.engines.xla.words import expectations, split_shape

State = tuple[jax.Array, jax.Array]
Sources = Mapping[str, jax.Array]


def forward(
    circuit: Circuit, weights: Weights, inputs: jax.Array, chunks: int, *, recompute: bool, reverse: bool
) -> jax.Array:
    """Return s (batch, n_outputs) for `inputs` (batch, n_inputs), in `chunks` of the batch one after the other.

    With `reverse` the reverse pass is an adjoint sweep: it undoes the gates on the final state and on its cotangent
    (Jones and Gacon 2020, arXiv:2009.02823), and so holds a few states however deep the circuit is. With `recompute`
    it makes the final state again, too. Otherwise it is that of JAX.
    """
    batch, size = len(inputs), -(-len(inputs) // chunks)
    values = functools.partial(_values, circuit, {name: weights[name] for name in _used(circuit)}, recompute, reverse)
    if chunks == 1:
        found = values(inputs)
    else:
        padded = jnp.pad(inputs, ((0, chunks * size - batch), (0, 0)))
        parts = lax.map(values, padded.reshape(chunks, size, inputs.shape[1]))
        found = parts.reshape(chunks * size, parts.shape[-1])[:batch]
    readout = circuit.readout_facts
    if readout.is_each:
        return found
    if readout.z_only:  # the matrix has no entries for X and Y
        found = jnp.stack([jnp.zeros_like(found), jnp.zeros_like(found), found], axis=-1)
    return contract_readout(circuit, weights, found.reshape(batch, circuit.n_qubits, 3), jnp)


def measured_words(circuit: Circuit) -> tuple[str, ...]:
    """Return the Pauli words whose expectation values the plan takes of the body."""
    readout = circuit.readout_facts
    if readout.per_wire and not readout.is_each:
        readout = READOUTS["z" if readout.z_only else "bloch"]
    return readout.measured_words(circuit.n_qubits)


def _used(circuit: Circuit) -> list[str]:
    return [name for name in circuit.weight_shapes() if name != "readout"]


def _values(circuit: Circuit, weights: Weights, recompute: bool, reverse: bool, inputs: jax.Array) -> jax.Array:
    """Return the measured values (batch, words), or the state's parts, of one chunk."""
    sources = {**weights, INPUTS: inputs.T}
    if not reverse:
        return _measured(circuit, _evolved(circuit, sources))
    return _swept(circuit, recompute)(sources)


def _swept(circuit: Circuit, recompute: bool) -> Callable[[Sources], jax.Array]:
    """Return sources -> values with the adjoint sweep for a reverse pass."""
    gates = _gates(circuit)

    @jax.custom_vjp
    def values(sources: Sources) -> jax.Array:
        return _measured(circuit, _evolved(circuit, sources))

    def ahead(sources: Sources) -> tuple[jax.Array, Any]:
        state = _evolved(circuit, sources)
        return _measured(circuit, state), (sources, None if recompute else state)

    def back(kept: Any, cotangent: jax.Array) -> tuple[Any]:
        sources, state = kept
        if state is None:  # the barrier keeps XLA from taking the state of the forward pass, which is to be forgotten
            sources, cotangent = lax.optimization_barrier((sources, cotangent))
            state = _evolved(circuit, sources)
        (costate,) = jax.vjp(functools.partial(_measured, circuit), state)[1](cotangent)
        found: dict[str, list[tuple[Operation, jax.Array]]] = {name: [] for name in sources}
        turns = _turns(gates, sources)
        for op in reversed(gates):
            step = _undo(circuit.n_qubits, op.gate, op.wires)
            state, costate, derivative = step(state, costate, _numbers(op, turns, sources))
            if op.source:
                found[op.source].append((op, derivative))
        total = {name: _collected(sources[name], own) for name, own in found.items()}
        if any(op.gate.given == "state" for op in circuit.operations()):
            (prepared,) = jax.vjp(functools.partial(_prepared, circuit), sources)[1](costate)
            total = jax.tree.map(jnp.add, total, prepared)
        return (total,)

    values.defvjp(ahead, back)
    return values


def _gates(circuit: Circuit) -> list[Operation]:
    """Return the gates of the body after the states that it prepares."""
    return [op for op in circuit.operations() if op.gate.given != "state"]


def _evolved(circuit: Circuit, sources: Sources) -> State:
    """Return the final state of the body."""
    state = _prepared(circuit, sources)
    gates = _gates(circuit)
    turns = _turns(gates, sources)
    for op in gates:
        state = _apply(circuit.n_qubits, op.gate, op.wires)(state, _numbers(op, turns, sources))
    return state


def _measured(circuit: Circuit, state: State) -> jax.Array:
    if circuit.readout_facts.amplitudes:
        return jnp.concatenate(state).T
    return expectations(circuit.n_qubits, measured_words(circuit), state)


def _prepared(circuit: Circuit, sources: Sources) -> State:
    """Return |0...0> with the states that the circuit prepares, which act on wires of their own."""
    n, inputs = circuit.n_qubits, sources[INPUTS]
    batch, dtype = inputs.shape[1], inputs.dtype
    one = np.zeros((2**n, 1))
    one[0] = 1
    state = jnp.broadcast_to(jnp.asarray(one, dtype), (2**n, batch)), jnp.zeros((2**n, batch), dtype)
    for op in circuit.operations():
        if op.gate.given == "state":
            entries = _given_entries(op.gate, _taken(op, sources))
            state = _by_matrix(state, n, op.wires, [(row, *(0,) * (len(entries) - 1)) for row in entries])
    return state


def _taken(op: Operation, sources: Sources) -> jax.Array:
    """Return what `op` takes, with the batch, or 1, as its last axis."""
    if op.source == INPUTS:
        return sources[INPUTS][op.slice()]
    return sources[op.source][op.slice()][..., None]


def _turns(gates: Sequence[Operation], sources: Sources) -> dict[str, State]:
    """Return (cos, sin) of half of all angles, by source."""
    used = {op.source for op in gates if op.gate.generator is not None}
    return {name: (jnp.cos(sources[name] / 2), jnp.sin(sources[name] / 2)) for name in used}


def _numbers(op: Operation, turns: Mapping[str, State], sources: Sources) -> Any:
    """Return what the step of `op` takes: (cos, sin), each (1 or batch,), the numbers that are given, or nothing."""
    if not op.source:
        return ()
    if op.gate.given is not None:
        return _taken(op, sources)
    return tuple(_taken(op, {op.source: part}) for part in turns[op.source])


def _collected(source: jax.Array, found: Sequence[tuple[Operation, jax.Array]]) -> jax.Array:
    """Return the cotangent of `source` from the derivative (..., batch) of every gate that takes numbers from it."""
    total = jnp.zeros_like(source)
    single: dict[tuple[int, ...], list[jax.Array]] = {}
    for op, derivative in found:
        own = derivative if op.source == INPUTS else derivative.sum(axis=-1)
        if op.gate.given is not None:
            total = total.at[op.slice()].add(own)
        else:
            single.setdefault(op.index, []).append(own)
    if single:
        rows = jnp.stack([functools.reduce(jnp.add, own) for own in single.values()])
        total = (
            total.at[tuple(np.array(list(single)).T)].add(rows)
            if source.ndim and next(iter(single))
            else total + rows[0]
        )
    return total


def _alone(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return `step` compiled once for all its calls, with nothing of its callers fused into it."""

    def inside(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable=None):
            return step(*arguments)

    compiled = jax.jit(inside)

    def call(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return compiled(*arguments)

    return call


@functools.lru_cache(maxsize=4096)
def _apply(n: int, gate: Gate, wires: tuple[int, ...]) -> Callable[[State, Any], State]:
    """Return (state, numbers) -> the state after `gate`."""
    return _alone(functools.partial(_after, n, gate, wires, False))


@functools.lru_cache(maxsize=4096)
def _undo(n: int, gate: Gate, wires: tuple[int, ...]) -> Callable[[State, State, Any], tuple[State, State, Any]]:
    """Return (state, costate, numbers) after `gate` -> both before it, and the derivative (..., batch) by `numbers`.

    The costate is the cotangent of real and imaginary parts. By a rotation's angle it gives l . (-i P psi) / 2, by the
    entry U_rc the overlap of row r of l with column c of psi.
    """

    def step(state: State, costate: State, numbers: Any) -> tuple[State, State, Any]:
        before = _after(n, gate, wires, True, state, numbers)
        if gate.generator is not None:
            moved = _word(n, gate.generator, wires, state)
            derivative = sum((own * other).sum(axis=0) for own, other in zip(costate, moved, strict=True)) / 2
        elif gate.given is not None:
            derivative = _by_entries(n, wires, before, costate)
        else:
            derivative = ()
        return before, _after(n, gate, wires, True, costate, numbers), derivative

    return _alone(step)


def _after(n: int, gate: Gate, wires: tuple[int, ...], inverse: bool, state: State, numbers: Any) -> State:
    if gate.generator is not None:
        cos, sin = (part[None] for part in numbers)
        sin = -sin if inverse else sin
        moved = _word(n, gate.generator, wires, state)
        re, im = (cos * own + sin * other for own, other in zip(state, moved, strict=True))
        return re, im
    if gate.given is not None:
        entries = _given_entries(gate, numbers)
        dim = 2**gate.n_wires
        rows = [entries[row * dim : (row + 1) * dim] for row in range(dim)]
    else:
        rows = [[(complex(entry).real, complex(entry).imag) for entry in row] for row in gate.fixed or ()]
    if inverse:
        rows = [[(row[i][0], -row[i][1]) for row in rows] for i in range(len(rows))]
    return _by_matrix(state, n, wires, rows)


def _word(n: int, word: str, wires: tuple[int, ...], state: State) -> State:
    """Return -i P psi for the Pauli word P: rows that are reversed along the wires of X and Y, signs, a power of i."""
    letters = sorted((wire, letter) for wire, letter in zip(wires, word, strict=True) if letter != "I")
    shape = split_shape(n, [wire for wire, _ in letters])
    signs = np.ones((1,) * (len(shape) + 1))
    flipped = []
    for place, (_, letter) in enumerate(letters):
        if letter in "XY":
            flipped.append(2 * place + 1)
        if letter in "YZ":
            axis = [1] * (len(shape) + 1)
            axis[2 * place + 1] = 2
            signs = signs * np.array([1, -1]).reshape(axis)
    dtype, columns = state[0].dtype, state[0].shape[1:]
    sign = jnp.asarray(signs, dtype)
    re, im = ((sign * lax.rev(part.reshape(*shape, *columns), flipped)).reshape(part.shape) for part in state)
    power = (1 + sum(letter == "Y" for _, letter in letters)) % 4  # (-i)^power
    return ((re, im), (im, -re), (-re, -im), (-im, re))[power]


def _given_entries(gate: Gate, numbers: jax.Array) -> list[tuple[Any, Any]]:
    half = gate.n_numbers // 2
    return [(numbers[i], numbers[half + i]) for i in range(half)]


def _by_matrix(state: State, n: int, wires: tuple[int, ...], rows: Sequence[Sequence[Any]]) -> State:
    """Return the matrix of (real, imaginary) entries, numbers or (batch,), applied to `wires`, the first most
    significant; an entry 0 is one that is not there.
    """
    ascending = sorted(wires)
    parts = list(zip(*(_split(part, n, ascending) for part in state), strict=True))
    order = _order(wires)
    moved: list[Any] = [None] * len(parts)
    for row, place in zip(rows, order, strict=True):
        terms = [_product(entry, parts[source]) for entry, source in zip(row, order, strict=True) if not _absent(entry)]
        zero = jnp.zeros_like(parts[0][0])
        moved[place] = [functools.reduce(jnp.add, [term[i] for term in terms] or [zero]) for i in (0, 1)]
    joined = []
    for i, own in enumerate(state):
        pieces = [part[i] for part in moved]
        for axis in range(len(wires)):
            pieces = [jnp.stack(pair, axis=-3 - 2 * axis) for pair in zip(pieces[::2], pieces[1::2], strict=True)]
        joined.append(pieces[0].reshape(own.shape))
    return joined[0], joined[1]


def _split(part: jax.Array, n: int, ascending: Sequence[int]) -> list[jax.Array]:
    """Return the rows for each value of the bits of `ascending` wires, (rest, ..., rest, batch)."""
    split = part.reshape(*split_shape(n, ascending), part.shape[-1])
    places = itertools.product((0, 1), repeat=len(ascending))
    return [
        split[(*(index for bit in bits for index in (slice(None), bit)), slice(None), slice(None))] for bits in places
    ]


def _order(wires: tuple[int, ...]) -> list[int]:
    """Return where the basis states of `wires`, as given, are among those of the wires in ascending order."""
    ascending = sorted(wires)
    bits = itertools.product((0, 1), repeat=len(wires))
    return [sum(b[wires.index(wire)] << place for place, wire in enumerate(reversed(ascending))) for b in bits]


def _absent(entry: Any) -> bool:
    return isinstance(entry, int) or (isinstance(entry[0], float) and entry == (0.0, 0.0))


def _product(entry: Any, part: State) -> State:
    """Return the real and the imaginary part of a product."""
    (a, b), (re, im) = entry, part
    if isinstance(a, float):
        if b == 0:
            return (re, im) if a == 1 else (a * re, a * im)
        if a == 0:
            return -b * im, b * re
        return a * re - b * im, a * im + b * re
    a, b = (factor.reshape((1,) * (re.ndim - 1) + (-1,)) for factor in (a, b))
    return a * re - b * im, a * im + b * re


def _by_entries(n: int, wires: tuple[int, ...], before: State, costate: State) -> jax.Array:
    """Return the derivative (n_numbers, batch) by the entries of a matrix, from the state before it."""
    order = _order(wires)
    columns = [list(_split(part, n, sorted(wires))) for part in before]
    rows = [list(_split(part, n, sorted(wires))) for part in costate]
    axes = tuple(range(len(wires) + 1))
    real, imaginary = [], []
    for r, c in itertools.product(order, repeat=2):
        real.append((rows[0][r] * columns[0][c] + rows[1][r] * columns[1][c]).sum(axis=axes))
        imaginary.append((rows[1][r] * columns[0][c] - rows[0][r] * columns[1][c]).sum(axis=axes))
    return jnp.stack([*real, *imaginary])
