"""The promise on circuits: what is probed is what runs, at its batch, where the run starts, and at every example."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import CircuitSpec, LayeredOptions
from qwafer.config import RunConfig, TrainingConfig
from qwafer.engines.base import Program
from qwafer.engines.xla import XlaEngine, compiled, cost, heisenberg
from qwafer.probes import trust_table
from qwafer.probes.trust import TrustTable
from qwafer.training import make
from tests.factories import feature_set

LABELS = 3
OPTIONS = LayeredOptions(n_qubits=4, n_layers=2, readout="z_vec")
CONFIG = RunConfig(
    circuit=OPTIONS,
    engine=engines.get("xla"),
    training=TrainingConfig(epochs=1, batch_size=64, fixed_num_batches=2),
)
CONFIG = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, task="multilabel"))
CIRCUITS = ("value agreement", "readout identity", "gradient identity", "sensitivity", "gradient agreement")


@pytest.fixture
def no_programs_kept() -> Iterator[None]:
    """Programs are kept by process: a fault planted in an engine must neither miss them nor outlive the test."""
    caches = (compiled.jitted.cache_clear, make._program.cache_clear, jax.clear_caches)
    for clear in caches:
        clear()
    yield
    for clear in caches:
        clear()


def table_of(**training: Any) -> TrustTable:
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **training))
    return trust_table({"arm": config}, {"arm": feature_set(300, 6, LABELS, signal=2.0)})


def red(table: TrustTable) -> list[str]:
    return [report.name for report in table.reports if report.name in CIRCUITS and report.verdict == "fail"]


def headline(table: TrustTable, name: str) -> str:
    return next(report.headline for report in table.reports if report.name == name)


def test_the_plan_of_training_is_not_that_of_three_examples() -> None:
    spec = OPTIONS.circuit(LABELS)
    assert cost.choose(spec, 3, True).plan == "schroedinger"
    assert cost.choose(spec, 64, True).plan == "heisenberg"


def test_a_fault_of_the_plan_that_trains_alone(monkeypatch: pytest.MonkeyPatch, no_programs_kept: None) -> None:
    rotate_back = heisenberg._rotate_back

    def flipped(*arguments: Any) -> tuple[jax.Array, list[jax.Array]]:
        cotangent, gradients = rotate_back(*arguments)
        return cotangent, [-gradient for gradient in gradients]

    monkeypatch.setattr(heisenberg, "_rotate_back", flipped)
    table = table_of()
    assert red(table) == ["gradient agreement"]
    assert "ansatz wrong by a factor of -1" in headline(table, "gradient agreement")
    assert "xla heisenberg, batch 64, float32" in headline(table, "gradient agreement")


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
    table = table_of()
    assert red(table) == ["value agreement"]
    assert "evaluation program, example 255" in headline(table, "value agreement")


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
    found = red(table_of())
    assert found == ["readout identity" if kind == "values" else "gradient agreement"]
