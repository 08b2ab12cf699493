"""The focal stall: a loss that sits at (1/2)^gamma log 2 because every logit is near 0, watched while training runs."""

import math
from collections.abc import Mapping
from typing import Any

from qwafer._checks import check_interval

LOSS_TOLERANCE = 0.02
"""Relative distance from the level within which a loss sits at it."""
LOGIT_TOLERANCE = 0.1
"""Separation of the classes, in logit units, below which the scores are near zero."""


def stall_level(gamma: float) -> float:
    """Return the loss of logits that are all 0: (1/2)^gamma log 2.

    0.6931 for cross-entropy, 0.1733 for the focal loss at gamma = 2 (Lin et al. 2017, arXiv:1708.02002, eq. 4 at p_t
    = 1/2).
    """
    check_interval("gamma", gamma, 0, 20)
    return 0.5**gamma * math.log(2)


class StallWatch:
    """Watches a run for the stall: pass it as the `observe` of `training.train`, or feed it the entries of the
    curves.

    An evaluation is stalled where training and validation loss lie within 2% of `level` and the classes are less
    than 0.1 apart in logit units. The run is stalled after `patience` such evaluations in a row; `since` is then the
    first epoch of them.
    """

    def __init__(self, gamma: float, *, level: float | None = None, patience: int = 2):
        self.gamma = gamma
        self.level = stall_level(gamma) if level is None else level
        self.patience = patience
        self.since: int | None = None
        self._row = 0
        self._start: int | None = None

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Take one evaluation: a mapping with `train_loss`, `val_loss`, `val_separation` and `epoch`."""
        losses = (entry["train_loss"], entry["val_loss"])
        near = all(abs(loss - self.level) <= LOSS_TOLERANCE * self.level for loss in losses)
        if near and abs(entry["val_separation"]) < LOGIT_TOLERANCE:
            self._start = int(entry["epoch"]) if self._row == 0 else self._start
            self._row += 1
            if self._row >= self.patience and self.since is None:
                self.since = self._start
        else:
            self._row, self._start, self.since = 0, None, None

    @property
    def message(self) -> str:
        """The finding in a sentence; empty where there is none."""
        if self.since is None:
            return ""
        kind = f"focal stall at gamma = {self.gamma:g}" if self.gamma else "stall of the cross-entropy"
        return f"{kind}: loss at {self.level:.4f} and scores near zero since epoch {self.since}"
