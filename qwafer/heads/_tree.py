"""The decision tree: a contender that is fitted, not trained in epochs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from qwafer._arrays import shaped
from qwafer._checks import check_shape
from qwafer._io import key_seed

FLOOR = 1e-6
"""Probabilities of a leaf are kept within [FLOOR, 1 - FLOOR], so that their log-odds are finite."""


@dataclass(frozen=True, eq=False)
class FittedTree:
    """A decision tree, fitted."""

    tree: Any
    """scikit-learn's."""
    n_labels: int
    """Labels, or exclusive classes."""
    exclusive: bool
    """Whether it gives one of the classes."""

    @property
    def n_parameters(self) -> int:
        """The numbers that prediction reads: feature and threshold of each inner node, the fractions of each leaf."""
        n_leaves = int(self.tree.get_n_leaves())
        return 2 * (int(self.tree.tree_.node_count) - n_leaves) + n_leaves * self.n_labels

    @shaped()
    def logits(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N n_labels"]:
        """Return the log-odds of a leaf's class fractions, clipped to [1e-6, 1 - 1e-6]; of exclusive classes their
        logarithms.
        """
        check_shape("features", features, ("N", int(self.tree.n_features_in_)))
        found = self.tree.predict_proba(features)
        if self.exclusive:
            probabilities = np.zeros((len(features), self.n_labels))
            probabilities[:, self.tree.classes_] = found
            return np.asarray(np.log(np.clip(probabilities, FLOOR, 1)))
        blocks, classes = (found, self.tree.classes_) if self.n_labels > 1 else ([found], [self.tree.classes_])
        columns = [
            block[:, 1] if len(known) > 1 else np.full(len(features), float(known[0]))
            for block, known in zip(blocks, classes, strict=True)
        ]
        p = np.clip(np.stack(columns, axis=1), FLOOR, 1 - FLOOR)
        return np.asarray(np.log(p / (1 - p)))


def fit_tree(prepared: Any, seed: int, *, max_depth: int) -> FittedTree:
    """Fit a tree of depth at most `max_depth` on the training split of `prepared`; one class or several labels."""
    from sklearn.tree import DecisionTreeClassifier

    features, labels = prepared.part("train")
    target = labels.argmax(axis=1) if prepared.exclusive else labels
    tree = DecisionTreeClassifier(max_depth=max_depth, random_state=key_seed(seed, "tree")).fit(features, target)
    return FittedTree(tree, labels.shape[1], prepared.exclusive)
