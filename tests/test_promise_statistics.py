"""What a verdict is about, and what is refused before anything runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from qwafer import plan
from qwafer._errors import InputError
from qwafer.ablate import main as ablate
from qwafer.bench import main as bench
from qwafer.comparison import check_design, design_of, example_interval, planned_design
from qwafer.comparison.design import FEWEST_SEEDS
from qwafer.config import DataConfig
from qwafer.experiment import load_experiment
from qwafer.features import SourceFacts


def experiment_file(folder: Path, more: str = "") -> str:
    path = folder / "small.toml"
    path.write_text(f'head = "linear"\n{more}\n[arms.a]\n[arms.b]\ntraining.learning_rate = 1e-3\n')
    return str(path)


@pytest.mark.parametrize("verb", [ablate, bench])
@pytest.mark.parametrize("dry", [True, False])
def test_a_design_without_a_verdict_is_refused_before_it_runs(tmp_path, capsys, verb, dry):
    if verb is bench and dry:
        pytest.skip("bench has no dry run")
    out = tmp_path / "out"
    arguments = [experiment_file(tmp_path), "--out", str(out), "--seeds", "5", "--quiet", *["--dry-run"] * dry]
    assert verb(arguments) == 2
    error = capsys.readouterr().err
    assert "5 seeds cannot reach a verdict, which takes at least 6" in error
    assert "--descriptive" in error
    assert not out.exists()


def test_the_least_design_is_accepted(tmp_path):
    check_design(load_experiment(experiment_file(tmp_path, f"seeds = {FEWEST_SEEDS}")))
    with pytest.raises(InputError, match="cannot reach a verdict"):
        check_design(load_experiment(experiment_file(tmp_path, f"seeds = {FEWEST_SEEDS - 1}")))


def test_shipped_experiments_can_reach_a_verdict():
    from qwafer.experiment import shipped_experiments

    for path in shipped_experiments():
        check_design(load_experiment(path))


@pytest.mark.parametrize(
    ("options", "facts", "kind", "overlap"),
    [
        ({}, None, "new splits", 2 / (4 + 3 / 7)),
        ({"train_fraction": 0.5, "val_fraction": 0.25}, None, "new splits", 2 / (3 + 1)),
        ({"n_folds": 5}, None, "folds", 2 / (4 + 3 / 7)),
        ({"split_seed": 0}, None, "fixed split", 0.0),
        ({"split_by": "time"}, None, "fixed split", 0.0),
        ({"split_by": "group"}, None, "new splits", 2 / (4 + 3 / 7)),
        ({}, SourceFacts(kind="features", brings_split=True), "fixed split", 0.0),
    ],
)
def test_the_design_follows_from_the_data(options, facts, kind, overlap):
    design = planned_design(DataConfig(**options), facts)
    assert (design.kind, design.overlap) == (kind, pytest.approx(overlap))
    assert design.unit == ("lots" if options.get("split_by") == "group" else "examples")


@pytest.fixture
def runs(tmp_path):
    """Splits by seed, as digests say: `runs(["a", "b"])`."""
    from types import SimpleNamespace

    def make(splits):
        return {
            arm: {seed: SimpleNamespace(digests=SimpleNamespace(split=split)) for seed, split in enumerate(splits)}
            for arm in ("a", "b")
        }

    return make


def test_the_design_is_what_the_digests_prove(tmp_path, runs):
    experiment = load_experiment(experiment_file(tmp_path))
    assert design_of(experiment, runs("abcdef")).kind == "new splits"
    assert design_of(experiment, runs("aaaaaa")).kind == "fixed split"
    with pytest.raises(InputError, match="some seeds share a split"):
        design_of(experiment, runs("aabcde"))
    fixed = load_experiment(experiment_file(tmp_path), ["data.split_seed=0"])
    with pytest.raises(InputError, match="though the options fix one"):
        design_of(fixed, runs("abcdef"))


def test_a_report_of_one_split_says_so(tmp_path, capsys):
    """The last paragraph said "split and initialised anew" where the split was fixed."""
    out = tmp_path / "out"
    arguments = [experiment_file(tmp_path), "--out", str(out), "--seeds", "6", "--quiet"]
    small = ["data.n_maps=200", "data.split_seed=1", "training.epochs=1", "head.dropout=0.5"]
    options = [part for value in small[:3] for part in ("--set", value)]
    assert ablate([*arguments, *options]) == 0
    text = (out / "report.md").read_text()
    assert "On this one split, over initial values and batches" in text
    assert "another split may say otherwise" in text
    assert "split and initialised anew" not in text
    assert "rho = 0, as all seeds share one split" in text


def test_validation_cannot_judge(tmp_path, capsys):
    assert ablate([experiment_file(tmp_path, 'metric = "val.roc_auc"'), "--out", str(tmp_path / "o"), "--quiet"]) == 2
    assert "what picks cannot judge" in capsys.readouterr().err


def test_margin_of_file_and_command_line(tmp_path):
    assert load_experiment(experiment_file(tmp_path)).margin == 0.01
    experiment = load_experiment(experiment_file(tmp_path, "margin = 0.002"))
    assert experiment.margin == 0.002
    assert dataclasses.replace(experiment, margin=0.5).digest() == experiment.digest()
    for bad in ("0", "-1.0", "nan", "inf"):
        with pytest.raises(InputError, match="margin"):
            load_experiment(experiment_file(tmp_path, f"margin = {bad}"))
    with pytest.raises(InputError, match="margin"):
        load_experiment(experiment_file(tmp_path, 'margin = "wide"'))


def test_plan(tmp_path, capsys):
    path = experiment_file(tmp_path)
    assert plan.main([path, "--effect", "0.05", "--sd", "0.01", "0.02"]) == 0
    said = capsys.readouterr().out
    assert said.count(" seeds to show a difference of 0.05") == 2
    assert "On data like these" in said
    assert plan.main([path, "--effect", "0.02", "--sd", "0.05"]) == 1
    assert "up to 1,000 seeds do not suffice" in capsys.readouterr().out
    assert plan.main([path, "--effect", "0.005", "--sd", "0.05"]) == 2
    assert "larger than the margin" in capsys.readouterr().err
    counts = []
    for extra in ([], ["--set", "data.split_seed=0"]):
        assert plan.main([path, "--effect", "0.03", "--sd", "0.015", *extra]) == 0
        counts.append(int(capsys.readouterr().out.splitlines()[1].split()[0]))
    assert np.diff(counts)[0] < 0  # a statement about one split takes fewer seeds


class FakeRun:
    """Test logits of a linear score of two classes, as `example_interval` reads a run."""

    exclusive = False

    def __init__(self, scores, labels, ids, groups=None):
        self.logits, self.labels, self.ids = {"test": scores[:, None]}, {"test": labels[:, None]}, {"test": ids}
        self.groups = {} if groups is None else {"test": groups}
        self.test = dataclasses.make_dataclass("T", ["thresholds"])(np.zeros(1))


def draw_runs(rng, n_seeds, n, *, lots=None, shared=0.0):
    """Two arms of equal expected AUC; `shared` is the part of the noise that examples of a lot have in common."""
    groups = None if lots is None else np.repeat(np.arange(lots), n // lots)
    labels = rng.integers(0, 2, n) if groups is None else rng.integers(0, 2, lots)[groups]  # a lot has one class
    arms = []
    for _ in range(2):
        common = 0.0 if groups is None else shared * rng.standard_normal(lots)[groups]
        arms.append(labels + common + rng.standard_normal(n))
    found = {0: {}, 1: {}}
    for seed in range(n_seeds):
        rows = np.arange(n) if lots is not None else rng.permutation(n)[: n // 2]
        for arm, scores in enumerate(arms):
            noise = 0.1 * rng.standard_normal(len(rows))
            own = None if groups is None else groups[rows]
            found[arm][seed] = FakeRun(scores[rows] + noise, labels[rows], rows.astype(np.uint64), own)
    return found


@pytest.mark.parametrize(("lots", "shared"), [(None, 0.0), (30, 1.0)])
@pytest.mark.parametrize("metric", ["test.roc_auc", "test.f1_tuned"])
def test_the_interval_over_test_examples_covers(lots, shared, metric):
    """Zero is the truth. Of 300 intervals at 95%, at least 91% cover; taking lots for examples would cover far less."""
    rng = np.random.default_rng(4)
    covered, naive = 0, 0
    for _ in range(300):
        runs = draw_runs(rng, 4, 240, lots=lots, shared=shared)
        found = example_interval(runs[0], runs[1], metric)
        covered += found.low <= 0 <= found.high
        if lots is not None:
            for by_seed in runs.values():
                for run in by_seed.values():
                    run.groups = {}
            single = example_interval(runs[0], runs[1], metric)
            naive += single.low <= 0 <= single.high
            assert (found.unit, found.n_clusters, single.unit) == ("lots", lots, "examples")
            assert found.estimate == pytest.approx(single.estimate)
    assert covered / 300 >= 0.91
    if lots is not None:
        assert naive / 300 < 0.85


def test_an_interval_over_examples_that_cannot_be_had():
    rng = np.random.default_rng(0)
    runs = draw_runs(rng, 2, 100)
    assert example_interval(runs[0], runs[1], "test.loss") is None
    other = draw_runs(rng, 2, 100)
    assert example_interval(runs[0], other[1], "test.roc_auc") is None  # other examples
    assert example_interval(runs[0], {}, "test.roc_auc") is None
