"""ONNX graphs of trained models, their INT8 form, and ONNX Runtime, in which both run; needs the extra `onnx`."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer.onnx.calibration import Calibration as Calibration
    from qwafer.onnx.options import Int8Options as Int8Options
    from qwafer.onnx.quantisation import quantise as quantise
    from qwafer.onnx.report import Int8Report as Int8Report
    from qwafer.onnx.runtime import OnnxModel as OnnxModel
    from qwafer.onnx.write import model_graph as model_graph

__getattr__, __dir__ = lazy_attributes(globals())
