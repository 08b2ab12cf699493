"""The features that configurations train on: files as they are; maps and tables made into features once for all that
share them.
"""

import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._errors import InputError
from qwafer.config import DataConfig
from qwafer.data import Table, WaferMaps
from qwafer.execution.job import OnProgress
from qwafer.features import FeatureSet
from qwafer.source import read_data, table_features

if TYPE_CHECKING:
    from qwafer.backbones import Extractor

Check = Callable[[str, "SourceRecord"], object]
Split = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class SourceRecord:
    """Where features come from and what they are; None where that is not so, or not known before they are made."""

    file: str | None = None
    """Name of the feature file that was given."""
    maps: str | None = None
    """The wafer maps, or the table, in words."""
    maps_sha256: str | None = None
    """SHA-256 of their file."""
    backbone: str | None = None
    """Name of the backbone; `table` for a table."""
    digest: str | None = None
    """Digest of the feature set."""
    n_examples: int | None = None
    """Rows."""
    n_features: int | None = None
    """Columns."""
    label_names: tuple[str, ...] = ()
    """Labels of the feature set, before any task."""


@dataclass(frozen=True)
class Source:
    """One feature file and what it holds."""

    path: Path
    """The file."""
    record: SourceRecord
    """What it holds."""


@dataclass(frozen=True)
class Backbones:
    """Options of the backbones that take them, and what they run on."""

    weights: str | Path | None = None
    """Checkpoint; see `backbones.load`."""
    random_weights: int | None = None
    """Seed of drawn weights."""
    jobs: int | None = None
    """Threads; one per core if none."""


def provide_features(
    arms: Mapping[str, DataConfig],
    folder: Path,
    *,
    backbones: Backbones | None = None,
    check: Check = lambda arm, record: None,
    read: Callable[[DataConfig], WaferMaps | Table | FeatureSet] = read_data,
    progress: OnProgress | None = None,
) -> dict[str, Source]:
    """Return the feature file of every arm; what is not a feature file yet is made into one in `folder`, once for all
    arms that share it.

    A network that needs training is trained first, and its split then holds for the features of the other backbones of
    the same maps, too. `check` is called with each arm and what is known of its source before anything is made, and may
    refuse; `read` reads the source of an arm.

    Raises InputError for data that cannot be used.
    """
    found = {}
    for names, features, path, record in _provided(arms, folder, True, backbones or Backbones(), check, read, progress):
        assert path is not None
        for arm in names:
            found[arm] = Source(path.resolve(), _completed(record, features))
    return {arm: found[arm] for arm in arms}


