"""What `data.source` names: its facts, its content, and the features of a table."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import canonical_json, digest, file_sha256
from qwafer.config import DataConfig
from qwafer.data import DataTable, Split, WaferMaps, make_split
from qwafer.data.files import npz_keys, read_npz
from qwafer.data.generated import generated
from qwafer.data.given_folds import fold_names
from qwafer.data.source import READERS, SYNTHETIC, not_maps, read, reader_of
from qwafer.data.tables import Roles, read_table
from qwafer.features import FeatureSet, SourceFacts, as_features, facts_of

_KINDS = {"synthetic": "synthetic", "features": "features", "edge_iiot": "table"}


def source_facts(data: DataConfig) -> SourceFacts:
    """Return the facts of `data.source`, from the names of the arrays in its file; a reader of your own has to read it.

    What cannot be read, or is not there, is taken for maps: reading it says what is wrong.
    """
    path = Path(data.source)
    stat = path.stat() if path.is_file() else None
    return _facts(data.source, data.reader, None if stat is None else (stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=64)
def _facts(source: str, reader: str | None, version: tuple[int, int] | None) -> SourceFacts:
    if version is None and source != SYNTHETIC:
        return SourceFacts("maps")
    try:
        if reader is not None and reader not in READERS.names:
            found = read_source(source, reader)
            if isinstance(found, FeatureSet):
                return facts_of(found)
            return SourceFacts("table" if isinstance(found, DataTable) else "maps")
        kind = _KINDS.get(reader or reader_of(source), "maps")
        if kind != "features":
            return SourceFacts(kind)
        path = Path(source)
        keys = npz_keys(path)
        folds = fold_names(read_npz(path, ("folds",))["folds"]) if "folds" in keys else None
        return SourceFacts(kind, "split" in keys, None if folds is None else len(folds))
    except InputError:
        return SourceFacts("maps")


def read_source(
    source: str | Path, reader: str | None = None, *, n: int | None = None, seed: int | None = None
) -> WaferMaps | DataTable | FeatureSet:
    """Return what `source` holds: wafer maps, a table or features; see `data.read_maps` for the arguments.

    Raises:
        InputError: a missing or damaged file, `n` or `seed` given with a file, or a reader of another result.
    """
    found = read(source, reader, n=n, seed=seed)
    if not isinstance(found, (WaferMaps, DataTable, FeatureSet)):
        raise InputError(
            f"reader {reader} must return WaferMaps, a DataTable or a FeatureSet, got {type(found).__name__}"
        )
    return found


def read_data(data: DataConfig) -> WaferMaps | DataTable | FeatureSet:
    """Return what the source of a configuration holds."""
    synthetic = data.source == SYNTHETIC
    numbers = {"n": data.n_maps, "seed": data.seed} if synthetic else {}
    return read_source(data.source, data.reader, **numbers)


def table_features(table: DataTable, data: DataConfig) -> FeatureSet:
    """Return the features of a table on the split that `data` describes, drawn by `split_seed` (0 if none).

    The split is recorded in the features, for their categories are those of its training part.

    Raises InputError for a split by fold, as such a table has no folds, and as `make_split` does.
    """
    if data.split_by == "fold":
        raise InputError("a split by fold needs `folds`, and the table has none; use `content` instead")
    split = make_split(
        table.labels,
        table.content_ids,
        seed=data.split_seed or 0,
        by=data.split_by,
        train_fraction=data.train_fraction,
        val_fraction=data.val_fraction,
        times=table.times,
    )
    return from_table(table, split)


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
    blocks = [as_features(table.numeric)]
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


def features_from_table(path: str | Path, roles: Roles | None = None, made_by: str = "table") -> FeatureSet:
    """Return the features of a CSV, NPZ or Parquet file of embeddings with labels; see `data.tables.read_table`.

    They are stored as they are: what is fitted to normalise them is fitted by each run on its own training split
    (`head.normalize`). `made_by` says what made the embeddings; a head refuses those of another name, or of other
    columns.

    Raises:
        InputError: a table that cannot be used, or that holds features in qwafer's own format.
    """
    table = read_table(path, roles)
    try:
        found = FeatureSet.from_arrays(
            table.features,
            table.labels,
            label_names=table.label_names,
            feature_names=table.feature_names,
            content_ids=table.columns.get("content_ids"),
            groups=table.columns.get("groups"),
            times=table.columns.get("times"),
            folds=table.columns.get("folds"),
            backbone=made_by,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    own = table.roles
    provenance = {
        **found.provenance,
        "columns": digest(list(table.feature_names)),
        "data": {
            "source": f"table ({Path(path).name})",
            "sha256": file_sha256(path),
            "n_rows": len(found),
            "roles": {item.name: getattr(own, item.name) for item in dataclasses.fields(own)},
        },
    }
    return dataclasses.replace(found, provenance=provenance)


def generated_features(name: str, n: int = 300, seed: int = 0, **options: Any) -> FeatureSet:
    """Return `n` examples of the generator called `name` (`data.generated.GENERATORS`), with its options, as features.

    Saved, they are a `data.source`: `generated_features("hidden_manifold", n_features=10).save("hidden.npz")`. Raises
    InputError for an unknown generator or option.
    """
    try:
        x, y = generated(name, n, seed, **options)
    except TypeError as error:
        raise InputError(f"generator {name} does not have all of the options {', '.join(sorted(options))}") from error
    found = FeatureSet.from_arrays(x, y[:, None], label_names=(name,), backbone="generated")
    record = {"generator": name, "n": n, "seed": seed, **options}
    data = {"source": f"generated ({canonical_json(record)})", "sha256": digest(canonical_json(record)), "n_rows": n}
    return dataclasses.replace(found, provenance={**found.provenance, "data": data})


def source_override(maps: str | None, features: str | None) -> list[str]:
    """Return the override that a verb's `--maps` or `--features` stands for; raise InputError for each other's file."""
    if features is not None:
        if source_facts(DataConfig(source=features)).kind != "features":
            _refuse_as_features(features)
        return [f"data.source={features}"]
    if maps is None:
        return []
    if source_facts(DataConfig(source=maps)).kind == "features":
        raise not_maps(maps)
    return [f"data.source={maps}"]


def _refuse_as_features(source: str) -> None:
    """Raise InputError for what stands in the place of features and is something else."""
    try:
        what = "a table" if reader_of(source) == "edge_iiot" else "wafer maps"
    except InputError:
        FeatureSet.load(source)  # says what is wrong with the file
        raise
    raise InputError(f"{source} holds {what}, not features: give it as --maps")
