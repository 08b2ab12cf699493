"""Metrics against scikit-learn, on random and degenerate data; nothing warns (warnings are errors here)."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from qwafer import InputError
from qwafer.evaluation import exclusive, metrics

TOLERANCE = 1e-12


def columns(seed: int, n: int = 200, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, 6) and labels: random, rare, frequent, all negative, all positive, constant scores."""
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 6)) < np.array([0.3, 0.02, 0.97, 0, 1, 0.4])
    labels[0], labels[1] = [1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 1, 0]
    scores = rng.normal(size=(n, 6)) + labels
    if ties:
        scores = np.round(scores * 2) / 2
    scores[:, 5] = 0.7
    return scores, labels.astype(np.uint8)


def quiet(function, *args, **kwargs):
    """scikit-learn warns where a metric is undefined; what it returns there is what is compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_equal_scikit_learn(seed, ties):
    scores, labels = columns(seed, ties=ties)
    auc, ap = metrics.roc_auc(scores, labels), metrics.average_precision(scores, labels)
    for k in range(scores.shape[1]):
        np.testing.assert_allclose(auc[k], quiet(sk.roc_auc_score, labels[:, k], scores[:, k]), rtol=0, atol=TOLERANCE)
        if labels[:, k].any():
            expected = quiet(sk.average_precision_score, labels[:, k], scores[:, k])
            np.testing.assert_allclose(ap[k], expected, rtol=0, atol=TOLERANCE)
        else:
            assert np.isnan(ap[k])
    assert np.isnan(auc[3])
    assert np.isnan(auc[4])
    assert auc[5] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_decisions_equal_scikit_learn(seed):
    scores, labels = columns(seed)
    decided = metrics.predict(scores, np.linspace(-0.5, 3, 6))
    decided[:, 2] = seed % 2  # a label that is always or never predicted
    precision, recall, f1, _ = quiet(sk.precision_recall_fscore_support, labels, decided, average=None, zero_division=0)
    np.testing.assert_allclose(metrics.precision(decided, labels), precision, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(metrics.recall(decided, labels), recall, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(metrics.f1(decided, labels), f1, rtol=0, atol=TOLERANCE)
    undefined = sk.f1_score(labels, decided, average=None, zero_division=np.nan)
    np.testing.assert_allclose(metrics.f1(decided, labels, zero_division=np.nan), undefined, rtol=0, atol=TOLERANCE)
    assert metrics.exact_match_ratio(decided, labels) == sk.accuracy_score(labels, decided)
    balanced = metrics.balanced_accuracy(decided, labels)
    for k in (0, 1, 2, 5):
        expected = sk.balanced_accuracy_score(labels[:, k], decided[:, k])
        np.testing.assert_allclose(balanced[k], expected, rtol=0, atol=TOLERANCE)
    assert np.isnan(balanced[[3, 4]]).all()
    tn, fp, fn, tp = sk.confusion_matrix(labels[:, 0], decided[:, 0]).ravel()
    assert [count[0] for count in metrics.confusion(decided, labels)] == [tp, fp, fn, tn]


@pytest.mark.parametrize("seed", range(5))
def test_probabilistic_metrics_equal_scikit_learn(seed):
    scores, labels = columns(seed)
    p = expit(scores)
    np.testing.assert_allclose(metrics.sigmoid(scores), p, rtol=0, atol=TOLERANCE)
    for k in range(scores.shape[1]):
        brier = sk.brier_score_loss(labels[:, k], p[:, k], labels=[0, 1])
        loss = sk.log_loss(labels[:, k], p[:, k], labels=[0, 1])
        np.testing.assert_allclose(metrics.brier(p, labels)[k], brier, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(metrics.bce_loss(scores, labels)[k], loss, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_expected_calibration_error_equals_the_curve_of_scikit_learn(bins):
    rng = np.random.default_rng(bins)
    # Values on the edges, at 0 and at 1 among them: which bin they belong to is part of the definition.
    p = np.concatenate([rng.random(300), np.linspace(0, 1, bins + 1), np.arange(16) / 15, [0.0, 1.0]])
    labels = rng.random(len(p)) < p
    observed, predicted = calibration_curve(labels, p, n_bins=bins, strategy="uniform")
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p)
    count = np.bincount(which, minlength=bins)
    expected = np.sum(count[count > 0] / len(p) * np.abs(observed - predicted))
    np.testing.assert_allclose(metrics.expected_calibration_error(p, labels, bins), expected, rtol=0, atol=TOLERANCE)


def test_expected_calibration_error_of_a_known_case():
    p, labels = np.array([0.2, 0.2, 0.2, 0.2, 0.9, 0.9]), np.array([1, 0, 0, 0, 1, 0])
    assert metrics.expected_calibration_error(p, labels) == pytest.approx(4 / 6 * 0.05 + 2 / 6 * 0.4, abs=1e-15)


def test_separation_and_loss_by_hand():
    logits, labels = np.array([2.0, 4.0, -1.0, 0.0]), np.array([1, 1, 0, 0])
    assert metrics.separation(logits, labels) == 3.5
    assert np.isnan(metrics.separation(logits, np.ones(4)))
    assert metrics.bce_loss([1000.0, -1000.0], [1, 0]) == 0
    assert metrics.bce_loss([1000.0, -1000.0], [0, 1]) == 1000
    assert metrics.bce_loss([np.inf, -np.inf], [1, 0]) == 0


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, max_examples=100)
def test_ranking_metrics_do_not_depend_on_order_or_on_a_monotone_map(pairs):
    scores, labels = np.array([s for s, _ in pairs], float), np.array([y for _, y in pairs])
    value = [metrics.roc_auc(scores, labels), metrics.average_precision(scores, labels)]
    np.testing.assert_array_equal(
        value, [f(scores[::-1], labels[::-1]) for f in (metrics.roc_auc, metrics.average_precision)]
    )
    mapped = np.exp(scores) + 3
    np.testing.assert_array_equal(value, [f(mapped, labels) for f in (metrics.roc_auc, metrics.average_precision)])
    np.testing.assert_allclose(metrics.roc_auc(-scores, labels), 1 - value[0], rtol=0, atol=1e-15)


def test_scores_that_are_not_finite_give_nan():
    scores = np.array([[np.nan, np.inf, 0], [1, 0, 1], [2, 1, 2]])
    labels = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    assert np.isnan(metrics.roc_auc(scores, labels)).tolist() == [True, True, False]
    assert np.isnan(metrics.average_precision(scores, labels)).tolist() == [True, True, False]
    assert np.isnan(metrics.expected_calibration_error(metrics.sigmoid(scores), labels)[0])
    assert np.isnan(metrics.brier(metrics.sigmoid(scores), labels)[0])


@pytest.mark.parametrize(
    ("scores", "labels", "word"),
    [
        (np.zeros(3), np.zeros(4), "one shape"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "one shape"),
        (np.zeros(0), np.zeros(0), "at least one example"),
        (np.zeros(3), np.array([0, 1, 2]), "0 and 1"),
        (np.zeros(3), np.array([0, 1, np.nan]), "0 and 1"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused(scores, labels, word):
    with pytest.raises(InputError, match=word):
        metrics.roc_auc(scores, labels)


@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_exclusive_metrics_equal_scikit_learn(n_classes):
    rng = np.random.default_rng(n_classes)
    truth = rng.integers(0, n_classes, 400)
    logits = rng.normal(size=(400, n_classes)) + 1.5 * np.eye(n_classes)[truth]
    p = exclusive.softmax(logits)
    names = list(range(n_classes))
    predicted = logits.argmax(axis=1)
    assert exclusive.accuracy(logits, truth) == sk.accuracy_score(truth, predicted)
    assert exclusive.accuracy(logits, np.eye(n_classes, dtype=np.uint8)[truth]) == sk.accuracy_score(truth, predicted)
    expected = sk.f1_score(truth, predicted, average="macro")
    np.testing.assert_allclose(exclusive.macro_f1(logits, truth), expected, rtol=0, atol=TOLERANCE)
    expected = sk.log_loss(truth, p, labels=names)
    np.testing.assert_allclose(exclusive.cross_entropy(logits, truth), expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(
        exclusive.confusion_matrix(predicted, truth, n_classes), sk.confusion_matrix(truth, predicted, labels=names)
    )
    np.testing.assert_allclose(metrics.sigmoid(exclusive.one_vs_rest_logits(logits)), p, rtol=0, atol=TOLERANCE)
    confidence, right = p.max(axis=1), predicted == truth
    expected = metrics.expected_calibration_error(confidence, right)
    np.testing.assert_allclose(exclusive.top_label_ece(logits, truth), expected, rtol=0, atol=TOLERANCE)


def test_one_vs_rest_logits_keep_precision_where_the_softmax_saturates():
    logits = np.array([[60.0, 0.0, -5.0], [-800.0, 0.0, 800.0]])
    z = exclusive.one_vs_rest_logits(logits)
    np.testing.assert_allclose(z[0, 0], 60 - np.log(1 + np.exp(-5)), rtol=1e-14)
    np.testing.assert_allclose(z[0, 1], -60, rtol=1e-12)
    np.testing.assert_allclose(z[1, 2], 800, rtol=1e-14)
    assert np.isnan(exclusive.one_vs_rest_logits([[np.nan, 1.0], [0.0, 1.0]])[0]).all()
    np.testing.assert_allclose(exclusive.one_vs_rest_logits([[np.nan, 1.0], [0.0, 1.0]])[1], [-1, 1], atol=1e-15)


def test_macro_f1_of_exclusive_classes_leaves_out_a_class_without_examples():
    logits = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]])
    assert exclusive.macro_f1(logits, [0, 1, 0]) == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0.0, 1.0], [[1, 1, 0], [1, 0, 0]], [[1, 0], [0, 1]]])
def test_labels_that_are_not_exclusive_are_refused(labels):
    with pytest.raises(InputError, match="labels"):
        exclusive.accuracy(np.zeros((2, 3)), np.array(labels))
