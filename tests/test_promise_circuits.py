"""The promise on circuits: what is probed is what runs, at its batch, where the run starts, and at every example."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import CircuitSpec, GateCircuit, LayeredOptions, Operation
from qwafer.circuits.effective import inert
from qwafer.circuits.gates import CNOT, RX, RY, RZ
from qwafer.config import RunConfig, TrainingConfig
from qwafer.engines.base import Program
from qwafer.engines.xla import XlaEngine, cost, heisenberg
from qwafer.heads import LinearOptions, MlpOptions
from qwafer.probes import Report, circuit_subject, classify, gather, gradient_agreement, sensitivity, trust_table
from qwafer.probes.circuit.evidence import DISPLACEMENTS
from qwafer.probes.circuit.structure import inert_by_structure
from qwafer.probes.circuit.subject import program_subject
from qwafer.probes.suite import probe_gradients
from qwafer.probes.trust import _circuit_reports
from qwafer.reports.document import to_markdown
from qwafer.reports.trust import document_blocks
from qwafer.training import make
from tests.factories import feature_set, random_circuit

LABELS = 3
OPTIONS = LayeredOptions(n_qubits=4, n_layers=2, readout="z_vec")
CONFIG = RunConfig(
    circuit=OPTIONS,
    engine=engines.get("xla"),
    training=TrainingConfig(epochs=1, batch_size=512, fixed_num_batches=2),
)
CONFIG = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, task="multilabel"))


@pytest.fixture
def no_programs_kept() -> Iterator[None]:
    """Programs are kept by process: a fault planted in an engine must neither miss them nor outlive the test."""
    caches = (engines.cache_clear, jax.clear_caches)
    for clear in caches:
        clear()
    yield
    for clear in caches:
        clear()


def circuit_reports(**arms: RunConfig) -> dict[str, Report]:
    data = feature_set(300, 6, LABELS, signal=2.0)
    found = _circuit_reports(arms or {"arm": CONFIG}, dict.fromkeys(arms or ["arm"], data), 0, thorough=False)
    return {report.name: report for report in found}


def red(reports: dict[str, Report]) -> list[str]:
    return [name for name, report in reports.items() if report.verdict == "fail"]


def test_the_plan_of_training_is_not_that_of_three_examples() -> None:
    spec = OPTIONS.circuit(LABELS)
    assert cost.choose(spec, 3, True).plan == "schroedinger"
    assert cost.choose(spec, CONFIG.training.batch_size, True).plan == "heisenberg"


@pytest.mark.slow
def test_a_fault_of_the_plan_that_trains_alone(monkeypatch: pytest.MonkeyPatch, no_programs_kept: None) -> None:
    rotate_back = heisenberg._rotate_back

    def flipped(*arguments: Any) -> tuple[jax.Array, list[jax.Array]]:
        cotangent, gradients = rotate_back(*arguments)
        return cotangent, [-gradient for gradient in gradients]

    monkeypatch.setattr(heisenberg, "_rotate_back", flipped)
    table = trust_table({"arm": CONFIG}, {"arm": feature_set(300, 6, LABELS, signal=2.0)})
    reports = {report.name: report for report in table.sections[0].reports}
    assert red(reports) == ["gradient agreement"]
    assert "ansatz wrong by a factor of -1" in reports["gradient agreement"].headline
    assert reports["gradient agreement"].headline.endswith("(xla heisenberg, batch 512, float32)")
    assert reports["value agreement"].numbers["programs"][1] == "xla schroedinger, batch 256, float32"
    counts = "Trainable parameters (effective ones): arm 68 (64)."  # z_vec sees no last RZ: four wires
    assert counts in to_markdown(document_blocks(table))


def with_fault(
    monkeypatch: pytest.MonkeyPatch, of: Callable[[CircuitSpec, bool], bool], fault: Callable[[Any], Any]
) -> None:
    """Put `fault` around the programs of engine xla that `of(circuit, gradient)` chooses."""
    sound = XlaEngine.program

    def program(self: XlaEngine, circuit: CircuitSpec, batch: int, *, gradient: bool = True, seed: int = 0) -> Program:
        found = sound(self, circuit, batch, gradient=gradient, seed=seed)
        return Program(fault(found), circuit, batch, found.info) if of(circuit, gradient) else found

    monkeypatch.setattr(XlaEngine, "program", program)


def test_a_fault_of_the_program_that_evaluates_alone(monkeypatch: pytest.MonkeyPatch, no_programs_kept: None) -> None:
    def fault(program: Program) -> Callable[[Any, Any], Any]:
        return lambda weights, inputs: program(weights, inputs).at[-1].multiply(-1)

    with_fault(monkeypatch, lambda circuit, gradient: circuit.readout == "z_vec" and not gradient, fault)
    reports = circuit_reports()
    assert red(reports) == ["value agreement"]
    assert "evaluation program, example 255" in reports["value agreement"].headline


@pytest.mark.parametrize("kind", ["values", "gradient"])
def test_a_fault_of_rows_past_the_third(kind: str, monkeypatch: pytest.MonkeyPatch, no_programs_kept: None) -> None:
    def fault(program: Program) -> Callable[[Any, Any], Any]:
        if kind == "values":
            return lambda weights, inputs: program(weights, inputs).at[40].multiply(-1)

        @jax.custom_vjp
        def faulty(weights: Any, inputs: Any) -> Any:
            return program(weights, inputs)

        def backward(arguments: Any, cotangent: Any) -> Any:
            return jax.vjp(program, *arguments)[1](cotangent.at[3:].multiply(0.9))

        faulty.defvjp(lambda *arguments: (program(*arguments), arguments), backward)
        return faulty

    with_fault(monkeypatch, lambda circuit, gradient: circuit.readout == "z_vec" and gradient, fault)
    assert red(circuit_reports()) == ["readout identity" if kind == "values" else "gradient agreement"]


def with_weight_gradient(program: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Return `program` with the gradient `change(gradient, weight)` of each weight."""

    @jax.custom_vjp
    def faulty(weights: Any, inputs: Any) -> Any:
        return program(weights, inputs)

    def backward(arguments: Any, cotangent: Any) -> Any:
        by_weights, by_inputs = jax.vjp(program, *arguments)[1](cotangent)
        return {name: change(value, arguments[0][name]) for name, value in by_weights.items()}, by_inputs

    faulty.defvjp(lambda *arguments: (program(*arguments), arguments), backward)
    return faulty


