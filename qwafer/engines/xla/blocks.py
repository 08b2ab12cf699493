"""Blocks of a plan on the states of the batch: (parts, 2^n, batch), real and imaginary part, or the real one alone."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.engines.xla import arrays, gates, gatewise
from qwafer.engines.xla.elements import fixed
from qwafer.engines.xla.forms import Key, form, key, signs, walsh_angles
from qwafer.engines.xla.frames import Frame
from qwafer.engines.xla.schedule import Placed, Plan
from qwafer.engines.xla.small import Family, Sources, angles_of

TABLE_WIRES = 12
"""Wires up to which signs of basis states are a table; for more they are made of those of two halves."""

_X = np.array([[0, 1], [1, 0]])


class Blocks:
    """The blocks of a plan, with the forms of their matrices."""

    def __init__(self, plan: Plan, dtype: str, reverse: bool):
        self.plan, self.dtype, self.reverse = plan, jnp.dtype(dtype), reverse
        self.parts = 1 if plan.real else 2
        forms: dict[tuple[int, bool], list[Any]] = {}
        self.place: dict[int, tuple[tuple[int, bool], int]] = {}  # of every matrix its family and where it is there
        for i, placed in enumerate(plan.blocks):
            block = placed.block
            if block.kind in ("shared", "own"):
                name = (len(block.wires), block.kind == "own")
                own = forms.setdefault(name, [])
                self.place[i] = name, len(own)
                turned = [fixed(_X, (wire,), "X") for wire in block.wires if _turned(placed.frame, wire)]
                own.append(form([*turned, *block.elements, *turned], block.wires))
        self.families = {name: Family.of(own, *name) for name, own in forms.items()}
        prepared = {wire for op in plan.states for wire in op.wires}
        self.wires = [wire for wire in _order(plan.first) if wire not in prepared]
        places = {leaf: place for place, leaf in enumerate(_tree_order(len(self.wires)))} if self.wires else {}
        self.wires = [self.wires[places[leaf]] for leaf in range(len(self.wires))]
        vectors = [form(plan.prefix[wire], (wire,)) for wire in self.wires]
        self.prefix = Family.of(vectors, 1, True) if vectors else None

    def shared(self, sources: Sources) -> dict[tuple[int, bool], jax.Array]:
        """Return the matrices that the batch shares, computed once a call."""
        found = {}
        for name, family in self.families.items():
            if not family.own:
                found[name] = family.products(sources, self.dtype, self.reverse)[..., 0]  # (forms, 2 d, d)
        return found

    def parameters(self, shared: Mapping[tuple[int, bool], jax.Array], sources: Sources) -> list[Any]:
        """Return what every block takes: its matrix, its phases, or the numbers of its gate."""
        matrices = dict(shared)
        for name, family in self.families.items():
            if family.own:
                matrices[name] = family.products(sources, self.dtype, self.reverse)
        found: list[Any] = []
        for i, placed in enumerate(self.plan.blocks):
            if i in self.place:
                name, at = self.place[i]
                found.append(self._matrix(matrices[name][at], placed))
            elif placed.block.kind == "phase":
                found.append(self._phases(placed, sources))
            else:
                found.append(_numbers(placed, sources))
        return found

    def _matrix(self, product: jax.Array, placed: Placed) -> jax.Array:
        """Return the real matrix of a block, (d, d, ...), or [[Re, -Im], [Im, Re]]."""
        d = product.shape[1]
        re, im = product[:d], product[d:]
        if placed.block.real:
            return re
        return jnp.concatenate([jnp.concatenate([re, -im], 1), jnp.concatenate([im, re], 1)])

    def start(self, sources: Sources) -> jax.Array:
        """Return the states before the first block, (parts, 2^n, batch)."""
        n, batch = self.plan.n, sources["inputs"].shape[1]
        groups = []
        if self.prefix is not None:
            vectors = self.prefix.products(sources, self.dtype, self.reverse, columns=1)[:, :, 0]  # (wires, 4, batch)
            vectors = vectors.reshape(len(self.wires), 2, 2, -1)
            groups.append(_kron(vectors[:, :1] if self.plan.real else vectors, self.reverse))
        for op in self.plan.states:
            taken = gatewise.taken(op, sources)
            groups.append(taken.reshape(2, -1, taken.shape[-1]))
        outer = _outer_reverse if self.reverse else _outer
        state = functools.reduce(lambda a, b: outer(a[None], b[None])[0], groups)
        return jnp.broadcast_to(state, (self.parts, 2**n, batch))

    def apply(self, i: int, parameter: Any, state: jax.Array, *, inverse: bool = False) -> jax.Array:
        """Return `state` after block `i`, or before it."""
        placed, n = self.plan.blocks[i], self.plan.n
        alone = arrays.sealed if self.reverse else arrays.stored
        if not inverse:
            state = moved(placed.before, placed.frame, state, self.reverse)
        shape, kind = state.shape, placed.block.kind
        if kind == "shared":
            matrix = parameter.T if inverse else parameter
            state = arrays.dot(matrix, state.reshape(len(matrix), -1)).reshape(shape)
        elif kind == "own":
            matrix = parameter.swapaxes(0, 1) if inverse else parameter
            bits = tuple(placed.frame.bit(wire) for wire in placed.block.wires)
            state = alone(functools.partial(_apply_own, bits=bits), matrix, state)
        elif kind == "phase":
            if self.plan.real:
                state = parameter * state
            else:
                state = turned(-parameter if inverse else parameter, state, self.reverse)
        else:
            state = alone(functools.partial(_plain, placed, n, inverse=inverse), parameter, state)
        if inverse:
            state = moved(placed.frame, placed.before, state, self.reverse)
        return state

    def _phases(self, placed: Placed, sources: Sources) -> jax.Array:
        """Return the phases (2^n, batch or 1) of a diagonal block, or of a real one its signs."""
        n, masks, keys = self.plan.n, [], []
        constant: dict[int, float] = {}
        for element in placed.block.elements:
            if element.turns and element.op is not None:
                word = element.gate.generator or ""
                wires = [wire for wire, letter in zip(element.wires, word, strict=True) if letter != "I"]
                mask, sign = placed.frame.mask(sum(1 << n - 1 - wire for wire in wires))
                masks.append((mask, sign))
                keys.append(key(element.op))
                continue
            for word_mask, angle in walsh_angles(np.asarray(element.gate.fixed), element.wires, n):
                mask, sign = placed.frame.mask(word_mask)
                constant[mask] = constant.get(mask, 0.0) + sign * angle
        total = None
        if keys:
            own = any(source == "inputs" for source, _ in keys)
            total = _signed_sum(n, masks, _angles(keys, sources, own, self.reverse))
        if constant:
            fixed_phase = _constant_phases(n, constant, self.dtype)
            total = fixed_phase if total is None else total + fixed_phase
        if total is None:
            total = jnp.zeros((2**n, 1), self.dtype)
        return jnp.round(jnp.cos(total)) if self.plan.real else total


def measured_parts(state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return real and imaginary parts (2^n, batch)."""
    return state[0], state[1] if len(state) == 2 else jnp.zeros_like(state[0])


