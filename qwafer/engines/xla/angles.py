"""Large angles: whole turns taken off before anything is summed or a sine is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST = 4 * np.pi
"""Angles within this are left as they are, to the last bit."""


@jax.custom_jvp
def reduced(angles: jax.Array) -> jax.Array:
    """Return `angles` mod 4 pi, in [-2 pi, 2 pi] where they exceed 4 pi, with derivative 1; radians.

    A rotation by half the angle has the period 4 pi. The turns that come off are those of the number as it is stored:
    2 atan2(sin, cos) of half the angle, each correct to rounding for any float. What a float32 does not hold cannot
    come back: it knows 1e3 to 6e-5, 1e6 to 0.06 and from 7e7 on nothing of an angle. Without such angles, the rule,
    nothing but a comparison is evaluated.
    """

    def reduce(x: jax.Array) -> jax.Array:
        half = x / 2
        return lax.select(jnp.abs(x) > LARGEST, 2 * jnp.arctan2(jnp.sin(half), jnp.cos(half)), x)

    return lax.cond(jnp.any(jnp.abs(angles) > LARGEST), reduce, lambda x: x, angles)


@reduced.defjvp
def _reduced_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return reduced(*primals), tangents[0]
