"""Worker processes that take one task at a time; one that dies costs its task, not the sweep."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from qwafer._checks import check_positive_int
from qwafer._process import worker_environment

LOG_TAIL = 4000
"""Bytes of a dead worker's stderr that its error keeps."""


@dataclass(frozen=True)
class Task:
    """One message to a worker and what becomes of it."""

    key: tuple[str, int]
    """Arm and seed."""
    message: Mapping[str, Any]
    """Plain JSON data."""
    fresh: bool = False
    """Run it in a process of its own: for tasks whose result would depend on what ran in the process before."""


@dataclass(frozen=True)
class Event:
    """What a worker reports about a task."""

    key: tuple[str, int]
    kind: str
    """`started`, `progress`, `done` or `failed`."""
    fraction: float = 0.0
    """Part of the task that is done, for `progress`."""
    payload: Mapping[str, Any] | None = None
    """What came with it: for `failed` the texts `error`, `type` and `details`."""


class WorkerPool:
    """`jobs` processes of `command`, each fed one JSON line a task on stdin and answering in JSON lines on stdout.

    Every process has the environment of `worker_environment` (one thread) whatever `jobs` is, so that a result does not
    depend on how many run side by side. A process starts with its first task and serves until the pool is closed; one
    that dies fails its task and is replaced. Workers leave when their stdin closes, as it does when this process dies.
    """

    def __init__(self, command: Sequence[str], *, jobs: int = 2, environment: Mapping[str, str] | None = None):
        check_positive_int("jobs", jobs)
        self._command = list(command)
        self._environment = dict(worker_environment(1) if environment is None else environment)
        self._slots: list[_Worker | None] = [None] * jobs
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, tasks: Iterable[Task], on_event: Callable[[Event], None]) -> None:
        """Run all tasks; call `on_event` in this thread for everything that the workers report.

        Returns when every task is done or has failed. An exception out of `on_event`, and Ctrl-C, kills the workers.
        """
        waiting = deque(tasks)
        open_tasks = len(waiting)
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._serve, args=(slot, waiting, events), daemon=True)
            for slot in range(min(len(self._slots), open_tasks))
        ]
        try:
            for thread in threads:
                thread.start()
            while open_tasks:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                open_tasks -= event.kind in ("done", "failed")
                on_event(event)
        except BaseException:
            waiting.clear()
            self._kill()
            raise
        finally:
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """End the workers by closing their stdin; one that does not leave within ten seconds is killed."""
        with self._lock:
            self._closed = True
            workers, self._slots = [worker for worker in self._slots if worker is not None], [None] * len(self._slots)
        for worker in workers:
            worker.stop()

    def _kill(self) -> None:
        """Kill the workers, with all that they started, and start no other."""
        with self._lock:
            self._closed = True
            for worker in self._slots:
                if worker is not None:
                    worker.kill()

    def _serve(self, slot: int, waiting: deque[Task], events: "queue.SimpleQueue[Event | BaseException]") -> None:
        """Feed one worker until no task waits; runs in a thread of its own."""
        try:
            while True:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                worker = self._worker(slot, fresh=task.fresh)
                if worker is None:
                    return
                events.put(Event(task.key, "started"))
                # What a failure leaves behind in a process must not reach the next task.
                if not worker.perform(task, events.put) or task.fresh:
                    self._retire(slot)
        except BaseException as error:
            events.put(error)

    def _worker(self, slot: int, *, fresh: bool) -> "_Worker | None":
        """Return the living worker of `slot`, started where there is none; None once the pool is closed."""
        if fresh:
            self._retire(slot)
        with self._lock:
            if self._closed:
                return None
            worker = self._slots[slot]
            if worker is None or not worker.alive():
                if worker is not None:
                    worker.stop()
                worker = self._slots[slot] = _Worker(self._command, self._environment)
            return worker

    def _retire(self, slot: int) -> None:
        with self._lock:
            worker, self._slots[slot] = self._slots[slot], None
        if worker is not None:
            worker.stop()


class _Worker:
    """One process and its pipes."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # `stop` closes it
        # A session of its own keeps a terminal's Ctrl-C from the worker: this process decides when it ends.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(environment),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def alive(self) -> bool:
        return self._process.poll() is None

    def perform(self, task: Task, report: Callable[[Event], None]) -> bool:
        """Send the task, report until it is done or has failed, and return whether it is done."""
        with contextlib.suppress(BrokenPipeError):  # it died before it took the task, which `_death` reports
            self._input.write((json.dumps(task.message) + "\n").encode())
            self._input.flush()
        for line in self._output:
            answer = json.loads(line)
            kind = answer.pop("event")
            report(Event(task.key, kind, float(answer.get("fraction", 0.0)), answer))
            if kind in ("done", "failed"):
                return bool(kind == "done")
        report(Event(task.key, "failed", payload=self._death()))
        return False

    def _death(self) -> dict[str, str]:
        status = self._process.wait()
        cause = f"with status {status}"
        if status < 0:
            cause = f"by signal {-status} ({_signal_name(-status)})"
            if status == -signal.SIGKILL:
                cause += "; the system kills a process so that takes more memory than there is"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL))
        details = self._log.read().decode(errors="replace").strip()
        return {"type": "WorkerDied", "error": f"the worker process ended {cause}", "details": details}

    def kill(self) -> None:
        """Kill the process and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process and release its pipes."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._output.close()
        self._log.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
