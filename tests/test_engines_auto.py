"""The auto engine takes the fastest that can run the circuit, says so, and leaves its mark in a run."""

import jax
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.circuits import CircuitSpec, LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.engines import auto
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.training import make_program, train
from tests.factories import training_options


def test_auto_is_the_engine_it_took():
    spec = CircuitSpec(3, 2, dtype="float64")
    program = engines.get("auto").program(spec, 4)
    assert program.info["auto"]["took"] == program.info["engine"] == "xla"
    assert "fastest" in program.info["auto"]["why"]
    rng = np.random.default_rng(0)
    weights, angles = {"ansatz": rng.normal(size=(2, 3, 3))}, rng.normal(size=(4, 3))
    expected = engines.get("xla").program(spec, 4)(weights, angles)
    np.testing.assert_array_equal(program(weights, angles), expected)


def test_auto_has_no_options():
    with pytest.raises(InputError, match="does not have all of the options"):
        engines.get("auto", shots=10)
    with pytest.raises(InputError, match="batch"):
        engines.get("auto").program(CircuitSpec(2, 1), 0)


def test_auto_is_the_first_engine_that_can_run_the_circuit(monkeypatch):
    spec = CircuitSpec(2, 1)
    assert auto.choose_engine(spec)[0] == engines.get("xla")
    monkeypatch.setattr(auto.XlaEngine, "why_not", lambda self, circuit: "it is switched off")
    engine, why = auto.choose_engine(spec)
    assert engine == engines.get("catalyst")
    assert why == "xla cannot run this circuit: it is switched off"
    monkeypatch.setattr(auto.CatalystEngine, "why_not", lambda self, circuit: "so is it")
    engine, why = auto.choose_engine(spec)
    assert engine == engines.get("reference")
    assert why.endswith("; catalyst cannot run this circuit: so is it")
    assert engines.get("auto").why_not(spec) is None
    assert engines.get("auto").program(spec, 2).info["auto"]["took"] == "reference"


def test_configured_runs_take_auto():
    config = with_options(RunConfig(), {"engine.name": "auto"})
    program = make_program(config, 2, 4)
    assert program is not None
    assert program.info["auto"]["took"] == program.info["engine"]
    assert jax.eval_shape(
        program,
        {k: jax.ShapeDtypeStruct(v, "float32") for k, v in program.circuit.weight_shapes().items()},
        jax.ShapeDtypeStruct((4, program.circuit.n_qubits), "float32"),
    ).shape == (4, 2)


def test_a_run_on_auto_says_what_it_took_and_trains_as_that_engine_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, :1] > 0.2).astype(np.uint8)
    features = FeatureSet(x, y, ("a",), np.array([f"m{i}" for i in range(60)]), {})

    def run(engine):
        config = RunConfig(
            data=DataConfig(task="a"),
            circuit=LayeredOptions(n_qubits=2, n_layers=1),
            engine=engines.get(engine),
            training=training_options(epochs=1, batch_size=20),
        )
        return train(config, features, seed=2)

    auto_run, xla_run = run("auto"), run("xla")
    assert auto_run.engine["auto"]["took"] == auto_run.engine["engine"] == "xla"
    np.testing.assert_array_equal(auto_run.outputs["test_logits"], xla_run.outputs["test_logits"])
