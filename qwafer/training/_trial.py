"""`run_trial`: one trial of a search, which trains as a run does, is scored on validation, and reads no test split."""

from collections.abc import Iterator, Sequence

import numpy as np

from qwafer._process import free_memory_maps
from qwafer.config import RunConfig
from qwafer.execution import ReportPart
from qwafer.features import FeatureSet
from qwafer.training._contender import contender_logits
from qwafer.training._judge import judge_validation
from qwafer.training._prepare import prepare
from qwafer.training._train import Run
from qwafer.training._trial_scores import Stop, TrialScores


def run_trial(
    config: RunConfig,
    data: FeatureSet,
    seeds: Sequence[int],
    metric: str,
    *,
    higher_is_better: bool = True,
    stops: Sequence[Stop] = (),
    report: ReportPart = lambda part: None,
) -> TrialScores:
    """Train `config` with each of `seeds`; return its averages `metric`, a name in `Evaluation.macro`, on validation.

    The value of a trial up to an epoch is that of its best checkpoint by then. At each of `stops` all seeds have come
    as far; the trial ends where their mean is worse than the bound, or undefined. A run that diverges has no value.
    """
    free_memory_maps()
    if not config.trained_by_loop:
        return _fitted(config, data, seeds, metric)
    runs = {seed: _Advancing(Run(config, prepare(config, data, seed), seed, None)) for seed in seeds}
    last, sign = config.training.stage_ends[-1], 1.0 if higher_is_better else -1.0
    passed: dict[int, float | None] = {}

    def scores(*, pruned: bool) -> TrialScores:
        diverged = any(each.run.history.diverged for each in runs.values())
        return TrialScores(
            {seed: each.value(metric) for seed, each in runs.items()},
            {seed: each.run.epoch for seed, each in runs.items()},
            {seed: each.run.history.converged(config.training) for seed, each in runs.items()},
            passed,
            pruned,
            "training diverged" if diverged else "",
        )

    for stop in [stop for stop in stops if stop.epoch < last]:
        for each in runs.values():
            each.train_to(stop.epoch)
            report(sum(other.run.epoch for other in runs.values()) / (last * len(runs)))
        value = scores(pruned=False).value
        passed[stop.epoch] = value
        if stop.bound is not None and (value is None or sign * value < sign * stop.bound):
            return scores(pruned=True)
    for each in runs.values():
        each.train_to(last)
        report(sum(other.run.epoch for other in runs.values()) / (last * len(runs)))
    return scores(pruned=False)


class _Advancing:
    """A run that is trained part by part."""

    def __init__(self, run: Run):
        self.run = run
        self._epochs: Iterator[None] = run.epochs()
        self._open = next(self._epochs, False) is None

    def train_to(self, epoch: int) -> None:
        """Train up to `epoch` and evaluate there, unless the run has ended before."""
        while self._open and self.run.epoch < epoch:
            self.run.train_epoch()
            self._open = next(self._epochs, False) is None

    def value(self, metric: str) -> float | None:
        """Return the metric of the best checkpoint so far; None where it is undefined."""
        return None if self.run.history.diverged else _finite(self.run.validation().macro.get(metric))


def _fitted(config: RunConfig, data: FeatureSet, seeds: Sequence[int], metric: str) -> TrialScores:
    values: dict[int, float | None] = {}
    for seed in seeds:
        prepared = prepare(config, data, seed)
        logits = contender_logits(config, config.head.fit(prepared, seed), prepared, "val")
        values[seed] = _finite(judge_validation(prepared, logits).macro.get(metric))
    return TrialScores(values, dict.fromkeys(seeds, 0), dict.fromkeys(seeds))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
