"""The output directory of an experiment: whose it is, what lies where, and which runs are complete."""

import contextlib
import datetime
import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qwafer._checkpoints import remove_checkpoints
from qwafer._checks import check_path
from qwafer._errors import InputError, PairingError, RecordError
from qwafer._io import DAMAGED, TEMPORARY, exclusively, jsonable, npz_damage, read_or_set_aside, remove_temporaries
from qwafer._records import load_record, save_record
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.experiment import Experiment, config_digest
from qwafer.sweeps.sources import SourceRecord
from qwafer.training import RunResult

LOCK, RECORD = ".lock", "experiment.json"
FEATURES = "features"
"""Folder of features that the experiment extracted itself."""
NOT_DONE = Failure("Missing", "the run was not done")


@dataclass(frozen=True)
class Note:
    """What the author of an experiment had written by a day."""

    date: str
    """UTC day (2026-01-31) of the claim that first saw it."""
    description: str
    expected: str


@dataclass(frozen=True)
class Addition:
    """Arms or seeds that joined an experiment after its first claim."""

    date: str
    """UTC day of the claim that added them."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: int
    """Runs that were complete by then, and whose results could be seen."""
    expected: str
    """What the author expected by then."""
    joined: str
    """`Experiment.digest` of the experiment that they joined."""


@dataclass(frozen=True)
class DirectoryRecord:
    """`experiment.json`: which experiment, and which data, an output directory belongs to."""

    SCHEMA: ClassVar[str] = "qwafer/experiment/3"

    name: str
    experiment: str
    """`Experiment.digest`."""
    baseline: str
    metric: str
    margin: float
    """`Experiment.margin` before the first run."""
    seeds: tuple[int, ...]
    """Every seed that was ever asked for, in the order of asking."""
    extended_after: tuple[int, ...]
    """The numbers of seeds that were asked for before seeds were added."""
    data: dict[str, SourceRecord]
    """By arm."""
    arms: dict[str, dict[str, Any]]
    """The JSON form of each arm's configuration."""
    notes: tuple[Note, ...]
    """The texts of the experiment, those before the first run first, then every other wording, in the order in which
    they were seen."""
    additions: tuple[Addition, ...] = ()
    """What joined later, in the order of joining; seeds that joined before arms could are in `extended_after` alone."""


@dataclass(frozen=True, eq=False)
class SweepResults:
    """The runs of an experiment's seeds, by arm and seed: those that are complete, and what became of the others."""

    results: dict[str, dict[int, RunResult]]
    failures: dict[str, dict[int, Failure]]

    @property
    def pending(self) -> list[tuple[str, int]]:
        """(arm, seed) of the runs that are not complete, seed by seed, so that a part is already a comparison."""
        return sorted(((arm, seed) for arm, seeds in self.failures.items() for seed in seeds), key=lambda run: run[1])


