"""A captured circuit as a value: equal by content, picklable, refused by name, known to probes, heads and options."""

import copy
import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest

import qwafer
from qwafer import diagnose, engines
from qwafer.circuits import CIRCUITS, Gate, GateCircuit, Operation, statevector
from qwafer.circuits.effective import inert
from qwafer.circuits.frequencies import is_periodic, uses
from qwafer.circuits.gates import RX, RZ, H
from qwafer.config import RunConfig
from qwafer.overrides import build, known_options, named, parse_overrides
from qwafer.probes import circuit_subject, probe_circuit
from qwafer.probes.circuit.structure import COMMUTES, NOWHERE, inert_by_structure
from tests import anycircuits

THETA = {"theta": (1, 3, 3)}


def rotated(factor, wire=0):
    def function(weights, x):
        qml.RY(factor * x[0] + weights["w"][0], wire)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(1))

    return qwafer.circuit(function, weights={"w": 1}, n_inputs=1)


def test_circuits_are_equal_by_content():
    one, same = rotated(0.5), rotated(0.5)
    assert one == same
    assert hash(one) == hash(same)
    assert one.digest == same.digest
    engine = engines.get("xla")
    assert engine.program(one, 2) == engine.program(same, 2)
    for other in (rotated(0.5 + 1e-15), rotated(0.5, wire=1), one.with_dtype("float64")):
        assert one != other
        assert one.digest != other.digest


def test_constants_in_arrays_and_other_reverse_passes_make_other_circuits():
    @jax.custom_jvp
    def straight(x):
        return jnp.sign(x)

    straight.defjvp(lambda primals, tangents: (jnp.sign(primals[0]), tangents[0]))

    def made(function):
        def body(weights, x):
            qml.RX(function(x)[0], 0)
            return qml.expval(qml.Y(0))

        return qwafer.circuit(body, n_inputs=2)

    table = np.arange(2.0)
    assert made(lambda x: x * table) == made(lambda x: x * np.arange(2.0))
    assert made(lambda x: x * table) != made(lambda x: x * np.array([0.0, 2.0]))
    assert made(jnp.sign) != made(straight)


@pytest.mark.parametrize("made", ["function", "node", "list"])
def test_pickles_are_captured_again(made):
    if made == "function":
        circuit = qwafer.circuit(anycircuits.iqp, weights=THETA, n_inputs=3)
    elif made == "node":
        circuit = qwafer.circuit(anycircuits.node, weights={"w0": 2, "w1": ()}, n_inputs=2)
    else:
        circuit = qwafer.circuit([qml.Hadamard(0), qml.CNOT([0, 1]), qml.expval(qml.X(0) @ qml.X(1))])
    again = pickle.loads(pickle.dumps(circuit))
    assert again == circuit
    assert copy.deepcopy(circuit) == circuit
    assert pickle.loads(pickle.dumps(circuit.body())) == circuit.body()


def test_a_pickle_says_where_it_cannot_be_made_again(monkeypatch):
    circuit = qwafer.circuit(lambda weights, x: (qml.RX(x[0], 0), qml.expval(qml.Z(0)))[1], n_inputs=1)
    with pytest.raises(TypeError, match="define the function in a module"):
        pickle.dumps(circuit)
    pickled = pickle.dumps(qwafer.circuit(anycircuits.iqp, weights=THETA, n_inputs=3))
    monkeypatch.setattr(anycircuits, "iqp", anycircuits.layers)
    with pytest.raises(qwafer.InputError):
        pickle.loads(pickled)


