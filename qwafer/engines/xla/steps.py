"""The statevector plan's forward half: a circuit as steps on the states of a batch, applied and read out."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qwafer.engines.xla import arrays, gates
from qwafer.engines.xla.wiring import Permutation


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Gather amplitudes, multiply phases, apply a Kronecker product of real matrices; only the last is always there."""

    rotation: int | None
    """Index into `Tables.rotations`; None: Hadamard gates on every wire."""
    gather: Permutation | None = None
    """Index by which the stored amplitudes are taken, bringing the blocks of wires into natural order."""
    gather_back: Permutation | None = None
    """The inverse of `gather`."""
    phase: int | None = None
    """Index into `Tables.phases`."""
    by_example: bool = False
    """Multiply RZ(x_i) of the example's angles on every wire i."""
    is_reversed: bool = False
    """Whether the blocks of wires are stored in reverse order when the phases are multiplied."""


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One readout frame: steps from the final state, then sum_j D_kj |psi_j|^2, D = `Tables.diagonals[diagonal]`."""

    steps: tuple[Step, ...]
    diagonal: int


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The static half of a circuit: what is done to the product state that a batch starts from."""

    steps: tuple[Step, ...]
    branches: tuple[Branch, ...]
    sizes: tuple[int, ...]
    """Wires in each block."""
    stacked: bool
    """Whether the branches' values are stacked; otherwise they are added."""
    trained_diagonals: bool
    """Whether the diagonals depend on weights."""


class Tables(NamedTuple):
    """The half of a circuit that depends on weights, the same for every example."""

    phases: jax.Array
    """(phases, 2^n, 2): cosine and sine."""
    rotations: jax.Array
    """(rotations, blocks, 2^w, 2^w): for each Kronecker product its factors, in their upper left corners."""
    diagonals: list[jax.Array]
    """(rows, 2^n)."""


class Examples(NamedTuple):
    """What differs between examples; the batch is the last axis of every array."""

    state: list[jax.Array]
    """The product state that the circuit starts from, by groups of wires: (2^k, 2, batch)."""
    phases: list[jax.Array]
    """RZ(x_i) on every wire, by the same groups in natural order; empty without re-uploading."""
    inputs: jax.Array
    """(n, batch), radians; the reverse pass gives the cotangent of `phases` here."""


class Halves(NamedTuple):
    """A product state of every example in two factors."""

    head: jax.Array
    """The Kronecker product of the first half of the groups, (D, 2, batch)."""
    tail: jax.Array
    """Of the others: it and i times it, (2, d, 2, batch)."""


class Prepared(NamedTuple):
    """`Examples` as the steps use them."""

    groups: list[jax.Array]
    state: Halves
    phases: tuple[Halves, ...]
    """Blocks in natural and in reverse order."""


def _halves(groups: list[jax.Array]) -> Halves:
    middle = max(len(groups) // 2, 1)
    head = arrays.kron_columns(groups[:middle])
    if groups[middle:]:
        tail = arrays.kron_columns(groups[middle:])
    else:
        tail = jnp.zeros((1, *head.shape[1:]), head.dtype).at[:, 0].set(1)
    return Halves(head, jnp.stack([tail, arrays.times_i(tail)]))


def prepare(examples: Examples, swaps: bool) -> Prepared:
    """Return `examples` for the steps; `swaps`: whether blocks are ever stored in reverse order."""
    phases: tuple[Halves, ...] = ()
    if examples.phases:
        phases = (_halves(examples.phases), _halves(examples.phases[::-1] if swaps else examples.phases))
    return Prepared(examples.state, _halves(examples.state), phases)


def product_state(factors: Halves) -> jax.Array:
    """Return the product state (2^n, 2, batch)."""
    return arrays.outer(factors.head, factors.tail)


def _phases(step: Step, tables: Tables, prepared: Prepared, x: jax.Array) -> jax.Array:
    """Return the input of the matrices of `step`."""
    x = arrays.take(x, step.gather)
    if step.phase is not None:
        x = arrays.multiply_phase(tables.phases[step.phase], x)
    if step.by_example:
        x = arrays.multiply(product_state(prepared.phases[step.is_reversed]), x)
    return x


def phases_back(step: Step, tables: Tables, prepared: Prepared, cotangent: jax.Array) -> jax.Array:
    """Undo what `step` does before its matrices: also the transpose, for it is orthogonal."""
    if step.by_example:
        product = product_state(prepared.phases[step.is_reversed])
        cotangent = arrays.conjugate(arrays.multiply(product, arrays.conjugate(cotangent)))
    if step.phase is not None:
        cotangent = arrays.multiply_phase(arrays.conjugate_phase(tables.phases[step.phase]), cotangent)
    return arrays.take(cotangent, step.gather_back)


def matrices(sizes: tuple[int, ...], step: Step, tables: Tables) -> list[jax.Array]:
    """Return the factors of the Kronecker product of `step`, in the order in which its blocks are stored."""
    if step.rotation is None:
        blocks = [jnp.asarray(gates.hadamards(size), tables.rotations.dtype) for size in sizes]
    else:
        factors = tables.rotations[step.rotation]
        blocks = [factors[g, : 2**size, : 2**size] for g, size in enumerate(sizes)]
    return blocks[::-1] if step.is_reversed else blocks


def _run(
    sizes: tuple[int, ...], steps: tuple[Step, ...], x: jax.Array | Halves, tables: Tables, prepared: Prepared
) -> tuple[jax.Array | Halves, list[Any]]:
    tape = []
    for step in steps:

        def alone(tables: Tables, prepared: Prepared, x: jax.Array | Halves, step: Step = step) -> jax.Array:
            return _phases(step, tables, prepared, product_state(x) if isinstance(x, Halves) else x)

        x = arrays.stored(alone, tables, prepared, x)
        x, operands = arrays.apply_blocks(matrices(sizes, step, tables), x)
        tape.append(operands)
    return x, tape


def evaluate(schedule: Schedule, tables: Tables, prepared: Prepared) -> tuple[jax.Array, Any]:
    """Return the values (rows, batch) and what the reverse pass may use: states and operands of products."""
    x, tape = _run(schedule.sizes, schedule.steps, prepared.state, tables, prepared)
    values, ends = [], []
    for branch in schedule.branches:
        y, branch_tape = _run(schedule.sizes, branch.steps, x, tables, prepared)
        if isinstance(y, Halves):
            y = arrays.stored(product_state, y)
        ends.append((y, branch_tape))
        values.append(arrays.dot(tables.diagonals[branch.diagonal], arrays.stored(squares, y)))
    total = jnp.concatenate(values) if schedule.stacked else functools.reduce(jnp.add, values)
    return total, (tape, ends, x)


def squares(y: jax.Array) -> jax.Array:
    """Return |amplitude|^2 (2^n, batch)."""
    return y[:, 0] ** 2 + y[:, 1] ** 2
