"""The probes' own statevector, the structural argument, sensitivity, gradients and readout, on sound circuits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.circuits import Circuit, CircuitSpec, GateCircuit, Operation
from qwafer.circuits.gates import CNOT, RX, RY
from qwafer.circuits.statevector import bloch_vectors, states, values
from qwafer.engines import get
from qwafer.probes import (
    circuit_subject,
    classify,
    function_subject,
    gather,
    gradient_agreement,
    gradient_identity,
    qnode_subject,
    route_subject,
    sensitivity,
)
from qwafer.probes.circuit.linear import numerical_rank, spec_jacobian, spec_values
from qwafer.probes.circuit.reference import default_qubit
from qwafer.probes.circuit.structure import COMMUTES, LIGHT_CONE, inert_by_structure
from qwafer.probes.report import Report, merge, summarize_names, worst
from qwafer.probes.suite import probe_circuit, probe_gradients


def weights_of(spec: CircuitSpec, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.uniform(-np.pi, np.pi, shape) for name, shape in spec.weight_shapes().items()}


SPECS = [
    CircuitSpec(3, 2, encoding="rz", reupload=True, readout="bloch", dtype="float64"),
    CircuitSpec(4, 1, encoding="rx", ansatz="basic_entangler", readout="z_vec", n_outputs=2, dtype="float64"),
    CircuitSpec(2, 0, readout="bloch", dtype="float64"),
    CircuitSpec(3, 1, entanglement="all", readout="mean_z_readout", n_outputs=2, dtype="float64"),
    CircuitSpec(1, 2, ansatz="separable", readout="mean_z", dtype="float64"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_two_oracles_agree_and_so_do_contractions_and_the_xla_engine(spec: CircuitSpec) -> None:
    points = [weights_of(spec, seed) for seed in range(3)]
    weights = {name: np.stack([point[name] for point in points]) for name in points[0]}
    inputs = np.random.default_rng(1).normal(size=(3, 2, spec.n_qubits))
    expected = [values(spec, point, x) for point, x in zip(points, inputs, strict=True)]
    np.testing.assert_allclose(default_qubit(spec, weights, inputs), expected, atol=1e-13)
    np.testing.assert_allclose(spec_values(spec, points[0], inputs[0]), expected[0], atol=1e-13)
    program = get("xla").program(spec, 2)
    np.testing.assert_allclose(
        program({k: jnp.asarray(v) for k, v in points[0].items()}, jnp.asarray(inputs[0])), expected[0], atol=1e-12
    )


def test_statevector_is_the_same_in_jax_and_broadcasts_over_weights() -> None:
    spec = CircuitSpec(3, 2, dtype="float64")
    many = {"ansatz": np.random.default_rng(0).normal(size=(7, 2, 3, 3))}
    angles = np.random.default_rng(1).normal(size=(7, 3))
    expected = np.stack([states(spec, {"ansatz": w}, x) for w, x in zip(many["ansatz"], angles, strict=True)])
    np.testing.assert_allclose(states(spec, many, angles), expected, atol=1e-14)
    in_jax = states(spec, {"ansatz": jnp.asarray(many["ansatz"])}, jnp.asarray(angles), xp=jnp)
    np.testing.assert_allclose(in_jax, expected, atol=1e-14)


def test_statevector_is_exact_for_weights_of_single_precision() -> None:
    spec = CircuitSpec(3, 2)
    weights, angles = np.random.default_rng(0).normal(size=(2, 3, 3)).astype("f"), np.ones(3, "f")
    found = states(spec, {"ansatz": weights}, angles)
    assert found.dtype == "complex128"
    np.testing.assert_allclose(found, states(spec, {"ansatz": weights.astype(float)}, angles.astype(float)), atol=1e-15)


@pytest.mark.parametrize("spec", SPECS[1:4:2], ids=str)
def test_jacobian_by_shifts_equals_automatic_differentiation(spec: CircuitSpec) -> None:
    weights, angles = weights_of(spec), np.random.default_rng(1).normal(size=(2, spec.n_qubits))
    program = get("xla").program(spec, 2)
    blocks = jax.jacrev(lambda w: program(w, jnp.asarray(angles)))({k: jnp.asarray(v) for k, v in weights.items()})
    expected = np.concatenate([np.asarray(blocks[k]).reshape(2, spec.n_outputs, -1) for k in weights], axis=-1)
    np.testing.assert_allclose(spec_jacobian(spec, weights, angles), expected, atol=1e-12)


STRUCTURES = [
    CircuitSpec(3, 2, dtype="float64"),
    CircuitSpec(3, 2, readout="mean_z_readout", n_outputs=2, dtype="float64"),
    CircuitSpec(4, 2, entanglement="linear", readout="z", dtype="float64"),
    CircuitSpec(3, 2, ansatz="basic_entangler", readout="bloch", dtype="float64"),
    CircuitSpec(3, 2, ansatz="basic_entangler", encoding="rx", readout="z_vec", dtype="float64"),
    CircuitSpec(2, 3, ansatz="separable", encoding="rz", dtype="float64"),
    CircuitSpec(3, 2, encoding="rx", reupload=True, readout="bloch", dtype="float64"),
    CircuitSpec(3, 0, encoding="rz", readout="z", dtype="float64"),
]


@pytest.mark.parametrize("spec", STRUCTURES, ids=str)
def test_what_the_structure_calls_inert_has_no_derivative_anywhere(spec: CircuitSpec) -> None:
    reasons = inert_by_structure(spec)
    assert reasons is not None
    columns = [(g, tuple(i)) for g, shape in spec.weight_shapes().items() for i in np.ndindex(*shape)]
    largest = np.zeros(len(columns))
    for seed in range(3):
        angles = np.random.default_rng(seed).uniform(-np.pi, np.pi, (4, spec.n_qubits))
        largest = np.maximum(largest, np.abs(spec_jacobian(spec, weights_of(spec, seed), angles)).max(axis=(0, 1)))
    for column, parameter in enumerate(columns):
        if spec.readout == "z_vec" and parameter[0] == "readout":
            continue
        assert (largest[column] < 1e-12) == (parameter in reasons), parameter


def test_structure_names_both_reasons() -> None:
    z_reasons = inert_by_structure(CircuitSpec(3, 1))
    assert z_reasons == {("ansatz", (0, wire, 2)): COMMUTES for wire in range(3)}
    one_wire = inert_by_structure(dataclasses.replace(CircuitSpec(3, 0, encoding="rz", readout="z")))
    assert one_wire == {("inputs", (wire,)): COMMUTES for wire in range(3)}
    readout = inert_by_structure(CircuitSpec(2, 1, readout="mean_z_readout"))
    assert readout == {("readout", (0, wire, 2)): COMMUTES for wire in range(2)}
    assert inert_by_structure(CircuitSpec(10, 1)) is None
    assert LIGHT_CONE != COMMUTES


@pytest.mark.parametrize("spec", STRUCTURES[1:3], ids=str)
def test_every_parameter_of_a_sound_circuit_is_live_or_inert_by_structure(spec: CircuitSpec) -> None:
    evidence = gather(circuit_subject(spec, "xla"), reference=False)
    reasons = inert_by_structure(spec) or {}
    inert = {parameter for parameter, label in classify(evidence).items() if label == "inert"}
    assert inert == set(reasons)
    assert set(classify(evidence).values()) <= {"live", "inert"}
    report = sensitivity(evidence)
    assert report.verdict == ("warn" if reasons else "pass")
    if reasons:
        assert "by structure" in report.headline
    if spec.readout == "mean_z_readout":
        assert report.headline.startswith("inert: readout[:, :, 2] by structure")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_a_sound_engine_agree_with_every_truth(dtype: str) -> None:
    spec = CircuitSpec(2, 2, reupload=True, readout="z_vec", n_outputs=2, dtype=dtype)
    reports = {r.name: r for r in probe_gradients(gather(circuit_subject(spec, "xla"), points=1))}
    assert {r.verdict for r in reports.values()} <= {"pass", "warn"}
    agreement = reports["gradient agreement"]
    assert agreement.numbers["reference"] == "compared"
    groups = agreement.numbers["groups"]
    assert set(groups) == {"ansatz", "readout", "inputs"}
    assert groups["readout"]["method"].startswith("difference quotient, exact")
    assert groups["inputs"]["method"] == "central difference"  # each input is encoded twice: no two-point shift
    bound = 1e-13 if dtype == "float64" else 1e-5
    assert groups["ansatz"]["own values"] < bound
    assert groups["ansatz"]["reference"] < bound
    assert reports["readout identity"].verdict == "pass"
    assert reports["gradient identity"].verdict == "pass"


@pytest.mark.parametrize("route", ["contraction", "gates"])
def test_identity_holds_on_the_live_routes(route: str) -> None:
    spec = CircuitSpec(3, 1, readout={"contraction": "z_vec", "gates": "mean_z_readout"}[route], dtype="float64")
    report = gradient_identity(gather(route_subject(spec, route, "xla"), points=1, reference=False))
    assert report.verdict == "pass"
    np.testing.assert_allclose(report.numbers["gradient"], report.numbers["expectation_values"], atol=1e-13)


def test_identity_of_contraction_is_the_expectation_value() -> None:
    spec = CircuitSpec(3, 1, readout="z_vec", dtype="float64")
    subject = route_subject(spec, "contraction", "xla")
    evidence = gather(subject, points=1, reference=False)
    point = evidence.points[0]
    z = bloch_vectors(states(spec, {"ansatz": point.weights["ansatz"]}, point.inputs), 3)[..., 2]
    assert gradient_identity(evidence).verdict == "pass"
    np.testing.assert_allclose(point.jacobian["readout"][:, 0], z, atol=1e-12)


def test_hamiltonian_route_is_dead_and_the_identity_alone_says_so() -> None:
    evidence = gather(route_subject(CircuitSpec(3, 1, readout="z_vec"), "hamiltonian"), points=1)
    reports = probe_gradients(evidence)
    red = [r for r in reports if r.verdict == "fail"]
    assert [r.name for r in red] == ["gradient identity"]
    gradient = np.asarray(red[0].numbers["gradient"])
    assert not gradient.any()
    assert np.abs(red[0].numbers["expectation_values"]).max() > 0.1
    assert "dead" in red[0].headline


@pytest.mark.parametrize(("route", "readout"), [("hamiltonian", "mean_z"), ("gates", "z_vec"), ("contraction", "z")])
def test_route_and_readout_must_fit(route: str, readout: str) -> None:
    with pytest.raises(InputError, match=r"`route` = .* belongs to readout"):
        route_subject(CircuitSpec(2, 1, readout=readout), route)


def test_plain_function_is_probed() -> None:
    def function(weights: jax.Array, angles: jax.Array) -> jax.Array:
        return jnp.cos(weights[0] + angles[0]) * jnp.sin(angles[1]) + 0.0 * weights[1]

    subject = function_subject(function, np.zeros(2), 2)
    reports = {r.name: r for r in probe_circuit(subject)}
    assert reports["gradient agreement"].verdict == "pass"
    assert reports["sensitivity"].verdict == "warn"
    assert "weights[1]" in reports["sensitivity"].headline
    assert reports["fourier spectrum"].numbers["reached"] == [1, 1]
    assert reports["expressibility"].verdict == "skip"
    assert all(r.ok for r in reports.values())


def test_function_with_a_wrong_derivative_fails() -> None:
    @jax.custom_jvp
    def wrong(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    wrong.defjvp(lambda primals, tangents: (wrong(*primals), 1.5 * jnp.cos(primals[0]) * tangents[0]))
    subject = function_subject(lambda weights, angles: wrong(weights["w"])[0] * angles[0], {"w": np.zeros(1)}, 1)
    report = gradient_agreement(gather(subject))
    assert report.verdict == "fail"
    assert "w wrong by a factor of 1.5" in report.headline


def test_function_that_returns_amplitudes_is_a_state() -> None:
    def ghz_like(weights: jax.Array, angles: jax.Array) -> jax.Array:
        amplitude = jnp.stack([jnp.cos(weights[0]), 0.0 * angles[0], 0.0 * angles[0], jnp.sin(weights[0])])
        return amplitude.astype("complex128")

    reports = {r.name: r for r in probe_circuit(function_subject(ghz_like, np.zeros(1), 1))}
    # Q = sin^2 2w, whose mean over a turn is 1/2.
    assert reports["entangling capability"].numbers["q_mean"] == pytest.approx(0.5, abs=0.03)


def test_qnode_is_probed_with_its_state_recovered() -> None:
    import pennylane as qml

    @qml.qnode(qml.device("default.qubit", wires=2), interface="jax")
    def circuit(weights: jax.Array, angles: jax.Array) -> list:
        qml.RY(angles[0], wires=0)
        qml.RY(weights[0], wires=0)
        qml.CNOT(wires=[0, 1])
        qml.RZ(weights[1], wires=1)
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    reports = {r.name: r for r in probe_circuit(qnode_subject(circuit, np.zeros(2), 1))}
    assert all(r.ok for r in reports.values())
    assert reports["gradient agreement"].verdict == "pass"
    assert "weights[1]" in reports["sensitivity"].headline  # the last RZ before Z
    # RY then CNOT: Q = sin^2 of a uniform angle, mean 1/2.
    assert reports["entangling capability"].numbers["q_mean"] == pytest.approx(0.5, abs=0.03)


def test_user_input_that_cannot_be_probed_is_refused() -> None:
    with pytest.raises(InputError, match="JAX can trace"):
        function_subject(lambda weights, angles: float(angles[0]), np.zeros(1), 1)
    with pytest.raises(TypeError, match="QNode"):
        qnode_subject(lambda weights, angles: angles, np.zeros(1), 1)
    with pytest.raises(InputError, match=r"2\^n complex amplitudes"):
        function_subject(lambda weights, angles: jnp.zeros(3, "complex128"), np.zeros(1), 1)


def test_numerical_rank() -> None:
    rank, condition, singular = numerical_rank(np.diag([4.0, 2.0, 1e-9]))
    assert (rank, condition) == (2, 2.0)
    assert len(singular) == 3
    assert numerical_rank(np.zeros((3, 2)))[0] == 0


def test_reports_merge_to_the_worst() -> None:
    good = Report("p", "?", "pass", "fine", {"x": np.float32(1)})
    bad = Report("p", "?", "fail", "broken", blames=("a[0]",))
    merged = merge({"one": good, "two": bad, "three": good})
    assert merged.verdict == "fail"
    assert merged.headline == "two: broken"
    assert merged.blames == ("a[0]",)
    assert merged.numbers["one"] == {"verdict": "pass", "x": 1.0}
    assert merge({"one": good, "two": good}).headline == "fine"
    assert worst([]) == "skip"
    with pytest.raises(ValueError, match="one probe"):
        merge({"a": good, "b": dataclasses.replace(good, name="q")})
    with pytest.raises(InputError, match="verdict"):
        Report("p", "?", "good", "fine")  # type: ignore[arg-type]


def test_parameters_are_named_as_slices_where_they_form_one() -> None:
    shapes = {"a": (2, 3), "b": ()}
    assert summarize_names([("a", (0, j)) for j in range(3)], shapes) == "a[0, :]"
    assert summarize_names([("a", (0, 0)), ("a", (1, 2))], shapes) == "a[0, 0], a[1, 2]"
    assert summarize_names([("b", ())], shapes) == "b"


ROTATED = (Operation(RX, (0,), "w", (0,)), Operation(CNOT, (0, 1)), Operation(RY, (1,), "w", (1,)))


@pytest.mark.parametrize(
    ("circuit", "engine", "live"),
    [
        (CircuitSpec(2, 0, dtype="float64"), "xla", "all 2 parameters and inputs are live"),
        (GateCircuit(2, ROTATED, 0, (("w", (2,)),), dtype="float64"), "reference", "all 2 parameters and inputs"),
        (GateCircuit(2, ROTATED, 1, (("w", (2,)),), dtype="float64"), "reference", "inert: inputs[0]"),
    ],
    ids=["no layer", "no inputs", "unused input"],
)
def test_circuits_that_lack_weights_or_inputs_are_probed(circuit: Circuit, engine: str, live: str) -> None:
    reports = {report.name: report for report in probe_circuit(circuit_subject(circuit, engine, batch=2))}
    assert all(report.ok for report in reports.values())
    assert reports["value agreement"].verdict == reports["gradient agreement"].verdict == "pass"
    assert live in reports["sensitivity"].headline


@pytest.mark.slow
def test_finite_shots_widen_the_tolerance_and_nothing_is_red() -> None:
    subject = circuit_subject(CircuitSpec(2, 1, readout="mean_z_readout"), "catalyst", shots=2000)
    assert subject.shots == 2000
    exact = circuit_subject(CircuitSpec(2, 1, readout="mean_z_readout"), "catalyst")
    evidence = gather(subject)
    assert evidence.value_tolerance() > 100 * gather(exact, points=1).value_tolerance()
    assert all(report.ok for report in probe_gradients(evidence))
