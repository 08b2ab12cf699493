"""`run_experiment`: arms x seeds as jobs, resumable, and the report at its end."""

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qwafer._errors import InputError
from qwafer._records import save_record
from qwafer.comparison.design import check_comparable, check_design
from qwafer.comparison.metrics import check_metric
from qwafer.comparison.pairing import check_circuits
from qwafer.comparison.summary import Summary, sum_timings, summarize
from qwafer.execution import Event, Executor, Failure, Job, LocalProcesses, OnProgress, Progress, Tally
from qwafer.experiment import Experiment
from qwafer.reports.ablation import write_report
from qwafer.sweeps.directory import FEATURES, DirectoryRecord, OutputDirectory, SweepResults
from qwafer.sweeps.jobs import CHECK, TRAIN, TRAIN_LANES, Checked, lanes_payload, run_job, run_payload, train_payload
from qwafer.sweeps.ledger import TestSplitReads
from qwafer.sweeps.sources import Source, provide_features
from qwafer.tracking import Tracking


@dataclass(frozen=True)
class Outcome:
    """What a sweep left behind."""

    summary: Summary
    results: SweepResults
    """The runs themselves."""
    report: Path
    """`report.md`."""
    n_done: int
    """Runs done in this call."""
    n_failed: int
    """Runs of the experiment that have failed."""
    test_reads: tuple[str, ...] = ()
    """Who has read the test split of these data, in sentences."""

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the summary, and where the report is."""
        said = [*self.test_reads, f"report: {self.report}"]
        return self.summary._repr_html_() + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in said)


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    executor: Executor | None = None,
    jobs: int = 2,
    descriptive: bool = False,
    progress: OnProgress | None = None,
    store_all: bool = False,
    beside: str | Path | None = None,
    batch_seeds: bool = True,
    track: Tracking | None = None,
) -> Outcome:
    """Do the runs of `experiment` that `out` does not hold yet, and write `summary.json`, `report.md` and the figures.

    A run that fails is recorded with its error, tried again by the next call, and left out of the comparisons. Results
    do not depend on `executor`, nor on how often the sweep was killed; without one, the runs go to `jobs` worker
    processes of this machine. With `store_all` the predictor of each run is stored beside it, and the first seed of
    each arm has a process of its own and tells the memory that it used. An experiment may have more arms and seeds than
    when `out` was begun: its runs are kept, and the report says what joined when. With `descriptive`, fewer seeds than
    a verdict takes are not refused. With `batch_seeds`, 16 seeds and more of a small head are trained side by side in
    one program where that is faster: results agree with those of runs alone to rounding, and the report says so.
    `track` is told every run as it is complete, and the report at the end.

    Every read of a test split is noted in the ledger `test-reads.json` beside `out`, or beside the folder `beside` that
    holds it, and the report says which experiments of that neighbourhood have read the same one.

    Raises:
        InputError: data, a configuration or a machine that cannot do some arm at all; an output directory that belongs
            to another experiment; PairingError: arms that cannot be compared. Runs that are complete stay where they
            are.
    """
    check_metric(experiment.metric)
    check_comparable(experiment)
    if not descriptive:
        check_design(experiment)
    report = progress or (lambda _: None)
    directory = OutputDirectory(out)
    directory.check_owner(experiment)
    with directory.locked():
        sources = provide_features(
            {arm: config.data for arm, config in experiment.arms.items()},
            directory.path / FEATURES,
            check=lambda arm, made: directory.check_owner(experiment, {arm: made}),
            progress=report,
        )
        records = {arm: source.record for arm, source in sources.items()}
        directory.check_owner(experiment, records)
        before = directory.read(experiment, repair=True, heads=store_all)
        directory.check_data(before, records)
        todo = before.pending
        with LocalProcesses(jobs) if executor is None else executor as running:
            checked = check_arms(experiment, sources, [arm for arm in experiment.arms if arm in dict(todo)], running)
            # An arm that is complete is compared with the runs to come, so its function must be the same still.
            others = [arm for arm in _captured(before) if todo and arm not in dict(todo)]
            known = check_arms(experiment, sources, others, running) if others else {}
            here = {arm: found.circuit for arm, found in {**known, **checked}.items() if found.circuit}
            check_circuits(before.results, experiment.arms, here, str(directory.path))
            report(Progress("arms", len(checked), len(checked), note=waiting_note(checked, todo)))
            record = directory.claim(experiment, records)
            complete = {arm: len(done) for arm, done in before.results.items()}
            joined = [addition.joined for addition in record.additions]
            reads = TestSplitReads(out if beside is None else beside, experiment, sources, complete, joined)
            gains = batch_seeds and not store_all and len(experiment.seeds) >= 2 * LANES
            together = {arm for arm, found in checked.items() if gains and found.lanes}
            tell = partial(_tell, track, experiment.name, directory)
            _do_runs(experiment, directory, sources, todo, running, report, reads, together, tell, store_all=store_all)
        results = directory.read(experiment, before)
        directory.tidy(results)
        said = reads.sentences()
        summary, path = conclude(experiment, directory.path, results, record, said)
        for arm, seed in [(arm, seed) for arm, runs in before.results.items() for seed in runs]:
            tell(arm, seed)  # of an earlier call, which may have been killed or told nobody
        if track is not None:
            figures = sorted((directory.path / "figures").glob("*.png"))
            track.summary(summary, "comparison", [path, directory.path / "summary.json", *figures])
    return Outcome(summary, results, path, len(todo), len(results.pending), said)


def conclude(
    experiment: Experiment,
    folder: Path,
    results: SweepResults,
    record: DirectoryRecord,
    test_reads: Sequence[str] = (),
) -> tuple[Summary, Path]:
    """Judge the runs of an experiment; write `summary.json`, `timings.json`, `report.md` and figures into `folder`.

    `test_reads` says who has read the test split of these data; it stands in the report alone, for the summary of an
    experiment does not depend on its neighbours. Returns the summary and the path of the report. Raises PairingError
    where two arms cannot be compared.
    """
    summary, timings = summarize(experiment, results, record, str(folder)), sum_timings(results)
    save_record(folder / "summary.json", summary)
    save_record(folder / "timings.json", timings)
    return summary, write_report(folder, summary, timings, results.results, test_reads)


def _captured(results: SweepResults) -> list[str]:
    """Return the arms some run of which says the digest of a circuit that is captured from a function."""
    return [arm for arm, runs in results.results.items() if any(run.engine.get("circuit") for run in runs.values())]


def _tell(track: Tracking | None, group: str, directory: OutputDirectory, arm: str, seed: int) -> None:
    if track is not None:
        track.result(group, arm, directory.run_path(arm, seed))


def check_arms(
    experiment: Experiment, sources: Mapping[str, Source], arms: Sequence[str], executor: Executor
) -> dict[str, Checked]:
    """Try everything of one run per arm that comes before its first step; raise InputError if that fails.

    Returns what was found, by arm.
    """
    seed, n_seeds = experiment.seeds[0], len(experiment.seeds)
    failures: dict[str, Failure] = {}
    checked: dict[str, Checked] = {}

    def note(event: Event) -> None:
        if event.failure is not None:
            failures[event.key] = event.failure
        if event.kind == "done":
            checked[event.key] = Checked(**event.result)

    def payload(arm: str) -> dict[str, Any]:
        return {**run_payload(experiment.arms[arm], sources[arm].path, seed), "n_seeds": n_seeds}

    executor.run([run_job(arm, CHECK, payload(arm), family=arm) for arm in arms], note)
    failures = {arm: failures[arm] for arm in arms if arm in failures}  # in the order of the arms, not of time
    for arm, failure in failures.items():
        if failure.type in ("InputError", "CapabilityError", "MemoryError"):
            raise InputError(f"arm {arm}: {failure.error}")
    if failures and len(failures) == len(arms):
        arm, failure = next(iter(failures.items()))
        last = failure.details.splitlines()[-1] if failure.details else ""
        raise RuntimeError(f"no arm can start; {arm}: {failure.type}: {failure.error} {last}\n{failure.details}")
    return checked


def waiting_note(checked: Mapping[str, Checked], todo: Sequence[tuple[str, int]]) -> str:
    """Return the sentence on how long the runs `todo` (arm, seed) of slow engines will take at least, and would take
    with a faster one; empty where there are none, or it is not known.
    """
    slow: dict[tuple[str, ...], list[Checked]] = {}
    for arm, _ in todo:
        if arm in checked and checked[arm].step_seconds:
            slow.setdefault(tuple(checked[arm].step_seconds), []).append(checked[arm])
    said = []
    for (own, other), runs in slow.items():
        taken, instead = (sum(found.steps * found.step_seconds[name] for found in runs) for name in (own, other))
        said.append(
            f"engine {own}: the first {sum(found.steps for found in runs):,} steps of {len(runs)} runs take about "
            f"{_about(taken)} of CPU time; --set engine={other} would take {_about(instead)}, and a few seconds per "
            "arm to compile"
        )
    return "; ".join(said)


def _about(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.2g} min"


def _do_runs(
    experiment: Experiment,
    directory: OutputDirectory,
    sources: Mapping[str, Source],
    todo: Sequence[tuple[str, int]],
    executor: Executor,
    report: OnProgress,
    reads: TestSplitReads,
    together: Collection[str],
    tell: Callable[[str, int], None],
    *,
    store_all: bool,
) -> None:
    runs = {f"{arm}/seed-{seed}": (arm, seed) for arm, seed in todo}
    jobs = []
    for key, (arm, seed) in runs.items():
        config = experiment.arms[arm]
        payload = train_payload(
            config,
            sources[arm].path,
            seed,
            directory.run_path(arm, seed),
            checkpoints=directory.checkpoint_path(arm, seed) if config.training.checkpoint_every_epochs else None,
            store_all=store_all,
            measure=store_all and seed == experiment.seeds[0],
        )
        # The memory of a run is known where it has a process of its own; a finite-shot simulator draws from a stream
        # that goes on from run to run of one process.
        alone = payload["measure"] or getattr(config.engine, "shots", None) is not None
        jobs.append(run_job(key, TRAIN, payload, fresh=alone, family=arm))
    tally = Tally("runs", len(jobs), report)

    def note(event: Event) -> None:
        arm, seed = runs[event.key]
        if event.failure is not None:
            directory.write_failure(arm, seed, event.failure)
        if event.kind == "done":
            directory.forget(arm, seed)
            reads.note(arm)
            tell(arm, seed)
        tally(event)

    jobs, members = _in_lanes(jobs, runs, experiment.seeds, together)

    def note_all(event: Event) -> None:
        for key in members.get(event.key, (event.key,)):
            note(_of_lane(event, key, runs[key][1]))

    executor.run(jobs, note_all)


LANES = 8
"""Runs side by side; beyond, a small step is mostly arithmetic."""


def _in_lanes(
    jobs: Sequence[Job], runs: Mapping[str, tuple[str, int]], seeds: Sequence[int], together: Collection[str]
) -> tuple[list[Job], dict[str, list[str]]]:
    """Return the jobs, those of the arms in `together` gathered into one for at most 16 of the experiment's seeds, and
    the keys of the runs in each of these.

    A seed's job and lane follow from its place among all seeds, so that a sweep that is resumed repeats them.
    """
    n_groups = max(2, -(-len(seeds) // (2 * LANES)))
    place = {seed: divmod(number, n_groups) for number, seed in enumerate(seeds)}
    alone: list[Job] = []
    gathered: dict[str, dict[str, Any]] = {}
    members: dict[str, list[str]] = {}
    for job in jobs:
        arm, seed = runs[job.key]
        if arm not in together or job.fresh:
            alone.append(job)
            continue
        row, group = place[seed]
        key = f"{arm}/group-{group}"
        gathered.setdefault(key, lanes_payload(LANES))["lanes"][row % LANES].append(job.payload)
        members.setdefault(key, []).append(job.key)
    lanes = [run_job(key, TRAIN_LANES, payload, family=key.rpartition("/")[0]) for key, payload in gathered.items()]
    return [*lanes, *alone], members


def _of_lane(event: Event, key: str, seed: int) -> Event:
    """Return what an event says of one run of the job."""
    failures = event.result if event.kind == "done" and isinstance(event.result, dict) else {}
    if str(seed) in failures:
        return Event(key, "failed", failure=Failure(**failures[str(seed)]))
    return replace(event, key=key, result=None)
