"""From a configuration, features and a seed to the arrays of a run: task, limit, split."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest, hash_texts, key_seed
from qwafer.config import DataConfig, RunConfig
from qwafer.data import Split, WaferMaps, make_fold, make_given_fold, make_split
from qwafer.data.given_folds import fold_names
from qwafer.data.source import SYNTHETIC
from qwafer.data.splits import PARTS
from qwafer.data.synthetic import CANNOT_SHOW
from qwafer.features import FeatureSet, check_task


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
    source_digest: str = ""
    """Digest of the features as they were given, before limit and task."""
    by_group: bool = False
    """Whether the split was drawn by group."""

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the features (M, D) float32 and labels (M, n_labels) uint8 of `train`, `val` or `test`."""
        rows = getattr(self.split, name)
        return self.data.features[rows], self.data.labels[rows]

    def ids(self, name: str) -> np.ndarray:
        """Return the hashes (M,) uint64 of the content ids of a part."""
        return hash_texts(self.data.content_ids[getattr(self.split, name)])

    def groups(self, name: str) -> np.ndarray | None:
        """Return the hashes (M,) int64 of the lots of a part; None where the data know none."""
        known = self.data.groups
        return None if known is None else hash_texts(known[getattr(self.split, name)]).view(np.int64)

    @property
    def n_examples(self) -> dict[str, int]:
        """Rows of each part."""
        return {name: len(getattr(self.split, name)) for name in PARTS}

    @property
    def n_groups(self) -> dict[str, int]:
        """Lots in each part of a split that was drawn by group; else empty."""
        if not self.by_group or self.data.groups is None:
            return {}
        return {name: len(np.unique(self.data.groups[getattr(self.split, name)])) for name in PARTS}


def prepare(config: RunConfig, data: FeatureSet, seed: int) -> Prepared:
    """Return `data` limited, split and under its task, as `config.data` says.

    The split is drawn before the task is applied, so that runs of one seed share it whatever their tasks. Its seed is
    `config.data.split_seed`, or the run's; with `config.data.n_folds`, and by the folds of the data, it names a fold,
    and the limit is drawn once per partition. A split that came with the data is kept: features such as category codes
    may rest on it.

    Raises InputError where such a split meets folds, for a split by fold of data without folds, or where the training
    split of a binary task has one class only.
    """
    check_feature_set(data)
    source_digest, by_group = data.digest(), data.split is None and config.data.split_by == "group"
    n_folds = config.data.n_folds
    split_seed = seed if config.data.split_seed is None else config.data.split_seed
    notes: tuple[str, ...] = ()
    folds = None if data.folds is None else fold_names(data.folds)
    if config.data.limit is not None and config.data.limit < len(data):
        rng = np.random.default_rng(key_seed(config.data.limit_seed(seed), "limit"))
        data = data.take(np.sort(rng.choice(len(data), config.data.limit, replace=False)))
    if data.split is not None:
        if n_folds is not None:
            raise InputError("`data.n_folds` cannot be used: the source of the data brings its own split")
        split = _given(data)
        notes = ("the split is the one that came with the data: it is the same for every seed",)
    elif config.data.split_by == "fold":
        split = make_given_fold(data.labels, data.content_ids, data.folds, seed=split_seed, names=folds)
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
    notes = (*_data_notes(data, split), *notes, *split.notes)
    return Prepared(data, split, data.digest(), notes, config.objective.exclusive, source_digest, by_group)


def check_feature_set(data: object) -> None:
    """Raise InputError, saying how to make one, unless `data` are a `FeatureSet` with labels."""
    if isinstance(data, WaferMaps):
        made = "qwafer.features_from_maps(maps) makes one of wafer maps"
    else:
        made = "qwafer.FeatureSet.from_arrays(X, y) makes one of features and labels"
    if not isinstance(data, FeatureSet):
        raise InputError(f"`data` must be a FeatureSet, got {type(data).__name__}: {made}")
    check_task("multilabel", data.labels, data.label_names)


def _data_notes(data: FeatureSet, split: Split) -> tuple[str, ...]:
    """Return what a reader must know of the maps themselves: lots on both sides of the split, synthetic maps."""
    notes = []
    if data.groups is not None and np.isin(data.groups[split.test], data.groups[split.train]).any():
        notes.append(
            "the data have lots, and the test split has maps of lots of which training holds wafers, too: the score on "
            "new lots may be lower, which data.split_by = group shows"
        )
    if data.folds is not None and np.isin(data.folds[split.test], data.folds[split.train]).any():
        notes.append(
            "the data bring folds of their own, and the split does not keep to them: what they keep apart, such as "
            "clips of one recording, may stand on both sides, which data.split_by = fold prevents"
        )
    source = data.provenance.get("data")
    if isinstance(source, dict) and str(source.get("source", "")).startswith("synthetic ("):
        notes.append(CANNOT_SHOW)
    return tuple(notes)


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


GIVEN = "given"
"""`data.source` of a run on features that were handed over in Python."""


def given_config(config: RunConfig, data: FeatureSet) -> RunConfig:
    """Return `config` with a data section that says what runs: the source `given`, and the backbone that the features
    name.
    """
    backbone = data.provenance.get("backbone")
    named = backbone if isinstance(backbone, str) else config.data.backbone
    blank = {name: getattr(DataConfig(), name) for name in ("reader", "n_maps", "seed")}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=GIVEN, backbone=named, **blank))


def written_config(config: RunConfig) -> dict[str, Any]:
    """Return the JSON form of `config` without the options of the synthetic generator, where it did not run."""
    form = config.to_dict()
    if config.data.source != SYNTHETIC:
        form["data"] = {name: value for name, value in form["data"].items() if name not in ("n_maps", "seed")}
    return form
