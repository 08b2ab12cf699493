"""What this folder publishes, as records: searches (`searched/NAME.json`) and what came out (`results/NAME.json`)."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qwafer._errors import InputError
from qwafer._io import digest
from qwafer._records import load_record
from qwafer.comparison import Summary, SweepTimings
from qwafer.experiment import load_experiment
from qwafer.overrides import SECTIONS, Entry, flatten
from qwafer.studies.space import Options
from qwafer.studies.trials import Search

HERE = Path(__file__).resolve().parent
SEARCHED, RESULTS = HERE / "searched", HERE / "results"
METRICS = ("test.roc_auc", "test.loss", "test.f1", "test.f1_tuned", "test.accuracy", "test.top_label_ece")
"""Averages that are published of every arm that has them."""

CAPS = {"training.max_doublings": 2, "training.eval_every_epochs": 2, "training.convergence_tolerance": 1e-3}
"""What every trial has other than the experiment: it trains for four times the first stage at most, to save time."""


def searched_digest(path: Path, options: Mapping[str, Sequence[str]]) -> str:
    """Return the digest of what a search of `options`, by arm, belongs to: the file at `path` without its texts, its
    seeds, the values of these options, and `CAPS`, of which every trial has its own.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    arms = {arm: _without(flatten(own), options.get(arm, ())) for arm, own in table["arms"].items()}
    everywhere = set(CAPS).union(set.intersection(*(set(options.get(arm, ())) for arm in arms)))
    base = _without(flatten({key: table[key] for key in SECTIONS if key in table}), everywhere)
    return digest(arms, base, table.get("baseline"), table.get("metric"))


def _without(entries: Sequence[Entry], left_out: Collection[str]) -> dict[str, Any]:
    return {name: given.value for name, given in entries if name not in left_out}


def load_search(path: Path, folder: Path = SEARCHED) -> Search | None:
    """Return the search that is committed for the experiment of the TOML file `path`; None where there is none.

    Raises InputError where it belongs to another experiment, where an arm has more trials than another, and where it
    used a seed of the experiment.
    """
    file = folder / f"{path.stem}.json"
    if not file.is_file():
        return None
    search, experiment = load_record(Search, file), load_experiment(path)
    options = {trial.arm: tuple(trial.options) for trial in search.trials}
    if set(options) != set(experiment.arms) or search.experiment != searched_digest(path, options):
        raise InputError(f"{file} is the search of another experiment than {path} is now: search again")
    for arm in options:
        tried = sum(trial.arm == arm for trial in search.trials)
        if tried != search.budget:
            raise InputError(f"{file} holds {tried} trials of arm {arm}, not {search.budget}: search again")
    if set(search.seeds) & set(experiment.seeds):
        raise InputError(f"{file} was searched with seeds of the experiment itself: search with others")
    return search


@dataclass(frozen=True)
class ArmResult:
    """What the runs of one arm gave."""

    mean: float | None
    """Of the experiment's metric over seeds."""
    sd: float | None
    n_runs: int
    n_failed: int
    n_best_first: int
    """Runs whose best epoch is the first."""
    parameters: int | None
    """Trainable parameters."""
    metrics: dict[str, tuple[float | None, float | None]]
    """Mean and sd of each of `METRICS`."""


@dataclass(frozen=True)
class Difference:
    """One arm against the baseline; fields as in `Comparison`."""

    arm: str
    mean: float | None
    interval: tuple[float, float] | None
    level: float | None
    """Confidence level of `interval`."""
    p: float | None
    """Adjusted for the number of comparisons."""
    verdict: str
    n_seeds: int
    not_converged: dict[str, int]
    """By arm, how many of its runs had not converged."""


@dataclass(frozen=True)
class Data:
    """What an arm was trained on."""

    file: str | None
    n_examples: int | None
    n_features: int | None
    digest: str | None


@dataclass(frozen=True)
class Result:
    """`results/NAME.json`: what an experiment showed; everything that README.md and docs say of it is checked against
    this.
    """

    SCHEMA: ClassVar[str] = "qwafer/result/1"

    name: str
    experiment: str
    """`Experiment.digest` of what ran."""
    expected: str
    """As it was written before the first run."""
    metric: str
    baseline: str
    margin: float
    about: str
    """What a verdict is about."""
    seeds: tuple[int, ...]
    differences: tuple[Difference, ...]
    arms: dict[str, ArmResult]
    data: dict[str, Data]
    """By arm."""
    searched: dict[str, Options]
    """The options of each arm that a search found; empty where none was made."""
    budget: int
    """Trials per arm of that search; 0 without one."""
    seconds: float
    """Of run time in all."""
    hosts: tuple[str, ...]
    revisions: tuple[str, ...]


def result_of(summary: Summary, timings: SweepTimings, search: Search | None) -> Result:
    """Return what is published of an experiment that has run; `search` is the one whose winners ran."""
    facts = summary.experiment
    return Result(
        name=facts.name,
        experiment=facts.digest,
        expected=" ".join(facts.expected.split()),
        metric=facts.metric,
        baseline=facts.baseline,
        margin=facts.margin,
        about=summary.design.about,
        seeds=facts.seeds,
        differences=tuple(
            Difference(
                arm=c.arm,
                mean=_short(c.mean),
                interval=None if c.interval is None else (round(c.interval[0], 6), round(c.interval[1], 6)),
                level=_short(c.level),
                p=_short(c.p_holm),
                verdict=c.verdict,
                n_seeds=len(c.seeds),
                not_converged=c.not_converged,
            )
            for c in summary.comparisons
        ),
        arms={
            name: ArmResult(
                mean=_short(arm.mean),
                sd=_short(arm.sd),
                n_runs=len(arm.complete),
                n_failed=len(arm.failed),
                n_best_first=sum(epoch == 1 for epoch in arm.best_epochs.values()),
                parameters=arm.n_parameters and arm.n_parameters.trainable,
                metrics={
                    m: (_short(arm.metrics[m].mean), _short(arm.metrics[m].sd)) for m in METRICS if m in arm.metrics
                },
            )
            for name, arm in summary.arms.items()
        },
        data={
            name: Data(record.file or record.maps, record.n_examples, record.n_features, record.digest)
            for name, record in summary.data.items()
        },
        searched={} if search is None else search.winners(),
        budget=0 if search is None else search.budget,
        seconds=round(sum(arm.sum.total for arm in timings.arms.values()), 1),
        hosts=tuple(dict.fromkeys(made.host.cpu for made in summary.environments)),
        revisions=tuple(dict.fromkeys((made.git_revision or "none")[:12] for made in summary.environments)),
    )


def _short(value: float | None) -> float | None:
    """Return six significant digits, so that what is committed is small."""
    return None if value is None else float(f"{value:.6g}")


def load_result(name: str, folder: Path = RESULTS) -> Result | None:
    """Return what is committed of the experiment `name`; None where nothing is."""
    path = folder / f"{name}.json"
    return load_record(Result, path) if path.is_file() else None
