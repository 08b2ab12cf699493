"""What can be differentiated, where, and at what cost."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ._common import Answer, bloch, bloch_derivative, compared, compiled, inputs, node, seconds


def grad_of_scan() -> Answer:
    """catalyst.grad of a loss that scans over the examples."""
    import catalyst
    import jax

    n, circuit = 3, node(3)
    weights, data = inputs(n, 5)

    def loss(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda total, row: (total + circuit(w, row), None), 0.0, x)[0]

    found = compiled(lambda w, x: catalyst.grad(loss, argnums=(0, 1))(w, x))(weights, data)[0]
    return compared(found, bloch_derivative(weights, data)[..., 2].sum(axis=0) / n)


def grad_in_scan() -> Answer:
    """catalyst.grad inside the body of the scan, all arguments differentiated."""
    weights, data = inputs(3, 5)
    found = _scanned_gradient(node(3), (0, 1))(weights, data)
    return compared(found, bloch_derivative(weights, data)[..., 2] / 3)


def constant_in_scan() -> Answer:
    """The same with the data left out of argnums."""
    weights, data = inputs(3, 5)
    found = _scanned_gradient(node(3), 0)(weights, data)
    return compared(found, bloch_derivative(weights, data)[..., 2] / 3)


def constant_alone() -> Answer:
    """A single gradient, no scan, with the data left out of argnums."""
    import catalyst

    circuit = node(3)
    weights, data = inputs(3)
    found = compiled(lambda w, x: catalyst.grad(circuit, argnums=0)(w, x))(weights, data)
    return compared(found, bloch_derivative(weights, data)[..., 2] / 3)


def loss_in_grad() -> Answer:
    """A logistic loss of the expectation value inside catalyst.grad, in the scan."""
    import jax.numpy as jnp

    circuit = node(3)

    def loss(w: Any, row: Any) -> Any:
        return jnp.log1p(jnp.exp(-circuit(w, row)))

    weights, data = inputs(3, 5)
    score = bloch(weights, data)[..., 2].mean(axis=-1, keepdims=True)
    right = -bloch_derivative(weights, data)[..., 2] / 3 / (1 + np.exp(score))
    return compared(_scanned_gradient(loss, (0, 1))(weights, data), right)


def value_and_grad() -> Answer:
    """catalyst.value_and_grad of a QNode with one scalar result."""
    import catalyst

    circuit = node(3)
    weights, data = inputs(3)
    program = compiled(lambda w, x: catalyst.value_and_grad(circuit, argnums=(0, 1))(w, x))
    value, (gradient, _) = program(weights, data)
    right = np.append(bloch_derivative(weights, data)[..., 2] / 3, bloch(weights, data)[..., 2].mean())
    return compared(np.append(gradient, value), right)


def value_and_grad_of_table() -> Answer:
    """catalyst.value_and_grad of the same circuit with its weights as a table (1, n, 1)."""
    import catalyst

    circuit = node(3)
    weights, data = inputs(3)

    def one(table: Any, x: Any) -> Any:
        return circuit(table[0, :, 0], x)

    program = compiled(lambda w, x: catalyst.value_and_grad(one, argnums=(0, 1))(w, x))
    value, (gradient, _) = program(weights[None, :, None], data)
    right = np.append(bloch_derivative(weights, data)[..., 2] / 3, bloch(weights, data)[..., 2].mean())
    return compared(np.append(gradient, value), right)


def preprocessing() -> Answer:
    """catalyst.grad through a classical function of the weights, outside the QNode."""
    import catalyst
    import jax.numpy as jnp

    circuit = node(3)
    weights, data = inputs(3)
    program = compiled(lambda w, x: catalyst.grad(lambda w, x: circuit(jnp.cos(w), x), argnums=(0, 1))(w, x)[0])
    right = -np.sin(weights) * bloch_derivative(np.cos(weights), data)[..., 2] / 3
    return compared(program(weights, data), right)


def vjp_by_coefficients() -> Answer:
    """A whole vector-Jacobian product as the gradient of one Hamiltonian with run-time coefficients."""
    n, batch = 3, 5
    weights, data = inputs(n, batch)
    cotangent = _cotangent(batch, n)
    found, _ = _coefficient_program(n)(weights, data, cotangent)
    return compared(found, (bloch_derivative(weights, data) * cotangent.reshape(batch, n, 3)).sum(axis=-1))


def coefficient_gradient() -> Answer:
    """The derivative of that Hamiltonian's expectation value by its coefficients: the expectation values themselves."""
    n, batch = 3, 5
    weights, data = inputs(n, batch)
    _, found = _coefficient_program(n)(weights, data, _cotangent(batch, n))
    return compared(found[0], bloch(weights, data)[0].reshape(-1))


