"""The timed forms of `catalyst_core.py`: a name -> a closure that does one batch. For its worker processes."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import catalyst
import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml

from qwafer import engines
from qwafer.circuits import CircuitSpec

Run = Callable[[], Any]


class Case(NamedTuple):
    """A form, the circuit and the batch that it is timed on."""

    form: str
    n_qubits: int
    n_layers: int
    batch: int


def build(case: Case) -> tuple[Run, float]:
    """Return what does one batch of `case`, warmed up, and the seconds that compiling and the first call took."""
    start = time.perf_counter()
    run = FORMS[case.form](case)
    run()
    return run, time.perf_counter() - start


def _spec(case: Case, readout: str = "mean_z") -> CircuitSpec:
    return CircuitSpec(case.n_qubits, case.n_layers, readout=readout)


def _inputs(case: Case, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(case.n_layers, case.n_qubits, 3)).astype(dtype)
    return weights, rng.normal(size=(case.batch, case.n_qubits)).astype(dtype)


def _gates(spec: CircuitSpec, weights: Any, x: Any) -> None:
    sources = {"ansatz": weights, "inputs": x}
    for operation in spec.operations():
        if operation.source:
            getattr(qml, operation.gate.name)(sources[operation.source][operation.index], wires=operation.wires[0])
        else:
            qml.CNOT(wires=operation.wires)


def _mean_z(case: Case) -> Callable[..., Any]:
    """The circuit as a newcomer writes it: every gate, one expectation value of a Hamiltonian, adjoint gradients."""
    spec, n = _spec(case), case.n_qubits

    @qml.qnode(qml.device("lightning.qubit", wires=n), diff_method="adjoint")
    def circuit(weights: Any, x: Any) -> Any:
        _gates(spec, weights, x)
        return qml.expval(qml.Hamiltonian([1 / n] * n, [qml.Z(i) for i in range(n)]))

    return circuit


def _paulis(case: Case) -> Callable[..., Any]:
    spec, n = _spec(case), case.n_qubits

    @qml.qnode(qml.device("lightning.qubit", wires=n), diff_method="adjoint")
    def circuit(weights: Any, x: Any) -> Any:
        _gates(spec, weights, x)
        return [qml.expval(pauli(i)) for i in range(n) for pauli in (qml.X, qml.Y, qml.Z)]

    return circuit


def bare_forward(case: Case) -> Run:
    """A scan over examples with default settings, values only."""
    circuit, inputs = _mean_z(case), _inputs(case)

    @catalyst.qjit
    def run(weights, xs):  # type: ignore[no-untyped-def]
        return jax.lax.scan(lambda _, x: (None, circuit(weights, x)), None, xs)[1]

    return lambda: run(*inputs)


def bare(case: Case) -> Run:
    """A scan over examples with default settings: the value and its gradient in the body."""
    circuit, inputs = _mean_z(case), _inputs(case)
    derivative = catalyst.grad(circuit, argnums=(0, 1))

    @catalyst.qjit
    def run(weights, xs):  # type: ignore[no-untyped-def]
        def body(total: Any, x: Any) -> Any:
            d_weights, d_x = derivative(weights, x)
            return total + d_weights, (circuit(weights, x), d_x)

        return jax.lax.scan(body, jnp.zeros_like(weights), xs)

    return lambda: run(*inputs)


def catalyst_vmap(case: Case) -> Run:
    """`catalyst.vmap` of value and gradient."""
    circuit, inputs = _mean_z(case), _inputs(case)
    derivative = catalyst.grad(circuit, argnums=(0, 1))

    @catalyst.qjit
    def run(weights, xs):  # type: ignore[no-untyped-def]
        return catalyst.vmap(lambda x: (circuit(weights, x), derivative(weights, x)))(xs)

    return lambda: run(*inputs)


def calls(case: Case) -> Run:
    """One call from Python an example, each with value and gradient."""
    circuit, (weights, xs) = _mean_z(case), _inputs(case)
    derivative = catalyst.grad(circuit, argnums=(0, 1))

    @catalyst.qjit
    def run(weights, x):  # type: ignore[no-untyped-def]
        return circuit(weights, x), derivative(weights, x)

    return lambda: [run(weights, x) for x in xs]


def jax_vmap(case: Case) -> Run:
    """`jax.vmap` over a qjit function, values only: its gradient does not compile (a constant argument, for Enzyme)."""
    circuit, inputs = _mean_z(case), _inputs(case)

    @catalyst.qjit
    def run(weights, x):  # type: ignore[no-untyped-def]
        return circuit(weights, x)

    mapped = jax.vmap(run, in_axes=(None, 0))
    return lambda: jax.block_until_ready(mapped(*inputs))


def jacobian(case: Case) -> Run:
    """`catalyst.jacobian` of all 3n Pauli expectations in the scan, contracted with a cotangent."""
    circuit, (weights, xs) = _paulis(case), _inputs(case)
    derivative = catalyst.jacobian(circuit, argnums=(0, 1))
    cotangent = np.random.default_rng(1).normal(size=(case.batch, 3 * case.n_qubits))

    @catalyst.qjit
    def run(weights, xs, cotangents):  # type: ignore[no-untyped-def]
        def body(total: Any, row: Any) -> Any:
            x, c = row
            parts = derivative(weights, x)
            d_weights = sum(c[k] * part[0] for k, part in enumerate(parts))
            return total + d_weights, sum(c[k] * part[1] for k, part in enumerate(parts))

        return jax.lax.scan(body, jnp.zeros_like(weights), (xs, cotangents))

    return lambda: run(weights, xs, cotangent)


def _ours(case: Case, readout: str, batching: str, gradient: bool) -> Run:
    spec = _spec(case, readout)
    program = engines.get("catalyst", batching=batching).program(spec, case.batch, gradient=gradient)
    weights, xs = _inputs(case, "float32")
    # In turns, as in a training: the engine keeps what it has computed from equal weights or angles.
    turns = itertools.cycle(((weights, xs), (weights + np.float32(1e-3), xs + np.float32(1e-3))))
    if not gradient:
        forward = jax.jit(lambda w, x: program({"ansatz": w}, x))
        return lambda: jax.block_until_ready(forward(*next(turns)))
    cotangent = np.random.default_rng(1).normal(size=(case.batch, spec.n_outputs)).astype("float32")
    step = jax.jit(jax.value_and_grad(lambda w, x: jnp.vdot(cotangent, program({"ansatz": w}, x)), argnums=(0, 1)))
    return lambda: jax.block_until_ready(step(*next(turns)))


def choice_table(batch: int = 256) -> Iterator[str]:
    """Yield, for each number of wires, its rows in `_catalyst_choice.py`: microseconds with and without gradients."""
    for n in range(1, 10):
        slow, fast, one = (
            {gradient: _kernel_times(n, form, size, gradient) for gradient in (True, False)}
            for form, size in (("scan", batch), ("choi", batch), ("choi", 1))
        )
        rows = []
        for gradient in (True, False):
            example = (fast[gradient] - one[gradient]) / (batch - 1)
            rows.append(f"({slow[gradient] / batch:.3g}, {one[gradient] - example:.3g}, {example:.2g})")
        yield f"{n}: {rows[0]} with gradients, {rows[1]} without"


def _kernel_times(n: int, batching: str, batch: int, gradient: bool) -> float:
    """Microseconds per batch of value and gradient, or of values, of the engine's program; fresh weights every time."""
    spec = CircuitSpec(n, 2)
    program = engines.get("catalyst", batching=batching).program(spec, batch, gradient=gradient)
    weights, xs = _inputs(Case("", n, 2, batch), "float32")

    def loss(w: Any, x: Any) -> Any:
        return program({"ansatz": w}, x).sum()

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)) if gradient else loss)
    jax.block_until_ready(step(weights, xs))
    times: list[float] = []
    while len(times) < 5 or (sum(times) < 0.3 and len(times) < 50):
        weights, xs = weights + np.float32(1e-3), xs + np.float32(1e-3)
        start = time.perf_counter()
        jax.block_until_ready(step(weights, xs))
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


FORMS: dict[str, Callable[[Case], Run]] = {
    "bare forward": bare_forward,
    "bare": bare,
    "catalyst.vmap": catalyst_vmap,
    "a call an example": calls,
    "jax.vmap, forward": jax_vmap,
    "catalyst.jacobian": jacobian,
    "scan forward": lambda case: _ours(case, "mean_z", "scan", False),
    "scan": lambda case: _ours(case, "mean_z", "scan", True),
    "scan, 3n outputs": lambda case: _ours(case, "bloch", "scan", True),
    "choi forward": lambda case: _ours(case, "mean_z", "choi", False),
    "choi": lambda case: _ours(case, "mean_z", "choi", True),
}
