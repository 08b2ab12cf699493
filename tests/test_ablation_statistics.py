"""Paired statistics against closed forms and SciPy, and the verdict that follows from them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qwafer._errors import InputError
from qwafer.comparison.design import FEWEST_SEEDS, Design
from qwafer.comparison.planning import detectable_effect, plan_seeds, simulated_power
from qwafer.comparison.statistics import (
    compare_arms,
    holm,
    holm_levels,
    paired_t_interval,
    paired_t_p,
    pseudomedian,
    sign_flip_p,
)

FIXED = Design("fixed split", 0.0)
RESPLIT = Design("new splits", 2 / 7)

differences = st.lists(st.integers(-30, 30).map(lambda k: k / 8), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(differences)
def test_sign_flip_counts_every_flip(values):
    """Dyadic values, so that sums and ties are exact."""
    d = np.array(values)
    flips = np.array(list(itertools.product((-1, 1), repeat=d.size)))
    assert sign_flip_p(d) == np.mean(np.abs(flips @ d) >= abs(d.sum()))


@pytest.mark.parametrize("n", [2, 7, 12])
def test_sign_flip_equals_scipy(n):
    d = np.random.default_rng(n).normal(0.3, 1.0, n)
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(d) == pytest.approx(expected.pvalue, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 8, 21, 40])
def test_equal_signs_reach_the_smallest_p(n):
    """Only the two flips of all signs reach the observed sum."""
    assert sign_flip_p(np.linspace(1, 2, n)) == 2.0 ** (1 - n)


@settings(max_examples=40, deadline=None)
@given(differences, st.sampled_from([0.1, -1.0, 3e-7, 1e9]))
def test_sign_flip_ignores_scale_sign_order_and_zeros(values, factor):
    d = np.array(values)
    p = sign_flip_p(d)
    assert sign_flip_p(factor * d) == p
    assert sign_flip_p(d[::-1]) == p
    assert sign_flip_p(np.append(d, [0.0, 0.0])) == p
    assert 0 < p <= 1


def test_sign_flip_of_zeros():
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(np.array([])) == 1.0


def test_sign_flip_beyond_enumeration():
    """41 equal differences: the number of minus signs is binomial."""
    d = np.where(np.arange(41) < 27, 1.0, -1.0)
    exact = 2 * stats.binom.sf(26, 41, 0.5)
    assert sign_flip_p(d) == pytest.approx(exact, rel=0.05)
    assert sign_flip_p(d) == sign_flip_p(d)
    assert sign_flip_p(d[:40]) == pytest.approx(2 * stats.binom.sf(26, 40, 0.5), rel=1e-12)


def test_paired_t_equals_scipy():
    d = np.random.default_rng(3).normal(0.4, 1.0, 9)
    expected = stats.ttest_1samp(d, 0.0)
    assert paired_t_p(d.mean(), d.std(ddof=1), 9) == pytest.approx(expected.pvalue, rel=1e-12)
    assert paired_t_interval(d.mean(), d.std(ddof=1), 9) == pytest.approx(tuple(expected.confidence_interval()))


def test_overlap_widens_as_nadeau_and_bengio():
    """Ten splits of 70 to 20: the variance of the mean is (1/10 + 2/7) sigma^2 instead of 1/10."""
    narrow, wide = (np.ptp(paired_t_interval(0.0, 1.0, 10, overlap)) for overlap in (0.0, 2 / 7))
    assert wide / narrow == pytest.approx(math.sqrt((1 / 10 + 2 / 7) * 10))


@settings(max_examples=80, deadline=None)
@given(
    st.floats(-2, 2), st.floats(0.01, 3), st.integers(2, 30), st.sampled_from([0.0, 0.25, 1.0]), st.floats(0.9, 0.999)
)
def test_interval_inverts_the_test(mean, sd, n, overlap, level):
    low, high = paired_t_interval(mean, sd, n, overlap, level)
    p = paired_t_p(mean, sd, n, overlap)
    if abs(p - (1 - level)) > 1e-9:
        assert (low > 0 or high < 0) == (p < 1 - level)


def test_p_without_spread():
    assert paired_t_p(0.0, 0.0, 8) == 1.0
    assert paired_t_p(0.1, 0.0, 8) == 0.0


def test_pseudomedian_ignores_one_run():
    values = np.array([0.01, 0.012, 0.009, 0.011, 0.01, 0.013, 0.008, -0.4])
    assert values.mean() < 0
    assert pseudomedian(values) == pytest.approx(0.01, abs=0.001)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=8))
def test_levels_are_those_of_holms_steps(p_values):
    """p < 1 - level, the interval excludes zero, exactly where Holm rejects; no level is below 95%."""
    adjusted, levels = holm(p_values), holm_levels(p_values)
    for p, p_holm, level in zip(p_values, adjusted, levels, strict=True):
        assert level >= 0.95 - 1e-12
        if abs(p - (1 - level)) > 1e-9:
            assert (p < 1 - level) == (p_holm <= 0.05)


def compare(arm, baseline=None, **options):
    arm = dict(enumerate(arm))
    baseline = dict.fromkeys(arm, 0.5) if baseline is None else dict(enumerate(baseline))
    options = {"baseline": "base", "metric": "test.roc_auc", "seeds": tuple(arm), "design": FIXED} | options
    return compare_arms({"base": baseline, "new": arm}, **options)[0]


UP = np.array([0.02, 0.05, 0.01, 0.04, 0.03, 0.06, 0.02, 0.03])


def test_statistics_of_a_comparison():
    c = compare(0.5 + UP, design=RESPLIT)
    assert c.differences == pytest.approx(UP)
    assert (c.arm, c.baseline, c.metric, c.seeds) == ("new", "base", "test.roc_auc", tuple(range(8)))
    assert (c.mean, c.sd) == (pytest.approx(UP.mean()), pytest.approx(UP.std(ddof=1)))
    assert c.p == c.p_holm == paired_t_p(c.mean, c.sd, 8, 2 / 7)
    assert c.interval == paired_t_interval(c.mean, c.sd, 8, 2 / 7)
    assert c.level == 0.95
    assert c.sign_flip_p is None  # which takes the differences for independent
    assert compare(0.5 + UP).sign_flip_p == 2.0**-7
    assert c.verdict == "better"
    assert f"[{c.interval[0]:+.4g}, {c.interval[1]:+.4g}]: better (p = {c.p:.3g})" in c.sentence


def test_the_sentence_says_what_the_verdict_is_about():
    """The same differences: of one split they show something, of splits that overlap they show less."""
    d = 0.5 + np.array([0.012, 0.03, -0.002, 0.02, 0.015, 0.03, 0.004, 0.02])
    fixed, resplit = compare(d), compare(d, design=RESPLIT)
    assert (fixed.verdict, resplit.verdict) == ("better", "undecided")
    assert fixed.sentence.startswith("On this one split, over initial values and batches, ")
    assert resplit.sentence.startswith("On data like these, over splits by example, initial values and batches, ")
    lots = compare(d, design=Design("new splits", 0.3, "lots"))
    assert "over splits by lot" in lots.sentence


def test_direction():
    worse = [0.4, 0.42, 0.45, 0.44, 0.41, 0.4, 0.39, 0.44]
    assert compare(worse).verdict == "worse"
    assert compare(worse, higher_is_better=False).verdict == "better"


def test_no_difference_shown_is_not_equal():
    noisy = compare(0.5 + np.random.default_rng(5).normal(0.002, 0.02, 8))
    assert noisy.verdict == "undecided"
    assert "differences beyond the margin of 0.01 are not excluded" in noisy.sentence
    same = compare(0.5 + np.random.default_rng(5).normal(0.002, 0.002, 8))
    assert same.verdict == "equivalent"
    assert "within the margin of 0.01" in same.sentence
    assert compare(0.5 + np.random.default_rng(5).normal(0.002, 0.002, 8), margin=0.001).verdict != "equivalent"


def test_a_negligible_difference_is_equivalent():
    """1.5e-5 of a loss on every seed was "worse, p = 0.016"."""
    c = compare(0.5 + 1.5e-5 * (1 + np.arange(8) / 100), higher_is_better=False)
    assert c.p < 0.001
    assert c.verdict == "equivalent"


@pytest.mark.parametrize("margin", [0, -0.1, 0.51, math.nan, math.inf])
def test_margin_must_be_positive(margin):
    with pytest.raises(InputError, match="margin"):
        compare([0.5, 0.6], margin=margin)


def test_too_few_seeds():
    c = compare([0.9, 0.91, 0.9, 0.92, 0.9])
    assert c.verdict == "too few seeds"
    assert "at least 6" in c.sentence
    assert (c.interval, c.level, c.p, c.p_holm) == (None, None, None, None)
    assert compare([0.9]).verdict == "too few seeds"
    assert compare([0.9]).sd is None
    assert compare([0.9, 0.91, 0.9, 0.92, 0.9, 0.93]).verdict == "better"


def test_without_convergence_there_is_no_verdict():
    assert compare(0.5 + UP, unconverged={"new": {0, 1}}).verdict == "better"
    for arm in ("new", "base"):
        c = compare(0.5 + UP, unconverged={arm: {0, 1, 5}})
        assert c.verdict == "not converged"
        assert f"3 of 8 runs of {arm} had not converged" in c.sentence


def test_a_collapsed_run_leaves_no_verdict_on_the_mean():
    values = 0.9 + UP / 10
    values[3] = 0.5
    c = compare(values, np.full(8, 0.88) + UP / 20)
    assert c.collapsed == {"new": (3,)}
    assert c.verdict == "collapsed"
    assert "1 of 8 runs of new collapsed (seed 3)" in c.sentence
    assert f"{c.pseudomedian:+.4g}" in c.sentence
    assert compare(values, values[::-1] * 0 + 0.88, higher_is_better=False).collapsed == {}


def test_few_sound_arms_collapse():
    rng = np.random.default_rng(1)
    found = sum(
        bool(compare(0.9 + 0.02 * rng.standard_normal(8), 0.9 + 0.02 * rng.standard_normal(8)).collapsed)
        for _ in range(2000)
    )
    assert found / 2000 < 0.02


def test_identical_values():
    c = compare([0.5] * 8)
    assert c.verdict == "identical"
    assert (c.mean, c.sd, c.p, c.sign_flip_p, c.interval) == (0, 0, 1, 1, (0, 0))


def test_equal_differences():
    """One run repeated eight times was "better (p = 0)"."""
    c = compare([0.6] * 8, [0.5] * 8)
    assert c.sd == 0
    assert c.verdict == "no spread"
    assert "the seeds repeat one result" in c.sentence


def test_seeds_without_both_runs_are_dropped_and_listed():
    arm = [0.6, None, 0.7, math.nan, 0.6, 0.65, 0.7, 0.6, 0.62]
    c = compare(arm)
    assert c.dropped_seeds == (1, 3)
    assert c.seeds == (0, 2, 4, 5, 6, 7, 8)
    baseline = dict.fromkeys(range(9), 0.5)
    del baseline[0]
    runs = {"base": baseline, "new": dict(enumerate(arm))}
    c = compare_arms(runs, baseline="base", metric="m", seeds=range(9), design=FIXED)[0]
    assert c.dropped_seeds == (0, 1, 3)


def test_no_data():
    c = compare([None, None])
    assert c.verdict == "no data"
    assert (c.mean, c.p, c.sign_flip_p) == (None, None, None)


def test_several_arms_are_corrected():
    """p = 0.02 each: enough for one comparison, not for four; an arm without data does not count."""
    base = dict.fromkeys(range(8), 0.5)
    up = {seed: 0.5 + value for seed, value in zip(base, UP - 0.014, strict=True)}
    arms = {"base": base} | {f"arm{i}": dict(up) for i in range(4)} | {"empty": {}}
    found = compare_arms(arms, baseline="base", metric="m", seeds=tuple(base), design=FIXED)
    assert [c.arm for c in found] == ["arm0", "arm1", "arm2", "arm3", "empty"]
    for c in found[:4]:
        assert c.n_comparisons == 4
        assert 0.0125 < c.p < 0.05
        assert c.p_holm == pytest.approx(4 * c.p)
        assert c.level == pytest.approx(1 - 0.05 / 4)
        assert c.interval[0] < 0 < c.interval[1]
        assert c.verdict == "undecided"
    assert found[4].verdict == "no data"


def test_unknown_baseline():
    with pytest.raises(InputError, match="baseline"):
        compare_arms({"a": {}}, baseline="b", metric="m", seeds=(0,), design=FIXED)


@pytest.mark.parametrize(("effect", "m"), [(1.5, 1), (2.0, 4)])
def test_simulated_power_is_that_of_the_verdicts(effect, m):
    """The vectorised simulation against `compare_arms` itself on 1,500 simulated experiments."""
    rng, n, hits = np.random.default_rng(7), 8, 0
    for _ in range(1500):
        base = rng.standard_normal((1, n))
        noise = (rng.standard_normal((m, n)) - base) / math.sqrt(2)
        noise[0] += effect
        values = {"base": dict.fromkeys(range(n), 0.0)} | {f"a{i}": dict(enumerate(row)) for i, row in enumerate(noise)}
        found = compare_arms(values, baseline="base", metric="m", seeds=range(n), design=FIXED, margin=0.01)
        hits += found[0].verdict == "better"
    power = simulated_power(effect, 1.0, n, design=FIXED, n_comparisons=m)
    assert hits / 1500 == pytest.approx(power, abs=0.04)


def test_a_plan_holds_what_it_says():
    plan = plan_seeds(0.02, 0.02, design=FIXED, n_comparisons=3)
    assert plan.reached >= 0.8 > simulated_power(0.02, 0.02, plan.seeds - 1, design=FIXED, n_comparisons=3)
    # Cohen's table asks for 10 pairs at d_z = 1 and 80%; Holm's first step of three for more.
    assert plan_seeds(0.02, 0.02, design=FIXED).seeds == pytest.approx(10, abs=1)
    assert plan.seeds > 10
    assert f"{plan.seeds} seeds to show a difference of 0.02" in plan.sentence


def test_overlapping_splits_may_need_more_data_than_seeds():
    plan = plan_seeds(0.02, 0.03, design=RESPLIT, n_simulations=2000)
    assert plan.seeds is None
    assert "only more data" in plan.sentence


def test_a_plan_for_equivalence():
    plan = plan_seeds(0.0, 0.01, design=FIXED)
    assert plan.seeds > FEWEST_SEEDS
    assert "equivalence within 0.01" in plan.sentence


@pytest.mark.parametrize(
    ("effect", "sd", "options"),
    [(0.005, 0.01, {}), (-0.1, 0.01, {}), (0.1, 0.0, {}), (0.1, 0.1, {"power": 1.0}), (math.nan, 0.1, {})],
)
def test_bad_plans(effect, sd, options):
    with pytest.raises(InputError):
        plan_seeds(effect, sd, design=FIXED, **options)


def test_detectable_effect_is_detected():
    effect = detectable_effect(10, design=RESPLIT, n_comparisons=2)
    power = simulated_power(effect, 1.0, 10, design=RESPLIT, n_comparisons=2, margin=1e-9)
    assert power == pytest.approx(0.8, abs=0.03)
