"""`python -m qwafer.reports.stack`: the facts on the compiler stack as Markdown, or written into the documentation.

The table stands in `docs/catalyst-learnings.md` between two markers, and can be read back.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from qwafer._errors import InputError
from qwafer._io import write_text
from qwafer._process import run_verb
from qwafer.engines.catalyst.stack import StackFact, broken, run_stack_probes, versions
from qwafer.execution import Progress
from qwafer.reports.document import Block, Paragraph, Table, to_markdown

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "catalyst-learnings.md"
BEGIN = "<!-- stack facts: written by `python -m qwafer.reports.stack --write-docs` -->"
END = "<!-- end of stack facts -->"

_HEAD = ("question", "capability", "answer", "message or number", "relied on", "what qwafer does")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table that was read back."""

    name: str
    fact: str
    verdict: str
    detail: str
    relied_on: bool
    does: str


def fact_blocks(facts: Sequence[StackFact]) -> list[Block]:
    """Return the facts as a table under a line with the versions of the stack."""
    rows = []
    for fact in facts:
        answer = fact.verdict if fact.holds else f"{fact.verdict} (expected: {fact.expected})"
        rows.append((fact.name, fact.fact, answer, fact.detail, "yes" if fact.relied_on else "no", fact.does))
    return [Paragraph(f"Versions: {versions()}."), Table(_HEAD, rows, text_columns=len(_HEAD))]


def parse(document: str) -> tuple[str, tuple[Row, ...]]:
    """Return the versions and rows of the table in a document; InputError where there is none."""
    _, table, _ = parts(document)
    found = re.search(r"^Versions: (.*)\.$", table, re.MULTILINE)
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    if found is None or not rows or tuple(rows[0]) != _HEAD:
        raise InputError("the document's table of stack facts cannot be read: write it again with --write-docs")
    return found[1], tuple(
        Row(name=name, fact=fact, verdict=answer, detail=detail, relied_on=relied == "yes", does=does)
        for name, fact, answer, detail, relied, does in rows[2:]
    )


def write(path: Path, facts: Sequence[StackFact]) -> None:
    """Put the table of `facts` between the markers of the document at `path`."""
    before, _, after = parts(path.read_text())
    write_text(path, f"{before}{BEGIN}\n\n{to_markdown(fact_blocks(facts))}\n{END}{after}")


def parts(document: str) -> tuple[str, str, str]:
    """Return what is before, between and after the markers; InputError where one is missing."""
    before, begin, rest = document.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the document lacks the markers of its table: {BEGIN} and {END}")
    return before, table, after


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probes; print or write their table; return 1 where a fact that qwafer relies on does not hold."""
    parser = argparse.ArgumentParser(prog="python -m qwafer.reports.stack", description=__doc__)
    parser.add_argument("--write-docs", action="store_true", help=f"write the table into {DOCUMENT.name}")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at a time (2)")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments.jobs, write_docs=arguments.write_docs))


def _run(jobs: int, *, write_docs: bool) -> int:
    if write_docs:
        parts(DOCUMENT.read_text())  # a missing document or marker is told now, not after a minute
    facts = run_stack_probes(_say, jobs)
    if write_docs:
        write(DOCUMENT, facts)
    else:
        sys.stdout.write(to_markdown(fact_blocks(facts)))
    return 1 if broken(facts) else 0


def _say(state: Progress) -> None:
    sys.stderr.write(f"{int(state.done)}/{state.total}: {state.text}\n")


if __name__ == "__main__":
    sys.exit(main())
