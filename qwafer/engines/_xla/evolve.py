"""The engine room of the statevector plan: steps applied to states, read out, and run backwards, in chunks of the
batch.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.engines._xla import arrays, wiring


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Gather amplitudes, multiply phases, apply a Kronecker product of real matrices; every part but the last may be
    absent.
    """

    matrices: int
    """Index into `Tables.matrices`."""
    gather: np.ndarray | None = None
    """Index by which the stored amplitudes are taken, bringing the blocks of wires into natural order."""
    gather_back: np.ndarray | None = None
    """The inverse of `gather`."""
    phase: int | None = None
    """Index into `Tables.phases`."""
    by_example: bool = False
    """Multiply RZ(x_i) of the example's angles on every wire i."""
    is_reversed: bool = False
    """Whether the blocks of wires are stored in reverse order when the phases are multiplied."""
    trained: bool = True
    """Whether the matrices depend on weights."""


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One readout frame: steps from the final state, then sum_j D_kj |psi_j|^2 with D =
    `Tables.diagonals[diagonal]`.
    """

    steps: tuple[Step, ...]
    diagonal: int


@dataclasses.dataclass(frozen=True, eq=False)
class Circuit:
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

    phases: list[jax.Array]
    """(2^n, 2): cosine and sine."""
    matrices: list[list[jax.Array]]
    """For each Kronecker product its factors (2^k, 2^k)."""
    diagonals: list[jax.Array]
    """(rows, 2^n)."""


class Examples(NamedTuple):
    """What differs between examples; the batch is the last axis of every array."""

    state: list[jax.Array]
    """The product state that the circuit starts from, by groups of wires: (2^k, 2, batch)."""
    phases: list[jax.Array]
    """RZ(x_i) on every wire, by the same groups in natural order; empty without re-uploading."""
    angles: jax.Array
    """(n, batch), radians; the reverse pass gives the cotangent of `phases` here."""


class Halves(NamedTuple):
    """A product state of every example in two factors."""

    head: jax.Array
    """The Kronecker product of the first half of the groups, (D, 2, batch)."""
    tail: jax.Array
    """Of the others: it and i times it, (2, d, 2, batch)."""


class Inputs(NamedTuple):
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


def _inputs(examples: Examples, swaps: bool) -> Inputs:
    phases: tuple[Halves, ...] = ()
    if examples.phases:
        phases = (_halves(examples.phases), _halves(examples.phases[::-1] if swaps else examples.phases))
    return Inputs(examples.state, _halves(examples.state), phases)


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


def _start(factors: Halves) -> jax.Array:
    return arrays.outer(factors.head, factors.tail)


def _phases(step: Step, tables: Tables, inputs: Inputs, x: jax.Array) -> jax.Array:
    """Return the input of the matrices of `step`."""
    x = arrays.take(x, step.gather)
    if step.phase is not None:
        x = arrays.multiply_phase(tables.phases[step.phase], x)
    if step.by_example:
        x = arrays.multiply(_start(inputs.phases[step.is_reversed]), x)
    return x


def _phases_back(step: Step, tables: Tables, inputs: Inputs, cotangent: jax.Array) -> jax.Array:
    if step.by_example:
        product = _start(inputs.phases[step.is_reversed])
        cotangent = arrays.conjugate(arrays.multiply(product, arrays.conjugate(cotangent)))
    if step.phase is not None:
        cotangent = arrays.multiply_phase(arrays.conjugate_phase(tables.phases[step.phase]), cotangent)
    return arrays.take(cotangent, step.gather_back)


def _run(
    steps: tuple[Step, ...], x: jax.Array | Halves, tables: Tables, inputs: Inputs
) -> tuple[jax.Array | Halves, list[Any]]:
    tape = []
    for step in steps:

        def prepare(tables: Tables, inputs: Inputs, x: jax.Array | Halves, step: Step = step) -> jax.Array:
            return _phases(step, tables, inputs, _start(x) if isinstance(x, Halves) else x)

        x = arrays.stored(prepare, tables, inputs, x)
        matrices = tables.matrices[step.matrices]
        x, operands = arrays.apply_blocks(matrices[::-1] if step.is_reversed else matrices, x)
        tape.append(operands)
    return x, tape


def _evaluate(circuit: Circuit, tables: Tables, inputs: Inputs) -> tuple[jax.Array, Any]:
    """Return the values (rows, batch) and what the reverse pass may use: states and operands of products."""
    x, tape = _run(circuit.steps, inputs.state, tables, inputs)
    values, ends = [], []
    for branch in circuit.branches:
        y, branch_tape = _run(branch.steps, x, tables, inputs)
        if isinstance(y, Halves):
            y = arrays.stored(_start, y)
        ends.append((y, branch_tape))
        values.append(arrays.dot(tables.diagonals[branch.diagonal], arrays.stored(_squares, y)))
    total = jnp.concatenate(values) if circuit.stacked else functools.reduce(jnp.add, values)
    return total, (tape, ends, x)


def _squares(y: jax.Array) -> jax.Array:
    return y[:, 0] ** 2 + y[:, 1] ** 2


def _torque(cotangent: jax.Array, x: jax.Array) -> jax.Array:
    """Return the cotangent of theta in e^(i theta) times anything, at its result x: (2^n, batch)."""
    return cotangent[:, 1] * x[:, 0] - cotangent[:, 0] * x[:, 1]


class _Gradients:
    """Sums of cotangents by table."""

    def __init__(self, circuit: Circuit, tables: Tables, inputs: Inputs):
        self.circuit, self.tables, self.inputs = circuit, tables, inputs
        self.phases: dict[int, jax.Array] = {}
        self.matrices: dict[int, list[jax.Array]] = {}
        self.diagonals: dict[int, jax.Array] = {}
        self.angles: jax.Array | None = None

    def steps(
        self, steps: tuple[Step, ...], tape: list[Any], cotangent: jax.Array, state: jax.Array | None
    ) -> jax.Array:
        """Run `steps` backwards; return the cotangent of their input.

        With the final `state` the steps are unitary enough to be undone, and `tape` is not read.
        """
        for step, operands in zip(reversed(steps), reversed(tape), strict=True):
            matrices = self.tables.matrices[step.matrices]
            if state is not None:
                operands = arrays.unapply_blocks(matrices[::-1] if step.is_reversed else matrices, state)
                first = operands[0].reshape(cotangent.shape)
                state = arrays.stored(functools.partial(_phases_back, step), self.tables, self.inputs, first)
            cotangent, gradients = arrays.apply_blocks_back(
                matrices[::-1] if step.is_reversed else matrices, cotangent, operands
            )
            if step.trained:
                self.matrices[step.matrices] = gradients[::-1] if step.is_reversed else gradients
            out = operands[0].reshape(cotangent.shape)
            if step.phase is not None or step.by_example:
                torque = arrays.stored(_torque, cotangent, out)
                if step.by_example:
                    self._add_angles(torque, step.is_reversed)
                if step.phase is not None:
                    self.phases[step.phase] = arrays.batch_sum(torque)
            cotangent = arrays.stored(functools.partial(_phases_back, step), self.tables, self.inputs, cotangent)
        return cotangent

    def _add_angles(self, torque: jax.Array, is_reversed: bool) -> None:
        sizes = self.circuit.sizes[::-1] if is_reversed else self.circuit.sizes
        sums = _group_sums(torque, sizes)
        parts = [
            arrays.dot(jnp.asarray(-0.5 * wiring.signs(k).T, torque.dtype), s) for k, s in zip(sizes, sums, strict=True)
        ]
        part = jnp.concatenate(parts[::-1] if is_reversed else parts)
        self.angles = part if self.angles is None else self.angles + part

    def readout(self, branch: Branch, y: jax.Array, g: jax.Array) -> jax.Array:
        """Return the cotangent of the final state `y` of a branch."""
        diagonal = self.tables.diagonals[branch.diagonal]
        if self.circuit.trained_diagonals:
            self.diagonals[branch.diagonal] = arrays.dot(g, arrays.stored(_squares, y).T)
        if g.shape[0] > 1:
            return arrays.stored(lambda weight, y: 2 * weight[:, None, :] * y, arrays.dot(diagonal.T, g), y)
        return arrays.stored(lambda d, g, y: 2 * d[0, :, None, None] * g[:, None, :] * y, diagonal, g, y)


def _reverse(
    circuit: Circuit, tables: Tables, inputs: Inputs, residuals: Any, g: jax.Array, recompute: bool
) -> tuple[Tables, list[jax.Array], list[jax.Array]]:
    """Return the cotangents of `tables` (phases as d theta), the product state's groups, and the angles in a list."""
    tape, ends, end = residuals
    gradients = _Gradients(circuit, tables, inputs)
    cotangents = []
    parts = jnp.split(g, len(ends)) if circuit.stacked else [g] * len(ends)
    for branch, (y, branch_tape), part in zip(circuit.branches, ends, parts, strict=True):
        cotangent = gradients.readout(branch, y, part)
        cotangents.append(gradients.steps(branch.steps, branch_tape, cotangent, y if recompute else None))
    cotangent = gradients.steps(circuit.steps, tape, functools.reduce(jnp.add, cotangents), end if recompute else None)
    groups = _factor_cotangents(cotangent, inputs.groups)
    phases = [gradients.phases[i] for i in range(len(tables.phases))]
    matrices = [gradients.matrices.get(i, []) for i in range(len(tables.matrices))]
    diagonals = [gradients.diagonals[i] for i in range(len(tables.diagonals))] if circuit.trained_diagonals else []
    return Tables(phases, matrices, diagonals), groups, [] if gradients.angles is None else [gradients.angles]


