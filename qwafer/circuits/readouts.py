"""Readouts: what is measured after the body of a circuit, and how the values become its outputs.

Every readout is also a contraction of the body's single-qubit Pauli expectation values (Bloch vectors):
s_k = sum_i M_ki . (<X_i>, <Y_i>, <Z_i>).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from qwafer._errors import CapabilityError, InputError
from qwafer.circuits.gates import RY, RZ, Gate, Operation

WEIGHT = "readout"
"""Name of the weight that a readout trains, where it has one."""


@dataclass(frozen=True)
class Readout:
    """Per output trainable gates on every wire, then Paulis measured on every wire, then a sum over the wires."""

    name: str
    combine: str
    """`mean`: the mean over the wires; `weighted`: a sum with trained coefficients; `each`: every value is an output.
    """
    measured: str = "Z"
    """Pauli letters measured on every wire after the gates: `Z`, or `XYZ`."""
    gates: tuple[Gate, ...] = ()
    """Trainable rotations of each output, on every wire, before the measurement."""
    parameter: str | None = None
    """Name of the trained array among a head's parameters; two readouts never share one, as their values have different
    meanings."""
    words: tuple[str, ...] = ()
    """Pauli words of a letter per wire that are measured in place of letters on every wire."""
    amplitudes: bool = False
    """Whether the state itself is read: the real parts of its amplitudes, then their imaginary parts."""

    @property
    def z_only(self) -> bool:
        """Whether Pauli Z strings of the body are all that is needed."""
        if self.words or self.amplitudes:
            return not self.amplitudes and set("".join(self.words)) <= {"I", "Z"}
        return self.measured == "Z" and not self.gates

    @property
    def per_wire(self) -> bool:
        """Whether it is a contraction of the Bloch vectors of the body (`readout_matrix`)."""
        return not self.words and not self.amplitudes

    def measured_words(self, n_qubits: int) -> tuple[str, ...]:
        """Return the Pauli words that are measured, a letter per wire: those of wire 0, then of wire 1, ...."""
        if not self.per_wire:
            return self.words
        return tuple(
            "I" * wire + letter + "I" * (n_qubits - 1 - wire) for wire in range(n_qubits) for letter in self.measured
        )

    @property
    def is_mean(self) -> bool:
        """Whether it is one fixed observable: the mean of Z."""
        return self.combine == "mean" and not self.gates

    @property
    def is_weighted(self) -> bool:
        """Whether its weights are coefficients of the values (and not angles of gates)."""
        return self.combine == "weighted"

    @property
    def is_each(self) -> bool:
        """Whether the measured values are the outputs."""
        return self.combine == "each"

    def n_outputs(self, asked: int, n_qubits: int) -> int:
        """Return the number of outputs; raise InputError where so many were `asked` for that they have no meaning."""
        if self.is_mean and asked != 1:
            raise InputError(
                f"`readout` = {self.name} has no weights that could tell {asked} outputs apart: "
                "use `mean_z_readout` or `z_vec`"
            )
        implied = asked
        if self.is_each:
            implied = 2 * 2**n_qubits if self.amplitudes else len(self.measured_words(n_qubits))
        if asked not in (1, implied):
            raise InputError(f"`n_outputs` of readout {self.name} is {implied}, got {asked}")
        return implied

    def weight_shapes(self, n_outputs: int, n_qubits: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of its weight by name; empty where it trains none."""
        if self.gates:
            return {WEIGHT: (n_outputs, n_qubits, len(self.gates))}
        return {WEIGHT: (n_outputs, n_qubits)} if self.is_weighted else {}

    def operations(self, output: int, n_qubits: int) -> Iterator[Operation]:
        """Yield the trainable gates of one output, wire by wire."""
        for wire in range(n_qubits):
            for angle, gate in enumerate(self.gates):
                yield Operation(gate, (wire,), WEIGHT, (output, wire, angle))

    def n_circuits(self, n_outputs: int) -> int:
        """Return how many circuits differ in their gates: one per output where the outputs have gates of their own."""
        return n_outputs if self.gates else 1

    def outputs(self, values: Any, weights: Mapping[str, Any]) -> Any:
        """Return the outputs (..., K) of one circuit from its measured values (..., wires x letters).

        Weights may have leading axes, which broadcast.
        """
        if self.is_each:
            return values
        if self.is_weighted:
            weight = weights[WEIGHT]
            weight = weight.reshape((1,) * (values.ndim + 1 - weight.ndim) + weight.shape)  # no rank is promoted
            return (weight * values[..., None, :]).sum(axis=-1)
        return values.mean(axis=-1)[..., None]

    def bound(self, weights: Mapping[str, Any]) -> float:
        """Return the largest |s_k| that any state can give."""
        return float(np.abs(np.asarray(weights[WEIGHT])).sum(axis=-1).max()) if self.is_weighted else 1.0

    def offset(self, n_qubits: int) -> float:
        """Return the value around which the initial weights are drawn: coefficients start at the mean."""
        return 1 / n_qubits if self.is_weighted else 0.0


