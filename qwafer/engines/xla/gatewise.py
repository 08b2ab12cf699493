"""Single gates on the states of the batch, two arrays (2^n, batch): what no block of few wires holds."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits import INPUTS, Gate, Operation
from qwafer.engines.xla.words import split_shape

State = tuple[jax.Array, jax.Array]
Sources = Mapping[str, jax.Array]


def taken(op: Operation, sources: Sources) -> jax.Array:
    """Return what `op` takes, with the batch, or 1, as its last axis."""
    if op.source == INPUTS:
        return sources[INPUTS][op.slice()]
    return sources[op.source][op.slice()][..., None]


def after(n: int, gate: Gate, wires: tuple[int, ...], inverse: bool, state: State, numbers: Any) -> State:
    """Return the state after `gate`, or before it, for what `taken` gives it, of an angle (cos, sin) of its half."""
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
