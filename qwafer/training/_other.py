"""The examples of another task that train together with those of a run (`objective.other`)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from qwafer._errors import InputError
from qwafer.config import RunConfig
from qwafer.data.arrays import row_ids
from qwafer.features import SEARCHED, FeatureSet, fingerprint
from qwafer.heads import Head, draw
from qwafer.objective.other_task import NAMES, OtherTask
from qwafer.training._prepare import Prepared


@dataclass(frozen=True, eq=False)
class Other:
    """Another task, as a run sees it."""

    data: FeatureSet
    """All of its examples."""
    rows: np.ndarray
    """(M,) of those that train."""

    @property
    def note(self) -> str:
        """What a reader of the result should know."""
        data, left = self.data, len(self.data) - len(self.rows)
        lots = "" if data.groups is not None else ", and they have no lots that could be kept apart"
        return (
            f"trained together with {len(self.rows)} examples of another task ({', '.join(data.label_names)}); {left} "
            f"of its examples do not train, for validation or test has them, or their own split says so{lots}"
        )

    def labels(self, own: np.ndarray) -> np.ndarray:
        """Return what the loss is given of all examples, those of `own` (N, K) first: (N + M, K + L + 1)."""
        n, k = own.shape
        found = np.zeros((n + len(self.data), k + self.data.labels.shape[1] + 1), own.dtype)
        found[:n, :k], found[n:, k:-1], found[n:, -1] = own, self.data.labels, 1
        return found

    def readout(self, head: Head, seed: int) -> OtherTask:
        """Return the untrained readout on the features of `head`: W normal of variance 1 / D, b zero."""
        width, n = head.n_features(), self.data.labels.shape[1]
        if width is None:
            raise InputError("`objective.other` needs a head that has features of its own: take a network")
        arrays = draw(seed, NAMES[0], (width, n), head.dtype, width**-0.5), jnp.zeros(n, head.dtype)
        return OtherTask(dict(zip(NAMES, arrays, strict=True)), _exclusive(self.data))


def other_task(config: RunConfig, prepared: Prepared) -> Other | None:
    """Return the other task of a run; None for a loss that has none.

    Raises InputError for features of another backbone, without labels, none of which is left to train, or of which a
    search or `head.bound_labels` asks what they cannot tell.
    """
    path, own = getattr(config.objective, "other", None), prepared.data
    if path is None:
        return None
    if not path:
        raise InputError("`objective.other` must name the feature file of the other task")
    data = FeatureSet.load(path)
    if _made(own) != _made(data) or own.features.shape[1] != data.features.shape[1]:
        raise InputError(
            f"`objective.other` = {path} holds features of {data.provenance.get('backbone')}, or made another way than "
            f"those of the run, of {own.provenance.get('backbone')}: extract both alike"
        )
    if not data.label_names:
        raise InputError(f"`objective.other` = {path} holds examples without labels, which train nothing")
    if own.provenance.get("part") == SEARCHED:
        raise InputError(
            "`objective.other` cannot be used in a search: its examples may be those that are tested later"
        )
    bound = {part.strip() for part in getattr(config.head, "bound_labels", "").split(",")} & {*data.label_names}
    if bound and getattr(config.head, "augment", "none") != "none":
        raise InputError(
            f"`head.bound_labels` names {', '.join(sorted(bound))}, which `objective.other` = {path} has, too, and its "
            "maps are moved: set head.augment to none"
        )
    rows = np.flatnonzero(_may_train(data, prepared, by_group=config.data.split_by == "group"))
    if not len(rows):
        raise InputError(f"`objective.other` = {path} has no example that validation and test here do not have")
    return Other(data, rows)


def _may_train(data: FeatureSet, prepared: Prepared, *, by_group: bool) -> np.ndarray:
    """Return (M,) whether an example of another task is told by nothing to be one of validation or test."""
    held = np.concatenate([prepared.split.val, prepared.split.test])
    own = prepared.data
    found = ~np.isin(data.content_ids, own.content_ids[held])
    found &= ~np.isin(row_ids(data.features), row_ids(own.features[held]))
    if data.split is not None:
        found &= data.split == "train"
    if by_group and data.groups is not None and own.groups is not None:
        found &= ~np.isin(data.groups, own.groups[held])
    return found


def _made(data: FeatureSet) -> dict[str, object]:
    return {name: value for name, value in fingerprint(data.provenance).items() if name != "part"}


def _exclusive(data: FeatureSet) -> bool:
    return data.exclusive and data.labels.shape[1] > 1
