"""Functions that hold arrays of JAX: they are captured alike whatever JAX is set to, in either precision."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import engines
from qwafer.circuits import CIRCUITS, statevector
from qwafer.circuits.function_options import _captured

C = np.array([0.3, 0.5])
M = np.array([[0.6, 0.8], [0.8, -0.6]])


def entry(c, m, x):
    qml.RX(c[0] * x[0], 0)


def product(c, m, x):
    qml.RX(jnp.dot(c, x), 0)
    qml.RY(c[1], 1)


def adjoint(c, m, x):
    qml.RX(x[0], 0)
    qml.adjoint(qml.QubitUnitary(m @ m @ m, 0))


def given(c, m, x):
    qml.RX(x[1], 1)
    qml.QubitUnitary(m * jnp.exp(1j * c[0] * x[0]), 0)


@pytest.mark.parametrize("gates", [entry, product, adjoint, given], ids=lambda gates: gates.__name__)
@pytest.mark.parametrize("made", ["float32", "float64"])
def test_arrays_of_jax_in_a_function(gates, made):
    with jax.experimental.enable_x64(made == "float64"):
        c, m = jnp.asarray(C), jnp.asarray(M)

    def function(weights, x):
        gates(c, m, x)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(1)), qml.expval(qml.dot(c, [qml.X(0), qml.Y(0) @ qml.Z(1)]))

    def plain(weights, x):
        gates(C, M, x)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(1)), qml.expval(qml.dot(C, [qml.X(0), qml.Y(0) @ qml.Z(1)]))

    x = np.array([[0.4, -0.7], [1.1, 0.2]])
    expected = statevector.values(qwafer.circuit(plain, n_inputs=2, dtype="float64"), {}, x)
    for dtype in ("float64", "float32"):
        circuit = qwafer.circuit(function, n_inputs=2, dtype=dtype)
        np.testing.assert_allclose(statevector.values(circuit, {}, x), expected, atol=1e-6)
    program = engines.get("xla").program(circuit, 2)
    for x64 in (True, False):
        with jax.experimental.enable_x64(x64):
            found = program({}, jnp.asarray(x, "float32"))
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_arrays_beside_a_derivative_of_ones_own():
    def made(c):
        def function(weights, x):
            qml.RX(jax.nn.relu(c[1] * x[0]) + jax.lax.scan(lambda carry, own: (carry * own, None), x[1], c)[0], 0)
            return qml.expval(qml.Z(0))

        return qwafer.circuit(function, n_inputs=2)

    x = np.array([[0.4, -0.7]], "float32")
    found = engines.get("xla").program(made(C), 1)({}, x)
    np.testing.assert_allclose(found, [[np.cos(0.2 - 0.7 * 0.15)]], atol=1e-6)
    with jax.experimental.enable_x64(True):
        c = jnp.asarray(C)
    with pytest.raises(qwafer.InputError, match=r"holds arrays of JAX in float64.* NumPy|cannot be traced"):
        made(c)


FILE = """import jax.numpy as jnp
import pennylane as qml

C = jnp.array([0.3, 0.5])


def body(weights, x):
    qml.RX(C[0] * x[0], 0)
    qml.RY(C[1], 0)
    return qml.expval(qml.Z(0))
"""


def test_digests_do_not_depend_on_what_jax_is_set_to(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(FILE)
    options = CIRCUITS.get("function")(f"{tmp_path}/own.py:body", n_inputs=1, readout="measured")
    found = set()
    for x64 in (False, True):
        for name in [name for name in sys.modules if name.startswith("qwafer_file_")]:
            monkeypatch.delitem(sys.modules, name)  # as a process that starts anew
        _captured.cache_clear()
        with jax.experimental.enable_x64(x64):
            found.add(options.circuit(1).digest)
    assert len(found) == 1