READOUTS = {
    readout.name: readout
    for readout in (
        Readout("mean_z", "mean"),
        Readout("z_vec", "weighted", parameter="readout.weights"),
        Readout("mean_z_readout", "mean", gates=(RZ, RY, RZ), parameter="readout.angles"),
        Readout("z", "each"),
        Readout("bloch", "each", measured="XYZ"),
    )
}
"""The readouts by name."""

WORDS = "words"
"""Name of the readout of Pauli words, which a `GateCircuit` lists."""

STATE = Readout("state", "each", amplitudes=True)
"""The readout that returns the state; engines that measure cannot run it."""


class _Read(Protocol):
    @property
    def n_qubits(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def readout_facts(self) -> Readout: ...


def readout_matrix(circuit: _Read, weights: Mapping[str, Any], xp: ModuleType, dtype: str = "") -> Any:
    """Return M (n_outputs, n_qubits, 3), differentiable in `weights["readout"]`, whose leading axes stay in front.

    `mean_z_readout` measures Z after RZ(a), RY(b), RZ(c), that is the unit vector m = (-sin b cos a, sin b sin a,
    cos b) before them; c commutes with Z and drops out. `xp` is the array module, `numpy` or `jax.numpy`; `dtype` is
    that of the circuit by default. Raises CapabilityError for a readout of Pauli words or of the state, which is none.
    """
    n, dtype, readout = circuit.n_qubits, dtype or circuit.dtype, circuit.readout_facts
    if not readout.per_wire:
        raise CapabilityError(f"readout {readout.name} is not a contraction of Bloch vectors: it has no readout matrix")
    e_z = xp.asarray([0, 0, 1], dtype)
    if readout.is_mean:
        return xp.broadcast_to(e_z / n, (1, n, 3))
    if readout.is_weighted:
        return weights[WEIGHT].astype(dtype)[..., None] * e_z[None, None, :]
    if readout.gates:
        a, b, _ = xp.moveaxis(weights[WEIGHT].astype(dtype), -1, 0)  # (n_outputs, n_qubits)
        return xp.stack([-xp.sin(b) * xp.cos(a), xp.sin(b) * xp.sin(a), xp.cos(b)], axis=-1) / n
    if readout.z_only:
        return xp.eye(n, dtype=dtype)[:, :, None] * e_z[None, None, :]
    return xp.eye(3 * n, dtype=dtype).reshape(3 * n, n, 3)


def contract_readout(circuit: _Read, weights: Mapping[str, Any], bloch: Any, xp: ModuleType) -> Any:
    """Return the readout s (batch, n_outputs) from the Bloch vectors of the body (batch, n_qubits, 3)."""
    matrix = readout_matrix(circuit, weights, xp).astype(bloch.dtype)
    flat = bloch.reshape(bloch.shape[0], -1)  # (batch, 3 n_qubits)
    return flat @ matrix.reshape(matrix.shape[0], -1).T
