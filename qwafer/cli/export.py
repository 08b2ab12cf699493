"""`python -m qwafer.export`: a model as one file for another runtime, maps in and answers out."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwafer._process import run_verb
from qwafer.cli.arguments import program

if TYPE_CHECKING:
    from qwafer.serving.review import ReviewOptions


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("export"),
        description="Write a model with its preprocessing, calibration, thresholds and review as one file: wafer maps "
        "in, probabilities, labels and the review flag out. The file is run against the model on the maps before it is "
        "put in place; FILE.json beside it has digests and the evaluation.",
        epilog="Exit status: 0 done, 2 bad input, or a file that does not give the answers of the model.",
    )
    parser.add_argument("model", metavar="MODEL", help="a model file (qwafer.Model), or a version of a registry")
    parser.add_argument("--format", required=True, choices=("stablehlo", "onnx"), help="StableHLO (jax.export) or ONNX")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file")
    add_data(parser)
    parser.add_argument("--int8", metavar="FILE", help="int8.onnx of qwafer.quantise: its network in place of float32")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the maps of a model's run, and the shares of review."""
    parser.add_argument("--maps", metavar="FILE", help="all maps of the run that trained the head (those it names)")
    parser.add_argument("--doubtful", type=float, metavar="P", help="share of validation maps to review (0.1)")
    parser.add_argument("--far", type=float, metavar="P", help="share of validation maps that count as far (0.01)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from qwafer._errors import InputError
    from qwafer._process import configure_jax
    from qwafer.serving.evidence import assess, maps_of
    from qwafer.serving.export import export_model, int8_model
    from qwafer.serving.function import check_exportable
    from qwafer.serving.release import RECORD, Release
    from qwafer.sweeps.ledger import note_model_read

    configure_jax()
    source, out = Path(arguments.model).resolve(), Path(arguments.out).resolve()
    if source in (out, *out.parents):
        raise InputError(f"`--out` = {arguments.out} is the model, or lies in its version, and would replace it")
    if any((folder / RECORD).is_file() for folder in out.parents):
        raise InputError(f"`--out` = {arguments.out} lies in a version of a registry, and versions are never changed")
    options = review_options(arguments)
    reads: tuple[str, ...] = ()
    if Path(arguments.model).is_dir():
        if options is not None or arguments.int8:
            raise InputError("a version of a registry has its review: leave out --doubtful, --far and --int8")
        release = Release.load(arguments.model)
        model, review, evidence = release.model, release.review, release.evidence
        maps = maps_of(model, arguments.maps)
    else:
        from qwafer.model import Model

        model, forward = Model.load(arguments.model), None
        check_exportable(model, arguments.format)  # before the test split is read
        maps = maps_of(model, arguments.maps)
        assessed = model
        if arguments.int8:
            assessed, forward = int8_model(model, arguments.int8)
        review, evidence = assess(assessed, maps, options, forward=forward)
        reads = note_model_read(out, out.name, arguments.int8 or arguments.model, maps)
    found = export_model(model, review, evidence, maps, arguments.out, arguments.format, int8=arguments.int8)
    seen = found.verification
    print(
        f"{arguments.out}: {found.nbytes:,} bytes, {', '.join(found.platforms)}; the answers of the model on "
        f"{seen.n_maps} maps, probabilities within {seen.largest:.1e}"
    )
    if reads:
        print(*reads, sep="\n")
    return 0


def review_options(arguments: argparse.Namespace) -> "ReviewOptions | None":
    """Return the shares of review that the command line names; None where it names none."""
    from qwafer.serving.review import ReviewOptions

    given = {name: getattr(arguments, name) for name in ("doubtful", "far") if getattr(arguments, name) is not None}
    return ReviewOptions(**given) if given else None
