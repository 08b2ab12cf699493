"""What a third party adds: readers, backbones and a network, named `tests.thirdparty:NAME`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwafer.backbones import Extractor
from qwafer.backbones.trained import ID_TENSORS, id_tensors, recorded_split
from qwafer.data import WaferMaps, make_split
from qwafer.execution.job import OnProgress, Progress
from tests.factories import feature_set, wafer_maps


def read_maps(path: Path) -> WaferMaps:
    """As many maps as the file says."""
    return wafer_maps(int(path.read_text()), shape=(12, 12))


def read_features(path: Path) -> object:
    return feature_set(int(path.read_text()), split=np.resize(["train", "val", "test"], int(path.read_text())))


def read_nothing(path: Path) -> dict[str, str]:
    return {"path": str(path)}


def failing(maps: Sequence[np.ndarray]) -> np.ndarray:
    """A plain function: failing and passing rate."""
    return np.array([[(m == 2).mean(), (m == 1).mean()] for m in maps])


def flat(maps: Sequence[np.ndarray]) -> np.ndarray:
    return np.zeros(len(maps))


MADE = Extractor("made", 16, {"weights": None, "dtype": "float32"}, lambda maps: failing(maps).astype(np.float32))


def maker(dtype: str = "float32") -> Extractor:
    return Extractor("mine", 16, {"weights": None, "dtype": dtype}, MADE.features)


@dataclass(frozen=True)
class MeanNetwork:
    """A network that learns the mean failing rate of the training split."""

    seed: int = 0
    epochs: int = 1

    def train(self, maps: WaferMaps, path: str | Path, progress: OnProgress | None = None) -> Path:
        path = Path(path)
        if path.exists():
            return path
        split = make_split(maps.labels, maps.content_ids, seed=self.seed)
        mean = failing([maps.maps[i] for i in split.train]).mean(axis=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, mean=mean, **id_tensors(split, maps.content_ids))
        if progress is not None:
            progress(Progress("training", len(split.train), len(split.train), text="mean"))
        return path

    def extractor(self, weights: str | Path) -> Extractor:
        with np.load(weights) as state:
            mean, ids = state["mean"], {key: state[key] for key in ID_TENSORS.values()}

        def features(maps: Sequence[np.ndarray]) -> np.ndarray:
            return (failing(maps) - mean[None]).astype(np.float32)

        record = {"weights": {"file": Path(weights).name}, "dtype": "float32"}
        return Extractor("mean", 16, record, features, split=recorded_split(ids))
