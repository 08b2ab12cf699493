"""`Circuit`: what engines and probes ask of a circuit; `GateCircuit`: one that is given by its gates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from qwafer._checks import check_choice, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.circuits.gates import INPUTS, LETTERS, Operation
from qwafer.circuits.readouts import READOUTS, STATE, WORDS, Readout

DTYPES = ("float32", "float64")


class DerivedText(str):
    """The value of a field that was left to follow from the others; `dataclasses.replace` derives it again."""

    __slots__ = ()


class DerivedInt(int):
    """As `DerivedText`, of an integer."""


class Circuit(Protocol):
    """A body of gates on `n_qubits` wires that start in |0>, and a readout. Hashable; equal circuits mean the same."""

    @property
    def n_qubits(self) -> int:
        """Wires."""
        ...

    @property
    def n_inputs(self) -> int:
        """Inputs of one example, in radians."""
        ...

    @property
    def n_outputs(self) -> int:
        """Values of one example."""
        ...

    @property
    def dtype(self) -> str:
        """Precision of values and gradients: `float32` or `float64`."""
        ...

    @property
    def readout(self) -> str:
        """Name of the readout."""
        ...

    @property
    def readout_facts(self) -> Readout:
        """The readout of that name."""
        ...

    def operations(self) -> tuple[Operation, ...]:
        """Return the gates of the body, in order of application: the one definition that every engine interprets."""
        ...

    def readout_operations(self, output: int) -> tuple[Operation, ...]:
        """Return the trainable readout gates of one output."""
        ...

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name; that of the readout, where it has one, is called `readout`."""
        ...

    def n_weights(self) -> int:
        """Return the number of trainable angles and coefficients."""
        ...

    def body(self) -> "Circuit":
        """Return the same circuit with the `bloch` readout: all 3n single-qubit expectation values."""
        ...


@dataclass(frozen=True)
class GateCircuit:
    """A circuit given by a list of gates, such as one of your own.

        GateCircuit(2, (Operation(RX, (0,), "inputs", (0,)), Operation(CZ, (0, 1)),
                        Operation(RY, (1,), "w", (0,))), n_inputs=1, weights=(("w", (1,)),))

    With readout `words` the outputs are the expectation values of Pauli words, a letter per wire
    (`words=("ZZ", "XI")`); with `state` they are the amplitudes, all real parts first. Raises InputError where a gate
    acts on a wire, or takes an angle, that the circuit does not have.
    """

    n_qubits: int
    gates: tuple[Operation, ...]
    """The body, in order of application."""
    n_inputs: int
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Name and shape of each weight of the body."""
    readout: str = "mean_z"
    n_outputs: int = 1
    """Outputs; readouts `z`, `bloch`, `words` and `state` imply it."""
    dtype: str = "float32"
    words: tuple[str, ...] = ()
    """Pauli words that readout `words` measures."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("n_qubits", self.n_qubits)
        check_positive_int("n_inputs", self.n_inputs, minimum=0)
        check_positive_int("n_outputs", self.n_outputs)
        check_choice("readout", self.readout, (*READOUTS, WORDS, STATE.name))
        check_choice("dtype", self.dtype, DTYPES)
        if (self.readout == WORDS) != bool(self.words):
            raise InputError(
                f"`words` and readout {WORDS} belong together, got {self.words} and readout {self.readout}"
            )
        for word in self.words:
            if len(word) != self.n_qubits or not set(word) <= set(LETTERS):
                raise InputError(f"`words` must have {self.n_qubits} of the letters {LETTERS} each, got {word!r}")
        object.__setattr__(self, "n_outputs", derived_outputs(self.n_outputs, self.readout_facts, self.n_qubits))
        shapes = {INPUTS: (self.n_inputs,), **dict(self.weights)}
        if len(shapes) != len(self.weights) + 1 or shapes.keys() & {"", "readout"}:
            raise InputError("`weights` must have names of their own, other than `inputs` and `readout`")
        for place, op in enumerate(self.gates):
            where = f"gate {place} ({op.gate.name})"
            if not all(0 <= wire < self.n_qubits for wire in op.wires):
                raise InputError(f"{where} acts on wires {op.wires}, and the circuit has {self.n_qubits}")
            if op.source and op.source not in shapes:
                raise InputError(f"{where} takes its angle from {op.source}, which is not among {', '.join(shapes)}")
            last = (*op.index[:-1], op.index[-1] + max(op.gate.n_numbers, 1) - 1) if op.index else ()
            if op.source and not (_within(op.index, shapes[op.source]) and _within(last, shapes[op.source])):
                raise InputError(f"{where} has index {op.index} into {op.source} of shape {shapes[op.source]}")

    @property
    def readout_facts(self) -> Readout:
        """The readout."""
        if self.readout == WORDS:
            return Readout(WORDS, "each", measured="", words=self.words)
        return STATE if self.readout == STATE.name else READOUTS[self.readout]

    def operations(self) -> tuple[Operation, ...]:
        """Return the gates of the body."""
        return self.gates

    def readout_operations(self, output: int) -> tuple[Operation, ...]:
        """Return the trainable readout gates of one output."""
        return tuple(self.readout_facts.operations(output, self.n_qubits))

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight by name."""
        return {**dict(self.weights), **self.readout_facts.weight_shapes(self.n_outputs, self.n_qubits)}

    def n_weights(self) -> int:
        """Return the number of trainable angles and coefficients."""
        return count_weights(self.weight_shapes())

    def body(self) -> "GateCircuit":
        """Return the same circuit with the `bloch` readout."""
        return replace(self, readout="bloch", n_outputs=1, words=())


def derived_outputs(asked: int, readout: Readout, n_qubits: int) -> int:
    """Return the number of outputs of `readout`, a `DerivedInt` where it is not the one that was asked for."""
    asked = 1 if isinstance(asked, DerivedInt) else asked
    implied = readout.n_outputs(asked, n_qubits)
    return asked if implied == asked else DerivedInt(implied)


def count_weights(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of entries of all weights."""
    return sum(math.prod(shape) for shape in shapes.values())


def _within(index: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(index) == len(shape) and all(0 <= i < size for i, size in zip(index, shape, strict=True))
