"""What is asked of the stack, and what it answered."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from qwafer.engines.cache import stack_versions

Verdict = Literal["works", "fails", "wrong", "dead"]
"""works; fails: an error, a crash, a refusal; wrong: a silent wrong result; dead: a gradient or an option that does
nothing."""

VERDICTS: tuple[Verdict, ...] = ("works", "fails", "wrong", "dead")


@dataclasses.dataclass(frozen=True)
class Question:
    """One capability of the stack, the answer that qwafer was written for, and what qwafer does about it."""

    name: str
    fact: str
    """The capability, as a phrase that a verdict completes."""
    ask: str
    """module.function in `questions/` that answers."""
    expected: Verdict
    does: str
    """What qwafer does about it."""
    relied_on: bool = False
    """Whether qwafer computes something wrong, or nothing, where the answer is another one."""
    message: str = ""
    """What the detail must hold for the answer to be the expected one: the kind of an error."""
    alone: bool = False
    """Whether it takes its process along, or needs a fresh one."""
    timeout: float = 60.0
    """Seconds that it may take, in a process that has loaded everything."""


@dataclasses.dataclass(frozen=True)
class StackFact:
    """The answer to one question."""

    name: str
    fact: str
    verdict: Verdict
    detail: str
    """The message or the number behind the verdict."""
    expected: Verdict
    relied_on: bool
    does: str
    message: str = ""

    @property
    def holds(self) -> bool:
        """Whether the answer is the one that qwafer was written for."""
        return self.verdict == self.expected and self.message in self.detail


def answered(question: Question, verdict: Verdict, detail: str) -> StackFact:
    """Return the fact that an answer to `question` makes."""
    return StackFact(
        name=question.name,
        fact=question.fact,
        verdict=verdict,
        detail=detail,
        expected=question.expected,
        relied_on=question.relied_on,
        does=question.does,
        message=question.message,
    )


def broken(facts: Sequence[StackFact]) -> tuple[StackFact, ...]:
    """Return the facts that qwafer relies on and that no longer hold."""
    return tuple(fact for fact in facts if fact.relied_on and not fact.holds)


def versions() -> str:
    """Return the versions of the stack in one line."""
    return ", ".join(f"{package} {version}" for package, version in stack_versions())
