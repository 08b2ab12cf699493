"""Executors: order, isolation, death, timeouts, replacement, interruption, and jobs and executors of anybody's own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwafer._errors import CapabilityError, InputError
from qwafer.execution import (
    EXECUTORS,
    Event,
    Executor,
    Job,
    LocalProcesses,
    Progress,
    Tally,
    Threads,
    make_executor,
    processes,
    run_all,
    running,
)

ROOT = str(Path(__file__).resolve().parents[1])

JOBS = """
import os, signal, subprocess, sys, threading, time
from qwafer.execution import plain

served = 0

@plain
def act(payload, report):
    global served
    served += 1
    do = payload["do"]
    if do == "kill":
        sys.stderr.write("last words\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit":
        os._exit(7)
    if do == "fail":
        raise ValueError("no")
    if do == "unable":
        from qwafer import InputError
        raise InputError("give more")
    if do == "child":
        child = subprocess.Popen(["sleep", "60"])
        report(0.5)
        open(payload["pids"], "a").write(f"{child.pid} {os.getpid()}\\n")
        report(0.75)
        time.sleep(60)
    if do == "print":
        print("not an answer")
    if do == "odd":
        return object()
    time.sleep(payload.get("seconds", 0))
    report(0.5)
    time.sleep(payload.get("seconds", 0))
    return {
        "pid": os.getpid(),
        "served": served,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "mark": os.environ.get("MARK"),
        "thread": threading.get_ident(),
        "jax": "jax" in sys.modules,
    }

def configured(payload, report):
    import jax

    return {"x64": jax.config.jax_enable_x64}
"""


@pytest.fixture
def jobs_module(tmp_path, monkeypatch):
    """The module `jobs_of_this_test`, on this process's path."""
    (tmp_path / "jobs_of_this_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "jobs_of_this_test"
    sys.modules.pop("jobs_of_this_test", None)


@pytest.fixture
def run(jobs_module):
    def run_jobs(jobs, n=2, on_event=None, executor=None):
        events = []

        def note(event):
            events.append(event)
            if on_event is not None:
                on_event(event)

        with executor or LocalProcesses(n) as running:
            running.run(
                [
                    Job(f"{do}-{i}", f"{jobs_module}:act", {"do": do, **extra}, **kw)
                    for i, (do, extra, kw) in enumerate(jobs)
                ],
                note,
            )
        return events

    return run_jobs


def job(do="work", fresh=False, timeout=None, environment=None, **extra):
    return do, extra, {"fresh": fresh, "timeout": timeout, "environment": environment or {}}


def ends(events):
    return {event.key: event for event in events if event.kind in ("done", "failed")}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("n", [1, 3])
def test_every_job_is_done_once_by_persistent_workers(run, n):
    events = run([job(seconds=0.05) for _ in range(9)], n=n)
    done = ends(events)
    assert {event.kind for event in done.values()} == {"done"}
    assert {event.fraction for event in done.values()} == {1.0}
    assert len(done) == 9
    assert len({event.result["pid"] for event in done.values()}) == n
    assert {event.result["threads"] for event in done.values()} == {"1"}
    for key in done:
        assert [event.kind for event in events if event.key == key] == ["started", "progress", "done"]


def test_one_worker_keeps_the_order(run):
    events = run([job() for _ in range(5)], n=1)
    assert [event.key for event in events if event.kind == "done"] == [f"work-{i}" for i in range(5)]


def test_a_dead_worker_costs_its_job_and_is_replaced(run):
    events = run([job(), job("kill"), job(), job("exit"), job()], n=1)
    done = ends(events)
    assert [event.kind for event in done.values()] == ["done", "failed", "done", "failed", "done"]
    killed, left = done["kill-1"].failure, done["exit-3"].failure
    assert killed.type == "WorkerDied"
    assert "signal 9 (SIGKILL)" in killed.error
    assert killed.details == "last words"
    assert "with status 7" in left.error
    assert len({event.result["pid"] for event in done.values() if event.kind == "done"}) == 3


def test_a_failure_costs_its_process_too(run):
    """What a failed job leaves behind must not reach the next one."""
    done = ends(run([job(), job("fail"), job(), job()], n=1))
    failure = done["fail-1"].failure
    assert (failure.type, failure.error) == ("ValueError", "no")
    assert "in act" in failure.details
    assert [done[f"work-{i}"].result["served"] for i in (0, 2, 3)] == [1, 1, 2]


def test_fresh_jobs_share_no_process(run):
    done = ends(run([job(), job(fresh=True), job(fresh=True), job()], n=1))
    assert [event.result["served"] for event in done.values()] == [1, 1, 1, 1]


def test_jobs_of_different_environments_share_no_process(run):
    done = ends(run([job(), job(environment={"MARK": "a"}), job(environment={"MARK": "a"}), job()], n=1))
    assert [event.result["mark"] for event in done.values()] == [None, "a", "a", None]
    assert [event.result["served"] for event in done.values()] == [1, 1, 2, 1]


def test_silence_ends_a_job_and_all_that_it_started(run, tmp_path):
    """A job that speaks in time may take longer than its timeout."""
    silent = job("child", timeout=5, pids=str(tmp_path / "pids"))
    events = run([silent, job(seconds=3, timeout=5), job()], n=2)
    done = ends(events)
    failure = done["child-0"].failure
    assert (failure.type, failure.error) == ("TimedOut", "no answer in 5 s")
    assert [event.kind for event in events if event.key == "child-0"] == ["started", "progress", "progress", "failed"]
    assert {done[key].kind for key in ("work-1", "work-2")} == {"done"}
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_what_a_job_prints_is_no_answer_and_what_is_no_json_is_a_failure(run):
    done = ends(run([job("print"), job("odd")], n=1))
    assert done["print-0"].kind == "done"
    assert done["odd-1"].failure.type == "TypeError"


def test_a_worker_that_cannot_start_fails_its_jobs(monkeypatch):
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "raise SystemExit('broken')"))
    events = []
    with LocalProcesses(2) as executor:
        executor.run([Job("a", "x:y", {}), Job("b", "x:y", {})], events.append)
    assert [event.failure.details for event in events if event.kind == "failed"] == ["broken", "broken"]