def vanishing(gradient: Any, weight: Any) -> Any:
    return jnp.where(jnp.abs(weight).max() < 0.6, 0.0, gradient)


def test_a_gradient_that_vanishes_where_the_run_starts(monkeypatch: pytest.MonkeyPatch, no_programs_kept: None) -> None:
    fault = functools.partial(with_weight_gradient, change=vanishing)
    with_fault(monkeypatch, lambda circuit, gradient: circuit.readout == "z_vec" and gradient, fault)
    reports = circuit_reports()
    assert "gradient agreement" in red(reports)
    assert "where the run starts: gradient 0, " in reports["gradient agreement"].headline


def test_a_circuit_alone_is_asked_at_small_weights_too() -> None:
    subject = circuit_subject(CircuitSpec(2, 2), "xla")
    faulty = dataclasses.replace(subject, program=with_weight_gradient(subject.program, vanishing))
    report = gradient_agreement(gather(faulty, reference=False))
    assert report.verdict == "fail"
    assert "at small weights" in report.headline
    assert gradient_agreement(gather(subject, reference=False)).verdict == "pass"


@pytest.mark.parametrize("engine", ["xla", pytest.param("reference", marks=pytest.mark.slow)])
def test_inputs_of_frequencies_that_are_multiples_of_4_are_live(engine: str) -> None:
    spec = CircuitSpec(
        4, 4, encoding="rx", ansatz="basic_entangler", entanglement="all", readout="bloch", reupload=True
    )
    evidence = gather(circuit_subject(spec, engine), reference=False)
    classes = classify(evidence)
    assert {label for (group, _), label in classes.items() if group == "inputs"} == {"live"}
    assert sensitivity(evidence).verdict != "fail"


