"""The optional packages of the service, imported when they are first needed."""

from types import ModuleType

from qwafer._lazy import optional_package


def fastapi() -> ModuleType:
    """Return the package fastapi; raise CapabilityError where it is not installed."""
    return _package("fastapi")


def uvicorn() -> ModuleType:
    """Return the package uvicorn; raise CapabilityError where it is not installed."""
    return _package("uvicorn")


def prometheus() -> ModuleType:
    """Return the package prometheus_client; raise CapabilityError where it is not installed."""
    return _package("prometheus_client")


def _package(name: str) -> ModuleType:
    return optional_package(name, "serve", "the service needs")
