"""Comparisons that say what they cannot say: refused before anything runs, or said in the verdict's own sentence."""

import dataclasses
import shutil

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.comparison import check_comparable, design_of, example_interval, planned_design
from qwafer.comparison.design import paired_designs
from qwafer.comparison.runs import check_same_data
from qwafer.comparison.statistics import compare_arms
from qwafer.config import DataConfig
from qwafer.execution import make_executor
from qwafer.experiment import load_experiment
from qwafer.studies import run_benchmark, run_experiment
from qwafer.sweeps.ledger import read_ledger
from tests.factories import feature_set

BASE = 'seeds = 6\nhead = "linear"\ntraining.epochs = 2\ntraining.batch_size = 16\n'


@pytest.fixture
def make(tmp_path):
    """An experiment on features: `make(arm b, of the base, features)`."""

    def experiment(b="training.learning_rate = 1e-3", base="", name="e", **fields):
        feature_set(**{"k": 2, **fields}).save(tmp_path / f"{name}.npz")
        file = tmp_path / f"{name}.toml"
        file.write_text(f"{base}\n{BASE}[arms.a]\n[arms.b]\n{b}\n")
        return load_experiment(file, [f"data.source={tmp_path / f'{name}.npz'}"])

    return experiment


def classes(n=150):
    """Features with three exclusive classes."""
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[rng.integers(0, 3, n)]
    return {"n": n, "k": 3, "labels": labels, "exclusive": True}


