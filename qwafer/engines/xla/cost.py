"""Which plan, in how many chunks: a model of the time and memory of a step, fitted to measurements.

The constants are microseconds of two cores of a Xeon at 2.6 GHz in float32: with gradients fitted by hand to 25 steps
(n = 4 to 12, L = 1 to 6, B = 256 and 4096), for values alone by least squares to 48 (n = 4 to 10, L = 1 to 6, B = 1 to
1024). Only the order of the plans matters: `benchmarks/plans.py` shows whether it is right.
"""

import dataclasses
from typing import TYPE_CHECKING

from qwafer.circuits import Circuit, CircuitSpec
from qwafer.engines.xla import wiring
from qwafer.engines.xla.memory import example_states, step_count

if TYPE_CHECKING:
    from qwafer.engines.xla.schedule import Plan

PLANS = ("schroedinger", "heisenberg", "product")

GATES = "gates"
"""The plan of circuits that are not made of layers, and of small ones that encode again and again."""

SMALL_WIRES, SMALL_US = 4, 60.0
"""Most wires of a layered circuit for which plan `gates` is considered, and microseconds that its matrices take (48
steps, n = 3 to 6, L = 2 to 6, B = 64 to 1024: with more wires it is as often slower as it is faster)."""

LARGEST_HEISENBERG = 10
"""Most wires of the Heisenberg plan: beyond, its tables of 4^n signed permutations per layer outgrow the program."""

CHUNK_BYTES = 2**20
"""States of a chunk: they stay in the second-level cache while a step passes over them."""

CHUNK_EXAMPLES = 16
"""Fewest examples of a chunk while `WORKING_BYTES` hold them: batches shorter than this are not vectorised."""

WORKING_BYTES = 2**30
"""States that a chunk may hold altogether, if it has more than one example."""

TAPE_BYTES = 2**29
"""States that a chunk may keep for the reverse pass; more are computed again instead."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to run, what each plan was expected to take (microseconds) and how many multiply-adds the plan makes."""

    plan: str
    reason: str
    chunks: int
    recompute: bool
    expected_us: dict[str, float]
    flops: float


def impossible(spec: CircuitSpec) -> dict[str, str]:
    """Return for every plan that cannot run `spec` the reason why."""
    reasons = {}
    if not is_product(spec):
        reasons["product"] = "it needs a circuit without entangling gates"
    if not spec.encodes_once:
        reasons["heisenberg"] = "it needs a circuit that encodes once"
    elif spec.n_layers == 0:
        reasons["heisenberg"] = "it needs a layer"
    elif spec.n_qubits > LARGEST_HEISENBERG:
        reasons["heisenberg"] = f"it goes up to {LARGEST_HEISENBERG} qubits"
    return reasons


def choose(spec: CircuitSpec, batch: int, gradient: bool, plan: str = "auto", chunk: int | None = None) -> Choice:
    """Return the cheapest possible plan, or `plan`, with its chunks of about `chunk` examples.

    Where it is plan `gates`, which has chunks and operations of its own, these stand for nothing.
    """
    excluded = impossible(spec)
    expected = {name: _expected(name, spec, batch, gradient) for name in PLANS if name not in excluded}
    reason = "asked for"
    if plan == "auto":
        if gradient and not spec.encodes_once and not is_product(spec) and spec.n_qubits <= SMALL_WIRES:
            expected[GATES] = SMALL_US + _scale(spec) * gates_plan(spec, batch).cost
        plan = min(expected, key=lambda name: expected[name])
        others = [f"{name} {expected[name]:.0f} us" for name in expected if name != plan]
        others += [f"{name} not at all: {why}" for name, why in excluded.items()]
        reason = f"expected to take {expected[plan]:.0f} us per step ({', '.join(others)})"
    chunks, recompute = 1, False
    if plan == "schroedinger":
        chunks, recompute = _chunks(spec, batch, gradient, chunk)
    return Choice(plan, reason, chunks, recompute, expected, _flops(plan, spec, batch, gradient, chunks, recompute))


def _state_bytes(spec: CircuitSpec) -> int:
    return (8 if spec.dtype == "float32" else 16) * 2**spec.n_qubits


