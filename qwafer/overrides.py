"""Strict options: by dotted name, values with checked types, and a reason wherever one would have no effect."""

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qwafer._checks import check_printable, nearest, plain
from qwafer._errors import InputError
from qwafer.config import DEFAULTS, THINGS, DataConfig, RunConfig, check_thing, thing_class
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


Entry = tuple[str, Given]
"""The name of an option, perhaps short, and its value."""


def selector(section: str) -> str | None:
    """Return the option that names the thing of `section` (`head.name`); None for a section of plain options."""
    return f"{section}.{THINGS[section][0]}" if section in THINGS else None


def options_of(cls: type) -> dict[str, Any]:
    """Return the type of every option of a dataclass of options, by name."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise InputError(f"the types of the options of {cls.__name__} cannot be told: {error}") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def known_options(entries: Iterable["Entry"] = ()) -> dict[str, Any]:
    """Return the type of every option by dotted name (`training.epochs`: int): of the plain sections, of the things
    that come with qwafer, and of those that `entries` name. Of two things with an option of one name the first counts.
    """
    named = [(selector(name) or name, given.value) for name, given in entries]
    known: dict[str, Any] = {}
    for section in SECTIONS:
        if section not in THINGS:
            hint = typing.get_type_hints(RunConfig)[section]
            known |= {f"{section}.{option}": kind for option, kind in options_of(hint).items()}
            continue
        key, registry = THINGS[section]
        known[f"{section}.{key}"] = str
        own = [value for name, value in named if name == f"{section}.{key}"]
        for name in (*registry.names, *own):
            for option, kind in options_of(thing_class(section, name)).items():
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


def parse_assignment(text: str) -> Entry:
    """Return the name and the value of "option=value", a value as TOML writes it; quotes may be left out."""
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals or not name:
        raise InputError(f"`--set` takes option=value, such as training.epochs=20, got {text!r}")
    try:
        table = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        table = {}
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists in lists in lists
        raise InputError(f"`{name}` has a value that cannot be read ({error})") from error
    return name, Given(table["value"] if set(table) == {"value"} else raw, raw)


def parse_overrides(overrides: Iterable[str]) -> list[Entry]:
    """Return the names and values of "option=value" texts."""
    return [parse_assignment(text) for text in overrides]


def flatten(table: Mapping[str, Any], *, where: str = "", prefix: str = "") -> list[Entry]:
    """Return the dotted names and the values of nested TOML tables; `where` is put at the end of messages."""
    entries: list[Entry] = []
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        entries += (
            flatten(value, where=where, prefix=name)
            if isinstance(value, Mapping)
            else [(name, Given(value, where=where))]
        )
    return entries


def named(entries: Iterable[Entry], known: Mapping[str, Any]) -> dict[str, Given]:
    """Return the values by the full names of their options (`engine = "xla"` sets `engine.name`); raise InputError for
    an option that is not `known`, and for one that occurs twice.
    """
    flat: dict[str, Given] = {}
    for name, given in entries:
        full = option_name(name, known, where=given.where)
        if full in flat:
            raise InputError(
                f"`{full}` is set twice{given.where}, to {flat[full].value!r} and to {given.value!r}: keep one"
            )
        flat[full] = given
    return flat


def checked(name: str, kind: Any, given: Given) -> Any:
    """Return the value as the type `kind` of the option `name`: an integer is a number too, `none` unsets what may be
    unset.
    """
    bare, optional = _bare_type(kind)
    value = plain(given.value)
    if isinstance(value, str):
        check_printable(f"`{name}`", value, lines=True)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"`{name}` must fit into 64 bits, as integers in TOML do{given.where}")
    if optional and (value is None or value == "none"):
        return None
    if bare is str and not isinstance(value, str) and (given.raw is not None or isinstance(value, (int, float))):
        value = given.raw if given.raw is not None else str(value) if not isinstance(value, bool) else value
    if bare is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"`{name}` must be a finite number, got {value}{given.where}")
        return float(value)
    origin, members = typing.get_origin(bare), typing.get_args(bare)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = members[:1] * len(value) if members[-1:] == (...,) else members
        if len(kinds) == len(value):
            return tuple(checked(name, own, Given(v, where=given.where)) for own, v in zip(kinds, value, strict=True))
    if origin in (tuple, typing.Literal) and (origin is tuple or value not in members):
        wanted = f"one of {', '.join(map(str, members))}" if origin is typing.Literal else f"a list as {bare} has it"
        raise InputError(f"`{name}` must be {wanted}{' or none' if optional else ''}, got {value!r}{given.where}")
    expected = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}.get(bare)
    if expected is None or (isinstance(value, bare) and (bare is bool or not isinstance(value, bool))):
        return value
    raise InputError(f"`{name}` must be {expected}{' or none' if optional else ''}, got {value!r}{given.where}")


def _bare_type(kind: Any) -> tuple[Any, bool]:
    """Return the type without its `| None`, and whether it had one."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return (members[0] if len(members) == 1 else kind), len(members) < len(typing.get_args(kind))
    return kind, False


