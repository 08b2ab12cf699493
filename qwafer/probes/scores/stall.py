"""The focal stall as a report on a run that has ended."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwafer.evaluation.stall import LOGIT_TOLERANCE, LOSS_TOLERANCE, StallWatch
from qwafer.evaluation.stall import stall_level as stall_level
from qwafer.probes.report import Report


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
