"""The optional packages of this room, imported when they are first needed."""

from types import ModuleType

from qwafer._lazy import optional_package


def onnx() -> ModuleType:
    """Return the package onnx; raise CapabilityError where it is not installed."""
    return _package("onnx")


def onnxruntime() -> ModuleType:
    """Return the package onnxruntime; raise CapabilityError where it is not installed."""
    return _package("onnxruntime")


def _package(name: str) -> ModuleType:
    return optional_package(name, "onnx", "ONNX graphs need")
