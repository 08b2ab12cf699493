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
from qwafer.data import DataTable, WaferMaps
from qwafer.execution.job import OnProgress
from qwafer.features import FeatureSet, check_task
from qwafer.source import read_data, table_features

if TYPE_CHECKING:
    from qwafer.backbones import Extractor

Check = Callable[[str, "SourceRecord"], object]
Examples = WaferMaps | DataTable | FeatureSet
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
class BackboneOptions:
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
    backbones: BackboneOptions | None = None,
    check: Check = lambda arm, record: None,
    read: Callable[[DataConfig], Examples] = read_data,
    progress: OnProgress | None = None,
) -> dict[str, Source]:
    """Return the feature file of every arm; what is not a feature file yet is made into one in `folder`, once for all
    arms that share it.

    A network that needs training is trained first, and its split then holds for the features of the other backbones of
    the same maps, too. `check` is called with each arm and what is known of its source before anything is made, and may
    refuse; `read` reads the source of an arm.

    Raises InputError for data that cannot be used.
    """
    provider = _Provider(folder, True, backbones or BackboneOptions(), check, read, progress)
    found = {}
    for made in provider.provide(arms):
        assert made.path is not None
        record = dataclasses.replace(
            made.record,
            digest=made.features.digest(),
            n_examples=len(made.features),
            n_features=made.features.features.shape[1],
            label_names=made.features.label_names,
        )
        found.update(dict.fromkeys(made.arms, Source(made.path.resolve(), record)))
    return {arm: found[arm] for arm in arms}


