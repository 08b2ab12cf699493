"""The output directory of an experiment: whose it is, what lies where, and which runs are complete."""

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qwafer._checks import check_path
from qwafer._errors import InputError, PairingError, RecordError
from qwafer._io import jsonable
from qwafer._records import load_record, save_record
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.experiment import Experiment, config_digest
from qwafer.sweeps.sources import SourceRecord
from qwafer.training import RunResult

LOCK = ".lock"
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

    Nothing is written before `claim`, and everything is written atomically.
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
        """Return what `experiment.json` says; None where nothing was claimed yet.

        Raises InputError where the directory is not qwafer's, or of another version.
        """
        file = self.path / "experiment.json"
        if not file.exists():
            foreign = sorted(
                entry.name
                for entry in (self.path.iterdir() if self.path.exists() else ())
                if entry.name not in (LOCK, FEATURES) and not entry.name.startswith(".experiment.json.")
            )
            if foreign:
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
            save_record(self.path / "experiment.json", record)
        return record

    def read(self, experiment: Experiment, known: SweepResults | None = None) -> SweepResults:
        """Return every run of the experiment; the complete ones of `known`, read before, are not read again."""
        sweep = SweepResults({arm: {} for arm in experiment.arms}, {arm: {} for arm in experiment.arms})
        for arm in experiment.arms:
            for seed in experiment.seeds:
                result = known and known.results[arm].get(seed)
                result = result or self._load(experiment, arm, seed)
                if result is None:
                    sweep.failures[arm][seed] = self._failure(arm, seed) or NOT_DONE
                else:
                    sweep.results[arm][seed] = result
            self._check_copies(arm, sweep.results[arm])
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

    def _load(self, experiment: Experiment, arm: str, seed: int) -> RunResult | None:
        """Return the complete run of `arm` and `seed`; None where there is none, or it is damaged or of another
        configuration.

        Raises RecordError for a run that is not what was saved there.
        """
        path = self.run_path(arm, seed)
        try:
            result = RunResult.load(path)
            digest = config_digest(RunConfig.from_dict(result.config))
        except RecordError:
            raise
        except (OSError, InputError, TypeError, AttributeError):
            return None  # what cannot be read is not complete: the run is done again
        if result.seed != seed:
            raise RecordError(f"{path} holds the run of seed {result.seed}: delete it, and the run is done again")
        return result if digest == config_digest(experiment.arms[arm]) else None

    def _check_copies(self, arm: str, results: Mapping[int, RunResult]) -> None:
        """Raise RecordError where two seeds of an arm hold one run: equal to the last bit, the seconds that it took
        included.
        """
        seen: dict[tuple[Any, ...], int] = {}
        for seed, result in results.items():
            first = seen.setdefault((result.timings, result.fingerprint()), seed)
            if first != seed and result.same_outputs(results[first]):
                raise RecordError(
                    f"{self.run_path(arm, seed)} is a copy of the run of seed {first}: delete it, and the run is done "
                    "again"
                )

    def _failure(self, arm: str, seed: int) -> Failure | None:
        """Return what became of a failed run; None where nothing is known, or its file is damaged."""
        try:
            return load_record(Failure, self.error_path(arm, seed))
        except (OSError, InputError):
            return None

    def write_failure(self, arm: str, seed: int, failure: Failure) -> None:
        """Record a failed run."""
        save_record(self.error_path(arm, seed), failure)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one sweep at a time, and leave none behind that is empty.

        The operating system releases the lock of a process that dies.
        """
        import fcntl

        new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / LOCK
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another sweep is running in {self.path}: wait for it, or choose another --out"
                ) from error
            try:
                yield
            finally:
                if new and [entry.name for entry in self.path.iterdir()] == [LOCK]:
                    lock.unlink()
                    self.path.rmdir()


def _difference(record: DirectoryRecord, experiment: Experiment) -> str:
    """Return the first difference between the recorded experiment and this one, in words."""
    if record.name != experiment.name:
        return f"{record.name} there, {experiment.name} here"
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