def test_the_trace_says_what_depends_on_what():
    def function(weights, x):
        qml.RX(x[0], 0)
        qml.RY(weights["w"][0], 0)
        qml.RZ(0.3, 0)
        qml.RX(jax.jit(lambda a, b: (a[0], b[0]))(weights["w"], x)[0], 1)  # a call is looked into
        qml.RX(weights["w"][1] * x[1] + jnp.pi, 1)
        return qml.expval(qml.Z(0) @ qml.Z(1))

    circuit = qwafer.circuit(function, weights={"w": 2}, n_inputs=2)
    assert [op.source for op in circuit.operations()] == ["inputs", "shared", "", "shared", "inputs"]
    assert circuit.trained == (False, True)
    folded = circuit.operations()[2].gate
    np.testing.assert_allclose(folded.fixed, RZ.matrix(np.asarray(0.3)), atol=1e-15)
    assert uses(circuit, "inputs") is None  # a product of an input and a weight
    assert uses(qwafer.circuit(anycircuits.layers, weights=THETA, n_inputs=3, readout="z"), "inputs") == 1
    twice = qwafer.circuit(
        anycircuits.layers, weights=THETA, n_inputs=3, readout="z", arguments={"n_layers": 2, "scale": 1.5}
    )
    assert uses(twice, "inputs") == 3
    assert not is_periodic(twice, "inputs")


def test_a_qnode_is_called_by_the_names_of_its_parameters():
    circuit = qwafer.circuit(anycircuits.node, weights={"w0": 2, "w1": ()}, n_inputs=2, dtype="float64")
    weights = {"w0": np.array([0.3, 9.0]), "w1": np.array(0.7)}
    x = np.array([[0.2, -0.4]])
    expected = anycircuits.node(x[0], weights["w0"], weights["w1"])
    np.testing.assert_allclose(statevector.values(circuit, weights, x)[0], expected, atol=1e-12)


def test_a_function_may_return_operations():
    circuit = qwafer.circuit(lambda w, x: [qml.RX(x[0], 0), qml.RY(w[0], 0), qml.expval(qml.X(0))], 1, 1)
    found = statevector.values(circuit, {"weights": np.array([0.3])}, np.array([[0.2]]))
    np.testing.assert_allclose(found, [[np.sin(0.3) * np.cos(0.2)]], atol=1e-12)


def noisy(weights, x):
    qml.RX(x[0], 0)
    qml.DepolarizingChannel(0.1, wires=0)
    return qml.expval(qml.Z(0))


def middle(weights, x):
    qml.RX(x[0], 0)
    qml.cond(qml.measure(0), qml.X)(1)
    return qml.expval(qml.Z(1))


def returns(measurement, wires=1):
    def function(weights, x):
        for wire in range(wires):
            qml.RX(x[0], wire)
        return measurement()

    return function


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (noisy, "DepolarizingChannel on wires .0. is a channel"),
        (middle, "middle of a circuit"),
        (returns(lambda: qml.sample(wires=0)), "sample.* cannot be captured: return qml.expval"),
        (returns(lambda: qml.counts(wires=0)), "Counts.* cannot be captured"),
        (returns(lambda: qml.var(qml.Z(0))), "var.* cannot be captured"),
        (returns(lambda: qml.density_matrix(0)), "return qml.state.. alone"),
        (returns(lambda: (qml.state(), qml.expval(qml.Z(0)))), "return qml.state.. alone"),
        (returns(lambda: qml.probs(wires=range(13)), 13), "13 wires are 8,192 outputs"),
        (returns(lambda: qml.StatePrep(jnp.array([1.0, 0.0]), wires=0) and qml.expval(qml.Z(0))), "prepare it first"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(function, message):
    with pytest.raises(qwafer.CapabilityError, match=message):
        qwafer.circuit(function, n_inputs=1)


def test_shots_and_transforms_of_a_qnode_are_refused():
    function = returns(lambda: qml.expval(qml.Z(0)))
    node = qml.QNode(function, qml.device("default.qubit", wires=1))
    with pytest.raises(qwafer.CapabilityError, match="the QNode has shots"):
        qwafer.circuit(qml.set_shots(node, 10), n_inputs=1)
    with pytest.raises(qwafer.CapabilityError, match="the QNode has transforms"):
        qwafer.circuit(qml.transforms.merge_rotations(node), n_inputs=1)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (returns(lambda: qml.expval(qml.Z(0))), {"readout": "mean_z"}, "leave out one of the two"),
        (returns(lambda: None), {}, "returns no measurement"),
        (returns(lambda: 3.0), {}, "must return PennyLane measurements"),
        (returns(lambda: qml.expval(qml.Z(1))), {"n_qubits": 1}, "acts on wire 1, and has wires 0"),
        (lambda w, x: qml.RX(x[0], 0) if x[0] > 0 else None, {"readout": "z"}, "cannot be traced .* TracerBool"),
        (lambda w, x: qml.RX(x, 0), {"readout": "z"}, "batch of 1 parameters"),
        (returns(lambda: qml.expval(qml.Z(0))), {"weights": {"inputs": 2}}, "names of their own"),
        (lambda w, a, b: qml.RX(a, 0), {"weights": {"w": 1}}, "one parameter beside the weights, the inputs; got a, b"),
        (returns(lambda: None), {"readout": "z_vev"}, "`readout` must be one of"),
    ],
)
def test_functions_without_meaning_are_refused(function, options, message):
    with pytest.raises(qwafer.InputError, match=message):
        qwafer.circuit(function, n_inputs=1, **options)


