"""`Model`: backbone, head and thresholds in one file; wafer maps in, decisions out."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._reading import reads
from qwafer._records import from_json, to_json
from qwafer.backbones import Extractor, extractor
from qwafer.backbones.adapters import Adapters
from qwafer.backbones.checkpoints import Checkpoint, read_tensors, write_tensors
from qwafer.backbones.extraction import feature_rows
from qwafer.backbones.registry import BACKBONES, parted
from qwafer.backbones.trained import id_numbers
from qwafer.data import WaferMaps
from qwafer.data.maps import Maps, as_sequence, check_maps
from qwafer.evaluation.exclusive import decide, probabilities
from qwafer.features import FeatureSet
from qwafer.heads import Stored
from qwafer.heads.size import packed_file_bytes
from qwafer.training import Predictor, RunResult, prepare

_HEAD = "head"
_WEIGHTS = "backbone/"
_RECORD = "qwafer_model"
TEACHER_GROUP = 256
"""Maps a call of the backbone `logits`."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N maps."""

    logits: Float[np.ndarray, "N n_labels"]
    """The head's logits."""
    probabilities: Float[np.ndarray, "N n_labels"]
    """sigmoid(logits), each label on its own; softmax(logits) where the head was trained for exclusive classes."""
    decisions: Bool[np.ndarray, "N n_labels"]
    """Logits above the label's threshold; the largest logit alone for exclusive classes."""
    label_names: tuple[str, ...]
    """The labels, in the order of the columns."""
    steps_used: Int[np.ndarray, " N"] | None = None
    """Steps that each map took, from 1, where the head halts (`head.halt_threshold` below 1); with `head.tta` over all
    eight forms of a map. None for other heads."""


