"""What the loss is given of every example: its labels, and the logits and features of a teacher where there is one."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest
from qwafer.config import RunConfig
from qwafer.features import FeatureSet
from qwafer.heads import Head, draw
from qwafer.objective.hint import NAMES, Hint
from qwafer.training._prepare import Prepared


@dataclass(frozen=True, eq=False)
class Targets:
    """What the loss is given of all examples."""

    values: np.ndarray
    """(N, n_labels + n_logits + n_features): labels, then the logits and the features of a teacher, if any."""
    digest: str = ""
    """Digest of what the teacher gives; empty where there is none."""
    n_features: int = 0
    """Features of the teacher."""


def targets(config: RunConfig, prepared: Prepared) -> Targets:
    """Return what the loss of a run is given.

    Raises InputError for a teacher of other labels or of another split, and for one that has not seen an example.
    """
    labels, loss = prepared.data.labels, config.objective
    taught, n_features = [], 0
    if hasattr(loss, "teacher") and getattr(loss, "soft_weight", 1) > 0:
        if not loss.teacher:
            raise InputError("`objective.teacher` must name the feature file of a teacher's logits")
        taught.append(_logits(loss.teacher, prepared))
    path = getattr(loss, "teacher_features", None)
    if path is not None and loss.feature_weight > 0:
        taught.append(_standardised(_features(path, prepared), prepared.split.train))
        n_features = taught[-1].shape[1]
    if not taught:
        return Targets(labels)
    return Targets(np.concatenate([labels, *taught], axis=1), digest(*taught), n_features)


def taught_hint(head: Head, n_taught: int, seed: int) -> Hint | None:
    """Return the untrained map from the features of `head` to those of a teacher: W normal of variance 1 / D, b zero.

    None where there are none; raises InputError for a head without features of its own.
    """
    if n_taught == 0:
        return None
    width = head.n_features()
    if width is None:
        raise InputError("`objective.teacher_features` needs a head that has features of its own: take a network")
    weight = draw(seed, NAMES[0], (width, n_taught), head.dtype, width**-0.5)
    return Hint(dict(zip(NAMES, (weight, jnp.zeros(n_taught, head.dtype)), strict=True)))


def _logits(path: str, prepared: Prepared) -> np.ndarray:
    """Return (N, n_labels) of the teacher's file."""
    taught = FeatureSet.load(path)
    names, own = taught.feature_names, prepared.data.label_names
    if taught.provenance.get("backbone") != "logits" or names is None:
        raise InputError(f"`objective.teacher` = {path} holds no logits: make it with extract --backbone logits")
    if names != own:
        raise InputError(
            f"`objective.teacher` = {path} gives logits of {', '.join(names)}, and the labels are {', '.join(own)}"
        )
    _check_split(path, taught.provenance.get("teacher_split") == prepared.split.digest)
    return taught.features[_rows("teacher", path, taught, prepared)]


def _features(path: str, prepared: Prepared) -> np.ndarray:
    """Return (N, D_t) of the teacher's file.

    Features without a split are those of a backbone that has learnt nothing of maps, and have nothing to hand on.
    """
    taught = FeatureSet.load(path)
    rows = _rows("teacher_features", path, taught, prepared)
    if "teacher_split" in taught.provenance:
        _check_split(path, taught.provenance["teacher_split"] == prepared.split.digest)
    elif taught.split is not None:
        _check_split(path, np.array_equal(taught.split[rows], prepared.split.parts()))
    return taught.features[rows]


def _check_split(path: str, same: bool) -> None:
    if not same:
        raise InputError(
            f"the teacher of {path} was trained on another split than this run, so that it may have learnt its test "
            "maps: set data.split_seed to the seed of the teacher's run, and give it the same data"
        )


def _rows(option: str, path: str, taught: FeatureSet, prepared: Prepared) -> np.ndarray:
    """Return the row in `taught` of each example."""
    places = {identity: row for row, identity in enumerate(taught.content_ids)}
    missing = [identity for identity in prepared.data.content_ids if identity not in places]
    if missing:
        what = "logits" if option == "teacher" else "features"
        raise InputError(f"`objective.{option}` = {path} has no {what} of {len(missing)} of the examples")
    return np.array([places[identity] for identity in prepared.data.content_ids], np.int64)


def _standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return features of mean 0 and standard deviation 1 over the rows `train`; what does not vary there is only
    centred.
    """
    known = features[train].astype(np.float64)
    scale = known.std(axis=0)
    return ((features - known.mean(axis=0)) / np.where(scale > 0, scale, 1)).astype(np.float32)
