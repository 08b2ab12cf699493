"""Expectation values of Pauli words, of the states of a batch."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits.measuring import walsh
from qwafer.engines.xla.arrays import dot, stored
from qwafer.engines.xla.frames import Frame

MOST_SIGNS = 1 << 20
"""Entries of the table of signs with which words are summed; for more a Walsh transform takes all words at once."""


def expectations(frame: Frame, words: Sequence[str], state: jax.Array) -> jax.Array:
    """Return <P> (batch, words) of `state` (parts, 2^n, batch), stored by `frame`.

    Words that have X and Y on the same wires share a pass over the state: with t_k = psi_k* psi_(k xor x) each is a sum
    of signs times the real part of t, or, with an odd number of Y, times the imaginary part.
    """
    n = frame.n
    groups: dict[tuple[int, bool], list[tuple[int, int, int]]] = {}
    for place, word in enumerate(words):
        flipped, signed = (
            sum((letter in letters) << n - 1 - wire for wire, letter in enumerate(word)) for letters in ("XY", "YZ")
        )
        mask, sign = frame.mask(signed)
        n_y = word.count("Y")
        own = (place, mask, sign * (-1) ** (n_y // 2))
        groups.setdefault((frame.inverse(flipped), n_y % 2 == 1), []).append(own)
    found: dict[int, jax.Array] = {}
    for (flip, odd), group in groups.items():
        places, masks, signs = zip(*group, strict=True)
        if odd and len(state) == 1:  # of real states
            summed = [jnp.zeros_like(state[0, 0])] * len(places)
        else:
            overlap = stored(functools.partial(_overlap, n, flip, odd), state)
            summed = _signed(n, masks, signs, overlap)
        found.update(zip(places, summed, strict=True))
    return jnp.stack([found[place] for place in range(len(words))], axis=-1)


def split_shape(n: int, ascending: Sequence[int]) -> tuple[int, ...]:
    """Return the shape (rest, 2, rest, 2, ..., rest) that gives each of the `ascending` wires an axis of its own."""
    shape, last = [], -1
    for wire in ascending:
        shape += [2 ** (wire - last - 1), 2]
        last = wire
    return (*shape, 2 ** (n - 1 - last))


def _overlap(n: int, flip: int, odd: bool, state: jax.Array) -> jax.Array:
    """Return the real part of t (2^n, batch), or its imaginary part where `odd`."""
    if not flip:
        return (state * state).sum(axis=0)
    flipped = [place for place in range(n) if flip >> (n - 1 - place) & 1]
    shape, axes = (*split_shape(n, flipped), state.shape[2]), [2 * place + 1 for place in range(len(flipped))]
    other = [lax.rev(part.reshape(shape), axes).reshape(part.shape) for part in state]
    if odd:
        return state[0] * other[1] - state[1] * other[0]
    return sum(own * there for own, there in zip(state[1:], other[1:], strict=True)) + state[0] * other[0]


def _signed(n: int, masks: Sequence[int], signs: Sequence[int], overlap: jax.Array) -> list[jax.Array]:
    """Return for every word its value (batch,): sign sum_k (-1)^(k . mask) t_k."""
    if len(masks) * 2**n <= MOST_SIGNS:
        bits = np.array([[bin(k & mask).count("1") & 1 for k in range(2**n)] for mask in masks])
        table = (1 - 2 * bits) * np.array(signs)[:, None]
        return list(dot(jnp.asarray(table, overlap.dtype), overlap))
    summed = walsh(overlap.T, jnp)
    return [float(sign) * summed[:, mask] for sign, mask in zip(signs, masks, strict=True)]
