"""The maps that a network is calibrated on: stratified, from training or validation, recorded by digest."""

from dataclasses import dataclass

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest, key_seed
from qwafer.config import RunConfig
from qwafer.data import WaferMaps
from qwafer.features import FeatureSet
from qwafer.model import Model
from qwafer.training import Prepared, prepare


@dataclass(frozen=True)
class Calibration:
    """Which maps the ranges of activations come from."""

    part: str
    """`train` or `val`."""
    n_maps: int
    """Maps, all different."""
    n_combinations: int
    """Combinations of labels among them."""
    n_combinations_of_part: int
    """Combinations of labels in the part."""
    seed: int
    """Seed of the draw."""
    digest: str
    """16 hex digits over their content ids, in ascending order."""


def split_of_run(model: Model, maps: WaferMaps, split: np.ndarray | None = None) -> Prepared:
    """Return the split that the head of `model` was trained under, over `maps`, whose one feature is the map's row.

    It is drawn again from the configuration and the seed of the run, or taken from the backbone's weights, or from
    `split` (N,) of `train`, `val`, `test` where it came with the features. Its digest must be that of the run: else
    InputError is raised, since nobody could say which maps the model has seen.
    """
    if split is None and model.backbone.split is not None:
        split = model.backbone.split(np.asarray(maps.content_ids))
    run = model.provenance["run"]
    prepared = split_again(model.head.config, run["seed"], run["digests"]["split"], maps, split)
    if prepared.data.label_names != model.label_names:
        raise InputError(f"the maps have the labels {prepared.data.label_names}, the model {model.label_names}")
    return prepared


def split_again(
    config: RunConfig, seed: int, split_digest: str, maps: WaferMaps, split: np.ndarray | None = None
) -> Prepared:
    """Return the split of a run of `config` and `seed` over `maps`, drawn again or taken from `split`, whose one
    feature is the row of the map; raise InputError where its digest is not `split_digest`.
    """
    rows = np.arange(len(maps), dtype=np.float32)[:, None]
    data = FeatureSet(
        rows,
        maps.labels,
        maps.label_names,
        maps.content_ids,
        {"backbone": "rows"},
        groups=maps.groups,
        times=maps.times,
        exclusive=maps.exclusive,
        split=split,
    )
    prepared = prepare(config, data, seed)
    if prepared.split.digest != split_digest:
        raise InputError(
            f"the maps of {maps.source} do not give the split under which the model was trained: give all maps of its "
            "run, and `split` where the split came with the features (FeatureSet.split)"
        )
    return prepared


def rows_of(prepared: Prepared, part: str) -> np.ndarray:
    """Return the rows (M,) of `maps` in a part of `split_of_run`."""
    return np.asarray(prepared.part(part)[0][:, 0].astype(np.int64))


def calibration_rows(prepared: Prepared, part: str, n: int, seed: int) -> tuple[np.ndarray, Calibration]:
    """Return the rows (n,) of `maps` to calibrate on, ascending, and their record.

    Identical maps count once. Each combination of labels gets one map where n suffices, the rest goes in proportion to
    what is left of each, by largest remainders. Raises InputError for a part of fewer maps, and where one of them is a
    map of the test split, too.
    """
    places = getattr(prepared.split, part)
    ids, first = np.unique(prepared.data.content_ids[places], return_index=True)
    places = places[first]
    if len(places) < n:
        raise InputError(f"`calibration_maps` must be at most {len(places)}, the different maps of {part}, got {n}")
    if np.isin(ids, prepared.data.content_ids[prepared.split.test]).any():
        raise InputError(f"maps of the {part} split are in the test split, too: nothing may be calibrated on those")
    kinds, members = np.unique(prepared.data.labels[places], axis=0, return_inverse=True)
    counts = shares(np.bincount(members.reshape(-1), minlength=len(kinds)), n)
    rng = np.random.default_rng(key_seed(seed, "int8/calibration"))
    chosen = [
        rng.choice(np.flatnonzero(members.reshape(-1) == kind), count, False) for kind, count in enumerate(counts)
    ]
    taken = np.sort(np.concatenate(chosen))
    record = Calibration(part, n, int((counts > 0).sum()), len(kinds), seed, digest(ids[taken]))
    return np.sort(prepared.data.features[places[taken], 0].astype(np.int64)), record


def shares(sizes: np.ndarray, n: int) -> np.ndarray:
    """Return how many of n go to groups of these sizes: one each if n suffices, the rest in proportion."""
    given = np.ones_like(sizes) if n >= len(sizes) else np.zeros_like(sizes)
    left = sizes - given
    quota = left * ((n - given.sum()) / max(left.sum(), 1))
    given = given + quota.astype(np.int64)
    order = np.argsort(-(quota - np.floor(quota)), kind="stable")
    given[order[: n - given.sum()]] += 1
    return np.asarray(given)
