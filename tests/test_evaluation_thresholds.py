"""Thresholds against exhaustive search, and the fall-back of degenerate labels."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from qwafer import InputError
from qwafer._records import from_json, to_json
from qwafer.evaluation import Thresholds, tune_thresholds

COSTS = np.array([[0.0, 1.0], [7.0, -1.0]])


def data(seed: int, n: int = 120, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.2, 0.5, 0.7]).astype(int)
    logits = rng.normal(size=(n, 3)) + labels - 3
    return (np.round(logits * 2) / 2 if ties else logits), labels


def loss(method: str, truth: np.ndarray, decided: np.ndarray) -> float:
    """What each method minimises, by scikit-learn where it has it."""
    if method == "f1":
        return -sk.f1_score(truth, decided)
    if method == "youden":
        return 1 - 2 * sk.balanced_accuracy_score(truth, decided)
    if method == "prevalence":
        return abs(decided.mean() - truth.mean())
    return float(np.sum(sk.confusion_matrix(truth, decided) * COSTS)) / len(truth)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["f1", "youden", "prevalence", "cost"])
def test_no_cut_is_better_and_the_objective_is_what_it_says(method, seed, ties):
    logits, labels = data(seed, ties=ties)
    result = tune_thresholds(logits, labels, method, COSTS if method == "cost" else None)
    assert not any(result.degenerate)
    for k in range(3):
        scores, truth = logits[:, k], labels[:, k]
        values = np.unique(scores)
        cuts = (values[:-1] + values[1:]) / 2
        losses = np.array([loss(method, truth, scores > cut) for cut in cuts])
        own = loss(method, truth, scores > result.values[k])
        assert own == pytest.approx(losses.min(), abs=1e-12)
        sign = -1 if method in ("f1", "youden") else 1
        assert result.objective[k] == pytest.approx(sign * own, abs=1e-12)
        assert result.predicted_positive_rate[k] == np.mean(scores > result.values[k])
        # Of equally good cuts the one nearest to logit 0.
        best = cuts[losses <= losses.min() + 1e-12]
        assert result.values[k] == best[np.argmin(np.abs(best))]


def test_thresholds_do_not_depend_on_the_order_of_examples_and_move_with_the_logits():
    logits, labels = data(0)
    order = np.random.default_rng(1).permutation(len(labels))
    assert tune_thresholds(logits, labels) == tune_thresholds(logits[order], labels[order])
    doubled = tune_thresholds(2 * logits, labels)
    np.testing.assert_allclose(doubled.values, 2 * np.array(tune_thresholds(logits, labels).values), rtol=1e-15)


def test_equally_good_cuts_around_zero_are_decided_for_the_lower():
    logits, labels = np.array([-2.0, -0.5, 0.5, 2.0])[:, None], np.array([0, 1, 0, 1])[:, None]
    # Youden's J is 1/2 at -1.25 and at 1.25, both 1.25 away from 0.
    assert tune_thresholds(logits, labels, "youden").values == (-1.25,)


def test_neighbouring_floats_are_told_apart():
    low = np.float64(1.0)
    logits = np.repeat([low, np.nextafter(low, 2)], 50)[:, None]
    labels = np.repeat([0, 1], 50)[:, None]
    logits[0] = -5  # so that the scores are not constant
    result = tune_thresholds(logits, labels)
    assert result.objective == (1.0,)
    assert result.predict(logits).mean() == 0.5


def test_degenerate_labels_fall_back_to_logit_zero_and_are_marked():
    rng = np.random.default_rng(0)
    labels = (rng.random((1000, 6)) < 0.3).astype(int)
    logits = rng.normal(size=(1000, 6)) + 5
    labels[:, 0], labels[:, 1] = 0, 1
    logits[:, 2] = 3 + 1e-9 * rng.normal(size=1000)
    logits[7, 3] = np.inf
    # Every positive below every negative: the best F1 is that of all but one example.
    labels[:, 4] = np.arange(1000) >= 300
    logits[:, 4] = np.where(labels[:, 4], 1 + rng.random(1000), 3 + rng.random(1000))
    result = tune_thresholds(logits, labels)
    assert result.degenerate == (True, True, True, True, True, False)
    assert result.values[:5] == (0.0,) * 5
    for reason, word in zip(result.reasons, ("positive", "negative", "constant", "finite", "rate", ""), strict=True):
        assert word in reason
    assert np.isnan(result.objective[0])
    again = from_json(Thresholds, json.loads(json.dumps(to_json(result), allow_nan=False)))
    assert to_json(again) == to_json(result)


def test_the_youden_threshold_of_a_steep_score_is_extreme_only_beyond_the_bound():
    labels = np.zeros((1000, 1), int)
    labels[:300] = 1
    for caught, degenerate in ((4, True), (6, False)):
        logits = np.where(np.arange(1000) < caught, 5.0, -np.arange(1000) / 1e3)[:, None]
        logits[caught:300] = -9 - np.linspace(0, 1, 300 - caught)[:, None]  # all other positives below every negative
        result = tune_thresholds(logits, labels, "youden")
        assert result.degenerate == (degenerate,)
        assert (result.values[0] == 0.0) is degenerate


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"method": "f2"}, "method"),
        ({"method": "cost"}, "cost_matrix"),
        ({"method": "f1", "cost_matrix": COSTS}, "no effect"),
        ({"method": "cost", "cost_matrix": np.zeros((2, 3))}, "shape"),
        ({"method": "cost", "cost_matrix": np.zeros((2, 2))}, "more than"),
        ({"method": "cost", "cost_matrix": [[0, np.nan], [1, 0]]}, "finite"),
    ],
)
def test_bad_options_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        tune_thresholds(*data(0), **arguments)
    with pytest.raises(InputError, match="logits"):
        tune_thresholds(np.zeros(3), np.zeros(3))


def test_costs_a_label():
    logits, labels = data(0)
    costs = np.stack([COSTS, [[0, 5.0], [1.0, 0]], COSTS])
    result = tune_thresholds(logits, labels, "cost", costs)
    single = tune_thresholds(logits[:, 1:2], labels[:, 1:2], "cost", costs[1])
    assert result.values[1] == single.values[0]
    assert result.values[0] == tune_thresholds(logits, labels, "cost", COSTS).values[0]
