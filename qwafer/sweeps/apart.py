"""`set_apart`: the examples that a search may see, and those that are left for the experiment."""

import dataclasses
from pathlib import Path

import numpy as np

from qwafer._errors import CapabilityError
from qwafer.data import make_split
from qwafer.features import SEARCHED, FeatureSet

SEARCH_SHARE = 0.25
"""Share of the examples that is set apart for a search, where a file has no split of its own."""


def set_apart(file: Path, folder: Path | None = None, split_by: str = "content") -> tuple[Path, Path]:
    """Return two feature files made of `file`, in `folder` (beside it if none), named by its digest: what a search may
    see, and what an experiment runs on.

    No example of the first is ever in a test part of the second. Where the file brings a split, the first holds its
    training and validation parts, and the second is the file itself; elsewhere the first is a quarter of the examples,
    identical maps and lots kept together, and the second the others. An experiment that splits by time gives the
    earliest quarter. The first has a split of its own; a twentieth of its training maps is called `test`, because a run
    must have such a part, and nothing reads it.

    Raises CapabilityError for an experiment that splits by the folds of the data, which would be torn apart.
    """
    features = FeatureSet.load(file)
    order = "-time" if split_by == "time" else ""
    stem = (file.parent if folder is None else folder) / f"{file.stem}-{features.digest()[:8]}{order}"
    search, rest = (stem.with_name(f"{stem.name}{end}.npz") for end in ("-search", "-rest"))
    if features.split is not None:
        parts, rest = features.split, file
    elif split_by == "fold":
        raise CapabilityError(
            "a search needs examples that the experiment never tests on, and data.split_by = fold tests on every fold: "
            "give features that bring a split"
        )
    else:
        by = "content" if features.groups is None else "group"
        parts = make_split(
            features.labels,
            features.content_ids,
            seed=0,
            by="time" if split_by == "time" else by,
            train_fraction=0.7 * SEARCH_SHARE,
            val_fraction=0.3 * SEARCH_SHARE,
            groups=features.groups,
            times=features.times,
        ).parts()
        if not rest.is_file():
            _part(features, parts == "test", "what the search did not see").save(rest)
    if not search.is_file():
        maps = np.unique(features.content_ids[parts == "train"])
        called_test = (parts == "train") & np.isin(features.content_ids, maps[::20])
        split = np.where(called_test, "test", parts)
        _part(dataclasses.replace(features, split=split), parts != "test", SEARCHED).save(search)
    return search, rest


def _part(features: FeatureSet, chosen: np.ndarray, what: str) -> FeatureSet:
    taken = features.take(np.flatnonzero(chosen))
    return dataclasses.replace(taken, provenance={**taken.provenance, "part": what})
