"""The engine room of the statevector plan: steps applied to states, read out, and run backwards, in chunks of the batch."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qwafer.engines._xla import arrays


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Gather amplitudes, multiply phases, apply a Kronecker product of real matrices; every part but the last may be absent."""

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
    """One readout frame: steps from the final state, then sum_j D_kj |psi_j|^2 with D = `Tables.diagonals[diagonal]`."""

    steps: tuple[Step, ...]
    diagonal: int
    row: int | None = None
    """The only output it contributes to; None: to all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Circuit:
    """The static half of a circuit: what is done to the product state that a batch starts from."""

    steps: tuple[Step, ...]
    branches: tuple[Branch, ...]
    sizes: tuple[int, ...]
    """Wires in each block."""
    trained_diagonals: bool


class Tables(NamedTuple):
    """The half of a circuit that depends on weights, the same for every example."""

    phases: list[jax.Array]
    """(2^n, 2): cosine and sine."""
    matrices: list[list[jax.Array]]
    """For each Kronecker product its factors (2^k, 2^k)."""
    diagonals: list[jax.Array]
    """(rows, 2^n)."""


class Factors(NamedTuple):
    """A product state of every example by groups of wires, and the same joined into two halves."""

    groups: list[jax.Array]
    """(2^k, 2, batch)."""
    head: jax.Array
    """The Kronecker product of the first half of the groups, (D, 2, batch)."""
    tail: jax.Array
    """Of the others: it and i times it, (2, d, 2, batch)."""


class Examples(NamedTuple):
    """What differs between examples; the batch is the last axis of every array."""

    state: Factors
    """The product state that the circuit starts from."""
    phases: tuple[Factors, Factors] | None
    """RZ(x_i) on every wire as a product: blocks in natural and in reverse order. None without re-uploading."""
    angles: jax.Array
    """(n, batch), radians; the reverse pass gives the cotangent of `phases` here."""


def join(groups: list[jax.Array]) -> Factors:
    """Return the groups (2^k, 2, batch) with their two halves."""
    middle = max(len(groups) // 2, 1)
    head = arrays.kron_columns(groups[:middle])
    if groups[middle:]:
        tail = arrays.kron_columns(groups[middle:])
    else:
        tail = jnp.zeros((1, *head.shape[1:]), head.dtype).at[:, 0].set(1)
    return Factors(groups, head, jnp.stack([tail, arrays.times_i(tail)]))


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


def _start(factors: Factors) -> jax.Array:
    return arrays.outer(factors.head, factors.tail)


def _phases(step: Step, tables: Tables, examples: Examples, x: jax.Array) -> jax.Array:
    """Return the input of the matrices of `step`."""
    x = arrays.take(x, step.gather)
    if step.phase is not None:
        x = arrays.multiply_phase(tables.phases[step.phase], x)
    if step.by_example and examples.phases is not None:
        x = arrays.multiply(_start(examples.phases[step.is_reversed]), x)
    return x


def _phases_back(step: Step, tables: Tables, examples: Examples, cotangent: jax.Array) -> jax.Array:
    if step.by_example and examples.phases is not None:
        product = _start(examples.phases[step.is_reversed])
        cotangent = arrays.conjugate(arrays.multiply(product, arrays.conjugate(cotangent)))
    if step.phase is not None:
        cotangent = arrays.multiply_phase(arrays.conjugate_phase(tables.phases[step.phase]), cotangent)
    return arrays.take(cotangent, step.gather_back)


def _run(
    steps: tuple[Step, ...], x: jax.Array | Factors, tables: Tables, examples: Examples
) -> tuple[jax.Array | Factors, list[Any]]:
    tape = []
    for step in steps:

        def prepare(tables: Tables, examples: Examples, x: jax.Array | Factors, step: Step = step) -> jax.Array:
            return _phases(step, tables, examples, _start(x) if isinstance(x, Factors) else x)

        x = arrays.stored(prepare, tables, examples, x)
        matrices = tables.matrices[step.matrices]
        x, operands = arrays.apply_blocks(matrices[::-1] if step.is_reversed else matrices, x)
        tape.append(operands)
    return x, tape


def _evaluate(circuit: Circuit, tables: Tables, examples: Examples) -> tuple[jax.Array, Any]:
    """Return s (outputs, batch) and what the reverse pass needs."""
    x, tape = _run(circuit.steps, examples.state, tables, examples)
    total, ends = None, []
    rows: dict[int, jax.Array] = {}
    for branch in circuit.branches:
        y, branch_tape = _run(branch.steps, x, tables, examples)
        if isinstance(y, Factors):
            y = arrays.stored(_start, y)
        ends.append((y, branch_tape))
        part = arrays.dot(tables.diagonals[branch.diagonal], arrays.stored(_squares, y))
        if branch.row is not None:
            rows[branch.row] = part
        else:
            total = part if total is None else total + part
    if total is None:
        total = jnp.concatenate([rows[k] for k in sorted(rows)])
    return total, (tape, ends)


def _squares(y: jax.Array) -> jax.Array:
    return y[:, 0] ** 2 + y[:, 1] ** 2


def _torque(cotangent: jax.Array, x: jax.Array) -> jax.Array:
    """Return the cotangent of theta in e^(i theta) times anything, at its result x: (2^n, batch)."""
    return cotangent[:, 1] * x[:, 0] - cotangent[:, 0] * x[:, 1]


class _Gradients:
    """Sums of cotangents by table."""

    def __init__(self, circuit: Circuit, tables: Tables, examples: Examples):
        self.circuit, self.tables, self.examples = circuit, tables, examples
        self.phases: dict[int, jax.Array] = {}
        self.matrices: dict[int, list[jax.Array]] = {}
        self.diagonals: dict[int, jax.Array] = {}
        self.angles: jax.Array | None = None

    def steps(self, steps: tuple[Step, ...], tape: list[Any], cotangent: jax.Array) -> jax.Array:
        """Run `steps` backwards; return the cotangent of their input."""
        for step, operands in zip(reversed(steps), reversed(tape), strict=True):
            matrices = self.tables.matrices[step.matrices]
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
            cotangent = arrays.stored(functools.partial(_phases_back, step), self.tables, self.examples, cotangent)
        return cotangent

    def _add_angles(self, torque: jax.Array, is_reversed: bool) -> None:
        from qwafer.engines._xla import wiring

        sizes = self.circuit.sizes[::-1] if is_reversed else self.circuit.sizes
        sums = _group_sums(torque, sizes)
        parts = [arrays.dot(jnp.asarray(-0.5 * wiring.signs(k).T, torque.dtype), s) for k, s in zip(sizes, sums, strict=True)]
        part = jnp.concatenate(parts[::-1] if is_reversed else parts)
        self.angles = part if self.angles is None else self.angles + part

    def readout(self, branch: Branch, y: jax.Array, g: jax.Array) -> jax.Array:
        """Return the cotangent of the final state `y` of a branch."""
        if branch.row is not None:
            g = g[branch.row : branch.row + 1]
        diagonal = self.tables.diagonals[branch.diagonal]
        if self.circuit.trained_diagonals:
            self.diagonals[branch.diagonal] = arrays.dot(g, arrays.stored(_squares, y).T)
        if g.shape[0] > 1:
            return arrays.stored(lambda weight, y: 2 * weight[:, None, :] * y, arrays.dot(diagonal.T, g), y)
        return arrays.stored(lambda d, g, y: 2 * d[0, :, None, None] * g[:, None, :] * y, diagonal, g, y)


def _reverse(
    circuit: Circuit, tables: Tables, examples: Examples, residuals: Any, g: jax.Array
) -> tuple[Tables, list[jax.Array], jax.Array]:
    """Return the cotangents of `tables` (phases as d theta), of the product state's groups and of the angles."""
    tape, ends = residuals
    gradients = _Gradients(circuit, tables, examples)
    cotangent: jax.Array | None = None
    for branch, (y, branch_tape) in zip(circuit.branches, ends, strict=True):
        part = gradients.steps(branch.steps, branch_tape, gradients.readout(branch, y, g))
        cotangent = part if cotangent is None else cotangent + part
    assert cotangent is not None
    cotangent = gradients.steps(circuit.steps, tape, cotangent)
    groups = _factor_cotangents(cotangent, examples.state.groups)
    angles = jnp.zeros_like(examples.angles) if gradients.angles is None else gradients.angles
    count = range(len(tables.phases))
    phases = [gradients.phases[i] for i in count]
    matrices = [gradients.matrices.get(i, []) for i in range(len(tables.matrices))]
    diagonals = [gradients.diagonals[i] for i in range(len(tables.diagonals))] if circuit.trained_diagonals else []
    return Tables(phases, matrices, diagonals), groups, angles


