"""The statevector plan's reverse pass, written by hand: states undone or remembered, cotangents of all tables."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from qwafer.engines.xla import arrays, steps, wiring


def _factor_cotangents(cotangent: jax.Array, groups: list[jax.Array]) -> list[jax.Array]:
    if len(groups) == 1:
        return [cotangent]
    last = cotangent
    for group in groups[:-1]:
        last = arrays.stored(arrays.contract_first, last, group)
    rest = arrays.stored(arrays.contract_last, cotangent, groups[-1])
    return [*_factor_cotangents(rest, groups[:-1]), last]


def _group_sums(x: jax.Array, sizes: tuple[int, ...]) -> list[jax.Array]:
    """Return for each group of wires the sums of x (2^n, batch) over all other wires: (2^k, batch)."""
    if len(sizes) == 1:
        return [x]
    head, tail = x, x.reshape(-1, 2 ** sizes[-1], x.shape[-1])
    for size in sizes[:-1]:
        head = head.reshape(2**size, -1, x.shape[-1])
        head = arrays.stored(lambda y, d=2**size: functools.reduce(jnp.add, [y[j] for j in range(d)]), head)
    rest = arrays.stored(lambda y: functools.reduce(jnp.add, [y[:, j] for j in range(y.shape[1])]), tail)
    return [*_group_sums(rest, sizes[:-1]), head]


def _torque(cotangent: jax.Array, x: jax.Array) -> jax.Array:
    """Return the cotangent of theta in e^(i theta) times anything, at its result x: (2^n, batch)."""
    return cotangent[:, 1] * x[:, 0] - cotangent[:, 0] * x[:, 1]


class _Gradients:
    """Sums of cotangents by table."""

    def __init__(self, schedule: steps.Schedule, tables: steps.Tables, prepared: steps.Prepared):
        self.schedule, self.tables, self.prepared = schedule, tables, prepared
        self.phases: dict[int, jax.Array] = {}
        self.rotations: dict[int, list[jax.Array]] = {}
        self.diagonals: dict[int, jax.Array] = {}
        self.inputs: jax.Array | None = None

    def undo(
        self, done: tuple[steps.Step, ...], tape: list[Any], cotangent: jax.Array, state: jax.Array | None
    ) -> jax.Array:
        """Run `steps` backwards; return the cotangent of their input.

        With the final `state` the steps are unitary enough to be undone, and `tape` is not read.
        """
        for step, operands in zip(reversed(done), reversed(tape), strict=True):
            matrices = steps.matrices(self.schedule.sizes, step, self.tables)
            if state is not None:
                operands = arrays.unapply_blocks(matrices, state)
                first = operands[0].reshape(cotangent.shape)
                state = arrays.stored(functools.partial(steps.phases_back, step), self.tables, self.prepared, first)
            cotangent, gradients = arrays.apply_blocks_back(matrices, cotangent, operands)
            if step.rotation is not None:
                self.rotations[step.rotation] = gradients[::-1] if step.is_reversed else gradients
            out = operands[0].reshape(cotangent.shape)
            if step.phase is not None or step.by_example:
                torque = arrays.stored(_torque, cotangent, out)
                if step.by_example:
                    self._add_inputs(torque, step.is_reversed)
                if step.phase is not None:
                    self.phases[step.phase] = arrays.batch_sum(torque)
            cotangent = arrays.stored(functools.partial(steps.phases_back, step), self.tables, self.prepared, cotangent)
        return cotangent

    def _add_inputs(self, torque: jax.Array, is_reversed: bool) -> None:
        sizes = self.schedule.sizes[::-1] if is_reversed else self.schedule.sizes
        sums = _group_sums(torque, sizes)
        parts = [
            arrays.dot(jnp.asarray(-0.5 * wiring.signs(k).T, torque.dtype), s) for k, s in zip(sizes, sums, strict=True)
        ]
        part = jnp.concatenate(parts[::-1] if is_reversed else parts)
        self.inputs = part if self.inputs is None else self.inputs + part

    def readout(self, branch: steps.Branch, y: jax.Array, g: jax.Array) -> jax.Array:
        """Return the cotangent of the final state `y` of a branch."""
        diagonal = self.tables.diagonals[branch.diagonal]
        if self.schedule.trained_diagonals:
            self.diagonals[branch.diagonal] = arrays.dot(g, arrays.stored(steps.squares, y).T)
        if g.shape[0] > 1:
            return arrays.stored(lambda weight, y: 2 * weight[:, None, :] * y, arrays.dot(diagonal.T, g), y)
        return arrays.stored(lambda d, g, y: 2 * d[0, :, None, None] * g[:, None, :] * y, diagonal, g, y)


def _stack(parts: list[jax.Array], like: jax.Array) -> jax.Array:
    return jnp.stack(parts) if parts else jnp.zeros_like(like)


def reverse(
    schedule: steps.Schedule,
    tables: steps.Tables,
    prepared: steps.Prepared,
    residuals: Any,
    g: jax.Array,
    recompute: bool,
) -> tuple[steps.Tables, list[jax.Array], list[jax.Array]]:
    """Return the cotangents of `tables` (phases as d theta), the product state's groups, and the inputs in a list."""
    tape, ends, end = residuals
    gradients = _Gradients(schedule, tables, prepared)
    cotangents = []
    parts = jnp.split(g, len(ends)) if schedule.stacked else [g] * len(ends)
    for branch, (y, branch_tape), part in zip(schedule.branches, ends, parts, strict=True):
        cotangent = gradients.readout(branch, y, part)
        cotangents.append(gradients.undo(branch.steps, branch_tape, cotangent, y if recompute else None))
    cotangent = gradients.undo(schedule.steps, tape, functools.reduce(jnp.add, cotangents), end if recompute else None)
    groups = _factor_cotangents(cotangent, prepared.groups)
    phases = _stack([gradients.phases[i] for i in range(len(tables.phases))], tables.phases[:, :, 0])
    width = tables.rotations.shape[-1]
    factors = [
        jnp.pad(g, (0, width - g.shape[0])) for i in range(len(tables.rotations)) for g in gradients.rotations[i]
    ]
    rotations = _stack(factors, tables.rotations).reshape(tables.rotations.shape)
    diagonals = [gradients.diagonals[i] for i in range(len(tables.diagonals))] if schedule.trained_diagonals else []
    return steps.Tables(phases, rotations, diagonals), groups, [] if gradients.inputs is None else [gradients.inputs]
