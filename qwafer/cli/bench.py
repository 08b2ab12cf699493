"""`python -m qwafer.bench`: classical and quantum heads under identical conditions, ending in one report."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwafer._process import run_verb
from qwafer.cli.arguments import (
    add_experiment,
    add_judging,
    add_quiet,
    add_running,
    add_seeds,
    add_tracking,
    configure_for,
    executor_of,
    experiment_of,
    program,
    tracking_of,
)
from qwafer.cli.progress import progress_bar

if TYPE_CHECKING:
    from qwafer.experiment import Experiment
    from qwafer.studies import Benchmark

DEFAULT_EXPERIMENT = "bench"


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("bench"),
        description="Train heads on the same frozen features, splits, seeds and batches, time them, and write one "
        "report: parameters, quality with intervals, thresholds, calibration, latency, memory, figures. What is "
        "complete is never done again: a killed command resumes when it is given again.",
        epilog="Exit status: 0 done, 2 bad input. Written to DIR: report.html (self-contained), report.md, "
        "bench_HEAD.json, differences.json, figures/, features/, and sweep/ with every run.",
    )
    add_experiment(parser, DEFAULT_EXPERIMENT, "an experiment whose arms are heads")
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
        help="arms of the experiment, in this order (all); `tree`, or package.module:Head, joins them",
    )
    add_seeds(parser)
    add_judging(parser)
    parser.add_argument(
        "--costs",
        default="0,1,5,0",
        metavar="TN,FP,FN,TP",
        help="cost of each decision, for the thresholds of least cost (0,1,5,0)",
    )
    parser.add_argument("--out", default="bench_reports", metavar="DIR", help="output directory (bench_reports)")
    add_running(parser)
    add_tracking(parser)
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    costs = _costs(arguments.costs)
    experiment = _experiment(arguments)
    configure_for(experiment)
    from qwafer.studies import run_benchmark

    executor, track = executor_of(arguments), tracking_of(arguments, arguments.out)
    with progress_bar(quiet=arguments.quiet) as progress:
        benchmark = run_benchmark(
            experiment,
            arguments.out,
            executor=executor,
            jobs=arguments.jobs or 2,
            weights=arguments.weights,
            random_weights=arguments.random_weights,
            costs=costs,
            descriptive=arguments.descriptive,
            progress=progress,
            track=track,
        )
    _print_summary(experiment, benchmark)
    return 0


def _experiment(arguments: argparse.Namespace) -> "Experiment":
    """Return the experiment that the command line describes."""
    from qwafer._errors import InputError

    if arguments.features is not None:
        for option in ("backbone", "weights", "random_weights"):
            if getattr(arguments, option) is not None:
                raise InputError(f"--{option.replace('_', '-')} belongs to --maps: the features are there already")
    heads = None
    if arguments.heads is not None:
        heads = [head.strip() for head in arguments.heads.split(",") if head.strip()]
    more = [] if arguments.backbone is None else [f"data.backbone={arguments.backbone}"]
    return experiment_of(arguments, more, heads)


def _costs(text: str) -> list[float]:
    from qwafer._errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--costs must be four numbers TN,FP,FN,TP such as 0,1,5,0, got {text!r}") from error


def _print_summary(experiment: "Experiment", benchmark: "Benchmark") -> None:
    """Print one line per head, the paired differences, the warnings, and where the report is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwafer.reports.format import format_milliseconds, format_number, format_spread

    console = Console(markup=False, highlight=False)
    table = Table(title=Text(experiment.title or experiment.name, style="table.title"))
    table.add_column("head", no_wrap=True)
    for column in ("parameters", "effective", "macro F1", "macro ROC-AUC", "one example"):
        table.add_column(column, justify="right", no_wrap=True)
    for head, record in benchmark.records.items():
        averages = (record.test[metric] for metric in (record.main_metric, "roc_auc"))
        table.add_row(
            head,
            format_number(record.parameters.trainable),
            format_number(record.parameters.effective),
            *(format_spread(average.mean, average.sd) for average in averages),
            format_milliseconds(record.inference.one.p50),
        )
    console.print(table)
    for comparisons in benchmark.differences.seeds.values():
        for comparison in comparisons:
            console.print(comparison.sentence)
    for sentence in benchmark.warnings:
        console.print(f"warning: {sentence}")
    console.print(f"\nreport: {benchmark.report}")
