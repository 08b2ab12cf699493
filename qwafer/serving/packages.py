"""The optional packages of the service, imported when they are first needed."""

import importlib
from types import ModuleType

from qwafer._errors import CapabilityError


def fastapi() -> ModuleType:
    """Return the package fastapi; raise CapabilityError where it is not installed."""
    return _optional("fastapi")


def uvicorn() -> ModuleType:
    """Return the package uvicorn; raise CapabilityError where it is not installed."""
    return _optional("uvicorn")


def prometheus() -> ModuleType:
    """Return the package prometheus_client; raise CapabilityError where it is not installed."""
    return _optional("prometheus_client")


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(
            f"the service needs the package {name}, which is not here: install qwafer[serve]"
        ) from error
