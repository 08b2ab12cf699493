"""`python -m qwafer.fit`: a network trained on wafer maps, its weights and its run."""

import argparse
import sys
from collections.abc import Sequence

from qwafer._process import configure_jax, run_verb
from qwafer.cli.arguments import add_quiet, program
from qwafer.cli.progress import progress_bar


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("fit"),
        description="Train a network on the training split of wafer maps, and evaluate it on validation and, once, on "
        "test. A killed training is resumed by the same command, to the same bits. The weights are a backbone for "
        "heads: `python -m qwafer.extract --backbone NAME --weights OUT`.",
        epilog="Exit status: 0 done (or done before), 2 bad input.",
    )
    parser.add_argument("--network", required=True, metavar="NAME", help="wafercnn, or another head that is a network")
    parser.add_argument(
        "--maps", required=True, metavar="FILE", help="MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic`"
    )
    parser.add_argument(
        "--reader", metavar="NAME", help="reader of the file, package.module:function for one of your own (by content)"
    )
    parser.add_argument("--out", required=True, metavar="NET.safetensors", help="the weights to write; the run beside")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and the training (0)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="an option of the run, such as training.epochs=40, head.tta=true or data.split_by=group; may be repeated",
    )
    parser.add_argument("--maps-count", type=int, metavar="N", help="with --maps synthetic: how many (2000)")
    parser.add_argument("--maps-seed", type=int, metavar="S", help="with --maps synthetic: seed of the generator (0)")
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError
    from qwafer.data import WaferMaps
    from qwafer.fitting import fit, fit_config
    from qwafer.overrides import parse_overrides
    from qwafer.source import read_source

    options = {name: given.value for name, given in parse_overrides(arguments.overrides)}
    configure_jax()
    fit_config(arguments.network, exclusive=False, options=options)  # refuses them before anything is read
    found = read_source(arguments.maps, arguments.reader, n=arguments.maps_count, seed=arguments.maps_seed)
    if not isinstance(found, WaferMaps):
        raise InputError(f"{arguments.maps} holds no wafer maps: a network reads maps")
    for sentence in found.notes:
        sys.stderr.write(f"note: {sentence}\n")
    with progress_bar(quiet=arguments.quiet) as progress:
        result = fit(found, arguments.network, arguments.out, seed=arguments.seed, options=options, progress=progress)
    measures = (
        ("accuracy", "f1", "top_label_ece") if result.test.exclusive else ("exact_match_tuned", "f1_tuned", "ece")
    )
    for part in ("val", "test"):
        macro = getattr(result, part).macro
        said = ", ".join(f"{name} {macro[name]:.4f}" for name in measures if name in macro)
        print(f"{part}: {said}")
    print(
        f"{arguments.out}: {arguments.network}, {result.n_parameters.trainable:,} parameters, epoch {result.best_epoch}"
    )
    return 0