def load_features(arms: Mapping[str, DataConfig], *, progress: OnProgress | None = None) -> dict[str, FeatureSet]:
    """Return the same features in memory, one object for all arms that share them; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder:  # for the weights of networks that are trained first
        provider = _Provider(Path(folder), False, BackboneOptions(), lambda arm, record: None, read_data, progress)
        found = {arm: made.features for made in provider.provide(arms) for arm in made.arms}
    return {arm: found[arm] for arm in arms}


def read_sources(
    arms: Mapping[str, DataConfig], read: Callable[[DataConfig], Examples] = read_data
) -> Iterator[tuple[dict[str, DataConfig], Examples]]:
    """Yield the arms that share a source, and what it holds, once per source; nothing is made of it.

    Raises InputError for a source that cannot be read, or a task that its labels do not have.
    """
    by_source: dict[tuple[Any, ...], dict[str, DataConfig]] = {}
    for arm, data in arms.items():
        by_source.setdefault(source_key(data), {})[arm] = data
    for members in by_source.values():
        examples = read(next(iter(members.values())))
        for task in dict.fromkeys(data.task for data in members.values()):
            check_task(task, examples.labels, examples.label_names)
        yield members, examples


def source_key(data: DataConfig) -> tuple[Any, ...]:
    """Return what two arms must share to read the same examples."""
    drawn = (data.n_maps, data.seed) if data.source == "synthetic" else ()
    return (data.source, data.reader, *drawn)


@dataclass(frozen=True)
class _Made:
    """Features and the arms that share them."""

    arms: list[str]
    features: FeatureSet
    path: Path | None
    """Their file, if they are kept."""
    record: SourceRecord


@dataclass(frozen=True)
class _Provider:
    """Makes features; see `provide_features`."""

    folder: Path
    keep: bool
    """Whether features are written into `folder`."""
    options: BackboneOptions
    check: Check
    read: Callable[[DataConfig], Examples]
    progress: OnProgress | None

    def provide(self, arms: Mapping[str, DataConfig]) -> Iterator[_Made]:
        for members, examples in read_sources(arms, self.read):
            if isinstance(examples, WaferMaps):
                found = self._of_maps(members, examples)
            elif isinstance(examples, DataTable):
                found = self._of_table(members, examples)
            else:
                found = self._of_features(members, examples)
            yield from found

    def _of_features(self, arms: Mapping[str, DataConfig], features: FeatureSet) -> Iterator[_Made]:
        data = next(iter(arms.values()))
        path: Path | None = Path(data.source)
        if data.reader not in (None, "features"):
            path = self._kept(features, f"{Path(data.source).stem}-{features.digest()[:8]}")
        yield _Made([*arms], features, path, SourceRecord(file=Path(data.source).name))

    def _of_table(self, arms: Mapping[str, DataConfig], table: DataTable) -> Iterator[_Made]:
        """The features of a table are those of a split, so that arms of different splits do not share them."""
        record = SourceRecord(maps=table.source, maps_sha256=table.sha256, backbone="table")
        found: dict[str, _Made] = {}
        for arm, data in arms.items():
            self.check(arm, record)
            features = table_features(table, data)
            found.setdefault(features.digest(), _Made([], features, None, record)).arms.append(arm)
        stem = f"{Path(next(iter(arms.values())).source).stem}-{table.sha256[:8]}-table"
        for made in found.values():
            path = self._kept(made.features, f"{stem}-{made.features.provenance['split'][:8]}")
            yield dataclasses.replace(made, path=path)

    def _of_maps(self, arms: Mapping[str, DataConfig], maps: WaferMaps) -> Iterator[_Made]:
        from qwafer.backbones import extract, features_from_maps

        members: dict[str, list[str]] = {}
        for arm, data in arms.items():
            members.setdefault(data.backbone, []).append(arm)
        records = {name: SourceRecord(maps=maps.source, maps_sha256=maps.sha256, backbone=name) for name in members}
        for arm, data in arms.items():
            self.check(arm, records[data.backbone])
        data = next(iter(arms.values()))
        stem = f"{Path(data.source).stem}-{maps.sha256[:8]}"
        if data.source == "synthetic":
            stem = f"synthetic-{data.n_maps}-{data.seed}"
        for name, tag, backbone in self._backbones([*members], maps, stem):
            path = self.folder / f"{stem}-{file_name(name)}{tag}.npz" if self.keep else None
            if path is None:
                features = features_from_maps(maps, backbone, jobs=self.options.jobs, progress=self.progress)
            else:
                features = extract(maps, backbone, path, jobs=self.options.jobs, progress=self.progress)
            yield _Made(members[name], features, path, records[name])

    def _backbones(self, names: Sequence[str], maps: WaferMaps, stem: str) -> Iterator[tuple[str, str, "Extractor"]]:
        """Yield (name, tag of its file, extractor): networks first, trained where they lack weights; one split for
        all.
        """
        from qwafer.backbones import extractor
        from qwafer.backbones.registry import parted, taken_options
        from qwafer.networks import is_network, network

        values = {"weights": self.options.weights, "random_weights": self.options.random_weights}
        given = {option: value for option, value in values.items() if value is not None}
        if given and not any(set(given) <= set(taken_options(name)) for name in names):
            extractor(names[0], **given)  # type: ignore[arg-type]  # says why not
        origin: tuple[str, Split] | None = None
        for name in sorted(names, key=lambda name: (not is_network(name), name)):
            own: dict[str, Any] = {option: value for option, value in given.items() if option in taken_options(name)}
            if is_network(name) and not own:
                path = self.folder / f"{stem}-{file_name(parted(name)[0])}.safetensors"  # one training for all its cuts
                path.parent.mkdir(parents=True, exist_ok=True)
                own = {"weights": network(name).train(maps, path, self.progress)}
            backbone, tag = extractor(name, **own), ""
            if origin is None:
                origin = None if backbone.split is None else (name, backbone.split)
            elif backbone.split is None:
                backbone, tag = dataclasses.replace(backbone, split=origin[1]), f"-split-of-{file_name(origin[0])}"
            elif not np.array_equal(origin[1](maps.content_ids), backbone.split(maps.content_ids)):  # type: ignore[arg-type]
                raise InputError(
                    f"the backbones {origin[0]} and {name} were trained on different splits of these maps, so that no "
                    "test split is new to both: train them on one"
                )
            yield name, tag, backbone

    def _kept(self, features: FeatureSet, stem: str) -> Path | None:
        from qwafer.backbones import is_complete

        if not self.keep:
            return None
        path = self.folder / f"{stem}.npz"
        if not is_complete(path, features.provenance):
            features.save(path)
        return path


def file_name(name: str) -> str:
    """Return the name of a backbone as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", name).strip("-")
