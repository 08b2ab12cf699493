"""What the runs of a sweep repeat, and therefore what a verdict on them can be about."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from qwafer._errors import InputError
from qwafer.comparison.metrics import undefined_metric
from qwafer.config import DataConfig
from qwafer.data.given_folds import FEWEST_FOLDS as GIVEN_FOLDS
from qwafer.experiment import Experiment
from qwafer.features import SourceFacts
from qwafer.training.result import RunResult, Runs

FEWEST_SEEDS = 6
"""Below so many seeds there is no verdict and no interval: they would rest on normality, which so few cannot show."""
FEWEST_FOLDS = 5
"""Below so many folds that the data bring there is none either: they leave t fewer than four degrees of freedom."""


@dataclass(frozen=True)
class Design:
    """How the splits of the seeds are related.

    d_s, the difference of seed s, has variance sigma^2 over seeds. Where the seeds train and test on parts of one data
    set that overlap, the d_s are correlated, and the mean of n of them varies as sigma^2 (1/n + overlap).
    """

    kind: str
    """`fixed split`: every seed has the same split; `new splits`: each seed draws its own; `folds`: each takes the next
    fold of a cross-validation; `given folds`: the next of those that the data bring, which are never drawn anew."""
    overlap: float
    """The part of the variance of the mean that more seeds do not take away, in units of sigma^2: 0 for a fixed split,
    else `resampling_overlap`."""
    unit: str = "examples"
    """What is split: `examples`, or `lots` as a whole; `examples or lots` where two arms differ in it."""
    n_folds: int | None = None
    """Folds that the data bring, for `given folds`: seeds that are equal modulo it test on the same examples."""

    def units(self, seeds: Iterable[int]) -> list[list[int]]:
        """Return `seeds` in the groups that the test counts: each of its own; by fold where the data bring folds.

        Seeds of one given fold have the same test examples, and nearly the same training examples: their mean is one
        observation, however many they are.
        """
        found: dict[int, list[int]] = {}
        for seed in seeds:
            found.setdefault(seed if self.n_folds is None else seed % self.n_folds, []).append(seed)
        return list(found.values())

    @property
    def about(self) -> str:
        """What a verdict is about, as the start of a sentence."""
        if self.kind == "fixed split":
            return "On this one split, over initial values and batches"
        if self.kind == "given folds":
            folds = "folds" if self.n_folds is None else f"{self.n_folds} folds"
            return f"On data like these, over the {folds} that the data bring, initial values and batches"
        return f"On data like these, over splits by {_singular(self.unit)}, initial values and batches"

    @property
    def limits(self) -> str:
        """What a verdict does not say."""
        if self.kind == "fixed split":
            return "every run has the same split: what is shown holds for it, and another split may say otherwise"
        if self.kind == "given folds":
            return (
                "the folds share one data set, whose training parts overlap, which the test allows for; seeds of one "
                "fold are averaged and count once; another source of data may say otherwise"
            )
        return (
            f"all seeds draw their {self.unit} from one data set, which the test allows for; another source of data "
            "may say otherwise"
        )


def planned_design(data: DataConfig, facts: SourceFacts | None = None) -> Design:
    """Return the design that the runs of `data` will have."""
    unit = "lots" if data.split_by == "group" else "examples"
    brought = facts is not None and facts.brings_split
    if brought or data.split_seed is not None or (data.split_by == "time" and data.limit is None):
        return Design("fixed split", 0.0, unit)
    if data.split_by == "fold":
        n_folds = None if facts is None else facts.n_folds
        k = max(n_folds or 0, GIVEN_FOLDS)
        return Design("given folds", resampling_overlap(1 - 2 / k, 1 / k), unit, n_folds)
    trained = data.trained_fraction
    overlap = resampling_overlap(trained, 1 - trained - data.val_fraction)
    return Design("new splits" if data.n_folds is None else "folds", overlap, unit)


def resampling_overlap(trained: float, tested: float) -> float:
    """Return rho = 2 / ((1 - g)/g + (1 - f)/f), for seeds that train on a fraction f and test on g of one data set.

    rho = cov/(var - cov) of the differences of two seeds. Of the noise of the test examples alone, each set a sample
    without replacement of the same data, it is g/(1 - g); of that of the training examples alone, f/(1 - f). The
    harmonic mean of the two is what simulation shows where both matter, in the worst case near chance; the g/f of
    Nadeau and Bengio (2003) allows for the first only, and errs in up to 10% instead of 5% (docs/statistics.md).
    """
    return 2 / ((1 - tested) / tested + (1 - trained) / trained)


def check_design(experiment: Experiment) -> None:
    """Raise InputError where no verdict can come out, so that it is known before anything runs."""
    if len(experiment.seeds) < FEWEST_SEEDS:
        raise InputError(
            f"{len(experiment.seeds)} seeds cannot reach a verdict, which takes at least {FEWEST_SEEDS}: raise `seeds` "
            "(python -m qwafer.plan says how many an effect takes), or ask for a description without verdicts "
            "(--descriptive)"
        )
    for arm, planned in _planned(experiment).items():
        n = len(planned.units(experiment.seeds))
        if planned.n_folds is not None and n < FEWEST_FOLDS:
            raise InputError(
                f"the seeds of arm {arm} test on {n} fold{'' if n == 1 else 's'}, and a verdict takes at least "
                f"{FEWEST_FOLDS}: seed s tests on fold s mod {planned.n_folds}; give consecutive seeds, or, where the "
                "data bring fewer folds, split by group or content, or ask for a description (--descriptive)"
            )


def check_comparable(experiment: Experiment) -> None:
    """Raise InputError where the arms could not be compared whatever their runs give, so that it is known before
    anything runs: labels of different tasks, a metric that an arm does not have, or splits of different kinds.
    """
    base = experiment.baseline
    first = experiment.arms[base]
    planned = _planned(experiment)
    for arm, config in experiment.arms.items():
        data, facts = config.data, experiment.facts.get(arm)
        why = undefined_metric(experiment.metric, exclusive=config.objective.exclusive)
        if why is not None:
            raise InputError(f"`metric` = {experiment.metric} is not defined in arm {arm}: {why}")
        if data.task != first.data.task:
            raise InputError(
                f"the arms {base} and {arm} cannot be compared: data.task is {first.data.task} and {data.task}, and "
                "metrics of different labels are no difference between arms"
            )
        if config.objective.exclusive != first.objective.exclusive and experiment.metric == "test.loss":
            raise InputError(
                f"the arms {base} and {arm} cannot be compared on test.loss: it is the cross-entropy of all classes "
                "in one and the mean over labels in the other"
            )
        brought = facts is not None and facts.brings_split
        if data.limit is not None and data.split_seed is None and (brought or data.split_by == "time"):
            raise InputError(
                f"`data.limit` in arm {arm} draws other examples for each seed from a split that stays, which no "
                "verdict allows for: fix what it draws with data.split_seed"
            )
        if (planned[arm].kind, planned[arm].n_folds) != (
            planned[base].kind,
            planned[base].n_folds,
        ) and "given folds" in (
            planned[arm].kind,
            planned[base].kind,
        ):
            raise InputError(
                f"the arms {base} and {arm} cannot be compared: only one of them is split by the folds that the data "
                "bring, or they bring other folds; give all arms data.split_by = fold, or none"
            )
        if (planned[arm].kind == "fixed split") != (planned[base].kind == "fixed split"):
            raise InputError(
                f"the arms {base} and {arm} cannot be compared: one has the same split with every seed, the other a "
                "new one; give all arms one split (data.split_seed) or each seed its own"
            )


def design_of(experiment: Experiment, runs: Runs) -> Design:
    """Return the design that the digests of the runs prove.

    Raises InputError where some seeds share a split and others do not, so that no one statement covers them.
    """
    every = _planned(experiment)
    planned = _joined(every[experiment.baseline], every.values())
    splits = [_distinct(by_seed) for by_seed in runs.values() if len(by_seed) > 1]
    if not splits:
        return planned
    if planned.kind == "given folds":
        _check_folds(planned, runs)
        return planned
    if all(distinct == 1 for distinct, _ in splits):
        return Design("fixed split", 0.0, planned.unit)
    if any(distinct < count for distinct, count in splits):
        raise InputError(
            "some seeds share a split and others do not: give all runs one split (data.split_seed) or each its own"
        )
    if planned.kind == "fixed split":
        raise InputError(
            "the seeds have different splits though the options fix one: the runs are not of one experiment"
        )
    return planned


def _check_folds(design: Design, runs: Runs) -> None:
    """Raise InputError unless seeds have equal splits exactly where they name one fold."""
    for arm, by_seed in runs.items():
        first: dict[str, list[int]] = {}
        for unit in design.units(sorted(by_seed)):
            for seed in unit:
                known = first.setdefault(by_seed[seed].digests.split, unit)
                if known is not unit or by_seed[seed].digests.split != by_seed[unit[0]].digests.split:
                    raise InputError(
                        f"seed {seed} of arm {arm} was not split by the fold that it names: the runs are not of one "
                        "experiment"
                    )


def paired_designs(experiment: Experiment, design: Design) -> dict[str, Design]:
    """Return by arm the design of its comparison with the baseline, where `design` is that of the whole: of what is
    split in the two of them, with the larger of their overlaps.
    """
    planned = _planned(experiment)
    found = {arm: _joined(design, (own, planned[experiment.baseline])) for arm, own in planned.items()}
    return found if design.overlap else {arm: replace(joined, overlap=0.0) for arm, joined in found.items()}


def _planned(experiment: Experiment) -> dict[str, Design]:
    """Return the design that the runs of each arm will have."""
    return {arm: planned_design(config.data, experiment.facts.get(arm)) for arm, config in experiment.arms.items()}


def _joined(design: Design, others: Collection[Design]) -> Design:
    """Return `design` with the largest overlap of `others`, and all that they split."""
    unit = " or ".join(sorted({other.unit for other in others}))
    return replace(design, overlap=max(other.overlap for other in others), unit=unit)


def _singular(unit: str) -> str:
    return " or ".join(part.removesuffix("s") for part in unit.split(" or "))


def _distinct(by_seed: Mapping[int, RunResult]) -> tuple[int, int]:
    """Return the number of different splits, and that of runs."""
    return len({run.digests.split for run in by_seed.values()}), len(by_seed)
