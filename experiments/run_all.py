"""Run every experiment of this folder, resumably, and publish what came out: `results/NAME.json`, and from these the
tables of README.md and docs/bench.md.

`make experiments` runs it. Real wafer maps are used where `../shared/data` holds them; on synthetic ones, everything is
written into the output directory instead, and nothing here changes. The options of an arm are those that `search.py`
found, where `searched/NAME.json` holds any. What is complete is not done again; the time that is left is estimated
before anything starts, from the seconds a run took when `costs.json` was written and the speed of this machine now.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from published import RESULTS, SEARCHED, Result, load_result, load_search, result_of

from qwafer._errors import InputError
from qwafer._io import key_seed, write_json, write_text
from qwafer._process import run_verb
from qwafer._records import load_record, save_record
from qwafer.cli.arguments import add_running, executor_of
from qwafer.comparison import Summary, SweepTimings
from qwafer.config import DataConfig
from qwafer.execution import Executor
from qwafer.experiment import Experiment, load_experiment
from qwafer.features import NO_DEFECT_NAMES, FeatureSet
from qwafer.overrides import with_options
from qwafer.reports.format import MISSING, format_difference, format_number, format_spread
from qwafer.source import source_facts
from qwafer.studies import Search, run_benchmark, run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.apart import set_apart
from qwafer.sweeps.sources import provide_features

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
README, COSTS = HERE / "README.md", HERE / "costs.json"
BENCH_PAGE = HERE.parent / "docs" / "bench.md"
BEGIN, END = "<!-- begin {}: written by a script of `experiments/`, not by hand -->", "<!-- end {} -->"
PRIOR = 0.855
"""Share of positives of the binary experiments: that of the reference's data."""
NAMES = (
    "mean_z_vs_readout",
    "readout_fixed_batches",
    "balanced_and_focal",
    "schedules",
    "alpha",
    "imbalance",
    "qubits_and_layers",
    "encodings",
    "entanglement",
    "best_head",
)
"""The experiments in the order of the table."""
TABLED = ("bench", "wm811k")
"""Those that have a table in docs/bench.md."""
SMALL = ("small_quantum", "small_linear", "small_mlp", "small_mixture")
"""Families of heads of few bits, which docs/small.md puts on one page; see `small.py`."""
BENCHES = (*TABLED, *SMALL)
"""Experiments whose arms are heads: they run by `qwafer.studies.run_benchmark`, on what `--source` gives."""
N_SYNTHETIC = 4000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    known = ", ".join((*NAMES, *BENCHES))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments to run, of {known} (the first ten)")
    parser.add_argument(
        "--out", default=str(HERE.parent / "runs" / "experiments"), metavar="DIR", help="output directory"
    )
    parser.add_argument("--source", metavar="FILE", help="maps or features, for bench, wm811k and small_*")
    add_running(parser)
    parser.add_argument("--synthetic", action="store_true", help="synthetic maps, whatever lies in ../shared/data")
    parser.add_argument("--dry-run", action="store_true", help="print the estimate, and run nothing")
    parser.add_argument("--tables", action="store_true", help="write the tables from results/, and run nothing")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.tables:
        write_tables()
        return 0
    check_names(arguments.names, arguments.source)
    out, names = Path(arguments.out), arguments.names or NAMES
    real = not arguments.synthetic and has_data()
    sources = feature_files(out / "features", real=real) if set(names) & set(NAMES) else {}
    found = {name: with_data(name, sources, arguments.source, searched=real) for name in names}
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}
    speed = probe()
    planned = {name: experiment for name, (experiment, _) in found.items()}
    executor, jobs = executor_of(arguments), arguments.jobs or 2
    print(
        estimate_text(planned, out, costs, speed, jobs), flush=True
    )  # of a cluster without --jobs: for two of its CPUs
    if arguments.dry_run:
        return 0
    results = RESULTS if real else out / "results"
    for name, (experiment, search) in found.items():
        directory, start = OutputDirectory(sweep_folder(name, out)), time.perf_counter()
        n_done = len(directory.read(experiment).pending)
        report = _do(name, experiment, out / name, executor)
        n_failed, spent = len(directory.read(experiment).pending), time.perf_counter() - start
        whole = n_done == len(experiment.arms) * len(experiment.seeds)
        if whole and real and arguments.executor == "local":  # all of it, in one go, on this machine
            costs[name] = {"seconds": round(jobs * spent / n_done, 2), "probe": round(speed, 4)}
            write_json(COSTS, dict(sorted(costs.items())))
        print(f"{name}: {n_done} runs in {spent:.0f} s, {n_failed} failed; {report}", flush=True)
        summary = load_record(Summary, directory.path / "summary.json")
        timings = load_record(SweepTimings, directory.path / "timings.json")
        if search is not None and name in BENCHES:  # the features of maps are known only now
            check_searched(search, {arm: record.digest for arm, record in summary.data.items()})
        save_record(results / f"{name}.json", result_of(summary, timings, search))
    if real:
        write_tables()  # at the end: a page that differs from its revision would mark the runs of the next experiment
    else:
        write_text(out / "README.md", table_text(results) + "\n")
        print(f"on synthetic maps: {out / 'README.md'} and {results}, nothing in {HERE}")
    return 0


