"""Paired statistics against closed forms and SciPy, and the verdict that follows from them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qwafer._errors import InputError
from qwafer.comparison.statistics import (
    compare_arms,
    fewest_seeds,
    holm,
    paired_power,
    seeds_for_power,
    sign_flip_p,
    wilcoxon_p,
)

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


@pytest.mark.parametrize("n", [3, 8, 20])
def test_wilcoxon_equals_scipy_without_ties(n):
    d = np.random.default_rng(n).normal(0.4, 1.0, n)
    assert wilcoxon_p(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, rel=1e-12)


def test_wilcoxon_with_ties_and_zeros():
    d = np.array([0.0, 1.0, 1.0, -1.0, 2.0, 3.0, 0.0, 3.0, 5.0])
    kept = d[d != 0]
    exact = stats.PermutationMethod(n_resamples=np.inf)
    assert wilcoxon_p(d) == pytest.approx(stats.wilcoxon(kept, method=exact).pvalue, rel=1e-12)
    assert wilcoxon_p(np.zeros(4)) == 1.0


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (-0.5, 34), (1.0, 10)])
def test_seeds_for_power_of_the_textbook(effect, n):
    """Paired t test, two-sided, 5%, power 0.8: the sample sizes that G*Power gives."""
    assert seeds_for_power(effect) == n


@pytest.mark.parametrize("effect", [0.003, 0.05, 0.3, 3.0, 50.0])
def test_seeds_for_power_is_the_least(effect):
    n = seeds_for_power(effect)
    assert paired_power(effect, n) >= 0.8
    assert n == 2 or paired_power(effect, n - 1) < 0.8
    # The normal approximation of the sample size is close wherever it is large.
    normal = ((stats.norm.isf(0.025) + stats.norm.isf(0.2)) / effect) ** 2
    assert n < 30 or n == pytest.approx(normal, abs=3, rel=1e-3)


def test_power_by_simulation():
    rng = np.random.default_rng(3)
    samples = rng.normal(0.7, 1.0, (20_000, 12))
    rejected = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert paired_power(0.7, 12) == pytest.approx(rejected.mean(), abs=0.012)


@pytest.mark.parametrize("effect", [0.0, math.nan, math.inf, 1e-9])
def test_no_number_of_seeds(effect):
    assert seeds_for_power(effect) is None


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize(("m", "n"), [(1, 6), (2, 7), (3, 7), (10, 9)])
def test_fewest_seeds_reach_the_level(m, n):
    assert fewest_seeds(m) == n
    assert 2.0 ** (1 - n) <= 0.05 / m < 2.0 ** (2 - n)


def compare(arm, baseline=None, **options):
    arm = dict(enumerate(arm))
    baseline = dict.fromkeys(arm, 0.5) if baseline is None else dict(enumerate(baseline))
    options = {"baseline": "base", "metric": "test.roc_auc", "seeds": tuple(arm)} | options
    return compare_arms({"base": baseline, "new": arm}, **options)[0]


def test_statistics_of_a_comparison():
    d = np.array([0.02, 0.05, 0.01, 0.04, 0.03, 0.06, 0.02, 0.03])
    c = compare(0.5 + d)
    assert c.differences == pytest.approx(d)
    assert (c.arm, c.baseline, c.metric, c.seeds) == ("new", "base", "test.roc_auc", tuple(range(8)))
    assert c.mean == pytest.approx(d.mean())
    assert c.sd == pytest.approx(d.std(ddof=1))
    assert c.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    assert c.smallest_p == c.sign_flip_p == c.sign_flip_p_holm == 2.0**-7
    assert c.wilcoxon_p == pytest.approx(2.0**-7)
    assert c.seeds_for_power == seeds_for_power(c.effect_size)
    reference = stats.bootstrap((d,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(0))
    assert c.interval == pytest.approx(tuple(reference.confidence_interval), rel=1e-9)
    assert c.verdict == "better"
    assert "better" in c.sentence
    assert "p = 0.00781" in c.sentence


def test_direction():
    worse = [0.4, 0.42, 0.45, 0.44, 0.41, 0.4, 0.39, 0.44]
    assert compare(worse).verdict == "worse"
    assert compare(worse, higher_is_better=False).verdict == "better"


def test_nothing_shown_says_how_many_seeds_would():
    rng = np.random.default_rng(5)
    c = compare(0.5 + rng.normal(0.002, 0.01, 8))
    assert c.verdict == "no difference shown"
    assert f"it would take about {c.seeds_for_power:,} seeds to show this effect" in c.sentence
    tiny = compare([0.6, 0.4, 0.6, 0.4, 0.6, 0.4, 0.6, 0.4001])
    assert tiny.seeds_for_power > 10_000
    assert "more than 10,000 seeds" in tiny.sentence


def test_too_few_seeds():
    c = compare([0.9, 0.91, 0.9, 0.92, 0.9])
    assert c.verdict == "too few seeds"
    assert c.smallest_p == 0.0625
    assert "with so few seeds, no difference can reach significance" in c.sentence
    assert "use at least 6" in c.sentence
    assert compare([0.9]).verdict == "too few seeds"
    assert compare([0.9]).sd is None
    assert compare([0.9]).interval is None


def test_six_seeds_are_enough():
    assert compare([0.9, 0.91, 0.9, 0.92, 0.9, 0.93]).verdict == "better"


def test_identical_values():
    c = compare([0.5] * 8)
    assert c.verdict == "identical"
    assert (c.mean, c.sd, c.effect_size, c.sign_flip_p, c.wilcoxon_p) == (0, 0, 0, 1, 1)
    assert c.interval == (0, 0)
    assert c.seeds_for_power is None


def test_equal_differences_have_no_effect_size():
    c = compare([0.6] * 8, [0.5] * 8)
    assert c.sd == 0
    assert c.effect_size is None
    assert c.verdict == "better"


def test_seeds_without_both_runs_are_dropped_and_listed():
    arm = [0.6, None, 0.7, math.nan, 0.6, 0.65, 0.7, 0.6, 0.62]
    c = compare(arm)
    assert c.dropped_seeds == (1, 3)
    assert c.seeds == (0, 2, 4, 5, 6, 7, 8)
    assert c.smallest_p == 2.0**-6
    baseline = dict.fromkeys(range(9), 0.5)
    del baseline[0]
    c = compare_arms({"base": baseline, "new": dict(enumerate(arm))}, baseline="base", metric="m", seeds=range(9))[0]
    assert c.dropped_seeds == (0, 1, 3)


def test_no_data():
    c = compare([None, None])
    assert c.verdict == "no data"
    assert (c.mean, c.sign_flip_p, c.smallest_p) == (None, None, None)


def test_several_arms_are_corrected():
    """p = 1/64 each: enough for one comparison, not for four; an arm without data does not count."""
    base = dict.fromkeys(range(7), 0.5)
    up = {seed: 0.6 + seed / 100 for seed in base}
    arms = {"base": base} | {f"arm{i}": dict(up) for i in range(4)} | {"empty": {}}
    found = compare_arms(arms, baseline="base", metric="m", seeds=tuple(base))
    assert [c.arm for c in found] == ["arm0", "arm1", "arm2", "arm3", "empty"]
    for c in found[:4]:
        assert c.n_comparisons == 4
        assert c.sign_flip_p == 2.0**-6
        assert c.sign_flip_p_holm == 4 * 2.0**-6
        assert c.verdict == "too few seeds"
    assert found[4].verdict == "no data"


def test_what_is_significant_is_never_too_few():
    """The second arm has lost two seeds; Holm's second step asks less of it than the first step of the first."""
    base = dict.fromkeys(range(8), 0.5)
    up = {seed: 0.6 + seed / 100 for seed in base}
    short = {seed: value for seed, value in up.items() if seed < 6}
    found = compare_arms({"base": base, "up": up, "short": short}, baseline="base", metric="m", seeds=tuple(base))
    assert [c.sign_flip_p_holm for c in found] == [2 * 2.0**-7, 2.0**-5]
    assert [c.verdict for c in found] == ["better", "better"]


def test_unknown_baseline():
    with pytest.raises(InputError, match="baseline"):
        compare_arms({"a": {}}, baseline="b", metric="m", seeds=(0,))


def test_false_positives_stay_below_the_level():
    """Under the null the verdict is wrong in at most 5% of the experiments (exact test: at most, up to sampling)."""
    rng = np.random.default_rng(11)
    wrong = sum(sign_flip_p(rng.standard_t(3, 8)) <= 0.05 for _ in range(2000))
    assert wrong / 2000 == pytest.approx(0.047, abs=0.015)
