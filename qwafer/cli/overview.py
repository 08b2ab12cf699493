"""`qwafer`, or `python -m qwafer`: runs a verb; alone, the verbs, the diagnostics, and lists of what can be named."""

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from qwafer import __version__
from qwafer._process import run_verb
from qwafer.cli.arguments import add_lists, program

VERBS = (
    *("extract", "fit", "diagnose", "plan", "search", "ablate", "bench", "errors", "verify"),
    *("registry", "serve", "monitor", "export"),
)
"""In the order in which a comparison, and then a line, needs them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of `qwafer` without a verb."""
    parser = argparse.ArgumentParser(
        prog=program("").rstrip(". "),
        description="Run a verb of qwafer, or list the verbs, its diagnostics, and what can be named on their command "
        "lines. `qwafer VERB` and `python -m qwafer.VERB` are the same.",
        epilog="Each verb and each diagnostic has --help.",
    )
    parser.add_argument("--version", action="version", version=f"qwafer {__version__}")
    add_lists(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        from qwafer.cli.completion import complete

        complete(parser, (*VERBS, "completion"))
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in (*VERBS, "completion"):
        status: int = importlib.import_module(f"qwafer.cli.{words[0]}").main(words[1:])
        return status
    return run_verb(lambda: _run(parser, words))


def _run(parser: argparse.ArgumentParser, words: list[str]) -> int:
    if words and not words[0].startswith("-"):
        from qwafer._checks import nearest
        from qwafer._errors import InputError

        raise InputError(f"there is no verb `{words[0]}`{nearest(words[0], VERBS)}; {parser.prog} lists")
    parser.parse_args(words)
    print(overview())
    return 0


def overview() -> str:
    """Return the verbs and the diagnostics, a line each, from the docstrings of their files; nothing is imported."""
    package = Path(__file__).resolve().parents[1]
    verbs = {f"python -m qwafer.{verb}": _first_line(package / f"{verb}.py").partition(": ")[2] for verb in VERBS}
    scripts = sorted(path for path in (package / "diagnostics").glob("*.py") if not path.name.startswith("_"))
    questions = {path.stem: _first_line(path) for path in scripts}
    lists = {
        "python -m qwafer --list-options": "what `--set` and TOML files take, with defaults and meanings",
        "python -m qwafer --list-experiments": "the experiments that come with qwafer",
        "python -m qwafer --list-metrics": "the metrics that arms are compared by",
        "python -m qwafer --version": "the version",
        "qwafer completion bash|zsh|fish": "what makes a shell complete `qwafer`",
    }
    parts = [f"qwafer {__version__}: {_first_line(package / '__init__.py').partition(': ')[2]}"]
    for title, lines in (
        ("Verbs", verbs),
        ("One question each, python -m qwafer.diagnostics.NAME", questions),
        ("Lists", lists),
    ):
        width = max(map(len, lines))
        parts += ["", f"{title}:", *(f"  {command:{width}}  {text}" for command, text in lines.items())]
    return "\n".join(
        [*parts, "", "`qwafer VERB` is `python -m qwafer.VERB`. Each has --help. A first comparison: qwafer ablate"]
    )


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
