"""Products of ternary weights and sums of sign planes by XOR, AND and population count on 32-bit words."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, UInt32

WORD = 32
"""Bits of a word; XLA has fast population counts of uint32, and slow ones of uint8."""
UNROLLED = 4
"""Steps of the loop over words that are compiled as one: more compile longer and are no faster."""


def words(bits: Bool[Array, "rows n"]) -> UInt32[Array, "rows W"]:
    """Return truth values in W = ceil(n / 32) words a row, the first in the lowest bit; the last word ends in zeros."""
    rows, n = bits.shape
    padded = jnp.pad(bits, ((0, 0), (0, -n % WORD))).reshape(rows, -(-n // WORD), WORD).astype(jnp.uint32)
    return (padded << jnp.arange(WORD, dtype=jnp.uint32)[None, None]).sum(axis=2, dtype=jnp.uint32)


def ternary_planes(codes: Array) -> tuple[UInt32[Array, "W N"], UInt32[Array, "W N"]]:
    """Return the planes of ternary codes (n, N): `mask`, 1 where a code is not 0, and `sign`, 1 where it is 1."""
    return words(codes.T != 0).T, words(codes.T > 0).T


def sign_planes(codes: Array, bits: int) -> UInt32[Array, "bits rows W"]:
    """Return planes x_b of odd codes c (rows, n) from 1 - 2^bits to 2^bits - 1: c = sum_b 2^b (2 x_b - 1)."""
    offset = ((codes.astype(jnp.int32) + (2**bits - 1)) // 2).astype(jnp.uint32)
    return jnp.stack([words((offset >> b) & 1 == 1) for b in range(bits)])


def popcount_product(
    planes: UInt32[Array, "bits rows W"], mask: UInt32[Array, "W N"], sign: UInt32[Array, "W N"]
) -> Int32[Array, "rows N"]:
    """Return the product C Q (rows, N) of the codes C of `sign_planes` and the codes Q of `ternary_planes`, exactly.

    Where the mask is set, x_b XOR sign tells a product -1 from 1: sum_b 2^b (|mask| - 2 |mask AND (x_b XOR sign)|),
    |.| the number of bits set (Rastegari et al. 2016, arXiv:1603.05279, with a mask).
    """
    n_planes, rows, n_words = planes.shape

    def add(i: Array, total: Array) -> Array:
        # A column of words (rows, 1) with a row of them (1, N): outputs innermost, the fastest order.
        m, s = mask[i][None], sign[i][None]
        for b in range(n_planes):
            disagree = jax.lax.population_count(m & (s ^ planes[b, :, i, None]))
            total = total + (disagree.astype(jnp.int32) << b)
        return total

    start = jnp.zeros((rows, mask.shape[1]), jnp.int32)
    total = jax.lax.fori_loop(0, n_words, add, start, unroll=min(UNROLLED, n_words))
    n_set = jax.lax.population_count(mask).astype(jnp.int32).sum(axis=0, dtype=jnp.int32)
    return (2**n_planes - 1) * n_set[None] - 2 * total