def load_features(arms: Mapping[str, DataConfig], *, progress: OnProgress | None = None) -> dict[str, FeatureSet]:
    """Return the same features in memory, one object for all arms that share them; nothing stays on disk."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:  # for the weights of networks that are trained first
        steps = _provided(arms, Path(folder), False, Backbones(), lambda arm, record: None, read_data, progress)
        for names, features, _, _ in steps:
            found.update(dict.fromkeys(names, features))
    return {arm: found[arm] for arm in arms}


def source_key(data: DataConfig) -> tuple[Any, ...]:
    """Return what two arms must share to read the same examples."""
    drawn = (data.n_maps, data.seed) if data.source == "synthetic" else ()
    return (data.source, data.reader, *drawn)


def _provided(
    arms: Mapping[str, DataConfig],
    folder: Path,
    keep: bool,
    options: Backbones,
    check: Check,
    read: Callable[[DataConfig], WaferMaps | Table | FeatureSet],
    progress: OnProgress | None,
) -> Iterator[tuple[list[str], FeatureSet, Path | None, SourceRecord]]:
    """Yield arms that share features, the features, their file in `folder` if they are to be kept, and their record."""
    by_source: dict[tuple[Any, ...], dict[str, DataConfig]] = {}
    for arm, data in arms.items():
        by_source.setdefault(source_key(data), {})[arm] = data
    for members in by_source.values():
        first = next(iter(members.values()))
        examples = read(first)
        if isinstance(examples, WaferMaps):
            made = _of_maps(members, examples, folder, keep, options, check, progress)
        elif isinstance(examples, Table):
            made = _of_table(members, examples, folder, keep, check)
        else:
            file = Path(first.source)
            given = first.reader in (None, "features")
            path = file if given else _kept(examples, folder / f"{file.stem}-{examples.digest()[:8]}.npz", keep)
            made = iter([([*members], examples, path, SourceRecord(file=file.name))])
        for names, features, kept, record in made:
            for task in {arms[arm].task for arm in names}:
                features.task(task)  # refuses a task that these labels do not have, before anything runs
            yield names, features, kept, record


def _of_table(
    arms: Mapping[str, DataConfig], table: Table, folder: Path, keep: bool, check: Check
) -> Iterator[tuple[list[str], FeatureSet, Path | None, SourceRecord]]:
    """The features of a table are those of a split, so that arms of different splits do not share them."""
    record = SourceRecord(maps=table.source, maps_sha256=table.sha256, backbone="table")
    for arm in arms:
        check(arm, record)
    found: dict[str, tuple[list[str], FeatureSet]] = {}
    for arm, data in arms.items():
        features = table_features(table, data)
        found.setdefault(features.digest(), ([], features))[0].append(arm)
    stem = f"{Path(next(iter(arms.values())).source).stem}-{table.sha256[:8]}-table"
    for names, features in found.values():
        path = _kept(features, folder / f"{stem}-{features.provenance['split'][:8]}.npz", keep)
        yield names, features, path, record


def _kept(features: FeatureSet, path: Path, keep: bool) -> Path | None:
    from qwafer.backbones import is_complete

    if not keep:
        return None
    if not is_complete(path, features.provenance):
        features.save(path)
    return path


def _of_maps(
    arms: Mapping[str, DataConfig],
    maps: WaferMaps,
    folder: Path,
    keep: bool,
    options: Backbones,
    check: Check,
    progress: OnProgress | None,
) -> Iterator[tuple[list[str], FeatureSet, Path | None, SourceRecord]]:
    from qwafer.backbones import extract, features_from_maps

    members: dict[str, list[str]] = {}
    for arm, data in arms.items():
        members.setdefault(data.backbone, []).append(arm)
    records = {name: SourceRecord(maps=maps.source, maps_sha256=maps.sha256, backbone=name) for name in members}
    for arm, data in arms.items():
        check(arm, records[data.backbone])
    data = next(iter(arms.values()))
    stem = f"{Path(data.source).stem}-{maps.sha256[:8]}"
    if data.source == "synthetic":
        stem = f"synthetic-{data.n_maps}-{data.seed}"
    for name, tag, backbone in _backbones([*members], maps, folder / stem, options, progress):
        path = folder / f"{stem}-{file_name(name)}{tag}.npz" if keep else None
        if path is None:
            features = features_from_maps(maps, backbone, jobs=options.jobs, progress=progress)
        else:
            features = extract(maps, backbone, path, jobs=options.jobs, progress=progress)
        yield members[name], features, path, records[name]


def _backbones(
    names: Sequence[str], maps: WaferMaps, stem: Path, options: Backbones, progress: OnProgress | None
) -> Iterator[tuple[str, str, "Extractor"]]:
    """Yield (name, tag of its file, extractor): networks first, trained where they lack weights, on one split for all.

    `stem` is where the weights of trained networks go.
    """
    from qwafer.backbones import extractor
    from qwafer.backbones.registry import taken_options
    from qwafer.networks import is_network, network

    values = {"weights": options.weights, "random_weights": options.random_weights}
    given = {option: value for option, value in values.items() if value is not None}
    if given and not any(set(given) <= set(taken_options(name)) for name in names):
        extractor(names[0], **given)  # type: ignore[arg-type]  # says why not
    origin: str | None = None
    split: Split | None = None
    for name in sorted(names, key=lambda name: (not is_network(name), name)):
        own: dict[str, Any] = {option: value for option, value in given.items() if option in taken_options(name)}
        if is_network(name) and not own:
            path = stem.with_name(f"{stem.name}-{file_name(name)}.safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            own = {"weights": network(name).train(maps, path, progress)}
        backbone, tag = extractor(name, **own), ""
        if split is None:
            origin, split = (None, None) if backbone.split is None else (name, backbone.split)
        elif backbone.split is None:
            backbone, tag = dataclasses.replace(backbone, split=split), f"-split-of-{file_name(origin or '')}"
        elif not np.array_equal(split(maps.content_ids), backbone.split(maps.content_ids)):  # type: ignore[arg-type]
            raise InputError(
                f"the backbones {origin} and {name} were trained on different splits of these maps, so that no test "
                "split is new to both: train them on one"
            )
        yield name, tag, backbone


def file_name(name: str) -> str:
    """Return the name of a backbone as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", name).strip("-")


def _completed(record: SourceRecord, features: FeatureSet) -> SourceRecord:
    return dataclasses.replace(
        record,
        digest=features.digest(),
        n_examples=len(features),
        n_features=features.features.shape[1],
        label_names=features.label_names,
    )
