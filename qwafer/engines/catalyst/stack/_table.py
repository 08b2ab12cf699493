"""The facts as a Markdown table, in a document between two markers, and back."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from qwafer._errors import InputError
from qwafer._io import atomic_path
from qwafer.engines.cache import stack_versions
from qwafer.engines.catalyst.stack._fact import StackFact

BEGIN = "<!-- stack facts: written by `python -m qwafer.engines.catalyst.stack --write-docs` -->"
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


def versions() -> str:
    """Return the versions of the stack as the table states them."""
    return ", ".join(f"{package} {version}" for package, version in stack_versions())


def markdown(facts: Sequence[StackFact]) -> str:
    """Return the facts as a Markdown table under a line with the versions of the stack."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for fact in facts:
        answer = fact.verdict if fact.holds else f"{fact.verdict} (expected: {fact.expected})"
        rows.append((fact.name, fact.fact, answer, fact.detail, "yes" if fact.relied_on else "no", fact.does))
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"Versions: {versions()}.", "", *lines])


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
    with atomic_path(path) as temporary:
        Path(temporary).write_text(f"{before}{BEGIN}\n\n{markdown(facts)}\n\n{END}{after}")


def parts(document: str) -> tuple[str, str, str]:
    """Return what is before, between and after the markers; InputError where one is missing."""
    before, begin, rest = document.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the document lacks the markers of its table: {BEGIN} and {END}")
    return before, table, after
