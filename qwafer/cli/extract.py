"""`python -m qwafer.extract`: wafer maps through a frozen backbone into a feature file."""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qwafer._process import configure_jax, run_verb

if TYPE_CHECKING:
    from qwafer.data import WaferMaps


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
    parser.add_argument(
        "--backbone",
        default="spatial",
        metavar="NAME",
        help="spatial (the default; no weights), wafercnn, efficientnet_b0, mobilenet_v3_small, or mamba_vision_ and "
        "one of T, T2, S, B, L, L2, B_21k, L_21k, L2_512_21k, L3_256_21k, L3_512_21k",
    )
    parser.add_argument("--out", required=True, metavar="F.npz", help="the feature file to write")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="maps a chunk on disk (1024); no influence on the numbers"
    )
    parser.add_argument(
        "--dtype", default="float32", help="precision of a network: float32 (the default), bfloat16 or float16"
    )
    parser.add_argument("--jobs", type=int, metavar="J", help="threads (as many as cores); no influence on the numbers")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="checkpoint of a network (torch's format or safetensors); `hub` fetches it from the Hugging Face hub",
    )
    parser.add_argument(
        "--random-weights", type=int, metavar="SEED", help="draw the weights instead: for trials, and recorded as such"
    )
    parser.add_argument(
        "--channels", metavar="HOW", help="how a map becomes three channels: one-hot (the default) or grey"
    )
    parser.add_argument(
        "--train",
        action="store_true",
        help="wafercnn only: train it first, on the training split of --maps, and store it as --weights (default: "
        "beside --out); the features carry the split",
    )
    parser.add_argument("--train-seed", type=int, metavar="S", help="with --train: seed of split and training (0)")
    parser.add_argument(
        "--train-split", metavar="HOW", help="with --train: content (the default), group (whole lots together) or time"
    )
    parser.add_argument("--epochs", type=int, metavar="E", help="with --train: passes over the training split (12)")
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
    from qwafer._checks import check_choice
    from qwafer.backbones import DEFAULT_BATCH, NAMES, extract, extractor, is_complete, provenance
    from qwafer.data import read_maps

    check_choice("backbone", arguments.backbone, NAMES)
    _check_training_options(arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        maps = read_maps(arguments.maps, n=arguments.maps_count, seed=arguments.seed)
    said = [str(warning.message) for warning in caught]
    for sentence in [*said, *(note for note in maps.notes if not any(note in text for text in said))]:
        sys.stderr.write(f"note: {sentence}\n")
    weights = _trained(maps, arguments) if arguments.train else arguments.weights
    backbone = extractor(
        arguments.backbone,
        weights=weights,
        random_weights=arguments.random_weights,
        dtype=arguments.dtype,
        channels=arguments.channels,
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


def _check_training_options(arguments: argparse.Namespace) -> None:
    from qwafer._errors import InputError

    if arguments.train:
        if arguments.backbone != "wafercnn":
            raise InputError(f"--train goes with --backbone wafercnn: {arguments.backbone} is not trained here")
        if arguments.random_weights is not None:
            raise InputError("give either --train or --random-weights, not both")
        return
    for option in ("train_seed", "train_split", "epochs"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} goes with --train only")


def _trained(maps: "WaferMaps", arguments: argparse.Namespace) -> Path:
    """Train WaferCNN, or find that it is trained; return the path of its weights."""
    from qwafer.backbones import WaferCNNTraining, train_wafercnn

    given = {"seed": arguments.train_seed, "split_by": arguments.train_split, "epochs": arguments.epochs}
    options = WaferCNNTraining(**{name: value for name, value in given.items() if value is not None})
    out = Path(arguments.out)
    path = out.with_name(f"{out.stem}.wafercnn.safetensors") if arguments.weights is None else Path(arguments.weights)
    with _progress_bar("training wafercnn", quiet=arguments.quiet) as progress:
        return train_wafercnn(maps, path, options, progress)


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
