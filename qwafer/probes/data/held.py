"""A run without its test split: what is looked at before an experiment must not be what judges it."""

import dataclasses

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest
from qwafer.config import RunConfig
from qwafer.features import FeatureSet
from qwafer.training import Prepared, prepare


def without_test(config: RunConfig, data: FeatureSet, seed: int) -> tuple[RunConfig, FeatureSet]:
    """Return the run of `config` on `data` and `seed` in which one half of validation stands in for the test split.

    The training examples are those of the run. Validation is halved as `halves` says: one half chooses the checkpoint
    and the thresholds, the other is scored. The examples of the test split are not there any more. The split comes with
    the features, so that the configuration returned draws none.

    Raises:
        InputError: as `prepare`, or a validation split of one map.
    """
    return held_out(config, prepare(config, data, seed))


def held_out(config: RunConfig, prepared: Prepared) -> tuple[RunConfig, FeatureSet]:
    """Return the same of a run that is prepared."""
    parts, val = prepared.split.parts(), prepared.split.val
    second = halves(prepared.data.content_ids[val], prepared.data.labels[val])
    if not second.any():
        raise InputError("the validation split holds a single map, and the probes need two: use more data")
    parts[prepared.split.test] = ""
    parts[val[second]] = "test"
    rows = np.flatnonzero(parts != "")
    features = dataclasses.replace(prepared.data.take(rows), split=parts[rows])
    return dataclasses.replace(config, data=dataclasses.replace(config.data, limit=None, n_folds=None)), features


def halves(content_ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (N,) whether an example is of the second half: every other map of each combination of labels.

    Maps are ordered by the digest of their content id, which is as good as at random and the same for every run;
    identical maps are in one half, which the labels of the first of them decide.
    """
    ids, first, number = np.unique(content_ids, return_index=True, return_inverse=True)
    order = sorted(range(len(ids)), key=lambda i: (labels[first[i]].tobytes(), digest(str(ids[i]))))
    second = np.zeros(len(ids), bool)
    second[order[1::2]] = True
    return np.asarray(second[number])