def test_gate_circuits_measure_words():
    ops = (
        Operation(H, (0,)),
        Operation(Gate("ZZ", 2, generator="ZZ"), (0, 1), "w", (0,)),
        Operation(RX, (1,), "w", (1,)),
    )
    circuit = GateCircuit(2, ops, 0, (("w", (2,)),), "words", dtype="float64", words=("XI", "YZ", "II"))
    weights = {"w": jnp.array([0.4, 0.0])}
    for name in ("reference", "xla", "catalyst"):
        found = engines.get(name).program(circuit, 2)(weights, jnp.zeros((2, 0)))
        np.testing.assert_allclose(found, [[np.cos(0.4), np.sin(0.4), 1]] * 2, atol=1e-12)
    for options, message in (
        ({"words": ("X",)}, "2 of the letters"),
        ({"words": ()}, "belong together"),
        ({"readout": "z"}, "belong together"),
    ):
        with pytest.raises(qwafer.InputError, match=message):
            dataclasses.replace(circuit, **options)


def test_layered_circuits_have_the_plan_too():
    spec = qwafer.CircuitSpec(3, 2, readout="mean_z_readout", n_outputs=2, reupload=True, dtype="float64")
    generator = np.random.default_rng(0)
    weights = {name: jnp.asarray(generator.normal(size=shape)) for name, shape in spec.weight_shapes().items()}
    inputs = jnp.asarray(generator.normal(size=(4, 3)))
    program = engines.get("xla", plan="gates").program(spec, 4)
    np.testing.assert_allclose(program(weights, inputs), statevector.values(spec, weights, inputs), atol=1e-12)
    with pytest.raises(qwafer.InputError, match="plan heisenberg cannot run this circuit: it evaluates layered"):
        engines.get("xla", plan="heisenberg").program(rotated(1.0), 2)


def test_probes_find_what_does_nothing_in_a_captured_circuit():
    def function(weights, x):
        qml.RY(x[0] + weights["w"][0], 0)
        qml.RY(2 * x[1], 1)
        qml.CNOT([0, 1])
        qml.RZ(weights["w"][1], 1)
        return qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.Z(0))

    circuit = qwafer.circuit(function, weights={"w": 3}, n_inputs=3, dtype="float64")
    structure = inert_by_structure(circuit)
    assert structure == {("w", (1,)): COMMUTES, ("w", (2,)): NOWHERE, ("inputs", (2,)): NOWHERE}
    found = inert(circuit)
    assert found["w"].tolist() == [False, True, True]
    assert found["inputs"].tolist() == [False, False, True]
    reports = {report.name: report for report in probe_circuit(circuit_subject(circuit, "xla"))}
    failed = {name: report.headline for name, report in reports.items() if report.verdict == "fail"}
    assert not failed
    assert reports["value agreement"].verdict == "pass"
    assert reports["gradient agreement"].verdict == "pass"
    assert "inert: w[1:3], inputs[2] by structure" in reports["sensitivity"].headline
    assert "of 2 accessible" in reports["fourier spectrum"].headline
    assert reports["readout identity"].verdict == "skip"


