"""Catalyst's patches of JAX and PennyLane, made valid in the thread that compiles alone."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def patching_this_thread() -> Iterator[None]:
    """Let what Catalyst replaces in JAX and PennyLane while it traces and lowers be replaced in this thread alone.

    It replaces functions of JAX's tracing, the call of a QNode and two of JAX's settings for the whole process: what
    another thread traces meanwhile ends in errors of JAX's inner parts. Here other threads get the originals.
    """
    from catalyst import jax_tracer
    from catalyst.utils.patching import Patcher

    enter, settings, owner = Patcher.__enter__, jax_tracer.transient_jax_config, threading.get_ident()

    def enter_here(patcher: Any) -> None:
        for place, name, new in patcher.patch_data:
            old = patcher.backup[place, name] = getattr(place, name)
            setattr(place, name, _by_thread(owner, new, old))

    Patcher.__enter__, jax_tracer.transient_jax_config = enter_here, _settings_here
    try:
        yield
    finally:
        Patcher.__enter__, jax_tracer.transient_jax_config = enter, settings


def _by_thread(owner: int, new: Any, old: Any) -> Any:
    """Return what is `new` in the thread `owner` and `old` in every other one."""
    if not callable(new):
        return _Primitive(owner, new, old)

    @functools.wraps(new)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (new if threading.get_ident() == owner else old)(*args, **kwargs)

    return called


class _Primitive:
    """A primitive of JAX, of which callers take attributes."""

    def __init__(self, owner: int, new: Any, old: Any):
        self._which: Callable[[], Any] = lambda: new if threading.get_ident() == owner else old

    def __getattr__(self, name: str) -> Any:
        return getattr(self._which(), name)


@contextlib.contextmanager
def _settings_here(values: Mapping[str, Any]) -> Iterator[None]:
    """Set settings of JAX in this thread, as its own context managers do."""
    from jax._src import config

    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(getattr(config, name.removeprefix("jax_"))(value))
        yield
