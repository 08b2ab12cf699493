"""The train step of `circuits.py` as the users of qwafer, of PennyLane and of TensorCircuit-NG would write it.

A contender is a function (family, n, batch, dtype) -> (step, info), with step(weights, inputs (B, d), labels (B, K)) ->
(loss, d_weights, d_inputs, values (B, K)) of the loss mean_bk [softplus(l_bk) - y_bk l_bk], l = 4 s, for the values s
of `_circuits_cases.py`. Runs in the project's environment and in that of the peers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from _circuits_cases import case

SLOPE = 4.0

Step = Callable[..., tuple[Any, Any, Any, Any]]
Made = tuple[Step, dict[str, Any]]


def _step(values: Callable[[Any, Any], Any]) -> Step:
    """Return the step of `values`: (weights, inputs (B, d)) -> (B, K)."""
    import jax

    def loss(weights: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
        found = values(weights, inputs)
        logits = SLOPE * found
        return (jax.nn.softplus(logits) - labels * logits).mean(), found

    graded = jax.value_and_grad(loss, (0, 1), has_aux=True)

    def step(weights: Any, inputs: Any, labels: Any) -> tuple[Any, Any, Any, Any]:
        (mean, found), (d_weights, d_inputs) = graded(weights, inputs, labels)
        return mean, d_weights, d_inputs, found

    return step


def qwafer_xla(family: str, n: int, batch: int, dtype: str) -> Made:
    """The circuit captured by `qwafer.circuit`, run by engine `xla`."""
    import qwafer

    own = case(family, n)
    circuit = qwafer.circuit(own.function, weights=own.weights, n_inputs=own.n_inputs, n_qubits=n, dtype=dtype)
    program = qwafer.engines.get("xla").program(circuit, batch)
    return _step(program), {**program.info, "compiler_options": qwafer.compiler_options()}


def default_qubit(family: str, n: int, batch: int, dtype: str) -> Made:
    """PennyLane's `default.qubit`, backpropagated, under jit and vmap."""
    import jax
    import jax.numpy as jnp
    import pennylane as qml

    own = case(family, n)
    node = qml.QNode(own.function, qml.device("default.qubit", wires=n), interface="jax", diff_method="backprop")

    def values(weights: Any, x: Any) -> Any:
        return jnp.stack(node(weights, x)).astype(dtype)

    return _step(jax.vmap(values, (None, 0))), {}


def tensorcircuit(family: str, n: int, batch: int, dtype: str) -> Made:
    """TensorCircuit-NG on JAX, vectorised by its own `vmap`.

    The values are read off the state at once, which takes less than a call of `expectation` for each.
    """
    import tensorcircuit as tc

    backend = tc.set_backend("jax")
    tc.set_dtype("complex64" if dtype == "float32" else "complex128")
    own = case(family, n)
    signs = z_signs(n, own.measured).astype(dtype)

    def values(weights: Any, x: Any) -> Any:
        state = own.twin(tc, backend, weights, x).state()
        return (backend.real(state) ** 2 + backend.imag(state) ** 2) @ signs

    return _step(backend.vmap(values, vectorized_argnums=1)), {}


def z_signs(n: int, measured: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Return the eigenvalues (2^n, K) of the products of Z that are measured; wire 0 is the leading bit."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)[::-1]) & 1  # (2^n, n)
    return np.stack([np.prod(1 - 2 * bits[:, list(wires)], axis=1) for wires in measured], axis=1)


def warm_up() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a small size and its arrays, for the first step of a process."""
    size = {"family": "tree", "n": 2, "batch": 2}
    return size, case("tree", 2).arrays(2)


CONTENDERS: dict[str, tuple[Callable[..., Made], str, tuple[str, ...]]] = {
    "xla": (qwafer_xla, "project", ("jax", "pennylane")),
    "default.qubit": (default_qubit, "project", ("pennylane", "jax")),
    "tensorcircuit": (tensorcircuit, "peers", ("tensorcircuit-ng", "jax")),
}
"""Name: (maker, whose environment, the packages whose versions are recorded)."""