def _turned(frame: Frame, wire: int) -> bool:
    return bool(frame.offset >> (frame.n - 1 - wire) & 1)


def _order(frame: Frame) -> list[int]:
    """Return the wires of a frame that is an order of wires, most significant first."""
    return [frame.n - image.bit_length() for image in reversed(frame.order.images)]


def _tree_order(count: int) -> list[int]:
    """Return which vector is the first, the second, ... factor of `_kron`."""
    groups: list[list[int]] = [[i] for i in range(count)]
    last: list[int] = []
    while len(groups) > 1:
        half = len(groups) // 2
        last = [*(groups[-1] if len(groups) % 2 else []), *last]
        groups = [groups[i] + groups[half + i] for i in range(half)]
    return [*groups[0], *last]


def _kron(vectors: jax.Array, reverse: bool) -> jax.Array:
    """Return the Kronecker product (parts, 2^n, batch) of vectors (wires, parts, 2, batch), in `_tree_order`: those of
    the first half with those of the second, for halves are contiguous.
    """
    outer = _outer_reverse if reverse else _outer
    last: jax.Array | None = None
    while len(vectors) > 1:
        half = len(vectors) // 2
        if len(vectors) % 2:
            last = vectors[-1:] if last is None else outer(vectors[-1:], last)
        vectors = outer(vectors[:half], vectors[half : 2 * half])
    return (vectors if last is None else outer(vectors, last))[0]


