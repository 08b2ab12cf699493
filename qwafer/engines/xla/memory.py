"""How much memory a plan takes at its peak: a model of the arrays that are alive at a time, fitted to measurements.

`benchmarks/memory.py` measures the peak of a process against it.
"""

from qwafer.circuits import Circuit, CircuitSpec
from qwafer.engines.memory import gate_by_gate, number_bytes
from qwafer.engines.xla import wiring

COMPILE_BYTES = 30 << 20
"""What compiling and calling a small program adds to a process, with `qwafer.compiler_options()`."""

LAYER_BYTES = 5 << 20
"""What the compiler takes for each layer of plans `heisenberg` and `product`."""

BLOCK_BYTES = (12 << 20, 6 << 18)
"""What it takes for each block of wires of plan `schroedinger`, and again in each step, of programs with gradients."""

VALUE_SHARE = 0.4
"""How much of that programs for values alone take."""

SIGNED_COPIES = 5
"""How often the table of a signed permutation is held while a program is compiled."""


GATE_BLOCK_BYTES = 3 << 20
"""What it takes for each block of plan `gates`, of programs with gradients."""

GATE_CHUNK_BYTES = 2**26
"""States of a chunk of plan `gates`, where the states before all blocks are not kept."""

GATE_TAPE_BYTES = 2**29
"""States that plan `gates` may keep for its reverse pass; more, and it undoes its blocks instead, chunk by chunk."""

SWEEP_STATES = 9
"""States of one example while plan `gates` undoes its blocks: the state, its cotangent, both before a block, what the
block is made of, and what is measured."""


def step_count(spec: CircuitSpec) -> int:
    """Return the number of steps of plan `schroedinger` on a state, those of the readout included."""
    encoding, readout = spec.encoding_facts, spec.readout_facts
    body = max(spec.n_layers - 1, 0) * (1 if not spec.reupload else 2 if encoding.axis == "Z" else 3)
    if readout.gates:
        return body + min(spec.n_outputs, 2)
    return body + (0 if readout.z_only else 2)


def example_states(spec: CircuitSpec, gradient: bool, recompute: bool, reverse: bool = True) -> int:
    """Return how many states of one example `schroedinger` may hold at a time, by which chunks are sized.

    Six are in flight, the rest is for the reverse pass, which reads the operand of every block of every step, or makes
    those of one step again.
    """
    if not gradient:
        return 3
    blocks, steps = len(wiring.blocks(spec.n_qubits, wiring.BLOCK)), step_count(spec)
    if not reverse:
        return 6 + steps * (blocks + 4)
    frames = 0 if spec.readout_facts.z_only else 2
    return (6 if steps else 4) + frames + blocks * (min(steps, 1) if recompute else steps)


def peak_bytes(
    spec: CircuitSpec, batch: int, *, gradient: bool, plan: str, chunks: int = 1, recompute: bool, reverse: bool
) -> int:
    """Return what the first call of a program adds to the process at its peak, compilation included."""
    parts = {"product": _product, "heisenberg": _heisenberg}
    if plan in parts:
        return COMPILE_BYTES + LAYER_BYTES * spec.n_layers + parts[plan](spec, batch, gradient)
    blocks = len(wiring.blocks(spec.n_qubits, wiring.BLOCK))
    compiler = blocks * (BLOCK_BYTES[0] + BLOCK_BYTES[1] * step_count(spec))
    compiler = int(compiler * (1 if gradient else VALUE_SHARE))
    return COMPILE_BYTES + compiler + _schroedinger(spec, batch, gradient, chunks, recompute, reverse)


def _product(spec: CircuitSpec, batch: int, gradient: bool) -> int:
    turns = 3 * (spec.n_layers + 1) if gradient else 1
    matrix = 3 * spec.n_outputs * spec.n_qubits
    return number_bytes(spec) * (batch * spec.n_qubits * 3 * (turns + 3) + 3 * matrix)


