"""`quantise`: a trained model to INT8, calibrated, fine-tuned where asked, and measured against float32 in one run."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import check_path
from qwafer._errors import InputError
from qwafer._process import compiler_options
from qwafer._records import save_record
from qwafer.data import WaferMaps
from qwafer.evaluation import bca_metric_differences
from qwafer.execution.job import OnProgress
from qwafer.model import Model
from qwafer.onnx.calibration import Calibration, calibration_rows, rows_of, split_of_run
from qwafer.onnx.fine_tune import FineTuning, Loader, fine_tune
from qwafer.onnx.forward import Forward
from qwafer.onnx.options import Int8Options
from qwafer.onnx.packages import onnx, onnxruntime
from qwafer.onnx.post_training import finished, post_training
from qwafer.onnx.report import Agreement, Int8Report, Variant
from qwafer.onnx.runtime import OnnxModel, latencies, save, session, with_thresholds
from qwafer.onnx.write import model_graph, network_of
from qwafer.training import Prepared
from qwafer.training._environment import environment
from qwafer.training._judge import Judgement, judge

AGAINST = {"float32": None, "int8": "float32", "float32 fine-tuned": "float32", "int8 fine-tuned": "float32 fine-tuned"}
"""What each variant is compared with: INT8 with the float32 network of as much training."""
REPORT = "int8.json"
INTEGER = {"QLinearConv": "Conv", "QGemm": "Gemm"}
"""Operators of ONNX Runtime that compute in 8 bits, and what they stand for."""
CHUNK = 16
"""Maps per call of a calibration and of a forward pass in JAX."""


def quantise(
    model: Model,
    maps: WaferMaps,
    out: str | Path,
    options: Int8Options | None = None,
    *,
    split: np.ndarray | None = None,
    progress: OnProgress | None = None,
) -> Int8Report:
    """Write `model` to the folder `out` as ONNX graphs in float32 and INT8, measure them, and return what was found.

    Weights become int8 with a scale per output channel, activations uint8 with a range per tensor: from maps of the
    training or validation split, never test, recorded by digest. With `fine_tune_epochs` the weights are trained on
    with the rounding in place, and so is float32 without it, as the control: what the further training does is not what
    quantisation does. The epoch of the smallest validation loss is kept. Every file is judged as any run
    is, from its own logits as ONNX Runtime computes them: thresholds from validation, then the test split, once, at
    the end. The folder gets `float32.onnx` and `int8.onnx`, `float32-fine-tuned.onnx` and `int8-fine-tuned.onnx` where
    asked, which `OnnxModel.load` reads, and the report, `int8.json`. Existing files of these names are replaced.

    Args:
        model: a model with the backbone `wafercnn` or `mobilenet_v3_small`, and the head `linear` or `mlp`.
        maps: all maps of the run that trained its head.
        out: the folder.
        options: how; see `Int8Options`.
        split: (N,) of `train`, `val`, `test`, where the split came with the features and the backbone cannot tell
            it, as one that was read from a file cannot: `FeatureSet.split`.
        progress: called while it fine-tunes.

    Raises:
        CapabilityError: a backbone or a head that cannot be written; onnx or onnxruntime is not installed.
        InputError: maps that do not give the split of the run, fewer different maps than calibration asks for.
    """
    options = Int8Options() if options is None else options
    if not isinstance(options, Int8Options):
        raise InputError(f"`options` must be Int8Options, got {type(options).__name__}")
    if not isinstance(maps, WaferMaps):
        raise InputError(f"`maps` must be WaferMaps, got {type(maps).__name__}: qwafer.read_maps reads them")
    folder = check_path(out)
    onnxruntime()
    graph = model_graph(model)
    prepared = split_of_run(model, maps, split)
    rows, calibration = calibration_rows(prepared, options.calibrate_on, options.calibration_maps, options.seed)
    images = _loader(model, maps)
    integer = model_graph(model, integer=True)
    graphs = {"float32": graph, "int8": post_training(integer, _in_chunks(images, rows))}
    tuning: dict[str, FineTuning] = {}
    for name, start in (("float32", graph), ("int8", integer)) if options.fine_tune_epochs else ():
        tuned = f"{name} fine-tuned"
        objective = model.head.config.objective
        graphs[tuned], tuning[tuned] = fine_tune(graphs[name], start, prepared, images, objective, options, progress)
    graphs = {name: finished(graph) if name.startswith("int8") else graph for name, graph in graphs.items()}
    return _measured(model, maps, folder, options, prepared, graphs, (calibration, tuning))


def _measured(
    model: Model,
    maps: WaferMaps,
    folder: Path,
    options: Int8Options,
    prepared: Prepared,
    graphs: dict[str, Any],
    found: tuple[Calibration, dict[str, FineTuning]],
) -> Int8Report:
    """Write each graph, judge it, time all of them in turns, and write the report."""
    parts = {part: rows_of(prepared, part) for part in ("val", "test")}
    judged: dict[str, Judgement] = {}
    for name, graph in graphs.items():
        runs = OnnxModel.of(graph)
        judged[name] = judge(prepared, {part: runs.logits(_of(maps, rows)) for part, rows in parts.items()})
        graphs[name] = with_thresholds(graph, judged[name].thresholds)
    sessions = {name: session(graph.SerializeToString()) for name, graph in graphs.items()}
    images = _loader(model, maps)
    timed = [
        latencies(sessions, images(np.resize(parts["test"], batch)), options.latency_calls)
        for batch in (options.latency_batches if options.latency_calls else ())
    ]
    variants = []
    for name, graph in graphs.items():
        own, against = judged[name], AGAINST[name]
        gains = {} if against is None else _gains(own, judged[against], exclusive=prepared.exclusive)
        file = f"{name.replace(' ', '-')}.onnx"
        suffix = "" if prepared.exclusive else "_tuned"
        integer, layers = integer_layers(graph)
        variants.append(
            Variant(
                name=name,
                file=file,
                file_bytes=save(graph, folder / file),
                against=against,
                weight_bytes=_weight_bytes(graph),
                thresholds=own.thresholds,
                val_f1=own.val.macro[f"f1{suffix}"],
                test_f1=own.test.macro[f"f1{suffix}"],
                test_exact_match=own.test.macro[f"exact_match{suffix}"],
                f1_gain=gains.get("f1"),
                exact_match_gain=gains.get("exact_match"),
                agreement=_agreement(own, _expected(name, model, graph, maps, images, parts["val"])),
                integer_layers=integer,
                layers=layers,
                latency=tuple(each[name] for each in timed),
            )
        )
    report = Int8Report(
        network=model.backbone.name,
        head=model.head.config.name("head"),
        random_weights=model.backbone.record.get("random_weights"),
        options=dataclasses.asdict(options),
        split=prepared.split.digest,
        n_maps=prepared.n_examples,
        calibration=found[0],
        fine_tuning=found[1],
        variants=tuple(variants),
        runtime=onnxruntime().__version__,
        environment=environment(),
    )
    save_record(folder / REPORT, report)
    return report


def integer_layers(graph: Any) -> tuple[int, int]:
    """Return how many convolutions and matrices of `graph` ONNX Runtime runs in 8 bits, and how many there are."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "optimised.onnx"
        session(graph.SerializeToString(), path)
        counts = Counter(node.op_type for node in onnx().load(path).graph.node)
    total = sum(node.op_type in INTEGER.values() for node in graph.graph.node)
    return sum(counts[name] for name in INTEGER), total


