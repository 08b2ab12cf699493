"""`export_model`: a model with its review as one file for another runtime, run against the model before it is kept."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._checks import check_choice, check_path
from qwafer._errors import CapabilityError, InputError, RecordError
from qwafer._io import atomic_path, canonical_json, file_sha256
from qwafer._reading import check_unpacked, reads
from qwafer._records import load_record, save_record
from qwafer.backbones.keys import parameter_tree
from qwafer.data import WaferMaps
from qwafer.data.maps import as_sequence, check_maps
from qwafer.model import Model
from qwafer.onnx import runtime
from qwafer.onnx.arrays import OnnxArrays, Value
from qwafer.onnx.graph import Graph
from qwafer.onnx.networks import BACKBONES
from qwafer.onnx.packages import onnx
from qwafer.onnx.write import IMAGES, LOGITS, RECORD, network_of
from qwafer.serving.evidence import Evidence, Forward, forward_of
from qwafer.serving.function import OUTPUTS, answers, check_exportable, images_of, jax_function
from qwafer.serving.heads import head_logits
from qwafer.serving.review import Review
from qwafer.serving.spatial import spatial

FORMATS = ("onnx", "stablehlo")
MAPS = "maps"
PLATFORMS = ("cpu", "cuda")
TOLERANCE = 1e-5
"""Largest difference of a probability from the model's."""
MOST_MAPS = 256
"""Maps on which a file is run against the model."""
EXPORT = "qwafer_export"


@dataclass(frozen=True)
class Verification:
    """A file against the model, on the same maps, before it was put in place."""

    n_maps: int
    """Maps."""
    largest: float
    """Largest difference of a probability."""
    near: int
    """Labels and flags so near to their threshold that rounding may decide them; all others were equal."""


@dataclass(frozen=True)
class Manifest:
    """What lies beside an exported file, as `FILE.json`."""

    SCHEMA: ClassVar[str] = "qwafer/export/1"

    format: str
    """`onnx` or `stablehlo`."""
    file: str
    """Its name."""
    sha256: str
    """Of the file."""
    nbytes: int
    """Its length."""
    int8: bool
    """Whether the network is that of `int8.onnx` of a quantisation."""
    platforms: tuple[str, ...]
    """Where it runs."""
    model: dict[str, Any]
    """Provenance of the model: its backbone, and the run of its head with all digests."""
    evidence: Evidence
    """What the model is worth."""
    verification: Verification
    versions: dict[str, str]
    """Packages that made and ran it."""


