"""`batching="choi"`: the whole batch in one circuit on 2n wires, for circuits that encode their data once.

Let U be the ansatz, psi_b the encoded product states, P_t the measured Pauli operators and C_bt the cotangent of their
expectation values. One execution on n Bell pairs, U on one half of each, gives U itself, and with it every value
<psi_b|U+ P_t U|psi_b> and every derivative with respect to an input by matrix products on the host. For the weights,

    sum_bt C_bt <psi_b|U+ P_t U|psi_b> = sum_r tr(U+ O_r U R_r),   C = sum_r u_r v_r^T,
    O_r = sum_t v_rt P_t,   R_r = sum_b u_rb psi_b psi_b+.

tr(U+ O U) = 0 for Pauli operators, so R_r may be shifted by a multiple of the identity until it is positive,
R = L L+: then it is the reduced state of the 2n-wire vector L (not normalised: everything is linear in it), and one
adjoint sweep from that vector gives the derivative of the whole batch. The number of sweeps is the rank of C, at most
the number of outputs.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Complex, Float

from qwafer.circuits import Circuit, CircuitSpec
from qwafer.circuits.readouts import READOUTS
from qwafer.circuits.recording import RECORDING
from qwafer.engines import pennylane_gates
from qwafer.engines.base import Weights
from qwafer.engines.catalyst import scan
from qwafer.engines.catalyst.kernels import Arrays, Kernel, contract
from qwafer.engines.catalyst.plan import GatePlan, ansatz_plan
from qwafer.engines.catalyst.runtime import LOCK, HostProgram

MAX_QUBITS = 10
"""The largest n: the vector on 2n wires takes 16 MiB there, 256 MiB at n = 12."""


def why_not(spec: Circuit) -> str | None:
    """Return why `spec` cannot be batched this way, or None."""
    if not isinstance(spec, CircuitSpec):
        return "only the layers of a CircuitSpec are known to be one unitary after the encoding"
    if not spec.encodes_once:
        return "the circuit encodes its data again before every layer, so that no single unitary serves all examples"
    if spec.n_qubits > MAX_QUBITS:
        return f"{spec.n_qubits} qubits need {2 * spec.n_qubits} wires; at most {MAX_QUBITS} qubits are supported"
    return None


def choi_kernel(spec: CircuitSpec, batch: int, *, gradient: bool, device: str, seed: int) -> Kernel:
    """Return the kernel that evaluates a batch of `spec` in one circuit, see the module and `why_not`."""
    z_only = spec.readout_facts.z_only
    paulis = "Z" if z_only else "XYZ"
    is_mean = spec.readout_facts.is_mean  # one term: the mean itself, cheaper than n terms contracted afterwards
    n_terms = 1 if is_mean else spec.n_qubits * len(paulis)
    plan = ansatz_plan(spec, z_only=z_only)
    unitary = _Unitary(spec, plan, device, seed)
    rank = min(spec.n_outputs, n_terms)
    sweep = None
    if gradient and plan.n_slots:
        sweep = _sweep_program(spec, plan, paulis=paulis, device=device, seed=seed)
    mean = np.full((1, spec.n_qubits), 1 / spec.n_qubits)

    last: list[tuple[bytes, np.ndarray, np.ndarray, np.ndarray]] = []

    def evolved(weights: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the encoded states, U and U psi: the vjp asks for what the value before it has used."""
        u, key = unitary(weights), inputs.tobytes()
        if not last or last[0][0] != key or last[0][2] is not u:
            known = bool(last) and last[0][0] == key
            states = last[0][1] if known else product_states(spec, inputs.astype(np.float64))
            last[:] = [(key, states, u, _rotated(states, u))]
        return last[0][1:]

    def values(weights: Arrays, inputs: np.ndarray) -> np.ndarray:
        _, _, final = evolved(weights, inputs)
        if is_mean:
            return scan.z_values(final.real**2 + final.imag**2) @ mean.T
        return scan.bloch_vectors(final, z_only=z_only)

    def vjp(weights: Arrays, inputs: np.ndarray, cotangent: np.ndarray) -> tuple[Arrays, np.ndarray]:
        cotangent = cotangent.astype(np.float64)
        states, u, final = evolved(weights, inputs)
        measured = _apply_observables(final, cotangent @ mean if is_mean else cotangent, paulis)
        d_inputs = _input_gradient(spec, states, _rotated_back(measured, u, is_real=np.isrealobj(states)))
        d_theta = np.zeros((1, plan.n_slots))
        if sweep is not None:
            if np.isfinite(cotangent).all() and np.isfinite(states).all():
                theta = plan.theta(weights, np.zeros((1, spec.n_qubits)))[0]
                for vector, observable in _purified(states, cotangent, rank):
                    d_theta += sweep(theta, vector, observable @ mean if is_mean else observable)[0]
            else:
                d_theta = np.full((1, plan.n_slots), np.nan)
        d_weights, _ = plan.vjp(spec.weight_shapes(), d_theta)
        return d_weights, d_inputs

    return Kernel(
        weights=("ansatz",),
        n_terms=n_terms,
        values=values,
        vjp=vjp if gradient else None,
        finish=_as_it_is if is_mean else functools.partial(contract, spec),
        nbytes=unitary.nbytes + 16 * batch * 2**spec.n_qubits + (sweep.nbytes if sweep is not None else 0),
        info={
            "value": "the unitary from one circuit on Bell pairs, contracted outside",
            "gates": len(plan.steps),
            "sweeps": rank if sweep is not None else 0,
            "reasons": ["the circuit encodes once: one execution serves the whole batch, whatever its size"],
        },
    )


