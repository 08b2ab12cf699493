"""Post-training quantisation by ONNX Runtime's own tools: 8-bit weights per channel, 8-bit activations per tensor."""

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer.onnx.networks import BACKBONES
from qwafer.onnx.packages import onnx, onnxruntime
from qwafer.onnx.write import IMAGES


def post_training(graph: Any, images: Iterable[np.ndarray]) -> Any:
    """Return the quantised `ModelProto` of an `integer` graph, its ranges those of `images` (batch, H, W, 3).

    Weights are int8, w = s_c q with s_c = max abs(w) / 127 for each output channel; activations uint8, x = s (q - z),
    over the smallest and largest value that any calibration map gives. Biases stay float32 in the file: the runtime
    rounds them to int32 multiples of s s_c. Logits are not rounded: their sums leave the last matrix as they are. The
    form is QDQ (QuantizeLinear and DequantizeLinear around each operator), which the runtime turns into integer
    kernels.
    """
    onnxruntime()
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, path = (Path(folder) / name for name in ("given.onnx", "int8.onnx"))
        onnx().save(graph, given)  # a graph in memory would come back without its weights
        quantize_static(
            given,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=list(BACKBONES[graph.graph.name].floating),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        found = onnx().load(path)
    del found.graph.value_info[:]  # shapes of inner values, which readers infer
    onnx().helper.set_model_props(found, {entry.key: entry.value for entry in graph.metadata_props})
    return found


def finished(graph: Any) -> Any:
    """Return a quantised graph as it is written: biases of matrices in int32, short names, the same function."""
    written = with_short_names(with_integer_biases(graph))
    onnx().checker.check_model(written, full_check=True)
    return written


def with_integer_biases(graph: Any) -> Any:
    """Return a copy of a quantised graph in which the biases of matrices are stored as int32.

    b = s_x s_c q, as the runtime itself rounds those of convolutions. A matrix whose output is not quantised, that of
    the logits, gets an 8-bit kernel only so.
    """
    helper, numpy = onnx().helper, onnx().numpy_helper
    copy = type(graph)()
    copy.CopyFrom(graph)
    constants = {each.name: numpy.to_array(each) for each in graph.graph.initializer}
    source = {node.output[0]: node for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    first = []
    for node in copy.graph.node:
        if node.op_type != "Gemm" or not set(node.input[:2]) <= set(source) or node.input[2] not in constants:
            continue
        bias = node.input[2]
        step = np.asarray(constants[source[node.input[0]].input[1]] * constants[source[node.input[1]].input[1]])
        added = {
            f"{bias}_quantized": np.round(constants[bias] / step).astype(np.int32),
            f"{bias}_scale": step,
            f"{bias}_zero_point": np.zeros(len(step), np.int32),
        }
        copy.graph.initializer.extend(numpy.from_array(array, name) for name, array in added.items())
        copy.graph.initializer.remove(next(each for each in copy.graph.initializer if each.name == bias))
        node.input[2] = f"{bias}_DequantizeLinear_Output"
        first.append(helper.make_node("DequantizeLinear", list(added), [node.input[2]], name=f"{bias}_codes", axis=0))
    nodes = [*first, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def with_short_names(graph: Any) -> Any:
    """Return a copy in which inner values have short names, and only layers have one: names are 5% of a small file."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    kept = {each.name for each in (*copy.graph.input, *copy.graph.output)}
    short: dict[str, str] = {}
    for node in copy.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name if name in kept else short.setdefault(name, f"v{len(short)}")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
    for constant in copy.graph.initializer:
        constant.name = short[constant.name]
    return copy


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let no advice into the log: the graph is folded and checked already, which is what the tools ask for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