def _outer(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the Kronecker products (m, parts, d e, batch) of vectors (m, parts, d, batch or 1)."""
    a, b = a[:, :, :, None], b[:, :, None]
    if a.shape[1] == 1:
        product = a * b
    else:
        re, im = a[:, 0] * b[:, 0] - a[:, 1] * b[:, 1], a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0]
        product = jnp.stack([re, im], 1)
    return product.reshape(*product.shape[:2], -1, product.shape[-1])


def _outer_back(kept: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = kept
    g = g.reshape(*a.shape[:3], b.shape[2], g.shape[-1])
    d_a = _contracted([g[:, :, :, j] for j in range(b.shape[2])], [b[:, :, j, None] for j in range(b.shape[2])])
    d_b = _contracted([g[:, :, i] for i in range(a.shape[2])], [a[:, :, i, None] for i in range(a.shape[2])])
    d_a, d_b = (d if d.shape == x.shape else d.sum(axis=-1, keepdims=True) for d, x in ((d_a, a), (d_b, b)))
    return d_a, d_b


def _contracted(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> jax.Array:
    """Return sum_j left_j conj(right_j); written out, the sum is one pass."""
    if left[0].shape[1] == 1:
        return functools.reduce(jnp.add, [x * y for x, y in zip(left, right, strict=True)])
    re = [x[:, 0] * y[:, 0] + x[:, 1] * y[:, 1] for x, y in zip(left, right, strict=True)]
    im = [x[:, 1] * y[:, 0] - x[:, 0] * y[:, 1] for x, y in zip(left, right, strict=True)]
    return jnp.stack([functools.reduce(jnp.add, re), functools.reduce(jnp.add, im)], 1)


def _outer_stored(a: jax.Array, b: jax.Array) -> jax.Array:
    return arrays.stored(_outer, a, b)


_outer_reverse = jax.custom_vjp(_outer_stored)
_outer_reverse.defvjp(
    lambda a, b: (_outer_stored(a, b), (a, b)),
    lambda kept, g: arrays.stored(_outer_back, kept, g),
)


def _angles(keys: Sequence[Key], sources: Sources, own: bool, reverse: bool) -> jax.Array:
    if own:
        return angles_of(keys, sources, reverse)
    return jnp.stack([sources[source][index] for source, index in keys])[:, None]


def _signed_sum(n: int, masks: Sequence[tuple[int, int]], angles: jax.Array) -> jax.Array:
    """Return half the sum of angles (g, batch) with the signs of their Z words, for all places: (2^n, batch)."""
    if n <= TABLE_WIRES:
        table = np.stack([sign * signs(mask, n) / 2 for mask, sign in masks], axis=1)
        return arrays.dot(jnp.asarray(table, angles.dtype), angles)
    low = n // 2
    upper = np.stack([sign * signs(mask >> low, n - low) / 2 for mask, sign in masks], axis=1)
    lower = np.stack([signs(mask & (1 << low) - 1, low) for mask, _ in masks], axis=1)
    spread = jnp.asarray(upper, angles.dtype)[:, :, None] * angles[None]  # (2^(n - low), g, batch)
    return lax.map(functools.partial(arrays.dot, jnp.asarray(lower, angles.dtype)), spread).reshape(2**n, -1)


def _constant_phases(n: int, constant: Mapping[int, float], dtype: jnp.dtype) -> jax.Array:
    if n <= TABLE_WIRES:
        total = sum(angle * signs(mask, n) for mask, angle in constant.items()) / 2
        return jnp.asarray(np.remainder(np.asarray(total) + np.pi, 2 * np.pi) - np.pi, dtype)[:, None]
    angles = jnp.asarray(np.array(list(constant.values()))[:, None], dtype)
    return _signed_sum(n, [(mask, 1) for mask in constant], angles)


def moved(before: Frame, after: Frame, state: jax.Array, reverse: bool) -> jax.Array:
    """Return `state` (parts, 2^n, batch), stored by frame `before`, in frame `after`."""
    if before == after:
        return state
    return (_moved if reverse else _move)(before, after, state)


def _move(before: Frame, after: Frame, state: jax.Array) -> jax.Array:
    index = before.index_to(after)
    if index is None:
        return state
    size = state.shape[1]
    rows = (
        index if len(state) == 1 else (np if isinstance(index, np.ndarray) else jnp).concatenate([index, index + size])
    )
    # Alone, XLA copies whole rows; fused with its neighbours, number by number.
    return arrays.stored(functools.partial(arrays.take, index=rows), state.reshape(-1, state.shape[2])).reshape(
        state.shape
    )


_moved = jax.custom_vjp(_move, nondiff_argnums=(0, 1))
_moved.defvjp(
    lambda before, after, state: (_move(before, after, state), None),
    lambda before, after, _, g: (_move(after, before, g),),
)


def turned(phases: jax.Array, state: jax.Array, reverse: bool) -> jax.Array:
    """Return e^(-i phase) psi for `phases` (2^n, batch or 1)."""
    return (_turn_reverse if reverse else _turn)(phases, state)


def _turn(phases: jax.Array, state: jax.Array) -> jax.Array:
    return _by_waves(gates.wave(phases, 0), state)


def _by_waves(waves: jax.Array, state: jax.Array) -> jax.Array:
    return waves[0][None] * state + _quarter(waves[1][None] * lax.rev(state, (0,)))


def _quarter(swapped: jax.Array) -> jax.Array:
    return jnp.asarray([1, -1], swapped.dtype)[:, None, None] * swapped


_turn_reverse = jax.custom_vjp(_turn)


def _turn_ahead(phases: jax.Array, state: jax.Array) -> tuple[jax.Array, Any]:
    waves = gates.wave(phases, 0, reverse=True)
    after = arrays.stored(_by_waves, waves, state)
    return after, (waves, after)


def _turn_back(kept: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return arrays.stored(_turned_back, kept, g)


def _turned_back(kept: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    waves, after = kept
    d_phase = (g * _quarter(lax.rev(after, (0,)))).sum(axis=0)
    if waves.shape[-1] == 1:
        d_phase = d_phase.sum(axis=-1, keepdims=True)
    back = jnp.stack([waves[0], -waves[1]])
    return d_phase, _by_waves(back, g)


_turn_reverse.defvjp(_turn_ahead, _turn_back)


def _apply_own(matrix: jax.Array, state: jax.Array, bits: Sequence[Any]) -> jax.Array:
    """Return the matrices (d, d, batch) of every example applied to the wires at `bits` of places."""
    parts, size, batch = state.shape
    k, both = len(bits), matrix.shape[0] > 2 ** len(bits)
    # Axes of the result: (part, ..., wire, ..., wire, ..., batch), each with one that is summed behind it.
    shape, places, above = [parts], [], size
    for bit in bits:
        shape += [above >> (bit + 1), 2]
        places.append(len(shape) - 1)
        above = 1 << bit
    shape += [above, batch]
    axes = [0, *places] if both else places
    spread, coefficients, summed = [], [], []
    for axis, length in enumerate(shape):
        if axis in axes:
            spread += [1, length]
            coefficients += [length, length]
            summed.append(len(spread) - 1)
        else:
            spread.append(length)
            coefficients.append(length if axis == len(shape) - 1 else 1)
    count = k + both
    own = matrix.reshape(*(2,) * (2 * count), batch if matrix.shape[-1] == batch else 1)
    own = own.transpose(*(place for i in range(count) for place in (i, count + i)), 2 * count)
    coefficients[-1] = own.shape[-1]
    product = own.reshape(coefficients) * state.reshape(spread)
    return product.sum(axis=tuple(summed)).reshape(state.shape)


def _numbers(placed: Placed, sources: Sources) -> Any:
    (element,) = placed.block.elements
    if element.op is None:
        return ()
    taken = gatewise.taken(element.op, sources)
    if element.turns:
        return jnp.cos(taken / 2), jnp.sin(taken / 2)
    return taken


def _plain(placed: Placed, n: int, numbers: Any, state: jax.Array, *, inverse: bool) -> jax.Array:
    (element,) = placed.block.elements
    pair = gatewise.after(n, element.gate, element.wires, inverse, measured_parts(state), numbers)
    return jnp.stack(pair[: len(state)])
