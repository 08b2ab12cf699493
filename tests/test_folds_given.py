"""Folds that the data bring: seed s tests on fold s mod K, a fold counts once, and what assumes independence is not
printed.
"""

import dataclasses
import importlib.util
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from qwafer import FeatureSet, InputError, RunConfig, train
from qwafer.comparison.design import Design, check_comparable, check_design, design_of, planned_design
from qwafer.comparison.planning import plan_seeds, simulated_power
from qwafer.comparison.statistics import compare_arms
from qwafer.config import DataConfig
from qwafer.data import make_given_fold
from qwafer.execution import make_executor
from qwafer.experiment import load_experiment
from qwafer.features import facts_of
from qwafer.probes.run.execution import probe_claims
from qwafer.probes.run.inputs import split_as_stated
from qwafer.studies.ablation import run_experiment
from qwafer.training._prepare import prepare
from tests.factories import feature_set, head_options, training_options

ROOT = Path(__file__).resolve().parents[1]

OF_FOLDS = DataConfig(split_by="fold")


def with_folds(n: int = 120, k: int = 5, **fields) -> FeatureSet:
    """Examples in folds `1` to `k`, and, from ten folds on, one that sorts behind 9 as a number only."""
    return feature_set(n, folds=(1 + np.arange(n) * k // n).astype(str), **fields)


def compared(values: np.ndarray, design: Design, **options):
    """The comparison of an arm with values (n,) by seed, and a baseline of zeros."""
    by_seed = {"base": dict.fromkeys(range(len(values)), 0.0), "arm": dict(enumerate(values.tolist()))}
    return compare_arms(
        by_seed, baseline="base", metric="test.roc_auc", seeds=range(len(values)), design=design, **options
    )[0]


@pytest.mark.parametrize("k", [3, 5, 12])
def test_a_seed_tests_on_its_fold_and_validates_on_the_next(k):
    data = with_folds(120, k)
    config = RunConfig(head=head_options("linear"), data=OF_FOLDS)
    for seed in (0, 1, k - 1, k, 2 * k + 1):
        split = prepare(config, data, seed).split
        assert set(data.folds[split.test]) == {str(1 + seed % k)}
        assert set(data.folds[split.val]) == {str(1 + (seed + 1) % k)}
        assert len(split.test) + len(split.val) + len(split.train) == 120
        assert not split.notes
    digests = [prepare(config, data, seed).split.digest for seed in range(2 * k)]
    assert digests[:k] == digests[k:]
    assert len(set(digests)) == k
    fixed = RunConfig(head=head_options("linear"), data=DataConfig(split_by="fold", split_seed=2))
    assert {prepare(fixed, data, seed).split.digest for seed in range(4)} == {digests[2]}


def test_the_order_of_rows_does_not_matter_and_a_limit_draws_one_set():
    data = with_folds(120)
    order = np.random.default_rng(0).permutation(120)
    config = RunConfig(head=head_options("linear"), data=OF_FOLDS)
    assert prepare(config, data, 3).split.digest == prepare(config, data.take(order), 3).split.digest
    limited = RunConfig(head=head_options("linear"), data=DataConfig(split_by="fold", limit=60))
    runs = [prepare(limited, data, seed) for seed in range(5)]
    assert len({run.data_digest for run in runs}) == 1
    np.testing.assert_array_equal(np.sort(np.concatenate([run.split.test for run in runs])), np.arange(60))


def test_folds_that_cannot_be_are_refused():
    labels, ids = np.tile([[0], [1]], (20, 1)).astype(np.uint8), np.arange(40).astype(str)
    folds = (np.arange(40) % 4).astype(str)
    with pytest.raises(InputError, match="needs `folds`, and these data have none"):
        make_given_fold(labels, ids, None, seed=0)
    with pytest.raises(InputError, match="at least 3 folds"):
        make_given_fold(labels, ids, (np.arange(40) % 2).astype(str), seed=0)
    with pytest.raises(InputError, match="1 example stands in more than one fold"):
        make_given_fold(labels, np.where(ids == "1", "0", ids), folds, seed=0)
    few = RunConfig(head=head_options("linear"), data=DataConfig(split_by="fold", limit=10))
    with pytest.raises(InputError, match=re.escape("data.limit")):
        prepare(few, with_folds(400, 40), 0)
    with pytest.raises(InputError, match=r"`data.n_folds` cannot be combined with data.split_by = fold"):
        DataConfig(split_by="fold", n_folds=5)
    with pytest.raises(InputError, match="`folds` must be 120 strings"):
        feature_set(120, folds=np.zeros(120))


def test_folds_travel_with_the_features(tmp_path):
    data = with_folds(120)
    data.save(tmp_path / "f.npz")
    again = FeatureSet.load(tmp_path / "f.npz")
    np.testing.assert_array_equal(again.folds, data.folds)
    assert again.digest() == data.digest() != feature_set(120).digest()
    np.testing.assert_array_equal(data.take(np.array([119, 0])).folds, ["5", "1"])
    made = FeatureSet.from_arrays(data.features, data.labels, folds=np.arange(120) % 3)
    assert set(made.folds) == {"0", "1", "2"}
    assert facts_of(made).n_folds == 3
    assert facts_of(feature_set(120)).n_folds is None


def test_a_split_that_ignores_the_folds_says_so():
    config = RunConfig(head=head_options("linear"))
    assert any("data.split_by = fold" in note for note in prepare(config, with_folds(), 0).notes)
    by_fold = RunConfig(head=head_options("linear"), data=OF_FOLDS)
    assert not any("fold" in note for note in prepare(by_fold, with_folds(), 0).notes)


def test_the_design_of_given_folds():
    design = planned_design(OF_FOLDS, facts_of(with_folds(k=10)))
    f, g = 0.8, 0.1
    assert design == Design("given folds", 2 / ((1 - g) / g + (1 - f) / f), "examples", 10)
    assert "the 10 folds that the data bring" in design.about
    assert planned_design(DataConfig(split_by="fold", split_seed=0), facts_of(with_folds())).kind == "fixed split"
    assert planned_design(DataConfig(), facts_of(with_folds())).kind == "new splits"


def test_a_fold_counts_once():
    """t = m / (s sqrt(1/K + rho)) of the K fold means with K - 1 degrees of freedom; seeds of a fold are averaged."""
    rng = np.random.default_rng(0)
    design = planned_design(OF_FOLDS, facts_of(with_folds()))
    d = rng.normal(0.02, 0.01, 15)
    c = compared(d, design)
    means = d.reshape(3, 5).mean(axis=0)
    t = means.mean() / (means.std(ddof=1) * math.sqrt(1 / 5 + design.overlap))
    assert c.n_units == 5
    assert (c.mean, c.sd) == (pytest.approx(means.mean()), pytest.approx(means.std(ddof=1)))
    assert c.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    half = stats.t.isf(0.025, 4) * means.std(ddof=1) * math.sqrt(1 / 5 + design.overlap)
    assert c.interval == pytest.approx((means.mean() - half, means.mean() + half))
    assert "over 15 seeds on 5 folds" in c.sentence


def test_repeating_a_fold_does_not_shrink_the_interval():
    design = planned_design(OF_FOLDS, facts_of(with_folds()))
    d = np.array([0.01, 0.03, 0.02, 0.05, -0.01])
    once, often = compared(np.tile(d, 2), design), compared(np.tile(d, 20), design)
    assert once.interval == pytest.approx(often.interval)
    assert once.p == pytest.approx(often.p)


def test_an_incomplete_fold_keeps_its_weight_and_too_few_folds_have_no_verdict():
    design = planned_design(OF_FOLDS, facts_of(with_folds(k=10)))
    d = np.arange(12.0)
    c = compared(d, design)
    np.testing.assert_allclose(c.mean, np.mean([(0 + 10) / 2, (1 + 11) / 2, *range(2, 10)]))
    values = {"base": dict.fromkeys(range(30), 0.0), "arm": {s: float(s) for s in range(30) if s % 10 < 4}}
    few = compare_arms(values, baseline="base", metric="test.f1", seeds=range(30), design=design)[0]
    assert few.verdict == "too few seeds"
    assert "at least 5 folds" in few.sentence
    assert few.p is few.interval is None


@pytest.mark.parametrize("kind", ["given folds", "folds", "new splits"])
def test_no_p_value_of_independent_runs_where_runs_depend_on_each_other(kind):
    """The sign-flip test takes the differences for independent: over folds and splits that overlap it is not given."""
    d = np.linspace(0.01, 0.02, 20)
    n_folds = 5 if kind == "given folds" else None
    assert compared(d, Design(kind, 0.25, n_folds=n_folds)).sign_flip_p is None
    assert compared(d, Design("fixed split", 0.0)).sign_flip_p == pytest.approx(2 / 2**20)


def test_more_seeds_than_folds_buy_no_power():
    design = planned_design(OF_FOLDS, facts_of(with_folds()))
    few, many = (simulated_power(0.03, 0.01, n, design=design, n_simulations=4000) for n in (10, 40))
    assert few == many
    plan = plan_seeds(0.011, 0.01, design=design, n_simulations=400)
    assert plan.seeds is None
    assert "the seeds share one data set" in plan.sentence


def fold_errors(overlap: float, by_fold: bool, repeats: int, n_simulations: int, part: float) -> float:
    """How often a two-sided 5% test rejects where arms are equal: K = 5 folds whose differences are correlated as
    `overlap` says make `part` of the variance, initial values the rest.
    """
    rng = np.random.default_rng(0)
    k, rho = 5, 0.4
    shared = rng.standard_normal((n_simulations, 1, 1)) * math.sqrt(rho)
    folds = rng.standard_normal((n_simulations, 1, k))
    d = math.sqrt(part) * (shared + folds)
    d = d + math.sqrt(1 - part) * rng.standard_normal((n_simulations, repeats, k))
    units = d.mean(axis=1) if by_fold else d.reshape(n_simulations, -1)
    n = units.shape[1]
    t = units.mean(axis=1) / (units.std(axis=1, ddof=1) * math.sqrt(1 / n + overlap))
    return float(np.mean(2 * stats.t.sf(np.abs(t), n - 1) < 0.05))


@pytest.mark.parametrize("part", [0.2, 0.8, 1.0])
def test_type_one_errors_of_fold_means_stay_at_five_percent(part):
    """Over J = folds x seeds the same formula errs more often, and without a correction in up to 70%."""
    error = 3 * math.sqrt(0.05 * 0.95 / 20_000)
    assert fold_errors(0.4, True, 4, 20_000, part) <= 0.05 + error
    if part == 1.0:
        assert fold_errors(0.4, False, 4, 20_000, part) > 0.08
        assert fold_errors(0.0, False, 4, 20_000, part) > 0.5


def test_an_experiment_over_given_folds(tmp_path):
    """From the file to the summary: designs by digest, a fold counted once, no p value that takes runs for new."""
    with_folds(150, signal=1.5).save(tmp_path / "f.npz")
    file = tmp_path / "e.toml"
    file.write_text(
        f"""title = "t"\nseeds = 7\nmetric = "test.roc_auc"\n[data]\nsource = "{tmp_path / "f.npz"}"\ntask = "L0"
split_by = "fold"\n[training]\nepochs = 2\nmax_doublings = 0\nbatch_size = 32\n[arms.a]\nhead = "linear"
[arms.b]\nhead.name = "linear"\ntraining.learning_rate = 0.1\n"""
    )
    experiment = load_experiment(str(file))
    check_design(experiment)
    check_comparable(experiment)
    with pytest.raises(InputError, match="5 seeds cannot reach a verdict"):
        check_design(dataclasses.replace(experiment, seeds=tuple(range(5))))
    with pytest.raises(InputError, match="test on 1 fold, and a verdict takes at least 5"):
        check_design(dataclasses.replace(experiment, seeds=tuple(range(0, 50, 5))))
    mixed = dict(experiment.arms)
    mixed["b"] = dataclasses.replace(mixed["b"], data=dataclasses.replace(mixed["b"].data, split_by="content"))
    with pytest.raises(InputError, match="the folds that the data bring"):
        check_comparable(dataclasses.replace(experiment, arms=mixed))
    outcome = run_experiment(experiment, tmp_path / "out", executor=make_executor("serial", 1))
    c = outcome.summary.comparisons[0]
    assert outcome.summary.design.kind == "given folds"
    assert (c.n_units, len(c.seeds), c.sign_flip_p) == (5, 7, None)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "the 5 folds that the data bring" in report
    assert "sign flips" not in report.lower()
    runs = {arm: dict(by_seed) for arm, by_seed in outcome.results.results.items()}
    runs["a"][6] = dataclasses.replace(runs["a"][6], digests=runs["a"][5].digests)
    with pytest.raises(InputError, match="seed 6"):
        design_of(experiment, runs)


def test_the_probes_of_a_run_know_folds():
    """A run by fold is what it says; one of another split is not."""
    data = with_folds(150)
    config = RunConfig(
        data=DataConfig(split_by="fold", limit=140), head=head_options("linear"), training=training_options(epochs=1)
    )
    run = train(config, data, 7)
    assert [report.name for report in probe_claims(run, data) if report.verdict == "fail"] == []
    split = prepare(config, data, 7).split
    assert split_as_stated(config, data, 7, split).verdict == "pass"
    other = prepare(dataclasses.replace(config, data=DataConfig(limit=140, split_seed=0)), data, 7).split
    report = split_as_stated(config, data, 7, other)
    assert report.verdict == "fail"
    assert "the split is by fold" in report.headline


@pytest.mark.slow
def test_trained_discriminants_err_no_more_on_given_folds():
    """Near chance, through the library's own splits and verdicts: benchmarks/coverage.py has all replications."""
    spec = importlib.util.spec_from_file_location("qwafer_coverage_folds", ROOT / "benchmarks" / "coverage.py")
    coverage = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = coverage  # dataclasses look their module up
    spec.loader.exec_module(coverage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "DESIGNS", coverage.DESIGNS[-1:])
        cells = list(coverage.verdict_errors(400))
    assert {cell.case.split(";")[0] for cell in cells} == {"given folds (5)"}
    assert all(cell.holds(3.0) for cell in cells)
