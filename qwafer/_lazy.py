"""What is imported when it is first asked for: public names of a package, and packages of an extra."""

import ast
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from qwafer._errors import CapabilityError


def lazy_attributes(own: Mapping[str, Any]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` (PEP 562) of the package with the globals `own`.

    The names are those that its file imports under `if TYPE_CHECKING:` from places in qwafer, where type checkers find
    them.
    """
    package = own["__name__"]
    places: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(Path(own["__file__"]).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for line in statement.body:
                if isinstance(line, ast.ImportFrom) and line.module is not None:
                    places |= {alias.asname: (line.module, alias.name) for alias in line.names if alias.asname}

    def attribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = places[name]
        if module == package:  # one of its own files, which is an attribute only once it is imported
            return importlib.import_module(f"{module}.{original}")
        return getattr(importlib.import_module(module), original)

    return attribute, lambda: sorted([*own, *places])


def optional_package(name: str, extra: str, what: str) -> ModuleType:
    """Return the package `name` of the extra `extra`; raise CapabilityError, beginning with `what` and its verb ("the
    service needs"), where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(f"{what} the package {name}, which is not here: install qwafer[{extra}]") from error
