"""`Experiment`: a base configuration, named arms that override it, and the seeds that pair them; read from TOML."""

import dataclasses
import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from qwafer._checks import check_interval, check_printable, nearest, plain
from qwafer._errors import InputError
from qwafer._io import digest
from qwafer._process import DEFAULT_EXPERIMENT as DEFAULT_EXPERIMENT
from qwafer._reading import reads
from qwafer._records import from_json
from qwafer.config import DataConfig, RunConfig
from qwafer.features import SourceFacts
from qwafer.heads.options import HEADS
from qwafer.overrides import (
    SECTIONS,
    Given,
    build,
    effective_options,
    flat_config,
    flatten,
    known_options,
    named,
    no_effect,
    parse_overrides,
)
from qwafer.source import source_facts

SHARED = ("data", "objective", "sampling", "training")
"""The sections of the baseline that a head which joins an experiment takes over."""
TEXT_KEYS = ("name", "title", "description", "expected", "reference", "metric", "baseline")
MARGIN = 0.01
"""Differences that are no larger count as equivalent, unless an experiment says otherwise."""
MAX_SEEDS = 10_000
"""Seeds of an experiment, at most."""
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
LONGEST_NAME = 100
"""Bytes of the name of an experiment or an arm, at most: each is the name of a folder."""


@dataclass(frozen=True)
class Searched:
    """How options of an experiment's arms were found before it ran: what a report says of the search."""

    metric: str
    """What trials were ranked by, on validation."""
    seeds: tuple[int, ...]
    """Seeds of the trials: an experiment runs on others."""
    trials: dict[str, int]
    """Trials by arm, those that were pruned or failed included; an arm that is not named was not searched."""
    pruned: dict[str, int]
    """Of these, trials that were ended early."""
    failed: dict[str, int]
    """Of these, trials without a value."""
    epochs: dict[str, int]
    """Epochs that all trials of an arm trained, over all their seeds."""
    options: dict[str, tuple[str, ...]]
    """What was drawn, by arm."""
    repeated: dict[str, int] = dataclasses.field(default_factory=dict)
    """Trials by arm that proposed what an earlier one had, and were not run."""
    chosen: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """By arm, the drawn options of the trial that won."""
    raised: tuple[int, ...] = ()
    """Trials per arm after which winners were known, and might be compared, before the budget was raised."""

    def __post_init__(self) -> None:
        for name in ("pruned", "failed", "epochs", "options"):
            if set(getattr(self, name)) != set(self.trials):
                raise InputError(f"`search.{name}` must name the arms of `search.trials`, {', '.join(self.trials)}")

    def configurations(self, arm: str) -> int:
        """Return how many different configurations of `arm` gave a value or were ended early; 0 if not searched."""
        return self.trials.get(arm, 0) - self.failed.get(arm, 0) - self.repeated.get(arm, 0)