def vjp_cost() -> Answer:
    """catalyst.vjp and catalyst.jacobian of 3n expectation values, against one sweep for the same product."""
    import catalyst
    import jax
    import jax.numpy as jnp

    n, batch = 4, 16
    weights, data = inputs(n, batch)
    cotangent = jnp.asarray(_cotangent(batch, n))
    circuit = node(n, "bloch")

    def stacked(w: Any, row: Any) -> Any:
        return jnp.stack(circuit(w, row))

    def scan(body: Callable[..., Any]) -> Any:
        def program(w: Any, x: Any, c: Any) -> Any:
            return jax.lax.scan(lambda _, row: (None, body(w, *row)), None, (x, c))[1]

        return compiled(program, seed=0)

    def by_jacobian(w: Any, row: Any, c: Any) -> Any:
        return c @ catalyst.jacobian(stacked, argnums=(0, 1))(w, row)[0]

    def by_vjp(w: Any, row: Any, c: Any) -> Any:
        return catalyst.vjp(stacked, (w, row), (c,), argnums=(0, 1))[1][0]

    sweep, jacobian, vjp = _coefficient_program(n), scan(by_jacobian), scan(by_vjp)
    right = (bloch_derivative(weights, data) * np.asarray(cotangent).reshape(batch, n, 3)).sum(axis=-1)
    answers = [compared(program(weights, data, cotangent), right) for program in (jacobian, vjp)]
    calls = [functools.partial(program, weights, data, cotangent) for program in (sweep, jacobian, vjp)]
    one, full, product = seconds(calls, repeats=7)
    ratios = f"Jacobian {full / one:.1f} times that, vjp {product / one:.1f} times"
    verdict = next((verdict for verdict, _ in answers if verdict != "works"), "works")
    return verdict, f"one sweep {1e6 * one / batch:.0f} us, {ratios} (n = {n}, {3 * n} outputs)"


def output_order() -> Answer:
    """catalyst.jacobian of several expectation values in several arguments: entries in their places."""
    import catalyst
    import jax.numpy as jnp

    n = 3
    weights, data = inputs(n)
    circuit = node(n, "z")
    program = compiled(lambda w, x: catalyst.jacobian(lambda w, x: jnp.stack(circuit(w, x)), argnums=(0, 1))(w, x))
    w, x = np.asarray(weights), np.asarray(data)
    right = np.stack([np.diag(-np.cos(x) * np.sin(w)), np.diag(-np.sin(x) * np.cos(w))])
    return compared(np.stack([np.asarray(part) for part in program(weights, data)]), right)


def rot_gate() -> Answer:
    """qml.Rot under adjoint, against finite differences."""
    import pennylane as qml

    def gates(w: Any) -> None:
        for wire in range(3):
            qml.Rot(w[wire], w[3 + wire], w[6 + wire], wires=wire)
            qml.CNOT(wires=(wire, (wire + 1) % 3))

    return _against_differences(gates, 3, (9,))


def templates() -> Answer:
    """StronglyEntanglingLayers and AngleEmbedding under adjoint, against finite differences."""
    import pennylane as qml

    def gates(w: Any) -> None:
        qml.AngleEmbedding(w[0, :, 0], wires=range(3), rotation="Y")
        qml.StronglyEntanglingLayers(w, wires=range(3))

    return _against_differences(gates, 3, (2, 3, 3))


