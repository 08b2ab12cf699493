"""`RayExecutor`: the jobs of an executor on a Ray cluster, with or without a disk that its nodes share."""

import contextlib
import dataclasses
import hashlib
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import atomic_path
from qwafer._lazy import optional_package
from qwafer._process import rare_collections, worker_environment
from qwafer.execution.job import Event, Failure, Job, perform
from qwafer.execution.processes import import_path
from qwafer.execution.running import Put, run_in_slots

RETRIES = 2
"""How often a job is given to another process when its own died, as it does with a lost node or a preempted one."""
POLL = 0.5
"""Seconds between two questions how far a job is."""
ROOM = 1.25
"""Memory that a process asks the cluster for, over the peak of an earlier one of its family."""
FOLDER = "qwafer-ray-"
"""Begin of the name of a worker's temporary folder; the number of its process follows."""


class RayExecutor:
    """Workers of a Ray cluster, one actor for each of at most `jobs` jobs at a time, each fed one after another.

    Only this process writes results: files that a job reads (`Job.reads`) travel through Ray's object store, each
    content once, and what it writes (`Job.writes`) comes back and is put in its place here. A process that dies costs
    its job nothing but time: it is done again elsewhere, twice at most; what a job raises is its result. Workers have
    the environment of `worker_environment(1)`, so that results equal those of local processes on the same kind of CPU.

    Args:
        jobs: jobs at a time; None: as many as the cluster has CPUs for.
        address: of the cluster (`auto`, `ray://HOST:10001`); None: one of this machine's own, ended with the executor.
        cpus: CPUs that Ray keeps for a worker.
        gpus: GPUs that it keeps, and shows to it.
    """

    def __init__(self, jobs: int | None = None, address: str | None = None, cpus: int = 1, gpus: int = 0):
        if jobs is not None:
            check_positive_int("jobs", jobs)
        check_positive_int("cpus", cpus)
        check_positive_int("gpus", gpus, minimum=0)
        self._ray = _ray()
        self._jobs, self._address, self._cpus, self._gpus = jobs, address, cpus, gpus
        self._workers: dict[int, _Remote] = {}
        self._families: dict[int, str] = {}
        self._stored: dict[str, Any] = {}
        self._peaks: dict[str, int] = {}
        self._idle: set[int] = set()
        self._lock = threading.Lock()
        self._killed = self._own = False

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in list(self._workers):
            self._retire(slot)
        self._stored.clear()
        if self._own:
            self._ray.shutdown()
            self._own = False

    def run(self, jobs: Iterable[Job], on_event: Callable[[Event], None]) -> None:
        """Run all jobs; an exception out of `on_event`, and Ctrl-C, kills the workers. See `Executor.run`."""
        jobs = list(jobs)
        for job in jobs:
            if not isinstance(job.function, str):
                raise InputError(f"{job.key}: give the job's function as package.module:name to run it on a cluster")
        if jobs:
            self._connect()
            self._killed = False
            self._idle.clear()
            slots, families = self._slots(), self._families
            run_in_slots(slots, jobs, self._serve, on_event, self._kill, families, ended=self._idle.add)

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
        own = {"include_dashboard": False, "num_cpus": self._jobs} if self._address is None else {}
        host, colon, port = (self._address or "").removeprefix("ray://").rpartition(":")
        try:
            if colon and port.isdigit():  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            self._ray.init(address=self._address, **own, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"there is no Ray cluster at {self._address}: {' '.join(str(error).split())}") from error
        self._own = True

    def _slots(self) -> int:
        if self._jobs is not None:
            return self._jobs
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._cpus)

    def _serve(self, slot: int, job: Job, put: Put) -> None:
        for left in reversed(range(RETRIES + 1)):
            worker = self._worker(slot, job)
            if worker is None:
                return
            try:
                answer = worker.perform(job, self._reads(job), put, self._release)
            except self._ray.exceptions.RayError as error:
                self._retire(slot)
                if self._killed:
                    return
                if not left:
                    said = " ".join(str(error).split())
                    failure = Failure("WorkerDied", f"its process died {RETRIES + 1} times", said)
                    put(Event(job.key, "failed", failure=failure))
                continue
            if answer.failure is None:
                self._peaks[job.family] = max(answer.peak, self._peaks.get(job.family, 0))
                for path, content in answer.files.items():
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(content)
                put(Event(job.key, "done", 1.0, answer.result, node=answer.node))
            else:
                put(Event(job.key, "failed", failure=answer.failure, node=answer.node))
            if answer.failure is not None or job.fresh:
                self._retire(slot)  # what a failure leaves behind in a process must not reach the next job
            return

    def _reads(self, job: Job) -> list[tuple[str, str, Any]]:
        """Return (path, digest, reference to the content) of each file that the job reads, stored once."""
        found = []
        for path in job.reads:
            content = Path(path).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            with self._lock:
                if digest not in self._stored:
                    self._stored[digest] = self._ray.put(content)
            found.append((path, digest, self._stored[digest]))
        return found

    def _worker(self, slot: int, job: Job) -> "_Remote | None":
        """Return the worker of `slot` that suits the job, started where there is none; None after a kill."""
        worker = self._workers.get(slot)
        if worker is not None and (job.fresh or worker.own != job.environment):
            self._retire(slot)
        with self._lock:
            if self._killed:
                return None
            if slot not in self._workers:
                memory = int(ROOM * self._peaks.get(job.family, 0))
                self._workers[slot] = _Remote(self._ray, job.environment, self._cpus, self._gpus, memory)
            return self._workers[slot]

    def _release(self) -> None:
        """End the workers that have nothing to do: one that is to start may wait for what they hold."""
        for slot in list(self._idle):
            self._retire(slot)

    def _kill(self) -> None:
        with self._lock:
            self._killed = True
            for worker in self._workers.values():
                worker.kill()

    def _retire(self, slot: int) -> None:
        with self._lock:
            worker = self._workers.pop(slot, None)
            self._families[slot] = ""
        if worker is not None:
            worker.stop()


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a worker says of a job that has ended."""

    result: Any = None
    failure: Failure | None = None
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    peak: int = 0
    node: str = ""


class _Remote:
    """One actor and this process's end of it."""

    def __init__(self, ray: Any, own: Mapping[str, str], cpus: int, gpus: int, memory: int):
        self.own = own
        self._ray = ray
        ours = {name: value for name, value in worker_environment(cpus).items() if os.environ.get(name) != value}
        ours = {name: value for name, value in ours.items() if name not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
        variables = {**ours, **own, "PYTHONPATH": import_path(own.get("PYTHONPATH", ""))}
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 2}
        if memory:
            options["memory"] = memory
        actor = ray.remote(_Worker).options(runtime_env={"env_vars": variables}, **options)
        self._actor = actor.remote(_version())

    def perform(
        self, job: Job, reads: Sequence[tuple[str, str, Any]], put: Put, release: Callable[[], None]
    ) -> _Answer:
        """Send the job, report how far it is, and return its answer; raise RayError where the process died. `release`
        is called as long as the cluster has no room for the process.
        """
        # references in a list are not fetched by Ray itself: the worker may have the file
        files = [(path, digest, [reference]) for path, digest, reference in reads]
        running = self._actor.perform.remote(job.function, job.payload, files, list(job.writes))
        told, last = 0.0, time.monotonic()
        asked = self._actor.fraction.remote()
        while True:
            done, _ = self._ray.wait([running], timeout=POLL)
            if done:
                answer: _Answer = self._ray.get(running)
                return answer
            try:
                fraction = self._ray.get(asked, timeout=POLL)
            except self._ray.exceptions.GetTimeoutError:  # it has not started yet
                release()
                continue
            asked = self._actor.fraction.remote()
            if fraction != told:
                told, last = fraction, time.monotonic()
                put(Event(job.key, "progress", fraction))
            if job.timeout is not None and time.monotonic() - last > job.timeout:
                self.kill()
                return _Answer(failure=Failure("TimedOut", f"no answer in {job.timeout:g} s"))

    def stop(self) -> None:
        """End the process, with what it has written to its disk."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._actor.close.remote(), timeout=10)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self._ray.kill(self._actor)


class _Worker:
    """What runs in the actor: the jobs of one slot, in a folder of their own."""

    def __init__(self, version: str):
        if version != _version():
            raise RuntimeError(f"this node has qwafer {_version()}, and the sweep was started by {version}")
        _remove_orphans()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        self._fraction = 0.0
        self._node: str = _ray().get_runtime_context().get_node_id()

    def fraction(self) -> float:
        """Return how much of the job under way is done."""
        return self._fraction

    def perform(
        self, function: str, payload: Any, reads: Sequence[tuple[str, str, Sequence[Any]]], writes: Sequence[str]
    ) -> _Answer:
        """Do a job with the paths of its payload replaced by those of this node."""
        self._fraction = 0.0
        out = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            here = {path: str(self._fetched(path, digest, reference)) for path, digest, reference in reads}
            parents = {parent: out / str(k) for k, parent in enumerate(sorted({str(Path(w).parent) for w in writes}))}
            here |= {path: str(parents[str(Path(path).parent)] / Path(path).name) for path in writes}
            for parent in parents.values():
                parent.mkdir()
            with rare_collections():
                result = perform(function, _replaced(payload, here), self._report)
            files = {path: Path(here[path]).read_bytes() for path in writes if Path(here[path]).is_file()}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return _Answer(result, files=files, peak=peak, node=self._node)
        except Exception as error:
            return _Answer(failure=Failure.of(error), node=self._node)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def close(self) -> None:
        """Remove what this process has written to its disk."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _report(self, part: float) -> None:
        self._fraction = float(part)

    def _fetched(self, path: str, digest: str, reference: Sequence[Any]) -> Path:
        """Return the file here that has the content of `path` there."""
        found = self._folder / digest / Path(path).name
        if not found.is_file():
            found.parent.mkdir(exist_ok=True)
            with atomic_path(found) as temporary:
                temporary.write_bytes(_ray().get(reference[0]))
        return found


def _replaced(value: Any, paths: Mapping[str, str]) -> Any:
    """Return plain JSON data with every text that is a key of `paths` replaced."""
    if isinstance(value, str):
        return paths.get(value, value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, paths) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, paths) for item in value]
    return value


def _remove_orphans() -> None:
    """Remove the folders of workers of this machine that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        number = folder.name.removeprefix(FOLDER).partition("-")[0]
        if number.isdigit() and not Path("/proc", number).exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _version() -> str:
    version: str = sys.modules["qwafer"].__version__
    return version


def _ray() -> Any:
    return optional_package("ray", "ray", "the executor `ray` needs")
