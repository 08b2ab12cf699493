"""Large angles: whole turns taken off before anything is summed or a sine is evaluated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST = 4 * np.pi
"""Angles within this are left as they are, to the last bit."""


@jax.custom_jvp
def reduced(angles: Any) -> Any:
    """Return a pytree of `angles` mod 4 pi, each in [-2 pi, 2 pi] where it exceeds 4 pi, with derivative 1; radians.

    A rotation by half the angle has the period 4 pi. The turns that come off are those of the number as it is stored:
    2 atan2(sin, cos) of half the angle, each correct to rounding for any float. What a float32 does not hold cannot
    come back: it knows 1e3 to 6e-5, 1e6 to 0.06 and from 7e7 on nothing of an angle. Without such angles, the rule,
    nothing but a comparison is evaluated.
    """

    def large(x: jax.Array) -> jax.Array:
        return jnp.abs(x) > LARGEST

    def reduce(x: jax.Array) -> jax.Array:
        half = x / 2
        return lax.select(large(x), 2 * jnp.arctan2(jnp.sin(half), jnp.cos(half)), x)

    any_large = jnp.any(jnp.stack([jnp.any(large(x)) for x in jax.tree.leaves(angles)]))
    return lax.cond(any_large, lambda tree: jax.tree.map(reduce, tree), lambda tree: tree, angles)


@reduced.defjvp
def _reduced_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    return reduced(*primals), tangents[0]
