"""What the questions share: product circuits with a closed form, and clocks."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Answer = tuple[str, str]
"""(verdict, detail): works, fails, wrong or dead, and the message or number behind it."""

TOLERANCE = 1e-7
"""Largest absolute error of a float64 result that counts as right."""


def node(n: int, measure: str = "mean_z", diff_method: str | None = "adjoint") -> Any:
    """Return the QNode (weights (n,), data (n,)): RY(data_i) RX(weights_i) on wire i, then `measure`."""
    import pennylane as qml

    def circuit(weights: Any, data: Any) -> Any:
        for wire in range(n):
            qml.RY(data[wire], wires=wire)
            qml.RX(weights[wire], wires=wire)
        if measure == "state":
            return qml.state()
        if measure == "bloch":
            return [qml.expval(pauli(wire)) for wire in range(n) for pauli in (qml.X, qml.Y, qml.Z)]
        if measure == "z":
            return [qml.expval(qml.Z(wire)) for wire in range(n)]
        return qml.expval(qml.Hamiltonian([1 / n] * n, [qml.Z(wire) for wire in range(n)]))

    return qml.QNode(circuit, qml.device("lightning.qubit", wires=n), diff_method=diff_method)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Return `catalyst.qjit(function, **options)`; type hints, which it would compile for at once, are taken off."""
    import catalyst

    function.__annotations__ = {}
    return catalyst.qjit(function, **options)


def inputs(n: int, batch: int | None = None) -> tuple[Any, Any]:
    """Return weights (n,) and data (n,) or (batch, n), arrays of JAX, all values distinct."""
    import jax.numpy as jnp

    shape = (n,) if batch is None else (batch, n)
    weights = 0.3 + 0.2 * np.arange(n)
    data = 0.5 + 1.7 * np.arange(int(np.prod(shape))).reshape(shape) / np.prod(shape)
    return jnp.asarray(weights), jnp.asarray(data)


def bloch(weights: Any, data: Any) -> np.ndarray:
    """Return (<X_i>, <Y_i>, <Z_i>) of `node`, (..., n, 3): (sin x, -cos x sin w, cos x cos w)."""
    w, x = np.broadcast_arrays(np.asarray(weights), np.asarray(data))
    return np.stack([np.sin(x), -np.cos(x) * np.sin(w), np.cos(x) * np.cos(w)], axis=-1)


def bloch_derivative(weights: Any, data: Any) -> np.ndarray:
    """Return d/dw of `bloch`, (..., n, 3)."""
    w, x = np.broadcast_arrays(np.asarray(weights), np.asarray(data))
    return np.stack([np.zeros_like(x), -np.cos(x) * np.cos(w), -np.cos(x) * np.sin(w)], axis=-1)


def compared(found: Any, right: Any, works: str = "") -> Answer:
    """Return `works` with the largest error, `dead` where all of `found` is 0 and should not be, else `wrong`."""
    found, right = np.asarray(found), np.asarray(right)
    if found.shape != right.shape:
        return "wrong", f"shape {found.shape} instead of {right.shape}"
    error = float(np.abs(found - right).max())
    if error < TOLERANCE:
        return "works", "; ".join(filter(None, (works, f"largest error {error:.0e}")))
    if not found.any():
        return "dead", f"exactly 0 where {shown(right)} is right"
    return "wrong", f"{shown(found)} instead of {shown(right)}"


def shown(values: Any) -> str:
    """Return the first values, three digits each."""
    flat = np.asarray(values).reshape(-1)
    return "(" + ", ".join(f"{value:.3f}" for value in flat[:4]) + (", ...)" if len(flat) > 4 else ")")


def seconds(calls: Sequence[Callable[[], Any]], repeats: int = 15) -> list[float]:
    """Return the shortest of `repeats` durations of each call, taken in turn so that a busy machine slows all alike."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(repeats):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best
