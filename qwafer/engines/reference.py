"""The `reference` engine: PennyLane's `default.qubit`, the ground truth of tests and probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_positive_int
from qwafer._errors import CapabilityError
from qwafer.circuits import INPUTS, CapturedCircuit, Circuit
from qwafer.circuits.recording import RECORDING
from qwafer.engines import pennylane_gates
from qwafer.engines.base import Forward, Program, Weights
from qwafer.engines.cache import kept
from qwafer.engines.captured import captured_program, core_of
from qwafer.engines.memory import check_memory, gate_by_gate


@dataclass(frozen=True)
class ReferenceEngine:
    """`default.qubit` with backpropagation, every gate applied as written.

    Slow and simple on purpose: readout gates are gates here, never a contraction, so that agreement with this engine
    checks the other engines' shortcuts.
    """

    name: ClassVar[str] = "reference"

    def program(self, circuit: Circuit, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the program of `circuit` for `batch` examples; see `Engine.program`."""
        batch = check_positive_int("batch", batch)
        if isinstance(circuit, CapturedCircuit):
            return captured_program(self, circuit, batch, gradient=gradient)
        reason = self.why_not(circuit)
        if reason is not None:
            raise CapabilityError(f"engine reference cannot run this circuit: {reason}")
        needed = gate_by_gate(circuit, batch, gradient=gradient)
        check_memory(circuit, needed, batch, "use fewer qubits or layers, a smaller batch or engine xla")
        key: Any = circuit  # hashable, as `Circuit` asks
        complex_dtype = "complex64" if circuit.dtype == "float32" else "complex128"
        info = {
            "engine": self.name,
            "device": "default.qubit",
            "state_dtype": complex_dtype,
            "gradient": gradient,
            "peak_bytes": needed,
        }
        return Program(_jitted(key), circuit, batch, info, made_by=(self, gradient, 0))

    def check(self, circuit: Circuit, batch: int) -> None:
        """Raise what `program` would raise; it compiles nothing."""
        self.program(circuit, batch)

    def why_not(self, circuit: Circuit) -> str | None:
        """Return why this engine cannot run `circuit`; None: it can."""
        return pennylane_gates.why_not(core_of(circuit))


@kept
def _jitted(circuit: Any) -> Forward:
    """Return the compiled function of `circuit`, one per process, so that equal programs share its compilations."""
    import jax

    dtype = circuit.dtype

    @jax.jit
    def forward(weights: Weights, inputs: jax.Array) -> jax.Array:
        weights = {name: value.astype(dtype) for name, value in weights.items()}
        return evaluate(circuit, weights, inputs.astype(dtype)).astype(dtype)

    return forward


def _broadcasting() -> Any:
    """Let PennyLane's own arithmetic on parameters of a batch promote ranks, whatever JAX is told of them."""
    import jax

    return jax.numpy_rank_promotion("allow")


def evaluate(circuit: Circuit, weights: Mapping[str, Any], inputs: Any) -> Any:
    """Return s (rows, n_outputs) of `circuit` on `default.qubit` for `inputs` (rows, n_inputs), of NumPy or JAX.

    Weights have their own shapes, or a leading axis of as many rows. JAX differentiates arrays of JAX; those of a
    captured circuit are NumPy's.
    """
    import numpy as np
    import pennylane as qml

    if qml.math.get_interface(inputs) == "jax":
        import jax.numpy as xp

        options: dict[str, Any] = {"diff_method": "backprop", "interface": "jax"}
    else:
        xp, options = np, {"diff_method": None}
    if isinstance(circuit, CapturedCircuit):
        slots = circuit.slots(weights, inputs)
        found = evaluate(circuit.core, slots.weights, slots.inputs)
        return circuit.outputs_of(found, slots.coefficients, np)
    sources = {**weights, INPUTS: inputs}
    readout, wires = circuit.readout_facts, range(circuit.n_qubits)
    device, body, outputs = qml.device("default.qubit", wires=wires), circuit.operations(), []
    for k in range(readout.n_circuits(circuit.n_outputs)):
        with RECORDING, _broadcasting():
            gates = [
                pennylane_gates.apply_gate(op.gate, op.wires, op.numbers(sources))
                for op in (*body, *circuit.readout_operations(k))
            ]
            words = readout.measured_words(circuit.n_qubits)
            measured = (
                [qml.state()] if readout.amplitudes else [qml.expval(pennylane_gates.observable(w)) for w in words]
            )
            (values,) = qml.execute([qml.tape.QuantumScript(gates, measured)], device, **options)
        if readout.amplitudes:
            state = xp.broadcast_to(values, (len(inputs), values.shape[-1]))
            return xp.concatenate([state.real, state.imag], axis=-1)
        values = values if len(measured) > 1 else (values,)
        rows = [xp.broadcast_to(xp.asarray(value), inputs.shape[:1]) for value in values]
        outputs.append(readout.outputs(xp.stack(rows, axis=-1), weights))
    return xp.concatenate(outputs, axis=-1)
