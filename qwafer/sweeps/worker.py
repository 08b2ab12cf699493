"""The worker process of a sweep: JSON lines in, one run or check a line; JSON lines out. Started as a module."""

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from qwafer._process import configure_jax
from qwafer.config import RunConfig
from qwafer.features import FeatureSet

Report = Callable[..., None]


def main() -> int:
    """Serve the tasks of a sweep."""
    return serve({"run": run, "check": check})


def serve(actions: Mapping[str, Callable[[dict[str, Any], Report], None]]) -> int:
    """Do the tasks that come from stdin, each by the action that its `do` names, until stdin closes."""
    tasks, answers = _take_pipes()
    configure_jax()

    def report(event: str, **values: Any) -> None:
        answers.write((json.dumps({"event": event, **values}) + "\n").encode())
        answers.flush()

    for line in iter(tasks.get, None):
        message = json.loads(line)
        try:
            actions[message["do"]](message, report)
        except Exception as error:
            # Whatever a run raises is its result: the parent records it, and the sweep goes on.
            report(
                "failed",
                type=type(error).__name__,
                error=" ".join(str(error).split()) or type(error).__name__,
                details=traceback.format_exc(),
            )
    return 0


def run(message: dict[str, Any], report: Report) -> None:
    """Train one arm with one seed and write its result."""
    from qwafer.training import train

    start = time.perf_counter()
    result = train(
        run_config(message["config"]),
        load_features(message["features"]),
        message["seed"],
        directory=None if message["directory"] is None else Path(message["directory"]),
        progress=lambda entry: report("progress", fraction=entry["epoch"] / entry["epochs"]),
    )
    result.save(message["out"])
    report("done", seconds=time.perf_counter() - start)


def check(message: dict[str, Any], report: Report) -> None:
    """Raise what a run of this arm would raise before its first step: data, split, head, circuit and memory."""
    from qwafer.training import make_head, make_program, prepare

    config = run_config(message["config"])
    prepared = prepare(config, load_features(message["features"]), message["seed"])
    features, labels = prepared.part("train")
    make_head(config, features, labels.shape[1], message["seed"])
    make_program(config, labels.shape[1], config.training.batch_size)
    report("done")


def run_config(options: dict[str, Any]) -> RunConfig:
    """Return the configuration of nested plain data."""
    return RunConfig.from_dict(options)


@lru_cache(maxsize=2)
def load_features(path: str) -> FeatureSet:
    """Return the features of a file, read once a process; their arrays are read-only, so that no run can alter them."""
    return FeatureSet.load(path)


def _take_pipes() -> tuple["queue.SimpleQueue[bytes | None]", IO[bytes]]:
    """Return the tasks as a queue and the pipe for answers; whatever else is printed goes to stderr.

    The process leaves at once when its parent does: a thread sees the end of stdin even in the middle of a run.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    incoming = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a process that this one starts must not read tasks
    os.close(null)
    tasks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        for line in incoming:
            tasks.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return tasks, answers


if __name__ == "__main__":
    sys.exit(main())
