"""What may be done to a wafer map without changing its meaning: moves that keep the disc where it is, and flipped dies.

Translations and crops are not among them: where a defect lies is what it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Codes = Float[Array, "batch size size"]
"""Maps of 0 (off the wafer), 1 (passing) and 2 (failing)."""
N_SYMMETRIES = 8


def symmetries(codes: Codes) -> Float[Array, "8 batch size size"]:
    """Return the eight symmetric forms of square maps; the first are the maps themselves."""
    turned = [codes if k == 0 else jnp.rot90(codes, k, axes=(1, 2)) for k in range(4)]
    return jnp.stack([*turned, *(jnp.flip(one, axis=2) for one in turned)])


def augmented(codes: Codes, key: jax.Array, moved: Bool[Array, " batch"], how: str, flip_rate: float) -> Codes:
    """Return maps that are moved at random where `moved`, and whose dies are then flipped at random.

    `how` is `none`, `symmetries` or `rotations`; see `NetworkOptions`.
    """
    symmetry, angle, flip = jax.random.split(key, 3)
    if how != "none":
        codes = jnp.where(moved[:, None, None], _symmetric(codes, symmetry), codes)
    if how == "rotations":
        codes = jnp.where(moved[:, None, None], _rotated(codes, angle), codes)
    if flip_rate > 0:
        flipped = (jax.random.uniform(flip, codes.shape, jnp.float32) < flip_rate) & (codes > 0)
        codes = jnp.where(flipped, 3 - codes, codes)
    return codes


def _symmetric(codes: Codes, key: jax.Array) -> Codes:
    """Return each map under one of the eight symmetries, drawn uniformly: a transpose and two mirrors, or not."""
    for bit, change in zip(
        jax.random.uniform(key, (3, len(codes), 1, 1), jnp.float32) < 0.5,
        (lambda x: jnp.swapaxes(x, 1, 2), lambda x: jnp.flip(x, axis=1), lambda x: jnp.flip(x, axis=2)),
        strict=True,
    ):
        codes = jnp.where(bit, change(codes), codes)
    return codes


def _rotated(codes: Codes, key: jax.Array) -> Codes:
    """Return each map turned about its centre by an angle drawn uniformly: the die at x shows the nearest die to R x.

    A die stays as it is where R x is off the wafer; no die leaves the wafer or joins it.
    """
    batch, size, _ = codes.shape
    theta = jax.random.uniform(key, (batch, 1, 1), jnp.float32, maxval=2 * np.pi)
    offset = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    rows, columns = offset[None, :, None], offset[None, None, :]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    found = [
        jnp.clip(jnp.round(place + (size - 1) / 2).astype(jnp.int32), 0, size - 1)
        for place in (cos * rows - sin * columns, sin * rows + cos * columns)
    ]
    flat = codes.reshape(batch, -1)
    turned = jnp.take_along_axis(flat, (found[0] * size + found[1]).reshape(batch, -1), axis=1).reshape(codes.shape)
    return jnp.where((codes > 0) & (turned > 0), turned, codes)


def turned(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (n, size, size, ...) images, each under one of the eight symmetries, drawn by NumPy."""
    choice = rng.integers(0, N_SYMMETRIES, len(images))
    result = np.empty_like(images)
    for element in range(N_SYMMETRIES):
        members = choice == element
        one = np.rot90(images[members], element % 4, axes=(1, 2))
        result[members] = one[:, :, ::-1] if element >= 4 else one
    return result