def parameter_shift() -> Answer:
    """diff_method="parameter-shift" inside the scan."""
    weights, data = inputs(3, 5)
    found = _scanned_gradient(node(3, diff_method="parameter-shift"), (0, 1))(weights, data)
    return compared(found, bloch_derivative(weights, data)[..., 2] / 3)


def shots_adjoint() -> Answer:
    """With shots and adjoint, values are noisy and gradients exact: asked twice, with two seeds."""
    import catalyst
    import pennylane as qml

    weights, data = inputs(3)
    circuit = qml.set_shots(node(3), 100)
    values, gradients = [], []
    for seed in (1, 2):
        values.append(float(compiled(lambda w, x: circuit(w, x), seed=seed)(weights, data)))
        program = compiled(lambda w, x: catalyst.grad(circuit, argnums=(0, 1))(w, x)[0], seed=seed)
        gradients.append(np.asarray(program(weights, data)))
    exact = compared(gradients[0], bloch_derivative(weights, data)[..., 2] / 3)[0] == "works"
    if values[0] != values[1] and exact and np.array_equal(gradients[0], gradients[1]):
        return "wrong", f"values {values[0]:.2f} and {values[1]:.2f} with two seeds, gradients equal and exact"
    return "works", f"values {values[0]:.2f} and {values[1]:.2f}, gradients differ too"


def _scanned_gradient(function: Callable[..., Any], argnums: int | tuple[int, ...]) -> Any:
    import catalyst
    import jax

    derivative = catalyst.grad(function, argnums=argnums)

    def body(w: Any, row: Any) -> Any:
        found = derivative(w, row)
        return found if isinstance(argnums, int) else found[0]

    return compiled(lambda w, x: jax.lax.scan(lambda _, row: (None, body(w, row)), None, x)[1], seed=0)


def _coefficient_program(n: int) -> Any:
    """Return (weights, data (batch, n), c (batch, 3n)) -> d/dweights and d/dc of sum_j c_j <P_j>, for each example."""
    import catalyst
    import jax
    import pennylane as qml

    terms = [pauli(wire) for wire in range(n) for pauli in (qml.X, qml.Y, qml.Z)]

    def circuit(w: Any, row: Any, c: Any) -> Any:
        for wire in range(n):
            qml.RY(row[wire], wires=wire)
            qml.RX(w[wire], wires=wire)
        return qml.expval(qml.Hamiltonian(c, terms))

    device = qml.device("lightning.qubit", wires=n)
    derivative = catalyst.grad(qml.QNode(circuit, device, diff_method="adjoint"), argnums=(0, 1, 2))

    def program(w: Any, x: Any, c: Any) -> Any:
        return jax.lax.scan(lambda _, row: (None, derivative(w, *row)[::2]), None, (x, c))[1]

    return compiled(program, seed=0)


def _cotangent(batch: int, n: int) -> np.ndarray:
    return np.cos(np.arange(batch * 3 * n)).reshape(batch, 3 * n)


def _against_differences(gates: Callable[[Any], None], n: int, shape: tuple[int, ...]) -> Answer:
    import catalyst
    import jax.numpy as jnp
    import pennylane as qml

    def circuit(w: Any) -> Any:
        gates(w)
        return qml.expval(qml.Hamiltonian([1 / n] * n, [qml.Z(wire) for wire in range(n)]))

    node = qml.QNode(circuit, qml.device("lightning.qubit", wires=n), diff_method="adjoint")
    weights = 0.2 + 0.31 * np.arange(np.prod(shape)).reshape(shape)
    value = compiled(lambda w: node(w))
    found = np.asarray(compiled(lambda w: catalyst.grad(node)(w))(jnp.asarray(weights)))
    step = 1e-4
    right = np.zeros(shape)
    for index in np.ndindex(*shape):
        shift = np.zeros(shape)
        shift[index] = step
        right[index] = (value(jnp.asarray(weights + shift)) - value(jnp.asarray(weights - shift))) / (2 * step)
    return compared(found, right)  # the differences' own error is step^2/6 < 2e-9
