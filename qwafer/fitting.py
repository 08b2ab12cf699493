"""`fit`: a network trained on wafer maps; its weights and its run on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._checkpoints import remove_checkpoints
from qwafer._checks import LARGEST_SEED, check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError, RecordError
from qwafer._io import canonical_json, jsonable, read_or_set_aside
from qwafer._reading import reads
from qwafer.backbones import Extractor, extractor, features_from_maps
from qwafer.backbones.checkpoints import read_tensors, write_tensors
from qwafer.backbones.trained import ID_TENSORS, id_numbers, id_tensors
from qwafer.config import RunConfig, SourceFacts, thing_class
from qwafer.data import WaferMaps
from qwafer.execution import OnProgress
from qwafer.heads import HEADS
from qwafer.model import Model
from qwafer.networks.head import RECORD
from qwafer.networks.options import NetworkOptions
from qwafer.overrides import no_effect, with_options
from qwafer.training import RunResult, prepare, train_prepared
from qwafer.training._other import other_task

RECIPE: Mapping[str, Any] = {
    "training.epochs": 12,
    "training.max_doublings": 0,
    "training.batch_size": 32,
    "training.learning_rate": 3e-3,
    "training.schedule": "cosine",
    "training.warmup": 0.1,
    "training.weight_decay": 1e-3,
    "training.ema_decay": 0.999,
    "training.val_objective": "macro_f1",
    "training.checkpoint_every_epochs": 1,
}
"""How `fit` trains where nothing else is said."""


def network_names() -> tuple[str, ...]:
    """Return the heads that are networks on wafer maps."""
    return tuple(name for name in HEADS.names if _is_network(HEADS.get(name)))


def fit_config(network: str, *, exclusive: bool, options: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the run that `fit` trains: the head `network` on its dies, `RECIPE`, then the dotted `options`.

    The loss is `softmax` for exclusive classes and `bce` else. Raises InputError for a head that is not a network.
    """
    kind: Any = thing_class("head", network)
    if not _is_network(kind):
        raise InputError(f"`network` must be one of {', '.join(network_names())}, or your own, got {network}")
    base = {"objective.loss": "softmax" if exclusive else "bce", **RECIPE}
    config = with_options(RunConfig(head=kind()), {**base, **(options or {})})
    config = with_options(config, {"data.backbone": f"dies_{config.head.architecture().size}"})
    for name in options or {}:
        reason = no_effect(config, name, SourceFacts("maps"))
        if reason is not None:
            raise InputError(f"`{name}` has no effect: {reason}; leave it out")
    return config


