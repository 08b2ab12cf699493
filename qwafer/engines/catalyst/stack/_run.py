"""Asking the questions as jobs of worker processes, which may crash, hang and be killed."""

import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwafer._process import worker_environment
from qwafer.engines.catalyst.stack._catalog import QUESTIONS
from qwafer.engines.catalyst.stack._fact import VERDICTS, Question, StackFact, answered
from qwafer.execution import Event, Failure, Job, LocalProcesses, OnProgress, Progress

START_SECONDS = 120.0
"""Allowance beyond a question's own time: the first of a process imports the stack, on a busy machine."""

LONGEST_DETAIL = 150

ASK = f"{Path(__file__).with_name('_child.py')}:ask"


def run_stack_probes(
    progress: OnProgress | None = None, jobs: int = 2, questions: Sequence[Question] | None = None
) -> tuple[StackFact, ...]:
    """Ask the installed stack `questions` (all of `QUESTIONS`), `jobs` processes at a time; return the facts in order.

    A question that crashes or hangs is answered `fails`, with the signal or the time, and those that follow are asked
    in another process. `progress` is told of every question that has been answered.
    """
    questions = QUESTIONS if questions is None else questions
    by_name = {question.name: question for question in questions}
    facts: dict[str, StackFact] = {}

    def note(event: Event) -> None:
        if event.kind not in ("done", "failed"):
            return
        verdict, detail = event.result if event.failure is None else ("fails", _cause(event.failure))
        if verdict not in VERDICTS:
            raise RuntimeError(f"question {event.key!r} was answered {verdict!r}")
        facts[event.key] = answered(by_name[event.key], verdict, shortened(detail))
        if progress is not None:
            progress(Progress("questions", len(facts), len(questions), text=event.key))

    with tempfile.TemporaryDirectory(prefix="qwafer-stack-") as folder:
        # The numbers are the stack's own: one question asks what another allocator changes. 64 bit is on for all but
        # the question that switches it on.
        own = {"QWAFER_ALLOCATOR": "off", "JAX_ENABLE_X64": "1", "TMPDIR": folder}
        with LocalProcesses(jobs, worker_environment(1, {**os.environ, **own})) as executor:
            # Those that share a process first, so that it is not started twice.
            executor.run([_job(question) for question in sorted(questions, key=lambda question: question.alone)], note)
    return tuple(facts[question.name] for question in questions)


def _job(question: Question) -> Job:
    timeout = question.timeout + START_SECONDS
    return Job(question.name, ASK, question.ask, fresh=question.alone, timeout=timeout)


def _cause(failure: Failure) -> str:
    """Return why there is no answer: the silence, or what the process died of and its last words."""
    if failure.type != "WorkerDied":
        return failure.error
    died = re.search(r"signal \d+ \((\w+)\)", failure.error)
    cause = failure.error.replace("worker ", "") if died is None else f"the process died of {died[1]}"
    return f"{cause}: {(failure.details.splitlines() or [''])[-1].strip()}".rstrip(": ")


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
        line = f"{kind}: the compiler's process died of {signal.Signals(int(died[1])).name}"
    else:
        line = (text.splitlines() or [""])[0]
    line = " ".join(line.split())
    return line if len(line) <= LONGEST_DETAIL else line[: LONGEST_DETAIL - 3].rstrip() + "..."
