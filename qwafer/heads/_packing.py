"""Codes in as many bits as they need: k bits each, or five ternary ones in a byte."""

import math

import numpy as np

from qwafer._errors import InputError

TRITS = 5
"""Ternary codes in a byte: 3^5 = 243 of 256 values."""
_PLACES = 3 ** np.arange(TRITS)


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return whole numbers from 0 to 2^bits - 1, of any shape, as uint8 of length ceil(size bits / 8).

    Number i takes the bits i `bits` to (i + 1) `bits` - 1, least significant first.
    """
    values = _whole(codes, 2**bits).astype(np.uint32)
    each = (values[:, None] >> np.arange(bits, dtype=np.uint32)[None]) & 1
    return np.packbits(each.astype(np.uint8), bitorder="little")


def unpack_bits(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the int32 codes (`shape`) that `pack_bits` has packed; raise InputError for bytes of another length."""
    size = math.prod(shape)
    _check_bytes(packed, -(-size * bits // 8))
    each = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    return (each.astype(np.int32) @ (1 << np.arange(bits, dtype=np.int32))).reshape(shape)


def pack_trits(codes: np.ndarray) -> np.ndarray:
    """Return codes 0, 1, 2, of any shape, as uint8 of length ceil(size / 5): sum_i c_i 3^i of every five."""
    values = _whole(codes, 3)
    padded = np.pad(values, (0, -len(values) % TRITS)).reshape(-1, TRITS)
    return (padded @ _PLACES).astype(np.uint8)


def unpack_trits(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the int32 codes (`shape`) that `pack_trits` has packed; raise InputError for bytes that are not of it."""
    size = math.prod(shape)
    _check_bytes(packed, -(-size // TRITS))
    if (packed >= 3**TRITS).any():
        raise InputError(f"packed ternary codes must be bytes below {3**TRITS}, got {packed.max()}")
    each = packed.astype(np.int32)[:, None] // _PLACES[None] % 3
    return each.reshape(-1)[:size].reshape(shape).astype(np.int32)


def _whole(codes: np.ndarray, end: int) -> np.ndarray:
    values = np.asarray(codes).reshape(-1).astype(np.int64)
    if values.size and not (values.min() >= 0 and values.max() < end):
        raise InputError(f"codes must be whole numbers from 0 to {end - 1}, got {values.min()} to {values.max()}")
    return values


def _check_bytes(packed: np.ndarray, length: int) -> None:
    if packed.dtype != np.uint8 or packed.shape != (length,):
        raise InputError(f"packed codes must be uint8 of shape ({length},), got {packed.dtype} of shape {packed.shape}")