def check_names(names: Sequence[str], source: str | None) -> None:
    """Raise InputError for a name that is no experiment's, and for a bench without a source."""
    for name in names:
        if name not in (*NAMES, *BENCHES):
            raise InputError(f"there is no experiment {name}: known are {', '.join((*NAMES, *BENCHES))}")
        if name in BENCHES and source is None:
            raise InputError(f"{name} needs --source FILE: the maps or features that it runs on")


def _do(name: str, experiment: Experiment, out: Path, executor: Executor) -> Path:
    """Run the experiment; return its report."""
    if name in BENCHES:
        return run_benchmark(experiment, out, executor=executor).report
    return run_experiment(experiment, out, executor=executor).report


def sweep_folder(name: str, out: Path) -> Path:
    """Return where the runs of an experiment lie."""
    return out / name / "sweep" if name in BENCHES else out / name


def has_data() -> bool:
    """Return whether the real wafer maps are here."""
    return (DATA / "mixedwm38.npz").is_file() and (DATA / "wm811k.npz").is_file()


def feature_files(folder: Path, *, real: bool) -> dict[str, Path]:
    """Return the feature files of the experiments, made where they are not there: `multilabel` and `binary`.

    The binary one is WM-811K (defect or none), or synthetic maps, with defects left out at random until their share is
    0.855.
    """
    files = {}
    for kind, source in (("multilabel", "mixedwm38"), ("binary", "wm811k")):
        data = DataConfig(source=str(DATA / f"{source}.npz")) if real else DataConfig(n_maps=N_SYNTHETIC)
        files[kind] = provide_features({kind: data}, folder)[kind].path
        if kind == "binary":
            whole, name = files[kind], source if real else f"synthetic-{N_SYNTHETIC}"
            files[kind] = folder / f"{name}-spatial-prior-{PRIOR}.npz"
            if not files[kind].is_file():
                with_prior(FeatureSet.load(whole), PRIOR).save(files[kind])
    return files


def with_prior(features: FeatureSet, prior: float, seed: int = 0) -> FeatureSet:
    """Return `features` without as many examples of the larger class as it takes for a share `prior` of defects.

    Which ones is drawn from the stream `prior` of `seed`; the rows stay in order. The provenance says what was done.
    """
    defects = [k for k, label in enumerate(features.label_names) if label.casefold() not in NO_DEFECT_NAMES]
    positive = features.labels[:, defects].any(axis=1)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    keep_pos = min(n_pos, round(n_neg * prior / (1 - prior)))
    keep_neg = min(n_neg, round(keep_pos * (1 - prior) / prior))
    rng = np.random.default_rng(key_seed(seed, "prior"))
    rows = [
        rng.choice(np.flatnonzero(mask), count, replace=False)
        for mask, count in ((positive, keep_pos), (~positive, keep_neg))
    ]
    chosen = features.take(np.sort(np.concatenate(rows)))
    record = {**chosen.provenance, "subsample": {"defects": keep_pos, "none": keep_neg, "seed": seed}}
    return dataclasses.replace(chosen, provenance=record)


