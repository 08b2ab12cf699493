"""Jobs and what runs them: one spine for runs, timings, nulls and questions."""

from qwafer._errors import InputError
from qwafer._registry import Registry, foreign
from qwafer.execution.job import Event as Event
from qwafer.execution.job import Executor as Executor
from qwafer.execution.job import Failure as Failure
from qwafer.execution.job import Job as Job
from qwafer.execution.job import OnProgress as OnProgress
from qwafer.execution.job import Progress as Progress
from qwafer.execution.job import ReportPart as ReportPart
from qwafer.execution.job import perform as perform
from qwafer.execution.job import plain as plain
from qwafer.execution.processes import LocalProcesses as LocalProcesses
from qwafer.execution.running import Tally as Tally
from qwafer.execution.running import run_all as run_all
from qwafer.execution.threads import Threads as Threads

EXECUTORS: Registry = Registry(
    "executor",
    {
        "local": "qwafer.execution.processes:LocalProcesses",
        "serial": "qwafer.execution.threads:serial",
        "ray": "qwafer.execution.cluster:RayExecutor",
    },
)
"""Executors by name; what a name stands for is called as `Class(jobs=N)`."""


def make_executor(name: str = "local", jobs: int | None = None, address: str | None = None) -> Executor:
    """Return the executor called `name`, `package.module:Class` of anybody's own included, for `jobs` jobs at a time.

    `jobs` = None leaves the number to the executor: two processes of this machine, all CPUs of a cluster. `address` is
    that of a cluster, for an executor that takes one.

    Raises InputError for a name that does not stand for an executor, and for an address that it does not take.
    """
    make = EXECUTORS.get(name)
    options = {} if jobs is None else {"jobs": jobs}
    if address is not None:
        if name in ("local", "serial"):
            raise InputError(f"the executor `{name}` runs on this machine: it takes no address")
        options["address"] = address  # type: ignore[assignment]
    with foreign("executor", name):
        executor = make(**options)
    if not isinstance(executor, Executor):
        raise InputError(f"`executor` = {name} must make something with `run`, `__enter__` and `__exit__`")
    return executor
