"""Plans as jitted functions, shared by equal programs."""

from typing import Any

import jax

from qwafer.circuits import CircuitSpec
from qwafer.engines.base import Forward, Weights
from qwafer.engines.cache import kept
from qwafer.engines.forward_mode import reverse_only
from qwafer.engines.xla import heisenberg as pauli
from qwafer.engines.xla import product, scheduled
from qwafer.engines.xla import schroedinger as statevector
from qwafer.engines.xla.angles import reduced


@kept
def jitted(spec: CircuitSpec, plan: str, chunks: int, recompute: bool, reverse: bool) -> Forward:
    """Return the compiled function of a plan, one per process, so that equal programs share its compilations."""

    @jax.jit
    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        weights = {name: value.astype(spec.dtype) for name, value in weights.items()}
        inputs = inputs.astype(spec.dtype)
        if reverse:
            weights, inputs = reverse_only((weights, inputs))
        angles = weights if spec.readout_facts.gates else {"ansatz": weights["ansatz"]}
        angles, inputs = reduced((angles, inputs))
        weights = {**weights, **angles}
        if plan == "product":
            return product.forward(spec, weights, inputs)
        if plan == "heisenberg":
            return pauli.forward(spec, weights, inputs, reverse)
        return statevector.forward(spec, weights, inputs, chunks, recompute=recompute, reverse=reverse)

    return forward


@kept
def jitted_gates(circuit: Any, chunks: int, recompute: bool, reverse: bool) -> Forward:
    """Return the compiled function of plan `gates`, one per process."""

    @jax.jit
    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        arrays = {name: value.astype(circuit.dtype) for name, value in weights.items()}, inputs.astype(circuit.dtype)
        if reverse:
            arrays = reverse_only(arrays)
        angles, inputs = arrays
        coefficients = {"readout": angles.pop("readout")} if circuit.readout_facts.is_weighted else {}
        angles, inputs = reduced((angles, inputs.T))  # examples last, as in all that follows
        weights = {**angles, **coefficients}
        return scheduled.forward(circuit, weights, inputs, chunks, recompute=recompute, reverse=reverse)

    return forward
