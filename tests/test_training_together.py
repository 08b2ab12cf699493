"""Seeds that train side by side: as alone to rounding, and to the last bit whichever others are there."""

import dataclasses
import json

import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.ablate import main
from qwafer.circuits import LayeredOptions
from qwafer.config import DataConfig, RunConfig
from qwafer.execution import Event, Failure
from qwafer.heads import LinearOptions, MlpOptions
from qwafer.objective import SamplingConfig
from qwafer.studies import ablation
from qwafer.training import RunResult, _together, lanes_gain, make_head, train, train_lanes
from tests.factories import feature_set, training_options, two_heads

SEEDS = tuple(range(5))


def config(head="linear", engine="xla", **training):
    training = {"epochs": 3, "batch_size": 16, "max_doublings": 2, "schedule": "cosine", **training}
    parts = {"head": LinearOptions() if head == "linear" else MlpOptions(hidden=6, dropout=0.3)}
    if head == "quantum":
        parts = {"circuit": LayeredOptions(n_qubits=2, n_layers=1), "engine": engines.get(engine)}
    return RunConfig(data=DataConfig(task="L0"), training=training_options(**training), **parts)


def together(config, lanes, **options):
    data, found = feature_set(150, seed=1, signal=0.5), {}

    def outcome(seed, result):
        found[seed] = result

    train_lanes(config, data, lanes, outcome, **options)
    return found


def numbers(result):
    outputs = {name: value.tobytes() for name, value in result.outputs.items()}
    return json.dumps(result.curves), outputs, result.best_epoch, result.epochs_run


@pytest.mark.parametrize(
    "chosen",
    [
        config(),
        config("mlp", ema_decay=0.9, early_stopping=2),
        config("quantum"),
        dataclasses.replace(config("quantum"), sampling=SamplingConfig(balanced=True)),
    ],
    ids=["linear", "mlp with dropout", "quantum", "balanced batches"],
)
def test_every_seed_trains_as_it_does_alone(chosen):
    data = feature_set(150, seed=1, signal=0.5)
    found = together(chosen, [[0, 3], [1, 4], [2]])
    assert sorted(found) == list(SEEDS)
    for seed, result in found.items():
        alone = train(chosen, data, seed, from_source=True)
        assert result.timings.lanes == 3
        assert alone.timings.lanes == 1
        assert dataclasses.replace(result.digests, parameters={}) == dataclasses.replace(alone.digests, parameters={})
        assert result.curves["epoch"][:3] == alone.curves["epoch"][:3]
        assert result.curves["step"][:3] == alone.curves["step"][:3]
        for name in ("train_loss", "val_loss", "learning_rate"):
            np.testing.assert_allclose(result.curves[name][:3], alone.curves[name][:3], rtol=1e-4)


def test_runs_of_one_lane_depend_on_no_other():
    """Another run in the other lane, none at all, or an end at another epoch changes no bit."""
    chosen = config("quantum", early_stopping=2)
    whole = together(chosen, [[0, 3], [1, 4], [2]])
    for lanes in ([[3], [], []], [[0, 3], [4], []], [[], [], [2]]):
        for seed, result in together(chosen, lanes).items():
            assert numbers(result) == numbers(whole[seed])
    assert len({result.epochs_run for result in whole.values()}) > 1, "all end at once: the test shows nothing"


def test_a_run_that_fails_ends_alone_and_an_interrupt_loses_nothing(tmp_path, monkeypatch):
    chosen = config(eval_every_epochs=1)
    whole = together(chosen, [[0], [1]])
    real, evaluate, seen = _together.Run.batch, _together.Run._evaluate, []

    def fails(self):
        if self.seed == 1 and self.epoch == 2:
            raise ValueError("broken")
        return evaluate(self)

    monkeypatch.setattr(_together.Run, "_evaluate", fails)
    found = together(chosen, [[0], [1]])
    assert isinstance(found[1], ValueError)
    assert numbers(found[0]) == numbers(whole[0])

    monkeypatch.setattr(_together.Run, "_evaluate", evaluate)

    def interrupted(self, epoch):
        seen.append(epoch)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(self, epoch)

    monkeypatch.setattr(_together.Run, "batch", interrupted)
    directories = {seed: tmp_path / str(seed) for seed in (0, 1)}
    with pytest.raises(KeyboardInterrupt):
        together(chosen, [[0], [1]], directories=directories)
    monkeypatch.setattr(_together.Run, "batch", real)
    assert any(directories[0].rglob("epoch-*"))
    found = together(chosen, [[0], [1]], directories=directories)
    assert {seed: numbers(result) for seed, result in found.items()} == {
        seed: numbers(result) for seed, result in whole.items()
    }


def test_compiling_is_no_part_of_the_time_of_training():
    engines.cache_clear()
    found = together(config("mlp"), [[0], [1], [2], [3]])
    timings = [result.timings for result in found.values()]
    assert sum(t.training for t in timings) < sum(t.compile for t in timings)


def test_lanes_are_taken_where_they_gain():
    def gain(chosen):
        return lanes_gain(chosen, make_head(chosen, np.zeros((20, 5), np.float32), 1, seed=0), 1600, 16)

    assert gain(config(epochs=20))
    assert not gain(config(epochs=2))
    assert not gain(dataclasses.replace(config(epochs=20), head=MlpOptions(hidden=2000)))
    assert not gain(config("quantum", epochs=20))
    assert gain(config("quantum", epochs=100))
    assert not gain(config("quantum", "reference", epochs=100))
    drawn = dataclasses.replace(config(epochs=20), data=DataConfig(task="L0", limit=100))
    assert not gain(drawn)
    with pytest.raises(InputError, match="limit"):
        together(drawn, [[0], [1]])


@pytest.mark.usefixtures("without_figures")
def test_a_sweep_says_which_way_was_used_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_together, "FEWEST_STEPS", {True: 1, False: 1})
    (tmp_path / "e.toml").write_text(two_heads(seeds=17, task="L0"))
    feature_set(150, seed=1, signal=0.5).save(tmp_path / "f.npz")
    arguments = [str(tmp_path / "e.toml"), "--features", str(tmp_path / "f.npz"), "--executor", "serial", "--quiet"]

    def sweep(name, *more):
        assert main([*arguments, "--out", str(tmp_path / name), *more]) == 0
        report = (tmp_path / name / "report.md").read_text()
        return json.loads((tmp_path / name / "summary.json").read_text()), report

    whole, report = sweep("together")
    alone, other = sweep("alone", "--no-batch-seeds")
    assert report.count("8 seeds were trained side by side") == 2
    assert "side by side" not in other
    for arm in ("linear", "mlp"):
        ours, theirs = (found["arms"][arm]["metrics"]["test.roc_auc"]["mean"] for found in (whole, alone))
        assert ours == pytest.approx(theirs, abs=1e-3)
    for arm, seed in (("linear", 3), ("mlp", 16), ("mlp", 0)):
        for file in (tmp_path / "together" / "runs" / arm).glob(f"seed-{seed}.*"):
            file.unlink()
    assert RunResult.load(tmp_path / "together" / "runs" / "mlp" / "seed-1.json").timings.lanes == 8
    again, _ = sweep("together")
    assert again == whole


def test_what_fails_in_a_group_is_said_of_its_run():
    failure = dataclasses.asdict(Failure("ValueError", "broken", ""))
    done = Event("linear/group-0", "done", 1.0, {"4": failure})
    assert ablation._of_lane(done, "linear/seed-4", 4).failure == Failure("ValueError", "broken", "")
    assert ablation._of_lane(done, "linear/seed-5", 5) == Event("linear/seed-5", "done", 1.0)