def fit(
    maps: WaferMaps,
    network: str,
    out: str | Path,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> RunResult:
    """Train `network` on the training split of `maps`, and evaluate it on validation and, once, on test.

    Written are `out`, the weights (safetensors) with the content ids of the maps that trained and validated them, so
    that a backbone made of them carries its split along; beside it the run, `OUT.run.json` and `OUT.run.npz`, and the
    `Model` that predicts, `OUT.model.safetensors`. Every epoch leaves a checkpoint in `OUT.parts`, from which a killed
    training resumes, bit for bit; they go with the end.

    Args:
        maps: labelled maps.
        network: name of a head that is a network; see `network_names`.
        out: path of the weights.
        seed: of the split, the initial weights, the batches and the augmentation.
        options: dotted options of the run over those of `RECIPE`, such as `{"training.epochs": 40}`.
        progress: called as the training goes on.

    Raises:
        InputError: options or maps that do not allow the run, or an `out` that holds other weights.
    """
    path = Path(out)
    config = fit_config(network, exclusive=maps.exclusive, options=options)
    features = features_from_maps(maps, extractor(config.data.backbone))
    prepared = prepare(config, features, seed)
    told = {"config": config.to_dict(), "seed": seed, "split": prepared.split.digest, "labels": maps.label_names}
    together = other_task(config, prepared)
    told |= {} if together is None else {"other": together.data.digest()}
    record = jsonable({**told, "data": {"source": maps.source, "sha256": maps.sha256}})
    result_path = path.with_suffix(".run.json")
    found = read_or_set_aside(training_record, path, damage=RecordError)
    if found is not None:
        if canonical_json(found.get(RECORD)) != canonical_json(record):
            raise InputError(f"{path} exists and holds other weights: delete it, or choose another path")
        return RunResult.load(result_path)
    parts = path.with_name(f"{path.name}.parts")
    result = train_prepared(config, prepared, seed, parts, progress)
    if result.predictor is None:
        raise InputError("the run gave no predictor")
    result.save(result_path)
    ids = id_tensors(prepared.split, prepared.data.content_ids)
    if together is not None:
        trained = id_numbers(together.data.content_ids[together.rows])
        ids[ID_TENSORS["train"]] = np.union1d(ids[ID_TENSORS["train"]], trained)
    Model.from_run(result, extractor(config.data.backbone)).save(path.with_suffix(".model.safetensors"))
    write_tensors(path, result.predictor.head.tensors() | ids, {RECORD: json.dumps(record)})
    remove_checkpoints(parts)
    return result


@reads("is not a safetensors file, or a damaged one", error=RecordError)
def training_record(path: Path) -> dict[str, Any]:
    """Return what `path` says about its training, under `RECORD`; nothing for weights that say nothing.

    Raises RecordError where `fit` wrote the file, and it is damaged.
    """
    try:
        metadata = read_tensors(path)[1]
        return {RECORD: json.loads(metadata[RECORD])} if RECORD in metadata else {}
    except InputError as error:
        with path.open("rb") as file:
            head = file.read(4096)
        if not head or RECORD.encode() in head:
            raise
        raise InputError(f"{path} is in the way of the weights ({error}): choose another path") from error


@dataclass(frozen=True)
class Fitted:
    """A network as a `Network`, with the options of its training; classes of it name the head."""

    seed: int = 0
    """Seed of the split, the initial weights, the batches and the augmentation."""
    split_by: str = "content"
    """How the split is made: `content`, `group` (whole lots together) or `time`; see `make_split`."""
    epochs: int = 12
    """Passes over the training split."""
    batch_size: int = 32
    """Maps per step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; it rises over the first tenth of the steps and falls to zero by a cosine."""
    weight_decay: float = 1e-3
    """Decoupled weight decay."""

    head: ClassVar[str]
    """The head that is trained."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("seed", self.seed, minimum=0, maximum=LARGEST_SEED)
        check_choice("split_by", self.split_by, ("content", "group", "time"))
        check_positive_int("epochs", self.epochs, maximum=1_000_000)
        check_positive_int("batch_size", self.batch_size, maximum=1_000_000)
        check_interval("learning_rate", self.learning_rate, 0, 1, open_low=True)
        check_interval("weight_decay", self.weight_decay, 0, 1)

    def train(self, maps: WaferMaps, path: str | Path, progress: OnProgress | None = None) -> Path:
        """Train on the training split of `maps`, write the weights to `path` and return it; see `fit`."""
        own = {name: value for name, value in asdict(self).items() if name not in ("seed", "split_by")}
        options = {f"training.{name}": value for name, value in own.items()}
        fit(
            maps,
            self.head,
            path,
            seed=self.seed,
            options={**options, "data.split_by": self.split_by},
            progress=progress,
        )
        return Path(path)

    def extractor(self, weights: str | Path, dtype: str | None = None) -> Extractor:
        """Return the frozen network with `weights`."""
        return extractor(self.head, weights=weights, dtype=dtype)


@dataclass(frozen=True)
class WaferCNN(Fitted):
    """WaferCNN as a `Network`."""

    head: ClassVar[str] = "wafercnn"


@dataclass(frozen=True)
class WaferResNet(Fitted):
    """WaferResNet as a `Network`."""

    head: ClassVar[str] = "waferresnet"


@dataclass(frozen=True)
class EfficientNet(Fitted):
    """EfficientNet-B0 on the dies as a `Network`."""

    head: ClassVar[str] = "efficientnet"


@dataclass(frozen=True)
class MobileNet(Fitted):
    """MobileNetV3-Small on the dies as a `Network`."""

    head: ClassVar[str] = "mobilenet"


def _is_network(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, NetworkOptions)
