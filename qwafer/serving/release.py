"""`Release`: a model, its review and its evidence in one folder that nobody changes."""

import contextlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from qwafer._errors import InputError, RecordError
from qwafer._io import file_sha256, flush_folder, held, temporary_path
from qwafer._records import load_record, save_record
from qwafer.model import Model
from qwafer.serving.evidence import Evidence
from qwafer.serving.review import Review

MODEL, REVIEW, EVIDENCE, RECORD = "model.safetensors", "review.safetensors", "evidence.json", "release.json"


@dataclass(frozen=True)
class ReleaseRecord:
    """`release.json`: what a version is, and the digests of its files."""

    SCHEMA: ClassVar[str] = "qwafer/release/1"

    version: str
    """`MAJOR.MINOR.PATCH`; empty outside a registry."""
    added: str
    """When it was added, UTC."""
    note: str
    """A sentence of who added it."""
    files: dict[str, str]
    """SHA-256 of every other file, by name."""


@dataclass(frozen=True, eq=False)
class Release:
    """A model as it is deployed."""

    model: Model
    review: Review
    evidence: Evidence
    record: ReleaseRecord | None = None
    """Of the folder that it was read from."""

    @property
    def version(self) -> str:
        """Its version; empty before it was added to a registry."""
        return "" if self.record is None else self.record.version

    def save(self, folder: Path, version: str, note: str = "") -> ReleaseRecord:
        """Write the folder, whole or not at all; raise InputError where something is there already."""

        def create() -> Path:
            new = temporary_path(folder)
            new.mkdir(parents=True)
            return new

        with held(create) as temporary:
            try:
                self.model.save(temporary / MODEL)
                self.review.save(temporary / REVIEW)
                save_record(temporary / EVIDENCE, self.evidence)
                files = {name: file_sha256(temporary / name) for name in (MODEL, REVIEW, EVIDENCE)}
                record = ReleaseRecord(version, datetime.now(UTC).isoformat(timespec="seconds"), note, files)
                save_record(temporary / RECORD, record)
                for file in temporary.iterdir():
                    file.chmod(0o444)
                flush_folder(temporary)
                if folder.exists():
                    raise InputError(f"{folder} exists, and versions are never changed: take another number")
                temporary.rename(folder)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(temporary)
        flush_folder(folder.parent)
        return record

    @classmethod
    def load(cls, folder: str | Path) -> "Release":
        """Return the release in `folder`; raise RecordError where a file is not the one that was written."""
        folder = Path(folder)
        record = read_release(folder)
        for name in record.files:
            check_file(folder, record, name)
        return cls(
            Model.load(folder / MODEL), Review.load(folder / REVIEW), load_record(Evidence, folder / EVIDENCE), record
        )


def check_file(folder: Path, record: ReleaseRecord, name: str) -> None:
    """Raise RecordError where a file of a release is not the one that was written."""
    path = folder / name
    if not path.is_file() or file_sha256(path) != record.files[name]:
        raise RecordError(f"{path} is damaged: it is not the file that was added (its sha256 differs)")


def read_release(folder: Path) -> ReleaseRecord:
    """Return the record of a release; raise InputError where `folder` holds none."""
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder} is not a version of a registry: it has no {RECORD}")
    record = load_record(ReleaseRecord, folder / RECORD)
    if set(record.files) != {MODEL, REVIEW, EVIDENCE}:
        raise RecordError(f"{folder / RECORD} does not name the files of a version")
    return record
