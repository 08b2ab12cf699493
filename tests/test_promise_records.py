"""A stored run is what ran: edited, copied and foreign files are refused, and the data section tells the truth."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pytest

from qwafer import engines
from qwafer._errors import InputError, PairingError
from qwafer.circuits import LayeredOptions
from qwafer.comparison.pairing import check_pairing
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.experiment import load_experiment
from qwafer.objective import SamplingConfig, make_sampler, order_digest
from qwafer.studies import run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.training import Digests, Predictor, RunResult, prepare, train
from tests.factories import feature_set, head_options

TOML = """
seeds = 6
[training]
epochs = 2
batch_size = 16
[arms.linear]
head = "linear"
[arms.mlp]
head.name = "mlp"
head.hidden = 4
"""
LINEAR = RunConfig(head=head_options("linear"), training=TrainingConfig(epochs=2, batch_size=16))


def lots(n=120):
    return np.array([f"lot {i % 12}" for i in range(n)])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "e.toml").write_text(TOML)
    feature_set(k=2, groups=lots()).save(folder / "f.npz")
    return load_experiment(folder / "e.toml", [f"data.source={folder / 'f.npz'}"])


@pytest.fixture(scope="module")
def done(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("records-out") / "out"
    run_experiment(experiment, out, jobs=1)
    return out


@pytest.fixture
def directory(done, tmp_path):
    shutil.copytree(done, tmp_path / "out")
    return OutputDirectory(tmp_path / "out")


def edit(path, change):
    form = json.loads(path.read_text())
    change(form)
    path.write_text(json.dumps(form))


def test_every_run_of_a_sweep_stores_logits_ids_and_lots(experiment, directory):
    data = feature_set(k=2, groups=lots())
    for arm, runs in directory.read(experiment).results.items():
        for seed, run in runs.items():
            prepared = prepare(experiment.arms[arm], data, seed)
            assert run.n_examples == {part: len(getattr(prepared.split, part)) for part in ("train", "val", "test")}
            for part in ("val", "test"):
                rows = getattr(prepared.split, part)
                assert run.logits[part].shape == run.labels[part].shape == (len(rows), 2)
                assert run.logits[part].dtype == np.float32
                assert run.labels[part].dtype == np.uint8
                np.testing.assert_array_equal(run.rows[part], rows)
                assert run.ids[part].dtype == np.uint64
                assert len(np.unique(run.ids[part])) == len(rows)
                assert run.groups[part].dtype == np.int64
                same_lot = run.groups[part][:, None] == run.groups[part][None]
                np.testing.assert_array_equal(same_lot, data.groups[rows][:, None] == data.groups[rows][None])
    assert run.n_groups == {}  # the split was not drawn by lot
    first, second = (directory.read(experiment).results["linear"][seed] for seed in (0, 1))
    place = dict(zip(first.ids["test"], first.rows["test"], strict=True))
    shared = [(run_id, row) for run_id, row in zip(second.ids["test"], second.rows["test"], strict=True)]
    assert all(place[run_id] == row for run_id, row in shared if run_id in place)
    assert any(run_id in place for run_id, _ in shared)


def test_lots_are_counted_where_they_split():
    config = dataclasses.replace(LINEAR, data=DataConfig(split_by="group"))
    run = train(config, feature_set(groups=lots()), 0)
    assert sum(run.n_groups.values()) == 12
    assert set(run.n_groups) == {"train", "val", "test"}
    assert not set(run.groups["val"].tolist()) & set(run.groups["test"].tolist())


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form["test"]["macro"].update(roc_auc=0.99),
        lambda form: form["test"]["per_class"].update(f1=[0.5, 0.5]),
        lambda form: form["curves"].update(val_loss=[0.1, 0.1]),
        lambda form: form["config"]["training"].update(learning_rate=0.5),
        lambda form: form.update(best_epoch=1 if form["best_epoch"] == 2 else 2),
        lambda form: form.update(seed=7),
        lambda form: form["digests"].update(data="0" * 16),
        lambda form: form.pop("digest"),
    ],
)
def test_an_edited_file_is_refused_by_name(experiment, directory, change):
    path = directory.run_path("mlp", 1)
    edit(path, change)
    with pytest.raises(InputError, match=rf"{path} .*delete it"):
        directory.read(experiment)


def test_edited_logits_are_refused(experiment, directory):
    path = directory.run_path("mlp", 1)
    with np.load(path.with_suffix(".npz")) as arrays:
        stored = dict(arrays)
    stored["test_logits"][0] += 1
    np.savez(path.with_suffix(".npz"), **stored)
    with pytest.raises(InputError, match=rf"{path} .*delete it"):
        directory.read(experiment)
    path.with_suffix(".npz").unlink()
    with pytest.raises(InputError, match=rf"{path} has lost its logits .*delete it"):
        directory.read(experiment)


def test_a_metric_that_the_logits_do_not_give_is_refused_even_with_a_digest_that_fits(experiment, directory):
    """An edit in Python, saved again: the digest fits, the logits say otherwise."""
    path = directory.run_path("mlp", 1)
    run = RunResult.load(path)
    for part, kind in (("test", "macro"), ("val", "per_class")):
        claimed = getattr(run, part)
        values = {**getattr(claimed, kind)}
        values["f1"] = values["f1"] + 1e-6 if kind == "macro" else (0.5, 0.5)
        dataclasses.replace(run, **{part: dataclasses.replace(claimed, **{kind: values})}).save(path)
        with pytest.raises(InputError, match=rf"{path} claims a {part}.f1.* delete it"):
            directory.read(experiment)


def test_one_seed_copied_over_another_is_refused(experiment, directory):
    source, target = directory.run_path("mlp", 0), directory.run_path("mlp", 1)
    for suffix in (".json", ".npz"):
        shutil.copy(source.with_suffix(suffix), target.with_suffix(suffix))
    with pytest.raises(InputError, match=rf"{target} holds the run of seed 0: delete it"):
        directory.read(experiment)
    dataclasses.replace(RunResult.load(source), seed=1).save(target)  # and so is a careful copy
    with pytest.raises(InputError, match=rf"{target} is a copy of the run of seed 0: delete it"):
        directory.read(experiment)


@pytest.mark.usefixtures("without_figures")
def test_a_sound_directory_reads_and_what_is_deleted_is_done_again(experiment, directory):
    before = directory.read(experiment)
    assert not before.pending
    directory.run_path("mlp", 1).unlink()
    assert directory.read(experiment).pending == [("mlp", 1)]
    run_experiment(experiment, directory.path, jobs=1)
    again = directory.read(experiment).results["mlp"][1]
    assert again.fingerprint() == before.results["mlp"][1].fingerprint()


def test_a_result_without_logits_is_not_saved(done, experiment, tmp_path):
    run = OutputDirectory(done).read(experiment).results["mlp"][0]
    with pytest.raises(InputError, match="without logits and labels"):
        dataclasses.replace(run, outputs={}).save(tmp_path / "seed-0.json")
    assert not (tmp_path / "seed-0.json").exists()


def test_batches_digest_examples_and_weights():
    """Row positions stood for the examples: other examples at the same rows had the same digest."""
    labels = feature_set(40).labels
    sampler = make_sampler(SamplingConfig(), labels, batch_size=8, seed=0)
    ids = np.arange(40, dtype=np.uint64)
    assert order_digest(sampler, 2, ids) == order_digest(sampler, 2, ids)
    assert order_digest(sampler, 2, ids) != order_digest(sampler, 2, ids + np.uint64(1))
    drawn = [
        make_sampler(SamplingConfig(balanced=True, importance_weights=weigh), labels, batch_size=8, seed=0)
        for weigh in (True, False)
    ]
    np.testing.assert_array_equal(*(sampler.epoch(1).rows for sampler in drawn))
    assert order_digest(drawn[0], 2, ids) != order_digest(drawn[1], 2, ids)


def test_the_digest_of_batches_is_that_of_the_examples_that_ran(monkeypatch):
    """A fault at run time, where the plan is sound, shows in the digest."""
    from qwafer.training._train import Run

    sound = train(LINEAR, feature_set(), 0)
    batch = Run.batch
    monkeypatch.setattr(Run, "batch", lambda run, epoch: batch(run, 1))
    assert train(LINEAR, feature_set(), 0).digests.batches != sound.digests.batches


def test_batches_agree_between_arms_that_stop_at_different_epochs():
    options = TrainingConfig(epochs=6, batch_size=16, early_stopping=1)
    stopped = train(dataclasses.replace(LINEAR, training=options), feature_set(signal=0.0), 0)
    assert stopped.epochs_run < 6
    whole = train(dataclasses.replace(LINEAR, training=TrainingConfig(epochs=6, batch_size=16)), feature_set(), 0)
    assert stopped.digests.batches == whole.digests.batches


@pytest.mark.usefixtures("without_figures")
def test_runs_of_other_data_are_not_mixed(experiment, directory, tmp_path):
    """One file per seed in one directory: every seed is paired within itself, and no two seeds saw the same data."""
    other = feature_set(k=2, groups=lots(), seed=5)
    for arm, config in experiment.arms.items():
        train(config, other, 1, from_source=True).save(directory.run_path(arm, 1))
    results = directory.read(experiment).results
    digests = {arm: {seed: run.digests for seed, run in runs.items()} for arm, runs in results.items()}
    with pytest.raises(PairingError, match="arm linear with seeds 0 and 1 were made on different data"):
        check_pairing(digests, experiment.arms, {})
    with pytest.raises(PairingError, match="different data"):
        run_experiment(experiment, directory.path, jobs=1)


def test_data_may_differ_between_seeds_where_a_limit_draws_them():
    data = feature_set()

    def digests(config, given=data):
        return {"a": {seed: train(config, given, seed).digests for seed in (0, 1)}}

    drawn = dataclasses.replace(LINEAR, data=DataConfig(limit=80))
    found = digests(drawn)
    assert found["a"][0].data != found["a"][1].data
    assert found["a"][0].source == found["a"][1].source
    check_pairing(found, {"a": drawn}, {})
    found["a"][1] = train(drawn, feature_set(seed=3), 1).digests
    with pytest.raises(PairingError, match="different data"):
        check_pairing(found, {"a": drawn}, {})
    fixed = dataclasses.replace(LINEAR, data=DataConfig(limit=80, split_seed=0))
    found = digests(fixed)
    assert found["a"][0].data == found["a"][1].data
    check_pairing(found, {"a": fixed}, {})
    with pytest.raises(PairingError, match="different data"):
        check_pairing({"a": {0: Digests("d", "s"), 1: Digests("e", "s")}}, {"a": LINEAR}, {})


def test_a_run_on_features_that_were_given_does_not_call_them_synthetic(tmp_path):
    data = feature_set(provenance={"backbone": "mine", "data": {"source": "real.npz", "n_maps": 120}})
    run = train(LINEAR, data, 0)
    assert run.config["data"]["source"] == "given"
    assert run.config["data"]["backbone"] == "mine"
    assert not {"n_maps", "seed"} & set(run.config["data"])
    assert run.provenance == data.provenance
    assert sum(run.n_examples.values()) == 120
    run.save(tmp_path / "run.json")
    assert "synthetic" not in (tmp_path / "run.json").read_text()
    assert RunConfig.from_dict(RunResult.load(tmp_path / "run.json").config) == run.predictor.config
    run.predictor.save(tmp_path / "head.npz")
    assert Predictor.load(tmp_path / "head.npz").provenance == data.provenance == run.predictor.provenance
    tree = train(RunConfig(head=head_options("tree")), data, 0)
    assert tree.config["data"]["source"] == "given"
    assert tree.provenance == data.provenance
    assert sum(tree.n_examples.values()) == 120


def test_a_sweep_names_the_file_that_it_read(experiment, directory):
    run = directory.read(experiment).results["linear"][0]
    assert run.config["data"]["source"] == experiment.arms["linear"].data.source
    assert not {"n_maps", "seed"} & set(run.config["data"])


def test_provenance_counts_the_rows_that_were_used():
    data = feature_set(provenance={"data": {"n_maps": 120}})
    assert data.take(np.arange(50)).provenance["rows"] == {"taken": 50, "of": 120}
    assert data.take(np.arange(50)).take(np.arange(7)).provenance["rows"] == {"taken": 7, "of": 120}
    run = train(dataclasses.replace(LINEAR, data=DataConfig(limit=80)), data, 0)
    assert run.provenance["rows"] == {"taken": 80, "of": 120}
    assert sum(run.n_examples.values()) == 80


def test_a_quantum_run_in_double_precision_survives_its_file(tmp_path):
    config = RunConfig(
        head=head_options(),
        circuit=LayeredOptions(n_qubits=2, n_layers=1, dtype="float64"),
        engine=engines.get("xla"),
        training=TrainingConfig(epochs=1, batch_size=32),
    )
    run = train(config, feature_set(k=2), 0)
    run.save(tmp_path / "run.json")
    loaded = RunResult.load(tmp_path / "run.json")
    assert loaded.same_outputs(run)
    assert loaded.fingerprint() == run.fingerprint()
    assert loaded.outputs["test_logits"].dtype == np.float64


@pytest.mark.slow
def test_hundreds_of_runs_are_read_in_seconds(tmp_path, record_property):
    """375 runs of 3,900 test examples and 8 labels; no test asserts a time, the report of this one holds it."""
    run = train(LINEAR, feature_set(19_500, k=8, d=8), 0)
    path = tmp_path / "seed-0.json"
    run.save(path)
    start = time.perf_counter()
    for _ in range(375):
        assert RunResult.load(path).n_examples["test"] > 3800
    record_property("seconds", time.perf_counter() - start)
