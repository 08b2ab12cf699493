"""Post-training quantisation by ONNX Runtime's own tools: 8-bit weights per channel, 8-bit activations per tensor."""

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
    rounds them to int32 multiples of s s_c. Logits are not rounded: their sums leave the last matrix as they are. The form is QDQ (QuantizeLinear and DequantizeLinear around each operator),
    which the runtime turns into integer kernels.
    """
    onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            graph,
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


class _quiet:  # noqa: N801  # used as a function
    """No advice in the log: the graph is folded and checked already, which is what the tools ask for."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)