def export_model(
    model: Model,
    review: Review,
    evidence: Evidence,
    maps: WaferMaps | Sequence[np.ndarray],
    path: str | Path,
    form: str,
    *,
    int8: str | Path | None = None,
) -> Manifest:
    """Write `model` to `path` as `onnx` or `stablehlo`, and `PATH.json` beside it; return the latter.

    The file takes maps (batch, H, W) uint8 of any lengths, 0 off the wafer, 1 passing, 2 failing, and gives
    `probabilities` (batch, n_labels) float32, `labels` (batch, n_labels) and `review` (batch,) bool: preprocessing,
    thresholds and review are in it. It is run on at most `MOST_MAPS` of `maps` and put in place only where no
    probability differs from the model's by more than `TOLERANCE` and every decision and flag is the same.

    Args:
        model: with a backbone `spatial` or a network of qwafer (for ONNX `wafercnn` or `mobilenet_v3_small`), and a
            head `linear`, `mlp` or `quantum` of up to eight wires; or, as StableHLO, a network on the dies as its head.
        review: its review; `assess` makes it.
        evidence: what they are worth, for the manifest; `assess` finds it.
        maps: real maps.
        path: the file.
        form: `onnx` or `stablehlo`.
        int8: `int8.onnx` of `qwafer.quantise`, whose network stands in place of the float32 one; `review` and
            `evidence` must be those of `int8_model`.

    Raises:
        CapabilityError: a model that cannot be exported; onnx or onnxruntime is not installed.
        InputError: maps that are not wafer maps, or a file that did not give the answers of the model.
    """
    check_choice("form", form, FORMATS)
    check_exportable(model, form)
    wafers = as_sequence("maps", maps.maps if isinstance(maps, WaferMaps) else maps)
    check_maps(wafers, "`maps`")
    if int8 is not None and form != "onnx":
        raise CapabilityError("INT8 is for --format onnx: XLA has no fast 8-bit convolutions on a CPU")
    path = check_path(path)
    forward = forward_of(model)
    if int8 is not None:
        model, forward = int8_model(model, int8)
    graph = None if int8 is None else _int8_graph(int8)
    content = _onnx(model, review, graph) if form == "onnx" else _stablehlo(model, review)
    some = [wafers[i] for i in np.unique(np.linspace(0, len(wafers) - 1, MOST_MAPS).astype(np.int64))]
    found = _verified(_call(content, form), model, review, forward, some)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        sha256 = file_sha256(temporary)
    manifest = Manifest(
        format=form,
        file=path.name,
        sha256=sha256,
        nbytes=len(content),
        int8=int8 is not None,
        platforms=PLATFORMS if form == "stablehlo" else ("cpu",),
        model=dict(model.provenance),
        evidence=evidence,
        verification=found,
        versions=_versions(form),
    )
    save_record(_beside(path), manifest)
    return manifest


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported file, ready to run."""

    manifest: Manifest
    """What lies beside it."""
    call: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    """Maps (batch, H, W) uint8 to `OUTPUTS`."""

    @classmethod
    @reads("is not an exported model, or a damaged one")
    def load(cls, path: str | Path) -> "Exported":
        """Return the file at `path`; raise InputError where it is not the one of its manifest."""
        path = Path(path)
        manifest = load_record(Manifest, _beside(path))
        check_unpacked(path, path.stat().st_size)
        if file_sha256(path) != manifest.sha256:
            raise RecordError(f"{path} is damaged, or not the file of {_beside(path).name} (its sha256 differs)")
        return cls(manifest, _call(path.read_bytes(), manifest.format))

    def predict(self, maps: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return probabilities (N, n_labels), labels (N, n_labels) and review flags (N,) of maps of any shapes."""
        wafers = as_sequence("maps", maps.maps if isinstance(maps, WaferMaps) else maps)
        check_maps(wafers, "`predict`")
        return _by_shape(self.call, wafers)


def int8_model(model: Model, path: str | Path) -> tuple[Model, Forward]:
    """Return the model with the thresholds of `int8.onnx`, and the forward pass of that file.

    Raises CapabilityError for a backbone other than wafercnn, InputError for a file that is not such a graph.
    """
    if model.backbone.name != "wafercnn":
        raise CapabilityError(f"INT8 is exported for backbone wafercnn, not {model.backbone.name}")
    loaded = runtime.OnnxModel.load(path)
    if loaded.label_names != model.label_names:
        raise InputError(f"{path} has the labels {loaded.label_names}, the model {model.label_names}")
    graph = _int8_graph(path)
    name = _features_of(graph)
    graph.graph.output.append(onnx().helper.make_tensor_value_info(name, onnx().TensorProto.FLOAT, ["batch", None]))
    session = runtime.session(graph.SerializeToString())

    def forward(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        size = runtime.BATCH
        blocks = [loaded.preprocessing(list(maps[i : i + size])) for i in range(0, len(maps), size)]
        found = [session.run([name, LOGITS], {IMAGES: block}) for block in blocks]
        return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])

    head = dataclasses.replace(model.head, thresholds=loaded.thresholds)
    return Model(model.backbone, head, model.provenance), forward


def _int8_graph(path: str | Path) -> Any:
    graph = onnx().load_model_from_string(Path(path).read_bytes())
    if RECORD not in {entry.key for entry in graph.metadata_props}:
        raise InputError(f"{path} is not an ONNX graph of qwafer: give int8.onnx of qwafer.quantise")
    return graph


def _features_of(graph: Any) -> str:
    return str(next(node.output[0] for node in graph.graph.node if node.op_type == "Flatten"))


