"""`run_benchmark`: heads under identical conditions, from maps or features to the report."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwafer._checks import check_positive_int, nearest
from qwafer._errors import InputError
from qwafer._io import digest, write_json
from qwafer.comparison import tree
from qwafer.comparison.analysis import DEFAULT_COSTS, analyse, cost_matrix, spread
from qwafer.comparison.differences import example_differences, seed_differences
from qwafer.comparison.record import head_record
from qwafer.comparison.runs import HeadRun, check_same_examples, load_runs
from qwafer.execution import Executor, Job, LocalProcesses, OnProgress, Progress, run_all
from qwafer.experiment import Experiment
from qwafer.features import FeatureSet
from qwafer.reports.benchmark import report_blocks, write_report
from qwafer.reports.figures.benchmark import Drawn, draw_head, draw_shared
from qwafer.studies import run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.benchmark_sources import Resolved, resolve
from qwafer.sweeps.directory import predictor_path
from qwafer.sweeps.jobs import TIME, run_payload
from qwafer.training import prepare

TIME_TREE = f"{tree.__name__}:{tree.time_tree.__name__}"


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark left behind."""

    records: dict[str, dict[str, Any]]
    """`bench_{head}.json` by head."""
    differences: dict[str, list[dict[str, Any]]]
    """Paired comparisons over seeds, by metric."""
    report: Path
    """`report.html`; `report.md` lies beside it."""
    warnings: tuple[str, ...]


def select_heads(experiment: Experiment, heads: Sequence[str]) -> tuple[Experiment, bool]:
    """Return the experiment with the arms that `heads` names, in that order, and whether the tree is among them.

    The baseline stays if it is selected; else it is the first of `heads`. Raises InputError for an unknown head and
    for fewer than two trained ones.
    """
    known = [*experiment.arms, tree.NAME]
    for head in heads:
        if head not in known:
            raise InputError(f"there is no head `{head}`; known: {', '.join(known)}{nearest(head, known)}")
    names = [head for head in dict.fromkeys(heads) if head in experiment.arms]
    if len(names) < 2:
        raise InputError(f"`heads` must name at least two of {', '.join(experiment.arms)} to compare, got {len(names)}")
    baseline = experiment.baseline if experiment.baseline in names else names[0]
    arms = {head: experiment.arms[head] for head in names}
    return dataclasses.replace(experiment, arms=arms, baseline=baseline), tree.NAME in heads


def run_benchmark(
    experiment: Experiment,
    out: str | Path,
    *,
    with_tree: bool = False,
    executor: Executor | None = None,
    jobs: int = 2,
    weights: str | None = None,
    random_weights: int | None = None,
    costs: Sequence[float] = DEFAULT_COSTS,
    n_resamples: int = 2000,
    progress: OnProgress | None = None,
) -> Benchmark:
    """Train the arms of `experiment` as heads, time them, and write records, figures and the report into `out`.

    Resumes: features, runs and timings that are complete are not done again. With `with_tree` a decision tree is
    fitted on the same splits. `weights` and `random_weights` go to a backbone that takes them. Without an executor, the
    runs go to `jobs` worker processes of this machine; whatever the executor, heads are timed one at a time.

    Raises InputError for data or options that do not allow it.
    """
    check_positive_int("jobs", jobs)
    cost_matrix(costs)
    report = progress or (lambda _: None)
    executor = LocalProcesses(jobs) if executor is None else executor
    out = Path(out)
    resolved = resolve(
        experiment,
        out / "features",
        tree=with_tree,
        weights=weights,
        random_weights=random_weights,
        jobs=jobs,
        progress=lambda stage, done, total: report(Progress(stage, done, total)),
    )
    experiment = resolved.experiment
    outcome = run_experiment(experiment, out / "sweep", executor=executor, progress=report, store_all=True)
    directory = OutputDirectory(out / "sweep")
    runs = load_runs(directory, outcome.sweep)
    if with_tree:
        runs[tree.NAME] = _trees(resolved, out / "baselines" / tree.NAME)
    check_same_examples(runs)
    timings = _timings(resolved, directory, runs, out / "timing", executor, report)
    return _report(resolved, runs, timings, out, outcome.summary["warnings"], costs, jobs, n_resamples, report)