def test_no_frequency_hides_from_the_displacements() -> None:
    moves = np.abs(np.sin(np.arange(1, 201)[:, None] * np.asarray(DISPLACEMENTS) / 2))
    assert moves.max(axis=1).min() > 0.44


def test_arms_that_differ_in_where_they_start_share_a_probe() -> None:
    wider = dataclasses.replace(CONFIG, head=dataclasses.replace(CONFIG.head, angle_scale=1.0))
    slower = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, learning_rate=1e-4))
    reports = circuit_reports(base=CONFIG, wider=wider, slower=slower)
    assert reports["gradient agreement"].numbers["points"] == 4  # two random ones, and two starts
    assert reports["gradient agreement"].numbers["programs"] == ["xla heisenberg, batch 512, float32"]


GATES = (
    Operation(RZ, (0,), "w", (0,)),  # a phase of |0>
    Operation(RX, (0,), "inputs", (0,)),
    Operation(CNOT, (0, 1)),
    Operation(RY, (1,), "w", (1,)),
    Operation(RZ, (1,), "w", (2,)),  # commutes with Z
)


def test_inert_parameters_are_told_from_effective_ones() -> None:
    found = inert(GateCircuit(2, GATES, 2, (("w", (3,)),)))
    assert found is not None
    assert found["w"].tolist() == [True, False, True]
    assert found["inputs"].tolist() == [False, True]
    assert inert(CircuitSpec(13, 1)) is None
    for readout in ("mean_z", "mean_z_readout", "z_vec"):
        spec = CircuitSpec(3, 2, readout=readout)
        masks, reasons = inert(spec) or {}, inert_by_structure(spec) or {}
        numbered = {(group, index) for group, mask in masks.items() for index in np.ndindex(*mask.shape) if mask[index]}
        assert numbered == set(reasons)


def test_a_head_counts_its_effective_parameters() -> None:
    features = np.random.default_rng(0).standard_normal((40, 6)).astype("f")
    layers = LayeredOptions(n_qubits=4, n_layers=4, entanglement="all", readout="mean_z_readout")
    head = make.make_head(dataclasses.replace(CONFIG, circuit=layers), features, 8, 0)
    assert head.effective() == head.count()["trainable"] - 8 * 4  # the last RZ of every readout and wire
    # Without a layer, <Z> is 0 whatever the phases of the encoding: bias and alpha are all there is.
    blind = LayeredOptions(n_qubits=3, n_layers=0, encoding="rz", readout="z_vec")
    assert make.make_head(dataclasses.replace(CONFIG, circuit=blind), features, 2, 0).effective() == 2 + 1
    for options in (LinearOptions(), MlpOptions(hidden=3)):
        classical = dataclasses.replace(CONFIG, head=options, circuit=None, engine=None)
        head = make.make_head(classical, features, 2, 0)
        assert head.effective() == head.count()["trainable"]


def alarms(seeds: Iterable[int], batch: int = 64) -> dict[int, list[str]]:
    """Return the probes that fail on sound random circuits, by seed."""
    found = {}
    for seed in seeds:
        circuit, name = random_circuit(seed)
        engine = engines.get(name)
        evaluation = engine.program(circuit, batch, gradient=False)
        subject = program_subject(engine.program(circuit, batch), engine, evaluation=evaluation)
        reports = {report.name: report for report in probe_gradients(gather(subject, seed=seed))}
        if red(reports):
            found[seed] = [f"{name}: {reports[name].headline}" for name in red(reports)]
        if seed % 25 == 24:  # or a thousand programs are kept
            jax.clear_caches()
            engines.cache_clear()
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_no_false_alarm_on_a_random_circuit(seed: int) -> None:
    assert alarms([seed]) == {}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_false_alarm_on_a_thousand_random_circuits() -> None:
    assert alarms(range(2, 1000)) == {}
