"""A run gives the same result on every engine, and is reproducible on each."""

import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.features import FeatureSet
from qwafer.training import train
from tests.factories import training_options


def features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4)).astype(np.float32)
    y = (x[:, :1] + 0.3 * rng.normal(size=(90, 1)) > 0.2).astype(np.uint8)
    return FeatureSet(x, y, ("a",), np.array([f"m{i}" for i in range(90)]), {})


def run(engine, dtype="float64", **training):
    config = RunConfig(
        data=DataConfig(task="a"),
        circuit=LayeredOptions(n_qubits=2, n_layers=1, dtype=dtype),
        engine=engines.get(engine),
        training=training_options(**{"epochs": 3, "batch_size": 25, "learning_rate": 0.05, **training}),
    )
    return train(config, features(), seed=2)


@pytest.fixture(scope="module")
def reference():
    return run("reference")


@pytest.mark.parametrize("engine", ["catalyst", "xla"])
def test_engines_agree_after_training(reference, engine):
    result = run(engine)
    for name in ("test_logits", "val_logits"):
        np.testing.assert_allclose(result.outputs[name], reference.outputs[name], atol=1e-4)
    assert result.digests == reference.digests
    for group in ("projection", "circuit", "readout", "alpha"):
        name = f"grad_norm.{group}"
        np.testing.assert_allclose(result.curves[name], reference.curves[name], rtol=1e-3)
    assert result.engine["engine"] == engine


def test_single_precision_follows_double_precision(reference):
    single = run("xla", dtype="float32")
    assert single.outputs["test_logits"].dtype == np.float32
    np.testing.assert_allclose(single.outputs["test_logits"], reference.outputs["test_logits"], atol=1e-2)


def test_two_runs_on_catalyst_are_identical():
    first, second = (run("catalyst", dtype="float32", epochs=2) for _ in range(2))
    assert first.curves == second.curves
    assert first.fingerprint() == second.fingerprint()
    assert first.timings.steps == 2 * 3
