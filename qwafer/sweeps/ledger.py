"""`test-reads.json`: which experiments and models of one folder have read the test split of which data."""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from qwafer._io import digest, file_sha256, one_at_a_time, read_or_set_aside
from qwafer._records import load_record, save_record
from qwafer.data import WaferMaps
from qwafer.data.files import load_npz
from qwafer.experiment import Experiment
from qwafer.sweeps.sources import Source

LEDGER = "test-reads.json"


@dataclass(frozen=True)
class TestReads:
    """The runs of one experiment, or the evaluations of one model, that scored the test split of some data."""

    __test__: ClassVar[bool] = False  # no test of pytest's

    name: str
    """Of the experiment, or what the model is to be."""
    digest: str
    """`Experiment.digest`, or 16 hex digits of the SHA-256 of the model's file."""
    runs: int
    """Runs that were completed on the data, each of which read the test split once; those that were deleted since
    count, too."""
    first: str
    """Day of the first of them, YYYY-MM-DD, UTC."""
    directory: str = ""
    """Name of the output directory that they lie in; the same experiment in another one is counted apart."""


@dataclass(frozen=True)
class Ledger:
    """Every test split that was read from one folder."""

    SCHEMA: ClassVar[str] = "qwafer/test-reads/1"

    data: dict[str, tuple[TestReads, ...]]
    """By `examples_digest`, the experiments in the order of their first reads."""

    def sentences(self, keys: Mapping[str, str]) -> tuple[str, ...]:
        """Return one sentence for each of the data of `keys`, their digests by arm."""
        found = []
        for key in dict.fromkeys(keys.values()):
            reads = self.data.get(key, ())
            names = [(read.name, read.digest) for read in reads]
            listed = ", ".join(
                f"{read.name}{f' in {read.directory}' if names.count(name) > 1 and read.directory else ''} "
                f"({read.runs} run{'s' if read.runs != 1 else ''})"
                for read, name in zip(reads, names, strict=True)
            )
            count = f"{len(set(names))} experiment{'s' if len(set(names)) != 1 else ''}"
            found.append(
                f"The test split of these data ({key}) has been read by {count} from this folder: {listed or 'none'}"
                + ("; choosing between them after seeing results is selection." if len(reads) > 1 else ".")
            )
        return tuple(found)


def examples_digest(path: str | Path) -> str:
    """Return 16 hex digits over content ids and labels of a feature file, whatever the task and the backbone."""
    arrays = load_npz(path, ("labels", "label_names", "content_ids"), "a feature set")
    return _of_examples(arrays["labels"], arrays["label_names"].tolist(), arrays["content_ids"])


def maps_digest(maps: WaferMaps) -> str:
    """Return the `examples_digest` of a feature file of all of these maps."""
    return _of_examples(maps.labels, list(maps.label_names), maps.content_ids)


def _of_examples(labels: np.ndarray, names: list[str], content_ids: np.ndarray) -> str:
    return digest(labels.astype(np.uint8), names, content_ids.tolist())


def ledger_path(out: str | Path) -> Path:
    """Return where the ledger of the output directory `out` lies: beside it, shared with its siblings."""
    return Path(out).resolve().parent / LEDGER


def read_ledger(out: str | Path) -> Ledger:
    """Return the ledger beside the output directory `out`, empty where there is none.

    One that cannot be read is set aside, as `test-reads.json.damaged`, with a `UserWarning`.
    """
    found = read_or_set_aside(partial(load_record, Ledger), ledger_path(out))
    return Ledger({}) if found is None else found


def note_test_reads(
    out: str | Path,
    experiment: Experiment,
    keys: Mapping[str, str],
    runs: Mapping[str, int],
    joined: Collection[str] = (),
) -> None:
    """Write beside `out` that so many `runs` (by arm) of `experiment` have read the data `keys` (digest by arm).

    An experiment that is in the ledger keeps its first day, and its number of runs only grows; `joined` are the digests
    that it had before arms joined it. Where the folder cannot
    be written to, a `UserWarning` says so.
    """
    with _or_warning(out):
        _note(out, experiment, keys, runs, joined)


