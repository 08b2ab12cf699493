"""Expectation values of Pauli words, of the states of a batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.circuits.measuring import walsh
from qwafer.engines.xla.arrays import dot

MOST_SIGNS = 1 << 20
"""Entries of the table of signs with which words are summed; for more a Walsh transform takes all words at once."""


def expectations(n: int, words: Sequence[str], state: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return <P> (batch, words) of `state`, two arrays (2^n, batch).

    Words that have X and Y on the same wires share a pass over the state: with t_k = psi_k* psi_(k xor x) each is a sum
    of signs times the real part of t, or, with an odd number of Y, times the imaginary part.
    """
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for place, word in enumerate(words):
        flipped = tuple(wire for wire, letter in enumerate(word) if letter in "XY")
        groups.setdefault((flipped, word.count("Y") % 2 == 1), []).append(place)
    found: dict[int, jax.Array] = {}
    for (flipped, odd), places in groups.items():
        summed = _signed(n, [words[place] for place in places], _overlap(n, flipped, odd, state))
        found.update(zip(places, summed, strict=True))
    return jnp.stack([found[place] for place in range(len(words))], axis=-1)


def split_shape(n: int, ascending: Sequence[int]) -> tuple[int, ...]:
    """Return the shape (rest, 2, rest, 2, ..., rest) that gives each of the `ascending` wires an axis of its own."""
    shape, last = [], -1
    for wire in ascending:
        shape += [2 ** (wire - last - 1), 2]
        last = wire
    return (*shape, 2 ** (n - 1 - last))


def _overlap(n: int, flipped: tuple[int, ...], odd: bool, state: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the real part of t (2^n, batch), or its imaginary part where `odd`."""
    re, im = state
    if not flipped:
        return re * re + im * im
    shape, axes = (*split_shape(n, flipped), re.shape[1]), [2 * place + 1 for place in range(len(flipped))]
    other_re, other_im = (lax.rev(part.reshape(shape), axes).reshape(part.shape) for part in state)
    return re * other_im - im * other_re if odd else re * other_re + im * other_im


def _signed(n: int, words: Sequence[str], overlap: jax.Array) -> list[jax.Array]:
    """Return for every word its value (batch,): (-1)^(half the number of Y, down) sum_k (-1)^(k . (Y or Z)) t_k."""
    masks = [sum((letter in "YZ") << n - 1 - wire for wire, letter in enumerate(word)) for word in words]
    signs = np.array([(-1) ** (word.count("Y") // 2) for word in words])
    if len(words) * 2**n <= MOST_SIGNS:
        bits = np.array([[bin(k & mask).count("1") & 1 for k in range(2**n)] for mask in masks])
        table = (1 - 2 * bits) * signs[:, None]
        return list(dot(jnp.asarray(table, overlap.dtype), overlap))
    summed = walsh(overlap.T, jnp)
    return [float(sign) * summed[:, mask] for sign, mask in zip(signs, masks, strict=True)]
