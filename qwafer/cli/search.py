"""`python -m qwafer.search`: the options of every arm, searched with one budget, and the winners compared."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwafer._process import DEFAULT_EXPERIMENT, run_verb
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
    from qwafer.studies import Search


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("search"),
        description="Search options of every arm of an experiment, with as many trials and epochs for each, on "
        "validation alone, then compare the winners on seeds that no trial has used. What is complete is never done "
        "again: a killed command resumes, with the same proposals, when it is given again.",
        epilog="Exit status: 0 done, 1 no two runs could be compared, 2 bad input. Written to DIR: search.json, "
        "trials/, winners.toml (an experiment for ablate and bench), and comparison/ with its report.",
    )
    add_experiment(parser, DEFAULT_EXPERIMENT)
    parser.add_argument(
        "--space",
        metavar="SPACE.toml",
        required=True,
        help="what is drawn, by option or by arm; a name stands for one that comes with qwafer",
    )
    parser.add_argument(
        "--budget", type=int, metavar="N", required=True, help="trials of each arm, pruned ones included"
    )
    parser.add_argument("--epochs", type=int, metavar="E", help="epochs of a trial, at most (training.epochs)")
    parser.add_argument("--sampler", default="tpe", metavar="NAME", help="tpe, random, or hypercube (tpe)")
    parser.add_argument(
        "--pruner", default="median", metavar="NAME", help="what ends trials early: median, halving, or none (median)"
    )
    parser.add_argument(
        "--batch", type=int, default=4, metavar="B", help="trials of an arm that are proposed, and run, together (4)"
    )
    parser.add_argument("--trial-seeds", metavar="N|a:b|list", help="seeds of every trial (1000,1001)")
    parser.add_argument("--out", metavar="DIR", help="output directory (runs/NAME-search of the experiment)")
    parser.add_argument("--no-compare", action="store_true", help="search alone; compare later by ablate or bench")
    add_seeds(parser)
    add_judging(parser)
    add_running(parser)
    add_tracking(parser)
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer.comparison import check_design
    from qwafer.experiment import load_experiment, parse_seeds
    from qwafer.studies import load_space, run_experiment, run_search

    experiment = experiment_of(arguments)
    if not (arguments.descriptive or arguments.no_compare):
        check_design(experiment)
    space = load_space(arguments.space, experiment)
    out = Path(arguments.out if arguments.out is not None else f"runs/{experiment.name}-search")
    executor, track = executor_of(arguments), tracking_of(arguments, out)
    configure_for(experiment)
    with progress_bar(quiet=arguments.quiet) as progress, executor:
        outcome = run_search(
            experiment,
            space,
            out,
            budget=arguments.budget,
            epochs=arguments.epochs,
            seeds=None if arguments.trial_seeds is None else parse_seeds(arguments.trial_seeds),
            sampler=arguments.sampler,
            pruner=arguments.pruner,
            batch=arguments.batch,
            executor=executor,
            progress=progress,
            track=track,
        )
        compared = None
        if not arguments.no_compare:
            compared = run_experiment(
                load_experiment(outcome.winners),
                out / (f"comparison-{arguments.budget}" if outcome.search.raised else "comparison"),
                executor=executor,
                descriptive=arguments.descriptive,
                progress=progress,
                beside=out,
                track=track,
            )
    _print_search(outcome.search)
    print(f"\nwinners: {outcome.winners}")
    if compared is None:
        return 0
    from qwafer.cli.ablate import print_summary

    print_summary(compared.summary)
    print(f"\nreport: {compared.report}")
    return int(all(c.verdict == "no data" for c in compared.summary.comparisons))


def _print_search(search: "Search") -> None:
    """Print a line per arm: trials, the best value on validation, and what won."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwafer.comparison.metrics import higher_is_better
    from qwafer.reports.format import format_number

    facts = search.searched()
    table = Table(
        title=Text(f"{search.name}: {search.budget} trials per arm, seeds {', '.join(map(str, search.seeds))}")
    )
    table.add_column("arm", no_wrap=True)
    for column in ("pruned", "failed", "epochs", f"best {search.metric}"):
        table.add_column(column, justify="right")
    best = max if higher_is_better(search.metric) else min
    for arm in facts.trials:
        value = best(trial.value for trial in search.trials if trial.arm == arm and trial.value is not None)
        counts = (facts.pruned[arm], facts.failed[arm], facts.epochs[arm])
        table.add_row(arm, *map(str, counts), format_number(value))
    console = Console(markup=False, highlight=False)
    console.print(table)
    for arm, options in search.winners().items():
        console.print(f"{arm}: {_in_words(options)}")


def _in_words(options: Mapping[str, Any]) -> str:
    def word(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} = {word(value)}" for name, value in options.items())
