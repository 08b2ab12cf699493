"""The train step of `engines.py` as each contender's own users would write it to be fast.

Runs in the project's environment and in that of the peers: nothing of qwafer is imported but by its own engines.
A contender is a function (n_qubits, n_layers, batch, dtype) -> step, with step(weights (L, n, 3), angles (B, n),
labels (B,)) -> (loss, d_weights, d_angles) of the loss mean_b [softplus(l_b) - y_b l_b], l = 4 mean_i <Z_i>: angle
encoding by RY, then strongly entangling layers (RZ, RY, RZ on each wire; CNOT ring of range l mod (n - 1) + 1).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

SLOPE = 4.0

Step = Callable[..., tuple[Any, Any, Any]]


def pairs(n: int, layer: int) -> list[tuple[int, int]]:
    """Return (control, target) of the CNOTs of `layer`."""
    reach = layer % (n - 1) + 1
    return [(i, (i + reach) % n) for i in range(n)]


def mean_z_diagonal(n: int, dtype: str) -> np.ndarray:
    """Return the diagonal of mean_i Z_i, (2^n,)."""
    bits = (np.arange(2**n)[:, None] >> np.arange(n)[None]) & 1
    return (1 - 2 * bits).mean(1).astype(dtype)


def _bce(scores: Any, labels: Any) -> Any:
    import jax

    logits = SLOPE * scores
    return jax.nn.softplus(logits) - labels * logits


def _jax_step(scores: Callable[[Any, Any], Any]) -> Step:
    """Return the step of `scores`: (weights, angles (B, n)) -> (B,)."""
    import jax

    graded = jax.value_and_grad(lambda w, x, y: _bce(scores(w, x), y).mean(), (0, 1))

    def step(w: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        loss, (d_w, d_x) = graded(w, x, y)
        return loss, d_w, d_x

    return step


def qwafer_engine(name: str, **options: Any) -> Callable[..., tuple[Step, dict[str, Any]]]:
    """Return the maker of steps by qwafer's engine `name`."""

    def make(n: int, layers: int, batch: int, dtype: str) -> tuple[Step, dict[str, Any]]:
        from qwafer import compiler_options, engines
        from qwafer.circuits import CircuitSpec

        program = engines.get(name, **options).program(CircuitSpec(n, layers, dtype=dtype), batch)
        info = {**program.info, "compiler_options": compiler_options()}  # as qwafer's training compiles it
        return _jax_step(lambda w, x: program({"ansatz": w}, x)[:, 0]), info

    return make


def default_qubit(n: int, layers: int, batch: int, dtype: str) -> tuple[Step, dict[str, Any]]:
    """PennyLane's `default.qubit`, backpropagated, under jit and vmap."""
    import jax
    import jax.numpy as jnp
    import pennylane as qml

    @qml.qnode(qml.device("default.qubit", wires=n), interface="jax", diff_method="backprop")
    def circuit(w: Any, x: Any) -> Any:
        qml.AngleEmbedding(x, wires=range(n), rotation="Y")
        qml.StronglyEntanglingLayers(w, wires=range(n))
        return [qml.expval(qml.PauliZ(i)) for i in range(n)]

    batched = jax.vmap(lambda w, x: jnp.stack(circuit(w, x)).mean(), (None, 0))
    return _jax_step(lambda w, x: batched(w, x).astype(dtype)), {}


