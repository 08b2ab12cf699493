"""Strict overrides: options by dotted name, values with checked types, and a reason wherever one would have no
effect.
"""

import dataclasses
import functools
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer.config import RunConfig
from qwafer.source import source_facts

QUANTUM_HEAD_OPTIONS = ("projection", "angle_map", "angle_scale", "init_scale")
ALPHA_OPTIONS = ("alpha_mode", "alpha_init", "alpha_train", "alpha_per_label")
PARAMETER_GROUPS = ("projection", "circuit", "readout", "alpha")


@functools.cache
def option_types() -> dict[str, Any]:
    """Return the type of every option by dotted name (`training.epochs`: int), in the order of the configuration."""
    hints = typing.get_type_hints(RunConfig)
    return {
        f"{section}.{option}": kind
        for section in (field.name for field in dataclasses.fields(RunConfig))
        for option, kind in typing.get_type_hints(hints[section]).items()
    }


def sections() -> tuple[str, ...]:
    """Return the names of the configuration's sections."""
    return tuple(field.name for field in dataclasses.fields(RunConfig))


def option_name(name: str, *, where: str = "") -> str:
    """Return the dotted option that `name` stands for: itself, or `SECTION.name` for a section that has a name.

    Raises InputError, naming the nearest option, where there is none; `where` is put at its end.
    """
    known = option_types()
    if name in known:
        return name
    if f"{name}.name" in known:
        return f"{name}.name"
    if name in sections():
        example = next(option for option in known if option.startswith(f"{name}."))
        raise InputError(f"`{name}` is a section of options: set one of them, such as `{example}`{where}")
    hint = nearest(name, known)
    same_end = [option for option in known if option.partition(".")[2] == name]
    if same_end:
        hint = f"; did you mean {' or '.join(f'`{option}`' for option in same_end)}?"
    raise InputError(f"there is no option `{name}`{where}{hint}")


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the option and the checked value of "option=value", a value as TOML writes it; quotes may be left out.

    `engine=xla` sets `engine.name`; `none` unsets an option that may be unset. Raises InputError for anything else.
    """
    name, equals, raw = text.partition("=")
    name, raw = name.strip(), raw.strip()
    if not equals or not name:
        raise InputError(f"`--set` takes option=value, such as training.epochs=20, got {text!r}")
    name = option_name(name)
    try:
        table = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        table = {}
    value = table["value"] if set(table) == {"value"} else raw
    if _bare_type(option_types()[name])[0] is str and not isinstance(value, str):
        value = raw  # a shell does not say whether 5 is a number or a text
    return name, checked_value(name, value)


def checked_value(name: str, value: Any, *, where: str = "") -> Any:
    """Return `value` as the type of the option `name`: an integer is a number too, `none` unsets what may be unset."""
    kind, optional = _bare_type(option_types()[name])
    if optional and (value is None or value == "none"):
        return None
    if kind is bool and isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind is float:
            if not math.isfinite(value):
                raise InputError(f"`{name}` must be a finite number, got {value}{where}")
            return float(value)
        if kind is int and isinstance(value, int):
            return value
        if kind is str:
            return str(value)
    if kind is str and isinstance(value, str):
        return value
    expected = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[kind]
    raise InputError(f"`{name}` must be {expected}{' or none' if optional else ''}, got {value!r}{where}")


def _bare_type(kind: Any) -> tuple[type, bool]:
    """Return the type without its `| None`, and whether it had one."""
    if isinstance(kind, types.UnionType):
        (bare,) = (member for member in typing.get_args(kind) if member is not type(None))
        return bare, True
    return kind, False


def flatten(table: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Return the options of nested TOML tables by dotted name, checked; `engine = "xla"` sets `engine.name`."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
            return
        name = option_name(prefix, where=where)
        if name in flat:
            raise InputError(f"`{name}` is given twice{where}")
        flat[name] = checked_value(name, value, where=where)

    visit("", table)
    return flat


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Return `config` with other values of the dotted `options`; each section is validated once, with all of them."""
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        section, _, option = name.partition(".")
        by_section.setdefault(section, {})[option] = value
    changed = {name: dataclasses.replace(getattr(config, name), **values) for name, values in by_section.items()}
    return dataclasses.replace(config, **changed)


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Return every option of `config` by dotted name."""
    return {
        f"{section}.{option}": value for section, values in config.to_dict().items() for option, value in values.items()
    }


def effective_options(config: RunConfig) -> dict[str, Any]:
    """Return the options that have an effect in `config`, by dotted name, with implied values filled in.

    Two configurations with equal effective options are the same run.
    """
    options = {name: value for name, value in flat_config(config).items() if no_effect(config, name) is None}
    if "circuit.entanglement" in options:
        # The number of outputs plays no part in what an empty entanglement stands for.
        options["circuit.entanglement"] = config.circuit.spec(1).entanglement
    for group in PARAMETER_GROUPS:
        if options.get(f"training.weight_decay_{group}", 0) is None:
            options[f"training.weight_decay_{group}"] = config.training.weight_decay
    # Where every group resolves to its own value, the common one says nothing more.
    options.pop("training.weight_decay", None)
    return options


def no_effect(config: RunConfig, name: str) -> str | None:
    """Return why the option `name` has no effect in `config`, as a clause; None where it has one."""
    section, _, option = name.partition(".")
    if section == "data":
        return _no_effect_data(config, option)
    if section in ("circuit", "engine") and config.head.name != "quantum":
        return f"head.name is {config.head.name}, and a classical head has no circuit"
    if section == "circuit":
        return _no_effect_circuit(config, option)
    if section == "head":
        return _no_effect_head(config, option)
    if section == "objective":
        return _no_effect_objective(config, option)
    if section == "sampling" and option != "balanced" and not config.sampling.balanced:
        return "sampling.balanced is false"
    if section == "training":
        return _no_effect_training(config, option)
    return None


def _no_effect_data(config: RunConfig, option: str) -> str | None:
    source = config.data.source
    if option in ("n_maps", "seed") and source != "synthetic":
        return f"data.source is {source}; the synthetic generator does not run"
    facts = source_facts(config.data)
    if option == "backbone" and facts.kind in ("features", "table"):
        return f"data.source {source} holds {'features already' if facts.kind == 'features' else 'a table'}"
    if option in ("split_by", "train_fraction", "val_fraction") and facts.brings_split:
        return f"data.source {source} brings its own split"
    if option == "split_seed" and config.data.split_by == "time" and config.data.limit is None:
        return "data.split_by is time, which draws nothing"
    return None


def _no_effect_circuit(config: RunConfig, option: str) -> str | None:
    if option == "entanglement" and config.circuit.n_qubits == 1:
        return "circuit.n_qubits is 1: there is nothing to entangle"
    if option == "reupload" and config.circuit.n_layers == 1:
        return "circuit.n_layers is 1: the data are encoded once anyway"
    return None


def _no_effect_head(config: RunConfig, option: str) -> str | None:
    head = config.head
    if option in (*QUANTUM_HEAD_OPTIONS, *ALPHA_OPTIONS) and head.name != "quantum":
        return f"head.name is {head.name}; the option belongs to quantum"
    if option in ("hidden", "dropout") and head.name != "mlp":
        return f"head.name is {head.name}; the option belongs to mlp"
    if option in ("alpha_mode", "alpha_per_label") and not head.alpha_train:
        return "head.alpha_train is false; alpha keeps its initial value"
    if option == "alpha_per_label" and config.data.task != "multilabel":
        return f"data.task is {config.data.task}, which has one label"
    return None


def _no_effect_objective(config: RunConfig, option: str) -> str | None:
    objective = config.objective
    if option == "focal_gamma" and objective.loss != "focal":
        return f"objective.loss is {objective.loss}; the exponent belongs to focal"
    if option.startswith("asymmetric_") and objective.loss != "asymmetric":
        return f"objective.loss is {objective.loss}; the option belongs to asymmetric"
    if option == "effective_beta" and "effective" not in (objective.pos_weight, objective.class_weights):
        return "neither objective.pos_weight nor objective.class_weights is effective"
    if option == "pos_weight" and objective.loss in ("softmax", "auc"):
        return f"objective.loss is {objective.loss}, which has no negative terms to set positives against"
    if option == "class_weights" and config.data.task != "multilabel":
        return f"data.task is {config.data.task}, which has one label"
    if option == "label_smoothing" and objective.loss == "auc":
        return "objective.loss is auc, which compares pairs"
    return None


def _no_effect_training(config: RunConfig, option: str) -> str | None:
    untrained = _untrained_groups(config)
    for group, reason in untrained.items():
        if option in (f"lr_mult_{group}", f"weight_decay_{group}"):
            return reason
    trained = [group for group in PARAMETER_GROUPS if group not in untrained]
    own = [getattr(config.training, f"weight_decay_{group}") for group in trained]
    if option == "weight_decay" and all(value is not None for value in own):
        return f"every trained group ({', '.join(trained)}) has a weight decay of its own"
    return None


def _untrained_groups(config: RunConfig) -> dict[str, str]:
    """Return the optimiser's groups without a trained parameter, each with the reason; the readout always has a
    bias.
    """
    head = config.head
    if head.name != "quantum":
        reason = f"head.name is {head.name}, and the layers of a classical head form the group projection"
        return {group: reason for group in PARAMETER_GROUPS if group != "projection"}
    reasons = {}
    if head.projection != "linear":
        reasons["projection"] = f"head.projection is {head.projection}, which is frozen"
    if config.circuit.n_layers == 0:
        reasons["circuit"] = "circuit.n_layers is 0"
    if not head.alpha_train:
        reasons["alpha"] = "head.alpha_train is false"
    return reasons