def _heisenberg(spec: CircuitSpec, batch: int, gradient: bool) -> int:
    n, outputs, layers = spec.n_qubits, spec.n_outputs, spec.n_layers
    blocks = len(wiring.blocks(n, wiring.PAIR))
    coefficients = outputs * 4**n * ((layers - 1) * blocks + 3 if gradient else 3)
    monomials = batch * 3 ** (-(-n // 2)) * (2 * outputs + 4 if gradient else outputs + 3)
    tables = SIGNED_COPIES * 4**n * layers * (2 if gradient else 1) * (4 + number_bytes(spec))
    return number_bytes(spec) * (coefficients + monomials) + tables


def _schroedinger(spec: CircuitSpec, batch: int, gradient: bool, chunks: int, recompute: bool, reverse: bool) -> int:
    """Return what XLA allocates for a call (its temporaries, by `memory_analysis`): states, phases and diagonals."""
    n, number, steps = spec.n_qubits, number_bytes(spec), step_count(spec)
    turned = spec.reupload and spec.encoding_facts.axis != "Z"
    tables = steps - (max(spec.n_layers - 1, 0) if turned else 0)  # the steps that encode in between have none
    state = 2 * number * 2**n
    blocks = len(wiring.blocks(n, wiring.BLOCK))
    examples = -(-batch // chunks) if reverse or not gradient else batch
    if not gradient:
        states = 3.0
    elif not reverse:
        states = float(example_states(spec, gradient, recompute, reverse))
    else:
        states = 2.5 + blocks * steps
        states = min(states, 5.0) if recompute else states
    # Cosines and sines; where states are few, also angles, cotangents and index tables that wait for the end.
    phases = 2.5 if gradient and (recompute or not reverse) else 1.0
    readout = spec.readout_facts
    rows = 1 if readout.is_mean else n if readout.is_each else min(n, spec.n_outputs)
    rows *= 1 if readout.z_only else 3
    trained = not (readout.is_mean or readout.is_each)
    diagonals = rows * number * 2**n * (1 if not gradient else 4 if trained else 2)
    return int(state * (examples * states + phases * tables + 0.5)) + diagonals


def gate_chunks(circuit: Circuit, batch: int, sweeps: bool, chunk: int | None) -> int:
    """Return in how many chunks plan `gates` takes the batch: one, unless its states would take more than
    `GATE_TAPE_BYTES`.
    """
    if chunk is None:
        state = 2 * number_bytes(circuit) * 2**circuit.n_qubits
        most = 2 * len(circuit.operations()) + SWEEP_STATES  # blocks are fewer than gates
        if batch * state * (most if sweeps else 4) <= GATE_TAPE_BYTES:
            return 1
        if sweeps and circuit.n_qubits <= MOST_COUNTED and batch * _tape(circuit, batch) <= GATE_TAPE_BYTES:
            return 1
        chunk = max(GATE_CHUNK_BYTES // (state * (SWEEP_STATES if sweeps else 4)), 1)
    return -(-batch // min(chunk, batch))


MOST_COUNTED = 24
"""Wires up to which the blocks of plan `gates` are counted before it is known that one example fits."""


def _tape(circuit: Circuit, batch: int) -> int:
    """Return the bytes of one example that the reverse pass of plan `gates` keeps: two states for every block."""
    from qwafer.engines.xla.scheduled import planned

    plan = planned(circuit, batch)
    state = (1 if plan.real else 2) * number_bytes(circuit) * 2**circuit.n_qubits
    return state * (2 * len(plan.blocks) + SWEEP_STATES)


def gates_peak_bytes(
    circuit: Circuit, batch: int, *, gradient: bool, chunks: int, recompute: bool, reverse: bool
) -> int:
    """Return what the first call of a program of plan `gates` adds to the process at its peak, compilation included."""
    if gradient and not reverse:
        return gate_by_gate(circuit, batch, gradient=True)
    size, state = -(-batch // chunks), 2 * number_bytes(circuit) * 2**circuit.n_qubits
    if circuit.n_qubits > MOST_COUNTED:
        return size * state * (SWEEP_STATES if gradient else 4)  # more than is there, whatever the blocks
    from qwafer.engines.xla.scheduled import planned

    plan = planned(circuit, size)
    compiler = COMPILE_BYTES + GATE_BLOCK_BYTES * (4 + len(plan.blocks)) * (3 if gradient else 1) // 3
    kept = _tape(circuit, size) if gradient and not recompute else state * (SWEEP_STATES if gradient else 4)
    numbers = batch * circuit.n_inputs * number_bytes(circuit) * 8
    return compiler + size * kept + numbers
