"""`python -m qwafer.diagnose`: the trust table of an experiment, or of the compiler stack itself."""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwafer._process import DEFAULT_EXPERIMENT, run_verb
from qwafer.cli.arguments import add_experiment, add_quiet, experiment_of, program
from qwafer.cli.progress import progress_bar

if TYPE_CHECKING:
    from qwafer.engines.catalyst.stack import StackFact
    from qwafer.execution import OnProgress
    from qwafer.experiment import Experiment
    from qwafer.features import FeatureSet
    from qwafer.probes import TrustTable

MOST_LINES = 40
"""Lines of a drawing that is printed; a longer one is in the report alone."""
COLORS = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("diagnose"),
        description="Ask of an experiment's circuits, heads, data and pairing what must be true before a result is "
        "trusted: gradients, dead parameters, collapsed scores, stalls, plateaus, leaks, options without effect. "
        "Prints a table: pass, warn, fail, and the one line that matters.",
        epilog="Exit status: 0 nothing failed, 1 something failed, 2 bad input. With --out: report.md, report.json and "
        "figures/ in DIR.",
    )
    add_experiment(parser, DEFAULT_EXPERIMENT)
    parser.add_argument("--engine", metavar="E", help="catalyst, xla, reference or auto, in place of the experiment's")
    parser.add_argument(
        "--circuit",
        metavar="FILE.py:NAME",
        help="probe this PennyLane function (weights, x) or QNode alone, without data, on --engine (xla); its "
        "weights and inputs are told by --set circuit.n_inputs=3 --set circuit.weights=theta=2x3x3; or a circuit that "
        "comes with qwafer, by its name, such as vanilla",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed (the experiment's first)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write report.md, report.json and figures there; with --stack: stack.md and stack.json",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="more samples, full trainings, and the nulls of the baseline as an experiment of 6 seeds (in DIR/nulls): "
        "minutes to hours",
    )
    parser.add_argument(
        "--stack",
        action="store_true",
        help="probe instead what the installed compiler stack can and cannot do (subprocesses, minutes)",
    )
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    if arguments.stack:
        return run_verb(lambda: _stack(arguments))
    return run_verb(lambda: _experiment(arguments) if arguments.circuit is None else _circuit(arguments))


def _experiment(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError

    experiment = experiment_of(arguments, [] if arguments.engine is None else [f"engine={arguments.engine}"])
    seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
    if seed < 0:
        raise InputError(f"`--seed` must be at least 0, got {seed}")

    from qwafer._process import configure_jax

    configure_jax()
    from qwafer.heads import QuantumOptions
    from qwafer.probes import trust_table
    from qwafer.sweeps.sources import load_features

    with progress_bar(quiet=arguments.quiet) as progress:
        data = load_features({arm: config.data for arm, config in experiment.arms.items()}, progress=progress)
        table = trust_table(
            experiment.arms,
            data,
            baseline=experiment.baseline,
            seed=seed,
            thorough=arguments.thorough,
            progress=progress,
        )
        if arguments.thorough and isinstance(experiment.arms[experiment.baseline].head, QuantumOptions):
            table = _with_nulls(table, experiment, data[experiment.baseline], seed, arguments.out, progress)
    return _told(table, experiment.title or experiment.name, arguments.out)


def _circuit(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError

    if arguments.experiment != DEFAULT_EXPERIMENT or arguments.features or arguments.maps:
        raise InputError("`--circuit` probes a circuit without data: leave out experiment, features and maps")
    from qwafer.circuits.options import CIRCUITS
    from qwafer.overrides import build, known_options, named, parse_overrides

    text = arguments.circuit
    chosen = (
        [f"circuit.name={text}"] if text in CIRCUITS.names else ["circuit.name=function", f"circuit.function={text}"]
    )
    entries = parse_overrides([*chosen, f"engine={arguments.engine or 'xla'}", *arguments.overrides])
    for name, _ in entries:
        if name.partition(".")[0] not in ("circuit", "engine"):
            raise InputError(f"`--circuit` probes a circuit without data: `{name}` has no effect")
    config, left_out = build(named(entries, known_options(entries)))
    for name, reason in left_out.items():
        raise InputError(f"`{name}` has no effect: {reason}")
    seed = 0 if arguments.seed is None else arguments.seed
    if seed < 0:
        raise InputError(f"`--seed` must be at least 0, got {seed}")

    from qwafer._process import configure_jax

    configure_jax()
    from qwafer.circuits import draw
    from qwafer.probes import TrustTable, circuit_subject, probe_circuit
    from qwafer.probes.trust import Section

    circuit = config.circuit.circuit(1)
    with progress_bar(quiet=arguments.quiet) as progress:
        subject = circuit_subject(circuit, config.engine)
        reports = probe_circuit(subject, thorough=arguments.thorough, seed=seed, progress=progress)
    table = TrustTable((Section("gradients and circuit", tuple(reports)),))
    drawing = draw(circuit)
    if len(drawing.splitlines()) <= MOST_LINES:
        print(drawing)
    return _told(table, arguments.circuit, arguments.out, drawing)


def _told(table: "TrustTable", title: str, out: str | None, drawing: str = "") -> int:
    """Print the table and write its documents; return the exit status."""
    _print(table, title)
    if out is not None:
        from qwafer.reports.trust import write_documents

        print(f"report: {write_documents(table, out, drawing)}")
    return 1 if table.verdict == "fail" else 0


def _with_nulls(
    table: "TrustTable",
    experiment: "Experiment",
    data: "FeatureSet",
    seed: int,
    out: str | None,
    progress: "OnProgress | None",
) -> "TrustTable":
    """Return the table with the nulls of the baseline, run on the examples that are not of the seed's test split."""
    from qwafer.probes.data.held import without_test
    from qwafer.probes.trust import Section
    from qwafer.studies.nulls import nulls_report, run_nulls

    config, held = without_test(experiment.arms[experiment.baseline], data, seed)
    with tempfile.TemporaryDirectory(prefix="qwafer-nulls-") as temporary:
        folder = Path(temporary if out is None else out) / "nulls"
        outcome = run_nulls(config, held, folder, progress=progress)
    section = Section("nulls", (nulls_report(outcome.summary),))
    return dataclasses.replace(table, sections=(*table.sections, section))


def _stack(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError

    for name in ("experiment", "features", "maps", "engine", "circuit", "seed", "thorough", "overrides"):
        if getattr(arguments, name) not in (None, False, [], DEFAULT_EXPERIMENT):
            flag = "EXPERIMENT.toml" if name == "experiment" else "--set" if name == "overrides" else f"--{name}"
            raise InputError(f"`--stack` probes the installed compiler, not an experiment: leave out {flag}")
    from qwafer._io import write_json, write_text
    from qwafer.engines.catalyst.stack import broken, run_stack_probes

    with progress_bar(quiet=arguments.quiet) as progress:
        facts = run_stack_probes(progress)
    _print_facts(facts)
    if arguments.out is not None:
        from qwafer.reports.document import Heading, to_markdown
        from qwafer.reports.stack import fact_blocks

        path = Path(arguments.out) / "stack.md"
        write_json(path.with_suffix(".json"), [dataclasses.asdict(fact) for fact in facts])
        write_text(path, to_markdown([Heading("What the compiler stack can do", 1), *fact_blocks(facts)]))
        print(f"report: {path}")
    return 1 if broken(facts) else 0


def _print(table: "TrustTable", title: str) -> None:
    """Print the trust table, as wide as the terminal and at most 100 columns, and one line of totals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = min(console.width, 100)
    grid = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, width=width, show_edge=False)
    grid.add_column("", no_wrap=True)
    grid.add_column("probe", no_wrap=True)
    grid.add_column("the line that matters", overflow="fold")
    for section in table.sections:
        if not section.reports:
            continue
        grid.add_row("", Text(section.title, style="bold"), "")
        for report in section.reports:
            color = COLORS[report.verdict]
            line = Text(report.headline, style="dim" if report.verdict in ("pass", "skip") else "")
            grid.add_row(Text(report.verdict, style=color), Text(report.name), line)
    console.print(grid)
    for report in table.reports:
        if report.verdict in ("warn", "fail"):
            console.print(
                Text.assemble((f"{report.verdict}: {report.name}. ", COLORS[report.verdict]), report.remedy),
                width=width,
            )
    counts = ", ".join(f"{n} {verdict}" for verdict, n in table.counts().items() if n)
    console.print(counts, highlight=False)


def _print_facts(facts: "Sequence[StackFact]") -> None:
    """Print what the stack answered, and what does not hold any longer; yellow: another answer than expected."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwafer.engines.catalyst.stack import broken, versions

    console = Console()
    width = min(console.width, 140)
    grid = Table(title=Text(versions(), style="bold"), box=box.SIMPLE_HEAD, width=width, show_edge=False)
    grid.add_column("answer", no_wrap=True)
    grid.add_column("what was asked", overflow="fold", ratio=4)
    grid.add_column("message or number", overflow="fold", ratio=4)
    grid.add_column("what qwafer does", overflow="fold", ratio=3)
    for fact in facts:
        color = "" if fact.holds else "bold red" if fact.relied_on else "yellow"
        cells = (fact.fact + (" *" if fact.relied_on else ""), fact.detail, fact.does)
        grid.add_row(Text(fact.verdict, style=color), *map(Text, cells))
    console.print(grid)
    console.print("* qwafer relies on it", style="dim", highlight=False)
    for fact in facts:
        if not fact.holds:
            color, change = ("bold red", "qwafer relies on") if fact in broken(facts) else ("yellow", "changed")
            line = Text.assemble((f"{change}: {fact.name}. ", color), f"{fact.verdict}, expected {fact.expected}")
            console.print(line, width=width)
