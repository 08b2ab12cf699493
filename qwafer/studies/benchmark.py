"""`run_benchmark`: heads under identical conditions, from maps or features to the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwafer._checks import check_path, check_positive_int
from qwafer._io import digest, read_or_set_aside
from qwafer._records import from_json, load_record, save_record
from qwafer.comparison import check_comparable, check_design, check_metric, unconverged_seeds
from qwafer.comparison.analysis import DEFAULT_COSTS, RunAnalysis, analyse, cost_matrix
from qwafer.comparison.differences import Differences, example_differences, seed_differences
from qwafer.comparison.record import FeatureSource, HeadRecord, head_record
from qwafer.comparison.runs import check_complete, check_same_data, check_same_examples, common_seed_first
from qwafer.execution import Executor, Job, LocalProcesses, OnProgress, Progress, run_all
from qwafer.experiment import Experiment
from qwafer.features import FeatureSet
from qwafer.reports.benchmark import report_blocks, write_report
from qwafer.reports.circuits import circuit_blocks
from qwafer.reports.figures import Drawn
from qwafer.reports.figures.benchmark import draw_head, draw_shared
from qwafer.studies.ablation import Outcome, run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.directory import predictor_path
from qwafer.sweeps.inference import InferenceTiming
from qwafer.sweeps.jobs import TIME, run_job, run_payload
from qwafer.sweeps.resolved import Resolved, resolve
from qwafer.tracking import Tracking
from qwafer.training import RunResult, Runs, prepare


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark left behind."""

    records: dict[str, HeadRecord]
    """`bench_{head}.json` by head."""
    differences: Differences
    """`differences.json`."""
    report: Path
    """`report.html`; `report.md` lies beside it."""
    warnings: tuple[str, ...]
    """What a reader must know before believing the comparison, in sentences."""


def run_benchmark(
    experiment: Experiment,
    out: str | Path,
    *,
    executor: Executor | None = None,
    jobs: int = 2,
    weights: str | None = None,
    random_weights: int | None = None,
    costs: Sequence[float] = DEFAULT_COSTS,
    n_resamples: int = 2000,
    descriptive: bool = False,
    progress: OnProgress | None = None,
    track: Tracking | None = None,
) -> Benchmark:
    """Train the arms of `experiment` as heads, time them, and write records, figures and the report into `out`.

    Resumes: features, runs and timings that are complete are not done again. `weights` and `random_weights` go to a
    backbone that takes them. Without an executor, the runs go to `jobs` worker processes of this machine; whatever the
    executor, heads are timed one at a time. `track` is told the runs and the reports.

    Raises InputError for data or options that do not allow it.
    """
    check_positive_int("jobs", jobs)
    check_metric(experiment.metric)
    check_comparable(experiment)
    check_same_data(experiment)
    if not descriptive:
        check_design(experiment)
    cost_matrix(costs)
    report = progress or (lambda _: None)
    executor = LocalProcesses(jobs) if executor is None else executor
    out = check_path(out)
    resolved = resolve(
        experiment,
        out / "features",
        weights=weights,
        random_weights=random_weights,
        jobs=jobs,
        progress=report,
    )
    outcome = run_experiment(
        resolved.experiment,
        out / "sweep",
        executor=executor,
        descriptive=True,
        progress=report,
        store_all=True,
        beside=out,
        track=track,
    )
    directory = OutputDirectory(out / "sweep")
    check_complete(outcome.results)
    runs = common_seed_first(outcome.results.results)
    check_same_examples(runs)
    timings = _timings(resolved, directory, runs, out / "timing", executor, report)
    done = _report(resolved, runs, timings, out, outcome, costs, jobs, n_resamples, report)
    if track is not None:
        files = [out / "report.md", done.report, *sorted(out.glob("*.json")), *sorted((out / "figures").glob("*.png"))]
        track.summary(outcome.summary, "benchmark", files)
    return done