LONGER = {"mean_z_vs_readout": ("engine=xla", "training.max_doublings=7")}
"""What is given otherwise here than in the file: the engine and the cap of the demo are for a demo."""


def experiment_on(name: str, sources: Mapping[str, Path], source: str | None = None) -> Experiment:
    """Return the experiment `name` on the one of `sources` that fits its task, or for a bench on `source`."""
    path = HERE / f"{name}.toml"
    if name not in BENCHES:
        task = next(iter(load_experiment(path).arms.values())).data.task
        source = str(sources["binary" if task == "any" else "multilabel"])
    return load_experiment(path, [f"data.source={source}", *LONGER.get(name, ())])


def with_data(
    name: str, sources: Mapping[str, Path], source: str | None = None, *, searched: bool = True
) -> tuple[Experiment, Search | None]:
    """Return the experiment `name` on its part of the file that fits its task, with what a search found in each arm,
    and the search; None where none was made.

    Raises InputError where the search that is committed belongs to another experiment or saw other data.
    """
    rest = {kind: set_apart(file)[1] for kind, file in sources.items()}
    experiment = experiment_on(name, rest, source)
    search = load_search(HERE / f"{name}.toml", SEARCHED) if searched else None
    if search is None:
        return experiment, None
    whole = experiment_on(name, sources, source).arms
    known = {arm: config for arm, config in whole.items() if source_facts(config.data).kind == "features"}
    check_searched(search, {arm: FeatureSet.load(config.data.source).digest() for arm, config in known.items()})
    winners = search.winners()
    arms = {arm: with_options(config, winners[arm]) for arm, config in experiment.arms.items()}
    return dataclasses.replace(experiment, arms=arms, searched=search.searched()), search


def check_searched(search: Search, digests: Mapping[str, str | None]) -> None:
    """Raise InputError where features of these `digests`, by arm, are not those that a part of was searched on."""
    for arm, digest in digests.items():
        if digest != search.data[arm]:
            raise InputError(
                f"the search of {search.name} saw other data than arm {arm} has here ({search.data[arm]} there, "
                f"{digest} here): search again"
            )


def probe(repetitions: int = 40) -> float:
    """Return the seconds of a fixed piece of work on this machine now: the unit in which costs are remembered."""
    matrix = np.random.default_rng(0).standard_normal((300, 300))
    start = time.perf_counter()
    for _ in range(repetitions):
        np.sort(np.tanh(matrix @ matrix), axis=0)
    return time.perf_counter() - start


def estimate_text(
    experiments: dict[str, Experiment], out: Path, costs: dict[str, dict[str, float]], speed: float, jobs: int
) -> str:
    """Return how many runs are to do in each experiment and about how long that takes, in words.

    `costs` holds the `seconds` of a run of each experiment and what `probe` gave then; an experiment that it lacks is
    taken for the mean of the others.
    """
    here = {name: cost["seconds"] * speed / cost["probe"] for name, cost in costs.items()}
    typical = float(np.mean(list(here.values()))) if here else None
    lines, total = [], 0.0
    for name, experiment in experiments.items():
        pending = len(OutputDirectory(sweep_folder(name, out)).read(experiment).pending)
        seconds = here.get(name, typical)
        guess = ""
        if seconds is not None:
            total += pending * seconds / jobs
            guess = f", about {pending * seconds / jobs:.0f} s"
        lines.append(f"  {name}: {pending} of {len(experiment.arms) * len(experiment.seeds)} runs to do{guess}")
    head = "no estimate: costs.json is missing" if typical is None else f"about {total / 60:.1f} minutes"
    return "\n".join([f"experiments: {head} with {jobs} workers", *lines])


def write_tables() -> None:
    """Write the tables of README.md and docs/bench.md from the committed results."""
    write_table(README, "experiments", table_text(RESULTS))
    for name in TABLED:
        write_table(BENCH_PAGE, name, bench_text(name, load_result(name, RESULTS)))


