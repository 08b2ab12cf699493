"""`python -m qwafer.extract`: wafer maps through a frozen backbone into a feature file."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwafer._process import configure_jax, run_verb
from qwafer.cli.arguments import add_quiet, executor_of, program
from qwafer.cli.progress import progress_bar

if TYPE_CHECKING:
    from qwafer.data import Clips, DataTable, WaferMaps
    from qwafer.features import FeatureSet

_FLAGS = {"seed": "train-seed", "split_by": "train-split", "epochs": "epochs"}
"""Options of a network by the flags that set them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("extract"),
        description="Run wafer maps through a frozen backbone, once, and store the features for "
        "`python -m qwafer.ablate --features`. A killed run is resumed by the same command; the result is that of "
        "an unbroken run, bit for bit.",
        epilog="Exit status: 0 done (or done before), 2 bad input.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--maps",
        metavar="FILE",
        help="MixedWM38 (.npz), WM-811K (.npz or LSWMD.pkl), or `synthetic` for the embedded generator; or a table: "
        "Edge-IIoTset (.csv), which needs no backbone",
    )
    source.add_argument(
        "--table",
        metavar="FILE",
        help="embeddings of anybody's own, with labels: .csv, .npz or .parquet; a column without a role is a feature",
    )
    source.add_argument(
        "--audio",
        metavar="DIR",
        help="WAV files, drawn as log-mel spectrograms for --backbone: ESC-50 or UrbanSound8K with their folds, or one "
        "folder per class",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="with --audio: how much of each clip is drawn (the longest clip)"
    )
    roles = parser.add_argument_group("with --table")
    roles.add_argument(
        "--label", nargs="+", metavar="COLUMN", help="the class, or one column of 0 and 1 per label (label)"
    )
    roles.add_argument("--fold", metavar="COLUMN", help="the published fold (fold, if there is such a column)")
    roles.add_argument(
        "--group", metavar="COLUMN", help="lot, recording or person, which splits may keep together (group, if there)"
    )
    roles.add_argument("--time", metavar="COLUMN", help="a number that orders the rows in time")
    roles.add_argument("--id", metavar="COLUMN", help="equal for rows that no split may separate (equal rows)")
    roles.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="columns that are no features")
    roles.add_argument("--made-by", metavar="TEXT", help="what made the embeddings; heads refuse those of another name")
    parser.add_argument(
        "--reader", metavar="NAME", help="reader of the file, package.module:function for one of your own (by content)"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="spatial (the default; no weights); wafercnn, waferresnet, trm, efficientnet or mobilenet, weights of "
        "fit; efficientnet_b0, mobilenet_v3_small, or mamba_vision_ and one of T, T2, S, B, L, L2, B_21k, L_21k, "
        "L2_512_21k, L3_256_21k, L3_512_21k; or package.module:thing; NAME@STAGE: what enters that stage of a network, "
        "for head lora",
    )
    parser.add_argument("--out", required=True, metavar="F.npz", help="the feature file to write")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="maps per chunk on disk (1024); no influence on the numbers"
    )
    parser.add_argument("--dtype", help="precision of a network: float32 (the default), bfloat16 or float16")
    parser.add_argument("--jobs", type=int, metavar="J", help="threads (as many as cores); no influence on the numbers")
    parser.add_argument(
        "--executor",
        metavar="NAME",
        help="compute chunks as jobs of local (processes), ray (a cluster) or package.module:Class, --jobs at a time",
    )
    parser.add_argument(
        "--address", metavar="HOST", help="with --executor ray: the cluster, `auto` or ray://HOST:10001"
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="checkpoint of a network (torch's format or safetensors); `hub` fetches it from the Hugging Face hub",
    )
    parser.add_argument(
        "--adapters",
        metavar="PATH",
        help="low-rank adapters of head lora, merged into the weights: features of the adapted network",
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
        help="wafercnn, waferresnet or a network of yours: train it first, on the training split of --maps, and store "
        "it as --weights (default: beside --out); the features carry the split",
    )
    parser.add_argument("--train-seed", type=int, metavar="S", help="with --train: seed of split and training (0)")
    parser.add_argument(
        "--train-split", metavar="HOW", help="with --train: content (the default), group (whole lots together) or time"
    )
    parser.add_argument("--epochs", type=int, metavar="E", help="with --train: passes over the training split (12)")
    parser.add_argument("--maps-count", type=int, metavar="N", help="with --maps synthetic: how many (2000)")
    parser.add_argument("--seed", type=int, metavar="S", help="with --maps synthetic: seed of the generator (0)")
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError
    from qwafer.backbones.registry import backbone_thing
    from qwafer.data import DataTable, read_audio
    from qwafer.data.source import own_features
    from qwafer.features import FeatureSet
    from qwafer.source import read_source

    _check_source_options(arguments)
    if arguments.address is not None and arguments.executor is None:
        raise InputError("--address goes with --executor ray: give both, or neither")
    if arguments.table is not None:
        return _embeddings(arguments)
    if arguments.audio is not None and arguments.backbone is None:
        raise InputError("--audio needs a --backbone that takes pictures, such as efficientnet_b0 with --weights PATH")
    backbone_thing(arguments.backbone or "spatial")  # refuses an unknown name before anything is read
    if "jax" in sys.modules:  # a backbone that computes in JAX has imported it
        configure_jax()
    _check_training_options(arguments)
    if arguments.audio is not None:
        clips = read_audio(arguments.audio, seconds=arguments.seconds)
        for sentence in clips.notes:
            sys.stderr.write(f"note: {sentence}\n")
        return _extracted(clips, arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_source(arguments.maps, arguments.reader, n=arguments.maps_count, seed=arguments.seed)
    if isinstance(found, FeatureSet):
        raise own_features(arguments.maps, arguments.reader)
    said = [str(warning.message) for warning in caught]
    for sentence in [*said, *(note for note in found.notes if not any(note in text for text in said))]:
        sys.stderr.write(f"note: {sentence}\n")
    if isinstance(found, DataTable):
        return _table(found, arguments)
    return _extracted(found, arguments)


def _extracted(found: "WaferMaps | Clips", arguments: argparse.Namespace) -> int:
    """Write the features of wafer maps, or of sounds."""
    from qwafer.backbones import DEFAULT_BATCH, extract, extractor, is_complete, provenance
    from qwafer.backbones.registry import taken_options
    from qwafer.data import WaferMaps

    name = arguments.backbone or "spatial"
    audio = arguments.audio is not None
    backbone = extractor(
        name,
        weights=_trained(name, found, arguments)
        if isinstance(found, WaferMaps) and arguments.train
        else arguments.weights,
        random_weights=arguments.random_weights,
        dtype=arguments.dtype,
        channels="grey" if audio and "channels" in taken_options(name) else arguments.channels,
        adapters=arguments.adapters,
    )
    complete = is_complete(arguments.out, provenance(found, backbone))
    batch = DEFAULT_BATCH if arguments.batch is None else arguments.batch
    with progress_bar(quiet=arguments.quiet) as progress:
        if arguments.executor is None:
            how: dict[str, Any] = {"jobs": arguments.jobs}
        else:
            how = {"executor": executor_of(arguments)}
        result = extract(found, backbone, arguments.out, batch=batch, progress=progress, **how)
    if complete:
        print(f"{arguments.out} is complete: nothing to do")
        return 0
    n_maps, n_features = result.features.shape
    print(f"{arguments.out}: {n_maps} {'clips' if audio else 'maps'} x {n_features} features, backbone {name}")
    return 0


_OF_BACKBONES = ("backbone", "batch", "dtype", "jobs", "executor", "address", "weights", "random_weights", "adapters")
_ON_MAPS = ("reader", "channels", "train", "train_seed", "train_split", "epochs", "maps_count", "seed")
_OF_TABLE = ("label", "fold", "group", "time", "id", "drop", "made_by")
_WITHOUT_EFFECT = {
    "maps": (*_OF_TABLE, "seconds"),
    "table": (*_OF_BACKBONES, *_ON_MAPS, "seconds"),
    "audio": (*_OF_TABLE, *_ON_MAPS),
}
"""By source: the options that say nothing of it."""


def _check_source_options(arguments: argparse.Namespace) -> None:
    """Raise InputError for an option that has no effect on what is read."""
    from qwafer._errors import InputError

    source = next(name for name in _WITHOUT_EFFECT if getattr(arguments, name) is not None)
    for option in _WITHOUT_EFFECT[source]:
        value = getattr(arguments, option)
        if value is not None and value is not False and value != []:
            raise InputError(f"--{option.replace('_', '-')} has no effect with --{source}: leave it out")


def _embeddings(arguments: argparse.Namespace) -> int:
    """Write the features of a table of embeddings."""
    from qwafer.data import read_edge_iiot
    from qwafer.data.source import is_edge_iiot
    from qwafer.data.tables import Roles
    from qwafer.source import features_from_table

    if is_edge_iiot(arguments.table):
        if any(getattr(arguments, option) for option in _OF_TABLE):
            raise _known_roles(arguments.table)
        arguments.maps = arguments.table
        table = read_edge_iiot(arguments.table)
        for sentence in table.notes:
            sys.stderr.write(f"note: {sentence}\n")
        return _table(table, arguments)
    roles = Roles(
        labels=tuple(arguments.label or ("label",)),
        fold=arguments.fold,
        group=arguments.group,
        time=arguments.time,
        id=arguments.id,
        drop=tuple(arguments.drop),
    )
    features = features_from_table(arguments.table, roles, arguments.made_by or "table")
    if not _saved(features, arguments.out):
        return 0
    found = features.provenance["data"]["roles"]
    n_rows, n_features = features.features.shape
    said = [f"{n_features} features", f"{features.labels.shape[1]} labels of {', '.join(found['labels'])}"]
    said += [f"{name} of {found[name]}" for name in ("fold", "group", "time", "id") if found[name] is not None]
    print(f"{arguments.out}: {n_rows} rows; {', '.join(said)}")
    return 0


def _saved(features: "FeatureSet", out: str) -> bool:
    """Write the features of a table; say so, and return False, where they are written already."""
    from qwafer.backbones import is_complete

    if is_complete(out, features.provenance):
        print(f"{out} is complete: nothing to do")
        return False
    features.save(out)
    return True


def _known_roles(path: str) -> Exception:
    from qwafer._errors import InputError

    return InputError(
        f"{path} is a CSV of Edge-IIoTset, whose columns have their roles: leave out the options of --table"
    )


def _table(table: "DataTable", arguments: argparse.Namespace) -> int:
    """Write the features of a table, which has no use for a backbone."""
    from qwafer._errors import InputError
    from qwafer.config import DataConfig
    from qwafer.source import table_features

    for option in (*_OF_BACKBONES, "channels", "train"):
        if getattr(arguments, option):
            flag = option.replace("_", "-")
            raise InputError(f"{arguments.maps} holds a table, which needs no backbone: leave out --{flag}")
    features = table_features(table, DataConfig())
    if not _saved(features, arguments.out):
        return 0
    n_rows, n_features = features.features.shape
    print(f"{arguments.out}: {n_rows} rows x {n_features} features of a table, with its split")
    return 0


def _check_training_options(arguments: argparse.Namespace) -> None:
    from qwafer._errors import InputError
    from qwafer.networks import network

    given = _training_options(arguments)
    if not arguments.train:
        for option in given:
            raise InputError(f"--{_FLAGS[option]} goes with --train only")
        return
    network(arguments.backbone or "spatial", **given)  # refuses a backbone that is not trained, and unknown options
    if arguments.random_weights is not None:
        raise InputError("give either --train or --random-weights, not both")


def _training_options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = {option: getattr(arguments, flag.replace("-", "_")) for option, flag in _FLAGS.items()}
    return {option: value for option, value in options.items() if value is not None}


def _trained(name: str, maps: "WaferMaps", arguments: argparse.Namespace) -> Path:
    """Train the network, or find that it is trained; return the path of its weights."""
    from qwafer.backbones.registry import parted
    from qwafer.networks import network
    from qwafer.sweeps.sources import file_name

    out = Path(arguments.out)
    beside = out.with_name(f"{out.stem}.{file_name(parted(name)[0])}.safetensors")
    path = beside if arguments.weights is None else Path(arguments.weights)
    with progress_bar(quiet=arguments.quiet) as progress:
        return network(name, **_training_options(arguments)).train(maps, path, progress)