def tensorcircuit(n: int, layers: int, batch: int, dtype: str, *, contractor: str = "") -> tuple[Step, dict[str, Any]]:
    """TensorCircuit-NG on JAX by its own `vectorized_value_and_grad`.

    One gate `u` for RZ, RY, RZ, and mean Z read off the state at once: both faster than the gates one by one and n
    calls of `expectation`. Layers are unrolled: the ring's range differs by layer, so that they are not a scan.
    """
    import tensorcircuit as tc

    backend = tc.set_backend("jax")
    tc.set_dtype("complex64" if dtype == "float32" else "complex128")
    if contractor:
        tc.set_contractor(contractor)
    diagonal = mean_z_diagonal(n, dtype)

    def loss(w: Any, x: Any, y: Any) -> Any:
        circuit = tc.Circuit(n)
        for i in range(n):
            circuit.ry(i, theta=x[i])
        for layer in range(layers):
            for i in range(n):
                circuit.u(i, theta=w[layer, i, 1], phi=w[layer, i, 2], lbd=w[layer, i, 0])
            for control, target in pairs(n, layer):
                circuit.cnot(control, target)
        state = circuit.state()
        score = ((backend.real(state) ** 2 + backend.imag(state) ** 2) * diagonal).sum()
        return _bce(score, y)

    graded = backend.vectorized_value_and_grad(loss, argnums=(0, 1), vectorized_argnums=(1, 2))

    def step(w: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        losses, (d_w, d_x) = graded(w, x, y)
        return losses.mean(), d_w / x.shape[0], d_x / x.shape[0]

    return step, {"contractor": contractor or "greedy"}


def tensorcircuit_plain(n: int, layers: int, batch: int, dtype: str) -> tuple[Step, dict[str, Any]]:
    """TensorCircuit-NG, gate after gate."""
    return tensorcircuit(n, layers, batch, dtype, contractor="plain")


def qujax(n: int, layers: int, batch: int, dtype: str) -> tuple[Step, dict[str, Any]]:
    """Qujax's pure functions under jit and vmap, RZ, RY, RZ given as one gate."""
    import jax
    import jax.numpy as jnp
    import qujax as library

    def rotation(a: Any, b: Any, c: Any) -> Any:
        plus, minus = jnp.exp(0.5j * (a + c)), jnp.exp(0.5j * (a - c))
        cos, sin = jnp.cos(b / 2), jnp.sin(b / 2)
        return jnp.array([[jnp.conj(plus) * cos, -minus * sin], [jnp.conj(minus) * sin, plus * cos]])

    gates: list[Any] = ["Ry"] * n
    wires = [[i] for i in range(n)]
    places: list[list[int]] = [[i] for i in range(n)]
    for layer in range(layers):
        for i in range(n):
            start = n + 3 * (layer * n + i)
            gates.append(rotation)
            wires.append([i])
            places.append([start, start + 1, start + 2])
        for pair in pairs(n, layer):
            gates.append("CX")
            wires.append(list(pair))
            places.append([])
    run = library.get_params_to_statetensor_func(gates, wires, places, n)
    diagonal = mean_z_diagonal(n, dtype)

    def score(w: Any, x: Any) -> Any:
        state = run(jnp.concatenate([x / np.pi, w.reshape(-1)])).reshape(-1)  # its own gates take units of pi
        return ((state.real**2 + state.imag**2) * diagonal).sum()

    return _jax_step(jax.vmap(score, (None, 0))), {}


def torch_lightning(n: int, layers: int, batch: int, dtype: str) -> tuple[Step, dict[str, Any]]:
    """PennyLane's TorchLayer on `lightning.qubit`, by its adjoint method; steps run eagerly."""
    import pennylane as qml
    import torch

    kind = getattr(torch, dtype)
    device = qml.device("lightning.qubit", wires=n, c_dtype=np.complex64 if dtype == "float32" else np.complex128)

    @qml.qnode(device, interface="torch", diff_method="adjoint")
    def circuit(inputs: Any, weights: Any) -> Any:
        qml.AngleEmbedding(inputs, wires=range(n), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(n))
        return qml.expval(qml.Hamiltonian([1 / n] * n, [qml.PauliZ(i) for i in range(n)]))

    layer = qml.qnn.TorchLayer(circuit, {"weights": (layers, n, 3)})

    def step(w: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        weights, inputs = layer.qnode_weights["weights"], torch.tensor(x, dtype=kind, requires_grad=True)
        with torch.no_grad():
            weights.copy_(torch.tensor(w, dtype=kind))
        weights.grad = None
        scores = layer(inputs).reshape(-1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(SLOPE * scores, torch.tensor(y).to(scores.dtype))
        loss.backward()
        return loss.detach().numpy(), weights.grad.numpy(), inputs.grad.numpy()

    return step, {"eager": True}


def warm_up() -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Return a small size and its arrays, for the first step of a process."""
    arrays = {"weights": np.ones((1, 3, 3)), "inputs": np.ones((2, 3)), "labels": np.ones(2)}
    return {"n": 3, "layers": 1, "batch": 2}, arrays


CONTENDERS: dict[str, tuple[Callable[..., tuple[Step, dict[str, Any]]], str, tuple[str, ...]]] = {
    "xla": (qwafer_engine("xla"), "project", ("jax",)),
    "catalyst": (qwafer_engine("catalyst"), "project", ("pennylane-catalyst", "pennylane-lightning", "jax")),
    "catalyst-choi": (
        qwafer_engine("catalyst", batching="choi"),
        "project",
        ("pennylane-catalyst", "pennylane-lightning", "jax"),
    ),
    "default.qubit": (default_qubit, "project", ("pennylane", "jax")),
    "tensorcircuit": (tensorcircuit, "peers", ("tensorcircuit-ng", "jax")),
    "tensorcircuit-plain": (tensorcircuit_plain, "peers", ("tensorcircuit-ng", "jax")),
    "qujax": (qujax, "peers", ("qujax", "jax")),
    "torch-lightning": (torch_lightning, "peers", ("pennylane", "pennylane-lightning", "torch")),
}
"""Name: (maker, whose environment, the packages whose versions are recorded)."""
