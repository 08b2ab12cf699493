"""When a trial ends early: bounds from the rounds before, so that results do not depend on which worker is fast."""

from collections.abc import Sequence
from statistics import median

from qwafer.config import RunConfig
from qwafer.studies.trials import Trial
from qwafer.training import Stop

PRUNERS = {
    "median": "ended where worse than the median of the arm's earlier whole trials, at 1/4, 1/2 and 3/4 of the epochs",
    "halving": "ended where not in the best third of the arm's earlier trials, at 1/9 and 1/3 of the epochs (ASHA)",
    "none": "all trials train to the end",
}
"""The pruners and what each does."""
PARTS = {"median": (1 / 4, 1 / 2, 3 / 4), "halving": (1 / 9, 1 / 3), "none": ()}
"""Where each looks, as parts of the epochs."""
FEWEST = 4
"""Trials that a median takes."""
REDUCTION = 3
"""Of so many trials at an epoch, one goes on (Li et al. 2020, asynchronous successive halving)."""


def stops(pruner: str, config: RunConfig, earlier: Sequence[Trial], *, higher_is_better: bool) -> list[Stop]:
    """Return where a trial of `config` is looked at, with the bounds that the `earlier` trials of its arm set.

    Looked at are the first evaluations at or after the parts `PARTS` of all epochs; nothing of what trains itself.
    """
    if not config.trained_by_loop:
        return []
    epochs, last = config.training.evaluation_epochs, config.training.stage_ends[-1]
    found = dict.fromkeys(min(epoch for epoch in epochs if epoch >= part * last) for part in PARTS[pruner])
    return [
        Stop(epoch, _bound(pruner, epoch, earlier, higher_is_better=higher_is_better))
        for epoch in found
        if epoch < last
    ]


def _bound(pruner: str, epoch: int, earlier: Sequence[Trial], *, higher_is_better: bool) -> float | None:
    trials = [trial for trial in earlier if pruner == "halving" or trial.value is not None]
    values = sorted(
        (value for trial in trials if (value := trial.stops.get(epoch)) is not None), reverse=higher_is_better
    )
    if pruner == "median":
        return median(values) if len(values) >= FEWEST else None
    return values[max(1, (len(values) + 1) // REDUCTION) - 1] if values else None