@dataclass(frozen=True)
class ModelRecord:
    """What a model file says beside its tensors."""

    SCHEMA: ClassVar[str] = "qwafer/model/2"
    backbone: str
    """Name of the backbone; see `BACKBONES`."""
    options: dict[str, Any]
    """Options with which its name gives it."""
    weights: dict[str, Any] | None
    """Where its weights come from, with their sha256, if the file holds them."""
    weights_sha256: str | None
    """sha256 of the file `options["weights"]`, where the weights are not in this one."""
    provenance: dict[str, Any]
    """See `Model.provenance`."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained head on its frozen backbone."""

    backbone: Extractor
    """From maps to features."""
    head: Predictor
    """From features to logits, with labels and thresholds."""
    provenance: Mapping[str, Any]
    """Plain JSON data: `backbone`, the record of the features with the weights' sha256, and `run`, of the head."""

    @classmethod
    def from_run(cls, result: RunResult, backbone: Extractor | Mapping[str, Any]) -> "Model":
        """Return the model of a run that `train` has just returned.

        Args:
            result: the run.
            backbone: what made its features: the `Extractor`, or the `provenance` of the `FeatureSet` where the
                backbone has no weights, or drawn ones.

        Raises:
            InputError: a result that was read from a file and has no predictor, a provenance that does not tell the
                backbone, or a backbone other than the one that made the features of the run.
        """
        if result.predictor is None:
            raise InputError("the result holds no trained head: take the one that `train` returns")
        if not isinstance(backbone, (Extractor, Mapping)):
            raise InputError(f"`backbone` must be an Extractor or a provenance, got {type(backbone).__name__}")
        made = backbone if isinstance(backbone, Extractor) else _from_provenance(backbone)
        run = {
            "config": result.config,
            "seed": result.seed,
            "best_epoch": result.best_epoch,
            "digests": to_json(result.digests),
            "environment": to_json(result.environment),
        }
        result.predictor.check_made_alike({"backbone": made.name, **made.record})
        record = {"name": made.name, **made.record} if isinstance(backbone, Extractor) else dict(backbone)
        return cls(made, result.predictor, {"backbone": record, "run": run})

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.head.label_names

    def predict(self, maps: WaferMaps | Maps | Sequence[np.ndarray]) -> Predictions:
        """Return what the model says of `maps`, 2-D uint8 arrays of any shapes and any number of them.

        A map's logits do not depend on how many others come with it, beyond what its place in a batch does to a
        compiled float32 program: 1e-5, relative and absolute. Features of `spatial` are the same bits. A head that
        halts stops computing a map at the step at which its answer is final, and says which (`steps_used`).

        Raises:
            InputError: no maps, or maps with values other than 0, 1, 2.
        """
        wafers: Any = maps.maps if isinstance(maps, WaferMaps) else maps
        wafers = as_sequence("maps", wafers)
        if not len(wafers):
            raise InputError("`maps` must hold at least one wafer map")
        check_maps(wafers, "`predict`")
        logits, steps = self.head.answered(feature_rows(list(wafers), self.backbone))
        p = probabilities(logits, exclusive=self.head.config.objective.exclusive)
        return Predictions(logits, p, decide(logits, self.head.thresholds), self.label_names, steps)

    def stored(self) -> dict[str, Stored]:
        """Return what a packed file holds: the weights of the backbone, if the file has them, and those of the head."""
        state = self.backbone.state or {}
        return {**{_WEIGHTS + key: Stored.plain(value) for key, value in state.items()}, **self.head.stored()}

    def file_bytes(self) -> int:
        """Return the length of the packed file, by writing it to a temporary folder."""
        return packed_file_bytes(self)

    def save(self, path: str | Path, *, packed: bool = False) -> None:
        """Write the model to `path` (safetensors), atomically and without pickles.

        The file holds the backbone's weights, if it has any of a kind that it can be made from again; any other
        backbone is stored by its name, and its weights by their path and sha256. With `packed` the numbers of the head
        take as many bits as `size_of` counts (`Predictor.save`).

        Raises:
            InputError: a backbone that its name would not give again, or whose weights are gone.
        """
        if parted(self.backbone.name)[0] not in BACKBONES.names and ":" not in self.backbone.name:
            raise InputError(
                f"a model file stores the backbone {self.backbone.name} by its name: take it from "
                "extractor('package.module:thing')"
            )
        state = self.backbone.state or {}
        tensors = {_WEIGHTS + key: np.ascontiguousarray(value) for key, value in state.items()}
        tensors[_HEAD] = _head_bytes(self.head, packed=packed)
        record = ModelRecord(
            backbone=self.backbone.name,
            options=dict(self.backbone.options),
            weights=None if self.backbone.state is None else self.backbone.record["weights"],
            weights_sha256=_weights_sha256(self.backbone.name, self.backbone.options),
            provenance=dict(self.provenance),
        )
        write_tensors(path, tensors, {_RECORD: json.dumps(to_json(record))})

    @classmethod
    @reads("is not a saved model, or a damaged one")
    def load(cls, path: str | Path) -> "Model":
        """Return the model saved at `path`.

        Raises:
            InputError: a file that is damaged, or not a model; a backbone stored by its name whose weights file or
                source is gone, or not that of the model.
        """
        tensors, metadata = read_tensors(path)
        data = json.loads(metadata.get(_RECORD, "null"))
        if data is None or _HEAD not in tensors:
            raise InputError(f"{path} is not a saved model: it is another safetensors file")
        record = from_json(ModelRecord, data, str(path))
        state = {key.removeprefix(_WEIGHTS): value for key, value in tensors.items() if key != _HEAD}
        options = dict(record.options)
        if _weights_sha256(record.backbone, options) != record.weights_sha256:
            raise InputError(
                f"{options['weights']} does not hold the weights with which {path} was saved: put those back"
            )
        if record.weights is not None:
            options.pop("random_weights", None)
            options["weights"] = Checkpoint(state, record.weights)
        backbone = extractor(record.backbone, **options)
        source = record.provenance.get("backbone", {}).get("source_sha256")
        if source is not None and backbone.record.get("source_sha256") != source:
            raise InputError(
                f"the source file of backbone {record.backbone} is not the one that made the features of {path}: put "
                "that one back, or train the head again"
            )
        return cls(backbone, _head_of(tensors[_HEAD], path), record.provenance)


