"""What "no waiting" promises, attacked again: lanes and their checkpoints, caches, equal programs."""

import json

import pytest

from qwafer._checkpoints import remove_checkpoints
from qwafer.config import DataConfig, RunConfig
from qwafer.heads import MlpOptions
from qwafer.training import _together, train, train_lanes
from tests.factories import feature_set, training_options


def config(**training):
    options = training_options(**{"epochs": 3, "batch_size": 16, "schedule": "cosine", **training})
    return RunConfig(data=DataConfig(task="L0"), training=options, head=MlpOptions(hidden=6, dropout=0.3))


def data():
    return feature_set(150, seed=1, signal=0.5)


def together(chosen, lanes, **options):
    found = {}
    train_lanes(chosen, data(), lanes, found.__setitem__, **options)
    return found


def numbers(result):
    outputs = {name: value.tobytes() for name, value in result.outputs.items()}
    return json.dumps(result.curves), outputs, result.best_epoch, result.epochs_run


def interrupted_after(monkeypatch, epochs, action):
    """Run `action` until the batches of so many epochs have been drawn, and interrupt it there."""
    real, drawn = _together.Run.batch, []

    def batch(self, epoch):
        drawn.append(epoch)
        if len(drawn) > epochs:
            raise KeyboardInterrupt
        return real(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(_together.Run, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            action()


def test_a_run_that_began_in_lanes_ends_alone_as_alone(monkeypatch, tmp_path):
    """`--no-batch-seeds` takes nothing from what lanes left, nor lanes from runs alone: each has its numbers to
    the last bit, and says itself.
    """
    chosen = config(eval_every_epochs=1)
    directories, seen = {seed: tmp_path / str(seed) for seed in (0, 1, 2)}, []
    alone = train(chosen, data(), 0, from_source=True)
    lanes = together(chosen, [[0], [1], [2]])
    interrupted_after(monkeypatch, 6, lambda: together(chosen, [[0], [1], [2]], directories=directories))
    assert any(directories[0].rglob("epoch-000002"))
    resumed = train(chosen, data(), 0, from_source=True, directory=directories[0], observe=seen.append)
    assert [entry["epoch"] for entry in seen] == [1, 2, 3]
    assert (numbers(resumed), resumed.timings.lanes) == (numbers(alone), 1)

    interrupted_after(monkeypatch, 1, lambda: train(chosen, data(), 1, from_source=True, directory=directories[1]))
    drawn, real = [], _together.Run.batch
    monkeypatch.setattr(_together.Run, "batch", lambda run, epoch: drawn.append((run.seed, epoch)) or real(run, epoch))
    again = together(chosen, [[0], [1], [2]], directories=directories)
    assert sorted(epoch for _, epoch in drawn) == [3, 3, 3]  # from where the lanes were
    assert {seed: numbers(result) for seed, result in again.items()} == {
        seed: numbers(result) for seed, result in lanes.items()
    }
    for directory in directories.values():
        remove_checkpoints(directory)
    assert not any(tmp_path.iterdir()), "a complete run needs the checkpoints of neither way"
