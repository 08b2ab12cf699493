"""The `xla` engine: the batch as one array in plain JAX, by whichever plan is cheapest for the spec and the batch."""

import functools

import jax

from qwafer._errors import InputError
from qwafer.circuits import CircuitSpec
from qwafer.engines._base import Program, Weights
from qwafer.engines._xla import statevector


class XlaEngine:
    """Batched simulation in JAX: no host callbacks, float32 or float64 as the spec says, whatever `jax_enable_x64` is."""

    name = "xla"

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True) -> Program:
        """Return the program of `spec` for `batch` examples; see `Engine.program`."""
        if spec.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise InputError("dtype float64 needs JAX in 64 bit: call jax.config.update('jax_enable_x64', True) first")
        forward = jax.jit(functools.partial(_forward, spec))
        info = {"engine": self.name, "plan": "schroedinger", "device": jax.default_backend(), "gradient": gradient}
        return Program(forward, spec, batch, info)


def _forward(spec: CircuitSpec, weights: Weights, angles: jax.Array) -> jax.Array:
    weights = {name: value.astype(spec.dtype) for name, value in weights.items()}
    return statevector.forward(spec, weights, angles.astype(spec.dtype))
