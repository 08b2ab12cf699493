"""The worker process: one job per JSON line on stdin, JSON lines on stdout. `python -m qwafer.execution.worker`.

In: `{"function", "payload"}`. Out: `{"kind": "progress", "fraction"}`, then `{"kind": "done", "result"}` or
`{"kind": "failed", "type", "error", "details"}`. JAX is loaded and configured by the first job whose function is not
`plain`; until then nothing is imported but what the functions import themselves.
"""

import dataclasses
import json
import os
import queue
import sys
import threading
from typing import IO, Any

from qwafer._process import rare_collections
from qwafer.execution.job import Failure, perform


def main() -> int:
    """Do the jobs that come from stdin until it closes."""
    jobs, answers = _take_pipes()

    def answer(kind: str, **values: Any) -> None:
        answers.write((json.dumps({"kind": kind, **values}) + "\n").encode())
        answers.flush()

    with rare_collections():
        for line in iter(jobs.get, None):
            job = json.loads(line)
            try:
                result = perform(job["function"], job["payload"], lambda part: answer("progress", fraction=float(part)))
                answer("done", result=result)
            except Exception as error:
                # Whatever a job raises is its result: the parent records it, and the others go on.
                answer("failed", **dataclasses.asdict(Failure.of(error)))
    return 0


def _take_pipes() -> tuple["queue.SimpleQueue[bytes | None]", IO[bytes]]:
    """Return the jobs as a queue and the pipe for answers; whatever else is printed goes to stderr.

    The process leaves at once when its parent does: a thread sees the end of stdin even in the middle of a job.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    incoming = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a process that this one starts must not read jobs
    os.close(null)
    jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        for line in incoming:
            jobs.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return jobs, answers


if __name__ == "__main__":
    sys.exit(main())
