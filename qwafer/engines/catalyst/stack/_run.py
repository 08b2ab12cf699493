"""Asking the questions in processes of their own, which may crash, hang and be killed."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qwafer._checks import check_positive_int
from qwafer._process import worker_environment
from qwafer.engines.catalyst.stack._catalog import QUESTIONS
from qwafer.engines.catalyst.stack._fact import VERDICTS, Question, StackFact, answered

START_SECONDS = 120.0
"""Allowance for the first question of a process, which imports the stack, on a busy machine."""

SHARED_PROCESSES = 2
"""How many processes share the questions that are not asked alone."""

LONGEST_DETAIL = 150

CHILD = Path(__file__).with_name("_child.py")


def run_stack_probes(
    progress: Callable[[str], None] | None = None, jobs: int = 2, questions: Sequence[Question] | None = None
) -> tuple[StackFact, ...]:
    """Ask the installed stack `questions` (all of `QUESTIONS`), `jobs` processes at a time; return the facts in order.

    A question that crashes or hangs is answered `fails`, with the signal or the time, and those that were to follow in
    its process are asked in another one. `progress` is told the name of every question that has been answered.
    """
    check_positive_int("jobs", jobs)
    questions = QUESTIONS if questions is None else questions
    alone = [[question] for question in questions if question.alone]
    shared = [question for question in questions if not question.alone]
    groups = alone + [group for k in range(SHARED_PROCESSES) if (group := shared[k::SHARED_PROCESSES])]
    room = _Room(progress or (lambda text: None), len(questions))
    with (
        tempfile.TemporaryDirectory(prefix="qwafer-stack-") as folder,
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
    ):
        try:
            # The long ones first: two long processes beside each other, the short ones in the gaps.
            waiting = [pool.submit(room.ask, group, Path(folder)) for group in reversed(groups)]
            for done in concurrent.futures.as_completed(waiting):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            room.close()
            raise
    return tuple(room.facts[question.name] for question in questions)


class _Room:
    """The processes that are running and the answers that are in."""

    def __init__(self, progress: Callable[[str], None], total: int):
        self.facts: dict[str, StackFact] = {}
        self._progress = progress
        self._total = total
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, group: Sequence[Question], folder: Path) -> None:
        """Ask the questions of a group, in a new process after each crash."""
        remaining = list(group)
        while remaining and not self._closed:
            answers = self._ask_once(remaining, folder)
            for question, (verdict, detail) in zip(remaining, answers, strict=False):
                if verdict not in VERDICTS:
                    raise RuntimeError(f"question {question.name!r} was answered {verdict!r}")
                with self._lock:
                    self.facts[question.name] = answered(question, verdict, shortened(detail))
                    self._progress(f"{len(self.facts)}/{self._total}: {question.name}")
            remaining = remaining[len(answers) :]

    def close(self) -> None:
        """Kill what is running, and start nothing more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill(process)

    def _ask_once(self, questions: Sequence[Question], folder: Path) -> list[tuple[str, str]]:
        """Return the answers of one process, at least one: those it gave, and what stands for the one it died of."""
        workplace = Path(tempfile.mkdtemp(dir=folder))
        records, errors = workplace / "answers.jsonl", workplace / "stderr"
        records.touch()
        # The numbers are the stack's own: one question asks what another allocator changes. 64 bit is on for all but
        # the question who switches it on.
        base = dict(os.environ) | {"QWAFER_ALLOCATOR": "off", "JAX_ENABLE_X64": "1", "TMPDIR": str(workplace)}
        environment = worker_environment(1, base)
        command = [sys.executable, str(CHILD), str(records), *(question.ask for question in questions)]
        with errors.open("wb") as stderr:
            with self._lock:
                if self._closed:
                    return [("fails", "interrupted")] * len(questions)
                process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=workplace,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,  # so that its compilers can be killed with it
                )
                self._running.add(process)
            try:
                silence = _wait(process, questions, records)
            finally:
                _kill(process)
                process.wait()
                with self._lock:
                    self._running.discard(process)
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        answers = [(line["verdict"], line["detail"]) for line in lines if "verdict" in line]
        if len(answers) < len(questions):
            said = errors.read_text(errors="replace").strip().splitlines() or [""]
            if silence is not None:
                answers.append(("fails", f"no answer in {silence:.0f} s"))
            else:
                answers.append(("fails", f"the process {_death(process.returncode)}: {said[-1].strip()}".rstrip(": ")))
        return answers


def _wait(process: subprocess.Popen[bytes], questions: Sequence[Question], records: Path) -> float | None:
    """Wait for the process, or until a question takes too long: then return how many seconds it had."""
    size, answers, allowed = 0, 0, START_SECONDS + questions[0].timeout
    since = time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        if (now := records.stat().st_size) != size:
            size, since = now, time.monotonic()
            answers = records.read_text().count('"verdict"')
            # The import is part of whatever is asked first.
            allowed = questions[min(answers, len(questions) - 1)].timeout + (START_SECONDS if answers == 0 else 0)
        if time.monotonic() - since > allowed:
            return allowed
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process's session, itself and its compilers, if it is still there."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _death(returncode: int) -> str:
    if returncode < 0:
        return f"died of {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def shortened(detail: str) -> str:
    """Return a message as one line: what a compiler says that it died of, else the first line, cut if long."""
    text = detail.strip()
    kind = text.split(":", 1)[0]
    assertion = re.search(r"Assertion `(.*?)' failed", text, re.DOTALL)
    errors = re.findall(r"^error: (?:.*\): )?(.*)$", text, re.MULTILINE)
    died = re.search(r"failed with error code -(\d+)", text)
    if assertion:
        line = f"{kind}: assertion {assertion[1]} failed"
    elif errors:
        line = f"{kind}: {re.split('  +%', errors[-1])[0]}"
    elif died:
        line = f"{kind}: the compiler's process {_death(-int(died[1]))}"
    else:
        line = (text.splitlines() or [""])[0]
    line = " ".join(line.split())
    return line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 3].rstrip() + "..."
