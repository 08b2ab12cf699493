"""The features that the heads of a benchmark train on: of the same maps, on one split."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwafer._errors import InputError
from qwafer.config import DataConfig
from qwafer.data import WaferMaps
from qwafer.execution.job import OnProgress
from qwafer.experiment import Experiment
from qwafer.source import read_data, source_facts
from qwafer.sweeps.sources import BackboneOptions, Examples, provide_features, source_key


@dataclass(frozen=True, eq=False)
class Resolved:
    """An experiment whose heads all read feature files, and what its maps are."""

    experiment: Experiment
    maps: WaferMaps | None
    """The maps, where they were given; None where only features or a table were."""
    files: Mapping[str, Path]
    """The feature file of each head."""


def resolve(
    experiment: Experiment,
    folder: Path,
    *,
    weights: str | None = None,
    random_weights: int | None = None,
    jobs: int = 1,
    progress: OnProgress | None = None,
) -> Resolved:
    """Return the experiment with a feature file behind every head; see `provide_features`.

    `weights` and `random_weights` belong to the backbones that take them. Raises InputError for data that cannot be
    used, and where heads read different maps.
    """
    data = {head: config.data for head, config in experiment.arms.items()}
    if len(set(map(source_key, data.values()))) > 1:
        raise InputError(
            "the heads of a benchmark must share `data.source`: give all of them the same maps or features"
        )
    read: list[Examples] = []

    def reader(config: DataConfig) -> Examples:
        read.append(read_data(config))
        return read[-1]

    options = BackboneOptions(weights, random_weights, jobs)
    sources = provide_features(data, folder, backbones=options, read=reader, progress=progress)
    files = {head: sources[head].path for head in data}
    arms = {
        head: dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(files[head]), reader=None))
        for head, config in experiment.arms.items()
    }
    maps = read[0] if isinstance(read[0], WaferMaps) else None
    facts = {head: source_facts(config.data) for head, config in arms.items()}
    return Resolved(dataclasses.replace(experiment, arms=arms, facts=facts), maps, files)
