"""The focal stall: a loss that sits at (1/2)^gamma log 2 because every logit is near 0, watched while training runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwafer._checks import check_interval
from qwafer.probes.report import Report

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


def focal_stall(curves: Mapping[str, Sequence[Any]], gamma: float, *, level: float | None = None) -> Report:
    """Report whether a run ended in the stall, from the `curves` of its `RunResult` (`train_loss`, `val_loss`,
    `val_separation`).
    """
    watch = StallWatch(gamma, level=level, patience=min(2, max(len(curves.get("epoch", ())), 1)))
    entries = [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]
    for entry in entries:
        watch(entry)
    last = entries[-1] if entries else {}
    loss = float(last.get("train_loss", np.nan))
    return Report(
        name="focal stall",
        question="Does the loss sit where it is when every logit is 0?",
        verdict="skip" if not entries else "fail" if watch.since is not None else "pass",
        headline=watch.message or f"loss {loss:.4f}, stall level {watch.level:.4f} (gamma = {gamma:g})",
        numbers={
            "level": watch.level,
            "train_loss": loss,
            "val_separation": last.get("val_separation"),
            "since_epoch": watch.since,
        },
        tolerance=(
            f"fail: losses within {LOSS_TOLERANCE:.0%} of the level and classes less than {LOGIT_TOLERANCE} apart"
        ),
        meaning=(
            "Near p = 1/2 the focal factor (1 - p_t)^gamma shrinks the gradient of every example alike; with a "
            "bounded readout the optimiser may never leave: the loss looks low, and nothing was learned."
        ),
        remedy="Set objective.loss = bce, raise alpha_init or the learning rate of alpha, or use a smaller gamma.",
    )