def test_an_interrupt_kills_workers_and_what_they_started(run, tmp_path):
    seen = []

    def interrupt(event):
        if event.fraction == 0.75:
            seen.extend(int(pid) for pid in (tmp_path / "pids").read_text().split())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job("child", pids=str(tmp_path / "pids"))] * 3, on_event=interrupt)
    assert seen
    wait_until(lambda: not any(alive(pid) for pid in seen))


def test_no_job_no_process(run, monkeypatch):
    monkeypatch.setattr(processes, "_Worker", None)
    assert run([]) == []


def test_an_executor_serves_again_after_it_was_left(jobs_module):
    executor = LocalProcesses(1)
    jobs = [Job("a", f"{jobs_module}:act", {"do": "work"})]
    pids = []
    for _ in range(2):
        with executor:
            pids += [run_all(executor, jobs)["a"]["pid"], run_all(executor, jobs)["a"]["pid"]]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert not any(alive(pid) for pid in pids)


def test_only_jobs_that_compute_with_jax_load_it(jobs_module):
    with LocalProcesses(1) as executor:
        jobs = [Job("plain", f"{jobs_module}:act", {"do": "work"}), Job("jax", f"{jobs_module}:configured")]
        results = run_all(executor, jobs)
    assert not results["plain"]["jax"]
    assert results["jax"]["x64"]


def test_functions_go_to_processes_by_name():
    with LocalProcesses(1) as executor, pytest.raises(InputError, match=r"package\.module:name"):
        executor.run([Job("a", lambda payload, report: None)], print)


@pytest.mark.parametrize("n", [1, 3])
def test_threads_say_what_processes_say(run, n):
    before = run([job() for _ in range(4)], executor=Threads(n))
    for i in range(4):
        assert [event.kind for event in before if event.key == f"work-{i}"] == ["started", "progress", "done"]
    done = ends(run([job(), job("fail"), job("unable"), job()], executor=Threads(n)))
    assert {event.result["pid"] for event in done.values() if event.kind == "done"} == {os.getpid()}
    failure = done["fail-1"].failure
    assert (failure.type, failure.error) == ("ValueError", "no")
    assert "in act" in failure.details
    assert done["unable-2"].failure.type == "InputError"
    with pytest.raises(InputError, match="environment"):
        run([job(environment={"MARK": "a"})], executor=Threads(n))


