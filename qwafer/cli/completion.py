"""`qwafer completion`: the line of a shell's start-up file by which it completes the command `qwafer`."""

import argparse
import importlib
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qwafer._lazy import optional_package
from qwafer._process import run_verb
from qwafer.cli.arguments import program

SHELLS = ("bash", "zsh", "fish")
WHAT = "the completion of command lines needs"


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the verb."""
    parser = argparse.ArgumentParser(
        prog=program("completion"),
        description="Print what makes a shell complete `qwafer`: verbs, options, names of experiments, and the options "
        "that --set takes with their values. It asks qwafer itself, so that it is never out of date.",
        epilog='bash and zsh: eval "$(qwafer completion bash)" in ~/.bashrc or ~/.zshrc (with zsh in place of bash). '
        "fish: qwafer completion fish | source in ~/.config/fish/config.fish. Needs qwafer[completion].",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return its exit status."""
    arguments = build_parser().parse_args(argv)

    def run() -> int:
        print(optional_package("argcomplete", "completion", WHAT).shellcode(["qwafer"], shell=arguments.shell))
        return 0

    return run_verb(run)


def complete(parser: argparse.ArgumentParser, verbs: Sequence[str]) -> None:
    """Answer the shell's question how a command line goes on, from the parsers of all verbs, and leave the process.

    The shell asks by environment variables; see argcomplete.
    """
    commands = parser.add_subparsers()
    for verb in verbs:
        own = importlib.import_module(f"qwafer.cli.{verb}").build_parser()
        commands.add_parser(verb, parents=[own], add_help=False)
        for action in _actions(commands.choices[verb]):
            if action.dest in COMPLETERS:
                action.completer = COMPLETERS[action.dest]  # type: ignore[attr-defined]
    optional_package("argcomplete", "completion", WHAT).autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what the parser takes, that of its own subparsers included."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)


def _experiments(prefix: str, **_: Any) -> list[str]:
    from qwafer.experiment import shipped_experiments

    files = optional_package("argcomplete", "completion", WHAT).FilesCompleter(("toml",))(prefix)
    return [*(path.stem for path in shipped_experiments()), *files]


def _executors(**_: Any) -> tuple[str, ...]:
    from qwafer.execution import EXECUTORS

    return tuple(EXECUTORS.names)


def _engines(**_: Any) -> tuple[str, ...]:
    from qwafer.engines import ENGINES

    return tuple(ENGINES.names)


def _backbones(**_: Any) -> list[str]:
    from qwafer.backbones import BACKBONES
    from qwafer.networks import NETWORKS

    return [*BACKBONES.names, *NETWORKS.names]


def _options(prefix: str, **_: Any) -> list[str]:
    """Return `option=` for every option, and where one stands there already, its names, or true and false."""
    from qwafer.config import THINGS
    from qwafer.overrides import known_options

    things = {f"{section}.{key}": registry.names for section, (key, registry) in THINGS.items()}
    things |= {section: registry.names for section, (_, registry) in THINGS.items()}
    known = known_options()
    name, given, _value = prefix.partition("=")
    if not given:
        return [f"{option}=" for option in (*known, *THINGS)]
    members = (known.get(name), *typing.get_args(known.get(name)))
    literals = [str(value) for value in members if isinstance(value, str)]
    values = things.get(name) or literals or (["true", "false"] if bool in members else [])
    return [f"{name}={value}" for value in values]


COMPLETERS: dict[str, Callable[..., Sequence[str]]] = {
    "experiment": _experiments,
    "overrides": _options,
    "executor": _executors,
    "engine": _engines,
    "backbone": _backbones,
}
"""How an argument goes on, by its `dest`; files for any other that takes a value."""
