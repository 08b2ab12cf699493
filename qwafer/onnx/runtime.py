"""Graphs in files, and in ONNX Runtime: maps in, decisions out; how long a call takes."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from qwafer._errors import InputError, RecordError
from qwafer._io import atomic_path, canonical_json, digest
from qwafer._reading import check_unpacked, reads
from qwafer.backbones.pretrained import Images, architecture
from qwafer.data import WaferMaps
from qwafer.data.maps import Maps, as_sequence, check_maps
from qwafer.evaluation.exclusive import decide, probabilities
from qwafer.model import Predictions
from qwafer.onnx.packages import onnx, onnxruntime
from qwafer.onnx.write import IMAGES, LOGITS, RECORD

CHECKSUM = "checksum"
"""The entry of a graph's metadata that holds the digest of everything else."""
BATCH = 32
"""Maps per call of `OnnxModel.logits`."""


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model as an ONNX graph, float32 or INT8, in ONNX Runtime on the CPU, one thread."""

    session: Any
    """The `onnxruntime.InferenceSession`."""
    preprocessing: Images
    """From maps to the images that the graph takes."""
    label_names: tuple[str, ...]
    """Its labels."""
    thresholds: tuple[float, ...]
    """Logit above which each label is predicted; empty for exclusive classes (largest logit)."""
    exclusive: bool
    """Whether the labels are exclusive classes."""

    @classmethod
    @reads("is not an ONNX graph of qwafer, or a damaged one")
    def load(cls, path: str | Path) -> "OnnxModel":
        """Return the model in the file `path`, which `quantise` wrote.

        Raises:
            CapabilityError: onnx or onnxruntime is not installed.
            InputError: a file that is damaged, or not a graph of qwafer.
        """
        check_unpacked(path, Path(path).stat().st_size)
        graph = onnx().load_model_from_string(Path(path).read_bytes())
        said = {entry.key: entry.value for entry in graph.metadata_props}
        if RECORD not in said or said.get(CHECKSUM) != checksum(graph):
            raise RecordError(f"{path} is not an ONNX graph of qwafer, or a damaged one (its checksum differs)")
        return cls.of(graph)

    @classmethod
    def of(cls, graph: Any) -> "OnnxModel":
        """Return the model of a `ModelProto` that `model_graph` made."""
        said = json.loads(next(entry.value for entry in graph.metadata_props if entry.key == RECORD))
        return cls(
            session(graph.SerializeToString()),
            architecture(said["backbone"], None, said["channels"]).preprocessing,
            tuple(said["labels"]),
            tuple(said["thresholds"]),
            said["exclusive"],
        )

    def logits(self, maps: WaferMaps | Maps | Sequence[np.ndarray]) -> Float[np.ndarray, "N n_labels"]:
        """Return the logits of maps, 2-D uint8 arrays of any shapes; raise InputError for what are not wafer maps."""
        wafers: Any = as_sequence("maps", maps.maps if isinstance(maps, WaferMaps) else maps)
        if not len(wafers):
            raise InputError("`maps` must hold at least one wafer map")
        check_maps(wafers, "`logits`")
        blocks = [self.preprocessing(list(wafers[i : i + BATCH])) for i in range(0, len(wafers), BATCH)]
        return np.concatenate([run(self.session, block) for block in blocks])

    def predict(self, maps: WaferMaps | Maps | Sequence[np.ndarray]) -> Predictions:
        """Return what the model says of maps, as `Model.predict` does."""
        logits = self.logits(maps)
        p = probabilities(logits, exclusive=self.exclusive)
        return Predictions(logits, p, decide(logits, self.thresholds), self.label_names)


def with_thresholds(graph: Any, thresholds: Sequence[float]) -> Any:
    """Return a copy of `graph` whose metadata hold other thresholds."""
    said = {entry.key: entry.value for entry in graph.metadata_props}
    said[RECORD] = canonical_json({**json.loads(said[RECORD]), "thresholds": tuple(thresholds)})
    copy = type(graph)()
    copy.CopyFrom(graph)
    onnx().helper.set_model_props(copy, said)
    return copy


def save(graph: Any, path: str | Path) -> int:
    """Write `graph` with its checksum to `path`, atomically, and return the bytes of the file."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    said = {entry.key: entry.value for entry in graph.metadata_props}
    onnx().helper.set_model_props(copy, {**said, CHECKSUM: checksum(graph)})
    content = copy.SerializeToString(deterministic=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def checksum(graph: Any) -> str:
    """Return the digest of everything in `graph` but the checksum that it may hold."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    said = {entry.key: entry.value for entry in graph.metadata_props if entry.key != CHECKSUM}
    onnx().helper.set_model_props(copy, dict(sorted(said.items())))
    return digest(np.frombuffer(copy.SerializeToString(deterministic=True), np.uint8))


def session(content: bytes, optimised: Path | None = None) -> Any:
    """Return an `InferenceSession` of one thread; the graph as the runtime runs it goes to `optimised`, if given."""
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: np.ndarray) -> np.ndarray:
    """Return the logits (batch, n_labels) of images (batch, H, W, 3)."""
    return np.asarray(session.run([LOGITS], {IMAGES: images})[0])


@dataclass(frozen=True)
class Latency:
    """How long calls of one batch take, in microseconds of wall time, without the preprocessing."""

    batch: int
    """Maps per call."""
    calls: int
    """Timed calls."""
    p50: float
    """Median."""
    p99: float
    """99th percentile."""


def latencies(sessions: Mapping[str, Any], images: np.ndarray, calls: int) -> dict[str, Latency]:
    """Return the latency of each session on the same images, taking turns call by call, after ten calls each."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(10 + calls):
        for name, each in sessions.items():
            start = time.perf_counter()
            each.run([LOGITS], {IMAGES: images})
            if turn >= 10:
                taken[name].append(1e6 * (time.perf_counter() - start))
    return {
        name: Latency(len(images), calls, statistics.median(times), float(np.quantile(times, 0.99)))
        for name, times in taken.items()
    }