def _timings(
    resolved: Resolved,
    directory: OutputDirectory,
    runs: dict[str, dict[int, HeadRun]],
    folder: Path,
    executor: Executor,
    report: OnProgress,
) -> dict[str, dict[str, Any]]:
    """Return the timing record of every head's first run, measured where it is not there, one head at a time."""
    experiment = resolved.experiment
    found: dict[str, tuple[Path, Job]] = {}
    for head, by_seed in runs.items():
        seed, run = next(iter(by_seed.items()))
        path = folder / f"{head}-{seed}-{digest(run.logits['test'])}.json"
        if head == tree.NAME:
            function = TIME_TREE
            payload = run_payload(experiment.arms[experiment.baseline], resolved.tree_features, seed)
        else:
            predictor = predictor_path(directory.run_path(head, seed))
            if not predictor.is_file():
                raise InputError(f"{predictor} is missing: delete {directory.run_path(head, seed)} to redo the run")
            function = TIME
            payload = {"predictor": str(predictor.resolve()), "features": str(resolved.files[head]), "seed": seed}
        found[head] = path, Job(f"timing of {head}", function, payload, fresh=True)
    waiting = {head: job for head, (path, job) in found.items() if not path.is_file()}
    with executor:
        for done, (head, job) in enumerate(waiting.items()):
            report(Progress("timing", done, len(waiting), text=head))
            (record,) = run_all(executor, [job]).values()  # one call for each: nothing else runs meanwhile
            write_json(found[head][0], record)
    if waiting:
        report(Progress("timing", len(waiting), len(waiting)))
    return {head: json.loads(path.read_text(encoding="utf-8")) for head, (path, _) in found.items()}


def _trees(resolved: Resolved, folder: Path) -> dict[int, HeadRun]:
    config = resolved.experiment.arms[resolved.experiment.baseline]
    data = FeatureSet.load(resolved.tree_features)
    return {seed: tree.fit_and_store(config, data, seed, folder) for seed in resolved.experiment.seeds}


def _report(
    resolved: Resolved,
    runs: dict[str, dict[int, HeadRun]],
    timings: dict[str, dict[str, Any]],
    out: Path,
    warnings: Sequence[str],
    costs: Sequence[float],
    jobs: int,
    n_resamples: int,
    report: OnProgress,
) -> Benchmark:
    experiment = resolved.experiment
    n_steps = sum(map(len, runs.values()))
    analyses: dict[str, dict[int, dict[str, Any]]] = {}
    report(Progress("analysis", 0, n_steps))
    for head, by_seed in runs.items():
        analyses[head] = {}
        for seed, run in by_seed.items():
            analyses[head][seed] = analyse(run, costs=costs, n_resamples=n_resamples)
            report(Progress("analysis", sum(map(len, analyses.values())), n_steps))
    exclusive = next(iter(runs[experiment.baseline].values())).exclusive
    over_seeds = seed_differences(analyses, experiment.baseline, experiment.seeds, exclusive)
    over_examples = example_differences(runs, experiment.baseline, n_resamples=n_resamples)

    files = {head: resolved.files.get(head, resolved.tree_features) for head in runs}
    sources = {head: _source(files[head]) for head in runs}
    records = {head: head_record(runs[head], analyses[head], timings[head], sources[head]) for head in runs}
    for head, record in records.items():
        write_json(out / f"bench_{head}.json", record)
    write_json(out / "differences.json", {"seeds": over_seeds, "examples": over_examples})

    folder = out / "figures"
    shared = draw_shared(runs, {head: spread(analyses[head]) for head in runs}, folder)
    figures: dict[str, dict[str, Drawn]] = {}
    for head, by in runs.items():
        run = next(iter(by.values()))
        figures[head] = draw_head(run, _test_maps(resolved, files[head], run), folder)
        report(Progress("figures", len(figures), len(runs)))
    found = [*_source_warnings(sources), *warnings]
    blocks = report_blocks(
        experiment, records, over_seeds, over_examples, shared, figures, found, costs=costs, jobs=jobs
    )
    path = write_report(blocks, experiment.title or experiment.name, out)
    return Benchmark(records, over_seeds, path, tuple(found))


def _source(path: Path) -> dict[str, Any]:
    data = FeatureSet.load(path)
    return {
        "file": path.name,
        "digest": data.digest(),
        "n_examples": len(data),
        "n_features": data.features.shape[1],
        "provenance": data.provenance,
    }


def _source_warnings(sources: dict[str, dict[str, Any]]) -> list[str]:
    """Return what a reader must know about the features themselves."""
    found: dict[str, list[str]] = {}
    for head, source in sources.items():
        seed = source["provenance"].get("random_weights")
        if seed is not None:
            sentence = f"the backbone {source['provenance']['backbone']} has RANDOM weights (seed {seed})"
            found.setdefault(sentence, []).append(head)
    return [
        f"{', '.join(heads)}: {sentence}: the features are those of no trained network."
        for sentence, heads in found.items()
    ]


def _test_maps(resolved: Resolved, path: Path, run: HeadRun) -> list[Any] | None:
    """Return the maps of the run's test examples, found by content id; None where no maps were given."""
    if resolved.maps is None:
        return None
    experiment = resolved.experiment
    config = experiment.arms.get(run.head, experiment.arms[experiment.baseline])
    data = prepare(config, FeatureSet.load(path), run.seed).data
    place = {content: i for i, content in enumerate(resolved.maps.content_ids.tolist())}
    return [resolved.maps.maps[place[content]] for content in data.content_ids[run.rows["test"]].tolist()]
