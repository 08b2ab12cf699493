"""What `batching="choi"` asks of the compiler."""

import contextlib
from typing import Any

import numpy as np

from ._common import Answer, compared, compiled


def state_preparation() -> Answer:
    """The gradient of a circuit that starts from a run-time vector, as Catalyst takes it."""
    return _sweep(contextlib.nullcontext())


def constant_state_preparation() -> Answer:
    """The same with the vector held constant by the engine's own patch of Catalyst."""
    from qwafer.engines.catalyst.choi import _constant_state_preparation

    return _sweep(_constant_state_preparation())


def bell_pairs() -> Answer:
    """A unitary from one execution on Bell pairs: the matrix of RX(t) on one wire."""
    import jax.numpy as jnp
    import pennylane as qml

    def circuit(t: Any) -> Any:
        qml.Hadamard(wires=1)
        qml.CNOT(wires=(1, 0))
        qml.RX(t, wires=0)
        return qml.state()

    node = qml.QNode(circuit, qml.device("lightning.qubit", wires=2), diff_method=None)
    t = 0.7
    state = np.asarray(compiled(lambda t: node(t))(jnp.asarray(t)))
    c, s = np.cos(t / 2), -1j * np.sin(t / 2)
    return compared(state.reshape(2, 2) * np.sqrt(2), np.array([[c, s], [s, c]]))


def _sweep(patch: contextlib.AbstractContextManager[Any]) -> Answer:
    """d/dt of <Z_0> after RY(t_0) on wire 0 of the state (cos x/2, sin x/2) (x) |0>: -sin(t + x)."""
    import catalyst
    import jax.numpy as jnp
    import pennylane as qml

    def circuit(t: Any, vector: Any) -> Any:
        qml.StatePrep(vector, wires=range(2), validate_norm=False)
        qml.RY(t[0], wires=0)
        return qml.expval(qml.Hamiltonian([1.0], [qml.Z(0)]))

    node = qml.QNode(circuit, qml.device("lightning.qubit", wires=2), diff_method="adjoint")
    t, x = 0.4, 0.9
    vector = jnp.asarray([np.cos(x / 2), 0, np.sin(x / 2), 0], dtype=complex)
    with patch:
        program = compiled(lambda t, vector: catalyst.grad(node, argnums=0)(t, vector))
        found = program(jnp.asarray([t]), vector)
    return compared(found, [-np.sin(t + x)])
