"""The process-wide cache of compiled programs: one compilation per shape, bounded memory, counted."""

import dataclasses
import functools
import importlib.metadata
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from qwafer.circuits import Circuit

LIMIT_BYTES = 256 << 20
"""What the programs in the cache may hold together, by their own estimate; the least recently used go first."""

JIT_BYTES = 3 << 19
"""What XLA keeps for a jitted function: measured as growth of the process over 100 programs."""


class Compiled(Protocol):
    """What the cache holds."""

    @property
    def nbytes(self) -> int:
        """Estimate of the memory it keeps: machine code, argument buffers, results."""
        ...


T = TypeVar("T", bound=Compiled)


@functools.cache
def stack_versions() -> tuple[tuple[str, str], ...]:
    """Return (package, version) of everything whose version shapes a compiled program."""
    packages = ("jax", "jaxlib", "pennylane", "pennylane-catalyst", "pennylane-lightning")
    return tuple((package, importlib.metadata.version(package)) for package in packages)


@dataclasses.dataclass(frozen=True)
class ProgramKey:
    """Everything that shapes a compiled program; programs are shared where all of it is equal, and only there.

    `circuit` brings the gates, the precision (dtype) and the readout with its number of outputs. The alpha mode of a
    head is not among them: alpha multiplies the readout outside the circuit.
    """

    circuit: Circuit
    batch: int
    gradient: bool
    device: str
    diff_method: str
    shots: int | None
    batching: str
    seed: int
    versions: tuple[tuple[str, str], ...] = dataclasses.field(default_factory=stack_versions)


class ProgramCache:
    """Compiled programs by key, least recently used first, together at most `limit_bytes` (but always the newest).

    A program that leaves the cache lives on while a caller holds it; its memory is freed with the last reference.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES):
        self._limit = limit_bytes
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()
        self._hits = self._misses = self._evictions = 0
        self._compile_seconds = 0.0

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the program of `key`; `build()` makes it if it is not resident. An error of `build` leaves no
        trace.
        """
        with self._lock:
            program = self._programs.get(key)
            if program is not None:
                self._hits += 1
                self._programs.move_to_end(key)
                return program
            start = time.perf_counter()
            program = build()
            self._misses += 1
            self._compile_seconds += time.perf_counter() - start
            self._programs[key] = program
            while len(self._programs) > 1 and self._bytes() > self._limit:
                self._programs.popitem(last=False)
                self._evictions += 1
            return program

    def info(self) -> dict[str, Any]:
        """Return hits, misses, compile_seconds (of all misses), evictions, resident, bytes and limit_bytes."""
        with self._lock:
            return {
                "hits": self._hits,
                "misses": self._misses,
                "compile_seconds": self._compile_seconds,
                "evictions": self._evictions,
                "resident": len(self._programs),
                "bytes": self._bytes(),
                "limit_bytes": self._limit,
            }

    def clear(self) -> None:
        """Forget all programs and set all counters to zero."""
        with self._lock:
            self._programs.clear()
            self._hits = self._misses = self._evictions = 0
            self._compile_seconds = 0.0

    def _bytes(self) -> int:
        return sum(program.nbytes for program in self._programs.values())


CACHE, TABLES = ProgramCache(), ProgramCache()
_CLEARS: list[Callable[[], None]] = []

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="_Clearable")


class _Clearable(Protocol):
    def cache_clear(self) -> None: ...


def kept(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` with its results kept by its arguments, those of all such functions in one bounded memory.

    It counts the arrays in a result, and `JIT_BYTES` for one that is a jitted function. `cache_clear` forgets them.
    """

    @functools.wraps(function)
    def looked_up(*args: P.args, **kwargs: P.kwargs) -> R:
        key = (function, args, tuple(sorted(kwargs.items())))
        result: R = TABLES.get(key, lambda: _Kept(function(*args, **kwargs))).value
        return result

    return looked_up


def cleared(cached: C) -> C:
    """Return `cached`, a function under `functools.lru_cache`, which `cache_clear` clears from now on."""
    _CLEARS.append(cached.cache_clear)
    return cached


class _Kept:
    def __init__(self, value: Any):
        self.value, self.nbytes = value, _bytes_of(value)


def _bytes_of(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes_of, value))
    if dataclasses.is_dataclass(value):
        return sum(_bytes_of(getattr(value, field.name)) for field in dataclasses.fields(value))
    return JIT_BYTES if callable(value) else 0


def cache_info() -> dict[str, Any]:
    """Return the statistics of the process's compiled programs; see `ProgramCache.info`."""
    return CACHE.info()


def cache_clear() -> None:
    """Forget the process's compiled programs and set the statistics to zero; also forget all tables and functions that
    the library keeps by circuit or program.
    """
    CACHE.clear()
    TABLES.clear()
    for clear in _CLEARS:
        clear()
