"""Products of ternary weights and sums of sign planes by XOR, AND and population count on 32-bit words."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, UInt32

WORD = 32
"""Bits of a word; XLA has fast population counts of uint32, and slow ones of uint8."""
UNROLLED = 32
"""Words up to which the loop over them is unrolled."""


def words(bits: Bool[Array, "rows n"]) -> UInt32[Array, "rows W"]:
    """Return truth values in W = ceil(n / 32) words a row, the first in the lowest bit; the last word ends in zeros."""
    rows, n = bits.shape
    padded = jnp.pad(bits, ((0, 0), (0, -n % WORD))).reshape(rows, -1, WORD).astype(jnp.uint32)
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
    weights = (1 << jnp.arange(n_planes, dtype=jnp.int32))[:, None, None]

    def add(total: Array, i: int | Array) -> Array:
        # (planes, rows, 1) with (N,): outputs innermost, so that one word serves a row of them.
        x = jax.lax.dynamic_index_in_dim(planes, i, axis=2)
        m = jax.lax.dynamic_index_in_dim(mask, i, axis=0)[None]
        s = jax.lax.dynamic_index_in_dim(sign, i, axis=0)[None]
        return total + jax.lax.population_count(m & (s ^ x)).astype(jnp.int32)

    total = jnp.zeros((n_planes, rows, mask.shape[1]), jnp.int32)
    if n_words <= UNROLLED:
        for i in range(n_words):
            total = add(total, i)
    else:
        total = jax.lax.fori_loop(0, n_words, lambda i, total: add(total, i), total)
    n_set = jax.lax.population_count(mask).astype(jnp.int32).sum(axis=0, dtype=jnp.int32)
    return (weights * (n_set[None, None] - 2 * total)).sum(axis=0, dtype=jnp.int32)
