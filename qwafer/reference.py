"""The reference of options: name, type, default and meaning of each, from the dataclasses that hold them."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qwafer.config import DEFAULTS, THINGS, RunConfig, thing_class
from qwafer.experiment import Experiment, load_experiment, shipped_experiments
from qwafer.overrides import SECTIONS, options_of

WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "none"}
KEYS = ("name", "title", "description", "expected", "reference", "seeds", "metric", "margin", "baseline", "arms")
"""The keys of an experiment's TOML file beside its sections."""


@dataclass(frozen=True)
class Option:
    """One option, as a user sets it."""

    name: str
    """Its dotted name, such as `training.epochs`."""
    kind: str
    """What it takes, in words: `integer or none`."""
    default: str
    """Its default as TOML and `--set` write it."""
    meaning: str
    """The docstring of its field, in one line."""


@dataclass(frozen=True)
class OptionGroup:
    """The options of a section, or of one thing that a section may hold."""

    section: str
    """The section of the configuration."""
    thing: str
    """What is set to choose the thing, such as `head.name = mlp`; empty for a section of plain options."""
    is_default: bool
    """Whether the thing is the one of its section where none is named."""
    meaning: str
    """First paragraph of the class's docstring, in one line."""
    options: tuple[Option, ...]
    """In the order of the class."""


def option_groups() -> tuple[OptionGroup, ...]:
    """Return every option of a run, by section and by the things that come with qwafer."""
    groups: list[OptionGroup] = []
    for section in SECTIONS:
        if section not in THINGS:
            groups.append(_group(section, "", typing.get_type_hints(RunConfig)[section], is_default=True))
            continue
        key, registry = THINGS[section]
        for name in registry.names:
            chosen = f"{section}.{key} = {name}"
            groups.append(_group(section, chosen, thing_class(section, name), is_default=name == DEFAULTS[section]))
    return tuple(groups)


def _group(section: str, thing: str, cls: type, *, is_default: bool) -> OptionGroup:
    docs, kinds = field_docs(cls), options_of(cls)
    options = tuple(
        Option(f"{section}.{item.name}", _kind(kinds[item.name]), _value(item.default), docs.get(item.name, ""))
        for item in dataclasses.fields(cls)
    )
    return OptionGroup(section, thing, is_default, _line((inspect.getdoc(cls) or "").split("\n\n")[0]), options)


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, those of its bases included, in one line each."""
    docs: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        if not dataclasses.is_dataclass(each):
            continue
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(each))).body)  # type: ignore[attr-defined]
        for node, after in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
                docs[node.target.id] = _line(str(ast.literal_eval(after.value)))
    return docs


def _line(text: str) -> str:
    return " ".join(text.split())


def _kind(kind: Any) -> str:
    """Return a type in words."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(member) for member in members)
    if origin is tuple:
        return f"list of {', '.join(_kind(member) for member in members if member is not ...)}"
    if origin is typing.Literal:
        return " or ".join(f"`{member}`" for member in members)
    return WORDS.get(kind, str(kind))


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def experiment_titles() -> dict[str, str]:
    """Return the titles of the experiments that come with qwafer, by name."""
    files = shipped_experiments()
    return {file.stem: tomllib.loads(file.read_text(encoding="utf-8")).get("title", "") for file in files}


def metric_lines() -> dict[str, str]:
    """Return what each metric that arms are compared by is called, and which way is better, by name."""
    from qwafer.comparison.metrics import EXCLUSIVE, METRICS

    lines = {}
    for name, metric in METRICS.items():
        notes = ["higher is better" if metric.higher_is_better else "lower is better"]
        notes += ["at thresholds tuned on validation"] if metric.decided_on else []
        notes += ["exclusive classes only"] if name in EXCLUSIVE else []
        lines[f"test.{name}"] = f"{metric.label} ({', '.join(notes)})"
    return lines


def options_text() -> str:
    """Return every option as plain text for a terminal."""
    parts = []
    for group in option_groups():
        parts.append(_heading(group).replace("`", ""))
        for option in group.options:
            text = f"{option.name} = {option.default}  ({option.kind})"
            parts += [text, textwrap.fill(option.meaning, 100, initial_indent="    ", subsequent_indent="    ")]
        parts.append("")
    return "\n".join(parts)


def _heading(group: OptionGroup) -> str:
    if not group.thing:
        return f"[{group.section}] {group.meaning}"
    default = ", the default" if group.is_default else ""
    without = "" if group.options else " No options."
    return f"[{group.section}] with `{group.thing}`{default}: {group.meaning}{without}"


def options_page() -> str:
    """Return the page `docs/options.md`: the TOML format, the lists of names, and every option."""
    return "\n".join([*_introduction(), *_names(), *_options()])


def _introduction() -> Iterator[str]:
    yield "<!-- Made by `make options` from the docstrings of the code: change these. -->"
    yield "# Options\n"
    yield (
        "What a run is made of, with the defaults. The same names are used everywhere: on the command line "
        "(`--set training.epochs=20`), in\nTOML, and as fields of the dataclasses in Python. `none` unsets what may be "
        "unset. An unknown option, a value of the wrong type\nand an option without effect are errors that name it. "
        "`python -m qwafer --list-options` prints this list; `--list-experiments` and\n`--list-metrics` print the "
        "others. What has a name may be of your own: `package.module:attribute` or `file.py:attribute`\n"
        "([extending.md](extending.md)).\n"
    )
    yield "## An experiment as a TOML file\n"
    yield f"All but the arms is optional.\n\n```toml\n{toml_example()}```\n"
    docs = field_docs(Experiment)
    yield from (f"- `{key}`: {docs[key]}" for key in KEYS)
    yield (
        '\nA section\'s name by itself chooses its thing: `engine = "xla"` is short for `engine.name`. What stands in '
        "the base holds for every arm;\nan arm's own options go before it, and `--set` before both.\n"
    )


def toml_example() -> str:
    """Return the experiment that the docstring of `load_experiment` shows."""
    paragraphs = (inspect.getdoc(load_experiment) or "").split("\n\n")
    (block,) = (text for text in paragraphs if text.startswith("    "))
    return textwrap.dedent(block) + "\n"


def _names() -> Iterator[str]:
    yield "## Experiments that come with qwafer\n\n`python -m qwafer.ablate NAME`.\n"
    yield from (f"- `{name}`: {title}" for name, title in experiment_titles().items())
    yield "\n## Metrics\n\n`metric` of an experiment; each is an average over labels, on the test split.\n"
    yield from (f"- `{name}`: {text}" for name, text in metric_lines().items())
    yield ""


def _options() -> Iterator[str]:
    docs, section = field_docs(RunConfig), ""
    for group in option_groups():
        if group.section != section:
            section = group.section
            yield f"## `[{section}]`\n"
            if group.thing:
                yield f"{docs[section]}\n"
        yield f"{'### ' if group.thing else ''}{_title(group)}\n"
        yield from (f"- **`{o.name}`** = `{o.default}` ({o.kind}). {o.meaning}" for o in group.options)
        yield "" if group.options else "No options.\n"


def _title(group: OptionGroup) -> str:
    if not group.thing:
        return group.meaning
    return f"`{group.thing}`{' (the default)' if group.is_default else ''}\n\n{group.meaning}"
