"""`python -m qwafer.ablate`: the arms of an experiment over seeds, in pairs, ending in a report."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qwafer._process import run_verb

if TYPE_CHECKING:
    from qwafer.experiment import Experiment
    from qwafer.studies import Progress


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="python -m qwafer.ablate",
        description="Compare the arms of an experiment over seeds. Runs of one seed share the split, the batches and "
        "the initial values, so that they are compared in pairs. Complete runs are never done again: a killed command "
        "resumes when it is given again, and more seeds extend it.",
        epilog="Exit status: 0 done, 1 no two runs could be compared, 2 bad input. Written to DIR: report.md, "
        "summary.json, timings.json, figures/, and runs/ARM/seed-S.json.",
    )
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT.toml",
        help="an experiment file, or the name of one that comes with qwafer (mean_z_vs_readout)",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--maps",
        metavar="FILE",
        help="wafer maps: MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic`; or a table: Edge-IIoTset "
        "(.csv); their features are made once, into DIR",
    )
    data.add_argument("--features", metavar="F.npz", help="features that `python -m qwafer.extract` wrote")
    parser.add_argument("--seeds", metavar="N|a:b|list", help="seeds: 8 (0 to 7), 3:11 (3 to 10), or 1,5,9")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="an option of every arm, such as training.epochs=20 or engine=xla; may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", help="output directory (runs/NAME of the experiment)")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="J", help="worker processes (2); no influence on the numbers"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and write nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._checks import check_positive_int

    check_positive_int("--jobs", arguments.jobs)
    experiment = _experiment(arguments)
    out = arguments.out if arguments.out is not None else f"runs/{experiment.name}"
    if arguments.dry_run:
        return _dry_run(experiment, out)
    from qwafer._process import configure_jax
    from qwafer.studies import run_experiment

    configure_jax()  # backbones run in this process
    with _progress_bar(quiet=arguments.quiet) as progress:
        outcome = run_experiment(experiment, out, jobs=arguments.jobs, progress=progress)
    _print_summary(outcome.summary)
    print(f"\nreport: {outcome.report}")
    return int(all(c["verdict"] == "no data" for c in outcome.summary["comparisons"]))


def _experiment(arguments: argparse.Namespace) -> "Experiment":
    """Return the experiment that the command line describes."""
    from qwafer.experiment import DEFAULT_EXPERIMENT, load_experiment, parse_seeds, with_seeds
    from qwafer.source import source_override

    overrides = [*arguments.overrides, *source_override(arguments.maps, arguments.features)]
    experiment = load_experiment(arguments.experiment or DEFAULT_EXPERIMENT, overrides)
    return experiment if arguments.seeds is None else with_seeds(experiment, parse_seeds(arguments.seeds))


def _dry_run(experiment: "Experiment", out: str) -> int:
    """Print the plan: arms, what they change, and which runs are missing."""
    from rich.console import Console
    from rich.table import Table

    from qwafer.comparison import check_metric
    from qwafer.sweeps import OutputDirectory, seeds_text

    check_metric(experiment.metric)
    directory = OutputDirectory(out)
    directory.check_owner(experiment)
    pending = directory.pending(experiment)
    table = Table(title=experiment.title or experiment.name)
    for column in ("arm", "against the baseline", "complete", "to do"):
        table.add_column(column)
    for arm in experiment.arms:
        changes = ", ".join(f"{name} = {value}" for name, value in experiment.changes(arm).items())
        missing = [seed for name, seed in pending if name == arm]
        complete = [seed for seed in experiment.seeds if seed not in missing]
        table.add_row(arm, changes or "(baseline)", seeds_text(complete) or "-", seeds_text(missing) or "-")
    console = Console()
    console.print(table)
    data = next(iter(experiment.arms.values())).data
    console.print(f"metric {experiment.metric}, data {data.source}, task {data.task}, experiment {experiment.digest()}")
    console.print(
        f"{len(pending)} of {len(experiment.arms) * len(experiment.seeds)} runs to do in {out}; nothing was written"
    )
    return 0


def _print_summary(summary: Mapping[str, Any]) -> None:
    """Print the table of the comparisons, the verdicts and the warnings."""
    from rich.console import Console
    from rich.table import Table

    from qwafer.reports import number, spread

    experiment, arms = summary["experiment"], summary["arms"]
    console = Console()
    table = Table(title=experiment["title"] or experiment["name"], show_lines=True)
    table.add_column("arm", no_wrap=max(map(len, arms)) <= 20, overflow="fold")
    for column in (experiment["metric"], "difference", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    comparisons = {c["arm"]: c for c in summary["comparisons"]}
    for name, arm in arms.items():
        cells = [spread(arm["mean"], arm["sd"]), "baseline", "", ""]
        if name in comparisons:
            c = comparisons[name]
            interval = "" if c["interval"] is None else f"\n{c['interval'][0]:+.4f} to {c['interval'][1]:+.4f}"
            mean = "–" if c["mean"] is None else f"{c['mean']:+.4f}"
            cells[1:] = [mean + interval, number(c["sign_flip_p_holm"], 3), c["verdict"]]
        table.add_row(name, *cells)
    console.print(table)
    for c in summary["comparisons"]:
        console.print(c["sentence"], markup=False, highlight=False)
    for sentence in summary["warnings"]:
        console.print(f"warning: {sentence}", markup=False, highlight=False)


@contextlib.contextmanager
def _progress_bar(*, quiet: bool) -> Iterator["Callable[[Progress], None] | None"]:
    """Show on stderr the maps extracted, the runs done, and the time left."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    # The speed of runs is that of the whole sweep, not of the last half minute.
    bars = Bars(*columns, *times, console=Console(file=sys.stderr), speed_estimate_period=3600)
    tasks: dict[str, Any] = {}

    def show(state: "Progress") -> None:
        if not tasks:
            bars.start()  # not before there is something to show: bad input is one line
        if state.stage not in tasks:
            tasks[state.stage] = bars.add_task(state.stage, total=state.total, count="")
        failed = f", {state.failed} failed" if state.failed else ""
        count = f"{int(state.done):,} of {state.total:,}{failed}"
        bars.update(tasks[state.stage], completed=state.done, total=state.total, count=count)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()