def logits_backbone(weights: str | Path) -> Extractor:
    """Return the backbone `logits`: the logits of the model saved at `weights`, for distillation (`objective.teacher`).

    The record says on which split the model was trained: a student must be trained and tested on the same.
    """
    model = Model.load(weights)
    record = {
        "weights": {"file": Path(weights).name, "sha256": file_sha256(weights)},
        "random_weights": None,
        "preprocessing": f"those of backbone {model.backbone.name}",
        "dtype": "float32",
        "teacher_split": model.head.split,
    }

    def logits(maps: Sequence[np.ndarray]) -> np.ndarray:
        return model.predict(list(maps)).logits.astype(np.float32)

    return Extractor("logits", TEACHER_GROUP, record, logits, model.label_names, split=model.backbone.split)


def _weights_sha256(name: str, options: Mapping[str, Any]) -> str | None:
    """Return the sha256 of the weights file that `options` name; None where they name none."""
    weights = options.get("weights")
    if not isinstance(weights, (str, Path)):
        return None
    try:
        return file_sha256(weights)
    except OSError as error:
        raise InputError(f"the weights of backbone {name} cannot be read from {weights} ({error})") from error


def _from_provenance(record: Mapping[str, Any]) -> Extractor:
    """Return the backbone of features with this provenance, where no weights are missing."""
    name, seed = record.get("backbone"), record.get("random_weights")
    if not isinstance(name, str) or (parted(name)[0] not in BACKBONES.names and ":" not in name):
        raise InputError(f"a model takes wafer maps, and the features are not those of a backbone but of {name}")
    if (record.get("weights") and seed is None) or record.get("adapters"):
        raise InputError(f"the weights of backbone {name} are not in the provenance: give its Extractor")
    if seed is None:
        return extractor(name)
    channels = record.get("preprocessing", {}).get("channels")
    return extractor(name, random_weights=seed, dtype=record.get("dtype"), channels=channels)


def _head_bytes(head: Predictor, *, packed: bool) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        head.save(Path(folder) / "head", packed=packed)
        return np.frombuffer((Path(folder) / "head").read_bytes(), np.uint8)


def _head_of(content: np.ndarray, path: str | Path) -> Predictor:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "head").write_bytes(content.tobytes())
        try:
            return Predictor.load(Path(folder) / "head")
        except InputError as error:
            raise InputError(f"{path} holds a head that cannot be read: {error}") from error


def adapters_of(predictor: Predictor, data: FeatureSet) -> Adapters:
    """Return the adapters of a trained head `lora` alone, to be saved or merged: `adapters_of(...).save(path)`.

    They name the network and the weights that they adapt, and the maps that trained them: features of the adapted
    network (`python -m qwafer.extract --adapters PATH`) carry that split.

    Args:
        predictor: the head and the configuration of its run, as `train` returns it or `Predictor.load` reads it.
        data: the features that it was trained on.

    Raises:
        InputError: another head, one without adapters, or features that are not those of its run.
    """
    from qwafer.networks.lora_head import LoraHead

    if not isinstance(predictor.head, LoraHead):
        raise InputError(f"head {predictor.config.name('head')} has no adapters: take a trained head lora")
    predictor.check_made_alike(data.provenance)
    prepared = prepare(predictor.config, data, predictor.seed)
    if predictor.split and prepared.split.digest != predictor.split:
        raise InputError("the features are not those of the run: their split is another one; give those of its source")
    parts = {part: prepared.data.content_ids[getattr(prepared.split, part)] for part in ("train", "val")}
    return predictor.head.adapters(data.provenance, {part: np.unique(id_numbers(ids)) for part, ids in parts.items()})
