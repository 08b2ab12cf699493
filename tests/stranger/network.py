"""A network of a stranger's own: the principal axes of the training maps, die by die."""

from dataclasses import dataclass

import numpy as np

from qwafer.backbones import Extractor
from qwafer.backbones.trained import id_tensors, recorded_split
from qwafer.data import make_split


@dataclass(frozen=True)
class PCA:
    n: int = 4

    def train(self, maps, path, progress=None):
        split = make_split(maps.labels, maps.content_ids, seed=0)
        dies = np.stack([maps.maps[i].ravel() for i in split.train]).astype(np.float32)
        axes = np.linalg.svd(dies - dies.mean(axis=0), full_matrices=False)[2][: self.n]
        with path.open("wb") as file:
            np.savez(file, mean=dies.mean(axis=0), axes=axes, **id_tensors(split, maps.content_ids))
        return path

    def extractor(self, weights):
        state = dict(np.load(weights))

        def features(maps):
            return (np.stack([wafer.ravel() for wafer in maps]) - state["mean"]) @ state["axes"].T

        return Extractor("PCA", 256, {"dtype": "float32"}, features, split=recorded_split(state))