def test_one_thread_is_the_callers_own_and_keeps_the_order():
    import threading

    def where(payload, report):
        return threading.get_ident(), payload

    jobs = [Job(str(i), where, i) for i in range(4)]
    assert list(run_all(Threads(), jobs).values()) == [(threading.get_ident(), i) for i in range(4)]
    side_by_side = run_all(Threads(2), jobs).values()
    assert threading.get_ident() not in {thread for thread, _ in side_by_side}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("error", [InputError("enough"), KeyboardInterrupt()])
def test_what_on_event_raises_ends_the_run_and_is_no_failure_of_the_job(n, error):
    started = []

    def speak(payload, report):
        started.append(payload)
        report(0.5)
        time.sleep(0.02)

    def stop(event):
        if event.kind == "progress":
            raise error

    with pytest.raises(type(error)) as raised:
        Threads(n).run([Job(str(i), speak, i) for i in range(50)], stop)
    assert raised.value is error
    assert len(started) < 50


def test_the_first_failure_ends_the_others(jobs_module):
    def jobs(do):
        return [Job(f"{do}-{i}", f"{jobs_module}:act", {"do": do}) for i in range(2)]

    with LocalProcesses(1) as executor:
        with pytest.raises(InputError, match="unable-0: give more"):
            run_all(executor, jobs("unable"))
        with pytest.raises(RuntimeError, match=r"fail-0 failed: ValueError: no\n(.|\n)*in act"):
            run_all(executor, jobs("fail"))
        assert len(run_all(executor, jobs("work"))) == 2

    def unable(payload, report):
        raise CapabilityError("not here")

    with pytest.raises(CapabilityError, match="a: not here"):
        run_all(Threads(), [Job("a", unable)])


def test_events_become_progress():
    said = []
    tally = Tally("runs", 2, said.append)
    for event in (Event("a", "started"), Event("a", "progress", 0.5), Event("b", "failed"), Event("a", "done", 1.0)):
        tally(event)
    assert said[0] == Progress("runs", 0, 2)
    assert [(state.done, state.failed) for state in said[1:]] == [(0, 0), (0.5, 0), (1.5, 1), (2, 1)]
    Tally("nothing", 0, said.append)
    assert len(said) == 5


def test_progress_says_how_many_nodes_of_a_cluster_have_worked():
    said = []
    tally = Tally("runs", 3, said.append)
    for key, node in (("a", ""), ("b", "x"), ("c", "y"), ("d", "x")):
        tally(Event(key, "done", 1.0, node=node))
    assert [state.text for state in said[1:]] == ["a", "b, 1 node so far", "c, 2 nodes so far", "d, 2 nodes so far"]


THIRD_PARTY = """
from qwafer.execution import Threads

class Mine(Threads):
    def __init__(self, jobs):
        super().__init__(1)
        self.jobs = jobs

def nothing(jobs):
    return jobs
"""


