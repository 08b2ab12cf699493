"""The stack probes: how they are asked, what a broken fact does, and the table in the documentation."""

import dataclasses
from pathlib import Path

import pytest

from qwafer import diagnose
from qwafer._errors import InputError
from qwafer.engines.catalyst import stack
from qwafer.engines.catalyst.stack import QUESTIONS, Question, StackFact, _run
from qwafer.engines.catalyst.stack._fact import answered
from qwafer.execution import Progress, processes
from qwafer.reports import stack as page
from qwafer.reports.document import to_markdown


def control(asked: str, **options: object) -> Question:
    """A question with a known answer, in a group of its own if not told otherwise."""
    given = {"name": asked, "fact": asked, "ask": f"controls.{asked}", "expected": "works", "does": "nothing"} | options
    return Question(**given)


def test_a_crash_is_an_answer_and_what_follows_is_asked_again():
    said: list[Progress] = []
    questions = [control("answer"), control("crash"), control("error"), control("answer", name="again")]
    facts = stack.run_stack_probes(said.append, jobs=1, questions=questions)
    assert [fact.name for fact in facts] == ["answer", "crash", "error", "again"]
    assert [(fact.verdict, fact.detail) for fact in facts] == [
        ("works", "as it should"),
        ("fails", "the process died of SIGABRT: what(): as it should"),
        ("fails", "ValueError: as it should"),
        ("works", "as it should"),
    ]
    assert [(state.done, state.total, state.text) for state in said] == [
        (1, 4, "answer"),
        (2, 4, "crash"),
        (3, 4, "error"),
        (4, 4, "again"),
    ]


def test_silence_is_ended(monkeypatch):
    monkeypatch.setattr(_run, "START_SECONDS", 0.5)
    questions = [control("silence", timeout=0.5), control("answer", timeout=60)]
    silence, answer = stack.run_stack_probes(jobs=1, questions=questions)
    assert (silence.verdict, silence.detail) == ("fails", "no answer in 1 s")
    assert answer.holds


def test_questions_find_nothing_loaded_that_they_do_not_need():
    """The x64 question needs a process in which neither Catalyst nor JAX's settings have been touched."""
    (fact,) = stack.run_stack_probes(questions=[control("loaded")])
    assert fact.holds, fact.detail


def test_an_interrupted_caller_leaves_no_process(monkeypatch):
    def interrupted(state: Progress) -> None:
        raise KeyboardInterrupt

    started = []
    real = processes.subprocess.Popen

    def popen(*arguments, **options):
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    questions = [control("silence", alone=True), control("answer")]
    with pytest.raises(KeyboardInterrupt):
        stack.run_stack_probes(interrupted, questions=questions)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_bad_arguments_are_refused_before_anything_is_asked(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(page, "DOCUMENT", tmp_path / "absent.md")
    monkeypatch.setattr(_run, "QUESTIONS", ())
    assert page.main(["--write-docs"]) == 2
    assert "absent.md" in capsys.readouterr().err
    assert page.main(["--jobs", "0"]) == 2
    assert "`jobs` must be" in capsys.readouterr().err
    assert page.main([]) == 0


def test_cheap_questions_for_real():
    names = ("scan", "keyword arguments", "coefficient gradient", "vjp by coefficients")
    facts = stack.run_stack_probes(questions=[q for q in QUESTIONS if q.name in names])
    assert len(facts) == 4
    assert all(fact.holds for fact in facts), facts
    dead = next(fact for fact in facts if fact.verdict == "dead")
    assert "exactly 0 where (0.479, " in dead.detail  # sin 0.5, <X_0> of the first example


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("CompileError: x.cpp:1: f(): Assertion `a == b' failed.\nmore", "CompileError: assertion a == b failed"),
        ("CompileError: w\nerror: <u>:0:0: in function f (ptr): Enzyme: e  %3 = x", "CompileError: Enzyme: e"),
        (
            "CompileError: catalyst failed with error code -11: PLEASE submit",
            "CompileError: the compiler's process died of SIGSEGV",
        ),
        ("E: " + "x" * 400, "E: " + "x" * 144 + "..."),
        ("", ""),
    ],
)
def test_messages_are_one_line(detail, line):
    assert _run.shortened(detail) == line


def as_expected(question: Question) -> StackFact:
    return answered(question, question.expected, question.message)


def test_only_what_is_relied_on_breaks():
    facts = [as_expected(question) for question in QUESTIONS]
    assert stack.broken(facts) == ()
    for place, fact in enumerate(facts):
        other = "fails" if fact.expected == "works" else "works"
        changed = [*facts[:place], dataclasses.replace(fact, verdict=other), *facts[place + 1 :]]
        assert [f.name for f in stack.broken(changed)] == ([fact.name] if fact.relied_on else [])


def test_a_failure_of_another_kind_is_not_the_expected_one():
    (question,) = [q for q in QUESTIONS if q.name == "vmap inside"]
    assert answered(question, "fails", "NotImplementedError: no rule").holds
    assert not answered(question, "fails", "ModuleNotFoundError: no pennylane").holds


@pytest.mark.parametrize(("expected", "status"), [("works", 0), ("fails", 1)])
def test_diagnose_tells_of_a_broken_fact(monkeypatch, capsys, expected, status):
    asked = control("answer", expected=expected, relied_on=True)
    monkeypatch.setattr(_run, "QUESTIONS", (asked,))
    assert diagnose.main(["--stack", "--quiet"]) == status
    out = capsys.readouterr().out
    assert "as it should" in out
    assert ("qwafer relies on: answer" in out) == bool(status)


def test_the_committed_table_is_one_the_command_could_have_written():
    versions, rows = page.parse(page.DOCUMENT.read_text())
    if versions != stack.versions():
        pytest.skip(f"the table was written with {versions}")
    assert [row.name for row in rows] == [question.name for question in QUESTIONS]
    for row, question in zip(rows, QUESTIONS, strict=True):
        fact = answered(question, question.expected, row.detail)
        assert fact.holds, row
        assert row.detail
        (written,) = page.parse(_document([fact]))[1]
        assert written == row


def _document(facts: list[StackFact]) -> str:
    return f"{page.BEGIN}\n{to_markdown(page.fact_blocks(facts))}\n{page.END}"


def test_a_table_is_read_back_as_written(tmp_path: Path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    fact = dataclasses.replace(as_expected(QUESTIONS[0]), detail="a | b", verdict="dead")
    page.write(path, [fact])
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    versions, (row,) = page.parse(text)
    assert versions == stack.versions()
    assert (row.name, row.detail, row.does) == (fact.name, "a | b", fact.does)
    assert row.verdict == "dead (expected: fails)"
    with pytest.raises(InputError, match="markers"):
        page.parse("no table")
