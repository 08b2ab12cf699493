"""`FeatureSet`: the NPZ that joins the two halves of the library, features of maps in, heads on top."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._arrays import real_array
from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer._io import atomic_path, canonical_json, digest, jsonable
from qwafer._reading import reads
from qwafer.data.arrays import as_labels, as_texts, as_times, ids_sha256, row_ids
from qwafer.data.files import load_npz
from qwafer.data.given_folds import fold_names
from qwafer.data.maps import check_labels, check_ndarray, check_rows, row_indices
from qwafer.data.splits import PARTS, check_labelled

REQUIRED_KEYS = ("features", "labels", "label_names", "content_ids", "provenance")
OPTIONAL_KEYS = ("groups", "times", "exclusive", "split", "feature_names", "folds", "network")
NO_DEFECT_NAMES = ("none", "normal")
"""Class names, in lower case, that mean a wafer without a defect pattern."""
SEARCHED = "for the search of options"
"""`part` in the provenance of features that a search may see, and an experiment never tests on."""
CIRCUMSTANCES = ("data", "rows", "split", "unseen", "versions", "device", "compute_batch")
"""Entries of a provenance that say of which examples features are, and where they were computed, but not how."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of N examples with their labels; read-only arrays, checked on construction. `from_arrays` makes one of
    anybody's own arrays. Features without labels (K = 0) can be predicted, but not trained on.

    Raises `InputError` where a feature is not finite, or lengths, shapes or labels do not fit.
    """

    features: np.ndarray
    """(N, D) float32, finite."""
    labels: np.ndarray
    """(N, K) uint8 of 0 and 1."""
    label_names: tuple[str, ...]
    """K names."""
    content_ids: np.ndarray
    """(N,) str; equal for identical maps, which a split never separates."""
    provenance: dict[str, Any]
    """Plain JSON data: backbone, sha256 of its weights, preprocessing, sha256 of the data, versions."""
    groups: np.ndarray | None = None
    """(N,) str: the lot of each example."""
    times: np.ndarray | None = None
    """(N,) float64, in any unit that orders."""
    exclusive: bool = False
    """Every example has exactly one label: the columns are classes, one of which may be `none`."""
    split: np.ndarray | None = None
    """(N,) str, `train`, `val` or `test`: a split that came with the data."""
    feature_names: tuple[str, ...] | None = None
    """D names."""
    folds: np.ndarray | None = None
    """(N,) str: the fold of each example, where the data bring folds of their own (`data.split_by = "fold"`)."""
    network: np.ndarray | None = None
    """(n,) uint8: the weights of the backbone (safetensors), where it is cut and a head goes on with it (`Origin`)."""

    def __post_init__(self) -> None:
        source = "the feature set"
        object.__setattr__(self, "label_names", tuple(str(name) for name in self.label_names))
        if self.feature_names is not None:
            object.__setattr__(self, "feature_names", tuple(str(name) for name in self.feature_names))
        check_ndarray("features", self.features, source)
        _check_shape(self.features)
        if self.features.dtype != np.float32:
            raise InputError(f"`features` must be float32, got {self.features.dtype}")
        n, width = self.features.shape
        if self.feature_names is not None and len(self.feature_names) != width:
            raise InputError(f"`feature_names` must name all {width} features, got {len(self.feature_names)} names")
        check_finite(self.features, self.feature_names)
        check_labels(self.labels, self.label_names, n, source, exclusive=self.exclusive)
        check_rows(self.content_ids, self.groups, self.times, n, source)
        for name in ("split", "folds"):
            if getattr(self, name) is not None:
                check_ndarray(name, getattr(self, name), source)
        if self.folds is not None and (self.folds.shape != (n,) or self.folds.dtype.kind != "U"):
            raise InputError(f"`folds` must be {n} strings, got {self.folds.dtype} of shape {self.folds.shape}")
        if self.split is not None and (self.split.shape != (n,) or not np.isin(self.split, PARTS).all()):
            raise InputError(f"`split` must be {n} strings out of {', '.join(PARTS)}")
        if self.network is not None:
            check_ndarray("network", self.network, source)
            if self.network.dtype != np.uint8 or self.network.ndim != 1:
                found = f"{self.network.dtype} of shape {self.network.shape}"
                raise InputError(f"`network` must be the bytes of weights, uint8 (n,), got {found}")
        if not isinstance(self.provenance, dict):
            raise InputError(f"`provenance` must be a dict of JSON data, got {type(self.provenance).__name__}")
        object.__setattr__(self, "provenance", jsonable(self.provenance))
        for name in ("features", "labels", "content_ids", "groups", "times", "split", "folds", "network"):
            array = getattr(self, name)
            if array is not None:
                view = array.view()
                view.flags.writeable = False  # the digest is computed once
                object.__setattr__(self, name, view)

    @classmethod
    def from_arrays(
        cls,
        features: Any,
        labels: Any = None,
        *,
        label_names: Sequence[str] | None = None,
        exclusive: bool = False,
        content_ids: Any = None,
        groups: Any = None,
        times: Any = None,
        split: Any = None,
        folds: Any = None,
        feature_names: Sequence[str] | None = None,
        backbone: str = "arrays",
    ) -> "FeatureSet":
        """Return the feature set of anybody's own arrays: `FeatureSet.from_arrays(X, y)`.

        Args:
            features: (N, D) real numbers of any type, finite in float32.
            labels: see `data.arrays.as_labels`; none: features without labels, to be predicted.
            label_names: names of the labels, or of the classes.
            exclusive: whether labels of 0 and 1 are exclusive classes.
            content_ids: (N,) texts or whole numbers, equal for examples that no split may separate, such as two
                pictures of one wafer; none: made from the rows, so that equal rows stay together.
            groups: (N,) texts or whole numbers: the lot of each example.
            times: (N,) finite numbers, in any unit that orders.
            split: (N,) of `train`, `val` and `test`, where the features rest on a split.
            folds: (N,) texts or whole numbers: the fold of each example, where the data were published with folds.
            feature_names: D names.
            backbone: what made the features, in words; a head that was trained on them refuses those of another name.

        Raises:
            InputError: features that are not finite, or anything that does not fit.
        """
        values = as_features(features)
        _check_shape(values)
        n = len(values)
        columns, names, classes = as_labels(labels, n, label_names, exclusive=exclusive)
        ids = as_texts("content_ids", content_ids, n)
        ids = row_ids(values) if ids is None else ids
        if not isinstance(backbone, str) or not backbone:
            raise InputError(f"`backbone` must be a text that says what made the features, got {backbone!r}")
        return cls(
            features=values,
            labels=columns,
            label_names=names,
            content_ids=ids,
            provenance={
                "backbone": backbone,
                "data": {"source": "arrays", "sha256": ids_sha256(ids), "n_rows": n},
                "versions": {"numpy": np.__version__},
            },
            groups=as_texts("groups", groups, n),
            times=as_times(times),
            exclusive=classes,
            split=as_texts("split", split, n),
            feature_names=None if feature_names is None else tuple(feature_names),
            folds=as_texts("folds", folds, n),
        )

    @property
    def origin(self) -> "Origin":
        """What made the features."""
        return Origin(self.provenance, self.network)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, indices: np.ndarray) -> "FeatureSet":
        """Return the examples at `indices` ((M,) integers), in that order, with everything that belongs to them; raise
        InputError for truth values and for rows that are not there.

        `provenance["rows"]` says how many of how many they are.
        """
        indices = row_indices(indices, len(self))
        per_row = ("features", "labels", "content_ids", "groups", "times", "split", "folds")
        of = self.provenance.get("rows", {}).get("of", len(self))
        provenance = {**self.provenance, "rows": {"taken": len(indices), "of": of}}
        arrays = {k: getattr(self, k)[indices] for k in per_row if getattr(self, k) is not None}
        return replace(self, provenance=provenance, **arrays)

    def digest(self) -> str:
        """Return 16 hex digits over everything that a run could depend on: all arrays, names and `exclusive`."""
        cached = self.__dict__.get("_digest")
        if cached is None:
            arrays = (self.features, self.labels, self.content_ids)
            optional = (self.groups, self.times, self.split)
            names = [self.label_names, self.exclusive, self.feature_names]
            later = [array for array in (self.folds, self.network) if array is not None]
            cached = digest(*arrays, names, *("absent" if array is None else array for array in optional), *later)
            object.__setattr__(self, "_digest", cached)
        return cached

    def task(self, name: str) -> "FeatureSet":
        """Return the same examples under the task `name`.

        `multilabel`: every label, unchanged. `any`: one label `defect`, 1 where any defect is set; a column called
        `none` or `normal` is not a defect. A label's name: that label against the rest.

        Raises:
            InputError: see `check_task`.
        """
        column = check_task(name, self.labels, self.label_names)
        if column is None:
            return self
        label = "defect" if name == "any" else name
        return replace(self, labels=column[:, None], label_names=(label,), exclusive=False)

    def save(self, path: str | Path) -> None:
        """Write the set to `path` as NPZ, atomically, without pickles; equal sets give equal bytes."""
        arrays: dict[str, np.ndarray] = {
            "features": self.features,
            "labels": self.labels,
            "label_names": np.array(self.label_names, np.str_),
            "content_ids": self.content_ids,
            "provenance": np.array(canonical_json(self.provenance)),
            "exclusive": np.array(self.exclusive),
        }
        for key in ("groups", "times", "split", "folds", "network"):
            if getattr(self, key) is not None:
                arrays[key] = getattr(self, key)
        if self.feature_names is not None:
            arrays["feature_names"] = np.array(self.feature_names)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @staticmethod
    def wrote(path: str | Path) -> bool:
        """Return whether `save` wrote the file at `path`, be it whole or damaged: it begins so, or it is empty."""
        with Path(path).open("rb") as file:
            head = file.read(42)
        return not head or (head.startswith(b"PK") and head[30:] == b"features.npy")

    @classmethod
    @reads("is not a feature set, or a damaged one")
    def load(cls, path: str | Path) -> "FeatureSet":
        """Return the set saved at `path`; raise `InputError`, in one sentence, for anything that does not fit."""
        arrays = load_npz(path, REQUIRED_KEYS, "a feature set", OPTIONAL_KEYS)
        features = arrays["features"]
        if features.dtype.kind not in "fiu":
            raise InputError(f"{path}: `features` must be numbers, got {features.dtype}")
        labels = arrays["labels"]
        if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
            raise InputError(
                f"{path}: `labels` must be 0 or 1, and the {labels.dtype} array there holds something else"
            )
        for key in ("label_names", "content_ids", "feature_names", "groups", "split", "folds", "provenance"):
            if key in arrays and arrays[key].dtype.kind != "U":
                raise InputError(f"{path}: `{key}` must be strings, got {arrays[key].dtype}")
        times = arrays.get("times")
        if times is not None and times.dtype.kind not in "fiu":
            raise InputError(f"{path}: `times` must be numbers, got {times.dtype}")
        exclusive = arrays.get("exclusive", np.array(False))
        if exclusive.shape != () or exclusive.dtype != np.bool_:
            raise InputError(f"{path}: `exclusive` must be one truth value, got {exclusive.dtype} {exclusive.shape}")
        names = arrays.get("feature_names")
        try:
            return cls(
                features=as_features(features),
                labels=labels.astype(np.uint8),
                label_names=tuple(arrays["label_names"].ravel().tolist()),
                content_ids=arrays["content_ids"],
                provenance=_provenance(arrays["provenance"]),
                groups=arrays.get("groups"),
                times=None if times is None else times.astype(np.float64),
                exclusive=bool(exclusive),
                split=arrays.get("split"),
                feature_names=None if names is None else tuple(names.ravel().tolist()),
                folds=arrays.get("folds"),
                network=arrays.get("network"),
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


@dataclass(frozen=True, eq=False)
class Origin:
    """What made features, for heads that go on with it."""

    provenance: Mapping[str, Any]
    """`FeatureSet.provenance`; where a network was cut, `cut` says at which `stage`, and the `shape` of an example."""
    network: np.ndarray | None
    """`FeatureSet.network`; empty where a head is made again to be given its arrays, None where no network was cut."""


def fingerprint(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `provenance` says of how features are made, of whatever examples: the backbone, its weights by their
    sha256, preprocessing, dtype and what else its record holds. Empty where it names no backbone.
    """
    if "backbone" not in provenance:
        return {}
    made = {name: value for name, value in provenance.items() if name not in CIRCUMSTANCES}
    weights = made.get("weights")
    if isinstance(weights, Mapping) and "sha256" in weights:  # a file may be called otherwise
        made["weights"] = weights["sha256"]
    return dict(jsonable(made))


