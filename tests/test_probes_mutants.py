"""Deliberate breakages: the matching probe, and it alone, goes red; on sound circuits nothing does."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import CircuitSpec, LayeredOptions
from qwafer.config import RunConfig
from qwafer.engines import get
from qwafer.features import FeatureSet
from qwafer.heads import QuantumOptions
from qwafer.objective import Focal, SamplingConfig
from qwafer.probes import (
    Report,
    Subject,
    circuit_subject,
    gather,
    label_permutation,
    probe_circuit,
    probe_data,
    probe_run,
    route_subject,
)
from qwafer.probes.suite import probe_gradients, probed_data
from qwafer.probes.trust import _pairing_reports
from qwafer.training import RunResult, prepare, train
from tests.factories import feature_set, training_options


def red(reports: list[Report]) -> list[str]:
    return [report.name for report in reports if report.verdict == "fail"]


def with_gradient(subject: Subject, change: Callable[..., Any]) -> Subject:
    """Return `subject` with the same values and a gradient that passes through `change(weights, angles, cotangent)`."""
    program = subject.program

    @jax.custom_vjp
    def mutated(weights: Any, angles: Any) -> Any:
        return program(weights, angles)

    def backward(arguments: Any, cotangent: Any) -> Any:
        _, _, cotangent = change(*arguments, cotangent, phase="before")
        gradients = jax.vjp(program, arguments[0], arguments[1])[1](cotangent)
        return change(*gradients, cotangent, phase="after")[:2]

    mutated.defvjp(lambda *arguments: (program(*arguments), arguments), backward)
    return dataclasses.replace(subject, program=mutated)


def swap_outputs(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    return weights, angles, cotangent[:, ::-1] if phase == "before" else cotangent


def zero_ansatz(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    if phase == "after":
        weights = {**weights, "ansatz": 0 * weights["ansatz"]}
    return weights, angles, cotangent


def halve(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    return weights, angles, cotangent / 2 if phase == "before" else cotangent


def flip_readout(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    if phase == "after":
        weights = {**weights, "readout": -weights["readout"]}
    return weights, angles, cotangent


def ghost(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    if phase == "after":
        weights = {**weights, "ansatz": weights["ansatz"].at[-1, :, 2].add(0.3)}
    return weights, angles, cotangent


def roll_examples(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    return weights, jnp.roll(angles, 1, axis=0) if phase == "after" else angles, cotangent


def first_example_only(weights: Any, angles: Any, cotangent: Any, phase: str) -> Any:
    if phase == "before":
        mixed = jnp.sum(jnp.abs(cotangent) > 0) > 1
        cotangent = jnp.where(mixed, cotangent.at[1:].set(0), cotangent)
    return weights, angles, cotangent


Z_VALUES = CircuitSpec(2, 1, readout="z")
GATES = CircuitSpec(2, 1, readout="mean_z_readout")
SPECS = {"z": Z_VALUES, "gates": GATES, "mean": CircuitSpec(2, 2)}


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    return {name: circuit_subject(spec, "xla", batch=2) for name, spec in SPECS.items()}


GRADIENT_MUTANTS = {
    "gradient with swapped outputs": ("z", swap_outputs, "gradient agreement", "outputs in the order [1, 0]"),
    "gradient scaled": ("gates", halve, "gradient agreement", "by a factor of 0.5"),
    "a zeroed group": ("mean", zero_ansatz, "sensitivity", "dead: ansatz"),
    "ghost gradient": ("mean", ghost, "sensitivity", "ghost: ansatz[1, :, 2]"),
    "readout gradient of the wrong sign": ("gates", flip_readout, "gradient identity", "readout weights wrong"),
    "batched gradients off": ("mean", roll_examples, "gradient agreement", "another example's inputs"),
    "only the first of a batch": ("mean", first_example_only, "gradient agreement", "mixed cotangent"),
}


@pytest.mark.parametrize("mutant", GRADIENT_MUTANTS)
def test_gradient_mutants(mutant: str, subjects: dict[str, Subject]) -> None:
    kind, change, name, words = GRADIENT_MUTANTS[mutant]
    reports = probe_gradients(gather(with_gradient(subjects[kind], change), points=1))
    assert red(reports) == [name]
    assert words in next(report for report in reports if report.name == name).headline


def test_the_unchanged_wrapper_is_sound(subjects: dict[str, Subject]) -> None:
    for subject in subjects.values():
        same = with_gradient(subject, lambda weights, angles, cotangent, phase: (weights, angles, cotangent))
        assert red(probe_gradients(gather(same, points=1))) == []


def test_readout_through_hamiltonian_coefficients() -> None:
    subject = route_subject(CircuitSpec(2, 1, readout="z_vec"), "hamiltonian", batch=2)
    assert red(probe_circuit(subject)) == ["gradient identity"]


def test_readout_gates_in_the_wrong_order(subjects: dict[str, Subject]) -> None:
    subject = subjects["gates"]
    wrong = dataclasses.replace(
        subject, program=lambda w, x: subject.program({**w, "readout": w["readout"][:, :, ::-1]}, x)
    )
    assert red(probe_gradients(gather(wrong, points=1))) == ["readout identity"]


def test_a_body_with_another_entanglement() -> None:
    spec = CircuitSpec(3, 2)
    other = dataclasses.replace(spec, entanglement="linear")
    engine = get("xla")
    subject = circuit_subject(spec, "xla", batch=2)
    wrong = dataclasses.replace(subject, program=engine.program(other, 2), bloch=engine.program(other.body(), 2))
    assert red(probe_gradients(gather(wrong, points=1))) == ["value agreement"]


CONFIG = RunConfig(
    circuit=LayeredOptions(n_qubits=2, n_layers=1),
    engine=engines.get("xla"),
    training=training_options(epochs=10, batch_size=64, learning_rate=0.1),
)


@pytest.fixture(scope="module")
def sound() -> tuple[FeatureSet, RunResult]:
    data = feature_set(600, 5, signal=1.8, label_names=("defect",))
    return data, train(CONFIG, data, 0)


def data_reports(data: FeatureSet, **changes: Any) -> list[Report]:
    table = dataclasses.replace(probed_data(prepare(CONFIG, data, 0)), **changes)
    control = [] if not np.isfinite(table.features).all() else [label_permutation(table)]
    return probe_data(table) + control


def test_sound_data_and_scores_have_no_red(sound: tuple[FeatureSet, RunResult]) -> None:
    data, run = sound
    assert red(data_reports(data)) == []
    assert red(probe_run(run, data)) == []


def changed_features(data: FeatureSet, change: str) -> dict[str, Any]:
    table = probed_data(prepare(CONFIG, data, 0))
    values, labels, ids = np.array(table.features), np.array(table.labels), np.array(table.content_ids)
    if change == "a leaked split":
        ids[table.split.test[:10]] = ids[table.split.train[:10]]
        return {"content_ids": ids}
    if change == "prior drift":
        generator = np.random.default_rng(0)
        labels[table.split.test] = generator.random((len(table.split.test), 1)) < 0.9
        return {"labels": labels}
    if change == "a constant feature":
        values[:, 3] = 7.5
    elif change == "a duplicated feature":
        values[:, 3] = -2 * values[:, 1] + 1
    elif change == "a label-deciding feature":
        values[:, 3] = labels[:, 0] + 0.1 * values[:, 3]
    elif change == "a feature that is not finite":
        values[5, 3] = np.nan
    return {"features": values}


DATA_MUTANTS = {
    "a leaked split": ("leakage", "identical maps on both sides: 10 in train/test"),
    "prior drift": ("prior drift", "priors differ: defect"),
    "a constant feature": ("constant features", "stuck at one value: feature 3"),
    "a duplicated feature": ("duplicated features", "feature 1 = feature 3"),
    "a label-deciding feature": ("label-deciding features", "feature 3 alone decides defect"),
    "a feature that is not finite": ("finite features", "1 values are not finite, in feature 3"),
}


@pytest.mark.parametrize("mutant", DATA_MUTANTS)
def test_data_mutants(mutant: str, sound: tuple[FeatureSet, RunResult]) -> None:
    name, words = DATA_MUTANTS[mutant]
    reports = data_reports(sound[0], **changed_features(sound[0], mutant))
    assert red(reports) == [name]
    assert words in next(report for report in reports if report.name == name).headline


def test_a_pipeline_that_sees_test_labels(sound: tuple[FeatureSet, RunResult]) -> None:
    def peeking(table: Any) -> tuple[np.ndarray, np.ndarray]:
        truth = table.labels[table.split.test]
        return truth.astype(float), truth

    table = probed_data(prepare(CONFIG, sound[0], 0))
    assert red([*probe_data(table), label_permutation(table, peeking)]) == ["label permutation"]


def mutated_run(run: RunResult, mutant: str) -> RunResult:
    outputs, curves = dict(run.outputs), dict(run.curves)
    if mutant == "alpha of the wrong sign":
        outputs |= {name: -outputs[name] for name in ("val_logits", "test_logits")}
        curves["alpha"] = [[-value for value in values] for values in curves["alpha"]]
    elif mutant == "collapsed scores":
        outputs |= {name: np.full_like(outputs[name], 0.3) for name in ("val_logits", "test_logits")}
    else:
        outputs |= {name: 0.01 * outputs[name] for name in ("val_logits", "test_logits")}
        n = len(curves["epoch"])
        curves |= {"train_loss": [0.1735] * n, "val_loss": [0.1733] * n, "val_separation": [0.005] * n}
        assert run.predictor is not None
        config = dataclasses.replace(CONFIG, objective=Focal(focal_gamma=2.0))
        predictor = dataclasses.replace(run.predictor, config=config)
        return dataclasses.replace(run, outputs=outputs, curves=curves, predictor=predictor)
    return dataclasses.replace(run, outputs=outputs, curves=curves)


SCORE_MUTANTS = {
    "alpha of the wrong sign": ("score sign", "ranking inverted"),
    "collapsed scores": ("score spread", "scores are constant"),
    "focal at a stall": ("focal stall", "focal stall at gamma = 2: loss at 0.1733"),
}


@pytest.mark.parametrize("mutant", SCORE_MUTANTS)
def test_score_mutants(mutant: str, sound: tuple[FeatureSet, RunResult]) -> None:
    name, words = SCORE_MUTANTS[mutant]
    reports = probe_run(mutated_run(sound[1], mutant), sound[0])
    # An edited run is also not what its own parameters and curves say.
    assert [found for found in red(reports) if found not in ("run scores", "checkpoint")] == [name]
    assert words in next(report for report in reports if report.name == name).headline


def pairing_of(arms: dict[str, RunConfig], runs: dict[str, RunResult], data: FeatureSet) -> list[Report]:
    return _pairing_reports(arms, runs, dict.fromkeys(arms, data), next(iter(arms)), 0)


def test_an_override_that_does_nothing(sound: tuple[FeatureSet, RunResult]) -> None:
    data, run = sound
    unread = dataclasses.replace(CONFIG, sampling=SamplingConfig(pos_frac=0.3))
    reports = pairing_of({"base": CONFIG, "pos_frac": unread}, {"base": run, "pos_frac": train(unread, data, 0)}, data)
    assert red(reports) == ["ineffective options"]
    assert "sampling.pos_frac" in reports[0].headline


def other_arm() -> RunConfig:
    return dataclasses.replace(CONFIG, head=QuantumOptions(angle_scale=1.0))


def test_an_arm_that_never_reached_the_program(sound: tuple[FeatureSet, RunResult]) -> None:
    data, run = sound
    twin = dataclasses.replace(run, config=other_arm().to_dict())  # what a harness that ignores overrides would store
    assert red(pairing_of({"base": CONFIG, "scale": other_arm()}, {"base": run, "scale": twin}, data)) == [
        "identical arms"
    ]


def test_a_digest_that_differs(sound: tuple[FeatureSet, RunResult]) -> None:
    data, run = sound
    other = train(other_arm(), data, 0)
    moved = dataclasses.replace(other, digests=dataclasses.replace(other.digests, batches="drawn otherwise"))
    assert red(pairing_of({"base": CONFIG, "scale": other_arm()}, {"base": run, "scale": moved}, data)) == ["digests"]
    assert red(pairing_of({"base": CONFIG, "scale": other_arm()}, {"base": run, "scale": other}, data)) == []


def random_spec(seed: int) -> CircuitSpec:
    generator = np.random.default_rng(seed)

    def choose(*options: Any) -> Any:
        return options[generator.integers(len(options))]

    n_qubits, n_layers = int(generator.integers(1, 5)), int(generator.integers(1, 4))
    ansatz = choose("strongly_entangling", "basic_entangler", "separable")
    readout = choose("mean_z", "z_vec", "mean_z_readout", "z", "bloch")
    return CircuitSpec(
        n_qubits=n_qubits,
        n_layers=n_layers,
        encoding=choose("ry", "rx", "rz"),
        ansatz=ansatz,
        entanglement="" if ansatz == "separable" else choose("ring", "linear", "all"),
        readout=readout,
        n_outputs=int(generator.integers(1, 4)) if readout in ("z_vec", "mean_z_readout") else 1,
        reupload=choose(True, False),
        dtype=choose("float32", "float64"),
    )


def check_sound(spec: CircuitSpec, engine: str) -> None:
    reports = probe_circuit(circuit_subject(spec, engine, batch=2), init_scale=0.5)
    assert red(reports) == [], spec
    assert len(reports) == 11


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_red_on_sound_circuits(seed: int) -> None:
    check_sound(random_spec(seed), "xla")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["xla", "catalyst"])
@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_red_on_thirty_sound_circuits(seed: int, engine: str) -> None:
    check_sound(random_spec(seed), engine)
