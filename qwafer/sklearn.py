"""`QuantumClassifier`: any head or circuit as an estimator of scikit-learn."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.config import RunConfig, thing_class
from qwafer.data import Split, make_split
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.training._prepare import GIVEN, Prepared
from qwafer.training._train import train_prepared
from qwafer.training.predictor import Predictor

_ESTIMATOR = "estimator"
"""Entry of a predictor's provenance that holds what the file of an estimator needs beside it."""
MIN_EXAMPLES = 10
"""Fewer examples are all trained on, and the checkpoint is picked on them as well."""


class QuantumClassifier(ClassifierMixin, BaseEstimator):
    """A head of qwafer, a variational circuit by default, for binary, multi-class and multi-label problems.

    Logits l(x) = alpha (s(x) + bias) as everywhere in qwafer; p = sigmoid(l) for two classes and for each of several
    labels, softmax(l) for several exclusive classes. A class or label is predicted where p is largest, or above 1/2.

    `fit` trains on all rows but `validation_fraction` of them, which pick the checkpoint and decide when training has
    converged; identical rows are never on both sides. There is no test split: measure with `cross_val_score`, or on
    data that were kept apart.

    Args:
        head: name of the head: `quantum`, `linear`, `mlp`, `tree`, `package.module:Options`, ...
        options: options of the run by dotted name, as on the command line (docs/options.md):
            `{"circuit.n_qubits": 6, "training.epochs": 40}`. `set_params(circuit__n_qubits=6)` sets one of them, which
            is how `GridSearchCV` searches. The engine of a circuit is `xla` unless it is set.
        validation_fraction: part of the rows, in (0, 0.5], that validates.
        random_state: seed of split, initial values and batches: a number, a `RandomState`, or None for another one at
            each fit.

    Attributes:
        classes_: (C,) the classes, sorted; (L,) the numbers of the labels where y has a column for each.
        n_features_in_: D.
        predictor_: the trained `qwafer.training.Predictor`.
        converged_: whether training had converged, None for a head that trains itself; a warning says so where not.
        n_epochs_: epochs trained.
    """

    def __init__(
        self,
        head: str = "quantum",
        options: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = None,
    ):
        self.head = head
        self.options = options
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments by name; with `deep` every one of `options` as well, as `section__option`."""
        found: dict[str, Any] = super().get_params(deep)
        own = self.options if deep and isinstance(self.options, Mapping) else {}
        return {**found, **{name.replace(".", "__"): value for name, value in own.items()}}

    def set_params(self, **params: Any) -> "QuantumClassifier":
        """Set arguments, and options as `section__option=value`."""
        own = {name.replace("__", ".", 1): value for name, value in params.items() if "__" in name}
        super().set_params(**{name: value for name, value in params.items() if "__" not in name})
        if own:
            self.options = {**(self.options or {}), **own}
        return self

    def fit(self, X: Any, y: Any) -> "QuantumClassifier":
        """Train on `X` (N, D) real numbers and `y`, (N,) classes or (N, L) of 0 and 1; return self.

        Raises InputError, a ValueError, for options or data that do not fit.
        """
        check_interval("validation_fraction", self.validation_fraction, 0, 0.5, open_low=True)
        X, y = validate_data(self, X, y, multi_output=True, dtype=np.float64)
        check_classification_targets(y)
        labels = self._labels(y)
        config = self._config(exclusive=labels.shape[1] > 1 and not self._several)
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31)
        data = FeatureSet.from_arrays(X, labels, label_names=self._names(labels), exclusive=config.objective.exclusive)
        data = replace(data, provenance={**data.provenance, _ESTIMATOR: self._record()})
        split = _split(data, self.validation_fraction, int(seed))
        prepared = Prepared(data, split, data.digest(), (), config.objective.exclusive, data.digest())
        result = train_prepared(config, prepared, int(seed))
        assert result.predictor is not None
        self.predictor_: Predictor = result.predictor
        self.converged_ = result.converged
        self.n_epochs_ = result.epochs_run
        if result.converged is False:
            _warn(config)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits: (N,) of the second class where there are two, else (N, C) or (N, L)."""
        logits = self._logits(X)
        return logits[:, 0] if logits.shape[1] == 1 and not self._several else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return (N, C) probabilities of the classes, or (N, L) of the labels."""
        from qwafer.evaluation.exclusive import probabilities

        found = probabilities(self._logits(X), exclusive=self.predictor_.config.objective.exclusive)
        if self._several or found.shape[1] > 1:
            return found
        return np.concatenate([1 - found, found], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted classes (N,), or labels (N, L) of 0 and 1."""
        logits = self._logits(X)
        if self._several:
            return (logits > 0).astype(np.int64)
        found: np.ndarray = self.classes_[logits.argmax(axis=1) if logits.shape[1] > 1 else (logits[:, 0] > 0) + 0]
        return found

    def save(self, path: str | Path) -> None:
        """Write the trained estimator to `path`, atomically and without pickles; `load` reads it.

        Raises InputError for a head that cannot be saved, such as a tree, and for classes that are not numbers, truth
        values or texts.
        """
        check_is_fitted(self)
        if self.classes_.dtype.kind not in "biufU":
            raise InputError(f"classes of the type {self.classes_.dtype} cannot be saved: use numbers or texts")
        self.predictor_.save(path)

    @classmethod
    def load(cls, path: str | Path) -> "QuantumClassifier":
        """Return the estimator saved at `path`; raises InputError where the file does not hold one."""
        predictor = Predictor.load(path)
        record = predictor.provenance.get(_ESTIMATOR)
        if not isinstance(record, dict) or "classes" not in record:
            raise InputError(
                f"{path} holds a predictor that no estimator has saved: use qwafer.training.Predictor.load"
            )
        arguments = {**record["arguments"], "options": json.loads(record["options"])}
        found = cls(**arguments)
        found.classes_ = np.array(record["classes"], dtype=record["dtype"])
        found._several = record["several"]
        found.n_features_in_ = predictor.n_features
        if record["features"] is not None:
            found.feature_names_in_ = np.array(record["features"], dtype=object)
        found.predictor_ = predictor
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _labels(self, y: np.ndarray) -> np.ndarray:
        """Return y as columns of 0 and 1; set `classes_`, and whether the columns are labels of their own."""
        self._several = type_of_target(y) == "multilabel-indicator"
        if self._several:
            self.classes_ = np.arange(y.shape[1])
            return np.asarray(y).astype(np.uint8)
        if y.ndim > 1 and y.shape[1] > 1:
            raise InputError("y must hold one class for each row, or columns of 0 and 1 for several labels")
        self.classes_, index = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y holds one class only ({self.classes_[0]}): there is nothing to tell apart")
        if len(self.classes_) == 2:
            return index[:, None].astype(np.uint8)
        return np.eye(len(self.classes_), dtype=np.uint8)[index]

    def _names(self, labels: np.ndarray) -> list[str]:
        if labels.shape[1] == 1 and not self._several:
            return [f"class {self.classes_[1]}"]
        return [f"{'label' if self._several else 'class'} {name}" for name in self.classes_]

    def _config(self, *, exclusive: bool) -> RunConfig:
        own = {"head.name": self.head, **(self.options or {})}
        defaults: dict[str, Any] = {"data.source": GIVEN}
        if "engine" in getattr(thing_class("head", self.head), "sections", ()):
            defaults["engine.name"] = "xla"
        if exclusive:
            defaults["objective.loss"] = "softmax"
        return with_options(RunConfig(), {**defaults, **own})

    def _record(self) -> dict[str, Any]:
        """Return what the file of the estimator needs beside the predictor, as JSON data."""
        names = getattr(self, "feature_names_in_", None)
        plain = self.classes_.dtype.kind in "biufU"
        return {
            "classes": self.classes_.tolist() if plain else [str(name) for name in self.classes_],
            "dtype": self.classes_.dtype.str,
            "several": self._several,
            "features": None if names is None else [str(name) for name in names],
            "arguments": {
                "head": self.head,
                "validation_fraction": float(self.validation_fraction),
                "random_state": int(self.random_state) if isinstance(self.random_state, (int, np.integer)) else None,
            },
            "options": json.dumps(dict(self.options or {}), default=str),
        }

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.predictor_.logits(X).astype(np.float64)


def _split(data: FeatureSet, fraction: float, seed: int) -> Split:
    """Return which rows train and which validate; the validation rows stand for the test split, too, of which nothing
    is read.
    """
    rows = np.arange(len(data))
    if len(data) < MIN_EXAMPLES or len(np.unique(data.content_ids)) < MIN_EXAMPLES:
        return Split(rows, rows, rows, "all rows")
    third = make_split(data.labels, data.content_ids, seed=seed, train_fraction=1 - fraction, val_fraction=fraction / 2)
    held = np.sort(np.concatenate([third.val, third.test]))
    if len(np.unique(data.labels[third.train], axis=0)) < 2:
        return Split(rows, rows, rows, "all rows")
    return Split(third.train, held, held, third.digest)


def _warn(config: RunConfig) -> None:
    warnings.warn(
        f"training had not converged after {config.training.stage_ends[-1]} epochs: raise training__epochs or "
        "training__max_doublings",
        ConvergenceWarning,
        stacklevel=3,
    )
