"""The space of a search: which options of which arm are drawn, and from what."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer._reading import reads
from qwafer.config import RunConfig
from qwafer.experiment import Experiment, shipped_experiments
from qwafer.overrides import Given, flat_config, known_options, named, no_effect, with_options
from qwafer.source import source_facts

Options = dict[str, Any]
"""Values by dotted name of option."""
KEYS = ("low", "high", "log", "int", "choices")
BUDGETED = ("training.epochs", "training.max_doublings")
"""What every arm must have alike for its budget of epochs."""


@dataclass(frozen=True)
class Dimension:
    """How one option is drawn: between two bounds, or among choices."""

    low: float | None = None
    """The least value; None for choices."""
    high: float | None = None
    """The greatest one."""
    log: bool = False
    """Whether the logarithm is what is drawn uniformly."""
    integer: bool = False
    """Whether only integers are drawn."""
    choices: tuple[Any, ...] = ()
    """The values to choose from, at least two; empty between bounds."""

    def __post_init__(self) -> None:
        if self.choices:
            if (self.low, self.high, self.log, self.integer) != (None, None, False, False):
                raise InputError("takes either `choices`, or `low` and `high`")
            if not all(isinstance(choice, (str, int, float)) for choice in self.choices):
                raise InputError("`choices` must be texts, numbers, true or false")
            if len(self.choices) < 2 or any(choice in self.choices[:k] for k, choice in enumerate(self.choices)):
                raise InputError("`choices` must be at least two, all different: one value belongs into the experiment")
            return
        bounds = (self.low, self.high)
        if any(isinstance(bound, bool) or not isinstance(bound, (int, float)) for bound in bounds):
            raise InputError("needs the numbers `low` and `high`, or a list of `choices`")
        low, high = bounds
        assert low is not None
        assert high is not None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"`low` must be less than `high`, got {low} and {high}")
        if self.log and low <= 0:
            raise InputError(f"`log` needs `low` > 0, got {low}")
        if self.integer and not (float(low).is_integer() and float(high).is_integer()):
            raise InputError(f"`int` needs integers `low` and `high`, got {low} and {high}")

    def at(self, share: float) -> Any:
        """Return the value below which a `share` in [0, 1) of the draws lies; numbers to three digits."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        assert self.low is not None
        assert self.high is not None
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return int(min(max(round(value), self.low), self.high)) if self.integer else float(f"{value:.3g}")

    def examples(self) -> tuple[Any, ...]:
        """Return values that show whether an option takes what is drawn: all choices; bounds and a value between."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return int(self.low), int(self.high)
        return float(self.low), self.low + (self.high - self.low) / math.pi, float(self.high)


Space = Mapping[str, Mapping[str, Dimension]]
"""By arm, its options and how each is drawn."""


def find_space(path_or_name: str | Path) -> Path:
    """Return the file of a space: a path as it is, or the name of one that comes with qwafer, beside its experiment."""
    path = Path(path_or_name)
    known = {found.stem: found for file in shipped_experiments() for found in file.parent.glob(f"spaces/{file.name}")}
    if path.is_file() or path.suffix or path.name not in known:
        return path
    return known[path.name]


@reads("is not valid TOML")
def load_space(path: str | Path, experiment: Experiment) -> dict[str, dict[str, Dimension]]:
    """Return the space in a TOML file, or of the name of one that comes with qwafer, by arm of `experiment`. Layout:

        [training.learning_rate]          # drawn in every arm in which the option has an effect
        low = 1e-3
        high = 1e-1
        log = true
        [arms.mlp.head.hidden]            # drawn in this arm alone, or drawn otherwise there
        low = 4
        high = 64
        int = true
        [arms.quantum.circuit.readout]
        choices = ["mean_z", "z_vec"]

    Raises InputError, in one sentence, for an option that is unknown or has no effect, values that the option does not
    take, options of the data and of the budget, and an arm in which nothing is drawn.
    """
    table = tomllib.loads(find_space(path).read_text(encoding="utf-8"))
    in_arms = table.pop("arms", {})
    if not isinstance(in_arms, dict):
        raise InputError(f"{path}: `arms` must hold one table per arm, [arms.NAME.option]")
    for arm in in_arms:
        if arm not in experiment.arms:
            raise InputError(f"{path}: the experiment has no arm `{arm}`{nearest(arm, experiment.arms)}")
    shared = _dimensions(table, experiment, str(path))
    for option in shared:
        reasons = [_no_effect(config, option) for config in experiment.arms.values()]
        if all(reason is not None for reason in reasons):
            raise InputError(f"{path}: `{option}` has no effect in any arm: {reasons[0]}")
    own = {arm: _dimensions(options, experiment, f"{path}, arm {arm}") for arm, options in in_arms.items()}
    for arm, options in own.items():
        for option in options:
            reason = _no_effect(experiment.arms[arm], option)
            if reason is not None:
                raise InputError(f"{path}: `{option}` has no effect in arm {arm}: {reason}")
    return spread(shared, experiment, own, str(path))


def spread(
    shared: Mapping[str, Dimension], experiment: Experiment, own: Space | None = None, where: str = "the space"
) -> dict[str, dict[str, Dimension]]:
    """Return the space by arm: of `shared`, what has an effect in the arm; then what is its `own`; see `load_space`."""
    space: dict[str, dict[str, Dimension]] = {}
    for arm, config in experiment.arms.items():
        space[arm] = {option: found for option, found in shared.items() if _no_effect(config, option) is None}
        space[arm] |= (own or {}).get(arm, {})
        if not space[arm]:
            raise InputError(f"{where}: nothing is drawn in arm {arm}: give it an option in [arms.{arm}]")
        for option, dimension in space[arm].items():
            for value in dimension.examples():
                try:
                    with_options(config, {option: value})
                except (InputError, TypeError) as error:
                    hint = "; `int = true` draws integers" if "an integer" in str(error) else ""
                    raise InputError(f"{where}: arm {arm}: {error}{hint}") from error
    return space


def by_bounds(space: Space) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, Any]]]:
    """Return the bounds of what is log-uniform and the same wherever it is drawn, and all the rest by arm."""
    shared: dict[str, tuple[float, float]] = {}
    for option in dict.fromkeys(option for own in space.values() for option in own):
        first, *_ = found = [own[option] for own in space.values() if option in own]
        if first.log and not first.integer and all(other == first for other in found):
            assert first.low is not None
            assert first.high is not None
            shared[option] = float(first.low), float(first.high)
    own = {arm: {option: d for option, d in options.items() if option not in shared} for arm, options in space.items()}
    return shared, {arm: options for arm, options in own.items() if options}


def _no_effect(config: RunConfig, option: str) -> str | None:
    return no_effect(config, option, source_facts(config.data))


def _dimensions(table: Mapping[str, Any], experiment: Experiment, where: str) -> dict[str, Dimension]:
    found: dict[str, Dimension] = {}
    arms = [(name, Given(value)) for config in experiment.arms.values() for name, value in flat_config(config).items()]
    known = known_options(arms)
    for name, leaf in _leaves(table, where):
        (option,) = named([(name, Given(None, where=f" (in {where})"))], known)
        if option.startswith("data."):
            raise InputError(f"{where}: `{option}` cannot be searched: trials are scored on the same examples")
        if option in BUDGETED:
            raise InputError(f"{where}: `{option}` cannot be searched: every trial has the same budget of epochs")
        if option in found:
            raise InputError(f"{where}: `{option}` occurs twice")
        unknown = [key for key in leaf if key not in KEYS]
        if unknown:
            raise InputError(f"{where}: `{option}` has no key `{unknown[0]}`{nearest(unknown[0], KEYS)}")
        for flag in ("log", "int"):
            if not isinstance(leaf.get(flag, False), bool):
                raise InputError(f"{where}: `{flag}` of `{option}` must be true or false, got {leaf[flag]!r}")
        if "choices" in leaf and not (isinstance(leaf["choices"], list) and leaf["choices"]):
            raise InputError(f"{where}: `choices` of `{option}` must be a list of values, got {leaf['choices']!r}")
        try:
            choices = tuple(leaf.get("choices", ()))
            numbers = leaf.get("low"), leaf.get("high"), leaf.get("log", False), leaf.get("int", False)
            found[option] = Dimension(*numbers, choices)
        except InputError as error:
            raise InputError(f"{where}: `{option}`: {error}") from error
    return found


def _leaves(table: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name and the keys of each table that describes an option."""
    for key, value in table.items():
        name = f"{prefix}.{key}" if prefix else key
        if not isinstance(value, dict):
            raise InputError(f"{where}: `{name}` must be a table with low and high, or choices, got {value!r}")
        plain = any(not isinstance(item, dict) for item in value.values())
        if plain and ("." in name or set(value) & set(KEYS)):  # else a section with a value in the place of a table
            yield name, value
        elif value:
            yield from _leaves(value, where, name)
        else:
            raise InputError(f"{where}: `{name}` is empty: give it low and high, or choices")