def check_task(name: str, labels: np.ndarray, label_names: Sequence[str]) -> np.ndarray | None:
    """Return the column (N,) of the binary task `name`, 0 or 1, of labels (N, K); None for `multilabel`.

    Raises:
        InputError: no labels, an unknown name, or a binary task of which only one class occurs.
    """
    check_labelled(labels)
    if name == "multilabel":
        return None
    if name == "any":
        defects = [k for k, label in enumerate(label_names) if label.casefold() not in NO_DEFECT_NAMES]
        column = np.asarray(labels[:, defects].any(axis=1))
    elif name in label_names:
        column = np.asarray(labels[:, list(label_names).index(name)] > 0)
    else:
        known = ("multilabel", "any", *label_names)
        raise InputError(f"`task` must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    positives = int(column.sum())
    if positives in (0, len(column)):
        only = "positive" if positives else "negative"
        raise InputError(
            f"the task {name} has only {only} examples ({len(column)} of {len(column)}), and a binary task needs both "
            f"classes; choose another task or other data"
        )
    return column.astype(np.uint8)


def check_finite(features: np.ndarray, names: tuple[str, ...] | None = None) -> None:
    """Raise `InputError`, with a count and the first place, if an entry of (N, D) `features` is not finite."""
    rows = max(1, 2**22 // features.shape[1])  # a few MB at a time, for features that lie on disk
    bad = 0
    first: tuple[int, int] | None = None
    for start in range(0, len(features), rows):
        finite = np.isfinite(features[start : start + rows])
        if not finite.all():
            bad += int((~finite).sum())
            if first is None:
                row, column = np.argwhere(~finite)[0]
                first = start + int(row), int(column)
    if first is not None:
        name = f" ({names[first[1]]})" if names is not None else ""
        raise InputError(
            f"`features` must be finite; {bad} of {features.size} are not, the first is {features[first]} at row "
            f"{first[0]}, column {first[1]}{name}"
        )


def _check_shape(features: np.ndarray) -> None:
    """Raise InputError unless `features` has shape (N, D), neither of them 0."""
    if features.ndim != 2 or 0 in features.shape:
        raise InputError(f"`features` must have shape (N, D), neither of them 0, got {features.shape}")


def as_features(features: Any) -> np.ndarray:
    """Return `features`, real numbers of any type, as float32; what overflows there becomes infinite.

    Raises InputError for what are not real numbers.
    """
    array = real_array("features", features)
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float32)


def _provenance(array: np.ndarray) -> dict[str, Any]:
    """Return the record in `array`, a single string of JSON."""
    try:
        record = json.loads(array.item())
    except (ValueError, AttributeError) as error:
        raise InputError(f"`provenance` must be one string of JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"`provenance` must be a JSON object, got {type(record).__name__}")
    return record


@dataclass(frozen=True)
class SourceFacts:
    """What a configuration must know of its source to tell which options have an effect."""

    kind: str
    """`synthetic`, `maps`, `table` or `features`."""
    brings_split: bool = False
    """Whether the file records which examples train, validate and test."""
    n_folds: int | None = None
    """Folds that it brings; None where it brings none."""


def facts_of(data: FeatureSet) -> SourceFacts:
    """Return the facts of features."""
    return SourceFacts("features", data.split is not None, None if data.folds is None else len(fold_names(data.folds)))