def _loader(model: Model, maps: WaferMaps) -> Loader:
    """Return the function from rows of `maps` to the images of the model's preprocessing."""
    preprocessing = network_of(model)[0].preprocessing
    return lambda rows: preprocessing([maps.maps[row] for row in rows])


def _in_chunks(images: Loader, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK):
        yield images(rows[start : start + CHUNK])


def _of(maps: WaferMaps, rows: np.ndarray) -> list[np.ndarray]:
    return [maps.maps[row] for row in rows]


def _gains(own: Judgement, first: Judgement, *, exclusive: bool) -> dict[str, Any]:
    limits: dict[str, Any] = {} if exclusive else {"thresholds_a": own.thresholds, "thresholds_b": first.thresholds}
    return bca_metric_differences(
        own.outputs["test_logits"],
        first.outputs["test_logits"],
        own.outputs["test_labels"],
        metrics=("f1", "exact_match"),
        exclusive=exclusive,
        **limits,
    )


def _expected(name: str, model: Model, graph: Any, maps: WaferMaps, images: Loader, rows: np.ndarray) -> np.ndarray:
    """Return the logits of `rows` that JAX computes: of float32 the model's own, else those of the graph."""
    if name == "float32":
        return np.asarray(model.predict(_of(maps, rows)).logits)
    import jax

    compute: Callable[[Any], Any] = jax.jit(Forward.of(graph).logits, compiler_options=compiler_options())
    padded = np.resize(rows, -(-len(rows) // CHUNK) * CHUNK)
    return np.concatenate([np.asarray(compute(batch)) for batch in _in_chunks(images, padded)])[: len(rows)]


def _agreement(own: Judgement, expected: np.ndarray) -> Agreement:
    found = own.outputs["val_logits"]
    if own.thresholds:
        same = (found > np.asarray(own.thresholds)[None]) == (expected > np.asarray(own.thresholds)[None])
    else:
        same = found.argmax(axis=1) == expected.argmax(axis=1)
    return Agreement(float(np.abs(found - expected).max()), float(expected.std()), float(same.mean()))


def _weight_bytes(graph: Any) -> int:
    """Return the bytes of the arrays that are weights: what is multiplied, as it is stored."""
    sizes = {each.name: onnx().numpy_helper.to_array(each).nbytes for each in graph.graph.initializer}
    source = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    names = (node.input[1] for node in graph.graph.node if node.op_type in INTEGER.values())
    return sum(sizes[source.get(name, name)] for name in names)