def given_split(n=120):
    return np.array(["train", "train", "train", "val", "test", "test"] * (n // 6))


@pytest.mark.parametrize(
    ("b", "base", "fields", "message"),
    [
        ('data.task = "L0"', "", {}, "arms a and b cannot be compared: data.task is multilabel and L0"),
        ("data.split_seed = 1", "", {}, "one has the same split with every seed, the other a new one"),
        ('data.split_by = "time"', "", {"times": np.arange(120.0)}, "one has the same split with every seed"),
        ('head.normalize = "raw"', 'metric = "test.accuracy"', {}, "not defined in arm a: it is that of exclusive"),
        ('head.normalize = "raw"', 'metric = "test.top_label_ece"', {}, "not defined in arm a"),
        ('objective.loss = "softmax"', 'metric = "test.f1_tuned"', classes(), "not defined in arm b: the largest"),
        ('objective.loss = "softmax"', 'metric = "test.loss"', classes(), "cannot be compared on test.loss"),
        ('head.normalize = "raw"', "data.limit = 80", {"split": given_split()}, "`data.limit` in arm a draws other"),
        ('head.normalize = "raw"', 'data.limit = 80\ndata.split_by = "time"', {"times": np.arange(120.0)}, "stays"),
    ],
)
def test_what_no_run_can_decide_is_refused_before_it_runs(make, tmp_path, b, base, fields, message):
    """These trained all runs, and then said that nothing could be said, or compared what is no pair."""
    experiment = make(b, base, **fields)
    for study in (run_experiment, run_benchmark):
        with pytest.raises(InputError, match=message):
            study(experiment, tmp_path / "out", executor=make_executor("serial", 1), descriptive=True)
    assert not (tmp_path / "out").exists()


def test_arms_that_can_be_compared_are_not_refused(make):
    check_comparable(make("data.train_fraction = 0.5"))
    check_comparable(make('objective.loss = "softmax"', 'metric = "test.f1"', **classes()))
    check_comparable(make('head.normalize = "raw"', "data.limit = 80\ndata.split_seed = 0", split=given_split()))
    check_comparable(make('head.normalize = "raw"', 'metric = "test.accuracy"\nobjective = "softmax"', **classes()))


@pytest.mark.parametrize(
    ("b", "fields", "message"),
    [
        ("data.train_fraction = 0.5", {}, "would have different examples: they differ in data.train_fraction"),
        ('objective.loss = "softmax"', classes(), "must decide alike"),
    ],
)
def test_heads_of_a_benchmark_share_examples_and_decisions(make, b, fields, message):
    with pytest.raises(InputError, match=message):
        check_same_data(make(b, **fields))


def test_the_overlap_of_a_design_is_the_largest_of_its_arms(make):
    experiment = make("data.train_fraction = 0.3")
    assert design_of(experiment, {}).overlap == planned_design(DataConfig(train_fraction=0.3)).overlap
    assert design_of(experiment, {}).overlap > planned_design(DataConfig()).overlap


def test_a_verdict_between_splits_by_lot_and_by_example_names_both(make):
    """It spoke of the baseline's split alone."""
    experiment = make('data.split_by = "group"', groups=np.array([f"lot {i % 12}" for i in range(120)]))
    design = design_of(experiment, {})
    designs = paired_designs(experiment, design)
    assert "over splits by example or lot, " in designs["b"].about
    assert "over splits by example, " in designs["a"].about
    values = {arm: {seed: offset + 0.01 * seed**2 for seed in range(8)} for arm, offset in (("a", 0.5), ("b", 0.6))}
    values["b"][0] += 0.01
    options = {"baseline": "a", "metric": "test.roc_auc", "seeds": range(8), "designs": designs}
    (found,) = compare_arms(values, design=design, **options)
    assert found.sentence.startswith("On data like these, over splits by example or lot, initial values and batches")


@pytest.mark.usefixtures("without_figures")
def test_an_interval_over_examples_needs_one_kind_of_labels_and_decisions(make, tmp_path):
    """It read the baseline's scores against the arm's labels, and the labels' thresholds as an arg max."""
    experiment = make('objective.loss = "softmax"', 'metric = "test.f1"', **classes())
    outcome = run_experiment(experiment, tmp_path / "out", executor=make_executor("serial", 1))
    assert outcome.summary.examples == {}
    runs = outcome.results.results["a"]
    found = example_interval(runs, runs, "test.f1")
    assert found is not None
    other = {
        seed: dataclasses.replace(run, outputs={**run.outputs, "test_labels": 1 - run.outputs["test_labels"]})
        for seed, run in runs.items()
    }
    assert example_interval(other, runs, "test.f1") is None


def test_a_verdict_says_how_many_seeds_it_leaves_out():
    design = planned_design(DataConfig(split_seed=0))
    values = {arm: {seed: offset + 0.01 * seed for seed in range(8)} for arm, offset in (("a", 0.5), ("b", 0.6))}
    values["b"] = {seed: value + 0.001 * (seed % 3) for seed, value in values["b"].items()}
    (whole,) = compare_arms(values, baseline="a", metric="test.roc_auc", seeds=range(8), design=design)
    assert "over 8 seeds" in whole.sentence
    values["b"][3] = None
    (part,) = compare_arms(values, baseline="a", metric="test.roc_auc", seeds=range(8), design=design)
    assert "over 7 of 8 seeds" in part.sentence
    none = {arm: dict.fromkeys(range(8)) for arm in "ab"}
    (undefined,) = compare_arms(none, baseline="a", metric="test.accuracy", seeds=range(8), design=design)
    assert "no seed has both runs with a defined test.accuracy" in undefined.sentence


@pytest.mark.usefixtures("without_figures")
def test_runs_of_another_directory_are_refused_even_all_of_them(make, tmp_path):
    """The report named the data of its own directory above the results of the other."""
    first, second = make(), make(name="other", seed=5)
    second = dataclasses.replace(second, name="e")
    outs = [tmp_path / "first", tmp_path / "second"]
    for experiment, out in zip((first, second), outs, strict=True):
        run_experiment(experiment, out, executor=make_executor("serial", 1))
    shutil.rmtree(outs[0] / "runs")
    shutil.copytree(outs[1] / "runs", outs[0] / "runs")
    with pytest.raises(InputError, match=r"first/runs/a/seed-0.json was made on different data .*delete it"):
        run_experiment(first, outs[0], executor=make_executor("serial", 1))


def test_benchmarks_beside_each_other_share_their_ledger(make, tmp_path):
    """Each kept one of its own, inside its directory, so that none knew of the others."""
    experiment = make()
    for name in ("one", "two"):
        run_benchmark(
            dataclasses.replace(experiment, name=name, seeds=(0,)),
            tmp_path / name,
            executor=make_executor("serial", 1),
            n_resamples=20,
            descriptive=True,
        )
    assert "by 2 experiments from this folder: one (2 runs), two (2 runs)" in (tmp_path / "two/report.md").read_text()


@pytest.mark.usefixtures("without_figures")
def test_the_same_experiment_in_another_directory_is_counted_apart(make, tmp_path):
    """Other seeds, or the same ones with another expectation, were one line of the ledger: shopping left no trace."""
    experiment = make()
    for name, seeds in (("one", (0, 1)), ("two", (2, 3))):
        outcome = run_experiment(
            dataclasses.replace(experiment, seeds=seeds),
            tmp_path / name,
            executor=make_executor("serial", 1),
            descriptive=True,
        )
    assert "e in one (4 runs), e in two (4 runs); choosing between them" in outcome.report.read_text()


@pytest.mark.usefixtures("without_figures")
def test_runs_that_were_deleted_and_done_again_are_counted_again(make, tmp_path):
    experiment = dataclasses.replace(make(), seeds=(0, 1))
    for _ in range(2):
        run_experiment(experiment, tmp_path / "out", executor=make_executor("serial", 1), descriptive=True)
        shutil.rmtree(tmp_path / "out")
    (reads,) = read_ledger(tmp_path / "out").data.values()
    assert [read.runs for read in reads] == [8]


def test_a_benchmark_shows_one_seed_of_all_heads_and_counts_each(make, tmp_path, monkeypatch):
    """A head without the first seed was shown with its second, under "seed 0"."""
    import qwafer.training

    real = qwafer.training.train

    def train(config, data, seed, **options):
        if seed == 0 and config.training.learning_rate == 1e-3:
            raise RuntimeError("boom.")
        return real(config, data, seed, **options)

    monkeypatch.setattr(qwafer.training, "train", train)
    found = run_benchmark(
        dataclasses.replace(make(), seeds=(0, 1)),
        tmp_path / "out",
        executor=make_executor("serial", 1),
        n_resamples=20,
        descriptive=True,
    )
    assert {record.seed for record in found.records.values()} == {1}
    text = (tmp_path / "out/report.md").read_text()
    assert "of the test examples of seed 1, " in text
    assert "**Seeds**: a 2, b 1." in text
    assert "seed 0," not in text
    assert "left out of every comparison: boom." in text


@pytest.mark.usefixtures("without_figures")
def test_an_arm_in_which_the_seed_changes_nothing_is_one_run(make, tmp_path):
    experiment = make('head.normalize = "raw"', "data.split_seed = 0")
    seeds = (0, 1)
    outcome = run_experiment(
        dataclasses.replace(experiment, seeds=seeds),
        tmp_path / "out",
        executor=make_executor("serial", 1),
        descriptive=True,
    )
    assert not any("the seed changes nothing" in warning for warning in outcome.summary.warnings)
    from qwafer.comparison.caveats import _repeated

    runs = outcome.results.results["a"]
    (said,) = _repeated({"a": dict.fromkeys(seeds, runs[0]), "b": runs})
    assert said.startswith("a: all 2 runs measured the same to the last bit")


@pytest.mark.usefixtures("without_figures")
def test_runs_on_features_are_read_again_where_the_file_describes_synthetic_maps(make, tmp_path):
    """Results leave out the generator's options, and their digest did not: every run was lost after its training."""
    experiment = make()
    data = dataclasses.replace(experiment.arms["a"].data, n_maps=300, seed=3)
    arms = {arm: dataclasses.replace(config, data=data) for arm, config in experiment.arms.items()}
    outcome = run_experiment(
        dataclasses.replace(experiment, arms=arms, seeds=(0,)),
        tmp_path / "out",
        executor=make_executor("serial", 1),
        descriptive=True,
    )
    assert outcome.n_failed == 0
    assert experiment.digest() == dataclasses.replace(experiment, arms=arms).digest()
