"""What `data.source` names: its facts, its content, and the features of a table."""

import functools
from pathlib import Path

from qwafer._errors import InputError
from qwafer.config import DataConfig
from qwafer.data import DataTable, WaferMaps, make_split
from qwafer.data.files import npz_keys
from qwafer.data.source import READERS, SYNTHETIC, not_maps, read, reader_of
from qwafer.features import FeatureSet, SourceFacts, from_table

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
                return SourceFacts("features", found.split is not None)
            return SourceFacts("table" if isinstance(found, DataTable) else "maps")
        kind = _KINDS.get(reader or reader_of(source), "maps")
        return SourceFacts(kind, kind == "features" and "split" in npz_keys(Path(source)))
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
    """
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
