"""A run that was interrupted and resumed equals the unbroken one, bit for bit."""

import dataclasses
import shutil
import tracemalloc

import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer._records import to_json
from qwafer.circuits import LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.features import FeatureSet
from qwafer.heads import MlpOptions
from qwafer.training import Checkpoints, train
from qwafer.training._history import History
from tests.factories import training_options


def features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    y = (x[:, :2] + 0.3 * rng.normal(size=(120, 2)) > 0.2).astype(np.uint8)
    return FeatureSet(x, y, ("a", "b"), np.array([f"m{i}" for i in range(120)]), {})


def config(head="mlp", engine="reference", **training):
    training = {"epochs": 5, "batch_size": 20, "eval_every_epochs": 2, "ema_decay": 0.9, **training}
    parts = {"head": MlpOptions(hidden=6, dropout=0.3)}
    if head == "quantum":
        parts = {"circuit": LayeredOptions(n_qubits=2, n_layers=1), "engine": engines.get(engine)}
    return RunConfig(data=DataConfig(task="a"), training=training_options(schedule="cosine", **training), **parts)


def substance(result):
    """Everything but clocks."""
    data = {**to_json(result), "timings": None, "compile_cache": None, "config": None}
    return data, {name: value.tobytes() for name, value in result.outputs.items()}


def interrupt_at(epoch):
    def observe(entry):
        if entry["epoch"] == epoch:
            raise KeyboardInterrupt

    return observe


@pytest.mark.parametrize(("head", "engine"), [("mlp", "reference"), ("quantum", "reference"), ("quantum", "xla")])
def test_an_interrupted_run_resumes_bit_for_bit(head, engine, tmp_path):
    chosen = config(head, engine)
    unbroken = train(chosen, features(), seed=1)
    # The interrupt strikes within epoch 4: what is whole is epoch 3, whose batches no evaluation has seen yet.
    with pytest.raises(KeyboardInterrupt):
        train(chosen, features(), seed=1, directory=tmp_path, observe=interrupt_at(4))
    epochs = []
    resumed = train(chosen, features(), seed=1, directory=tmp_path, observe=lambda entry: epochs.append(entry["epoch"]))
    assert epochs == [4, 5]
    assert substance(resumed) == substance(unbroken)


@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_run_resumes_from_its_last_checkpoint(every, tmp_path):
    chosen = config(checkpoint_every_epochs=every)
    unbroken = train(chosen, features(), seed=1)
    train(chosen, features(), seed=1, directory=tmp_path)
    # A kill after epoch 4 leaves the checkpoints up to there.
    shutil.rmtree(tmp_path / "checkpoints" / "epoch-000005")
    resumed = train(chosen, features(), seed=1, directory=tmp_path)
    assert substance(resumed) == substance(unbroken)
    complete = train(chosen, features(), seed=1, directory=tmp_path)
    assert substance(complete) == substance(unbroken)


def test_an_interrupt_in_the_first_epoch_leaves_nothing_to_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(config(eval_every_epochs=1), features(), seed=1, directory=tmp_path, observe=interrupt_at(1))
    assert train(config(eval_every_epochs=1), features(), seed=1, directory=tmp_path).epochs_run == 5


def test_checkpoints_of_another_run_are_refused(tmp_path):
    chosen = config(checkpoint_every_epochs=1, epochs=1)
    train(chosen, features(), seed=1, directory=tmp_path)
    changed = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, learning_rate=0.5))
    for other, seed in ((changed, 1), (chosen, 2)):
        with pytest.raises(InputError, match="checkpoints of a run with another configuration"):
            train(other, features(), seed=seed, directory=tmp_path)


def test_checkpoints_hold_what_they_were_given(tmp_path):
    tree = {"a": np.arange(3, dtype=np.float32), "b": (np.int32(4), np.ones((2, 0)))}
    record = {"values": [0.1, float("nan"), -float("inf")], "none": None}
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    assert checkpoints.latest(tree) is None
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, tree, record)
    epoch, found, written = checkpoints.latest(tree)
    assert epoch == 3
    np.testing.assert_array_equal(found["a"], tree["a"])
    assert found["b"][0].dtype == np.int32
    assert found["b"][1].shape == (2, 0)
    assert written["values"][0] == 0.1
    assert np.isnan(written["values"][1])
    assert written["values"][2] == -np.inf
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_remembering_a_run_between_epochs_costs_the_same_however_long_it_is():
    history = History(
        curves={"epoch": list(range(10_000)), "val_loss": [[0.5, 0.25]] * 10_000}, batches=["ab"] * 10_000
    )
    tracemalloc.start()
    record = history.snapshot()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000, "a copy of the curves after every epoch makes the time of a run quadratic in its epochs"
    for values in history.curves.values():
        values.append(values[-1])
    history.curves["alpha"] = [1.0]
    history.batches.append("cd")
    found = record()
    assert found["curves"] == {"epoch": list(range(10_000)), "val_loss": [[0.5, 0.25]] * 10_000}
    assert found["batches"] == ["ab"] * 10_000