@dataclass(frozen=True)
class Experiment:
    """Arms to be compared over seeds: everything that defines the runs, nothing about how they are executed."""

    name: str
    """Short name; the default output directory is `runs/NAME`."""
    arms: Mapping[str, RunConfig]
    """The resolved configuration of every arm by name, in the order of the file."""
    baseline: str
    """The arm that every other arm is compared with."""
    seeds: tuple[int, ...]
    """Seeds of the runs; every arm has one run per seed."""
    metric: str = "test.roc_auc"
    """What is compared: `test.` and the name of an average in `Evaluation.macro`."""
    margin: float = MARGIN
    """Differences of `metric` that are no larger count as equivalent."""
    title: str = ""
    """One line for the head of the report."""
    description: str = ""
    """What is asked, and why the base is as it is."""
    expected: str = ""
    """What the author expects to see; a report prints it as it was before the first run."""
    written_for: tuple[str, ...] = ()
    """The arms that the texts speak of, where only some of them, or others, were chosen to run; else empty."""
    reference: str = ""
    """Where the question comes from."""
    facts: Mapping[str, SourceFacts] = dataclasses.field(default_factory=dict)
    """What is known of the source of each arm; an arm that is not named has wafer maps, or synthetic ones."""
    searched: Searched | None = None
    """The search that found options of the arms; None where none was made."""

    def __post_init__(self) -> None:
        if len(self.arms) < 2:
            raise InputError(f"experiment {self.name} needs at least two arms to compare, got {len(self.arms)}")
        if self.baseline not in self.arms:
            raise InputError(
                f"`baseline` must be one of the arms {', '.join(self.arms)}, got {self.baseline!r}"
                f"{nearest(self.baseline, self.arms)}"
            )
        check_seeds(self.seeds)
        used = set(self.seeds) & set(() if self.searched is None else self.searched.seeds)
        if used:
            raise InputError(f"`seeds` must be fresh: the search of these options has used seed {min(used)} already")
        for key in ("name", "title", "description", "expected", "reference", "metric"):
            check_printable(f"`{key}`", getattr(self, key), lines=key not in ("name", "title", "metric"))
        if (
            self.name in ("", "..")
            or self.name != Path(self.name).name
            or "\\" in self.name
            or len(self.name.encode()) > LONGEST_NAME
        ):
            raise InputError(
                f"`name` must be a name of at most {LONGEST_NAME} bytes for the output directory, not a path, got "
                f"{self.name!r}"
            )
        check_interval("margin", self.margin, 0, 0.5, open_low=True)
        for arm in self.arms:
            if not ARM_NAME.fullmatch(arm) or len(arm) > LONGEST_NAME:
                raise InputError(
                    f"the name of an arm must be at most {LONGEST_NAME} letters, digits, `_`, `.`, `+` or `-`, "
                    f"starting with a letter or digit, got {arm[:120]!r}"
                )
        seen: dict[str, str] = {}
        for arm in self.arms:
            key = digest(self.effective(arm))
            if key in seen:
                raise InputError(
                    f"the arms {seen[key]} and {arm} resolve to the same configuration, so there is nothing to "
                    "compare: give one of them an option that has an effect"
                )
            seen[key] = arm

    def digest(self, among: Iterable[str] | None = None) -> str:
        """Return 16 hex digits of what defines the runs and their comparison: arms (`among` these; all if none),
        baseline and metric.

        Neither the seeds, which may be extended, nor the texts and the margin count, nor the place of the data (their
        own digest does).
        """
        arms = self.arms if among is None else among
        return digest({arm: config_digest(self.arms[arm]) for arm in arms}, self.baseline, self.metric)

    def effective(self, arm: str) -> dict[str, Any]:
        """Return the options that have an effect in `arm`, by dotted name; see `effective_options`."""
        return effective_options(self.arms[arm], self.facts.get(arm))

    def changes(self, arm: str) -> dict[str, Any]:
        """Return the effective options of `arm` that differ from the baseline's, by dotted name.

        What the arm has no use for is not listed option by option: a whole section of the baseline's is None, as the
        `circuit` of a linear head is, and a single option goes with the one that took its effect away.
        """
        own, base = self.effective(arm), self.effective(self.baseline)
        changed = {name: value for name, value in own.items() if name not in base or base[name] != value}
        gone = [name for name in base if name not in own]
        kept = {name.partition(".")[0] for name in own}
        lost = dict.fromkeys(section for name in gone if (section := name.partition(".")[0]) not in kept)
        return (changed | lost) or dict.fromkeys(gone)


def config_digest(config: RunConfig) -> str:
    """Return the digest of a run's configuration, without the place of its data: a file may move.

    Options of the generator count as unset where it does not run, as results leave them out (`written_config`).
    """
    options = flat_config(config)
    synthetic = options.pop("data.source") == "synthetic"
    if not synthetic:
        options |= {"data.n_maps": DataConfig().n_maps, "data.seed": DataConfig().seed}
    return digest(options, synthetic)