def test_executors_by_name(tmp_path, monkeypatch):
    (tmp_path / "their_executor.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(make_executor(), LocalProcesses)
    assert isinstance(make_executor("serial", 3), Threads)
    mine = make_executor("their_executor:Mine", 5)
    assert isinstance(mine, Executor)
    assert mine.jobs == 5
    assert run_all(mine, [Job("a", lambda payload, report: payload, 1)]) == {"a": 1}
    assert make_executor(f"{tmp_path / 'their_executor.py'}:Mine", 2).jobs == 2
    for name, sentence in (
        ("loca", "did you mean `local`"),
        ("no_such_module:X", "cannot be imported"),
        ("their_executor:nothing", "must make something with `run`"),
    ):
        with pytest.raises(InputError, match=sentence):
            make_executor(name)
    assert set(EXECUTORS.names) == {"local", "ray", "serial"}


@pytest.mark.parametrize("how", ["directory", "script", "PYTHONPATH"])
def test_a_worker_imports_what_its_parent_can(tmp_path, how):
    """A module of the current directory, one beside a script, one on PYTHONPATH: and this very qwafer each time."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder, elsewhere / "qwafer"):
        path.mkdir(parents=True)
    (elsewhere / "qwafer" / "__init__.py").write_text("raise ImportError('another qwafer')")
    (folder / "own.py").write_text(
        "import qwafer\nfrom qwafer.execution import plain\n"
        "@plain\ndef where(payload, report):\n    return qwafer.__file__\n"
    )
    code = (
        f"import sys; sys.path.insert(1, {ROOT!r})\n"
        "from qwafer.execution import Job, LocalProcesses, run_all\n"
        f"sys.path.insert(0, {str(elsewhere)!r})\n"
        "with LocalProcesses(1) as executor: print(run_all(executor, [Job('a', 'own:where')])['a'])\n"
    )
    (folder / "script.py").write_text(code)
    command = [sys.executable, str(folder / "script.py")] if how == "script" else [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if how == "PYTHONPATH":
        environment["PYTHONPATH"] = str(folder)
    cwd = folder if how == "directory" else tmp_path
    shown = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == f"{ROOT}/qwafer/__init__.py"


def test_workers_leave_when_their_parent_dies(tmp_path):
    """In the middle of a job: their parent is killed, and they go."""
    (tmp_path / "long_job.py").write_text(
        "import os, time\nfrom qwafer.execution import plain\n@plain\ndef wait(path, report):\n"
        "    open(path + '.part', 'w').write(str(os.getpid()))\n    os.rename(path + '.part', path)\n"
        "    time.sleep(60)\n"
    )
    parent = (
        "from qwafer.execution import Job, LocalProcesses\n"
        f"LocalProcesses(1).run([Job('a', 'long_job:wait', {str(tmp_path / 'pid')!r})], print)\n"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, str(tmp_path)]))
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL, env=environment)
    wait_until((tmp_path / "pid").exists)
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not alive(worker))


def taken_by(slots, families):
    """Return the order of jobs when `slots` slots take one job after the other, in turn."""
    jobs = [Job(f"{family or 'none'}{i}", "any:thing", family=family) for i, family in families]
    waiting = running._Waiting(jobs, dict.fromkeys(range(slots), ""))
    return [waiting.take(i % slots).key for i in range(len(families))], waiting.take(0)


def test_a_slot_goes_on_with_its_family():
    sweep = [(seed, arm) for seed in range(3) for arm in "ab"]
    assert taken_by(2, sweep) == (["a0", "b0", "a1", "b1", "a2", "b2"], None)
    assert taken_by(1, sweep) == (["a0", "a1", "a2", "b0", "b1", "b2"], None)
    three = [(seed, arm) for seed in range(2) for arm in "abc"]
    assert taken_by(2, three) == (["a0", "b0", "a1", "b1", "c0", "c1"], None), "an idle slot helps"
    assert taken_by(2, [(i, "") for i in range(4)]) == (["none0", "none1", "none2", "none3"], None)


def test_a_process_keeps_its_family(run):
    def members(family):
        return [("work", {"seconds": 0.05}, {"family": family})] * 3

    jobs = [one for pair in zip(members("a"), members("b"), strict=True) for one in pair]
    done = ends(run(jobs))
    pids = {key: event.result["pid"] for key, event in done.items()}
    families = [{pids[f"work-{i}"] for i in range(start, 6, 2)} for start in (0, 1)]
    assert [len(family) for family in families] == [1, 1]
    assert families[0] != families[1]


def test_a_process_keeps_its_family_from_one_call_to_the_next(jobs_module):
    def pids(executor, order):
        work = {"do": "work", "seconds": 0.3}
        jobs = [Job(family, f"{jobs_module}:act", work, family=family) for family in order]
        return {key: result["pid"] for key, result in run_all(executor, jobs).items()}

    with LocalProcesses(2) as executor:
        assert pids(executor, "ab") == pids(executor, "ba")
