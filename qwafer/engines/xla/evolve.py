"""The statevector plan as one differentiable function of tables and examples, evaluated in chunks of the batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qwafer.engines.xla import arrays, steps
from qwafer.engines.xla.reverse import reverse as reverse_pass
from qwafer.engines.xla.steps import Examples, Schedule, Tables


def _chunked(x: Any, chunks: int) -> Any:
    """Split the last axis of every array of `x`, padded with zeros, into (chunks, size); the chunks come first."""

    def split(array: jax.Array) -> jax.Array:
        size = -(-array.shape[-1] // chunks)
        padding = [(0, 0)] * (array.ndim - 1) + [(0, chunks * size - array.shape[-1])]
        return jnp.moveaxis(jnp.pad(array, padding).reshape(*array.shape[:-1], chunks, size), -2, 0)

    return jax.tree.map(split, x)


def _joined(x: Any, batch: int) -> Any:
    """Undo `_chunked`."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :batch], x)


def simulate(schedule: Schedule, chunks: int = 1, *, recompute: bool = False, reverse: bool = True) -> Any:
    """Return the function (tables, examples) -> values (rows, batch), evaluated in so many chunks of the batch.

    With `reverse` it has a hand-written reverse pass and no forward-mode derivative. One chunk keeps its states for the
    reverse pass; several are evaluated again there, so that memory holds the states of one chunk only. With `recompute`
    not even these: the reverse pass undoes every step on the final state, for one more product per block.
    """
    swaps = len(schedule.sizes) > 1

    def evaluate(tables: Tables, examples: Examples) -> jax.Array:
        prepared = arrays.stored(functools.partial(steps.prepare, swaps=swaps), examples)
        if chunks == 1:
            return steps.evaluate(schedule, tables, prepared)[0]
        values = lax.map(lambda chunk: steps.evaluate(schedule, tables, chunk)[0], _chunked(prepared, chunks))
        return _joined(values, examples.inputs.shape[-1])

    if not reverse:
        return evaluate
    function = jax.custom_vjp(evaluate)

    def forward(tables: Tables, examples: Examples) -> tuple[jax.Array, Any]:
        prepared = arrays.stored(functools.partial(steps.prepare, swaps=swaps), examples)
        if chunks == 1:
            values, residuals = steps.evaluate(schedule, tables, prepared)
            return values, (tables, examples, prepared, residuals)
        prepared = _chunked(prepared, chunks)
        values = lax.map(lambda chunk: steps.evaluate(schedule, tables, chunk)[0], prepared)
        return _joined(values, examples.inputs.shape[-1]), (tables, examples, prepared, None)

    def backward(saved: Any, g: jax.Array) -> tuple[Tables, Examples]:
        tables, examples, prepared, residuals = saved
        if chunks == 1:
            d_tables, d_groups, d_inputs = reverse_pass(schedule, tables, prepared, residuals, g, recompute)
        else:

            def chunk_gradients(chunk: Any) -> Any:
                part, cotangent = chunk
                return reverse_pass(
                    schedule, tables, part, steps.evaluate(schedule, tables, part)[1], cotangent, recompute
                )

            pairs = (prepared, _chunked(g, chunks))
            shapes = jax.eval_shape(chunk_gradients, jax.tree.map(lambda a: a[0], pairs))[0]

            def body(total: Tables, chunk: Any) -> Any:
                part, *rest = chunk_gradients(chunk)
                return jax.tree.map(jnp.add, total, part), rest

            zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            d_tables, rest = lax.scan(body, zero, pairs)
            d_groups, d_inputs = _joined(rest, g.shape[-1])
        turned = jnp.stack([-tables.phases[:, :, 1], tables.phases[:, :, 0]], -1)
        phases = turned * d_tables.phases[:, :, None]
        diagonals = d_tables.diagonals or [jnp.zeros_like(d) for d in tables.diagonals]
        inputs = d_inputs[0] if d_inputs else jnp.zeros_like(examples.inputs)
        zeros = [jnp.zeros_like(x) for x in examples.phases]
        return Tables(phases, d_tables.rotations, diagonals), Examples(d_groups, zeros, inputs)

    function.defvjp(forward, backward)
    return function