def _as_it_is(_: Weights, terms: jax.Array) -> jax.Array:
    return terms


class _Unitary:
    """The ansatz as a matrix, (2^n, 2^n), from one execution on n Bell pairs; the last one is kept."""

    def __init__(self, spec: CircuitSpec, plan: GatePlan, device: str, seed: int):
        import pennylane as qml

        n = self._n = spec.n_qubits

        def circuit(theta: Any) -> Any:
            for wire in range(n):
                qml.Hadamard(wires=n + wire)
                qml.CNOT(wires=(n + wire, wire))
            scan.apply_gates(plan, theta)
            return qml.state()

        node = qml.QNode(circuit, scan.open_device(device, 2 * n), diff_method=None)

        def unitary(theta: Any) -> Any:
            return node(theta)

        self._plan = plan
        self._program = HostProgram(unitary, [((max(plan.n_slots, 1),), np.float64)], seed=seed)
        self._last: tuple[bytes, np.ndarray] | None = None
        self.nbytes = self._program.nbytes + 16 * 4**n

    def __call__(self, weights: Arrays) -> Complex[np.ndarray, "dim dim"]:
        theta = self._plan.theta(weights, np.zeros((1, self._n)))[0]
        key, last = theta.tobytes(), self._last
        if last is None or last[0] != key:
            (state,) = self._program(theta if len(theta) else np.zeros(1))
            last = self._last = (key, state.reshape(2**self._n, 2**self._n) * 2 ** (self._n / 2))
        return last[1]


def _sweep_program(spec: CircuitSpec, plan: GatePlan, *, paulis: str, device: str, seed: int) -> HostProgram:
    """Return the program (theta (n_slots,), vector (4^n,), v (n_terms,)) -> (d/dtheta (n_slots,),)."""
    import catalyst
    import pennylane as qml

    n = spec.n_qubits
    words = READOUTS["z" if paulis == "Z" else "bloch"].measured_words(n)
    terms = [pennylane_gates.observable(word) for word in words]

    def circuit(theta: Any, vector: Any, observable: Any) -> Any:
        qml.StatePrep(vector, wires=range(2 * n), validate_norm=False)
        scan.apply_gates(plan, theta)
        return qml.expval(qml.Hamiltonian(observable, terms))

    derivative = catalyst.grad(qml.QNode(circuit, scan.open_device(device, 2 * n), diff_method="adjoint"), argnums=0)

    def sweep(theta: Any, vector: Any, observable: Any) -> Any:
        return derivative(theta, vector, observable)

    arguments = [((plan.n_slots,), np.float64), ((4**n,), np.complex128), ((len(terms),), np.float64)]
    with _constant_state_preparation():
        return HostProgram(sweep, arguments, seed=seed)


@contextlib.contextmanager
def _constant_state_preparation() -> Iterator[None]:
    """Let Catalyst keep a StatePrep in a differentiated circuit although its vector is a run-time argument.

    Catalyst takes every traced argument of a gate for one to be differentiated, and decomposes a StatePrep into gates
    that do not compile. Here the vector is none of the arguments that are differentiated, and a sweep that starts from
    it is exact: the tests compare it with the scan, and a stack probe watches it.
    """
    import pennylane as qml
    from catalyst.device import decomposition, verification

    original = decomposition.is_active

    def is_active(operation: Any) -> bool:
        return not isinstance(operation, qml.StatePrep) and bool(original(operation))

    with RECORDING, LOCK:
        decomposition.is_active = verification.is_active = is_active
        try:
            yield
        finally:
            decomposition.is_active = verification.is_active = original


def product_states(spec: CircuitSpec, inputs: Float[np.ndarray, "batch n_qubits"]) -> np.ndarray:
    """Return the encoded states (batch, 2^n_qubits): real where the encoding is."""
    waves = np.stack([np.cos(inputs / 2), np.sin(inputs / 2)], axis=-1)
    pairs = waves @ spec.encoding_facts.columns.T  # (batch, n_qubits, 2)
    states = np.ones((len(inputs), 1))
    for wire in range(spec.n_qubits):
        states = (states[:, :, None] * pairs[:, None, wire]).reshape(len(inputs), -1)
    return states


