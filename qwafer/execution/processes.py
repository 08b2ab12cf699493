"""`LocalProcesses`: worker processes of this machine; one that dies costs its job, not the others."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._process import worker_environment
from qwafer.execution.job import Event, Failure, Job
from qwafer.execution.running import Put, run_in_slots

COMMAND = (sys.executable, "-P", "-m", "qwafer.execution.worker")
"""What a worker is. -P: the current directory is on its path only where it is on that of this process."""
STOPPED = 60.0
"""Seconds after which a worker that a signal has stopped is killed, and its job has failed."""
POLL = 2.0
"""Seconds between two looks at a worker."""
LOG_TAIL = 4000
"""Bytes of a dead worker's stderr that its failure keeps."""


class LocalProcesses:
    """`jobs` worker processes, each fed one job at a time; they import whatever this process can.

    Every process has the environment of `worker_environment(1)`, one thread, or `environment` where that is given, so
    that a result does not depend on how many run side by side. A process starts with its first job and serves until the
    executor is left; one whose job failed is replaced. Workers leave when their stdin closes, as it does when this
    process dies. A job's function must be given by name.
    """

    def __init__(self, jobs: int = 2, environment: Mapping[str, str] | None = None):
        check_positive_int("jobs", jobs)
        self._environment = dict(worker_environment(1) if environment is None else environment)
        self._slots: list[_Worker | None] = [None] * jobs
        self._families = dict.fromkeys(range(jobs), "")
        self._lock = threading.Lock()
        self._killed = False

    def __enter__(self) -> "LocalProcesses":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in range(len(self._slots)):
            self._retire(slot)

    def run(self, jobs: Iterable[Job], on_event: Callable[[Event], None]) -> None:
        """Run all jobs; an exception out of `on_event`, and Ctrl-C, kills the workers. See `Executor.run`."""
        jobs = list(jobs)
        for job in jobs:
            if not isinstance(job.function, str):
                raise InputError(f"{job.key}: give the job's function as package.module:name to run it in a process")
        self._killed = False
        run_in_slots(len(self._slots), jobs, self._serve, on_event, self._kill, self._families)

    def _kill(self) -> None:
        """Kill the workers, with all that they started, and start no other."""
        with self._lock:
            self._killed = True
            for worker in self._slots:
                if worker is not None:
                    worker.kill()

    def _serve(self, slot: int, job: Job, put: Put) -> None:
        worker = self._worker(slot, job)
        # What a failure leaves behind in a process must not reach the next job.
        if worker is not None and (not worker.perform(job, put) or job.fresh):
            self._retire(slot)

    def _worker(self, slot: int, job: Job) -> "_Worker | None":
        """Return the living worker of `slot` that suits the job, started where there is none; None after a kill."""
        worker = self._slots[slot]
        if worker is not None and (job.fresh or not worker.alive() or worker.own != job.environment):
            self._retire(slot)
        with self._lock:
            if self._killed:
                return None
            worker = self._slots[slot]
            if worker is None:
                worker = self._slots[slot] = _Worker(self._environment, job.environment)
            return worker

    def _retire(self, slot: int) -> None:
        with self._lock:
            worker, self._slots[slot] = self._slots[slot], None
            self._families[slot] = ""  # what the process had compiled has gone with it
        if worker is not None:
            worker.stop()


class _Worker:
    """One process and its pipes."""

    def __init__(self, environment: Mapping[str, str], own: Mapping[str, str]):
        self.own = own
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # `stop` closes it
        whole = {**environment, **own}
        # A session of its own keeps a terminal's Ctrl-C from the worker: this process decides when it ends.
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**whole, "PYTHONPATH": import_path(whole.get("PYTHONPATH", ""))},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def alive(self) -> bool:
        return self._process.poll() is None

    def perform(self, job: Job, put: Put) -> bool:
        """Send the job, report until it is done or has failed, and return whether it is done."""
        watch = _Watch(self._process.pid, job.timeout, self.kill)
        watch.start()
        try:
            done = self._answers(job, put, watch)
        finally:
            watch.end()  # it may be at work just now
        return done and not watch.reason

    def _answers(self, job: Job, put: Put, watch: "_Watch") -> bool:
        with contextlib.suppress(BrokenPipeError):  # it died before it took the job, which `_death` reports
            self._input.write((json.dumps({"function": job.function, "payload": job.payload}) + "\n").encode())
            self._input.flush()
        while line := self._output.readline():
            if watch.reason:
                break
            watch.heard()
            answer = json.loads(line)
            if answer.pop("kind") == "progress":
                put(Event(job.key, "progress", answer["fraction"]))
            elif "result" in answer:
                put(Event(job.key, "done", 1.0, answer["result"]))
                return True
            else:
                put(Event(job.key, "failed", failure=Failure(**answer)))
                return False
        if watch.reason:
            failure = Failure("TimedOut", watch.reason, self._said())
        else:
            failure = Failure("WorkerDied", self._death(), self._said())
        put(Event(job.key, "failed", failure=failure))
        return False

    def _death(self) -> str:
        status = self._process.wait()
        cause = f"with status {status}"
        if status < 0:
            cause = f"by signal {-status} ({_signal_name(-status)})"
            if status == -signal.SIGKILL:
                cause += "; the system kills a process so that takes more memory than there is"
        return f"the worker process ended {cause}"

    def _said(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_TAIL))
        return self._log.read().decode(errors="replace").strip()

    def kill(self) -> None:
        """Kill the process and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process, at the latest after ten seconds, and release its pipes."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._output.close()
        self._log.close()


class _Watch(threading.Thread):
    """Kills a worker that has said nothing for `timeout` seconds, or that a signal keeps stopped for STOPPED seconds.

    A worker that computes may be silent for hours; one that is stopped (SIGSTOP, a debugger) would be so for ever.
    """

    def __init__(self, pid: int, timeout: float | None, kill: Callable[[], None]):
        super().__init__(daemon=True)
        self.reason = ""
        """Why it was killed; empty if it was not."""
        self._pid, self._timeout, self._kill = pid, timeout, kill
        self._last = time.monotonic()
        self._over = threading.Event()

    def heard(self) -> None:
        """Note that the worker has spoken."""
        self._last = time.monotonic()

    def end(self) -> None:
        """End the watch."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look every POLL seconds, and when the time is over."""
        stopped = 0.0
        while True:
            left = POLL if self._timeout is None else self._last + self._timeout - time.monotonic()
            if left <= 0:
                self.reason = f"no answer in {self._timeout:g} s"
                break
            if self._over.wait(min(left, POLL)):
                return
            stopped = stopped + POLL if _is_stopped(self._pid) else 0.0  # counted, for this process may sleep as well
            if stopped >= STOPPED:
                self.reason = f"the worker process was stopped by a signal for {STOPPED:g} s; it was killed"
                break
        self._kill()


def _is_stopped(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped the process; False where the system does not say."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return False
    return state in ("T", "t")


def import_path(more: str = "") -> str:
    """Return the PYTHONPATH of a process that imports what this one does: this very qwafer first, `more` last.

    The standard library and installed packages, which the process finds by itself, are left out.
    """
    own = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = [str(Path(entry).resolve()) for entry in sys.path if not entry.startswith(own)]
    entries = [str(Path(__file__).resolve().parents[2]), *found, *filter(None, more.split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(entries))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
