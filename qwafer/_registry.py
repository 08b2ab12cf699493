"""Open registries: what a name in Python, in TOML or on the command line stands for.

A name is one that comes with qwafer, or `package.module:attribute` (or `path/to/file.py:attribute`) of anybody's own.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from qwafer._checks import nearest
from qwafer._errors import CapabilityError, InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name; nothing is imported before it is asked for."""

    def __init__(self, kind: str, known: Mapping[str, str]):
        self.kind = kind
        self._known = dict(known)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that come with qwafer."""
        return tuple(self._known)

    def get(self, name: str) -> T:
        """Return the thing called `name`; raise InputError for an unknown name, or one that cannot be imported."""
        if not isinstance(name, str):
            raise InputError(f"`{self.kind}` must be a name, got {name!r}")
        target = self._known.get(name, name)
        if ":" not in target:
            raise InputError(
                f"`{self.kind}` must be one of {', '.join(sorted(self._known))}, or package.module:name of your own, "
                f"got {name!r}{nearest(name, self._known)}"
            )
        return load_attribute(target, self.kind)

    def name_of(self, thing: Any) -> str:
        """Return the name that `get` gives back `thing` for: that of qwafer's own, else `package.module:attribute`.

        The place of a class in a script is the script's file, or its module under `python -m`.

        Raises InputError for a class defined in a function, which no name leads to.
        """
        own = f"{thing.__module__}:{thing.__qualname__}"
        for name, target in self._known.items():
            module, _, attribute = target.partition(":")
            if attribute == thing.__qualname__ and getattr(sys.modules.get(module), attribute, None) is thing:
                return name
        if "<locals>" in thing.__qualname__:
            raise InputError(
                f"`{self.kind}` = {own} is defined in a function, where nothing else finds it: define it in a module"
            )
        file = getattr(sys.modules.get(thing.__module__), "__qwafer_file__", None)
        place = file or (_script_place() if thing.__module__ == "__main__" else None)
        return own if place is None else f"{place}:{thing.__qualname__}"


def load_attribute(target: str, kind: str = "name") -> Any:
    """Return the attribute that `package.module:attribute` or `path/to/file.py:attribute` names."""
    place, _, attribute = target.rpartition(":")
    try:
        module = _load_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"`{kind}` = {target} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"`{kind}` = {target}: {place} has no attribute {part}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def check_unchanged(target: str, kind: str) -> None:
    """Raise InputError where `path/to/file.py:attribute` names a file that has changed since this process imported it:
    what it would be given is not what the file says, and what other processes run.
    """
    place = target.rpartition(":")[0]
    path = Path(place).resolve()
    known = getattr(sys.modules.get(_module_name(path)), "__qwafer_digest__", None)
    if place.endswith(".py") and known is not None and path.is_file() and _content(path) != known:
        raise InputError(
            f"`{kind}` = {target}: {path.name} has changed since this process imported it: start a new process (a "
            "notebook: restart its kernel)"
        )


@contextlib.contextmanager
def foreign(kind: str, name: object) -> Iterator[None]:
    """Turn what anybody's own code (`name` has a colon) raises into InputError, one sentence; qwafer's own fails as
    it is.
    """
    try:
        yield
    except (InputError, CapabilityError):
        raise
    except Exception as error:
        if ":" not in str(name):
            raise
        text = " ".join(str(error).split())
        raise InputError(f"{kind} {name} raised {type(error).__name__}{text and ': ' + text}") from error


def _script_place() -> str | None:
    """Return the part before the colon for things of the script that runs, None where it has no file (a notebook)."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return str(Path(file).resolve()) if file is not None and file.endswith(".py") else None


def _load_module(place: str) -> ModuleType:
    """Return the module at `place`; that of the running script is not made twice, or its classes would differ."""
    script = _script_place()
    if script is not None and script in (place, str(Path(place).resolve())):
        return sys.modules["__main__"]
    return _load_file(place) if place.endswith(".py") else importlib.import_module(place)


def _module_name(path: Path) -> str:
    return f"qwafer_file_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the path of a Python file, from the current directory on")
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__qwafer_file__ = str(path)  # type: ignore[attr-defined]
    module.__qwafer_digest__ = _content(path)  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
