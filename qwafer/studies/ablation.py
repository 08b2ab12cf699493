"""`run_experiment`: arms x seeds in worker processes, resumable, and the report at its end."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwafer._errors import InputError
from qwafer._process import worker_environment
from qwafer._records import to_json
from qwafer.comparison.metrics import check_metric
from qwafer.comparison.summary import write_summary
from qwafer.execution.processes import Event, Task, WorkerPool
from qwafer.experiment import Experiment
from qwafer.reports.ablation import write_report
from qwafer.sweeps.directory import FEATURES, OutputDirectory
from qwafer.sweeps.sources import Source, provide_features

WORKER = (sys.executable, "-m", "qwafer.sweeps.worker")


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands."""

    stage: str
    """`features` (units: maps) or `runs` (units: runs)."""
    done: float
    """Units done, with fractions of those under way."""
    total: int
    """Units to do in this call."""
    failed: int = 0
    """Runs that failed in this call."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep left behind."""

    summary: Mapping[str, Any]
    report: Path
    """`report.md`."""
    n_done: int
    """Runs done in this call."""
    n_failed: int
    """Runs of the experiment that have failed."""


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    jobs: int = 2,
    progress: Callable[[Progress], None] | None = None,
    worker: Sequence[str] | None = None,
    fresh: bool = False,
) -> Outcome:
    """Do the runs of `experiment` that `out` does not hold yet, and write `summary.json`, `report.md` and the figures.

    A run that fails is recorded with its error, tried again by the next call, and left out of the comparisons. Results
    do not depend on `jobs`, the number of worker processes, nor on how often the sweep was killed.

    `worker` is the command of another worker process, which may store more beside a run; with `fresh` every run has a
    process of its own.

    Raises:
        InputError: data, a configuration or a machine that cannot do some arm at all; an output directory that belongs
            to another experiment; PairingError: arms that cannot be compared. Runs that are complete stay where they
            are.
    """
    check_metric(experiment.metric)
    report = progress or (lambda _: None)
    directory = OutputDirectory(out)
    directory.check_owner(experiment)
    with directory.locked():
        sources = provide_features(
            {arm: config.data for arm, config in experiment.arms.items()},
            directory.path / FEATURES,
            check=lambda arm, made: directory.check_owner(
                experiment, {arm: {"maps_sha256": made.maps_sha256, "backbone": made.backbone}}
            ),
            progress=lambda state: report(Progress(state.stage, state.done, state.total)),
        )
        records = {arm: to_json(source.record) for arm, source in sources.items()}
        directory.check_owner(experiment, records)
        pending = directory.pending(experiment)
        with WorkerPool(worker or WORKER, jobs=jobs, environment=sweep_environment()) as pool:
            _check_arms(experiment, sources, sorted({arm for arm, _ in pending}, key=list(experiment.arms).index), pool)
            directory.claim(experiment, records)
            _do_runs(experiment, directory, sources, pending, pool, report, fresh=fresh)
        summary = write_summary(experiment, directory)
        path = write_report(experiment, directory, summary)
    n_failed = sum(len(arm["failed"]) for arm in summary["arms"].values())
    return Outcome(summary, path, len(pending), n_failed)


def sweep_environment() -> dict[str, str]:
    """Return the environment of every worker: one thread each, and this very package on its path."""
    environment = worker_environment(1)
    package = str(Path(__file__).resolve().parents[2])
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path != package]
    environment["PYTHONPATH"] = os.pathsep.join([package, *paths])
    return environment


def _check_arms(experiment: Experiment, sources: Mapping[str, Source], arms: Sequence[str], pool: WorkerPool) -> None:
    """Let a worker try everything of one run an arm that comes before its first step; raise InputError if that
    fails.
    """
    tasks = [
        Task((arm, experiment.seeds[0]), {"do": "check", **_message(experiment, sources, arm, experiment.seeds[0])})
        for arm in arms
    ]
    failures: dict[str, Mapping[str, Any]] = {}

    def note(event: Event) -> None:
        if event.kind == "failed":
            failures[event.key[0]] = event.payload or {}

    pool.run(tasks, note)
    failures = {arm: failures[arm] for arm in arms if arm in failures}  # in the order of the arms, not of time
    for arm, failure in failures.items():
        if failure["type"] in ("InputError", "CapabilityError"):
            raise InputError(f"arm {arm}: {failure['error']}")
    if failures and len(failures) == len(arms):
        arm, failure = next(iter(failures.items()))
        last = failure["details"].splitlines()[-1] if failure.get("details") else ""
        raise RuntimeError(
            f"no arm can start; {arm}: {failure['type']}: {failure['error']} {last}\n{failure.get('details', '')}"
        )


def _do_runs(
    experiment: Experiment,
    directory: OutputDirectory,
    sources: Mapping[str, Source],
    pending: Sequence[tuple[str, int]],
    pool: WorkerPool,
    report: Callable[[Progress], None],
    *,
    fresh: bool,
) -> None:
    tasks = []
    for arm, seed in pending:
        config = experiment.arms[arm]
        checkpoints = directory.checkpoint_path(arm, seed) if config.training.checkpoint_every_epochs else None
        message = {
            "do": "run",
            **_message(experiment, sources, arm, seed),
            "out": str(directory.run_path(arm, seed).resolve()),
            "directory": None if checkpoints is None else str(checkpoints.resolve()),
        }
        # A finite-shot simulator draws from a stream that goes on from run to run of one process.
        tasks.append(Task((arm, seed), message, fresh=fresh or config.engine.shots is not None))
    fractions: dict[tuple[str, int], float] = {}
    failed = 0

    def note(event: Event) -> None:
        nonlocal failed
        fractions[event.key] = event.fraction
        if event.kind == "failed":
            failed += 1
            directory.write_failure(*event.key, event.payload or {})
        if event.kind == "done":
            directory.error_path(*event.key).unlink(missing_ok=True)
        if event.kind in ("failed", "done"):
            fractions[event.key] = 1.0
        report(Progress("runs", sum(fractions.values()), len(tasks), failed))

    if tasks:
        report(Progress("runs", 0, len(tasks)))
        pool.run(tasks, note)


def _message(experiment: Experiment, sources: Mapping[str, Source], arm: str, seed: int) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(experiment.arms[arm]),
        "features": str(sources[arm].path),
        "seed": seed,
    }
