"""Plan `schroedinger`: a spec as steps on the states of the batch, and its weights as their tables."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer.circuits import CircuitSpec
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines.base import Weights
from qwafer.engines.cache import kept
from qwafer.engines.xla import arrays, evolve, gates, steps, wiring

Term = tuple[str, int, Any]
"""One part of a phase and its permutation: angles `a`, `c` (index: layer), `readout` (output) or `quarter` (RZ(index
pi/2))."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The steps of a spec and where their tables come from."""

    schedule: steps.Schedule
    phases: tuple[tuple[tuple[Term, ...], wiring.Permutation | None], ...]
    """For each phase table its terms and the order of storage."""
    rotations: tuple[tuple[str, int], ...]
    """For each trained Kronecker product of RY: `b` (layer) or `readout` (output)."""
    diagonals: tuple[tuple[str, Any], ...]
    """For each diagonal what it reads (`values`: all Z_i; `mean`: of Z; `x`, `y` or `z`: that part of the readout
    matrix) and the order of storage."""


class _Builder:
    """Collects steps; keeps track of the order in which blocks of wires are stored."""

    def __init__(self, spec: CircuitSpec):
        self.spec, self.sizes = spec, wiring.blocks(spec.n_qubits, wiring.BLOCK)
        self.order = wiring.reversed_blocks(self.sizes)
        self.swaps = len(self.sizes) > 1
        self.phases: list[Any] = []
        self.rotations: list[tuple[str, int]] = []
        self.diagonals: list[Any] = []

    def step(
        self,
        is_reversed: bool,
        p: wiring.Permutation | None,
        terms: list[Term],
        rotation: tuple[str, int] | None,
        by_example: bool = False,
    ) -> tuple[steps.Step, bool]:
        """Return the step that permutes by `p`, multiplies the phases `terms`, rotates; and the order it leaves."""
        gather = None
        if p is not None:
            # Place k of a reversed state holds amplitude order[k]; the reversal of the reversal is not itself.
            gather = self.order.inverse[p] if is_reversed else p
            is_reversed = False
        phase = None
        if terms:
            phase = len(self.phases)
            self.phases.append((tuple(terms), self.order if is_reversed else None))
        if rotation is not None:
            self.rotations.append(rotation)
        step = steps.Step(
            rotation=None if rotation is None else len(self.rotations) - 1,
            gather=gather,
            gather_back=None if gather is None else gather.inverse,
            phase=phase,
            by_example=by_example,
            is_reversed=is_reversed,
        )
        return step, is_reversed != self.swaps

    def diagonal(self, kind: str, is_reversed: bool, p: wiring.Permutation | None) -> int:
        """Return the index of the diagonal `kind`, read after the permutation `p` of the stored state."""
        index = None if p is None else p.inverse
        if is_reversed:
            index = self.order if index is None else index[self.order]
        self.diagonals.append((kind, index))
        return len(self.diagonals) - 1


@kept
def layout(spec: CircuitSpec) -> Layout:
    """Return the steps of `spec`; the first layer's rotations are part of the product state that they start from."""
    build, axis, readout = _Builder(spec), spec.encoding_facts.axis, spec.readout_facts
    body: list[steps.Step] = []
    is_reversed = False
    p: wiring.Permutation | None = None
    pending: list[Term] = []  # phases due after the permutation p, both not yet applied
    for layer in range(spec.n_layers):
        if layer == 0:
            p = wiring.layer_permutation(spec, 0)
            continue
        if spec.reupload:
            quarter: list[Term] = [("quarter", 1, None)] if axis == "Y" else []
            back: list[Term] = [("quarter", -1, None)] if axis == "Y" else []
            step, is_reversed = build.step(is_reversed, p, pending + back, None)
            body.append(step)
            if axis == "Z":
                step, is_reversed = build.step(is_reversed, None, [("a", layer, None)], ("b", layer), by_example=True)
                body.append(step)
            else:
                step, is_reversed = build.step(is_reversed, None, [], None, by_example=True)
                body.append(step)
                step, is_reversed = build.step(is_reversed, None, [*quarter, ("a", layer, None)], ("b", layer))
                body.append(step)
        else:
            step, is_reversed = build.step(is_reversed, p, [*pending, ("a", layer, None)], ("b", layer))
            body.append(step)
        p = wiring.layer_permutation(spec, layer)
        pending = [("c", layer, p)]
    branches: list[steps.Branch] = []
    stacked = values_first(spec)
    if readout.z_only:
        kind = "mean" if readout.is_mean else "values" if stacked else "z"
        branches.append(steps.Branch((), build.diagonal(kind, is_reversed, p)))
    elif readout.gates and spec.n_outputs <= 2:
        stacked = True
        for k in range(spec.n_outputs):
            step, after = build.step(is_reversed, p, [*pending, ("readout", k, None)], ("readout", k))
            branches.append(steps.Branch((step,), build.diagonal("mean", after, None)))
    else:
        for part in ("x", "y"):
            quarter = [("quarter", -1, None)] if part == "y" else []
            step, after = build.step(is_reversed, p, pending + quarter, None)
            branches.append(steps.Branch((step,), build.diagonal("values" if stacked else part, after, None)))
        branches.append(steps.Branch((), build.diagonal("values" if stacked else "z", is_reversed, p)))
    trained = any(kind in ("x", "y", "z") for kind, _ in build.diagonals)
    schedule = steps.Schedule(tuple(body), tuple(branches), build.sizes, stacked, trained)
    return Layout(schedule, tuple(build.phases), tuple(build.rotations), tuple(build.diagonals))