def _onnx(model: Model, review: Review, int8: Any = None) -> bytes:
    """Return the file of a model as ONNX."""
    graph = Graph(model.backbone.name)
    xp = OnnxArrays(graph)
    maps, logits = Value(xp, MAPS, np.uint8), None
    if model.backbone.name == "spatial":
        features = spatial(xp, maps)
    else:
        images = images_of(xp, model, maps)
        if int8 is not None:
            prefix = graph.include(int8, images.name, IMAGES)
            features, logits = (Value(xp, prefix + name, np.float32) for name in (_features_of(int8), LOGITS))
        else:
            form, _ = network_of(model)
            parameters = parameter_tree(form.table, model.backbone.state or {})
            turned = xp.node("Transpose", images, perm=[0, 3, 1, 2])
            name = BACKBONES[model.backbone.name].write(graph, turned.name, parameters)
            features = Value(xp, graph.flat(name), np.float32)
    if logits is None:
        logits = head_logits(xp, model.head.config.name("head"), model.head._evaluated, features)
    for value, name in zip(answers(xp, model, review, features, logits), OUTPUTS, strict=True):
        graph.node("Identity", name, value.name)
    n = len(model.label_names)
    shapes = zip(OUTPUTS, (np.float32, bool, bool), (("batch", n), ("batch", n), ("batch",)), strict=True)
    said = {"labels": model.label_names, "exclusive": review.exclusive}
    made = graph.finished(
        (MAPS, np.uint8, ("batch", "height", "width")), list(shapes), **{EXPORT: canonical_json(said)}
    )
    return bytes(made.SerializeToString(deterministic=True))


def _stablehlo(model: Model, review: Review) -> bytes:
    """Return the file of a model as a serialised `jax.export.Exported`, its batch and the sides of maps symbols."""
    import jax
    from jax import export
    from jax.experimental import enable_x64

    function = jax_function(model, review)
    with enable_x64(), jax.default_matmul_precision("highest"):  # else a GPU multiplies in ten bits of mantissa
        batch, height, width = export.symbolic_shape("batch, height, width")
        shape = jax.ShapeDtypeStruct((batch, height, width), np.uint8)
        return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(shape).serialize())


def _call(content: bytes, form: str) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Return the function in a file."""
    if form == "onnx":
        session = runtime.session(content)
        return lambda maps: tuple(session.run(list(OUTPUTS), {MAPS: maps}))
    import jax
    from jax import export

    call = jax.jit(export.deserialize(bytearray(content)).call)
    return lambda maps: tuple(np.asarray(each) for each in call(maps))


def _by_shape(call: Callable[[np.ndarray], tuple[np.ndarray, ...]], wafers: Any) -> Any:
    """Return the outputs for maps of any shapes, in their order."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, wafer in enumerate(wafers):
        shapes.setdefault(wafer.shape, []).append(place)
    order = np.concatenate([np.asarray(places) for places in shapes.values()])
    parts = [call(np.stack([wafers[i] for i in places])) for places in shapes.values()]
    back = np.argsort(order, kind="stable")
    return tuple(np.concatenate([np.asarray(part[i]) for part in parts])[back] for i in range(len(OUTPUTS)))


def _verified(call: Any, model: Model, review: Review, forward: Forward, maps: list[np.ndarray]) -> Verification:
    """Return how near a file is to the model; raise InputError where it is another function."""
    features, logits = forward(maps)
    wanted = review.answers(logits, features, model.head.thresholds, model.label_names)
    p, labels, flags = _by_shape(call, maps)
    largest = float(np.abs(p - wanted.probabilities).max())
    scale = 10 * TOLERANCE
    if model.head.thresholds:
        margin = np.abs(logits - np.asarray(model.head.thresholds)[None])
    else:
        ranked = np.sort(logits, axis=1)
        margin = np.repeat((ranked[:, -1:] - ranked[:, -2:-1]), logits.shape[1], axis=1)
    near = margin <= scale * (1 + np.abs(logits))
    doubt = np.abs(wanted.confidence - review.confidence) <= scale
    doubt |= np.abs(wanted.distance - review.distance) <= scale * (1 + review.distance)
    doubt |= near.any(axis=1)
    other = ((labels != wanted.labels) & ~near).any(axis=1) | ((flags != wanted.review) & ~doubt)
    if not largest <= TOLERANCE or other.any():
        raise InputError(
            f"the exported file does not give the answers of the model: probabilities differ by up to {largest:.1e} "
            f"(allowed {TOLERANCE:g}), decisions of {int(other.sum())} of {len(maps)} maps; nothing was written"
        )
    return Verification(len(maps), largest, int(near.sum() + doubt.sum()))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _versions(form: str) -> dict[str, str]:
    import importlib.metadata

    names = ("onnx", "onnxruntime") if form == "onnx" else ("jax", "jaxlib")
    return {name: importlib.metadata.version(name) for name in ("qwafer", *names)}
