"""`Threads`: jobs in this process, one after the other or side by side."""

from collections.abc import Callable, Iterable
from types import TracebackType

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer.execution.job import Event, Failure, Job, perform
from qwafer.execution.running import Put, run_in_slots


def serial(jobs: int = 1) -> "Threads":
    """Return the executor that runs one job at a time in this process, whatever `jobs` says."""
    return Threads(1)


class Threads:
    """Runs jobs in `n` threads of this process; with one, in the thread that calls `run`.

    A job's function may be given itself. `Job.fresh` and `Job.timeout`, which speak of processes, have no effect; a job
    with an environment of its own is refused. What ends a run waits for the jobs under way.
    """

    def __init__(self, n: int = 1):
        check_positive_int("n", n)
        self._n = n

    def __enter__(self) -> "Threads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(self, jobs: Iterable[Job], on_event: Callable[[Event], None]) -> None:
        """Run all jobs; see `Executor.run`."""
        jobs = list(jobs)
        for job in jobs:
            if job.environment:
                raise InputError(f"{job.key} needs a process of its own environment: use the executor `local`")
        if self._n > 1:
            run_in_slots(self._n, jobs, lambda slot, job, put: _serve(job, put), on_event, lambda: None)
            return

        def put(event: Event) -> None:
            try:
                on_event(event)
            except Exception as error:
                raise _Escape(error) from error

        escaped = None
        try:
            for job in jobs:
                put(Event(job.key, "started"))
                _serve(job, put)
        except _Escape as escape:
            escaped = escape.error
        if escaped is not None:
            raise escaped


class _Escape(BaseException):
    """Carries an error of `on_event` past the job's function, whose own errors are its result."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def _serve(job: Job, put: Put) -> None:
    try:
        result = perform(job.function, job.payload, lambda part: put(Event(job.key, "progress", float(part))))
    except Exception as error:
        put(Event(job.key, "failed", failure=Failure.of(error)))
    else:
        put(Event(job.key, "done", 1.0, result))
