"""The auto engine takes what the table says, says so, and leaves its mark in a run."""

import jax
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.circuits import CircuitSpec
from qwafer.config import CircuitConfig, DataConfig, EngineConfig, RunConfig, TrainingConfig
from qwafer.engines import auto
from qwafer.features import FeatureSet
from qwafer.heads import make_program
from qwafer.overrides import with_options
from qwafer.training import train


def test_auto_is_the_engine_it_took():
    spec = CircuitSpec(3, 2, dtype="float64")
    program = engines.get("auto").program(spec, 4)
    assert program.info["auto"]["took"] == program.info["engine"] == "xla"
    assert "ms a step" in program.info["auto"]["why"]
    rng = np.random.default_rng(0)
    weights, angles = {"ansatz": rng.normal(size=(2, 3, 3))}, rng.normal(size=(4, 3))
    expected = engines.get("xla").program(spec, 4)(weights, angles)
    np.testing.assert_array_equal(program(weights, angles), expected)


@pytest.mark.parametrize(
    "options", [{"batching": "choi"}, {"device": "lightning.qubit"}, {"shots": 10}, {"diff_method": "parameter-shift"}]
)
def test_options_of_catalyst_choose_catalyst(options):
    info = engines.get("auto", **options, seed=3).program(CircuitSpec(2, 1), 2).info
    assert info["engine"] == info["auto"]["took"] == "catalyst"
    assert info["auto"]["why"] == f"only catalyst has the option {next(iter(options))}"
    assert "xla" in engines.get("auto", seed=3).program(CircuitSpec(2, 1), 2).info["engine"]  # a seed alone does not


def test_auto_refuses_what_catalyst_refuses_before_a_program_is_asked_for():
    with pytest.raises(InputError, match="batching"):
        engines.get("auto", batching="none")
    with pytest.raises(InputError, match="does not have all of the options"):
        engines.get("auto", chunks=2)
    with pytest.raises(InputError, match="batch"):
        engines.get("auto").program(CircuitSpec(2, 1), 0)


def test_choice_follows_the_nearest_entry_of_the_table(monkeypatch):
    monkeypatch.setattr(auto, "_MEASURED", {4: {1: (1.0, 2.0), 64: (1.0, 9.0)}, 10: {1: (5.0, 2.0), 64: (3.0, 9.0)}})
    choices = {(n, b): auto.choose_engine(CircuitSpec(n, 1), b, "cpu")[0] for n in (2, 4, 9, 14) for b in (1, 500)}
    assert choices == {(n, b): "catalyst" if n > 7 and b == 1 else "xla" for n, b in choices}
    assert auto.choose_engine(CircuitSpec(4, 1), 64, "cpu")[1].endswith("at 4 qubits and a batch of 64")
    assert "the nearest that was measured" in auto.choose_engine(CircuitSpec(5, 1), 64, "cpu")[1]
    assert auto.choose_engine(CircuitSpec(10, 1), 1, "gpu")[0] == "xla"


def test_table_is_whole():
    batches = {tuple(entries) for entries in auto._MEASURED.values()}
    assert len(batches) == 1
    assert all(time > 0 for entries in auto._MEASURED.values() for times in entries.values() for time in times)


def test_configured_runs_take_auto():
    config = with_options(RunConfig(), {"engine.name": "auto"})
    program = make_program(config, 2, 4)
    assert program is not None
    assert program.info["auto"]["took"] == program.info["engine"]
    assert jax.eval_shape(
        program,
        {k: jax.ShapeDtypeStruct(v, "float32") for k, v in program.spec.weight_shapes().items()},
        jax.ShapeDtypeStruct((4, program.spec.n_qubits), "float32"),
    ).shape == (4, 2)


def test_a_run_on_auto_says_what_it_took_and_trains_as_that_engine_does():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, :1] > 0.2).astype(np.uint8)
    features = FeatureSet(x, y, ("a",), np.array([f"m{i}" for i in range(60)]), {})

    def run(engine):
        config = RunConfig(
            data=DataConfig(task="a"),
            circuit=CircuitConfig(n_qubits=2, n_layers=1),
            engine=EngineConfig(name=engine),
            training=TrainingConfig(epochs=1, batch_size=20),
        )
        return train(config, features, seed=2)

    auto_run, xla_run = run("auto"), run("xla")
    assert auto_run.engine["auto"]["took"] == auto_run.engine["engine"] == "xla"
    np.testing.assert_array_equal(auto_run.outputs["test_logits"], xla_run.outputs["test_logits"])
