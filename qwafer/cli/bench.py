"""`python -m qwafer.bench`: classical and quantum heads under identical conditions, ending in one report."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qwafer._process import run_verb

if TYPE_CHECKING:
    from qwafer.experiment import Experiment
    from qwafer.studies import Benchmark

DEFAULT_EXPERIMENT = "bench"


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="python -m qwafer.bench",
        description="Train heads on the same frozen features, splits, seeds and batches, time them, and write one "
        "report: parameters, quality with intervals, thresholds, calibration, latency, memory, figures. What is "
        "complete is never done again: a killed command resumes when it is given again.",
        epilog="Exit status: 0 done, 2 bad input. Written to DIR: report.html (self-contained), report.md, "
        "bench_HEAD.json, differences.json, figures/, features/, and sweep/ with every run.",
    )
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT.toml",
        help="an experiment whose arms are heads, or the name of one that comes with qwafer (bench)",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--features", metavar="F.npz", help="features that `python -m qwafer.extract` wrote")
    data.add_argument(
        "--maps",
        metavar="M",
        help="wafer maps: MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic`; or a table: Edge-IIoTset "
        "(.csv); their features are made once, into DIR",
    )
    parser.add_argument(
        "--backbone",
        metavar="B",
        help="with --maps: the backbone of every head (spatial); a network such as wafercnn is trained on the training "
        "split first, unless --weights are given",
    )
    parser.add_argument("--weights", metavar="PATH", help="with --maps: checkpoint of the backbone")
    parser.add_argument(
        "--random-weights", type=int, metavar="SEED", help="with --maps: drawn weights, shown in the report"
    )
    parser.add_argument(
        "--heads",
        metavar="A,B,...",
        help="arms of the experiment, in this order (all); `tree` adds a decision tree of depth 10",
    )
    parser.add_argument("--seeds", metavar="N|a:b|list", help="seeds: 5 (0 to 4), 3:8 (3 to 7), or 1,5,9")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="an option of every head that has it, such as training.epochs=5 or engine=xla; may be repeated",
    )
    parser.add_argument(
        "--costs",
        default="0,1,5,0",
        metavar="TN,FP,FN,TP",
        help="cost of each decision, for the thresholds of least cost (0,1,5,0)",
    )
    parser.add_argument("--out", default="bench_reports", metavar="DIR", help="output directory (bench_reports)")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="runs at a time (2); timing is done alone")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._checks import check_positive_int

    check_positive_int("--jobs", arguments.jobs)
    costs = _costs(arguments.costs)
    experiment = _experiment(arguments)
    from qwafer._process import configure_jax
    from qwafer.studies import run_benchmark, select_heads

    configure_jax()

    with_tree = False
    if arguments.heads is not None:
        heads = [head.strip() for head in arguments.heads.split(",") if head.strip()]
        experiment, with_tree = select_heads(experiment, heads)
    with _progress_bar(quiet=arguments.quiet) as progress:
        benchmark = run_benchmark(
            experiment,
            arguments.out,
            with_tree=with_tree,
            jobs=arguments.jobs,
            weights=arguments.weights,
            random_weights=arguments.random_weights,
            costs=costs,
            progress=progress,
        )
    _print_summary(experiment, benchmark)
    return 0


def _experiment(arguments: argparse.Namespace) -> "Experiment":
    """Return the experiment that the command line describes."""
    from qwafer._errors import InputError
    from qwafer.experiment import load_experiment, parse_seeds, with_seeds
    from qwafer.source import source_override

    overrides = [*arguments.overrides, *source_override(arguments.maps, arguments.features)]
    for option in ("backbone", "weights", "random_weights"):
        if arguments.features is not None and getattr(arguments, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} belongs to --maps: the features are there already")
    if arguments.backbone is not None:
        overrides.append(f"data.backbone={arguments.backbone}")
    experiment = load_experiment(arguments.experiment or DEFAULT_EXPERIMENT, overrides)
    return experiment if arguments.seeds is None else with_seeds(experiment, parse_seeds(arguments.seeds))


def _costs(text: str) -> list[float]:
    from qwafer._errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--costs must be four numbers TN,FP,FN,TP such as 0,1,5,0, got {text!r}") from error


def _print_summary(experiment: "Experiment", benchmark: "Benchmark") -> None:
    """Print one line a head, the paired differences, the warnings, and where the report is."""
    from rich.console import Console
    from rich.table import Table

    from qwafer.reports import number, spread

    console = Console()
    table = Table(title=experiment.title or experiment.name)
    table.add_column("head", no_wrap=True)
    for column in ("parameters", "macro F1", "macro ROC-AUC", "one example"):
        table.add_column(column, justify="right", no_wrap=True)
    for head, record in benchmark.records.items():
        test = record["spread"]["test"]
        name = "f1" if record["exclusive"] else "f1_tuned"
        table.add_row(
            head,
            number(record["parameters"]["trainable"]),
            *(spread(test[metric]["mean"], test[metric]["sd"]) for metric in (name, "roc_auc")),
            f"{record['inference']['one']['p50']:.3g} ms",
        )
    console.print(table)
    for comparisons in benchmark.differences.values():
        for comparison in comparisons:
            console.print(comparison["sentence"], markup=False, highlight=False)
    for sentence in benchmark.warnings:
        console.print(f"warning: {sentence}", markup=False, highlight=False)
    console.print(f"\nreport: {benchmark.report}", markup=False, highlight=False)


@contextlib.contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[str, float, int], None] | None]:
    """Show each stage on stderr: units done, time spent, time left."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    bars = Progress(*columns, *times, console=Console(file=sys.stderr), speed_estimate_period=3600)
    stages: dict[str, Any] = {}

    def show(stage: str, done: float, total: int) -> None:
        if not stages:
            bars.start()  # not before there is something to show: bad input is one line
        if stage not in stages:
            stages[stage] = bars.add_task(stage, total=total, count="")
        bars.update(stages[stage], completed=done, total=total, count=f"{int(done):,} of {total:,}")

    try:
        yield show
    finally:
        if stages:
            bars.stop()
