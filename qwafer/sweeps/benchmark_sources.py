"""The features that the heads of a benchmark train on: maps through their backbones, once, on one split."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwafer._errors import InputError
from qwafer.config import DataConfig
from qwafer.experiment import Experiment
from qwafer.features import looks_like_features
from qwafer.sweeps.sources import source_key

if TYPE_CHECKING:
    import numpy as np

    from qwafer.data import WaferMaps

Progress = Callable[[str, int, int], None]
"""Called with a stage, the units done and all units."""


TRAINED = "wafercnn"
"""The backbone that is trained on the maps before it is frozen, and brings the split that kept test out of it."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """An experiment whose heads all read feature files, and what its maps are."""

    experiment: Experiment
    maps: "WaferMaps | None"
    """The maps, where they were given; None where only features were."""
    files: Mapping[str, Path]
    """The feature file of each head."""


def resolve(
    experiment: Experiment,
    folder: Path,
    *,
    weights: str | None = None,
    random_weights: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Resolved:
    """Return the experiment with a feature file behind every head; maps are pushed through their backbones into
    `folder`.

    A backbone that is trained first brings its split, which then holds for the features of every other backbone, too.
    `weights` and `random_weights` belong to the backbones that take them. Raises InputError for data that cannot be
    used, and where heads read different maps.
    """
    report = progress or (lambda *_: None)
    sources = {source_key(config.data)[:-1] for config in experiment.arms.values()}
    if len(sources) > 1:
        raise InputError(
            "the heads of a benchmark must share `data.source`: give all of them the same maps or features"
        )
    first = experiment.arms[experiment.baseline].data
    if looks_like_features(first.source):
        path = Path(first.source).resolve()
        return Resolved(experiment, None, dict.fromkeys(experiment.arms, path))

    from qwafer.backbones import extract, extractor
    from qwafer.data import read_maps

    synthetic = first.source == "synthetic"
    maps = read_maps(first.source, n=first.n_maps if synthetic else None, seed=first.seed if synthetic else None)
    backbones = list(dict.fromkeys(config.data.backbone for config in experiment.arms.values()))
    if backbones == ["spatial"] and (weights is not None or random_weights is not None):
        raise InputError("backbone spatial has no weights: leave out --weights and --random-weights")
    stem = _stem(first, maps)
    paths: dict[str, Path] = {}
    split: Callable[[np.ndarray], np.ndarray | None] | None = None
    for name in sorted(backbones, key=lambda name: (name != TRAINED, name)):
        if name == TRAINED and weights is None and random_weights is None:
            backbone = extractor(name, weights=_trained(maps, folder / f"{stem}-{name}.safetensors", report))
        elif name == "spatial":
            backbone = extractor(name)
        else:
            backbone = extractor(name, weights=weights, random_weights=random_weights)
        tag = ""
        if name != TRAINED and split is not None:
            backbone, tag = dataclasses.replace(backbone, split=split), f"-split-of-{TRAINED}"
        if name == TRAINED:
            split = backbone.split
        paths[name] = folder / f"{stem}-{name}{tag}.npz"
        extract(maps, backbone, paths[name], jobs=jobs, progress=functools.partial(report, f"features {name}"))
    files = {head: paths[config.data.backbone].resolve() for head, config in experiment.arms.items()}
    arms = {
        head: dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(files[head])))
        for head, config in experiment.arms.items()
    }
    resolved = dataclasses.replace(experiment, arms=arms)
    return Resolved(resolved, maps, files)


def _trained(maps: "WaferMaps", path: Path, report: Progress) -> Path:
    """Train WaferCNN on the training split of its own, or find that it is trained; return the path of its weights."""
    from qwafer.backbones import train_wafercnn

    return train_wafercnn(maps, path, progress=functools.partial(report, f"training {TRAINED}"))


def _stem(data: DataConfig, maps: "WaferMaps") -> str:
    """Return the start of a feature file's name: whose maps they are."""
    if data.source == "synthetic":
        return f"synthetic-{data.n_maps}-{data.seed}"
    return f"{Path(data.source).stem}-{maps.sha256[:8]}"
