"""What "no waiting" promises, attacked again: lanes and their checkpoints, caches, equal programs."""

import json

import numpy as np
import pytest

from qwafer._checkpoints import remove_checkpoints
from qwafer.config import DataConfig, RunConfig
from qwafer.heads import MlpOptions
from qwafer.objective import LOSSES, make_objective
from qwafer.reports import ablation as report
from qwafer.studies.ablation import waiting_note
from qwafer.sweeps.jobs import Checked
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


def test_lanes_hold_the_examples_once(monkeypatch):
    """Memory grows with the lanes by what differs between them, and the features of all examples do not."""
    held, real = [], _together._train_epoch

    def epoch(constants, lanes, **options):
        runs = [lane.run for lane in lanes if lane is not None]
        arrays = [run.features for run in runs], [run.labels for run in runs]
        held.append((len(runs), *(len({array.unsafe_buffer_pointer() for array in own}) for own in arrays)))
        return real(constants, lanes, **options)

    monkeypatch.setattr(_together, "_train_epoch", epoch)
    found = together(config(epochs=1), [[0, 3], [1], [2]])
    assert sorted(found) == [0, 1, 2, 3]
    assert held == [(3, 1, 1), (1, 1, 1)]


def test_a_report_says_how_many_runs_were_in_lanes():
    assert report.lanes_sentence([1, 1]) == ""
    assert report.lanes_sentence([8, 8]) == " 8 seeds were trained side by side in one program."
    mixed = report.lanes_sentence([8, 1, 8])
    assert mixed == " 8 seeds were trained side by side in one program, in 2 of 3 runs; the others were trained alone."


def test_the_note_on_waiting_knows_several_slow_engines():
    """An engine of one's own that derives from `catalyst` has a name of its own."""
    seconds = {"catalyst": 0.01, "xla": 1e-4}, {"mine": 0.02, "xla": 1e-4}
    checked = {arm: Checked(steps=1000, step_seconds=own) for arm, own in zip("ab", seconds, strict=True)}
    note = waiting_note(checked, [("a", 0), ("a", 1), ("b", 0)])
    assert "engine catalyst: the first 2,000 steps of 2 runs take about 20 s" in note
    assert "engine mine: the first 1,000 steps of 1 runs take about 20 s" in note


@pytest.mark.parametrize(
    ("loss", "option", "value"),
    [
        ("focal", "focal_gamma", 3.0),
        ("focal", "label_smoothing", 0.5),
        ("asymmetric", "asymmetric_gamma_pos", 2.0),
        ("asymmetric", "asymmetric_gamma_neg", 1.0),
        ("asymmetric", "asymmetric_clip", 0.25),
    ],
)
def test_a_number_of_a_loss_is_used_whatever_its_type(loss, option, value):
    """A whole number, or one of NumPy's, must not become the default of what is an argument of the program."""
    labels = np.array([[0], [1], [1], [0]], np.uint8)
    logits = np.array([[0.3], [-0.2], [1.0], [2.0]], np.float32)

    def objective(**options):
        return make_objective(LOSSES.get(loss)(**options), labels)

    expected, weights = objective(**{option: value}), np.ones(4, np.float32)
    assert float(objective()(logits, labels, weights)) != float(expected(logits, labels, weights))
    for same in (np.float32(value), np.float64(value), *([int(value), np.int64(value)] if value == int(value) else [])):
        found = objective(**{option: same})
        assert sorted(found.numbers) == sorted(expected.numbers), "another program"
        assert float(found(logits, labels, weights)) == float(expected(logits, labels, weights))