def _chunked(x: Any, chunks: int) -> Any:
    """Split the last axis of every array of `x` into (chunks, size), padded with zeros, and bring the chunks to the front."""

    def split(array: jax.Array) -> jax.Array:
        size = -(-array.shape[-1] // chunks)
        padding = [(0, 0)] * (array.ndim - 1) + [(0, chunks * size - array.shape[-1])]
        return jnp.moveaxis(jnp.pad(array, padding).reshape(*array.shape[:-1], chunks, size), -2, 0)

    return jax.tree.map(split, x)


def _joined(x: Any, batch: int) -> Any:
    """Undo `_chunked`."""
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :batch], x)


def simulate(circuit: Circuit, chunks: int, reverse: bool = True) -> Any:
    """Return the function (tables, examples) -> s (outputs, batch), evaluated in so many chunks of the batch, one after another.

    With `reverse` it has a hand-written reverse pass and no forward-mode derivative. One chunk keeps its states
    for the reverse pass; several are evaluated again there, so that memory holds the states of one chunk only.
    """

    def evaluate(tables: Tables, examples: Examples) -> jax.Array:
        if chunks == 1:
            return _evaluate(circuit, tables, examples)[0]
        s = lax.map(lambda chunk: _evaluate(circuit, tables, chunk)[0], _chunked(examples, chunks))
        return _joined(s, examples.angles.shape[-1])

    if not reverse:
        return evaluate
    function = jax.custom_vjp(evaluate)

    def forward(tables: Tables, examples: Examples) -> tuple[jax.Array, Any]:
        if chunks == 1:
            s, residuals = _evaluate(circuit, tables, examples)
            return s, (tables, examples, residuals)
        return evaluate(tables, examples), (tables, examples, None)

    def backward(saved: Any, g: jax.Array) -> tuple[Tables, Examples]:
        tables, examples, residuals = saved
        if chunks == 1:
            d_tables, d_groups, d_angles = _reverse(circuit, tables, examples, residuals, g)
        else:

            def chunk_gradients(chunk: Any) -> Any:
                part, cotangent = chunk
                return _reverse(circuit, tables, part, _evaluate(circuit, tables, part)[1], cotangent)

            chunk_inputs = _chunked((examples, g), chunks)
            shapes = jax.eval_shape(chunk_gradients, jax.tree.map(lambda a: a[0], chunk_inputs))[0]

            def body(total: Tables, chunk: Any) -> Any:
                part, *rest = chunk_gradients(chunk)
                return jax.tree.map(jnp.add, total, part), rest

            zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            d_tables, rest = lax.scan(body, zero, chunk_inputs)
            d_groups, d_angles = _joined(rest, g.shape[-1])
        phases = [jnp.stack([-e[:, 1] * t, e[:, 0] * t], 1) for e, t in zip(tables.phases, d_tables.phases, strict=True)]
        matrices = [
            gradient or [jnp.zeros_like(m) for m in value]
            for gradient, value in zip(d_tables.matrices, tables.matrices, strict=True)
        ]
        diagonals = d_tables.diagonals or [jnp.zeros_like(d) for d in tables.diagonals]
        rest_of_examples = jax.tree.map(jnp.zeros_like, examples)
        state = rest_of_examples.state._replace(groups=d_groups)
        return Tables(phases, matrices, diagonals), Examples(state, rest_of_examples.phases, d_angles)

    function.defvjp(forward, backward)
    return function
