"""`FeatureSet`: the NPZ that joins the two halves of the library, features of maps in, heads on top."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer._io import atomic_path, canonical_json, digest, jsonable
from qwafer._reading import reads
from qwafer.data.edge_iiot import DataTable
from qwafer.data.files import load_npz
from qwafer.data.maps import check_labels, check_rows
from qwafer.data.splits import PARTS, Split

REQUIRED_KEYS = ("features", "labels", "label_names", "content_ids", "provenance")
OPTIONAL_KEYS = ("groups", "times", "exclusive", "split", "feature_names")
NO_DEFECT_NAMES = ("none", "normal")
"""Class names, in lower case, that mean a wafer without a defect pattern."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of N examples with their labels; read-only arrays, checked on construction.

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

    def __post_init__(self) -> None:
        source = "the feature set"
        object.__setattr__(self, "label_names", tuple(str(name) for name in self.label_names))
        if self.feature_names is not None:
            object.__setattr__(self, "feature_names", tuple(str(name) for name in self.feature_names))
        if self.features.ndim != 2 or 0 in self.features.shape:
            raise InputError(f"`features` must have shape (N, D), neither of them 0, got {self.features.shape}")
        if self.features.dtype != np.float32:
            raise InputError(f"`features` must be float32, got {self.features.dtype}")
        n, width = self.features.shape
        if self.feature_names is not None and len(self.feature_names) != width:
            raise InputError(f"`feature_names` must name all {width} features, got {len(self.feature_names)} names")
        check_finite(self.features, self.feature_names)
        check_labels(self.labels, self.label_names, n, source, exclusive=self.exclusive)
        check_rows(self.content_ids, self.groups, self.times, n, source)
        if self.split is not None and (self.split.shape != (n,) or not np.isin(self.split, PARTS).all()):
            raise InputError(f"`split` must be {n} strings out of {', '.join(PARTS)}")
        if not isinstance(self.provenance, dict):
            raise InputError(f"`provenance` must be a dict of JSON data, got {type(self.provenance).__name__}")
        object.__setattr__(self, "provenance", jsonable(self.provenance))
        for name in ("features", "labels", "content_ids", "groups", "times", "split"):
            array = getattr(self, name)
            if array is not None:
                view = array.view()
                view.flags.writeable = False  # the digest is computed once
                object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.features)

    def take(self, indices: np.ndarray) -> "FeatureSet":
        """Return the examples at `indices` ((M,) integers), in that order, with everything that belongs to them.

        `provenance["rows"]` says how many of how many they are.
        """
        indices = np.asarray(indices, dtype=np.int64)
        per_row = ("features", "labels", "content_ids", "groups", "times", "split")
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
            cached = digest(*arrays, names, *("absent" if array is None else array for array in optional))
            object.__setattr__(self, "_digest", cached)
        return cached

    def task(self, name: str) -> "FeatureSet":
        """Return the same examples under the task `name`.

        `multilabel`: every label, unchanged. `any`: one label `defect`, 1 where any defect is set; a column called
        `none` or `normal` is not a defect. A label's name: that label against the rest.

        Raises:
            InputError: an unknown name, or a binary task of which only one class occurs.
        """
        if name == "multilabel":
            return self
        if name == "any":
            defects = [k for k, label in enumerate(self.label_names) if label.casefold() not in NO_DEFECT_NAMES]
            column = np.asarray(self.labels[:, defects].any(axis=1))
            label = "defect"
        elif name in self.label_names:
            column = np.asarray(self.labels[:, self.label_names.index(name)] > 0)
            label = name
        else:
            known = ("multilabel", "any", *self.label_names)
            raise InputError(f"`task` must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
        positives = int(column.sum())
        if positives in (0, len(self)):
            only = "positive" if positives else "negative"
            raise InputError(
                f"the task {name} has only {only} examples ({len(self)} of {len(self)}), and a binary task needs both "
                f"classes; choose another task or other data"
            )
        labels = column.astype(np.uint8)[:, None]
        return replace(self, labels=labels, label_names=(label,), exclusive=False)

    def save(self, path: str | Path) -> None:
        """Write the set to `path` as NPZ, atomically, without pickles; equal sets give equal bytes."""
        arrays: dict[str, np.ndarray] = {
            "features": self.features,
            "labels": self.labels,
            "label_names": np.array(self.label_names),
            "content_ids": self.content_ids,
            "provenance": np.array(canonical_json(self.provenance)),
            "exclusive": np.array(self.exclusive),
        }
        for key in ("groups", "times", "split"):
            if getattr(self, key) is not None:
                arrays[key] = getattr(self, key)
        if self.feature_names is not None:
            arrays["feature_names"] = np.array(self.feature_names)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

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
        for key in ("label_names", "content_ids", "feature_names", "groups", "split", "provenance"):
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
                features=_as_float32(features),
                labels=labels.astype(np.uint8),
                label_names=tuple(arrays["label_names"].ravel().tolist()),
                content_ids=arrays["content_ids"],
                provenance=_provenance(arrays["provenance"]),
                groups=arrays.get("groups"),
                times=None if times is None else times.astype(np.float64),
                exclusive=bool(exclusive),
                split=arrays.get("split"),
                feature_names=None if names is None else tuple(names.ravel().tolist()),
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def from_table(table: DataTable, split: Split) -> FeatureSet:
    """Return the features of a table: its numbers, then each categorical column one-hot; `split` is recorded.

    The categories are those of the training part alone, in sorted order, so that nothing about the other parts leaks
    into the features; one that occurs only elsewhere becomes all zeros and is counted in `provenance["unseen"]`.

    Raises:
        InputError: a split of another number of rows, or numbers beyond float32.
    """
    parts = split.parts()
    if len(parts) != len(table):
        raise InputError(f"the split has {len(parts)} rows, the table {len(table)}; make it from this table")
    blocks = [_as_float32(table.numeric)]
    names = list(table.numeric_names)
    categories: dict[str, list[str]] = {}
    unseen: dict[str, int] = {}
    for name, column in zip(table.categorical_names, table.categorical, strict=True):
        known = np.unique(column[split.train])
        encoded = column[:, None] == known
        blocks.append(encoded.astype(np.float32))
        names.extend(f"{name}={category}" for category in known.tolist())
        categories[name] = known.tolist()
        unseen[name] = int((~encoded.any(axis=1)).sum())
    return FeatureSet(
        features=np.concatenate(blocks, axis=1),
        labels=table.labels,
        label_names=table.label_names,
        content_ids=table.content_ids,
        provenance={
            "backbone": "table",
            "data": {"source": table.source, "sha256": table.sha256, "n_rows": len(table), "notes": table.notes},
            "dropped": dict(table.dropped),
            "categories": categories,
            "unseen": unseen,
            "split": split.digest,
            "versions": {"numpy": np.__version__},
        },
        times=table.times,
        split=parts,
        feature_names=tuple(names),
    )


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


def _as_float32(features: np.ndarray) -> np.ndarray:
    """Convert to float32; what overflows there is caught as non-finite."""
    with np.errstate(over="ignore"):
        return np.asarray(features, dtype=np.float32)


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
