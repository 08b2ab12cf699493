"""`Threads`: jobs in threads of this process."""

import queue
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType

from qwafer._checks import check_positive_int
from qwafer.execution.job import Event, Failure, Job
from qwafer.registry import load_attribute


class Threads:
    """An `Executor` of `n` threads; the functions of its jobs may be any callables, and their results any objects."""

    def __init__(self, n: int = 1):
        check_positive_int("n", n)
        self.n = n

    def __enter__(self) -> "Threads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def run(self, jobs: Iterable[Job], on_event: Callable[[Event], None]) -> None:
        """Run all jobs; call `on_event`, in this thread, with everything that is known of them."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        pool = ThreadPoolExecutor(self.n)
        try:
            waiting = [pool.submit(_perform, job, events.put) for job in jobs]
            open_jobs = len(waiting)
            while open_jobs:
                event = events.get()
                open_jobs -= event.kind in ("done", "failed")
                on_event(event)
        finally:
            pool.shutdown(cancel_futures=True)


def _perform(job: Job, put: Callable[[Event], None]) -> None:
    put(Event(job.key, "started"))
    try:
        function = load_attribute(job.function) if isinstance(job.function, str) else job.function
        result = function(job.payload, partial(_progress, job.key, put))
    except BaseException as error:
        text = " ".join(str(error).split()) or type(error).__name__
        put(Event(job.key, "failed", failure=Failure(type(error).__name__, text, traceback.format_exc())))
    else:
        put(Event(job.key, "done", 1.0, result))


def _progress(key: str, put: Callable[[Event], None], fraction: float) -> None:
    put(Event(key, "progress", fraction))
