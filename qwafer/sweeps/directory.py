"""The output directory of an experiment: whose it is, what lies where, and which runs are complete."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwafer._errors import InputError
from qwafer._io import canonical_json, write_json
from qwafer.execution import Failure
from qwafer.experiment import Experiment, config_digest
from qwafer.overrides import flatten, with_options

if TYPE_CHECKING:
    from qwafer.training import RunResult

FORMAT = 1
LOCK = ".lock"
FEATURES = "features"
"""Folder of features that the experiment extracted itself."""
NOT_DONE = Failure("Missing", "the run was not done")


@dataclass(frozen=True, eq=False)
class SweepResults:
    """The runs of an experiment's seeds, by arm and seed: those that are complete, and what became of the others."""

    results: dict[str, dict[int, "RunResult"]]
    failures: dict[str, dict[int, Failure]]


class OutputDirectory:
    """`OUT/experiment.json` says which experiment and which data the directory belongs to; `OUT/runs/ARM/seed-S.json`
    are runs.

    Nothing is written before `claim`, and everything is written atomically.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
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

    def record(self) -> dict[str, Any] | None:
        """Return what `experiment.json` says, None where nothing was claimed yet; InputError where it is not
        qwafer's.
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
            record = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is damaged ({error}): choose another output directory") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise InputError(
                f"{file} is no record of an experiment that this version reads: choose another output directory"
            )
        return record

    def check_owner(self, experiment: Experiment, data: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the record if the directory belongs to `experiment` (and, where given, its `data`), None if to nobody.

        Raises InputError, naming a difference, if it belongs to another. `data` holds a record an arm; see `claim`.
        """
        record = self.record()
        if record is None:
            return None
        if record["experiment"] != experiment.digest():
            raise InputError(
                f"{self.path} belongs to another experiment ({_difference(record, experiment)}): choose another output "
                "directory with --out"
            )
        for arm, found in (data or {}).items():
            known = record["data"][arm]
            for field in ("maps_sha256", "backbone", "digest"):
                if field in found and field in known and known[field] != found[field]:
                    raise InputError(
                        f"{self.path} belongs to the same experiment on other data ({field} of arm {arm}: "
                        f"{known[field]} there, {found[field]} here): choose another output directory with --out"
                    )
        return record

    def claim(self, experiment: Experiment, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Write `experiment.json`, or extend its seeds, and return it; `data` holds a record an arm, with its `digest`.

        `extended_after` lists the numbers of seeds that were asked for before seeds were added.
        """
        known = self.check_owner(experiment, data)
        record: dict[str, Any] = {
            "format": FORMAT,
            "name": experiment.name,
            "experiment": experiment.digest(),
            "baseline": experiment.baseline,
            "metric": experiment.metric,
            "seeds": list(experiment.seeds),
            "extended_after": [],
            "data": {arm: dict(found) for arm, found in data.items()},
            "arms": {arm: config.to_dict() for arm, config in experiment.arms.items()},
        }
        if known is not None:
            before = list(known["seeds"])
            record["seeds"] = before + [seed for seed in experiment.seeds if seed not in before]
            record["extended_after"] = list(known["extended_after"])
            if len(record["seeds"]) > len(before):
                record["extended_after"].append(len(before))
        if known is None or canonical_json(known) != canonical_json(record):
            write_json(self.path / "experiment.json", record)
        return record

    def _load(self, experiment: Experiment, arm: str, seed: int) -> "RunResult | None":
        """Return the complete run of `arm` and `seed`; None where there is none, or it is damaged or of another
        configuration.
        """
        path = self.run_path(arm, seed)
        if not path.is_file():
            return None
        from qwafer.training import RunResult

        try:
            result = RunResult.load(path)
            digest = config_digest(with_options(type(experiment.arms[arm])(), flatten(result.config)))
        except (InputError, UnicodeDecodeError, TypeError, AttributeError):
            return None  # what cannot be read is not complete: the run is done again
        return result if digest == config_digest(experiment.arms[arm]) and result.seed == seed else None

    def read(self, experiment: Experiment, known: SweepResults | None = None) -> SweepResults:
        """Return every run of the experiment; the complete ones of `known`, read before, are not read again."""
        sweep = SweepResults({arm: {} for arm in experiment.arms}, {arm: {} for arm in experiment.arms})
        for arm in experiment.arms:
            for seed in experiment.seeds:
                result = None if known is None else known.results[arm].get(seed)
                result = result or self._load(experiment, arm, seed)
                if result is None:
                    sweep.failures[arm][seed] = self._failure(arm, seed) or NOT_DONE
                else:
                    sweep.results[arm][seed] = result
        return sweep

    def write_failure(self, arm: str, seed: int, failure: Failure) -> None:
        """Record a failed run."""
        write_json(self.error_path(arm, seed), dataclasses.asdict(failure))

    def _failure(self, arm: str, seed: int) -> Failure | None:
        path = self.error_path(arm, seed)
        return Failure(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

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


def pending(experiment: Experiment, sweep: SweepResults) -> list[tuple[str, int]]:
    """Return (arm, seed) of the runs that are not complete, seed by seed, so that a part is already a comparison."""
    return [(arm, seed) for seed in experiment.seeds for arm in experiment.arms if seed not in sweep.results[arm]]


def _difference(record: Mapping[str, Any], experiment: Experiment) -> str:
    """Return the first difference between the recorded experiment and this one, in words."""
    if record["name"] != experiment.name:
        return f"{record['name']} there, {experiment.name} here"
    there, here = list(record["arms"]), list(experiment.arms)
    if there != here:
        return f"arms {', '.join(there)} there, {', '.join(here)} here"
    for arm, config in experiment.arms.items():
        for section, options in config.to_dict().items():
            for option, value in options.items():
                known = record["arms"][arm].get(section, {}).get(option)
                if known != value and (section, option) != ("data", "source"):
                    return f"{section}.{option} of arm {arm} is {known} there, {value} here"
    for field in ("baseline", "metric"):
        if record[field] != getattr(experiment, field):
            return f"{field} {record[field]} there, {getattr(experiment, field)} here"
    return "its configuration has other options"


def seeds_text(seeds: Sequence[int]) -> str:
    """Return seeds in short: "0-7", or "1, 5, 9"."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def predictor_path(out: Path) -> Path:
    """Return where the predictor of the run `out` lies."""
    return out.with_name(f"{out.stem}.head.npz")


def resources_path(out: Path) -> Path:
    """Return where the memory of the run `out` is recorded."""
    return out.with_name(f"{out.stem}.resources.json")