def _chunks(spec: CircuitSpec, batch: int, gradient: bool, chunk: int | None) -> tuple[int, bool]:
    """Return the number of chunks and whether the reverse pass computes states again rather than keeping them."""
    state = _state_bytes(spec)
    blocks = len(wiring.blocks(spec.n_qubits, wiring.BLOCK))
    if chunk is None:
        least = state * example_states(spec, gradient, recompute=True)
        chunk = max(CHUNK_BYTES // state, min(CHUNK_EXAMPLES, WORKING_BYTES // least), 1)
    chunk = min(chunk, batch)
    kept = chunk * state * (step_count(spec) * blocks + 3)
    return -(-batch // chunk), gradient and kept > TAPE_BYTES


def _flops(plan: str, spec: CircuitSpec, batch: int, gradient: bool, chunks: int, recompute: bool) -> float:
    """Return the floating point operations of the matrix products of a step."""
    n, outputs, layers = spec.n_qubits, spec.n_outputs, spec.n_layers
    if plan == "product":
        return 12.0 * batch * n * (layers + outputs) * (3 if gradient else 1)
    if plan == "heisenberg":
        turns = sum(2 * 4**size for size in wiring.blocks(n, wiring.PAIR))
        return float(outputs * (turns * 4**n * layers + 2 * 3**n * batch) * (3 if gradient else 1))
    passes = (3 + (chunks > 1) + recompute) if gradient else 1
    products = sum(2 * 2**size for size in wiring.blocks(n, wiring.BLOCK))
    return 2 * _amplitudes(n) * batch * products * step_count(spec) * passes


_SCHROEDINGER = {True: (20, 16, 1.9e-3, 0.21e-3, 1.74e-3), False: (10, 3, 0.43e-3, 0.22e-3, 0.23e-3)}
"""Microseconds of a call, of a step, per number of the batch's states, per number and step, and per number, step and
block of wires; with gradients and without."""
_HEISENBERG = {
    True: (30, 17, 1.5e-3, 3.6e-3, 6e-5, 4.5e-5, 0.25e-3, 6e-3),
    False: (12, 7, 0.45e-3, 1.07e-3, 0.0, 0.64e-5, 0.88e-3, 0.0),
}
"""Microseconds of a call, of a further layer, per entry turned in the first layer and in a further one, and per example
for each of 3^n, of 3^n per output, of 3^(n / 2) and of n."""


def _scale(spec: CircuitSpec) -> float:
    return 1.0 if spec.dtype == "float32" else 2.0


def _expected(plan: str, spec: CircuitSpec, batch: int, gradient: bool) -> float:
    """Return the expected microseconds of a step."""
    n, outputs, layers = spec.n_qubits, spec.n_outputs, spec.n_layers
    scale = _scale(spec)
    if plan == "product":
        return 30 + scale * (1.0 if gradient else 0.3) * batch * n * (layers + 1) * 2e-2
    if plan == "heisenberg":
        call, further, first, later, words, products, halves, wires = _HEISENBERG[gradient]
        turned = outputs * 4**n * len(wiring.blocks(n, wiring.PAIR))
        evolve = turned * (first + (layers - 1) * later)
        halved = 3 ** (-(-n // 2)) * (2 + outputs) * halves
        evaluate = batch * (3**n * (words + outputs * products) + halved + n * wires)
        return call + further * (layers - 1) + scale * (evolve + evaluate)
    call, step, number, by_step, by_block = _SCHROEDINGER[gradient]
    blocks, steps = len(wiring.blocks(n, wiring.BLOCK)), step_count(spec)
    per_number = number + steps * (by_step + by_block * blocks)
    return call + step * steps + scale * 2 * _amplitudes(n) * batch * per_number


def gates_flops(circuit: Circuit, batch: int, *, gradient: bool, recompute: bool) -> float:
    """Return the floating point operations of plan `gates` on its states: 2 per number and column of a block's real
    matrix, 6 per amplitude of a phase and 2 per rotation in it.

    A reverse pass has two products for each, and one more where it undoes the blocks.
    """
    plan, total = gates_plan(circuit, batch), 0.0
    parts = 1 if plan.real else 2
    for placed in plan.blocks:
        block = placed.block
        if block.kind == "phase":
            total += 6 + 2 * len(block.elements)
        else:
            total += 2 * parts * (1 if block.real else 2) * 2 ** len(block.wires)
    passes = (3 + 2 * recompute) if gradient else 1
    return total * passes * _amplitudes(circuit.n_qubits) * batch


def gates_plan(circuit: Circuit, batch: int) -> "Plan":
    """Return the blocks of plan `gates`."""
    from qwafer.engines.xla.scheduled import planned

    return planned(circuit, batch)


def _amplitudes(n: int) -> float:
    return 2.0 ** min(n, 900)  # a circuit of 1,100 wires has more than a float holds; nothing runs beyond 40


def is_product(spec: CircuitSpec) -> bool:
    """Whether `spec` is a product circuit."""
    return spec.entanglement == "none" or spec.n_layers == 0 or spec.n_qubits == 1
