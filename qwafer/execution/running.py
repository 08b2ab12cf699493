"""What executors, and those who use them, share: jobs in slots, events as progress, results or the first failure."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from qwafer import _errors
from qwafer.execution.job import Event, Executor, Job, OnProgress, Progress

Put = Callable[[Event], None]


class Tally:
    """Turns the events of one stage into `Progress`; call it with each of them."""

    def __init__(self, stage: str, total: int, progress: OnProgress | None):
        self._stage, self._total, self._progress = stage, total, progress
        self._parts: dict[str, float] = {}
        self._nodes: set[str] = set()
        self._failed = 0
        self._say("")

    def __call__(self, event: Event) -> None:
        """Count the event and report where the stage stands."""
        self._parts[event.key] = 1.0 if event.kind in ("done", "failed") else event.fraction
        self._failed += event.kind == "failed"
        self._nodes |= {event.node} - {""}
        count = len(self._nodes)
        self._say(f"{event.key}, {count} node{'s' * (count > 1)} so far" if count else event.key)

    def _say(self, text: str) -> None:
        if self._progress is not None and self._total:
            self._progress(Progress(self._stage, sum(self._parts.values()), self._total, self._failed, text))


def run_all(executor: Executor, jobs: Iterable[Job], on_event: Put = lambda event: None) -> dict[str, Any]:
    """Run all jobs and return what each returned, by key; the first failure ends the others.

    Raises the job's InputError, CapabilityError or MemoryError again; RuntimeError, with the traceback, for others.
    """
    results: dict[str, Any] = {}

    def note(event: Event) -> None:
        on_event(event)
        if event.kind == "done":
            results[event.key] = event.result
        if event.failure is not None:
            failure = event.failure
            if failure.type in ("InputError", "CapabilityError"):
                raise getattr(_errors, failure.type)(f"{event.key}: {failure.error}")
            if failure.type == "MemoryError":
                raise MemoryError(f"{event.key}: {failure.error}")
            raise RuntimeError(f"{event.key} failed: {failure.type}: {failure.error}\n{failure.details}")

    executor.run(jobs, note)
    return results


def run_in_slots(
    n: int,
    jobs: Iterable[Job],
    serve: Callable[[int, Job, Put], None],
    on_event: Put,
    stop: Callable[[], None],
    served: dict[int, str] | None = None,
    ended: Callable[[int], None] = lambda slot: None,
) -> None:
    """Run jobs in `n` threads by `serve(slot, job, put)`, which puts their events; `on_event` gets them in this thread.

    An exception out of `on_event` or `serve`, and Ctrl-C, starts no other job, calls `stop`, and comes out of here once
    the threads have ended. `served` holds the family that each slot served last, and is kept up to date. `ended` is
    called with every slot for which there is no job left.
    """
    waiting = _Waiting(jobs, {} if served is None else served)
    open_jobs = len(waiting)
    events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()

    def work(slot: int) -> None:
        try:
            while True:
                job = waiting.take(slot)
                if job is None:
                    ended(slot)
                    return
                events.put(Event(job.key, "started"))
                serve(slot, job, events.put)
        except BaseException as error:
            events.put(error)

    threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(min(n, open_jobs))]
    try:
        for thread in threads:
            thread.start()
        while open_jobs:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            open_jobs -= event.kind in ("done", "failed")
            on_event(event)
    except BaseException:
        waiting.clear()
        stop()
        raise
    finally:
        for thread in threads:
            thread.join()


class _Waiting:
    """Jobs in order, but for families: a slot goes on with the family it served, and leaves those of others to them."""

    def __init__(self, jobs: Iterable[Job], served: dict[int, str]):
        self._families: dict[str, deque[tuple[int, Job]]] = {}  # each with the place of a job among all
        for place, job in enumerate(jobs):
            self._families.setdefault(job.family, deque()).append((place, job))
        self._served = served
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._families.values()))

    def clear(self) -> None:
        """Forget all jobs."""
        with self._lock:
            self._families.clear()

    def take(self, slot: int) -> Job | None:
        """Return the next job of `slot`: of its own family, else of none or one that no slot serves, else the first."""
        with self._lock:
            if not self._families:
                return None
            own = self._served.get(slot)
            others = {family for other, family in self._served.items() if other != slot and family}

            def rank(family: str) -> tuple[int, int]:
                return 2 * (not family or family != own) + (family in others), self._families[family][0][0]

            family = min(self._families, key=rank)
            _, job = self._families[family].popleft()
            if not self._families[family]:
                del self._families[family]
            self._served[slot] = family
            return job