def build(options: Mapping[str, Given]) -> tuple[RunConfig, dict[str, str]]:
    """Return the configuration of dotted `options`, and why those among them were left out that it does not have."""
    left_out: dict[str, str] = {}
    sections: dict[str, Any] = {}
    for section in SECTIONS:
        own = {name.partition(".")[2]: given for name, given in options.items() if name.startswith(f"{section}.")}
        if section in ("circuit", "engine") and section not in sections["head"].sections:
            head = options["head.name"].value  # the head by default runs a circuit
            left_out |= {f"{section}.{option}": f"head.name is {head}, which runs no circuit" for option in own}
            sections[section] = None
            continue
        if section in THINGS:
            key = THINGS[section][0]
            name = own.pop(key).value if key in own else DEFAULTS[section]
            cls = thing_class(section, name)
        else:
            cls = typing.get_type_hints(RunConfig)[section]
        kinds = options_of(cls)
        for option in own.keys() - kinds.keys():
            left_out[f"{section}.{option}"] = f"{section}.{key} is {name}, which has no such option"
        values = {
            option: checked(f"{section}.{option}", kinds[option], own[option]) for option in own if option in kinds
        }
        try:
            sections[section] = cls(**values)
        except InputError as error:
            raise InputError(_with_section(str(error), section, kinds)) from error
        except (TypeError, ValueError) as error:
            raise InputError(f"`{section}` cannot be made: {_with_section(str(error), section, kinds)}") from error
        if section in THINGS:
            check_thing(section, sections[section])
    return RunConfig(**sections), left_out


def _with_section(message: str, section: str, options: Collection[str]) -> str:
    """Return `message` with the options that it names by their full names: `n_qubits` as `circuit.n_qubits`."""
    return re.sub(r"`(\w+)`", lambda found: f"`{section}.{found[1]}`" if found[1] in options else found[0], message)


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Return `config` with other values of the dotted `options`, validated together.

    Where an option names another thing, options that it shares with the one before keep their values.
    """
    kept = {name: Given(value) for name, value in flat_config(config).items()}
    entries = [(name, Given(value)) for name, value in options.items()]
    given = named(entries, known_options([*kept.items(), *entries]))
    changed, left_out = build({**kept, **given})
    for name in given:
        if name in left_out:
            raise InputError(f"`{name}` has no effect: {left_out[name]}")
    return changed


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Return every option of `config` by dotted name."""
    return {
        f"{section}.{option}": value
        for section, values in config.to_dict().items()
        for option, value in (values or {}).items()
    }


def effective_options(config: RunConfig, facts: SourceFacts | None = None) -> dict[str, Any]:
    """Return the options that have an effect in `config`, by dotted name, with the values that they stand for.

    Two configurations with equal effective options are the same run. A source of which nothing is known is taken for
    wafer maps, or for the synthetic ones.
    """
    if facts is None:
        facts = SourceFacts("synthetic" if config.data.source == "synthetic" else "maps")
    if hasattr(config.engine, "stands_for"):
        config = dataclasses.replace(config, engine=config.engine.stands_for(config))
    options = {name: value for name, value in flat_config(config).items() if no_effect(config, name, facts) is None}
    for section in SECTIONS:
        thing = getattr(config, section)
        for option, value in (thing.implied(config) if hasattr(thing, "implied") else {}).items():
            if f"{section}.{option}" in options:
                options[f"{section}.{option}"] = value
    if not config.trained_by_loop:  # a loss says to what trains itself only whether classes exclude each other
        options["objective.loss"] = "softmax" if config.objective.exclusive else "bce"
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
        if not what.startswith("initial ") or section not in ("head", "circuit"):
            return ()
        data = [f"data.{option}" for option in options_of(DataConfig)] if section == "head" else []
        return (THINGS[section][0], *options_of(type(thing)), *data)
    name = what.partition("[")[0]
    matches = [prefix for prefix in table if name == prefix or name.startswith(f"{prefix}.")]
    return tuple(table[max(matches, key=len)]) if matches else ()
