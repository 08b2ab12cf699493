"""`python -m qwafer.verify`: whether the files of a result directory, or one file, are what was written."""

import argparse
from collections.abc import Sequence

from qwafer._process import run_verb
from qwafer.cli.arguments import program


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("verify"),
        description="Check a result directory, a feature file or weights as a whole: every file that has a checksum is "
        "read and compared with it, every run is judged again from its logits, and what is damaged is named. Nothing "
        "is changed: the command that wrote the directory sets aside what is damaged, and makes it again.",
        epilog="Exit status: 0 all is whole, 1 something is damaged, 2 bad input.",
    )
    parser.add_argument("path", metavar="DIR|FILE", help="an output directory of a verb, or one file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from qwafer._errors import InputError
    from qwafer.studies import verify

    found = verify(arguments.path)
    for path, reason in found.damaged.items():
        print(f"damaged: {path}: {reason}")
    if not found.whole and not found.damaged:
        raise InputError(
            f"{arguments.path} holds no file with a checksum: give an output directory or a file of qwafer"
        )
    others = f"; {len(found.unchecked)} without a checksum (reports, figures)" if found.unchecked else ""
    print(f"{arguments.path}: {len(found.whole)} whole, {len(found.damaged)} damaged{others}")
    if found.damaged:
        print("the command that wrote them sets them aside and makes them again")
    return int(bool(found.damaged))
