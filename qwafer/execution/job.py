"""`Job`, `Event`, `Progress`, and the `Executor` that turns the first into the second."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from qwafer._process import configure_jax
from qwafer._registry import load_attribute

F = TypeVar("F", bound=Callable[[Any, Callable[[float], None]], Any])

ReportPart = Callable[[float], None]
"""Called by a running job with the fraction of it that is done."""


@dataclass(frozen=True)
class Job:
    """A function of JSON data that returns JSON data, to be called wherever an executor sees fit."""

    key: str
    """Names the job in its events; unique in one call of `Executor.run`."""
    function: str | Callable[[Any, ReportPart], Any]
    """`package.module:function`, called as `function(payload, report)`; the function itself only where the executor
    runs in this process."""
    payload: Any = None
    """Plain JSON data."""
    fresh: bool = False
    """Run it in a process of its own: for jobs whose result would depend on what ran in the process before."""
    timeout: float | None = None
    """Seconds without an event after which the job has failed and its process is killed; none: no limit."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process; jobs of different environments do not share one."""
    family: str = ""
    """Jobs of one family share what a process compiles: a process that served the family takes its next job first."""
    reads: tuple[str, ...] = ()
    """Files that the function reads, as its payload names them: an executor whose processes see another disk brings
    them there, and gives the function a payload with the paths of its own."""
    writes: tuple[str, ...] = ()
    """Paths that it writes, in the same way: what is a file afterwards is brought back. A folder, as of checkpoints,
    stays where it is."""


@dataclass(frozen=True)
class Failure:
    """What became of a job that raised, or whose process died."""

    type: str
    """Name of the exception's class; `WorkerDied` or `TimedOut` where there is none."""
    error: str
    """One sentence."""
    details: str = ""
    """The traceback, or the end of what the process wrote to stderr."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return what became of a job that raised `error`."""
        name = "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
        return cls(name, " ".join(str(error).split()) or name, "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Event:
    """What an executor says about a job."""

    key: str
    kind: str
    """`started`, `progress`, `done` or `failed`."""
    fraction: float = 0.0
    """Part of the job that is done."""
    result: Any = None
    """What the function returned, for `done`."""
    failure: Failure | None = None
    """For `failed`."""
    node: str = ""
    """The machine of a cluster that did it, for `done` and `failed`; empty for this one."""


@dataclass(frozen=True)
class Progress:
    """Where a long task stands; the one type that every function with a `progress` argument calls it with."""

    stage: str
    """What is being done: `features`, `runs`, `timing`, ...."""
    done: float
    """Units done, with fractions of those under way."""
    total: int
    """Units in all."""
    failed: int = 0
    """Units that failed."""
    text: str = ""
    """What is being done just now, where a stage has names for it."""
    note: str = ""
    """A sentence that the user should read before waiting."""


OnProgress = Callable[[Progress], None]


@runtime_checkable
class Executor(Protocol):
    """Something that runs jobs: processes of this machine, threads of this process, a cluster.

    Entering it starts nothing, leaving it ends what it started, and it may be entered again. One that does not run a
    job by `python -m qwafer.execution.worker` calls `perform(job.function, job.payload, report)`.
    """

    def run(self, jobs: Iterable[Job], on_event: Callable[[Event], None]) -> None:
        """Run all jobs; call `on_event`, in this thread, with everything that is known of them.

        Returns when every job is done or has failed. An exception out of `on_event`, and Ctrl-C, ends what runs.
        """
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def plain(function: F) -> F:
    """Mark a job function as one that computes nothing with JAX, so that JAX is not loaded for it."""
    function.plain = True  # type: ignore[attr-defined]
    return function


def perform(function: str | Callable[[Any, ReportPart], Any], payload: Any, report: ReportPart) -> Any:
    """Return what a job's function returns.

    A name is what stands for the function in a process of qwafer's own: JAX is configured for it (`configure_jax`)
    unless the function is `plain`. A function given itself is called in this process as it is.
    """
    if not isinstance(function, str):
        return function(payload, report)
    loaded = load_attribute(function, "function")
    if not getattr(loaded, "plain", False):
        configure_jax()
    return loaded(payload, report)