class OutputDirectory:
    """`OUT/experiment.json` says which experiment and which data the directory belongs to; `OUT/runs/ARM/seed-S.json`
    are runs.

    Nothing is written before `claim`, and everything is written atomically. What is damaged is set aside by who holds
    the directory (`locked`), and refused or passed over by who only reads it.
    """

    def __init__(self, path: str | Path):
        self.path = check_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: choose another output directory")

    def run_path(self, arm: str, seed: int) -> Path:
        """Return the file of a complete run, a `RunResult`."""
        return self.path / "runs" / arm / f"seed-{seed}.json"

    def error_path(self, arm: str, seed: int) -> Path:
        """Return the file of a failed run: `type`, `error`, `details`."""
        return self.path / "runs" / arm / f"seed-{seed}.error.json"

    def checkpoint_path(self, arm: str, seed: int) -> Path:
        """Return the folder of a run's checkpoints."""
        return self.path / "checkpoints" / arm / f"seed-{seed}"

    def record(self) -> DirectoryRecord | None:
        """Return what `experiment.json` says; None where nothing was claimed yet, or it is damaged.

        Raises InputError where the directory is not qwafer's, or of another version.
        """
        file = self.path / RECORD
        if not file.exists():
            names = sorted(entry.name for entry in (self.path.iterdir() if self.path.exists() else ()))
            foreign = [name for name in names if name not in (LOCK, FEATURES) and not name.startswith(TEMPORARY)]
            if foreign and LOCK not in names and RECORD + DAMAGED not in names:
                raise InputError(
                    f"{self.path} holds other things ({', '.join(foreign[:3])}) and no experiment: choose an empty or "
                    "new output directory"
                )
            return None
        try:
            record = load_record(DirectoryRecord, file)
            if set(record.data) != set(record.arms):
                raise InputError(f"{file} does not hold a DirectoryRecord: `data` and `arms` name different arms")
            return record
        except RecordError as error:
            if (self.path / LOCK).exists():
                return None  # a directory of qwafer's: `locked` sets the file aside
            raise InputError(f"{error}; choose another output directory") from error
        except InputError as error:
            raise InputError(f"{error}; choose another output directory") from error

    def check_owner(
        self, experiment: Experiment, data: Mapping[str, SourceRecord] | None = None
    ) -> DirectoryRecord | None:
        """Return the record if the directory belongs to `experiment` (and, where given, its `data` by arm), None if to
        nobody.

        An experiment may have grown since: it belongs there as long as every recorded arm is in it, unchanged, under
        the same baseline and metric. Raises InputError, naming a difference, if it belongs to another.
        """
        record = self.record()
        if record is None:
            return None
        recorded = [arm for arm in record.arms if arm in experiment.arms]
        if len(recorded) < len(record.arms) or record.experiment != experiment.digest(recorded):
            raise InputError(
                f"{self.path} belongs to another experiment ({_difference(record, experiment)}): choose another output "
                "directory with --out"
            )
        for arm, found in (data or {}).items():
            known = record.data.get(arm, SourceRecord())
            for field in ("maps_sha256", "backbone", "digest"):
                there, here = getattr(known, field), getattr(found, field)
                if None not in (there, here) and there != here:
                    raise InputError(
                        f"{self.path} belongs to the same experiment on other data ({field} of arm {arm}: {there} "
                        f"there, {here} here): choose another output directory with --out"
                    )
        return record

    def claim(self, experiment: Experiment, data: Mapping[str, SourceRecord]) -> DirectoryRecord:
        """Write `experiment.json`, or extend its arms, seeds and notes, and return it."""
        known = self.check_owner(experiment, data)
        before = () if known is None else known.seeds
        seeds = (*before, *(seed for seed in experiment.seeds if seed not in before))
        added = () if known is None or len(seeds) == len(before) else (len(before),)
        additions = () if known is None else known.additions
        arms = () if known is None else tuple(arm for arm in experiment.arms if arm not in known.arms)
        if known is not None and (arms or added):
            joined = (arms, seeds[len(before) :], self._n_complete(), experiment.expected, known.experiment)
            additions = (*additions, Addition(today(), *joined))
        notes = () if known is None else known.notes
        texts = (experiment.description, experiment.expected)
        if texts not in [(note.description, note.expected) for note in notes]:
            notes = (*notes, Note(today(), *texts))
        record = DirectoryRecord(
            name=experiment.name,
            experiment=experiment.digest(),
            baseline=experiment.baseline,
            metric=experiment.metric,
            margin=experiment.margin if known is None else known.margin,
            seeds=seeds,
            extended_after=(*(() if known is None else known.extended_after), *added),
            data=dict(data),
            arms={arm: jsonable(config.to_dict()) for arm, config in experiment.arms.items()},
            notes=notes,
            additions=additions,
        )
        if record != known:
            save_record(self.path / RECORD, record)
        return record

    def read(
        self, experiment: Experiment, known: SweepResults | None = None, *, repair: bool = False, heads: bool = False
    ) -> SweepResults:
        """Return every run of the experiment; the complete ones of `known`, read before, are not read again.

        With `repair`, for who holds the directory, a file that is not what was saved there is set aside with a warning,
        and its run counts as not done; without, a run that cannot be read counts as not done, too, and one that
        contradicts itself is refused with RecordError. With `heads`, a trained head must be there as well.
        """
        sweep = SweepResults({arm: {} for arm in experiment.arms}, {arm: {} for arm in experiment.arms})
        for arm in experiment.arms:
            for seed in experiment.seeds:
                result = known and known.results[arm].get(seed)
                result = result or self._run(experiment, arm, seed, sweep.results[arm], repair=repair, heads=heads)
                if result is None:
                    sweep.failures[arm][seed] = self._failure(arm, seed, repair=repair) or NOT_DONE
                else:
                    sweep.results[arm][seed] = result
        return sweep

    def check_data(self, sweep: SweepResults, data: Mapping[str, SourceRecord]) -> None:
        """Raise PairingError where a run was made on other features than those of `data`, by arm."""
        for arm, runs in sweep.results.items():
            here = data[arm].digest
            for seed, run in runs.items():
                there = run.digests.source
                if here and there and there != here:
                    raise PairingError(
                        f"{self.run_path(arm, seed)} was made on different data ({there}) than this experiment's "
                        f"({here}): delete it, and the run is done again"
                    )

    def _n_complete(self) -> int:
        """Return how many runs lie in the directory, whatever their seeds."""
        return sum(not path.name.endswith(".error.json") for path in self.path.glob("runs/*/seed-*.json"))

    def _run(
        self,
        experiment: Experiment,
        arm: str,
        seed: int,
        earlier: Mapping[int, RunResult],
        *,
        repair: bool,
        heads: bool,
    ) -> RunResult | None:
        """Return the complete run of `arm` and `seed`, or None; see `read`."""
        path = self.run_path(arm, seed)
        head = predictor_path(path)

        def load(path: Path) -> RunResult:
            result = RunResult.load(path)
            if result.seed != seed:
                raise RecordError(f"{path} holds the run of seed {result.seed}: delete it, and the run is done again")
            if not is_of(result, experiment.arms[arm]):
                raise InputError(f"{path} is the run of another configuration")
            _check_copy(path, result, earlier)
            if heads and experiment.arms[arm].trained_by_loop:
                damage = npz_damage(head) if head.is_file() else "it is missing"
                if damage is not None:
                    raise RecordError(f"{head} is damaged ({damage})")
            return result

        if repair:
            return read_or_set_aside(load, path, path.with_suffix(".npz"), head)
        try:
            return load(path)
        except RecordError:
            raise
        except (OSError, InputError):
            return None  # what cannot be read is not complete: the run is done again

    def _failure(self, arm: str, seed: int, *, repair: bool) -> Failure | None:
        """Return what became of a failed run; None where nothing is known, or its file is damaged."""
        path, load = self.error_path(arm, seed), functools.partial(load_record, Failure)
        if repair:
            return read_or_set_aside(load, path)
        try:
            return load(path)
        except (OSError, InputError):
            return None

    def write_failure(self, arm: str, seed: int, failure: Failure) -> None:
        """Record a failed run."""
        save_record(self.error_path(arm, seed), failure)

    def forget(self, arm: str, seed: int) -> None:
        """Remove what a complete run does not need any more: its checkpoints, and the record of a failure before."""
        self.error_path(arm, seed).unlink(missing_ok=True)
        remove_checkpoints(self.checkpoint_path(arm, seed))

    def tidy(self, sweep: SweepResults) -> None:
        """Remove what no run needs any more, once none is running: see `forget`."""
        for arm, runs in sweep.results.items():
            for seed in runs:
                self.forget(arm, seed)
        for folder in (*(self.path / "checkpoints" / arm for arm in sweep.results), self.path / "checkpoints"):
            with contextlib.suppress(OSError):  # not empty, or not there
                folder.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one sweep at a time, and leave none behind that is empty.

        What killed writes have left is removed, a damaged `experiment.json` set aside with a warning. The operating
        system releases the lock of a process that dies.
        """
        new = not self.path.exists()
        lock = self.path / LOCK
        with exclusively(lock, f"another sweep is running in {self.path}: wait for it, or choose another --out"):
            remove_temporaries(self.path)
            record = self.path / RECORD
            if not os.path.lexists(record) and (self.path / "runs").exists():
                said = f"{record} is missing, and with it what was expected before the first run: it is made again"
                warnings.warn(said, UserWarning, stacklevel=2)
            read_or_set_aside(functools.partial(load_record, DirectoryRecord), record, damage=RecordError)
            try:
                yield
            finally:
                if new and [entry.name for entry in self.path.iterdir()] == [LOCK]:
                    lock.unlink()
                    self.path.rmdir()


def is_of(result: RunResult, config: RunConfig) -> bool:
    """Return whether a run was made with `config`."""
    try:
        return config_digest(RunConfig.from_dict(result.config)) == config_digest(config)
    except (InputError, TypeError, AttributeError):  # options of another version
        return False


def _check_copy(path: Path, result: RunResult, earlier: Mapping[int, RunResult]) -> None:
    """Raise RecordError where `result` is the run of another seed: equal to the last bit, the seconds that it took
    included.
    """
    for seed, other in earlier.items():
        if result.timings == other.timings and result.same_outputs(other):
            raise RecordError(f"{path} is a copy of the run of seed {seed}: delete it, and the run is done again")


def _difference(record: DirectoryRecord, experiment: Experiment) -> str:
    """Return the names of the recorded experiment and this one, where they differ, and the first other difference."""
    names = "" if record.name == experiment.name else f"{record.name} there, {experiment.name} here; "
    return names + _option_that_differs(record, experiment)


def _option_that_differs(record: DirectoryRecord, experiment: Experiment) -> str:
    there, here = list(record.arms), list(experiment.arms)
    if not set(there) <= set(here):
        return f"arms {', '.join(there)} there, {', '.join(here)} here: arms may join, but none may leave"
    for arm, table in record.arms.items():
        known, value = _leaves(table), _leaves(jsonable(experiment.arms[arm].to_dict()))
        for option in {**value, **known}:
            if known.get(option) != value.get(option) and option != "data.source":
                return f"{option} of arm {arm} is {known.get(option)} there, {value.get(option)} here"
    for field in ("baseline", "metric"):
        if getattr(record, field) != getattr(experiment, field):
            return f"{field} {getattr(record, field)} there, {getattr(experiment, field)} here"
    return "its configuration has other options"


def _leaves(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def today() -> str:
    """Return the UTC day, as 2026-01-31."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds in short: "0-7", or "1, 5, 9"."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def predictor_path(out: Path) -> Path:
    """Return where the predictor of the run `out` lies."""
    return out.with_name(f"{out.stem}.head.npz")
