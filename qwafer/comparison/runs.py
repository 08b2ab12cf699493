"""The runs of a benchmark: every head complete, every head tested on the same examples."""

import numpy as np

from qwafer._errors import InputError
from qwafer.sweeps.directory import SweepResults
from qwafer.training.result import RunResult, Runs


def check_complete(sweep: SweepResults) -> None:
    """Raise InputError where a head has no run."""
    for head, results in sweep.results.items():
        if not results:
            failure = next(iter(sweep.failures[head].values()))
            raise InputError(f"head {head} has no complete run to report: {failure.error}")


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
