"""Programs of captured circuits: the program of the core, between what fills its slots and what becomes of its values.

It is one wrapper for every engine, so that an engine that runs a `GateCircuit` runs whatever has been captured.
"""

from collections.abc import Mapping
from typing import Any

from qwafer.circuits import CapturedCircuit, Circuit
from qwafer.circuits.captured import SHARED
from qwafer.engines.base import Engine, Forward, Program, Weights
from qwafer.engines.cache import kept


def core_of(circuit: Circuit) -> Circuit:
    """Return the circuit whose gates an engine applies: the core of a captured one, any other as it is."""
    return circuit.core if isinstance(circuit, CapturedCircuit) else circuit


def captured_program(
    engine: Engine, circuit: CapturedCircuit, batch: int, *, gradient: bool = True, seed: int = 0
) -> Program:
    """Return the program of `circuit` on `engine`, by that of its core.

    Slots that no input reaches are computed once a call, the others for the batch; JAX has the chain rule.
    """
    core = engine.program(circuit.core, batch, gradient=gradient, seed=seed)
    slots = {"shared": dict(circuit.core.weights).get(SHARED, (0,))[0], "per_example": circuit.core.n_inputs}
    info = {**core.info, "slots": slots, "circuit": circuit.digest}
    made_by = (engine, gradient, core._request()[2])
    reverse = getattr(engine, "derivatives", "reverse") == "reverse"
    return Program(_joined(circuit, core, reverse), circuit, batch, info, made_by=made_by)


@kept
def _joined(circuit: CapturedCircuit, core: Program, reverse: bool) -> Forward:
    """Return the compiled function of a captured circuit, one per process."""
    import jax
    import jax.numpy as jnp

    from qwafer.engines.slots import slot_vectors

    vectors = slot_vectors(circuit)

    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        values: Mapping[str, Any] = {name: value.astype(circuit.dtype) for name, value in weights.items()}
        own = [values[name] for name, _ in circuit.weights]
        shared, per_example, coefficients = vectors([*own, inputs.astype(circuit.dtype).T], reverse)
        if per_example.ndim == 1:  # no input reaches a gate
            per_example = jnp.broadcast_to(per_example[:, None], (len(per_example), len(inputs)))
        filled = {name: shared if name == SHARED else values[name] for name in circuit.core.weight_shapes()}
        found = core._forward(filled, per_example.T)
        coefficients = coefficients[None] if coefficients.ndim == 1 else coefficients.T
        return circuit.outputs_of(found, coefficients, jnp)

    return jax.jit(forward)