def values_first(spec: CircuitSpec) -> bool:
    """Whether all values <Z_i> of a frame are computed and contracted afterwards: cheaper unless outputs are few."""
    readout = spec.readout_facts
    return readout.is_each or (not readout.is_mean and spec.n_outputs > max(2, spec.n_qubits))


def tables(spec: CircuitSpec, plan: Layout, weights: Weights, matrix: jax.Array, reverse: bool) -> steps.Tables:
    """Return phases, rotations and diagonals of `plan` at `weights`; `matrix` is the readout matrix."""
    n, permute = spec.n_qubits, gates.permute if reverse else arrays.take
    a, b, c = gates.euler(spec, weights)
    readout = weights["readout"].astype(spec.dtype) if spec.readout_facts.gates else jnp.zeros((1, n, 3), a.dtype)
    sources = {"a": a, "c": c, "readout": readout[:, :, 0], "quarter": jnp.full((1, n), np.pi / 2, a.dtype)}
    used = sorted({(name, 0 if name == "quarter" else index) for terms, _ in plan.phases for name, index, _ in terms})
    phases = jnp.zeros((0, 2**n, 2), a.dtype)
    if used:
        sums = gates.wire_sums(jnp.stack([sources[name][index] for name, index in used]) / -2)

        def theta(terms: tuple[Term, ...], order: wiring.Permutation | None) -> jax.Array:
            parts = []
            for name, index, p in terms:
                row = sums[used.index((name, 0 if name == "quarter" else index))]
                parts.append(permute(index * row if name == "quarter" else row, p))
            return permute(functools.reduce(jnp.add, parts), order)

        phases = gates.wave(jnp.stack([theta(*phase) for phase in plan.phases]), -1, reverse)
    chosen = [b[i] if name == "b" else readout[i, :, 1] for name, i in plan.rotations]
    angles = jnp.stack(chosen) if chosen else jnp.zeros((0, n), a.dtype)
    rotations = gates.rotations(angles, plan.schedule.sizes, reverse)
    diagonals = []
    for kind, order in plan.diagonals:
        if kind == "mean":
            diagonals.append(gates.mean_signs(order or wiring.identity(n), a.dtype)[None, :])
        else:
            rows = jnp.eye(n, dtype=a.dtype) if kind == "values" else matrix[:, :, "xyz".index(kind)]
            diagonals.append(permute(gates.wire_sums(rows).T, order).T)
    return steps.Tables(phases, rotations, diagonals)


def examples(spec: CircuitSpec, plan: Layout, weights: Weights, inputs: jax.Array, reverse: bool) -> steps.Examples:
    """Return the product states after the first layer's rotations, and the re-uploaded phases; inputs (batch, n)."""
    n = spec.n_qubits
    waves = gates.wave(inputs.T / 2, 1, reverse)  # (n, 2, batch)
    columns = arrays.dot(gates.first_columns(spec, weights, reverse), waves).reshape(n, 2, 2, -1)
    sizes = plan.schedule.sizes if len(plan.schedule.sizes) > 1 else wiring.blocks(n, max(-(-n // 2), 1))
    state = gates.product_groups(columns, sizes, reverse)
    phases: list[jax.Array] = []
    if not spec.encodes_once:
        # RZ(x) on bit 0 and 1: (cos, -sin), (cos, sin) of x / 2.
        constant = np.array([[1, 0], [0, -1], [1, 0], [0, 1]])
        spread = jnp.broadcast_to(jnp.asarray(constant, inputs.dtype), (n, 4, 2))
        phases = gates.product_groups(arrays.dot(spread, waves).reshape(n, 2, 2, -1), sizes, reverse)
    return steps.Examples(state, phases, inputs.T)


def forward(
    spec: CircuitSpec,
    weights: Weights,
    inputs: jax.Array,
    chunks: int = 1,
    *,
    recompute: bool = False,
    reverse: bool = True,
) -> jax.Array:
    """Return s (batch, n_outputs); for the options see `evolve.simulate`."""
    plan = layout(spec)
    matrix = readout_matrix(spec, weights, jnp)
    made = arrays.stored(lambda w, m: tables(spec, plan, w, m, reverse), weights, matrix)
    made_of = arrays.stored(lambda w, x: examples(spec, plan, w, x, reverse), weights, inputs)
    values = evolve.simulate(plan.schedule, chunks, recompute=recompute, reverse=reverse)(
        made, made_of
    )  # (rows, batch)
    if not values_first(spec):
        return values.T
    if spec.readout_facts.z_only:
        return arrays.dot(values.T, matrix[:, :, 2].T)
    flat = jnp.swapaxes(matrix, 1, 2).reshape(spec.n_outputs, -1)
    return arrays.dot(values.T, flat.T)
