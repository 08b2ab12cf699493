"""`python -m qwafer.errors`: what a predictor gets wrong, how sure it was, and which labels are likely wrong."""

import argparse
from collections.abc import Sequence

from qwafer._process import run_verb
from qwafer.cli.arguments import program


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("errors"),
        description="Look at the errors of a predictor: how many and how confident, what is taken for what, by defect "
        "density, between neighbouring patterns, the maps predicted worst; and at labels that are likely wrong, by "
        "confident learning (extra `labels`). Maps of the training split are left out.",
        epilog="Exit status: 0 done, 2 bad input.",
    )
    parser.add_argument(
        "predictor", metavar="PREDICTOR", help="a run (OUT/runs/ARM/seed-S.json), or a model file (qwafer.Model)"
    )
    parser.add_argument("--maps", metavar="FILE", help="all maps of the run (those that it names)")
    parser.add_argument(
        "--part", choices=("val", "test"), default="val", help="val, or test: a read that is noted in the ledger (val)"
    )
    parser.add_argument(
        "--confident", type=float, metavar="P", help="confidence above which an error is confident (0.8)"
    )
    parser.add_argument("--bins", type=int, metavar="N", help="bins of defect density, by quantiles (5)")
    parser.add_argument(
        "--neighbours",
        metavar="A:B,C:D",
        help="pairs of labels to look at (Center:Donut,Edge-Loc:Edge-Ring,Loc:Random,Near-full:Random)",
    )
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="maps in a figure of maps (10)")
    parser.add_argument("--out", default="errors", metavar="DIR", help="output directory (errors)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._process import configure_jax
    from qwafer.evaluation.errors import ErrorOptions
    from qwafer.reports.errors import error_lines
    from qwafer.studies.errors import study_errors

    given = {name: getattr(arguments, name) for name in ("confident", "bins") if getattr(arguments, name) is not None}
    if arguments.neighbours is not None:
        given["neighbours"] = _pairs(arguments.neighbours)
    options = ErrorOptions(**given)
    configure_jax()
    report, path = study_errors(
        arguments.predictor,
        arguments.maps,
        out=arguments.out,
        part=arguments.part,
        options=options,
        worst=arguments.worst,
    )
    print(*error_lines(report), *report.test_reads, f"report: {path}", sep="\n")
    return 0


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the pairs of "A:B,C:D"; raise InputError for another form."""
    from qwafer._errors import InputError

    pairs = tuple(tuple(name.strip() for name in pair.split(":")) for pair in text.split(","))
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise InputError(f"`--neighbours` must be pairs of labels such as Center:Donut,Loc:Random, got {text!r}")
    return pairs
