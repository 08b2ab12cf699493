"""`summary.json`: everything that an experiment shows, without a single time of day or duration in it.

Equal runs give equal bytes, whatever the number of workers and however often the sweep was killed and resumed; what
took how long stands in `timings.json`. Fields (undefined numbers are null):

- `format`; `experiment`: `name`, `title`, `description`, `expected`, `reference`, `digest`, `baseline`, `metric`,
  `higher_is_better`, `seeds`.
- `comparisons`: one `Comparison` an arm against the baseline: `differences` a seed, `mean`, `sd`, `interval`,
  `sign_flip_p` and its Holm-adjusted value, `smallest_p`, `wilcoxon_p`, `effect_size`, `seeds_for_power`, `verdict`,
  `sentence`.
- `arms`: by name: `changes` (options against the baseline's), `values` (the metric a seed), `mean`, `sd`, `metrics`
  (mean and standard deviation over seeds of every average on `val` and `test`), `best_epochs`, `n_parameters`,
  `learning` (a group: first and last gradient norm, first and last distance from the initial values, means over seeds),
  `engine`, `complete` and `failed` runs.
- `pairing`: `equal` digests, `differences` and the options that explain them, `shared_parameters`; see `check_pairing`.
- `identical_arms`: pairs of arms with bit-identical results.
- `warnings`: sentences, the gravest first.
- `data`, `versions`, `git_revisions`, `hosts`: what the runs rest on.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qwafer._io import digest
from qwafer.comparison.caveats import collect_warnings
from qwafer.comparison.metrics import higher_is_better, metric_value
from qwafer.comparison.pairing import check_pairing, identical_arms
from qwafer.comparison.statistics import compare_arms
from qwafer.execution import Failure
from qwafer.experiment import Experiment
from qwafer.overrides import PARAMETER_GROUPS

if TYPE_CHECKING:
    from qwafer.training import RunResult

FORMAT = 1
Results = Mapping[str, Mapping[int, "RunResult"]]
"""Complete runs by arm and seed."""

VOLATILE = ("seconds", "time", "timings", "cache")
"""Parts of the names of `engine` entries that depend on when or after what a run ran."""


def summarize(
    experiment: Experiment,
    results: Results,
    failures: Mapping[str, Mapping[int, Failure]],
    record: Mapping[str, Any],
    where: str = "the results",
) -> dict[str, Any]:
    """Return the summary of runs as plain data; see this module's text for its fields.

    `record` is what the output directory says of itself, `where` its name. Raises PairingError where two arms cannot be
    compared.
    """
    digests = {arm: {seed: result.digests for seed, result in runs.items()} for arm, runs in results.items()}
    pairing = check_pairing(digests, experiment.arms, where)
    prints = {arm: {seed: fingerprint(result) for seed, result in runs.items()} for arm, runs in results.items()}
    identical = identical_arms(prints)
    values = {
        arm: {seed: metric_value(result.metrics, experiment.metric) for seed, result in runs.items()}
        for arm, runs in results.items()
    }
    comparisons = compare_arms(
        values,
        baseline=experiment.baseline,
        metric=experiment.metric,
        seeds=experiment.seeds,
        higher_is_better=higher_is_better(experiment.metric),
    )
    every = [result for runs in results.values() for result in runs.values()]
    return {
        "format": FORMAT,
        "experiment": {
            **{name: getattr(experiment, name) for name in ("name", "title", "description", "expected", "reference")},
            "digest": experiment.digest(),
            "baseline": experiment.baseline,
            "metric": experiment.metric,
            "higher_is_better": higher_is_better(experiment.metric),
            "seeds": list(experiment.seeds),
        },
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        "arms": {arm: _arm(experiment, arm, results[arm], failures[arm], values[arm]) for arm in experiment.arms},
        "pairing": dataclasses.asdict(pairing),
        "identical_arms": identical,
        "warnings": collect_warnings(experiment, results, failures, pairing, identical, record),
        "data": record.get("data", {}),
        "versions": _distinct(result.versions for result in every),
        "git_revisions": _distinct(result.git_revision for result in every),
        "hosts": _distinct(result.host for result in every),
    }


def timings(results: Results) -> dict[str, Any]:
    """Return `timings.json`: the wall seconds of every run by arm and seed, and their sums per arm."""
    return {
        arm: {
            "sum": {
                name: math.fsum(result.timings[name] for result in runs.values() if name in result.timings)
                for name in sorted({name for result in runs.values() for name in result.timings})
                if name != "steps_per_second"
            },
            "runs": {seed: result.timings for seed, result in runs.items()},
        }
        for arm, runs in results.items()
    }


def fingerprint(result: "RunResult") -> str:
    """Return the digest of what a run measured: metrics and losses over the epochs, nothing of its configuration or
    speed.
    """
    measured = {name: result.curves[name] for name in sorted(result.curves) if name.startswith(("train_", "val_"))}
    return digest(result.metrics, measured)


def _arm(
    experiment: Experiment,
    arm: str,
    runs: Mapping[int, "RunResult"],
    failures: Mapping[int, Failure],
    values: Mapping[int, float | None],
) -> dict[str, Any]:
    first = next(iter(runs.values()), None)
    mean, sd = mean_and_sd(values.values())
    return {
        "changes": experiment.changes(arm),
        "values": values,
        "mean": mean,
        "sd": sd,
        "complete": sorted(runs),
        "failed": {seed: {"type": failure.type, "error": failure.error} for seed, failure in failures.items()},
        "best_epochs": {seed: result.best_epoch for seed, result in runs.items()},
        "metrics": {part: _averages(runs, part) for part in ("test", "val")},
        "learning": _learning(runs),
        "n_parameters": None if first is None else first.n_parameters,
        "engine": None
        if first is None
        else {name: value for name, value in first.engine.items() if not any(part in name for part in VOLATILE)},
    }


def _averages(runs: Mapping[int, "RunResult"], part: str) -> dict[str, dict[str, float | None]]:
    names = sorted({name for result in runs.values() for name in result.metrics[part]["macro"]})
    table = {}
    for name in names:
        mean, sd = mean_and_sd(metric_value(result.metrics, f"{part}.{name}") for result in runs.values())
        table[name] = {"mean": mean, "sd": sd}
    return table


def _learning(runs: Mapping[int, "RunResult"]) -> dict[str, dict[str, float | None]]:
    """Return, for each parameter group, how strong its gradient was and how far it moved: means over seeds."""
    names = {name for result in runs.values() for name in result.curves}
    groups = ordered_groups(name.partition(".")[2] for name in names if name.startswith("grad_norm."))
    table: dict[str, dict[str, float | None]] = {group: {} for group in groups}
    for group, entry in table.items():
        for kind in ("grad_norm", "distance"):
            curves = [
                result.curves[f"{kind}.{group}"] for result in runs.values() if result.curves.get(f"{kind}.{group}")
            ]
            entry[f"first_{kind}"] = mean_and_sd(curve[0] for curve in curves)[0]
            entry[f"last_{kind}"] = mean_and_sd(curve[-1] for curve in curves)[0]
    return table


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Return the distinct parameter groups in the order of the data's way through a head, others after them by name."""
    known = list(PARAMETER_GROUPS)
    return sorted(set(groups), key=lambda group: (known.index(group) if group in known else len(known), group))


def mean_and_sd(values: Any) -> tuple[float | None, float | None]:
    """Return mean and standard deviation (n - 1) of the finite ones among `values`; None where undefined."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)
    mean = float(np.mean(finite)) if finite.size else None
    return mean, float(np.std(finite, ddof=1)) if finite.size > 1 else None


def _distinct(values: Any) -> list[Any]:
    """Return the distinct values in the order of their first occurrence."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