@reads("cannot be used as an experiment", "path_or_name")
def load_experiment(
    path_or_name: str | Path, overrides: Sequence[str] = (), heads: Sequence[str] | None = None
) -> Experiment:
    """Return the experiment of a TOML file, or of the name of one that comes with qwafer, with "option=value"
    overrides.

    The overrides apply to every arm, after the arm's own options. `heads` chooses arms, in that order; the name of a
    head that is not an arm (`tree`, `package.module:Options`) joins as one, on the base of the file and with what the
    baseline says of data, objective, sampling and training. The baseline stays if it is chosen; else the first one
    takes its place. Layout of the file (all but the arms is optional):

        title = "The readout"    # also name, description, expected, reference: texts for the report
        seeds = 8                # 0 to 7; or "3:11" (3 to 10), or a list
        metric = "test.roc_auc"
        margin = 0.01            # differences that are no larger count as equivalent
        baseline = "mean_z"      # the first arm, if absent
        engine = "xla"           # a section's name by itself sets its `name`
        [circuit]                # the base: [data] [head] [circuit] [engine] [objective] [sampling] [training]
        n_qubits = 4
        [arms.mean_z]            # an arm's options, dotted or as tables
        circuit.readout = "mean_z"
        [arms.trained]
        circuit.readout = "mean_z_readout"

    A table `[search]` says how options were found, as `python -m qwafer.search` writes it (`Searched`).

    Raises InputError, in one sentence, for a file that cannot be read, an unknown option (naming the nearest), a value
    of the wrong type or range, an option without effect (in an arm, or given as an override and without effect in every
    arm, or in the base and without effect in every arm of the file), and arms that resolve to the same configuration.
    """
    path = find_experiment(path_or_name)
    table = _read_toml(path)
    keys = [*TEXT_KEYS, *SECTIONS, "seeds", "margin", "arms", "search"]
    unknown = set(table) - set(keys)
    if unknown:
        key = min(unknown)
        raise InputError(f"{path}: there is no key `{key}`{nearest(key, keys)}")
    for key in TEXT_KEYS:
        if not isinstance(table.get(key, ""), str):
            raise InputError(f"{path}: `{key}` must be a text, got {table[key]!r}")
    margin = table.get("margin", MARGIN)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise InputError(f"{path}: `margin` must be a number, got {margin!r}")
    arm_tables = table.get("arms", {})
    if not isinstance(arm_tables, dict) or not all(isinstance(options, dict) for options in arm_tables.values()):
        raise InputError(f"{path}: `arms` must hold one table per arm, [arms.NAME]")

    in_base = flatten({key: table[key] for key in SECTIONS if key in table}, where=f" (in {path.name})")
    in_file = {arm: flatten(options, where=f" (in arm {arm})") for arm, options in arm_tables.items()}
    in_arms = in_file
    baseline = table.get("baseline", next(iter(in_arms), ""))
    joined: dict[str, str] = {}
    if heads is not None:
        joined = _joined(heads, in_arms)
        shared = [(name, given) for name, given in in_arms.get(baseline, []) if name.partition(".")[0] in SHARED]
        in_arms = in_arms | {arm: [*shared, ("head.name", Given(head))] for arm, head in joined.items()}
        names = {head: arm for arm, head in joined.items()}
        in_arms = {names.get(head, head): in_arms[names.get(head, head)] for head in heads}
        if len(in_arms) < 2:
            raise InputError(f"`heads` must name at least two heads to compare, got {len(in_arms)}")
        baseline = baseline if baseline in in_arms else next(iter(in_arms))
    in_overrides = parse_overrides(overrides)
    # A thing that is named anywhere brings its options everywhere.
    known = known_options(chain(in_base, *in_file.values(), *in_arms.values(), in_overrides))
    base = named(in_base, known)
    own = {arm: named(entries, known) for arm, entries in in_arms.items()}
    whole = {arm: {**base, **named(entries, known)} for arm, entries in in_file.items()}
    _refuse_without_effect(base, whole, f"any arm of {path.name}")

    given = named(in_overrides, known)
    resolved = {arm: {**base, **options, **given} for arm, options in own.items()}
    for arm in joined:
        # A tree reads features that have a meaning, and a network the dies themselves.
        preferred = getattr(build(resolved[arm])[0].head, "backbone", None)
        if preferred is not None:
            resolved[arm]["data.backbone"] = Given(preferred)
    _refuse_without_effect(given, resolved, "any arm")
    for arm in [arm for arm in own if arm not in joined]:
        _refuse_without_effect(own[arm], {arm: resolved[arm]}, f"arm {arm}")
    arms = {arm: build(options)[0] for arm, options in resolved.items()}
    return Experiment(
        name=table.get("name", path.stem),
        arms=arms,
        baseline=baseline,
        seeds=parse_seeds(table.get("seeds", 8)),
        margin=margin,
        written_for=() if set(in_file) == set(arms) else tuple(in_file),
        facts={arm: source_facts(config.data) for arm, config in arms.items()},
        searched=from_json(Searched, table["search"], f"`search` of {path}") if "search" in table else None,
        **{key: table[key] for key in TEXT_KEYS[1:-1] if key in table},
    )


