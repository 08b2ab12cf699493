"""`Trial` and `Search`: what a search tried, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qwafer._errors import InputError
from qwafer._io import canonical_json
from qwafer.comparison.metrics import higher_is_better
from qwafer.experiment import Searched
from qwafer.studies.space import Dimension, Options


@dataclass(frozen=True)
class Trial:
    """One configuration of one arm that a search tried; everything in it was measured on validation."""

    arm: str
    options: Options
    """What was drawn."""
    values: dict[int, float | None]
    """The searched metric on validation by seed; None where the run failed or it is undefined."""
    value: float | None
    """Mean of `values`; None where one of them is, and where the trial was pruned: such a trial cannot win."""
    epochs: dict[int, int]
    """Epochs trained by seed, of the runs that are complete."""
    converged: dict[int, bool | None]
    """`RunResult.converged` by seed."""
    stops: dict[int, float | None] = field(default_factory=dict)
    """Mean of `values` as it was at each epoch where pruning looked."""
    pruned: bool = False
    """Whether it was ended at the last of `stops`."""
    error: str = ""
    """Why there are no values."""


@dataclass(frozen=True)
class Search:
    """`search.json`: a search of each arm of an experiment, the same number of trials for every arm."""

    SCHEMA: ClassVar[str] = "qwafer/search/1"

    name: str
    """Of the experiment."""
    experiment: str
    """Digest of the experiment; of the published ones, `searched_digest`, without what was searched."""
    metric: str
    """What the trials are ranked by: the experiment's metric, on validation."""
    budget: int
    """Trials per arm, pruned and failed ones included."""
    seeds: tuple[int, ...]
    """Seeds of every trial; none is a seed of the experiment."""
    space: dict[str, tuple[float, float]]
    """Bounds by option of what arms draw log-uniformly from the same ones."""
    base: dict[str, Any]
    """Options in which every trial differs from the experiment."""
    data: dict[str, str]
    """By arm, the digest of the features, a part of which its trials saw (`set_apart`)."""
    revisions: tuple[str, ...]
    """Revisions of the code that the trials ran on."""
    trials: tuple[Trial, ...]
    """Arm by arm, in the order of proposal; fewer than the budget while the search is under way."""
    own: dict[str, dict[str, Dimension]] = field(default_factory=dict)
    """By arm, what is not drawn from `space`, and how."""
    sampler: str = "hypercube"
    """One of `SAMPLERS`."""
    pruner: str = "none"
    """One of `PRUNERS`."""
    batch: int = 0
    """Trials per arm and round: what is proposed depends on the rounds before alone; 0: all in one."""
    version: str = ""
    """Of Optuna, where it proposed."""
    raised: tuple[int, ...] = ()
    """Budgets after which winners were written before it was raised."""
    circuits: dict[str, str] = field(default_factory=dict)
    """By arm, the digest of its circuit where that is captured from a function, which may change under its name."""

    def winner(self, arm: str) -> Options:
        """Return the options of the arm's best trial, the first of equals.

        Raises InputError where no trial of the arm has a value.
        """
        found = [trial for trial in self.trials if trial.arm == arm and trial.value is not None]
        if not found:
            errors = [trial.error for trial in self.trials if trial.arm == arm and trial.error]
            said = f" ({errors[0]})" if errors else ""
            raise InputError(f"the search of {self.name} has no trial of arm {arm} with a value{said}: search again")
        sign = 1 if higher_is_better(self.metric) else -1
        return max(found, key=lambda trial: sign * (trial.value or 0.0)).options

    def winners(self) -> dict[str, Options]:
        """Return the options of the best trial of every arm."""
        return {arm: self.winner(arm) for arm in dict.fromkeys(trial.arm for trial in self.trials)}

    def searched(self) -> Searched:
        """Return what an experiment with the winners says of this search."""
        arms = dict.fromkeys(trial.arm for trial in self.trials)
        own = {arm: [t for t in self.trials if t.arm == arm] for arm in arms}
        different = {arm: _different(trials) for arm, trials in own.items()}
        return Searched(
            metric=self.metric,
            seeds=self.seeds,
            trials={arm: len(trials) for arm, trials in own.items()},
            pruned={arm: sum(trial.pruned for trial in trials) for arm, trials in own.items()},
            failed={arm: sum(map(_failed, trials)) for arm, trials in own.items()},
            epochs={arm: _epochs(trials) for arm, trials in different.items()},
            options={arm: tuple(trials[0].options) for arm, trials in own.items()},
            repeated={
                arm: sum(not _failed(trial) for trial in trials) - sum(not _failed(trial) for trial in different[arm])
                for arm, trials in own.items()
            },
            chosen=self.winners(),
            raised=self.raised,
        )


def _failed(trial: Trial) -> bool:
    return trial.value is None and not trial.pruned


def _different(trials: Sequence[Trial]) -> list[Trial]:
    """Return the first trial of each configuration: one that repeats it has its outcome, and was not run."""
    return list({canonical_json(trial.options): trial for trial in reversed(trials)}.values())


def _epochs(trials: Sequence[Trial]) -> int:
    return sum(sum(trial.epochs.values()) for trial in trials)
