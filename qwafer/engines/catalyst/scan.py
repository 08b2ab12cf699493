"""`batching="scan"`: compiled programs that execute the circuit one example at a time, in a `lax.scan`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from qwafer._errors import CapabilityError
from qwafer.circuits import Circuit
from qwafer.engines import pennylane_gates
from qwafer.engines.catalyst.memory import CHUNK_AMPLITUDES
from qwafer.engines.catalyst.plan import GatePlan
from qwafer.engines.catalyst.runtime import HostProgram


def chunk_size(n_qubits: int, batch: int) -> int:
    """Return how many examples one call of a state program takes."""
    return max(1, min(batch, CHUNK_AMPLITUDES >> n_qubits))


def states_program(circuit: Circuit, plan: GatePlan, batch: int, *, device: str, seed: int) -> HostProgram:
    """Return the program theta (batch, n_slots) -> (states (batch, 2^n_qubits) complex128,)."""
    import jax
    import pennylane as qml

    def measured(theta: Any) -> Any:
        apply_gates(plan, theta)
        return qml.state()

    node = qml.QNode(measured, open_device(device, circuit.n_qubits), diff_method=None)

    def states(theta: Any) -> Any:
        return jax.lax.scan(lambda _, row: (None, node(row)), None, theta)[1]

    return HostProgram(states, [((batch, plan.n_slots), np.float64)], seed=seed)


def expectation_program(
    circuit: Circuit, plan: GatePlan, batch: int, *, words: tuple[str, ...], device: str, shots: int | None, seed: int
) -> HostProgram:
    """Return the program theta (batch, n_slots) -> (the expectation values of Pauli `words`, measured,)."""
    import jax
    import jax.numpy as jnp
    import pennylane as qml

    terms = [pennylane_gates.observable(word) for word in words]

    def measured(theta: Any) -> Any:
        apply_gates(plan, theta)
        return [qml.expval(term) for term in terms]

    node = qml.set_shots(qml.QNode(measured, open_device(device, circuit.n_qubits), diff_method=None), shots)

    def expectations(theta: Any) -> Any:
        return jax.lax.scan(lambda _, row: (None, jnp.stack(node(row))), None, theta)[1]

    return HostProgram(expectations, [((batch, plan.n_slots), np.float64)], seed=seed)


def gradient_program(
    circuit: Circuit,
    plan: GatePlan,
    batch: int,
    *,
    words: tuple[str, ...],
    device: str,
    diff_method: str,
    shots: int | None,
    seed: int,
    value: bool = False,
) -> HostProgram:
    """Return the program (theta (batch, n_slots), c (batch, n_terms)) -> (d/dtheta of sum_j c_j <P_j>,).

    One row per example; P_j runs over `words`. The coefficients are an
    argument that Catalyst differentiates too, so that nothing depends on how it treats constants, with a derivative
    that is always 0 and is dropped; one adjoint sweep, or one set of shifted circuits, per example. With `value` the
    sum itself is returned first, for nothing: Catalyst evaluates it on the way to its gradient in any case.
    """
    import catalyst
    import jax
    import pennylane as qml

    terms = [pennylane_gates.observable(word) for word in words]

    def measured(theta: Any, coefficients: Any) -> Any:
        apply_gates(plan, theta)
        return qml.expval(qml.Hamiltonian(coefficients, terms))

    node = qml.set_shots(qml.QNode(measured, open_device(device, circuit.n_qubits), diff_method=diff_method), shots)
    derivative = (catalyst.value_and_grad if value else catalyst.grad)(node, argnums=(0, 1))

    def example(_: Any, row: Any) -> Any:
        if not value:
            return None, derivative(*row)[0]
        result, (d_theta, _) = derivative(*row)
        return None, (result, d_theta)

    def gradient(theta: Any, coefficients: Any) -> Any:
        return jax.lax.scan(example, None, (theta, coefficients))[1]

    return HostProgram(gradient, [((batch, plan.n_slots), np.float64), ((batch, len(terms)), np.float64)], seed=seed)


def open_device(name: str, n_qubits: int) -> Any:
    """Return the PennyLane device; raise CapabilityError where it is not installed."""
    import pennylane as qml

    try:
        return qml.device(name, wires=n_qubits)
    except (qml.exceptions.DeviceError, ImportError) as error:
        install = f"install pennylane-{name.replace('.', '-')} or " if name.startswith("lightning.") else ""
        raise CapabilityError(
            f"device {name} cannot be opened ({str(error).strip().splitlines()[0]}): {install}use lightning.qubit"
        ) from error


def apply_gates(plan: GatePlan, theta: Any) -> None:
    """Queue the gates of `plan` with the angles `theta` (n_slots,) in the circuit that is being traced."""
    for step in plan.steps:
        pennylane_gates.apply_gate(step.gate, step.wires, None if step.slot is None else theta[step.slot])


def bloch_vectors(states: Complex[np.ndarray, "batch dim"], *, z_only: bool) -> Float[np.ndarray, "batch n_terms"]:
    """Return (<Z_0>, <Z_1>, ...) or (<X_0>, <Y_0>, <Z_0>, <X_1>, ...) of each state."""
    batch, dim = states.shape
    n = dim.bit_length() - 1
    z = z_values(states.real**2 + states.imag**2)  # (batch, n)
    if z_only:
        return z
    bloch = np.empty((batch, n, 3))
    bloch[..., 2] = z
    for wire in range(n):
        pairs = states.reshape(batch, 1 << wire, 2, -1)
        # rho_01 of the wire, conjugated: <X> = 2 Re, <Y> = 2 Im.
        coherence = np.einsum("bij,bij->b", pairs[:, :, 0].conj(), pairs[:, :, 1])
        bloch[:, wire, 0] = 2 * coherence.real
        bloch[:, wire, 1] = 2 * coherence.imag
    return bloch.reshape(batch, 3 * n)


def z_values(probabilities: Float[np.ndarray, "batch dim"]) -> Float[np.ndarray, "batch n"]:
    """Return <Z_i> of every wire from the probabilities of basis states; wire 0 is the most significant bit.

    Summing each wire out once it is read takes 2^(n+1) additions and no table of signs.
    """
    values = []
    while probabilities.shape[1] > 1:
        zero, one = np.split(probabilities, 2, axis=1)
        values.append(zero.sum(axis=1) - one.sum(axis=1))
        probabilities = zero + one
    return np.stack(values, axis=1)


def in_chunks(program: HostProgram, chunk: int, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the first output of `program` for slices of `chunk` rows; the last slice is padded with its last row."""
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        have = len(part)
        if have < chunk:
            part = np.concatenate([part, np.repeat(part[-1:], chunk - have, axis=0)])
        yield program(part)[0][:have]