def table_text(results: Path) -> str:
    """Return the generated part of README.md from the files of `results`: a table, and what each row rests on."""
    rows = ["| experiment | in the reference | expected here | seen here |", "|---|---|---|---|"]
    foundations = []
    for name in NAMES:
        experiment, result = load_experiment(HERE / f"{name}.toml"), load_result(name, results)
        cells = (experiment.title, experiment.reference, experiment.expected if result is None else result.expected)
        title, reference, expected = (" ".join(text.split()).replace("|", "\\|") for text in cells)
        seen = "not run yet" if result is None else seen_text(result)
        rows.append(f"| [`{name}`]({name}.toml) {title} | {reference} | {expected} | {seen} |")
        if result is not None:
            foundations.append(f"- `{name}`: {foundation_text(result)}")
    return "\n".join([*rows, "", "What each rests on:", "", *foundations]) if foundations else "\n".join(rows)


def seen_text(result: Result) -> str:
    """Return the verdicts of an experiment in short, and what stands out in its runs."""
    arms = result.arms
    base = arms[result.baseline]
    lines = [f"`{result.metric}` of {result.baseline}: {format_spread(base.mean, base.sd)}."]
    for c in result.differences:
        interval = "" if c.interval is None else f" [{', '.join(map(format_difference, c.interval))}]"
        lines.append(f"**{c.arm}** {format_difference(c.mean)}{interval}, p = {format_number(c.p, 2)}: {c.verdict}.")
    if result.name == "schedules":
        first = ", ".join(f"{name} {arm.n_best_first} of {arm.n_runs}" for name, arm in arms.items())
        lines.append(f"Runs whose best epoch is the first: {first}.")
    late = {arm: count for c in result.differences for arm, count in c.not_converged.items()}
    if late:
        lines.append(f"Runs that had not converged: {', '.join(f'{arm} {count}' for arm, count in late.items())}.")
    failed = sum(arm.n_failed for arm in arms.values())
    if failed:
        lines.append(f"{failed} runs failed.")
    return "<br>".join(lines)


def foundation_text(result: Result) -> str:
    """Return what a result rests on: data, runs, search, machine, revision."""
    data = next(iter(result.data.values()))
    searched = f"each arm searched: {result.budget} trials on validation" if result.budget else "not searched"
    n_runs = sum(arm.n_runs for arm in result.arms.values())
    return (
        f"{data.file}, {data.n_examples:,} examples, {data.n_features} features; {len(result.seeds)} seeds, "
        f"{n_runs} runs, {result.seconds:.0f} s of run time in all; {searched}; "
        f"margin {result.margin:g}; verdicts: {result.about[0].lower()}{result.about[1:]}; "
        f"{', '.join(result.hosts)}; revision {', '.join(result.revisions)}; experiment {result.experiment}."
    )


def bench_text(name: str, result: Result | None) -> str:
    """Return the table of one benchmark of heads for docs/bench.md."""
    if result is None:
        return f"`{name}` has not been run yet under the present rules."
    metrics = [m for m in ("test.accuracy", "test.roc_auc") if m in result.arms[result.baseline].metrics]
    titles = [f"`{result.metric}`", f"minus `{result.baseline}`", "p", "verdict", *(f"`{m}`" for m in metrics)]
    rows = [f"| head | parameters | {' | '.join(titles)} |", f"|---|--:|{'--:|' * len(titles)}"]
    differences = {c.arm: c for c in result.differences}
    for head, arm in result.arms.items():
        c = differences.get(head)
        interval = "" if c is None or c.interval is None else f" [{', '.join(map(format_difference, c.interval))}]"
        cells = ["", "", ""] if c is None else [format_difference(c.mean) + interval, format_number(c.p, 2), c.verdict]
        others = [format_spread(*arm.metrics.get(m, (None, None))) for m in metrics]
        parameters = MISSING if arm.parameters is None else f"{arm.parameters:,}"
        rows.append(f"| `{head}` | {' | '.join([parameters, format_spread(arm.mean, arm.sd), *cells, *others])} |")
    return "\n".join([*rows, "", f"`{name}`: {foundation_text(result)}"])


def write_table(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers `name` of the file at `path`; raise InputError where there are none."""
    content, begin, end = path.read_text(encoding="utf-8"), BEGIN.format(name), END.format(name)
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise InputError(f"{path} must hold the markers {begin} and {end} once each, in this order")
    head, rest = content.split(begin)
    write_text(path, f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    sys.exit(main())
