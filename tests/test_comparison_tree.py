"""The decision tree beside the heads: scikit-learn's own numbers on the split that a head has."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from qwafer._io import key_seed
from qwafer.comparison.tree import fit_tree
from qwafer.config import DataConfig, ObjectiveConfig, RunConfig
from qwafer.features import FeatureSet
from qwafer.training import prepare


def feature_set(exclusive=False, k=3, n=240):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    if exclusive:
        labels = np.eye(k, dtype=np.uint8)[np.argmax(x[:, :k] + 0.4 * rng.normal(size=(n, k)), axis=1)]
    else:
        labels = (x[:, :k] + 0.4 * rng.normal(size=(n, k)) > 0).astype(np.uint8)
    return FeatureSet(
        features=x,
        labels=labels,
        label_names=tuple(f"l{i}" for i in range(k)),
        content_ids=np.array([str(i) for i in range(n)]),
        provenance={},
        exclusive=exclusive,
    )


@pytest.mark.parametrize("k", [1, 3])
def test_probabilities_are_those_of_scikit_learn(k):
    data, config = feature_set(k=k), RunConfig()
    run = fit_tree(config, data, seed=4, max_depth=3)
    split = prepare(config, data, 4)
    tree = DecisionTreeClassifier(max_depth=3, random_state=key_seed(4, "tree")).fit(*split.part("train"))
    found = tree.predict_proba(split.part("test")[0])
    expected = np.stack([p[:, 1] for p in found], axis=1) if k > 1 else found[:, 1:]
    np.testing.assert_allclose(1 / (1 + np.exp(-run.logits["test"])), np.clip(expected, 1e-6, 1 - 1e-6), atol=1e-12)
    np.testing.assert_array_equal(run.labels["test"], split.part("test")[1])
    inner = tree.tree_.node_count - tree.get_n_leaves()
    assert run.n_parameters.trainable == 2 * inner + k * tree.get_n_leaves()
    assert tree.get_depth() <= 3


def test_exclusive_classes_are_decided_like_scikit_learn():
    data = feature_set(exclusive=True)
    config = RunConfig(objective=ObjectiveConfig(loss="softmax"))
    run = fit_tree(config, data, seed=0)
    split = prepare(config, data, 0)
    features, labels = split.part("train")
    tree = DecisionTreeClassifier(max_depth=10, random_state=key_seed(0, "tree")).fit(features, labels.argmax(axis=1))
    np.testing.assert_array_equal(run.logits["test"].argmax(axis=1), tree.predict(split.part("test")[0]))
    assert run.exclusive


def test_a_label_that_training_lacks_gets_the_least_probability():
    data = feature_set()
    labels = data.labels.copy()
    labels[:, 1] = 0
    data = FeatureSet(data.features, labels, data.label_names, data.content_ids, {})
    run = fit_tree(RunConfig(data=DataConfig()), data, seed=0)
    assert np.all(run.logits["test"][:, 1] < -13)
    assert len(np.unique(run.logits["test"][:, 0])) > 1
