"""A circuit as text: what a reader of a report sees of it."""

from collections.abc import Iterator, Sequence

from qwafer._checks import check_positive_int
from qwafer.circuits.captured import CapturedCircuit
from qwafer.circuits.circuit import Circuit
from qwafer.circuits.gates import CNOT, CZ, INPUTS, Operation
from qwafer.circuits.readouts import WORDS

MOST_GATES = 1000
"""Gates that are drawn; of a larger circuit these, and a line that says so."""
MOST_WORDS = 8
"""Measured words that are named; of more these, and their number."""

Column = dict[int, str]
"""What stands on each wire."""


def draw(circuit: Circuit, width: int = 100) -> str:
    """Return `circuit` as text of lines of at most about `width` characters: a line per wire, gates from left to right.

    In brackets stands what a gate takes: `x[0]` is input 0, `ansatz[0, 1, 2]` an entry of that weight. The gates of a
    captured circuit are those that engines apply, and it is said what reaches them: `x`, inputs; `w`, weights; `x, w`,
    both. After a dot stands the Pauli letter of the wire. The last line says what is measured. Raises InputError for a
    `width` below 20.
    """
    check_positive_int("width", width, minimum=20)
    operations = circuit.operations()
    columns = _columns(operations[:MOST_GATES], circuit)
    lines: list[str] = []
    for block in _blocks(columns, width):
        lines += [*([""] if lines else []), *_lines(block, circuit.n_qubits)]
    if len(operations) > MOST_GATES:
        lines += ["", f"... and {len(operations) - MOST_GATES:,} gates more"]
    return "\n".join([*lines, "", _measured(circuit)])


def _columns(operations: Sequence[Operation], circuit: Circuit) -> list[Column]:
    """Return the gates in columns, each as far left as the wires between its own are free."""
    columns: list[Column] = []
    free = [0] * circuit.n_qubits
    for op in operations:
        low, high = min(op.wires), max(op.wires)
        place = max(free[low : high + 1])
        columns += [{} for _ in range(place + 1 - len(columns))]
        columns[place] |= _cells(op, circuit)
        free[low : high + 1] = [place + 1] * (high + 1 - low)
    return columns


def _cells(op: Operation, circuit: Circuit) -> Column:
    """Return what a gate draws on its wires, and on those that it crosses."""
    name = f"{op.gate.name}{_taken(op, circuit)}"
    if op.gate in (CNOT, CZ):
        names = ["●", "X" if op.gate == CNOT else "●"]
    else:
        word = op.gate.generator or ""
        names = [f"{name}·{letter}" for letter in word] if len(set(word)) > 1 else [name] * len(op.wires)
    low, high = min(op.wires), max(op.wires)
    if low == high:
        return {low: names[0]}
    found = dict.fromkeys(range(low, high + 1), "│")
    for wire, text in zip(op.wires, names, strict=True):
        found[wire] = ("╭" if wire == low else "╰" if wire == high else "├") + text
    return found


def _taken(op: Operation, circuit: Circuit) -> str:
    """Return, in brackets, what a gate takes."""
    if not op.source:
        return ""
    if isinstance(circuit, CapturedCircuit):
        if op.source != INPUTS:
            return "(w)"
        return "(x, w)" if circuit.trained[op.index[0]] else "(x)"
    return f"({'x' if op.source == INPUTS else op.source}[{', '.join(map(str, op.index))}])"


def _blocks(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield the columns of each row of the drawing; one that is wider than `width` stands alone."""
    block: list[Column] = []
    used = 0
    for column in columns:
        wide = max(map(len, column.values())) + 1
        if block and used + wide > width - 6:
            yield block
            block, used = [], 0
        block.append(column)
        used += wide
    yield block


def _lines(block: Sequence[Column], n: int) -> list[str]:
    """Return the lines of one row of the drawing."""
    label = len(str(n - 1))
    lines = []
    for wire in range(n):
        line = f"{wire:>{label}}: ─"
        for column in block:
            wide = max(map(len, column.values()))
            line += column.get(wire, "").ljust(wide, "─") + "─"
        lines.append(line)
    return lines


def _measured(circuit: Circuit) -> str:
    """Return what is measured, in a line."""
    facts, n = circuit.readout_facts, circuit.n_outputs
    outputs = f"{n} output{'s' if n > 1 else ''}"
    if circuit.readout not in ("measured", WORDS):
        return f"readout: {circuit.readout}, {outputs}"
    words = facts.measured_words(circuit.n_qubits)
    named = [
        " ".join(f"{letter}{wire}" for wire, letter in enumerate(word) if letter != "I") or "I"
        for word in words[:MOST_WORDS]
    ]
    more = f" and {len(words) - MOST_WORDS:,} words more" if len(words) > MOST_WORDS else ""
    return f"measured: {', '.join(f'<{word}>' for word in named)}{more}; {outputs}"
