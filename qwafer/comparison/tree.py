"""The decision tree: the baseline that needs no training loop, on the same split as the heads."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qwafer._io import atomic_path, digest, key_seed, write_json
from qwafer.comparison.inference import InferenceTiming, time_calls
from qwafer.comparison.resources import PeakMemory
from qwafer.comparison.runs import PARTS, HeadRun, ParameterCounts, RunSeconds
from qwafer.config import RunConfig
from qwafer.evaluation.exclusive import class_indices
from qwafer.evaluation.metrics import Floats
from qwafer.features import FeatureSet
from qwafer.training import prepare

NAME = "tree"
MAX_DEPTH = 10
FLOOR = 1e-6
"""Probabilities of a leaf are kept within [FLOOR, 1 - FLOOR], so that their log-odds are finite."""
BATCH = 256
"""Examples of the timed batch: that of the heads."""


def fit_tree(config: RunConfig, data: FeatureSet, seed: int, *, max_depth: int = MAX_DEPTH) -> HeadRun:
    """Fit scikit-learn's decision tree (Gini, depth at most `max_depth`) on the training split that a head would have.

    Logits are the log-odds of a leaf's class fractions, clipped to [1e-6, 1 - 1e-6]; of exclusive classes their
    logarithms. Parameters are counted as the numbers that prediction reads: feature and threshold of each inner node
    and the fractions of each leaf.
    """
    return _fitted(config, data, seed, max_depth)[0]


def timed_tree(config: RunConfig, data: FeatureSet, seed: int) -> InferenceTiming:
    """Return the timing of the tree of `seed`, as `inference.time_head` gives that of a head."""
    _, predict, prepared = _fitted(config, data, seed, MAX_DEPTH)
    return time_calls(predict, predict, BATCH, prepared["val"], prepared["test"])


def fit_and_store(config: RunConfig, data: FeatureSet, seed: int, folder: Path) -> HeadRun:
    """Return the tree of `seed`, and write its logits and its record into `folder`."""
    run = fit_tree(config, data, seed)
    arrays = {f"{part}_{kind}": getattr(run, kind)[part] for part in PARTS for kind in ("logits", "labels", "rows")}
    with atomic_path(folder / f"seed-{seed}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    write_json(
        folder / f"seed-{seed}.json",
        {
            "head": NAME,
            "seed": seed,
            "max_depth": MAX_DEPTH,
            "n_parameters": run.n_parameters.total,
            "data": run.data_digest,
            "split": run.split_digest,
            "fingerprint": digest(arrays["val_logits"], arrays["test_logits"]),
        },
    )
    return run


def _fitted(
    config: RunConfig, data: FeatureSet, seed: int, max_depth: int
) -> tuple[HeadRun, Callable[[np.ndarray], Floats], dict[str, np.ndarray]]:
    from sklearn.tree import DecisionTreeClassifier

    prepared = prepare(config, data, seed)
    features, labels = prepared.part("train")
    n_labels = labels.shape[1]
    exclusive = config.objective.loss == "softmax"
    target = class_indices(labels, n_labels) if exclusive else labels
    start = time.perf_counter()
    tree = DecisionTreeClassifier(max_depth=max_depth, random_state=key_seed(seed, "tree")).fit(features, target)
    seconds = time.perf_counter() - start

    def predict(rows: np.ndarray) -> Floats:
        found = tree.predict_proba(rows)
        if exclusive:
            probabilities = np.zeros((len(rows), n_labels))
            probabilities[:, tree.classes_] = found
            return np.log(np.clip(probabilities, FLOOR, 1))
        blocks, classes = (found, tree.classes_) if n_labels > 1 else ([found], [tree.classes_])
        columns = [
            block[:, 1] if len(known) > 1 else np.full(len(rows), float(known[0]))
            for block, known in zip(blocks, classes, strict=True)
        ]
        p = np.clip(np.stack(columns, axis=1), FLOOR, 1 - FLOOR)
        return np.asarray(np.log(p / (1 - p)))

    n_leaves = int(tree.get_n_leaves())
    n_numbers = 2 * (tree.tree_.node_count - n_leaves) + n_leaves * n_labels
    parts = {part: prepared.part(part) for part in PARTS}
    run = HeadRun(
        head=NAME,
        seed=seed,
        label_names=prepared.data.label_names,
        exclusive=exclusive,
        logits={part: predict(parts[part][0]) for part in PARTS},
        labels={part: parts[part][1] for part in PARTS},
        rows={part: getattr(prepared.split, part) for part in PARTS},
        n_parameters=ParameterCounts(trainable=n_numbers, frozen=0, total=n_numbers),
        seconds=RunSeconds(training=seconds, total=seconds),
        curves={},
        data_digest=prepared.data_digest,
        split_digest=prepared.split.digest,
        notes=prepared.notes,
        memory=PeakMemory(None, None),
        config={"head": {"name": NAME, "max_depth": max_depth}, "data": config.to_dict()["data"]},
    )
    return run, predict, {part: parts[part][0] for part in PARTS}
