"""`python -m qwafer.registry`: versions of models, which of them answers, and the way back."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwafer._process import run_verb
from qwafer.cli.arguments import program
from qwafer.cli.export import add_data, review_options

if TYPE_CHECKING:
    from qwafer.serving.registry import ModelRegistry


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("registry"),
        description="Keep versions of models that are never changed, say which of them answers, and go back to the one "
        "before. A version has its weights, its review, its evaluation and where its data come from.",
        epilog="Exit status: 0 done, 2 bad input, or a version that misses the gate.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|promote|rollback|list")
    add = actions.add_parser("add", help="evaluate a model and add it as a version")
    add.add_argument("registry", metavar="REGISTRY", help="the folder of the registry")
    add.add_argument("model", metavar="MODEL", help="a model file (qwafer.Model)")
    add.add_argument("--version", required=True, metavar="MAJOR.MINOR.PATCH", help="above the newest")
    add.add_argument("--note", default="", metavar="TEXT", help="a sentence that is kept with it")
    add_data(add)
    promote = actions.add_parser("promote", help="let a version answer, if its evaluation passes the gate")
    promote.add_argument("registry", metavar="REGISTRY", help="the folder of the registry")
    promote.add_argument("version", metavar="VERSION", help="the version")
    promote.add_argument("--gate", metavar="FILE.toml", help="floors of accuracy and F1 (REGISTRY/gate.toml)")
    back = actions.add_parser("rollback", help="let the previous version answer again")
    back.add_argument("registry", metavar="REGISTRY", help="the folder of the registry")
    for each in (promote, back):
        each.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    shown = actions.add_parser("list", help="the versions, what they are worth, and which answers")
    shown.add_argument("registry", metavar="REGISTRY", help="the folder of the registry")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from qwafer._errors import InputError
    from qwafer.serving.registry import Gate, ModelRegistry

    registry = ModelRegistry(arguments.registry)
    if arguments.action != "add" and not Path(arguments.registry).is_dir():
        raise InputError(f"there is no registry {arguments.registry}: add a version first")
    if arguments.action == "add":
        return _add(registry, arguments)
    if arguments.action == "promote":
        gate = None if arguments.gate is None else Gate.load(arguments.gate)
        now = registry.promote(arguments.version, gate, arguments.reason)
    elif arguments.action == "rollback":
        now = registry.rollback(arguments.reason)
    else:
        now = registry.pointers()
        for version in registry.versions():
            found, record = registry.evidence(version), registry.record(version)
            mark = "champion" if version == now.champion else "previous" if version == now.previous else ""
            scores = f"accuracy {found.accuracy:.4f}  macro F1 {found.macro_f1:.4f}"
            print(f"{version:10} {mark:9} {record.added}  {scores}  {record.note}".rstrip())
        return 0
    print(f"champion {now.champion}, previous {now.previous or 'none'}")
    return 0


def _add(registry: "ModelRegistry", arguments: argparse.Namespace) -> int:
    from qwafer._process import configure_jax
    from qwafer.model import Model
    from qwafer.serving.evidence import assess, maps_of
    from qwafer.serving.release import Release
    from qwafer.sweeps.ledger import note_model_read

    configure_jax()
    model = Model.load(arguments.model)
    registry.check_new(arguments.version)  # before the test split is read
    maps = maps_of(model, arguments.maps)
    review, evidence = assess(model, maps, review_options(arguments))
    name = f"{registry.folder.resolve().name} {arguments.version}"
    reads = note_model_read(registry.folder, name, arguments.model, maps)
    record = registry.add(Release(model, review, evidence), arguments.version, arguments.note)
    print(
        f"{record.version}: test accuracy {evidence.accuracy:.4f}, macro F1 {evidence.macro_f1:.4f}; "
        f"{evidence.flagged:.1%} to review, accuracy of the others {evidence.accuracy_of_others:.4f}"
    )
    print(*reads, sep="\n")
    return 0