def _timings(
    resolved: Resolved, directory: OutputDirectory, runs: Runs, folder: Path, executor: Executor, report: OnProgress
) -> dict[str, InferenceTiming]:
    """Return the timing of every head's first run, measured where it is not there, one head at a time."""
    found: dict[str, tuple[Path, Job]] = {}
    timings: dict[str, InferenceTiming] = {}
    for head, by_seed in runs.items():
        seed, run = next(iter(by_seed.items()))
        config, predictor = resolved.experiment.arms[head], predictor_path(directory.run_path(head, seed))
        payload = {**run_payload(config, resolved.files[head], seed), "predictor": str(predictor.resolve())}
        path = folder / f"{head}-{seed}-{digest(run.logits['test'])}.json"
        found[head] = path, run_job(f"timing of {head}", TIME, payload, fresh=True)
        timing = read_or_set_aside(partial(load_record, InferenceTiming), path)
        if timing is not None:
            timings[head] = timing
    waiting = {head: job for head, (_, job) in found.items() if head not in timings}
    with executor:
        for done, (head, job) in enumerate(waiting.items()):
            report(Progress("timing", done, len(waiting), text=head))
            (measured,) = run_all(executor, [job]).values()  # one call for each: nothing else runs meanwhile
            timings[head] = from_json(InferenceTiming, measured)
            save_record(found[head][0], timings[head])
    if waiting:
        report(Progress("timing", len(waiting), len(waiting)))
    return {head: timings[head] for head in found}


def _report(
    resolved: Resolved,
    runs: Runs,
    timings: dict[str, InferenceTiming],
    out: Path,
    outcome: Outcome,
    costs: Sequence[float],
    jobs: int,
    n_resamples: int,
    report: OnProgress,
) -> Benchmark:
    experiment = resolved.experiment
    n_steps = sum(map(len, runs.values()))
    analyses: dict[str, dict[int, RunAnalysis]] = {}
    report(Progress("analysis", 0, n_steps))
    for head, by_seed in runs.items():
        analyses[head] = {}
        for seed, run in by_seed.items():
            analyses[head][seed] = analyse(run, costs=costs, n_resamples=n_resamples)
            report(Progress("analysis", sum(map(len, analyses.values())), n_steps))
    exclusive = next(iter(runs[experiment.baseline].values())).exclusive
    differences = Differences(
        seeds=seed_differences(
            analyses,
            experiment.baseline,
            experiment.seeds,
            exclusive=exclusive,
            design=outcome.summary.design,
            margin=experiment.margin,
            unconverged=unconverged_seeds(runs),
        ),
        examples=example_differences(runs, experiment.baseline, n_resamples=n_resamples),
    )
    sources = {head: _source(resolved.files[head]) for head in runs}
    records = {
        head: head_record(head, runs[head], analyses[head], timings[head], sources[head], n_resamples=n_resamples)
        for head in runs
    }
    for head, record in records.items():
        save_record(out / f"bench_{head}.json", record)
    save_record(out / "differences.json", differences)

    folder = out / "figures"
    shared = draw_shared(runs, records, experiment.baseline, folder)
    figures: dict[str, dict[str, Drawn]] = {}
    for head, by in runs.items():
        run = next(iter(by.values()))
        figures[head] = draw_head(head, run, records[head].first, _test_maps(resolved, head, run), folder)
        report(Progress("figures", len(figures), len(runs)))
    found = [*_source_warnings(sources), *outcome.summary.warnings]
    blocks = report_blocks(
        experiment,
        outcome.summary,
        records,
        differences,
        shared,
        figures,
        found,
        costs=costs,
        jobs=jobs,
        test_reads=outcome.test_reads,
        circuits=circuit_blocks(runs),
    )
    path = write_report(blocks, experiment.title or experiment.name, out)
    return Benchmark(records, differences, path, tuple(found))


def _source(path: Path) -> FeatureSource:
    data = FeatureSet.load(path)
    return FeatureSource(path.name, data.digest(), len(data), data.features.shape[1], dict(data.provenance))


def _source_warnings(sources: dict[str, FeatureSource]) -> list[str]:
    """Return what a reader must know about the features themselves."""
    found: dict[str, list[str]] = {}
    for head, source in sources.items():
        seed = source.provenance.get("random_weights")
        if seed is not None:
            sentence = f"the backbone {source.provenance['backbone']} has RANDOM weights (seed {seed})"
            found.setdefault(sentence, []).append(head)
    return [
        f"{', '.join(heads)}: {sentence}: the features are those of no trained network."
        for sentence, heads in found.items()
    ]


def _test_maps(resolved: Resolved, head: str, run: RunResult) -> list[Any] | None:
    """Return the maps of the run's test examples, found by content id; None where no maps were given."""
    if resolved.maps is None:
        return None
    data = prepare(resolved.experiment.arms[head], FeatureSet.load(resolved.files[head]), run.seed).data
    place = {content: i for i, content in enumerate(resolved.maps.content_ids.tolist())}
    return [resolved.maps.maps[place[content]] for content in data.content_ids[run.rows["test"]].tolist()]