def test_a_configuration_names_a_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import pennylane as qml\n\n"
        "def body(weights, x, n_layers=1):\n"
        "    for layer in range(n_layers):\n"
        "        qml.AngleEmbedding(x, wires=range(2))\n"
        "        qml.BasicEntanglerLayers(weights['theta'][layer : layer + 1], wires=range(2))\n"
    )
    texts = [
        "circuit.name=function",
        f"circuit.function={path}:body",
        "circuit.n_inputs=2",
        "circuit.weights=theta=2x2",
        "circuit.arguments=n_layers=2",
        "circuit.readout=mean_z_readout",
    ]
    entries = parse_overrides(["head.name=quantum", *texts])
    config, left_out = build(named(entries, known_options(entries)))
    assert not left_out
    assert isinstance(config, RunConfig)
    circuit = config.circuit.circuit(3)
    assert circuit.n_outputs == 3
    assert circuit.weight_shapes() == {"theta": (2, 2), "readout": (3, 2, 3)}
    assert len(circuit.operations()) == 2 * (2 + 3)


def test_diagnose_takes_a_function(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "import pennylane as qml\n\n"
        "def mine(weights, x):\n"
        "    qml.RY(x[0] * weights['w'][0], 0)\n"
        "    qml.RZ(weights['w'][1], 0)\n"
        "    return qml.expval(qml.Z(0))\n"
    )
    settings = [
        "--set",
        "circuit.n_inputs=1",
        "--set",
        "circuit.weights=w=2",
        "--set",
        "circuit.readout=measured",
        "--quiet",
    ]
    assert diagnose.main(["--circuit", f"{path}:mine", *settings, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "inert: w[1] by structure (commutes with all that is measured after it)" in " ".join(said.split())
    assert "w[1]" in (tmp_path / "out" / "report.md").read_text()
    assert diagnose.main(["--circuit", f"{path}:mine", "--set", "data.n_maps=20", *settings]) == 2
    assert "`data.n_maps` has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "iqp"}, "must be package.module:name"),
        ({"function": "a:b", "weights": "theta=2,3"}, "theta=2x4x3"),
        ({"function": "a:b", "arguments": "n_layers"}, "n_layers=2"),
        ({"function": "a:b", "weights": "a=2, a=3"}, "names a twice"),
        ({"function": "a:b", "readout": "z"}, "`circuit.readout` must be one of"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(qwafer.InputError, match=message):
        CIRCUITS.get("function")(**options)


def test_a_head_says_where_outputs_and_labels_do_not_match():
    from qwafer.heads import QuantumOptions
    from qwafer.heads._base import head_inputs

    circuit = qwafer.circuit(anycircuits.iqp, weights=THETA, n_inputs=3)
    features = np.random.default_rng(0).normal(size=(8, 5))
    make = functools.partial(head_inputs, features, seed=0, circuit=circuit)
    head = QuantumOptions().make(make(n_labels=2))
    assert head.params["projection.weight"].shape == (5, 3)
    assert head.params["circuit.theta"].shape == (1, 3, 3)
    program = engines.get("xla").program(circuit, 8)
    assert head.logits(jnp.asarray(features, "float32"), program).shape == (8, 2)
    with pytest.raises(qwafer.InputError, match="2 outputs and the data have 3 labels"):
        QuantumOptions().make(make(n_labels=3))
