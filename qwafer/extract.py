"""`python -m qwafer.extract`: wafer maps through a frozen backbone into a feature file."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from qwafer._process import configure_jax, run_verb


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="python -m qwafer.extract",
        description="Run wafer maps through a frozen backbone, once, and store the features for "
        "`python -m qwafer.ablate --features`. A killed run is taken up by the same command; the result is that of "
        "an unbroken run, bit for bit.",
        epilog="Exit status: 0 done (or done before), 2 bad input.",
    )
    parser.add_argument(
        "--maps",
        required=True,
        metavar="FILE",
        help="MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic` for the embedded generator",
    )
    parser.add_argument("--backbone", default="spatial", metavar="NAME", help="spatial (the default)")
    parser.add_argument("--out", required=True, metavar="F.npz", help="the feature file to write")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="maps a chunk on disk (1024); no influence on the numbers"
    )
    parser.add_argument("--dtype", default="float32", help="precision of the computation: float32 (the default)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="threads (1); no influence on the numbers")
    parser.add_argument("--weights", metavar="PATH", help="checkpoint of the backbone")
    parser.add_argument("--random-weights", type=int, metavar="SEED", help="draw the weights instead (recorded)")
    parser.add_argument("--maps-count", type=int, metavar="N", help="with --maps synthetic: how many (2000)")
    parser.add_argument("--seed", type=int, metavar="S", help="with --maps synthetic: seed of the generator (0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.backbone != "spatial":
        configure_jax()
    from qwafer.backbones import DEFAULT_BATCH, extract, extractor, is_complete, provenance
    from qwafer.data import read_maps

    maps = read_maps(arguments.maps, n=arguments.maps_count, seed=arguments.seed)
    backbone = extractor(
        arguments.backbone,
        weights=arguments.weights,
        random_weights=arguments.random_weights,
        dtype=arguments.dtype,
    )
    if is_complete(arguments.out, provenance(maps, backbone)):
        print(f"{arguments.out} is complete: nothing to do")
        return 0
    batch = DEFAULT_BATCH if arguments.batch is None else arguments.batch
    with _progress_bar(arguments.backbone, quiet=arguments.quiet) as progress:
        result = extract(maps, backbone, arguments.out, batch=batch, jobs=arguments.jobs, progress=progress)
    n_maps, n_features = result.features.shape
    print(f"{arguments.out}: {n_maps} maps x {n_features} features, backbone {arguments.backbone}")
    return 0


@contextlib.contextmanager
def _progress_bar(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr: maps done, maps a second, time left."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} maps/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=False) as bar:
        task = bar.add_task(name, total=None, rate="-")

        def progress(done: int, total: int) -> None:
            bar.update(task, total=total, completed=done)
            speed = bar.tasks[task].speed
            bar.update(task, rate="-" if speed is None else f"{speed:,.0f}")

        yield progress


if __name__ == "__main__":
    sys.exit(main())
