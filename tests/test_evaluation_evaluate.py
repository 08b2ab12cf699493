"""`evaluate`: macro averages, marks of degenerate classes, round trip through JSON."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from qwafer import InputError
from qwafer._records import from_json, to_json
from qwafer.evaluation import Evaluation, evaluate, tune_thresholds
from qwafer.evaluation.exclusive import softmax


def data(seed: int = 0, n: int = 500, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < np.linspace(0.2, 0.5, k)).astype(np.uint8)
    return (rng.normal(size=(n, k)) + 2 * labels - 1).astype(np.float32), labels


def test_macro_averages_equal_scikit_learn():
    logits, labels = data()
    thresholds = np.array([0.1, -0.2, 0.3, 0.0])
    result = evaluate(logits, labels, label_names="abcd", thresholds=thresholds)
    decided, tuned = logits > 0, logits.astype(np.float64) > thresholds
    expected = {
        "roc_auc": sk.roc_auc_score(labels, logits, average="macro"),
        "average_precision": sk.average_precision_score(labels, logits, average="macro"),
        "f1": sk.f1_score(labels, decided, average="macro"),
        "f1_tuned": sk.f1_score(labels, tuned, average="macro"),
        "precision": sk.precision_score(labels, decided, average="macro"),
        "recall_tuned": sk.recall_score(labels, tuned, average="macro"),
        "f1_micro": sk.f1_score(labels, decided, average="micro"),
        "exact_match_tuned": sk.accuracy_score(labels, tuned),
        "predicted_positive_rate": decided.mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result.macro[name], value, rtol=0, atol=1e-12, err_msg=name)
    assert not result.any_degenerate
    assert result.n_positive == tuple(labels.sum(axis=0))


def test_exclusive_classes_equal_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 300)
    logits = rng.normal(size=(300, 5)) + np.eye(5)[truth]
    result = evaluate(logits, truth, label_names="abcde", exclusive=True)
    assert result == evaluate(logits, np.eye(5, dtype=np.uint8)[truth], label_names="abcde", exclusive=True)
    p, predicted = softmax(logits), logits.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted, average="macro"),
        "roc_auc": sk.roc_auc_score(truth, p, multi_class="ovr", average="macro"),
        "loss": sk.log_loss(truth, p),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result.macro[name], value, rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(
        result.macro["brier"] * 5, np.mean(np.sum((p - np.eye(5)[truth]) ** 2, axis=1)), atol=1e-12
    )


def test_degenerate_classes_are_marked_and_left_out_of_the_averages():
    logits, labels = data(k=6)
    labels[:, 0], labels[:, 1] = 0, 1
    logits[:, 2] = 0.25
    logits[:, 3] -= 100
    logits[0, 4] = np.nan
    result = evaluate(logits, labels, label_names="abcdef")
    assert result.degenerate == (True, True, True, True, True, False)
    for reason, word in zip(
        result.reasons, ("positive", "negative", "constant", "rate 0.00%", "finite", ""), strict=True
    ):
        assert word in reason
    assert np.isnan(result.per_class["f1"][0])
    assert np.isnan(result.per_class["roc_auc"][0])
    assert np.isnan(result.per_class["roc_auc"][1])
    assert result.per_class["roc_auc"][2] == 0.5
    assert result.per_class["roc_auc"][3] > 0.8, "ranking metrics stay valid"
    assert result.macro["f1"] == pytest.approx(np.mean(result.per_class["f1"][1:]))
    assert np.isnan(result.macro["roc_auc"]), "scores that are not finite must not vanish from the average"
    clean = evaluate(logits[:, [0, 1, 2, 3, 5]], labels[:, [0, 1, 2, 3, 5]], label_names="abcdf")
    assert clean.macro["roc_auc"] == pytest.approx(np.mean(np.array(clean.per_class["roc_auc"])[[2, 3, 4]]))


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_tiny_splits_raise_nothing(n, exclusive):
    labels = np.eye(3, dtype=np.uint8)[:n]
    result = evaluate(np.zeros((n, 3)), labels, label_names="abc", exclusive=exclusive)
    assert result.any_degenerate


def test_one_exclusive_class_and_all_non_finite_logits_raise_nothing():
    assert evaluate(np.zeros((4, 1)), np.ones((4, 1)), label_names="a", exclusive=True).macro["accuracy"] == 1
    for exclusive in (False, True):
        result = evaluate(np.full((4, 2), np.nan), np.eye(2)[[0, 1, 0, 1]], label_names="ab", exclusive=exclusive)
        assert result.degenerate == (True, True)
        assert np.isnan(result.macro["loss"])


@pytest.mark.parametrize(
    ("prevalence", "rate", "extreme"),
    [
        (0.3, 0.004, True),
        (0.3, 0.006, False),
        (0.004, 0.001, False),
        (0.004, 0.0, True),
        (0.3, 0.997, True),
        (0.999, 1.0, True),
    ],
)
def test_bounds_of_the_predicted_positive_rate(prevalence, rate, extreme):
    n = 1000
    labels = (np.arange(n) < round(prevalence * n)).astype(int)[:, None]
    logits = np.where(np.arange(n) < round(rate * n), 1.0, -1.0)[:, None] + np.linspace(0, 0.1, n)[:, None]
    assert evaluate(logits, labels, label_names=["a"]).degenerate == (extreme,)


def test_the_flag_follows_the_thresholds_in_force():
    logits, labels = data(k=1)
    shifted = logits - 100
    assert evaluate(shifted, labels, label_names="a").any_degenerate
    tuned = tune_thresholds(shifted, labels)
    result = evaluate(shifted, labels, label_names="a", thresholds=tuned.values)
    assert not result.any_degenerate
    assert result.per_class["f1"] == (0.0,)
    assert result.per_class["f1_tuned"][0] == pytest.approx(tuned.objective[0])


def test_round_trip_through_json_keeps_what_is_undefined():
    logits, labels = data()
    labels[:, 0] = 0
    for thresholds in (None, np.zeros(4)):
        result = evaluate(logits, labels, label_names="abcd", thresholds=thresholds)
        text = json.dumps(to_json(result), allow_nan=False)
        again = from_json(Evaluation, json.loads(text))
        assert json.dumps(to_json(again)) == text
        assert np.isnan(again.per_class["roc_auc"][0])
        assert again.macro == result.macro
    for wrong in ({"label_names": []}, {**to_json(result), "more": 1}):
        with pytest.raises(InputError, match="Evaluation"):
            from_json(Evaluation, wrong)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"logits": np.zeros(5)}, "logits"),
        ({"labels": np.zeros((5, 2))}, "one shape"),
        ({"label_names": "ab"}, "names"),
        ({"thresholds": [0.0]}, "thresholds"),
        ({"thresholds": np.zeros(3), "exclusive": True}, "no effect"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(change, word):
    arguments = {"logits": np.zeros((5, 3)), "labels": np.eye(3)[[0, 1, 2, 0, 1]], "label_names": "abc"} | change
    with pytest.raises(InputError, match=word):
        evaluate(arguments.pop("logits"), arguments.pop("labels"), **arguments)
