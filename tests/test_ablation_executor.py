"""Worker processes: order, isolation, death, replacement, interruption. The workers here are small scripts."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from qwafer._process import worker_environment
from qwafer.execution.processes import Task, WorkerPool

ROOT = str(Path(__file__).resolve().parents[1])

SCRIPT = """
import json, os, signal, sys, time
served = 0
for line in sys.stdin:
    task = json.loads(line)
    served += 1
    def answer(event, **values):
        print(json.dumps({"event": event, **values}), flush=True)
    if task["do"] == "kill":
        sys.stderr.write("last words\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if task["do"] == "exit":
        sys.exit(7)
    if task["do"] == "fail":
        answer("failed", type="ValueError", error="no", details="")
        continue
    if task["do"] == "child":
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        answer("progress", fraction=0.5, child=child.pid, pid=os.getpid())
        time.sleep(60)
    time.sleep(task.get("seconds", 0))
    answer("progress", fraction=0.5)
    answer("done", pid=os.getpid(), served=served, threads=os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def run():
    def run_tasks(tasks, jobs=2, on_event=None):
        events = []

        def note(event):
            events.append(event)
            if on_event is not None:
                on_event(event)

        with WorkerPool((sys.executable, "-c", SCRIPT), jobs=jobs, environment=worker_environment(1)) as pool:
            pool.run([Task((do, i), {"do": do, **extra}, **kw) for i, (do, extra, kw) in enumerate(tasks)], note)
        return events

    return run_tasks


def task(do="work", fresh=False, **extra):
    return do, extra, {"fresh": fresh}


def ends(events):
    return {event.key: event for event in events if event.kind in ("done", "failed")}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_is_done_once_by_persistent_workers(run, jobs):
    events = run([task(seconds=0.05) for _ in range(9)], jobs=jobs)
    done = ends(events)
    assert {event.kind for event in done.values()} == {"done"}
    assert len(done) == 9
    assert len({event.payload["pid"] for event in done.values()}) == jobs
    assert {event.payload["threads"] for event in done.values()} == {"1"}
    for key in done:
        assert [event.kind for event in events if event.key == key] == ["started", "progress", "done"]


def test_one_worker_keeps_the_order(run):
    events = run([task() for _ in range(5)], jobs=1)
    assert [event.key[1] for event in events if event.kind == "done"] == list(range(5))


def test_a_dead_worker_costs_its_task_and_is_replaced(run):
    events = run([task(), task("kill"), task(), task("exit"), task()], jobs=1)
    done = ends(events)
    assert [event.kind for event in done.values()] == ["done", "failed", "done", "failed", "done"]
    killed, left = done["kill", 1].payload, done["exit", 3].payload
    assert killed["type"] == "WorkerDied"
    assert "signal 9 (SIGKILL)" in killed["error"]
    assert killed["details"] == "last words"
    assert "with status 7" in left["error"]
    assert len({done[key].payload["pid"] for key in done if key[0] == "work"}) == 3


def test_a_failure_costs_its_process_too(run):
    """What a failed task leaves behind must not reach the next one."""
    done = ends(run([task(), task("fail"), task(), task()], jobs=1))
    assert done["fail", 1].payload["error"] == "no"
    assert [done["work", i].payload["served"] for i in (0, 2, 3)] == [1, 1, 2]


def test_fresh_tasks_share_no_process(run):
    done = ends(run([task(), task(fresh=True), task(fresh=True), task()], jobs=1))
    assert [event.payload["served"] for event in done.values()] == [1, 1, 1, 1]


def test_a_worker_that_cannot_start_fails_its_tasks():
    events = []
    with WorkerPool((sys.executable, "-c", "raise SystemExit('broken')"), jobs=2) as pool:
        pool.run([Task(("a", 0), {}), Task(("a", 1), {})], events.append)
    assert [event.payload["details"] for event in events if event.kind == "failed"] == ["broken", "broken"]


def test_an_interrupt_kills_workers_and_what_they_started(run):
    pids = []

    def interrupt(event):
        if event.kind == "progress":
            pids.extend((event.payload["child"], event.payload["pid"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([task("child"), task("child"), task("child")], on_event=interrupt)
    assert pids
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_no_task_no_process(run):
    assert run([]) == []


def test_workers_leave_when_their_parent_dies(tmp_path):
    """The real worker, in the middle of a task: its parent is killed, and it goes."""
    import subprocess

    parent = f"""
import sys
sys.path.insert(0, {ROOT!r})
from qwafer.execution.processes import Task, WorkerPool
code = '''
import os, time
from qwafer.sweeps import worker as _worker
tasks, answers = _worker._take_pipes()
tasks.get()
open({str(tmp_path / "pid")!r} + ".part", "w").write(str(os.getpid()))
os.rename({str(tmp_path / "pid")!r} + ".part", {str(tmp_path / "pid")!r})
time.sleep(60)
'''
import os
environment = dict(os.environ, PYTHONPATH={ROOT!r})
with WorkerPool((sys.executable, "-c", code), jobs=1, environment=environment) as pool:
    pool.run([Task(("a", 0), {{}})], print)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "pid").exists)
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not alive(worker))
