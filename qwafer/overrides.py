"""Strict options: by dotted name, values with checked types, and a reason wherever one would have no effect."""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer.config import DEFAULTS, THINGS, RunConfig
from qwafer.features import SourceFacts

SECTIONS = tuple(field.name for field in dataclasses.fields(RunConfig))
"""The sections of a configuration."""


@dataclass(frozen=True)
class Given:
    """A value as somebody wrote it."""

    value: Any
    """As TOML reads it."""
    raw: str | None = None
    """The text of a command line: a shell does not say whether 5 is a number or a text."""
    where: str = ""
    """Put at the end of a message about it."""


def selector(section: str) -> str | None:
    """Return the option that names the thing of `section` (`head.name`); None for a section of plain options."""
    return f"{section}.{THINGS[section][0]}" if section in THINGS else None


def options_of(cls: type) -> dict[str, Any]:
    """Return the type of every option of a dataclass of options, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def known_options(options: Mapping[str, Given] | None = None) -> dict[str, Any]:
    """Return the type of every option by dotted name (`training.epochs`: int): of the plain sections, of the things
    that come with qwafer, and of those that `options` name.
    """
    known: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        section = field.name
        if section not in THINGS:
            hint = typing.get_type_hints(RunConfig)[section]
            known |= {f"{section}.{option}": kind for option, kind in options_of(hint).items()}
            continue
        key, registry = THINGS[section]
        known[f"{section}.{key}"] = str
        named = (options or {}).get(f"{section}.{key}")
        for name in (*registry.names, *([] if named is None else [named.value])):
            for option, kind in options_of(registry.get(name)).items():
                known.setdefault(f"{section}.{option}", kind)
    return known


def option_name(name: str, known: Mapping[str, Any], *, where: str = "") -> str:
    """Return the dotted option that `name` stands for: itself, or the selector of a section that holds a thing.

    Raises InputError, naming the nearest option, where there is none; `where` is put at its end.
    """
    if name in known:
        return name
    chosen = selector(name)
    if chosen is not None:
        return chosen
    if name in SECTIONS:
        example = next(option for option in known if option.startswith(f"{name}."))
        raise InputError(f"`{name}` is a section of options: set one of them, such as `{example}`{where}")
    hint = nearest(name, known)
    same_end = [option for option in known if option.partition(".")[2] == name]
    if same_end:
        hint = f"; did you mean {' or '.join(f'`{option}`' for option in same_end)}?"
    raise InputError(f"there is no option `{name}`{where}{hint}")


def parse_assignment(text: str) -> tuple[str, Given]:
    """Return the name and the value of "option=value", a value as TOML writes it; quotes may be left out."""
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals or not name:
        raise InputError(f"`--set` takes option=value, such as training.epochs=20, got {text!r}")
    try:
        table = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        table = {}
    return name, Given(table["value"] if set(table) == {"value"} else raw, raw)


def parse_overrides(overrides: Iterable[str]) -> dict[str, Given]:
    """Return the options of "option=value" texts by dotted name; raise InputError where one is given twice."""
    return named(((*parse_assignment(text), "") for text in overrides), "is set twice, to {} and to {}: keep one")


def flatten(table: Mapping[str, Any], *, where: str = "") -> dict[str, Given]:
    """Return the options of nested TOML tables by dotted name; `engine = "xla"` sets `engine.name`."""

    def visit(prefix: str, value: Any) -> Iterable[tuple[str, Given, str]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            yield prefix, Given(value, where=where), where

    return named(visit("", table), "is given twice, as {} and as {}")


def named(given: Iterable[tuple[str, Given, str]], twice: str) -> dict[str, Given]:
    """Return the values by the full names of their options; raise InputError for an unknown option and for one that
    occurs twice.
    """
    entries = list(given)
    selected = {chosen: value for name, value, _ in entries if (chosen := selector(name) or name) in _SELECTORS}
    known = known_options(selected)
    flat: dict[str, Given] = {}
    for name, value, where in entries:
        full = option_name(name, known, where=where)
        if full in flat:
            raise InputError(f"`{full}` {twice.format(repr(flat[full].value), repr(value.value))}{where}")
        flat[full] = dataclasses.replace(value, value=checked(full, known[full], value))
    return flat


_SELECTORS = {selector(section) for section in THINGS}


def checked(name: str, kind: Any, given: Given) -> Any:
    """Return the value as the type `kind` of the option `name`: an integer is a number too, `none` unsets what may be
    unset.
    """
    bare, optional = _bare_type(kind)
    value = given.value
    if optional and (value is None or value == "none"):
        return None
    if bare is str and not isinstance(value, str) and (given.raw is not None or isinstance(value, (int, float))):
        value = given.raw if given.raw is not None else str(value) if not isinstance(value, bool) else value
    if bare is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"`{name}` must be a finite number, got {value}{given.where}")
        return float(value)
    if typing.get_origin(bare) is tuple and isinstance(value, list):
        return tuple(value)
    expected = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}.get(bare)
    if expected is None or (isinstance(value, bare) and (bare is bool or not isinstance(value, bool))):
        return value
    raise InputError(f"`{name}` must be {expected}{' or none' if optional else ''}, got {value!r}{given.where}")


def _bare_type(kind: Any) -> tuple[Any, bool]:
    """Return the type without its `| None`, and whether it had one."""
    if isinstance(kind, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return (members[0] if len(members) == 1 else kind), len(members) < len(typing.get_args(kind))
    return kind, False


def build(options: Mapping[str, Given]) -> tuple[RunConfig, dict[str, str]]:
    """Return the configuration of dotted `options`, and why those among them were left out that it does not have."""
    values = {name: given.value for name, given in options.items()}
    left_out: dict[str, str] = {}
    sections: dict[str, Any] = {}
    for section in SECTIONS:
        own = {name.partition(".")[2]: name for name in values if name.startswith(f"{section}.")}
        if section not in THINGS:
            cls = typing.get_type_hints(RunConfig)[section]
        else:
            key, registry = THINGS[section]
            name = values.get(f"{section}.{key}", DEFAULTS[section])
            own.pop(key, None)
            if section in ("circuit", "engine") and section not in sections["head"].sections:
                chosen = values.get("head.name", DEFAULTS["head"])
                given = {name for name in values if name.startswith(f"{section}.")}
                left_out |= dict.fromkeys(given, f"head.name is {chosen}, which runs no circuit")
                sections[section] = None
                continue
            cls = registry.get(name)
            if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
                raise InputError(f"`{section}.{key}` = {name} must be a frozen dataclass of options, got {cls!r}")
            kinds = options_of(cls)
            for option in [option for option in own if option not in kinds]:
                left_out[own.pop(option)] = f"{section}.{key} is {name}, which has no such option"
            for option, full in own.items():
                values[full] = checked(full, kinds[option], options[full])
        try:
            sections[section] = cls(**{option: values[full] for option, full in own.items()})
        except TypeError as error:
            raise InputError(f"`{section}` cannot be made: {error}") from error
    return RunConfig(**sections), left_out


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Return `config` with other values of the dotted `options`, validated together.

    Where an option names another thing, options that it shares with the one before keep their values.
    """
    given = {name: value if isinstance(value, Given) else Given(value) for name, value in options.items()}
    kept = {name: Given(value) for name, value in flat_config(config).items()}
    changed, left_out = build({**kept, **given})
    for name in given:
        if name in left_out or name not in known_options(given):
            raise InputError(f"`{name}` has no effect: {left_out.get(name, 'there is no such option')}")
    return changed


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Return every option of `config` by dotted name."""
    return {
        f"{section}.{option}": value
        for section, values in config.to_dict().items()
        for option, value in (values or {}).items()
    }


def effective_options(config: RunConfig, facts: SourceFacts | None = None) -> dict[str, Any]:
    """Return the options that have an effect in `config`, by dotted name, with implied values filled in.

    Two configurations with equal effective options are the same run. A source of which nothing is known is taken for
    wafer maps, or for the synthetic ones.
    """
    if facts is None:
        facts = SourceFacts("synthetic" if config.data.source == "synthetic" else "maps")
    options = {name: value for name, value in flat_config(config).items() if no_effect(config, name, facts) is None}
    for section in SECTIONS:
        thing = getattr(config, section)
        for option, value in (thing.implied() if hasattr(thing, "implied") else {}).items():
            if f"{section}.{option}" in options:
                options[f"{section}.{option}"] = value
    # Where every group resolves to its own value, the common one says nothing more.
    options.pop("training.weight_decay", None)
    return options


def no_effect(config: RunConfig, name: str, facts: SourceFacts) -> str | None:
    """Return why the option `name` has no effect in `config` on a source of these `facts`, as a clause; None where it
    has one.
    """
    section, _, option = name.partition(".")
    thing = getattr(config, section)
    reason = config.unused(section)
    if reason is None and section in THINGS:
        key = THINGS[section][0]
        if option not in (key, *options_of(type(thing))):
            return f"{section}.{key} is {config.name(section)}, which has no such option"
        if section == "objective" and option != key and not config.trained_by_loop:
            return f"head.name is {config.name('head')}, which trains itself"
    if reason is not None or not hasattr(thing, "no_effect"):
        return reason
    clause: str | None = thing.no_effect(option, config, facts)
    return clause


def determined_by(what: str, config: RunConfig) -> tuple[str, ...]:
    """Return the dotted options that determine a digest of a run: `data`, `split`, `batches`, or `initial NAME`, the
    initial value of the parameter NAME (with or without its shape).

    It may differ between two runs of one seed only where they differ in one of these options.
    """
    names: list[str] = []
    for section in SECTIONS:
        thing = getattr(config, section)
        if thing is None or config.unused(section) is not None:
            continue
        names += [name if "." in name else f"{section}.{name}" for name in _declared(section, thing, what)]
    return tuple(names)


def _declared(section: str, thing: Any, what: str) -> tuple[str, ...]:
    if hasattr(thing, "determined_by"):
        return tuple(thing.determined_by(what))
    table = getattr(thing, "determines", None)
    if table is None:
        shapes = what.startswith("initial ") and section in ("head", "circuit")
        return (THINGS[section][0], *options_of(type(thing))) if shapes else ()
    name = what.partition("[")[0]
    matches = [prefix for prefix in table if name == prefix or name.startswith(f"{prefix}.")]
    return tuple(table[max(matches, key=len)]) if matches else ()
