"""`python -m qwafer.engines.catalyst.stack`: the facts as Markdown, or written into the documentation."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qwafer._process import run_verb
from qwafer.engines.catalyst.stack import broken, markdown, run_stack_probes, write
from qwafer.engines.catalyst.stack._table import parts
from qwafer.execution import Progress

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "catalyst-learnings.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probes; print or write their table; return 1 where a fact that qwafer relies on does not hold."""
    parser = argparse.ArgumentParser(prog="python -m qwafer.engines.catalyst.stack", description=__doc__)
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
        sys.stdout.write(markdown(facts) + "\n")
    return 1 if broken(facts) else 0


def _say(state: Progress) -> None:
    sys.stderr.write(f"{state.done}/{state.total}: {state.text}\n")


if __name__ == "__main__":
    sys.exit(main())
