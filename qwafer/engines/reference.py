"""The `reference` engine: PennyLane's `default.qubit` under JAX, the ground truth of tests and probes."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer.circuits import CircuitSpec, operations, readout_operations
from qwafer.engines.base import Program, Weights
from qwafer.engines.memory import check_memory


@dataclass(frozen=True)
class ReferenceEngine:
    """`default.qubit` with backpropagation, one QNode per example under `jax.vmap`, every gate applied as written.

    Slow and simple on purpose: readout gates are gates here, never a contraction, so that agreement with this engine
    checks the other engines' shortcuts.
    """

    name: ClassVar[str] = "reference"

    def program(self, spec: CircuitSpec, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        """Return the program of `spec` for `batch` examples; see `Engine.program`."""
        import jax

        check_memory(spec)
        example = _example(spec)
        complex_dtype = "complex64" if spec.dtype == "float32" else "complex128"

        @jax.jit
        def forward(weights: Weights, angles: jax.Array) -> jax.Array:
            weights = {name: value.astype(spec.dtype) for name, value in weights.items()}
            values = jax.vmap(example, in_axes=(None, 0))(weights, angles.astype(spec.dtype))
            return values.astype(spec.dtype)

        info = {"engine": self.name, "device": "default.qubit", "state_dtype": complex_dtype, "gradient": gradient}
        return Program(forward, spec, batch, info)

    def why_not(self, circuit: CircuitSpec) -> str | None:
        """Return None: every circuit runs here."""
        return None


@functools.lru_cache(maxsize=64)
def _example(spec: CircuitSpec) -> Any:
    """Return the differentiable function (weights, angles (n_qubits,)) -> (n_outputs,) of one example."""
    import jax
    import jax.numpy as jnp
    import pennylane as qml

    n = spec.n_qubits
    rotations = {"RX": qml.RX, "RY": qml.RY, "RZ": qml.RZ}
    device = qml.device("default.qubit", wires=n)

    def apply(ops: Any, weights: Weights, angles: jax.Array) -> None:
        for op in ops:
            if op.source == "angles":
                rotations[op.name](angles[op.index[0]], wires=op.wires[0])
            elif op.source:
                rotations[op.name](weights[op.source][op.index], wires=op.wires[0])
            else:
                {"H": qml.Hadamard, "CNOT": qml.CNOT}[op.name](wires=op.wires)

    def circuit(weights: Weights, angles: jax.Array, output: int) -> Any:
        apply(operations(spec), weights, angles)
        apply(readout_operations(spec, output), weights, angles)
        if spec.readout == "bloch":
            return [qml.expval(p(i)) for i in range(n) for p in (qml.X, qml.Y, qml.Z)]
        return [qml.expval(qml.Z(i)) for i in range(n)]

    node = qml.QNode(circuit, device, interface="jax", diff_method="backprop", static_argnums=(2,))

    def example(weights: Weights, angles: jax.Array) -> jax.Array:
        if spec.readout == "mean_z_readout":
            values = [jnp.mean(jnp.stack(node(weights, angles, k))) for k in range(spec.n_outputs)]
            return jnp.stack(values)
        values = jnp.stack(node(weights, angles, 0))
        if spec.readout == "mean_z":
            return jnp.mean(values, keepdims=True)
        if spec.readout == "z_vec":
            return weights["readout"].astype(values.dtype) @ values
        return values

    return example
