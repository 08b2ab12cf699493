"""What the loss is given of every example: its labels, and the logits of a teacher where there is one."""

import numpy as np

from qwafer._errors import InputError
from qwafer._io import digest
from qwafer.config import RunConfig
from qwafer.features import FeatureSet
from qwafer.training._prepare import Prepared


def targets(config: RunConfig, prepared: Prepared) -> tuple[np.ndarray, str]:
    """Return (N, n_labels) labels, or (N, 2 n_labels) labels and the teacher's logits, and the digest of the latter,
    empty where there are none.

    Raises InputError for a teacher of other labels or of another split, and for one that has not seen an example.
    """
    labels, path = prepared.data.labels, getattr(config.objective, "teacher", None)
    if path is None:
        return labels, ""
    if not path:
        raise InputError("`objective.teacher` must name the feature file of a teacher's logits")
    taught = FeatureSet.load(path)
    names, own = taught.feature_names, prepared.data.label_names
    if taught.provenance.get("backbone") != "logits" or names is None:
        raise InputError(f"`objective.teacher` = {path} holds no logits: make it with extract --backbone logits")
    if names != own:
        raise InputError(
            f"`objective.teacher` = {path} gives logits of {', '.join(names)}, and the labels are {', '.join(own)}"
        )
    if taught.provenance.get("teacher_split") != prepared.split.digest:
        raise InputError(
            f"the teacher of {path} was trained on another split than this run, so that it may have learnt its test "
            "maps: set data.split_seed to the seed of the teacher's run, and give it the same data"
        )
    places = {identity: row for row, identity in enumerate(taught.content_ids)}
    missing = [identity for identity in prepared.data.content_ids if identity not in places]
    if missing:
        raise InputError(f"`objective.teacher` = {path} has no logits of {len(missing)} of the examples")
    logits = taught.features[[places[identity] for identity in prepared.data.content_ids]]
    return np.concatenate([labels, logits], axis=1), digest(logits)
