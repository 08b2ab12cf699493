"""Run every experiment of this folder, resumably, and write the table of expected against seen into README.md.

`make experiments` runs it. Real wafer maps are used where `../shared/data` holds them, synthetic ones otherwise; the
table says which. What is complete is not done again; the time that is left is estimated before anything starts, from
the seconds a run took when `costs.json` was written and the speed of this machine now.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwafer._errors import InputError
from qwafer._io import key_seed, write_json, write_text
from qwafer._process import run_verb
from qwafer._records import load_record
from qwafer.comparison import Summary, SweepTimings
from qwafer.config import DataConfig
from qwafer.experiment import Experiment, load_experiment
from qwafer.features import NO_DEFECT_NAMES, FeatureSet
from qwafer.reports.format import MISSING, format_difference, format_number
from qwafer.studies import run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.sources import provide_features

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
README, COSTS = HERE / "README.md", HERE / "costs.json"
BEGIN, END = "<!-- begin: written by `make experiments`, not by hand -->", "<!-- end -->"
PRIOR = 0.855
"""Share of positives of the binary experiments: that of the reference's data."""
NAMES = (
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
"""The experiments in the order of the table. The others of this folder belong to other verbs; README.md says which."""
N_SYNTHETIC = 4000

Finished = tuple[Summary, SweepTimings]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments to run (all): {', '.join(NAMES)}")
    parser.add_argument(
        "--out", default=str(HERE.parent / "runs" / "experiments"), metavar="DIR", help="output directory"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="worker processes (2)")
    parser.add_argument("--synthetic", action="store_true", help="synthetic maps, whatever lies in ../shared/data")
    parser.add_argument("--dry-run", action="store_true", help="print the estimate, and run nothing")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        if name not in NAMES:
            raise InputError(f"there is no experiment {name}: known are {', '.join(NAMES)}")
    names = [name for name in NAMES if not arguments.names or name in arguments.names]
    out = Path(arguments.out)
    sources = feature_files(out / "features", synthetic=arguments.synthetic)
    experiments = {name: with_data(name, sources) for name in names}
    costs = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else {}
    speed = probe()
    print(estimate_text(experiments, out, costs, speed, arguments.jobs), flush=True)
    if arguments.dry_run:
        return 0
    measured: dict[str, dict[str, float]] = {}
    for name, experiment in experiments.items():
        start = time.perf_counter()
        outcome = run_experiment(experiment, out / name, jobs=arguments.jobs)
        spent = time.perf_counter() - start
        if outcome.n_done == len(experiment.arms) * len(experiment.seeds):  # all of it, in one go
            measured[name] = {"seconds": round(arguments.jobs * spent / outcome.n_done, 2), "probe": round(speed, 4)}
        print(
            f"{name}: {outcome.n_done} runs in {spent:.0f} s, {outcome.n_failed} failed; {outcome.report}", flush=True
        )
    if measured and not arguments.synthetic:
        write_json(COSTS, dict(sorted({**costs, **measured}.items())))
    found = {name: load_summary(out / name) for name in NAMES}
    finished = {name: experiment for name, experiment in found.items() if experiment is not None}
    missing = [name for name in NAMES if name not in finished]
    if missing:
        print(f"{README} stays as it is until all have run; missing: {', '.join(missing)}")
        return 0
    write_table(README, table_text(finished))
    print(f"table: {README}")
    return 0


def feature_files(folder: Path, *, synthetic: bool) -> dict[str, Path]:
    """Return the feature files of the experiments, made where they are not there: `multilabel` and `binary`.

    The binary one is WM-811K (defect or none), or synthetic maps, with defects left out at random until their share is
    0.855.
    """
    real = not synthetic and (DATA / "mixedwm38.npz").is_file() and (DATA / "wm811k.npz").is_file()
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
    record = {**features.provenance, "subsample": {"defects": keep_pos, "none": keep_neg, "seed": seed}}
    return dataclasses.replace(chosen, provenance=record)


def with_data(name: str, sources: dict[str, Path]) -> Experiment:
    """Return the experiment `name` on the file that fits its task."""
    path = HERE / f"{name}.toml"
    task = next(iter(load_experiment(path).arms.values())).data.task
    return load_experiment(path, [f"data.source={sources['multilabel' if task == 'multilabel' else 'binary']}"])


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
        pending = len(OutputDirectory(out / name).read(experiment).pending)
        seconds = here.get(name, typical)
        guess = ""
        if seconds is not None:
            total += pending * seconds / jobs
            guess = f", about {pending * seconds / jobs:.0f} s"
        lines.append(f"  {name}: {pending} of {len(experiment.arms) * len(experiment.seeds)} runs to do{guess}")
    head = "no estimate: costs.json is missing" if typical is None else f"about {total / 60:.1f} minutes"
    return "\n".join([f"experiments: {head} with {jobs} workers", *lines])


def load_summary(folder: Path) -> Finished | None:
    """Return what a finished experiment left behind; None where it was not run."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    return load_record(Summary, path), load_record(SweepTimings, folder / "timings.json")


def table_text(finished: dict[str, Finished]) -> str:
    """Return the generated part of README.md: a table, and what each experiment rests on."""
    rows = ["| experiment | in the reference | expected here | seen here |", "|---|---|---|---|"]
    foundations = []
    for name, (summary, timings) in finished.items():
        experiment = summary.experiment
        cells = (experiment.title, experiment.reference, experiment.expected)
        title, reference, expected = (" ".join(text.split()).replace("|", "\\|") for text in cells)
        rows.append(f"| [`{name}`]({name}.toml) {title} | {reference} | {expected} | {seen_text(summary)} |")
        foundations.append(f"- `{name}`: {_foundation(summary, timings)}")
    return "\n".join([*rows, "", "What each rests on:", "", *foundations])


def seen_text(summary: Summary) -> str:
    """Return the verdicts of an experiment in short, and what stands out in its runs."""
    experiment, arms = summary.experiment, summary.arms
    base = arms[experiment.baseline]
    level = MISSING if base.mean is None else f"{base.mean:.4f} ± {format_number(base.sd, 2)}"
    lines = [f"`{experiment.metric}` of {experiment.baseline}: {level}."]
    for c in summary.comparisons:
        interval = "" if c.interval is None else f" [{', '.join(map(format_difference, c.interval))}]"
        p = format_number(c.p_holm, 2)
        lines.append(f"**{c.arm}** {format_difference(c.mean)}{interval}, p = {p}: {c.verdict}.")
    if any("training.schedule" in arm.changes for arm in arms.values()):
        counts = {name: [epoch == 1 for epoch in arm.best_epochs.values()] for name, arm in arms.items()}
        first = ", ".join(f"{name} {sum(hits)} of {len(hits)}" for name, hits in counts.items())
        lines.append(f"Runs whose best epoch is the first: {first}.")
    failed = sum(len(arm.failed) for arm in arms.values())
    if failed:
        lines.append(f"{failed} runs failed.")
    return "<br>".join(lines)


def _foundation(summary: Summary, timings: SweepTimings) -> str:
    record = next(iter(summary.data.values()))
    data = f"{record.file or record.maps}, {record.n_examples:,} examples, {record.n_features} features"
    total = sum(arm.sum.total for arm in timings.arms.values())
    n_runs = sum(len(arm.complete) for arm in summary.arms.values())
    hosts = ", ".join(dict.fromkeys(made.host.cpu for made in summary.environments))
    revisions = ", ".join(dict.fromkeys((made.git_revision or "none")[:12] for made in summary.environments))
    return (
        f"{data}; {len(summary.experiment.seeds)} seeds, {n_runs} runs, {total:.0f} s of run time in all; {hosts}; "
        f"revision {revisions}; experiment {summary.experiment.digest}."
    )


def write_table(path: Path, text: str) -> None:
    """Put `text` between the markers of the file at `path`; raise InputError where there are none."""
    content = path.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise InputError(f"{path} must hold the markers {BEGIN} and {END} once each, in this order")
    head, rest = content.split(BEGIN)
    write_text(path, f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    sys.exit(main())
