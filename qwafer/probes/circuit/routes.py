"""The routes a readout weight can take into the value, and the identity that its gradient must satisfy on each.

Routes: `contraction` (outside the circuit, by JAX), `gates` (an angle of a readout gate) and `hamiltonian` (a
coefficient of the measured operator, inside the program that Catalyst compiles and differentiates).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qwafer._checks import check_choice
from qwafer._errors import InputError
from qwafer.circuits import INPUTS, Circuit, CircuitSpec
from qwafer.circuits.readouts import readout_matrix
from qwafer.engines import pennylane_gates
from qwafer.probes.circuit.evidence import Evidence
from qwafer.probes.circuit.subject import Subject, circuit_subject
from qwafer.probes.report import Report, Verdict, parameter_name

ROUTES = ("contraction", "gates", "hamiltonian")

READOUT_OF_ROUTE = {"contraction": "z_vec", "gates": "mean_z_readout", "hamiltonian": "z_vec"}
"""The readout whose weights take each route."""


def route_subject(
    spec: CircuitSpec, route: str, engine: str = "reference", *, batch: int = 3, **options: Any
) -> Subject:
    """Return the subject whose readout weights take `route`; `engine` and its options serve where there is a choice.

    Raises InputError where the readout of `spec` has no weights that could take the route.
    """
    check_choice("route", route, ROUTES)
    if spec.readout != READOUT_OF_ROUTE[route]:
        raise InputError(f"`route` = {route} belongs to readout {READOUT_OF_ROUTE[route]}, got readout {spec.readout}")
    if route == "hamiltonian":
        return hamiltonian_subject(spec, batch=batch)
    return circuit_subject(spec, engine, batch=batch, **options)


def hamiltonian_subject(spec: CircuitSpec, *, batch: int = 3) -> Subject:
    """Return the subject of readout `z_vec` measured under Catalyst as the operator sum_j w_j Z_j.

    Values and gradients are Catalyst's own: `catalyst.grad` of the QNode with respect to all of its arguments.
    """
    from qwafer.engines.catalyst.runtime import HostProgram

    if spec.readout != "z_vec" or spec.n_outputs != 1:
        raise InputError("`spec` must have readout z_vec and one output to be measured as a Hamiltonian")
    shapes = [(spec.weight_shapes()["ansatz"], np.float64), ((spec.n_qubits,), np.float64)]
    shapes.append(((batch, spec.n_qubits), np.float64))
    values = HostProgram(_scanned(spec, gradient=False), shapes, seed=0)
    gradients = HostProgram(_scanned(spec, gradient=True), shapes, seed=0)
    bloch = circuit_subject(spec, "catalyst", batch=batch).bloch

    def host_values(ansatz: Any, readout: Any, inputs: Any) -> np.ndarray:
        (result,) = values(*(np.asarray(value, np.float64) for value in (ansatz, readout[0], inputs)))
        return np.asarray(result, spec.dtype)[:, None]

    def host_gradients(ansatz: Any, readout: Any, inputs: Any, cotangent: Any) -> tuple[np.ndarray, ...]:
        rows = gradients(*(np.asarray(value, np.float64) for value in (ansatz, readout[0], inputs)))
        weight = np.asarray(cotangent, np.float64)[:, 0]  # (batch,)
        by_ansatz, by_readout, by_inputs = (np.asarray(row) for row in rows)
        return (
            np.tensordot(weight, by_ansatz, 1).astype(spec.dtype),
            (weight @ by_readout)[None, :].astype(spec.dtype),
            (weight[:, None] * by_inputs).astype(spec.dtype),
        )

    @jax.custom_vjp
    def measured(ansatz: Array, readout: Array, inputs: Array) -> Array:
        result = jax.ShapeDtypeStruct((batch, 1), jnp.dtype(spec.dtype))
        return jax.pure_callback(host_values, result, ansatz, readout, inputs, vmap_method="sequential")

    def backward(arguments: tuple[Array, ...], cotangent: Array) -> Any:
        results = tuple(jax.ShapeDtypeStruct(value.shape, jnp.dtype(spec.dtype)) for value in arguments)
        return jax.pure_callback(host_gradients, results, *arguments, cotangent, vmap_method="sequential")

    measured.defvjp(lambda *arguments: (measured(*arguments), arguments), backward)

    def program(weights: Mapping[str, Array], inputs: Array) -> Array:
        return measured(weights["ansatz"], weights["readout"], inputs)

    return Subject(
        name="z_vec as Hamiltonian coefficients on catalyst",
        program=program,
        shapes=spec.weight_shapes(),
        n_inputs=spec.n_qubits,
        batch=batch,
        dtype=spec.dtype,
        circuit=spec,
        bloch=bloch,
    )


def _scanned(spec: CircuitSpec, *, gradient: bool) -> Any:
    """Return the function (ansatz, coefficients, inputs (batch, n)) for Catalyst: a scan over the examples."""
    import catalyst
    import pennylane as qml

    @qml.qnode(qml.device("lightning.qubit", wires=spec.n_qubits), diff_method="adjoint")
    def circuit(ansatz: Any, coefficients: Any, inputs: Any) -> Any:
        sources = {"ansatz": ansatz, INPUTS: inputs}
        for op in spec.operations():
            pennylane_gates.apply_gate(op.gate, op.wires, sources[op.source][op.index] if op.source else None)
        return qml.expval(qml.Hamiltonian(coefficients, [qml.Z(i) for i in range(spec.n_qubits)]))

    example = catalyst.grad(circuit, argnums=(0, 1, 2)) if gradient else circuit

    def scanned(ansatz: Any, coefficients: Any, inputs: Any) -> Any:
        return jax.lax.scan(lambda _, row: (None, example(ansatz, coefficients, row)), None, inputs)[1]

    return scanned


def gradient_identity(evidence: Evidence) -> Report:
    """Report whether d s_k / d w = sum_i (dM_ki / dw) . (<X_i>, <Y_i>, <Z_i>) for every readout weight w.

    With `z_vec` this is d/dw_i <sum_j w_j Z_j> = <Z_i>: the gradient of a coefficient is an expectation value. The
    right-hand side is contracted from Bloch vectors (`Evidence.bloch`); the left is the gradient of the program. Both
    are shown where the right-hand side is largest, among the examples where they differ if they do: two routes, of
    which one is dead, show one place.
    """
    name = "gradient identity"
    question = "Is the gradient of a readout weight the expectation value that it multiplies?"
    subject = evidence.subject
    circuit = subject.circuit
    if circuit is None or subject.bloch is None or "readout" not in subject.shapes:
        return Report(name, question, "skip", "no trainable readout weights")
    tolerance = 2 * evidence.value_tolerance()
    names = [parameter_name("readout", tuple(index)) for index in np.ndindex(*subject.shapes["readout"])]
    worst, bad = 0.0, np.zeros(len(names), bool)
    pairs = []
    places: list[tuple[bool, float, int, int, int]] = []  # whether wrong, size, point, row, output
    for index, point in enumerate(evidence.points):
        vectors = evidence.bloch(point)
        assert vectors is not None
        expected = _contraction_gradient(circuit, point.weights, vectors[list(evidence.rows)])  # (rows, outputs, P)
        found = point.jacobian["readout"]
        difference = np.abs(found - expected)
        exceeds = difference > tolerance
        bad |= exceeds.any(axis=(0, 1))
        places += [
            (bool(exceeds[spot].any()), float(np.abs(expected[spot]).max()), index, *spot)
            for spot in np.ndindex(expected.shape[:2])
        ]
        pairs.append((found, expected))
        worst = max(worst, float(difference.max()))
    verdict: Verdict = "fail" if bad.any() else "pass"
    _, _, shown_point, row, output = max(places)
    found, expected = (side[row] for side in pairs[shown_point])
    dead = bool(bad.any()) and all(float(np.abs(pair[0]).max()) <= tolerance for pair in pairs)
    symbol = "<Z_i>" if circuit.readout_facts.is_weighted else "dM/dw . b"
    if verdict == "pass":
        headline = f"gradient = {symbol} to {worst:.1e} (allowed {tolerance:.1e}) for {len(names)} weights"
    else:
        shown = slice(output * len(names) // circuit.n_outputs, None)
        kind = "dead" if dead else "wrong"
        headline = (
            f"readout weights {kind}: gradient {_row(found[output][shown])}, {symbol} {_row(expected[output][shown])}"
        )
    return Report(
        name=name,
        question=question,
        verdict=verdict,
        headline=headline,
        numbers={
            "gradient": found,
            "expectation_values": expected,
            "place": {"point": shown_point, "example": evidence.rows[row]},
            "largest_difference": worst,
            "tolerance": tolerance,
            "weights": names,
        },
        tolerance=f"|gradient - {symbol}| <= {tolerance:.2g} ({subject.dtype})",
        meaning="A readout weight with a dead or wrong gradient changes predictions but does not learn.",
        remedy=(
            "Contract the weights outside the circuit (readout z_vec on qwafer's engines) or put them into gates "
            "(mean_z_readout); never train Hamiltonian coefficients under Catalyst."
        ),
        blames=tuple(name for name, is_bad in zip(names, bad, strict=True) if is_bad),
    )


def _contraction_gradient(circuit: Circuit, weights: Mapping[str, np.ndarray], bloch: np.ndarray) -> np.ndarray:
    """Return d s / d readout (N, outputs, P) for Bloch vectors (N, n_qubits, 3), by exact shifts of M."""
    exact = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    step = 1.0 if circuit.readout_facts.is_weighted else np.pi / 2
    columns = []
    for index in np.ndindex(*exact["readout"].shape):
        moved = []
        for sign in (1, -1):
            readout = np.array(exact["readout"])
            readout[index] += sign * step
            moved.append(readout_matrix(circuit, {**exact, "readout": readout}, np, "float64"))
        columns.append(np.tensordot(bloch, (moved[0] - moved[1]) / 2, axes=([1, 2], [1, 2])))
    return np.stack(columns, axis=-1)


def _row(values: np.ndarray, shown: int = 4) -> str:
    text = ", ".join(f"{value:.3g}" for value in values[:shown])
    return f"({text}{', ...' if len(values) > shown else ''})"
