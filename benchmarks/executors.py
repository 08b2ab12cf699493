"""What an executor costs: 100 short runs, and 10,000 jobs of 10 ms, through local processes and through Ray.

    python benchmarks/executors.py            # each case in a fresh process; results/executors.json, docs/cluster.md
    python benchmarks/executors.py --only local --case many

`start` is the time until the first job is done, `overhead` what each further job costs beyond its own time:
(wall x slots - jobs x seconds of a job) / jobs. `cpu` is the CPU time of the driver alone, `growth` how much more
private memory (RssAnon) it has after the last job than after the hundredth, `left` the processes and temporary files
that are there afterwards and were not before. `sweep` is a sweep of 100 runs of a linear head (2 arms x 50 seeds, one
epoch).
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from qwafer._io import write_json, write_text
from qwafer.execution import Event, Executor, Job, make_executor, plain

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cluster.md"
BEGIN, END = "<!-- begin executors: written by benchmarks/executors.py, not by hand -->", "<!-- end executors -->"
SLOTS = 2
CASES = {"short": (100, 0.1), "many": (10_000, 0.01)}
"""Jobs and the seconds of each."""
TOML = """
seeds = 50
metric = "test.roc_auc"
data = {task = "any", n_maps = 300}
training = {epochs = 1, max_doublings = 0}
arms = {linear = {head = "linear"}, decayed = {head = "linear", training.weight_decay = 0.1}}
"""


@plain
def nap(payload: float, report: Any) -> int:
    """Sleep so long, and return the number of the process."""
    time.sleep(payload)
    return os.getpid()


def private() -> int:
    """Return the private memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def leftovers() -> set[str]:
    """Return what is in the temporary folder by the name of qwafer, and every process below this one."""
    files = {str(path) for path in Path(tempfile.gettempdir()).glob("*qwafer*")}
    below = psutil.Process().children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        return files | {f"process {child.pid}: {' '.join(child.cmdline())}" for child in below}
    return leftovers()


def measure(make: Callable[[], Executor], n: int, seconds: float) -> dict[str, Any]:
    """Return what an executor of `SLOTS` slots costs over `n` jobs of so many seconds."""
    before, began, cpu = leftovers(), time.perf_counter(), time.process_time()
    done: dict[str, int] = {}
    marks: list[tuple[float, int]] = []

    def note(event: Event) -> None:
        if event.kind == "done":
            done[event.key] = done.get(event.key, 0) + 1
            if len(done) in (1, min(100, n), n):
                marks.append((time.perf_counter(), private()))
        if event.failure is not None:
            raise RuntimeError(f"{event.key}: {event.failure.error}")

    with make() as executor:
        executor.run([Job(str(k), f"{Path(__file__).stem}:nap", seconds) for k in range(n)], note)
    if set(done.values()) != {1} or len(done) != n:
        raise RuntimeError(f"{len(done)} of {n} jobs were done, some {max(done.values())} times")
    wall = marks[-1][0] - marks[0][0]
    time.sleep(2)  # until killed processes are gone
    return {
        "start": marks[0][0] - began,
        "overhead": (wall * SLOTS - (n - 1) * seconds) / (n - 1),
        "cpu": time.process_time() - cpu,
        "growth": marks[-1][1] - marks[1][1],
        "left": sorted(leftovers() - before),
    }


def sweep(name: str) -> dict[str, Any]:
    """Return the seconds of a sweep of 100 short runs."""
    from qwafer.experiment import load_experiment
    from qwafer.studies import run_experiment

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "short.toml")
        path.write_text(TOML)
        marks: list[float] = []
        began = time.perf_counter()
        with make_executor(name, SLOTS) as executor:
            outcome = run_experiment(
                load_experiment(path),
                Path(folder, "out"),
                executor=executor,
                batch_seeds=False,
                progress=lambda at: marks.append(time.perf_counter()) if at.stage == "runs" and at.done >= 1 else None,
            )
        if outcome.n_done != 100:
            raise RuntimeError(f"{outcome.n_done} of 100 runs were done")
        return {"start": marks[0] - began, "wall": marks[-1] - began}


def table(found: dict[str, Any]) -> str:
    """Return the table of docs/cluster.md."""
    rows = [
        "| | first done | each further one costs | CPU of the driver | its memory grows by | left behind |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for case, (n, seconds) in CASES.items():
        for name in ("local", "ray"):
            if f"{case} {name}" in found:
                r = found[f"{case} {name}"]
                cells = [f"{r['start']:.1f} s", f"{1000 * r['overhead']:.1f} ms", f"{r['cpu']:.1f} s"]
                cells += [f"{r['growth'] / 2**20:.1f} MiB", str(len(r["left"]) or "nothing")]
                rows.append(f"| {n:,} jobs of {1000 * seconds:g} ms, {name} | {' | '.join(cells)} |")
    for name in ("local", "ray"):
        if f"sweep {name}" in found:
            r = found[f"sweep {name}"]
            each = (r["wall"] - r["start"]) / 99
            cells = [f"{r['start']:.1f} s", f"{1000 * each:.0f} ms, the run included", "", "", ""]
            rows.append(f"| 100 runs of a linear head, {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    """Run the benchmark; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("local", "ray"), help="this executor alone")
    parser.add_argument("--case", nargs="+", choices=(*CASES, "sweep"), help="these cases alone")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "EXECUTOR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, name = arguments.one
        print(
            json.dumps(sweep(name) if case == "sweep" else measure(partial(make_executor, name, SLOTS), *CASES[case]))
        )
        return 0
    path = ROOT / "benchmarks" / "results" / "executors.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for case in arguments.case or (*CASES, "sweep"):
        for name in (arguments.only,) if arguments.only else ("local", "ray"):
            command = [sys.executable, __file__, "--one", case, name]
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
            environment["RAY_worker_niceness"] = "0"  # 15 by default: on a machine with other work that is another race
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            found[f"{case} {name}"] = json.loads(done.stdout.splitlines()[-1])
            print(case, name, found[f"{case} {name}"], flush=True)
    found["machine"] = {"cpus": os.cpu_count(), "slots": SLOTS, "python": platform.python_version()}
    write_json(path, found)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
