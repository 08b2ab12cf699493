"""The features that the arms of an experiment train on: files as they are, or maps extracted once into the output
directory.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwafer.config import DataConfig
from qwafer.experiment import Experiment
from qwafer.features import FeatureSet, looks_like_features
from qwafer.sweeps.directory import FEATURES, DataRecord, OutputDirectory


@dataclass(frozen=True)
class Source:
    """One feature file and what it holds."""

    path: Path
    record: DataRecord


def provide_features(
    experiment: Experiment,
    directory: OutputDirectory,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Source]:
    """Return the feature file of every arm; maps are read, and pushed through their backbone, once for all arms that
    share them.

    Raises InputError for data that cannot be used, and, before anything is extracted, where the directory belongs to
    the same experiment on other maps.
    """
    found: dict[tuple[Any, ...], Source] = {}
    sources = {}
    for arm, config in experiment.arms.items():
        key = source_key(config.data)
        if key not in found:
            if looks_like_features(config.data.source):
                path, origin = Path(config.data.source), DataRecord(file=Path(config.data.source).name)
                features = FeatureSet.load(path)
            else:
                path, origin, features = _extracted(experiment, arm, config.data, directory, progress)
            for task in {c.data.task for c in experiment.arms.values() if source_key(c.data) == key}:
                features.task(task)  # refuses a task that these labels do not have, before anything runs
            found[key] = Source(path.resolve(), _record(features, origin))
        sources[arm] = found[key]
    return sources


def source_key(data: DataConfig) -> tuple[Any, ...]:
    """Return what two arms must share to share a feature file."""
    if data.source == "synthetic":
        return (data.source, data.n_maps, data.seed, data.backbone)
    return (data.source, data.backbone)


def _extracted(
    experiment: Experiment,
    arm: str,
    data: DataConfig,
    directory: OutputDirectory,
    progress: Callable[[int, int], None] | None,
) -> tuple[Path, DataRecord, FeatureSet]:
    from qwafer.backbones import extract
    from qwafer.data import read_maps

    synthetic = data.source == "synthetic"
    maps = read_maps(data.source, n=data.n_maps if synthetic else None, seed=data.seed if synthetic else None)
    origin = DataRecord(maps=maps.source, maps_sha256=maps.sha256, backbone=data.backbone)
    directory.check_owner(experiment, {arm: origin})
    stem = f"synthetic-{data.n_maps}-{data.seed}" if synthetic else f"{Path(data.source).stem}-{maps.sha256[:8]}"
    path = directory.path / FEATURES / f"{stem}-{data.backbone}.npz"
    return path, origin, extract(maps, data.backbone, path, progress=progress)


def _record(features: FeatureSet, origin: DataRecord) -> DataRecord:
    return dataclasses.replace(
        origin,
        digest=features.digest(),
        n_examples=len(features),
        n_features=features.features.shape[1],
        label_names=features.label_names,
    )
