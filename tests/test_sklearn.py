"""`QuantumClassifier`: scikit-learn's own checks, pipelines, search, pickles and files."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from qwafer import InputError
from qwafer.sklearn import QuantumClassifier

pytestmark = pytest.mark.filterwarnings("ignore:training had not converged")
QUICK = {"training.epochs": 20, "training.max_doublings": 2, "training.learning_rate": 0.05}
SHORT = {"training.epochs": 8, "training.max_doublings": 0, "training.learning_rate": 0.2}
SMALL = {**QUICK, "circuit.n_qubits": 2, "circuit.n_layers": 1}


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(120, 3, centers=3, cluster_std=0.7, random_state=0)


@pytest.mark.parametrize("head", ["linear", "tree", pytest.param("quantum", marks=pytest.mark.slow)])
def test_scikit_learn_finds_nothing_wrong(head):
    options = {"quantum": SMALL, "linear": SHORT, "tree": {}}[head]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(QuantumClassifier(head, options, random_state=0), on_skip=None)
    assert sum(one["status"] == "passed" for one in found) > 50


def test_a_circuit_in_a_pipeline_under_a_search(blobs):
    X, y = blobs
    names = np.array(["Center", "Donut", "Scratch"])
    pipeline = make_pipeline(StandardScaler(), QuantumClassifier(options=SMALL, random_state=0))
    search = GridSearchCV(pipeline, {"quantumclassifier__training__learning_rate": [1e-5, 0.05]}, cv=2)
    search.fit(X, names[y])
    best = search.best_estimator_[-1]
    assert best.options["training.learning_rate"] == 0.05
    assert search.best_score_ > 0.9
    assert list(best.classes_) == sorted(names)
    assert best.predictor_.config.name("engine") == "xla"
    assert set(search.predict(X)) <= set(names)


def test_several_labels():
    X, y = make_multilabel_classification(150, 6, n_classes=3, random_state=0)
    estimator = QuantumClassifier("linear", QUICK, random_state=0).fit(X, y)
    assert estimator.predict(X).shape == estimator.predict_proba(X).shape == (150, 3)
    np.testing.assert_array_equal(estimator.predict(X), estimator.predict_proba(X) > 0.5)
    assert cross_val_score(estimator, X, y, cv=2, scoring="f1_macro").mean() > 0.6


def test_one_label_of_several_is_a_column():
    X, y = make_multilabel_classification(60, 6, n_classes=3, random_state=0)
    both = QuantumClassifier("linear", QUICK, random_state=0).fit(X, y[:, :2])
    assert both.decision_function(X).shape == (60, 2)
    one = QuantumClassifier("linear", QUICK, random_state=0).fit(X, y[:, 0])
    assert one.decision_function(X).shape == (60,)


@pytest.mark.parametrize("names", [["b", "a", "é"], [3, -1, 7], [0.5, 1.5, 2.0]], ids=["texts", "numbers", "fractions"])
def test_files_and_pickles_keep_classes_and_answers(tmp_path, blobs, names):
    pandas = pytest.importorskip("pandas")
    X, y = blobs
    table = pandas.DataFrame(X, columns=["first", "second", "third"])
    classes = np.array(names)[y] if not isinstance(names[0], float) else np.array(names)[y].astype(str)
    estimator = QuantumClassifier("linear", QUICK, random_state=0).fit(table, classes)
    estimator.save(tmp_path / "estimator.npz")
    for again in (QuantumClassifier.load(tmp_path / "estimator.npz"), pickle.loads(pickle.dumps(estimator))):
        np.testing.assert_array_equal(again.classes_, estimator.classes_)
        np.testing.assert_array_equal(again.predict(table), estimator.predict(table))
        np.testing.assert_array_equal(again.predict_proba(table), estimator.predict_proba(table))
        assert again.get_params() == estimator.get_params()
        with pytest.raises(ValueError, match="feature names"):
            again.predict(table[["third", "second", "first"]])


def test_equal_seeds_give_equal_estimators_and_none_another_each_time(blobs):
    X, y = blobs
    fit = [QuantumClassifier("linear", QUICK, random_state=3).fit(X, y).decision_function(X) for _ in range(2)]
    np.testing.assert_array_equal(*fit)
    free = [QuantumClassifier("linear", QUICK).fit(X, y).decision_function(X) for _ in range(2)]
    assert not np.array_equal(*free)


def test_options_are_parameters():
    estimator = QuantumClassifier(options={"circuit.n_qubits": 2})
    assert estimator.get_params()["circuit__n_qubits"] == 2
    other = clone(estimator).set_params(circuit__n_qubits=3, head="quantum")
    assert other.options == {"circuit.n_qubits": 3}
    assert estimator.options == {"circuit.n_qubits": 2}


def test_what_has_not_converged_is_told(blobs):
    estimator = QuantumClassifier(
        "linear", {"training.epochs": 2, "training.max_doublings": 0, "training.learning_rate": 1e-4}, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="had not converged after 2 epochs"):
        estimator.fit(*blobs)
    assert estimator.converged_ is False
    assert estimator.n_epochs_ == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "quantumm"}, "quantumm"),
        ({"options": {"training.epoch": 2}}, "training.epochs"),
        ({"head": "linear", "options": {"circuit.n_qubits": 2}}, "no effect"),
        ({"validation_fraction": 0.6}, "validation_fraction"),
    ],
)
def test_bad_arguments_are_named(blobs, arguments, message):
    with pytest.raises(InputError, match=message):
        QuantumClassifier(**arguments).fit(*blobs)


def test_files_of_others_are_refused(tmp_path, blobs):
    X, y = blobs
    with pytest.raises(InputError, match="trains itself"):
        QuantumClassifier("tree").fit(X, y).save(tmp_path / "tree.npz")
    estimator = QuantumClassifier("linear", QUICK, random_state=0).fit(X, y)
    predictor = estimator.predictor_
    object.__setattr__(predictor, "provenance", {"backbone": "arrays"})
    predictor.save(tmp_path / "predictor.npz")
    with pytest.raises(InputError, match="no estimator has saved"):
        QuantumClassifier.load(tmp_path / "predictor.npz")
