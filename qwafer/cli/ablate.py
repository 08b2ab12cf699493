"""`python -m qwafer.ablate`: the arms of an experiment over seeds, in pairs, ending in a report."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwafer._process import DEFAULT_EXPERIMENT, run_verb
from qwafer.cli.arguments import (
    add_batch_seeds,
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
    from qwafer.comparison import Summary
    from qwafer.experiment import Experiment


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("ablate"),
        description="Compare the arms of an experiment over seeds. Runs of one seed share the split, the batches and "
        "the initial values, so that they are compared in pairs. Complete runs are never done again: a killed command "
        "resumes when it is given again, and more arms or seeds extend it.",
        epilog="Exit status: 0 done, 1 no two runs could be compared, 2 bad input. Written to DIR: report.md, "
        "summary.json, timings.json, figures/, and runs/ARM/seed-S.json.",
    )
    add_experiment(parser, DEFAULT_EXPERIMENT)
    add_seeds(parser)
    add_judging(parser)
    parser.add_argument("--out", metavar="DIR", help="output directory (runs/NAME of the experiment)")
    add_running(parser)
    add_batch_seeds(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="read the data, show what would be done, and write nothing"
    )
    add_tracking(parser)
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    experiment = experiment_of(arguments)
    out = arguments.out if arguments.out is not None else f"runs/{experiment.name}"
    executor = executor_of(arguments)
    if arguments.dry_run:
        return _dry_run(experiment, out, descriptive=arguments.descriptive)
    configure_for(experiment)
    from qwafer.studies import run_experiment

    track = tracking_of(arguments, out)
    with progress_bar(quiet=arguments.quiet) as progress:
        outcome = run_experiment(
            experiment,
            out,
            executor=executor,
            descriptive=arguments.descriptive,
            progress=progress,
            batch_seeds=not arguments.no_batch_seeds,
            track=track,
        )
    print_summary(outcome.summary)
    print(f"\nreport: {outcome.report}")
    return int(all(c.verdict == "no data" for c in outcome.summary.comparisons))


def _dry_run(experiment: "Experiment", out: str, *, descriptive: bool) -> int:
    """Print the plan: arms, what they change, and which runs are missing."""
    from qwafer._process import configure_jax

    configure_jax()  # programs are looked up in this process
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwafer.comparison import (
        FEWEST_SEEDS,
        check_comparable,
        check_design,
        check_metric,
        detectable_effect,
        planned_design,
    )
    from qwafer.sweeps import OutputDirectory, seeds_text
    from qwafer.sweeps.sources import read_sources
    from qwafer.training.make import check_program

    check_metric(experiment.metric)
    check_comparable(experiment)
    if not descriptive:
        check_design(experiment)
    directory = OutputDirectory(out)
    directory.check_owner(experiment)
    for _ in read_sources({arm: config.data for arm, config in experiment.arms.items()}):
        pass  # refuses what the run would refuse: a source that is none, a task that its labels do not have
    for arm, config in experiment.arms.items():
        check_program(arm, config)
    todo = directory.read(experiment).pending
    table = Table(title=Text(experiment.title or experiment.name, style="table.title"))
    for column in ("arm", "against the baseline", "complete", "to do"):
        table.add_column(column)
    for arm in experiment.arms:
        changes = ", ".join(f"{k} = {'none' if v is None else v}" for k, v in experiment.changes(arm).items())
        missing = [seed for name, seed in todo if name == arm]
        complete = [seed for seed in experiment.seeds if seed not in missing]
        table.add_row(arm, Text(changes or "(baseline)"), seeds_text(complete) or "-", seeds_text(missing) or "-")
    console = Console(markup=False, highlight=False)
    console.print(table)
    data = next(iter(experiment.arms.values())).data
    console.print(f"metric {experiment.metric}, data {data.source}, task {data.task}, experiment {experiment.digest()}")
    if len(experiment.seeds) >= FEWEST_SEEDS:
        baseline, n = experiment.baseline, len(experiment.arms) - 1
        design = planned_design(experiment.arms[baseline].data, experiment.facts.get(baseline))
        effect = detectable_effect(len(experiment.seeds), design=design, n_comparisons=n)
        console.print(
            f"{design.about}, a difference of {effect:.2g} standard deviations over seeds is shown with a probability "
            f"of 80% ({n} comparison{'s' if n > 1 else ''}, {len(experiment.seeds)} seeds; python -m qwafer.plan)"
        )
    console.print(
        f"{len(todo)} of {len(experiment.arms) * len(experiment.seeds)} runs to do in {out}; nothing was written"
    )
    return 0


def print_summary(summary: "Summary") -> None:
    """Print the table of the comparisons, the verdicts and the warnings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwafer.reports.format import format_difference, format_interval, format_number, format_spread

    experiment, arms = summary.experiment, summary.arms
    console = Console(markup=False, highlight=False)
    table = Table(title=Text(experiment.title or experiment.name, style="table.title"), show_lines=True)
    table.add_column("arm", no_wrap=max(map(len, arms)) <= 20, overflow="fold")
    for column in (experiment.metric, "difference", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    comparisons = {c.arm: c for c in summary.comparisons}
    for name, arm in arms.items():
        cells = ["baseline", "", ""]
        if name in comparisons:
            c = comparisons[name]
            interval = "" if c.interval is None else f"\n{format_interval(*c.interval)}"
            cells = [format_difference(c.mean) + interval, format_number(c.p_holm, 3), c.verdict]
        table.add_row(name, format_spread(arm.mean, arm.sd), *cells)
    console.print(table)
    for c in summary.comparisons:
        console.print(c.sentence)
    for sentence in summary.warnings:
        console.print(f"warning: {sentence}")