def _rotated(states: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return U psi_b, (batch, 2^n), with half the arithmetic for real states."""
    if np.iscomplexobj(states):
        return states @ u.T
    return (states @ np.ascontiguousarray(u.T).view(np.float64)).view(np.complex128)


def _rotated_back(states: np.ndarray, u: np.ndarray, *, is_real: bool) -> np.ndarray:
    """Return U+ psi_b, (batch, 2^n), or with `is_real` its real part, for half the arithmetic."""
    if not is_real:
        return states @ u.conj()
    parts = np.stack([u.real, u.imag], axis=1).reshape(2 * len(u), -1)
    return states.view(np.float64) @ parts


def _apply_observables(states: np.ndarray, coefficients: np.ndarray, paulis: str) -> np.ndarray:
    """Return O_b |phi_b> with O_b = sum_t c_bt P_t, (batch, 2^n)."""
    batch, dim = states.shape
    n = dim.bit_length() - 1
    z = coefficients.reshape(batch, n, len(paulis))[..., -1]
    result = states * (z @ signs(n).T)
    if paulis == "XYZ":
        flip = coefficients.reshape(batch, n, 3)
        for wire in range(n):
            pairs = states.reshape(batch, 1 << wire, 2, -1)
            out = result.reshape(batch, 1 << wire, 2, -1)
            lower = (flip[:, wire, 0] + 1j * flip[:, wire, 1])[:, None, None]  # <1|c_x X + c_y Y|0>
            out[:, :, 0] += lower.conj() * pairs[:, :, 1]
            out[:, :, 1] += lower * pairs[:, :, 0]
    return result


def _input_gradient(spec: CircuitSpec, states: np.ndarray, adjoint: np.ndarray) -> Float[np.ndarray, "batch n_qubits"]:
    """Return d/dx_i <psi|A|psi> = -Im <psi|P_i A|psi> for encoding gates exp(-i x_i P_i / 2).

    `adjoint` is A |psi>, of which real states need the real part alone.
    """
    batch, dim = states.shape
    n, axis = dim.bit_length() - 1, spec.encoding_facts.axis
    gradient = np.empty((batch, n))
    bra = states.conj()
    for wire in range(n):
        psi, chi = (array.reshape(batch, 1 << wire, 2, -1) for array in (bra, adjoint))

        def overlap(i: int, j: int, psi: np.ndarray = psi, chi: np.ndarray = chi) -> np.ndarray:
            return np.einsum("bkl,bkl->b", psi[:, :, i], chi[:, :, j])

        if axis == "Z":
            gradient[:, wire] = (overlap(1, 1) - overlap(0, 0)).imag
        elif axis == "X":
            gradient[:, wire] = -(overlap(0, 1) + overlap(1, 0)).imag
        else:
            gradient[:, wire] = overlap(0, 1) - overlap(1, 0)
    return gradient


def _purified(
    states: np.ndarray, cotangent: Float[np.ndarray, "batch n_terms"], rank: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield L_r, flattened, and v_r with C = sum_r u_r v_r^T and L_r L_r+ = R_r + a multiple of the identity."""
    coefficients, observables = _factors(cotangent, rank)
    identity = np.eye(states.shape[1])
    for u, observable in zip(coefficients.T, observables, strict=True):
        reduced = (states.T * u) @ states.conj()
        scale = np.linalg.norm(reduced)
        if scale > 0:
            # Both numbers bound the negative eigenvalues; the margin keeps the factorisation regular.
            shift = min(scale, -u[u < 0].sum()) + 1e-3 * scale
            yield np.linalg.cholesky(reduced + shift * identity).reshape(-1), observable


def _factors(
    cotangent: Float[np.ndarray, "batch n_terms"], rank: int
) -> tuple[Float[np.ndarray, "batch rank"], Float[np.ndarray, "rank n_terms"]]:
    """Return u, v with C = u v for a cotangent C of at most this rank."""
    n_terms = cotangent.shape[1]
    if rank == n_terms:
        return cotangent, np.eye(n_terms)
    if rank == 1:
        direction = cotangent[np.argmax(np.abs(cotangent).max(axis=1))]
        norm = direction @ direction
        return (cotangent @ direction)[:, None] / (norm if norm > 0 else 1.0), direction[None, :]
    left, values, right = np.linalg.svd(cotangent, full_matrices=False)
    have = min(rank, len(values))
    coefficients, observables = np.zeros((len(cotangent), rank)), np.zeros((rank, n_terms))
    coefficients[:, :have], observables[:have] = left[:, :have] * values[:have], right[:have]
    return coefficients, observables


@functools.lru_cache(maxsize=MAX_QUBITS)
def signs(n: int) -> Float[np.ndarray, "dim n"]:
    """Return the eigenvalue of Z_i on basis state j, (2^n, n); wire 0 is the most significant bit."""
    index = np.arange(1 << n)[:, None]
    return 1.0 - 2.0 * ((index >> np.arange(n - 1, -1, -1)[None, :]) & 1)
