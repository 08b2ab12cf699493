"""The runs of a benchmark: every head complete, every head tested on the same examples."""

import numpy as np

from qwafer._errors import InputError
from qwafer.config import SPLIT
from qwafer.experiment import Experiment
from qwafer.sweeps.directory import SweepResults
from qwafer.training.result import RunResult, Runs


def check_complete(sweep: SweepResults) -> None:
    """Raise InputError where a head has no run."""
    for head, results in sweep.results.items():
        if not results:
            failure = next(iter(sweep.failures[head].values()))
            raise InputError(f"head {head} has no complete run to report: {failure.error}")


def check_same_data(experiment: Experiment) -> None:
    """Raise InputError, before anything runs, where heads would be tested on different examples, or decide differently
    between classes.
    """
    base = experiment.baseline
    options = [f"data.{option}" for option in ("task", *SPLIT)]
    known = experiment.effective(base)
    for head, config in experiment.arms.items():
        own = experiment.effective(head)
        different = [option for option in options if own.get(option) != known.get(option)]
        if different:
            raise InputError(
                f"the heads {base} and {head} of a benchmark would have different examples: they differ in "
                f"{', '.join(different)}; give all heads the same data section, or use python -m qwafer.ablate"
            )
        if config.objective.exclusive != experiment.arms[base].objective.exclusive:
            raise InputError(
                f"the heads {base} and {head} of a benchmark must decide alike: one picks one of the classes, the "
                "other judges each label on its own (objective.loss); use python -m qwafer.ablate"
            )


def common_seed_first(runs: Runs) -> dict[str, dict[int, RunResult]]:
    """Return the runs, those of the first seed that all heads have in front; as they are where there is none."""
    common = set.intersection(*(set(by_seed) for by_seed in runs.values()))
    shown = [seed for seed in next(iter(runs.values())) if seed in common][:1]
    return {
        head: {seed: by_seed[seed] for seed in (*shown, *(seed for seed in by_seed if seed not in shown))}
        for head, by_seed in runs.items()
    }


def check_same_examples(runs: Runs) -> None:
    """Raise InputError unless all heads were tested on the same examples with every seed."""
    reference: dict[int, tuple[str, RunResult]] = {}
    for head, by_seed in runs.items():
        for seed, run in by_seed.items():
            name, first = reference.setdefault(seed, (head, run))
            for part in run.rows:
                same = np.array_equal(run.rows[part], first.rows[part])
                if not same or not np.array_equal(run.labels[part], first.labels[part]):
                    raise InputError(
                        f"the heads {name} and {head} have different {part} examples with seed {seed}: they cannot be "
                        "compared; give all heads the same data section, and features with the same split"
                    )
