"""The optional packages of this room, imported when they are first needed."""

import importlib
from types import ModuleType

from qwafer._errors import CapabilityError


def onnx() -> ModuleType:
    """Return the package onnx; raise CapabilityError where it is not installed."""
    return _optional("onnx")


def onnxruntime() -> ModuleType:
    """Return the package onnxruntime; raise CapabilityError where it is not installed."""
    return _optional("onnxruntime")


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(
            f"ONNX graphs need the package {name}, which is not here: install qwafer[onnx]"
        ) from error
