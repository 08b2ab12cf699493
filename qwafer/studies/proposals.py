"""What proposes the options of the next trials of one arm: Optuna, or a Latin hypercube."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from qwafer._io import key_seed
from qwafer._lazy import optional_package
from qwafer.studies.space import Dimension, Options
from qwafer.studies.trials import Trial

SAMPLERS = {
    "tpe": "Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), its first ten trials at random",
    "random": "Optuna's independent draws",
    "hypercube": "a Latin hypercube: equal values of what two arms share in trial k of both",
}
"""The samplers and what each draws."""


class Proposer(Protocol):
    """Proposes trials of one arm, in rounds; what it proposes depends on its seed and on what it was told alone."""

    def ask(self, count: int) -> list[Options]:
        """Return the options of the next `count` trials, the next round."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take what became of the trials of the round, in the order of `ask`."""
        ...


def make_proposer(
    sampler: str, arm: str, dimensions: Mapping[str, Dimension], budget: int, *, higher_is_better: bool
) -> Proposer:
    """Return the proposer called `sampler`, one of `SAMPLERS`; raise CapabilityError where Optuna is not installed."""
    if sampler == "hypercube":
        return Hypercube(dimensions, budget)
    return OptunaProposer(sampler, arm, dimensions, higher_is_better=higher_is_better)


def optuna_version(sampler: str) -> str:
    """Return the version of Optuna where `sampler` is one of its own: another one may propose otherwise; else empty."""
    return "" if sampler == "hypercube" else str(_optuna().__version__)


class Hypercube:
    """`budget` points, of which each option has one in each of `budget` equal parts of its range (McKay, Beckman and
    Conover 1979); an option draws from a stream of its own.
    """

    def __init__(self, dimensions: Mapping[str, Dimension], budget: int):
        self._points: list[Options] = [{} for _ in range(budget)]
        for option, dimension in dimensions.items():
            rng = np.random.default_rng(key_seed(0, f"search {option}"))
            shares = (rng.permutation(budget) + rng.uniform(size=budget)) / budget
            for point, share in zip(self._points, shares, strict=True):
                point[option] = dimension.at(float(share))
        self._asked = 0

    def ask(self, count: int) -> list[Options]:
        """Return the next points."""
        self._asked += count
        return self._points[self._asked - count : self._asked]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take nothing: the points are drawn."""


class OptunaProposer:
    """A study in memory; each round has a sampler of its own, seeded by the names of the arm and the round."""

    def __init__(self, sampler: str, arm: str, dimensions: Mapping[str, Dimension], *, higher_is_better: bool):
        self._optuna, self._sampler, self._arm = _optuna(), sampler, arm
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._distributions = {option: self._distribution(found) for option, found in dimensions.items()}
        direction = "maximize" if higher_is_better else "minimize"
        self._study = self._optuna.create_study(direction=direction, sampler=self._seeded(0))
        self._asked: list[Any] = []
        self._round = 0

    def ask(self, count: int) -> list[Options]:
        """Return what Optuna proposes; within a round, what is not told yet counts as bad, so that proposals differ."""
        self._study.sampler = self._seeded(self._round)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that Optuna calls experimental
            self._asked = [self._study.ask(self._distributions) for _ in range(count)]
        self._round += 1
        return [dict(trial.params) for trial in self._asked]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Tell the values; a trial that was pruned counts with the value that it had, one without a value failed."""
        state = self._optuna.trial.TrialState
        for asked, trial in zip(self._asked, trials, strict=True):
            for epoch, value in trial.stops.items():
                if value is not None:
                    asked.report(value, epoch)
            if trial.value is not None:
                self._study.tell(asked, trial.value)
            else:
                self._study.tell(asked, state=state.PRUNED if trial.pruned else state.FAIL)

    def _seeded(self, number: int) -> Any:
        seed = key_seed(0, f"search {self._arm} round {number}")
        if self._sampler == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if dimension.choices:
            return kinds.CategoricalDistribution(dimension.choices)
        if dimension.integer:
            assert dimension.low is not None
            assert dimension.high is not None
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _optuna() -> Any:
    return optional_package("optuna", "search", "a search needs")
