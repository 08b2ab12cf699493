"""How a batch can be put through a compiled circuit."""

import functools
from typing import Any

import numpy as np

from ._common import Answer, bloch, compared, compiled, inputs, node, seconds


def vmap_inside() -> Answer:
    """jax.vmap of a QNode inside qjit."""
    import jax

    circuit = node(3)
    weights, data = inputs(3, 5)
    program = compiled(lambda w, x: jax.vmap(circuit, in_axes=(None, 0))(w, x))
    return compared(program(weights, data), bloch(weights, data)[..., 2].mean(axis=-1))


def vmap_outside() -> Answer:
    """jax.vmap over a qjit function: right, and as slow as one call after another."""
    import jax

    circuit = node(3)
    batch = 32
    weights, data = inputs(3, batch)
    program = compiled(lambda w, x: circuit(w, x), seed=0)
    mapped = jax.jit(jax.vmap(lambda w, x: program(w, x), in_axes=(None, 0)))
    verdict, detail = compared(mapped(weights, data), bloch(weights, data)[..., 2].mean(axis=-1))
    many, one = seconds([lambda: np.asarray(mapped(weights, data)), lambda: program(weights, data[0])], repeats=5)
    return verdict, f"{detail}; {batch} examples take {many / one:.0f} times as long as one call"


def catalyst_vmap() -> Answer:
    """catalyst.vmap of a QNode inside qjit, forward."""
    import catalyst

    circuit = node(3)
    weights, data = inputs(3, 5)
    program = compiled(lambda w, x: catalyst.vmap(circuit, in_axes=(None, 0))(w, x))
    return compared(program(weights, data), bloch(weights, data)[..., 2].mean(axis=-1))


def scan_forward() -> Answer:
    """A lax.scan of a QNode inside qjit."""
    weights, data = inputs(3, 5)
    return compared(scanned(node(3))(weights, data), bloch(weights, data)[..., 2].mean(axis=-1))


def state_contraction() -> Answer:
    """All Bloch vectors from qml.state(), against 3n expectation values measured in the circuit."""
    n, batch = 4, 64
    weights, data = inputs(n, batch)
    state, measured = scanned(node(n, "state", None)), scanned(node(n, "bloch", None))

    def contracted() -> np.ndarray:
        psi = np.asarray(state(weights, data))
        found = np.empty((batch, n, 3))
        for wire in range(n):
            zero, one = np.moveaxis(psi.reshape(batch, 1 << wire, 2, -1), 2, 0)
            coherence = (zero.conj() * one).sum(axis=(1, 2))
            population = (np.abs(zero) ** 2 - np.abs(one) ** 2).sum(axis=(1, 2))
            found[:, wire] = np.stack([2 * coherence.real, 2 * coherence.imag, population], axis=-1)
        return found

    verdict, detail = compared(contracted(), bloch(weights, data))
    slow, fast = seconds([lambda: np.asarray(measured(weights, data)), contracted])
    numbers = f"{1e6 * fast / batch:.0f} us per example against {1e6 * slow / batch:.0f} for {3 * n} expectation values"
    return verdict, f"{detail}; {numbers}"


def seeded() -> Answer:
    """A seeded program opens no random device: its fixed cost per execution against an unseeded one."""
    n, batch = 4, 64
    weights, data = inputs(n, batch)
    plain, with_seed = scanned(node(n), seed=None), scanned(node(n))
    slow, fast = seconds([functools.partial(plain, weights, data), functools.partial(with_seed, weights, data)])
    numbers = f"{1e6 * slow / batch:.1f} us per execution unseeded, {1e6 * fast / batch:.1f} seeded (n = {n})"
    return ("works" if fast < 0.9 * slow else "dead"), numbers


def gate_cost() -> Answer:
    """Fixed cost of an execution and cost of a gate, from circuits of two lengths that are otherwise the same."""
    import jax
    import pennylane as qml

    n, batch, short, long = 4, 64, 4, 68
    _, data = inputs(n, batch)

    def program(gates: int) -> Any:
        def circuit(row: Any) -> Any:
            for index in range(gates):
                (qml.RY if index % 2 else qml.RX)(row[index % n], wires=index % n)
            return qml.state()

        node = qml.QNode(circuit, qml.device("lightning.qubit", wires=n), diff_method=None)
        return compiled(lambda x: jax.lax.scan(lambda _, row: (None, node(row)), None, x)[1], seed=0)

    few, many = program(short), program(long)
    a, b = seconds([lambda: few(data), lambda: many(data)])
    gate = (b - a) / (batch * (long - short))
    fixed = a / batch - short * gate
    return "works", f"{1e6 * fixed:.1f} us per execution and {1e6 * gate:.2f} us per rotation (n = {n}, state returned)"


def call_cost() -> Answer:
    """What one call of a compiled function from Python costs beyond its work."""
    circuit = node(4)
    weights, data = inputs(4)

    program = compiled(lambda w, x: circuit(w, x), seed=0)
    batch = 256
    many_data = inputs(4, batch)[1]
    many = scanned(circuit)
    one, scan = seconds([lambda: program(weights, data), lambda: many(weights, many_data)])
    return (
        "works",
        f"{1e6 * one:.0f} us per call for one example, {1e6 * scan / batch:.1f} per example in a scan of {batch}",
    )


def scanned(circuit: Any, seed: int | None = 0) -> Any:
    """Return the compiled program (weights (n,), data (batch, n)) -> the circuit's results, (batch, ...)."""
    import jax
    import jax.numpy as jnp

    def one(w: Any, row: Any) -> Any:
        result = circuit(w, row)
        return jnp.stack(result).reshape(-1, 3) if isinstance(result, list | tuple) else result

    return compiled(lambda w, x: jax.lax.scan(lambda _, row: (None, one(w, row)), None, x)[1], seed=seed)