def _chunked(x: Any, chunks: int) -> Any:
    """Split the last axis of every array of `x` into (chunks, size), padded with zeros, and bring the chunks to the
    front.
    """

    def split(array: jax.Array) -> jax.Array:
        size = -(-array.shape[-1] // chunks)
        padding = [(0, 0)] * (array.ndim - 1) + [(0, chunks * size - array.shape[-1])]
        return jnp.moveaxis(jnp.pad(array, padding).reshape(*array.shape[:-1], chunks, size), -2, 0)

    return jax.tree.map(split, x)


def _joined(x: Any, batch: int) -> Any:
    """Undo `_chunked`."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :batch], x)


def simulate(circuit: Circuit, chunks: int = 1, *, recompute: bool = False, reverse: bool = True) -> Any:
    """Return the function (tables, examples) -> values (rows, batch), evaluated in so many chunks of the batch, in
    turn.

    With `reverse` it has a hand-written reverse pass and no forward-mode derivative. One chunk keeps its states
    for the reverse pass; several are evaluated again there, so that memory holds the states of one chunk only. With
    `recompute` not even these: the reverse pass undoes every step on the final state, for one more product a block.
    """
    swaps = len(circuit.sizes) > 1

    def evaluate(tables: Tables, examples: Examples) -> jax.Array:
        inputs = arrays.stored(functools.partial(_inputs, swaps=swaps), examples)
        if chunks == 1:
            return _evaluate(circuit, tables, inputs)[0]
        values = lax.map(lambda chunk: _evaluate(circuit, tables, chunk)[0], _chunked(inputs, chunks))
        return _joined(values, examples.angles.shape[-1])

    if not reverse:
        return evaluate
    function = jax.custom_vjp(evaluate)

    def forward(tables: Tables, examples: Examples) -> tuple[jax.Array, Any]:
        inputs = arrays.stored(functools.partial(_inputs, swaps=swaps), examples)
        if chunks == 1:
            values, residuals = _evaluate(circuit, tables, inputs)
            return values, (tables, examples, inputs, residuals)
        inputs = _chunked(inputs, chunks)
        values = lax.map(lambda chunk: _evaluate(circuit, tables, chunk)[0], inputs)
        return _joined(values, examples.angles.shape[-1]), (tables, examples, inputs, None)

    def backward(saved: Any, g: jax.Array) -> tuple[Tables, Examples]:
        tables, examples, inputs, residuals = saved
        if chunks == 1:
            d_tables, d_groups, d_angles = _reverse(circuit, tables, inputs, residuals, g, recompute)
        else:

            def chunk_gradients(chunk: Any) -> Any:
                part, cotangent = chunk
                return _reverse(circuit, tables, part, _evaluate(circuit, tables, part)[1], cotangent, recompute)

            chunk_inputs = (inputs, _chunked(g, chunks))
            shapes = jax.eval_shape(chunk_gradients, jax.tree.map(lambda a: a[0], chunk_inputs))[0]

            def body(total: Tables, chunk: Any) -> Any:
                part, *rest = chunk_gradients(chunk)
                return jax.tree.map(jnp.add, total, part), rest

            zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            d_tables, rest = lax.scan(body, zero, chunk_inputs)
            d_groups, d_angles = _joined(rest, g.shape[-1])
        phases = [
            jnp.stack([-e[:, 1] * t, e[:, 0] * t], 1) for e, t in zip(tables.phases, d_tables.phases, strict=True)
        ]
        matrices = [
            gradient or [jnp.zeros_like(m) for m in value]
            for gradient, value in zip(d_tables.matrices, tables.matrices, strict=True)
        ]
        diagonals = d_tables.diagonals or [jnp.zeros_like(d) for d in tables.diagonals]
        angles = d_angles[0] if d_angles else jnp.zeros_like(examples.angles)
        zeros = [jnp.zeros_like(x) for x in examples.phases]
        return Tables(phases, matrices, diagonals), Examples(d_groups, zeros, angles)

    function.defvjp(forward, backward)
    return function
