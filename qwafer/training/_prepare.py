"""From a configuration, features and a seed to the arrays of a run: task, limit, split."""

from dataclasses import dataclass

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest, key_seed
from qwafer.config import RunConfig
from qwafer.data import Split, make_fold, make_split
from qwafer.features import FeatureSet


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run reads: features and labels of its task, and which rows train, validate and test."""

    data: FeatureSet
    """Under the run's task, within its limit."""
    split: Split
    """Rows of `data`."""
    data_digest: str
    """Digest of the features and the labels of the task."""
    notes: tuple[str, ...]
    """What a reader of the result should know about the split."""
    exclusive: bool = False
    """Whether the labels are exclusive classes to the loss: one of them is decided, by the largest logit."""

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the features (M, D) float32 and labels (M, n_labels) uint8 of `train`, `val` or `test`."""
        rows = getattr(self.split, name)
        return self.data.features[rows], self.data.labels[rows]


def prepare(config: RunConfig, data: FeatureSet, seed: int) -> Prepared:
    """Return `data` limited, split and under its task, as `config.data` says.

    The split is drawn before the task is applied, so that runs of one seed share it whatever their tasks. Its seed is
    `config.data.split_seed`, or the run's; with `config.data.n_folds` the run's seed names a fold, and the limit is
    drawn once per partition. A split that came with the data is kept: features such as category codes may rest on it.
    Raises InputError where it meets folds, or where the training split of a binary task has one class only.
    """
    n_folds = config.data.n_folds
    split_seed = seed if config.data.split_seed is None else config.data.split_seed
    limit_seed = split_seed if n_folds is None else seed // n_folds
    notes: tuple[str, ...] = ()
    if config.data.limit is not None and config.data.limit < len(data):
        rng = np.random.default_rng(key_seed(limit_seed, "limit"))
        data = data.take(np.sort(rng.choice(len(data), config.data.limit, replace=False)))
    if data.split is not None:
        if n_folds is not None:
            raise InputError("`data.n_folds` cannot be used: the source of the data brings its own split")
        split = _given(data)
        notes = ("the split is the one that came with the data: it is the same for every seed",)
    elif n_folds is not None:
        split = make_fold(
            data.labels,
            data.content_ids,
            seed=seed,
            n_folds=n_folds,
            by=config.data.split_by,
            val_fraction=config.data.val_fraction,
            groups=data.groups,
        )
    else:
        split = make_split(
            data.labels,
            data.content_ids,
            seed=split_seed,
            by=config.data.split_by,
            train_fraction=config.data.train_fraction,
            val_fraction=config.data.val_fraction,
            groups=data.groups,
            times=data.times,
        )
    data = data.task(config.data.task)
    if config.objective.exclusive and not (data.exclusive and data.labels.shape[1] > 1):
        raise InputError(
            f"`objective.loss` = {config.name('objective')} needs exclusive classes, one for each example, "
            "and these labels are not: use bce"
        )
    train_labels = data.labels[split.train]
    if data.labels.shape[1] == 1 and len(np.unique(train_labels)) < 2:
        only = "positive" if train_labels[0, 0] else "negative"
        raise InputError(
            f"the training split of the task {config.data.task} holds only {only} examples ({len(train_labels)}): "
            "use more data, or another task or split"
        )
    return Prepared(data, split, data.digest(), (*notes, *split.notes), config.objective.exclusive)


def _given(data: FeatureSet) -> Split:
    """Return the split that came with the data."""
    if data.split is None:
        raise InputError("`data.split` must name the part of each example")
    parts = {name: np.flatnonzero(data.split == name) for name in ("train", "val", "test")}
    for name, rows in parts.items():
        if not len(rows):
            raise InputError(
                f"the split that came with the data leaves its {name} part empty: raise or drop `data.limit`"
            )
    order = np.lexsort((data.split, data.content_ids))
    record = digest(data.content_ids[order], data.split[order])
    return Split(parts["train"], parts["val"], parts["test"], record)
