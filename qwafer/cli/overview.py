"""`python -m qwafer`: the verbs, the diagnostics, and lists of what can be named."""

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path

from qwafer import __version__
from qwafer._process import run_verb
from qwafer.cli.arguments import add_lists

VERBS = ("extract", "diagnose", "plan", "search", "ablate", "bench", "verify", "registry", "serve", "monitor", "export")
"""In the order in which a comparison, and then a line, needs them."""


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of `python -m qwafer`."""
    parser = argparse.ArgumentParser(
        prog="python -m qwafer",
        description="List the verbs of qwafer, its diagnostics, and what can be named on their command lines.",
        epilog="Each verb and each diagnostic has --help.",
    )
    parser.add_argument("--version", action="version", version=f"qwafer {__version__}")
    add_lists(parser)
    parser.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown and arguments.verb is None:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb is not None:
        from qwafer._checks import nearest
        from qwafer._errors import InputError

        if arguments.verb in VERBS:
            raise InputError(f"the verbs are modules: python -m qwafer.{arguments.verb}")
        raise InputError(f"there is no verb `{arguments.verb}`{nearest(arguments.verb, VERBS)}; python -m qwafer lists")
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
    }
    parts = [f"qwafer {__version__}: {_first_line(package / '__init__.py').partition(': ')[2]}"]
    for title, lines in (
        ("Verbs", verbs),
        ("One question each, python -m qwafer.diagnostics.NAME", questions),
        ("Lists", lists),
    ):
        width = max(map(len, lines))
        parts += ["", f"{title}:", *(f"  {command:{width}}  {text}" for command, text in lines.items())]
    return "\n".join([*parts, "", "Each has --help. A first comparison: python -m qwafer.ablate"])


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
