"""Plan `gates`: any circuit, as the blocks that `schedule` finds, on the states of the batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qwafer.circuits import INPUTS, Circuit
from qwafer.circuits.readouts import READOUTS, contract_readout
from qwafer.engines.base import Weights
from qwafer.engines.xla import arrays
from qwafer.engines.xla.blocks import Blocks, moved
from qwafer.engines.xla.frames import wire_order
from qwafer.engines.xla.schedule import Plan, plan
from qwafer.engines.xla.words import expectations


def forward(
    circuit: Circuit, weights: Weights, inputs: jax.Array, chunks: int, *, recompute: bool, reverse: bool
) -> jax.Array:
    """Return s (batch, n_outputs) for `inputs` (n_inputs, batch), in `chunks` of the batch one after the other.

    The reverse pass keeps the states before every block. With `recompute` it keeps none: it makes the final state again
    and undoes the blocks on it and on its cotangent (Jones and Gacon 2020, arXiv:2009.02823), and so holds a few states
    however deep the circuit is. Without `reverse` all derivatives are JAX's own.
    """
    batch = inputs.shape[1]
    size = -(-batch // chunks)
    blocks = Blocks(planned(circuit, size), circuit.dtype, reverse)
    angles = {name: weights[name] for name in circuit.weight_shapes() if name != "readout"}
    shared = blocks.shared(angles)

    def values(angles: Any, shared: Any, part: jax.Array) -> jax.Array:
        sources = {**angles, INPUTS: part}
        start, parameters = blocks.start(sources), blocks.parameters(shared, sources)
        final = (_undone if recompute and reverse else _applied)(blocks, parameters, start)
        return _measured(circuit, blocks.plan, final, reverse)

    if recompute and reverse:
        values = jax.checkpoint(values)
    if chunks == 1:
        found = values(angles, shared, inputs)
    else:
        padded = jnp.pad(inputs, ((0, 0), (0, chunks * size - batch))).reshape(-1, chunks, size)
        parts = lax.map(functools.partial(values, angles, shared), padded.swapaxes(0, 1))
        found = parts.reshape(chunks * size, parts.shape[-1])[:batch]
    readout = circuit.readout_facts
    if readout.is_each:
        return found
    if readout.z_only:  # the matrix has no entries for X and Y
        found = jnp.stack([jnp.zeros_like(found), jnp.zeros_like(found), found], axis=-1)
    return contract_readout(circuit, weights, found.reshape(batch, circuit.n_qubits, 3), jnp)


def measured_words(circuit: Circuit) -> tuple[str, ...]:
    """Return the Pauli words whose expectation values the plan takes of the body; none where it takes the state."""
    readout = circuit.readout_facts
    if readout.amplitudes:
        return ()
    if readout.per_wire and not readout.is_each:
        readout = READOUTS["z" if readout.z_only else "bloch"]
    return readout.measured_words(circuit.n_qubits)


def planned(circuit: Circuit, batch: int) -> Plan:
    """Return the plan of a circuit for so many examples at a time."""
    return plan(circuit, measured_words(circuit), batch)


def _applied(blocks: Blocks, parameters: list[Any], state: jax.Array) -> jax.Array:
    for i, parameter in enumerate(parameters):
        state = blocks.apply(i, parameter, state)
    return state


def _undone(blocks: Blocks, parameters: list[Any], start: jax.Array) -> jax.Array:
    """Return the final state; the reverse pass undoes the blocks on it and keeps no other."""

    @jax.custom_vjp
    def evolved(parameters: list[Any], start: jax.Array) -> jax.Array:
        return _applied(blocks, parameters, start)

    def ahead(parameters: list[Any], start: jax.Array) -> tuple[jax.Array, Any]:
        final = _applied(blocks, parameters, start)
        return final, (parameters, final)

    def back(kept: Any, costate: jax.Array) -> tuple[list[Any], jax.Array]:
        parameters, state = kept
        found = []
        for i in reversed(range(len(parameters))):
            state = blocks.apply(i, parameters[i], state, inverse=True)
            own, costate = jax.vjp(functools.partial(blocks.apply, i), parameters[i], state)[1](costate)
            found.append(own)
        return found[::-1], costate

    evolved.defvjp(ahead, back)
    return evolved(parameters, start)


def _measured(circuit: Circuit, plan: Plan, state: jax.Array, reverse: bool) -> jax.Array:
    """Return the measured values (batch, words), or the state's parts, of one chunk."""
    if circuit.readout_facts.amplitudes:
        state = moved(plan.last, wire_order(range(plan.n)), state, reverse)
        both = state if len(state) == 2 else jnp.concatenate([state, jnp.zeros_like(state)])
        return both.reshape(-1, both.shape[-1]).T
    read = functools.partial(expectations, plan.last, measured_words(circuit))
    return arrays.sealed(read, state) if reverse else read(state)
