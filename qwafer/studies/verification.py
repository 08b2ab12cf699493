"""`verify`: whether the files of a result directory, or a feature or model file, are what was written."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwafer._checks import check_exists
from qwafer._errors import InputError, RecordError
from qwafer._io import DAMAGED, TEMPORARY, npz_damage
from qwafer._records import CHECKSUM, from_json, load_record, read_json, unsealed
from qwafer.backbones.checkpoints import read_tensors
from qwafer.comparison.differences import Differences
from qwafer.comparison.record import HeadRecord
from qwafer.comparison.summary import Summary, SweepTimings
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.features import FeatureSet
from qwafer.sweeps.directory import LOCK, RECORD, DirectoryRecord, is_of
from qwafer.sweeps.inference import InferenceTiming
from qwafer.sweeps.ledger import LEDGER, Ledger
from qwafer.training import RunResult

_RECORDS: Mapping[str, type[Any]] = {
    record.SCHEMA: record
    for record in (Summary, SweepTimings, HeadRecord, Differences, DirectoryRecord, InferenceTiming, Ledger)
}
_NAMED: Mapping[str, type[Any]] = {
    RECORD: DirectoryRecord,
    LEDGER: Ledger,
    "summary.json": Summary,
    "timings.json": SweepTimings,
}
"""What a file of this name must be, whatever it says of itself."""
_RUN = re.compile(r"seed-(\d+)\.json")


@dataclass(frozen=True)
class Verification:
    """What `verify` has found."""

    whole: tuple[Path, ...] = ()
    """Files that are what was written."""
    damaged: Mapping[Path, str] = field(default_factory=dict)
    """Why a file is not, by path."""
    unchecked: tuple[Path, ...] = ()
    """Files without a checksum: reports and figures, which are drawn anew, and files of others."""


def verify(path: str | Path) -> Verification:
    """Return whether the files under the folder `path`, or the file, are what was written.

    A run is read with its logits, and its digest and metrics are computed again; records, weights and arrays are
    compared with their checksums. What was set aside before is passed over. Nothing is changed: the command that wrote
    the folder sets aside what is damaged, and makes it again.

    Raises InputError for a path that does not exist.
    """
    path = check_exists(path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    whole: list[Path] = []
    damaged: dict[Path, str] = {}
    unchecked: list[Path] = []
    for file in files:
        if file.name.startswith(TEMPORARY) or DAMAGED in file.name:
            continue
        if file.name == LOCK and (file.parent / "runs").exists() and not os.path.lexists(file.parent / RECORD):
            damaged[file.parent / RECORD] = f"{file.parent / RECORD} is missing"
        if file.is_dir() and not (_RUN.fullmatch(file.name) or file.name in _NAMED):
            continue
        try:
            if not file.is_file():
                raise RecordError(f"{file} is not a regular file")
            (whole if _CHECKS.get(file.suffix, _unknown)(file) else unchecked).append(file)
        except (InputError, OSError) as error:
            damaged[file] = " ".join(str(error).split())
    return Verification(tuple(whole), damaged, tuple(unchecked))


def _json(path: Path) -> bool:
    """Return whether the JSON file at `path` says what it must hold; raise InputError where it does not hold that."""
    run = _RUN.fullmatch(path.name)
    if run is not None:
        result = RunResult.load(path)
        if result.seed != int(run[1]):
            raise RecordError(f"{path} holds the run of seed {result.seed}")
        _check_arm(path, result)
        return True
    form = read_json(path)
    record = _RECORDS.get(str(form.get("schema"))) if isinstance(form, dict) else None
    record = _NAMED.get(path.name, record)
    if record is not None:
        load_record(record, path)
        return True
    content = unsealed(form, str(path))
    if path.name.endswith(".error.json"):
        from_json(Failure, content, str(path))
    return content is not form


def _check_arm(path: Path, result: RunResult) -> None:
    """Raise RecordError where a run in the folder of an arm of an experiment is not one of that arm."""
    if len(path.parents) < 3 or not (path.parents[2] / RECORD).is_file():
        return
    try:
        arm = load_record(DirectoryRecord, path.parents[2] / RECORD).arms.get(path.parent.name)
        same = arm is None or is_of(result, RunConfig.from_dict(arm))
    except InputError:  # a damaged record is named for itself
        return
    if not same:
        raise RecordError(f"{path} is not a run of arm {path.parent.name}: its configuration is another")


def _npz(path: Path) -> bool:
    damage = npz_damage(path)
    if damage is not None:
        raise RecordError(f"{path} is damaged ({damage})")
    if FeatureSet.wrote(path):
        FeatureSet.load(path)
    return True


def _safetensors(path: Path) -> bool:
    metadata = read_tensors(path)[1]
    if CHECKSUM not in metadata and any(key.startswith("qwafer_") for key in metadata):
        raise RecordError(f"{path} has lost its checksum, or an earlier version wrote it")
    return CHECKSUM in metadata


def _unknown(path: Path) -> bool:
    return False


_CHECKS: Mapping[str, Callable[[Path], bool]] = {".json": _json, ".npz": _npz, ".safetensors": _safetensors}