def _joined(heads: Sequence[str], arms: Iterable[str]) -> dict[str, str]:
    """Return the heads that are not arms, by the names that they get as arms: the short one if it is free."""
    known = [*arms, *HEADS.names]
    joined: dict[str, str] = {}
    for head in dict.fromkeys(heads):
        if head in arms:
            continue
        if head not in HEADS.names and ":" not in head:
            raise InputError(f"there is no head `{head}`; known: {', '.join(known)}{nearest(head, known)}")
        short = head.rpartition(":")[2]
        taken = short in (*known, *joined) and short != head
        joined[re.sub(r"[^A-Za-z0-9_.+-]+", "-", head).strip("-") if taken else short] = head
    return joined


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds that `value` stands for: N (0 to N-1), "a:b" (a to b-1, as in Python), "1,5,9", or a list."""
    seeds: tuple[Any, ...] | None = None
    value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's arrays and numbers
    if isinstance(value, int) and not isinstance(value, bool):
        seeds = _seed_range(0, value)
    elif isinstance(value, (list, tuple)):
        seeds = tuple(map(plain, value))
    elif isinstance(value, str):
        text = value.replace(" ", "")
        if re.fullmatch(r"\d{1,18}", text):
            seeds = _seed_range(0, int(text))
        elif match := re.fullmatch(r"(\d{1,18}):(\d{1,18})", text):
            if int(match[1]) >= int(match[2]):
                raise InputError(
                    f"`seeds` = {text} holds no seed: a:b are the seeds from a to b - 1, so b must exceed a"
                )
            seeds = _seed_range(int(match[1]), int(match[2]))
        elif re.fullmatch(r"\d{1,18}(,\d{1,18})*,?", text):
            seeds = tuple(int(item) for item in text.split(",") if item)
    if seeds is None:
        raise InputError(f"`seeds` must be a number N, a range a:b, or a list such as 1,5,9, got {value!r}")
    check_seeds(seeds)
    return seeds


def _seed_range(start: int, stop: int) -> tuple[int, ...]:
    """Return the seeds from `start` to `stop` - 1, counted before they are listed."""
    if not 0 < stop - start <= MAX_SEEDS:
        raise InputError(f"`seeds` must be between 1 and {MAX_SEEDS} seeds, got {max(stop - start, 0):,}")
    return tuple(range(start, stop))


def check_seeds(seeds: Sequence[Any]) -> None:
    """Raise InputError unless `seeds` are distinct non-negative integers, at least one and at most 10,000."""
    if not seeds or len(seeds) > MAX_SEEDS:
        raise InputError(f"`seeds` must be between 1 and {MAX_SEEDS} seeds, got {len(seeds)}")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise InputError(f"`seeds` must be integers from 0 on, got {seed!r}")
    if len(set(seeds)) != len(seeds):
        raise InputError("`seeds` must not repeat: a run counted twice is not two runs")


def find_experiment(path_or_name: str | Path) -> Path:
    """Return the file of an experiment: a path as it is, or the name of one that comes with qwafer."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    name = str(path_or_name)
    if path.suffix != ".toml" and path.name == name:
        known = {file.stem: file for file in shipped_experiments()}
        if name in known:
            return known[name]
        raise InputError(
            f"there is no experiment {name!r}: give the path of a TOML file, or one of "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    what = "is not a file" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}: give the path of an experiment's TOML file")


def shipped_experiments() -> list[Path]:
    """Return the experiment files that come with qwafer: those of the checkout, or those that the wheel installed.

    `pip install --target` puts them beside the package, and leaves a record of the wheel that does not say so.
    """
    around = Path(__file__).resolve().parents[1]
    for folder in (around / "experiments", around / "share" / "qwafer" / "experiments"):
        if (folder / f"{DEFAULT_EXPERIMENT}.toml").is_file():
            return sorted(folder.glob("*.toml"))
    try:
        files = importlib.metadata.files("qwafer") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    located = [
        Path(str(file.locate())) for file in files if file.suffix == ".toml" and file.parent.name == "experiments"
    ]
    return sorted(path.resolve() for path in located if path.is_file())


def with_seeds(experiment: Experiment, seeds: tuple[int, ...]) -> Experiment:
    """Return the same experiment over other seeds."""
    return dataclasses.replace(experiment, seeds=seeds)


def _refuse_without_effect(options: Iterable[str], arms: Mapping[str, Mapping[str, Given]], where: str) -> None:
    """Raise InputError for the first of `options` that has no effect in any of `arms`, each all options of an arm."""
    built = [build(everything) for everything in arms.values()]
    for name in options:
        reasons = [
            left_out.get(name) or no_effect(config, name, source_facts(config.data)) for config, left_out in built
        ]
        if reasons and all(reason is not None for reason in reasons):
            raise InputError(f"`{name}` has no effect in {where}: {reasons[0]}")


@reads("is not valid TOML")
def _read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