def note_model_read(out: str | Path, name: str, model: str | Path, maps: WaferMaps) -> tuple[str, ...]:
    """Write beside `out` that the file `model` has been evaluated once more on the test split of `maps`, to become
    `name`; return who has read it. Where the folder cannot be written to, a `UserWarning` says so.
    """
    key = maps_digest(maps)
    with _or_warning(out), _locked(out):
        data = dict(read_ledger(out).data)
        today = datetime.now(UTC).date().isoformat()
        new = TestReads(name, file_sha256(model)[:16], 1, today, Path(out).resolve().name)
        reads = list(data.get(key, ()))
        place = _place(reads, new, ())
        if place is None:
            reads.append(new)
        else:
            reads[place] = replace(reads[place], runs=reads[place].runs + 1)
        save_record(ledger_path(out), Ledger({**data, key: tuple(reads)}))
    return read_ledger(out).sentences({name: key})


@contextlib.contextmanager
def _or_warning(out: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = f"the reads of the test split could not be noted in {ledger_path(out)}: {error.strerror}"
        warnings.warn(said, UserWarning, stacklevel=4)


def _note(
    out: str | Path,
    experiment: Experiment,
    keys: Mapping[str, str],
    runs: Mapping[str, int],
    joined: Collection[str],
) -> None:
    with _locked(out):
        ledger = read_ledger(out)
        data = dict(ledger.data)
        for key in dict.fromkeys(keys.values()):
            count = sum(runs.get(arm, 0) for arm, own in keys.items() if own == key)
            today = datetime.now(UTC).date().isoformat()
            new = TestReads(experiment.name, experiment.digest(), count, today, Path(out).resolve().name)
            reads = list(data.get(key, ()))
            place = _place(reads, new, joined)
            if place is None:
                reads.append(new)
            else:
                reads[place] = replace(new, runs=max(reads[place].runs, count), first=reads[place].first)
            data[key] = tuple(read for read in reads if read.runs)
        if data != ledger.data:
            save_record(ledger_path(out), Ledger(data))


def _place(reads: Sequence[TestReads], new: TestReads, joined: Collection[str]) -> int | None:
    """Return the place of the entry of the same experiment and directory, under its digest or one that it had before it
    grew (`joined`), or of an earlier version, which named no directory; None where there is none.
    """
    for directory in (new.directory, ""):
        for digest_then in (new.digest, *joined):
            for place, read in enumerate(reads):
                same = read.name == new.name or digest_then != new.digest  # a file of another name that grew it
                if same and (read.digest, read.directory) == (digest_then, directory):
                    return place
    return None


class TestSplitReads:
    """The reads of one sweep: noted run by run, so that those of a killed sweep count, too."""

    __test__ = False

    def __init__(
        self,
        out: str | Path,
        experiment: Experiment,
        sources: Mapping[str, Source],
        complete: Mapping[str, int],
        joined: Collection[str] = (),
    ):
        """Begin with the runs that are `complete`, by arm; the ledger lies beside `out`, and may know the experiment by
        the digests `joined`, from before it grew.
        """
        self.out, self.experiment, self.runs, self.joined = out, experiment, dict(complete), joined
        known: dict[Path, str] = {}
        for source in sources.values():
            if source.path not in known:
                known[source.path] = examples_digest(source.path)
        self.keys = {arm: known[source.path] for arm, source in sources.items()}
        self._count_deleted()
        if any(self.runs.values()):
            note_test_reads(out, experiment, self.keys, self.runs, joined)

    def _count_deleted(self) -> None:
        """Count runs that the ledger knows and that are not there any more: done again, they read once more."""
        own = TestReads(self.experiment.name, self.experiment.digest(), 0, "", Path(self.out).resolve().name)
        ledger = read_ledger(self.out)
        for key in dict.fromkeys(self.keys.values()):
            reads = ledger.data.get(key, ())
            place = _place(reads, own, self.joined)
            arms = [arm for arm, other in self.keys.items() if other == key]
            complete = sum(self.runs.get(arm, 0) for arm in arms)
            if place is not None and reads[place].runs > complete:
                self.runs[arms[0]] = self.runs.get(arms[0], 0) + reads[place].runs - complete

    def note(self, arm: str) -> None:
        """Note one more complete run."""
        self.runs[arm] = self.runs.get(arm, 0) + 1
        note_test_reads(self.out, self.experiment, self.keys, self.runs, self.joined)

    def sentences(self) -> tuple[str, ...]:
        """Return who has read the test split of these data."""
        return read_ledger(self.out).sentences(self.keys)


def _locked(out: str | Path) -> AbstractContextManager[None]:
    """Hold the ledger for one writer at a time."""
    return one_at_a_time(ledger_path(out).with_name(f".{LEDGER}.lock"))
