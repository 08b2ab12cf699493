"""`ModelRegistry`: versions that never change, which of them answers, and the way back."""

import re
import tomllib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._checks import check_interval, check_path, check_printable, nearest
from qwafer._errors import InputError, RecordError
from qwafer._io import one_at_a_time, remove_abandoned
from qwafer._reading import reads
from qwafer._records import load_record, save_record
from qwafer.serving.evidence import Evidence
from qwafer.serving.release import EVIDENCE, RECORD, Release, ReleaseRecord, check_file, read_release

VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", re.ASCII)
POINTERS, GATE, LOCK, VERSIONS = "pointers.json", "gate.toml", ".lock", "versions"


@dataclass(frozen=True)
class Gate:
    """What a version must reach on its test split before it may answer; read from TOML."""

    accuracy: float | None = None
    """Share of the maps of which every label is right."""
    macro_f1: float | None = None
    """Macro F1."""
    class_f1: float | None = None
    """F1 of each class that `classes` does not name."""
    classes: dict[str, float] = field(default_factory=dict)
    """F1 of single classes."""

    def __post_init__(self) -> None:
        floors = {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "class_f1": self.class_f1, **self.classes}
        for name, floor in floors.items():
            if floor is not None:
                check_interval(name, floor, 0, 1)
        if all(floor is None for floor in floors.values()):
            raise InputError("a gate must have a floor: accuracy, macro_f1, class_f1 or [classes]")

    @classmethod
    @reads("is not a gate in TOML")
    def load(cls, path: str | Path) -> "Gate":
        """Return the gate in a TOML file; raise InputError for an unknown key."""
        form: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        known = ("accuracy", "macro_f1", "class_f1", "classes")
        for name in form:
            if name not in known:
                raise InputError(f"{path} has no option {name}{nearest(name, known)}")
        if not isinstance(form.get("classes", {}), dict):
            raise InputError(f"`classes` of {path} must be a table of floors by class")
        try:
            return cls(**form)
        except (TypeError, InputError) as error:
            raise InputError(f"{path}: {error}") from error

    def misses(self, evidence: Evidence) -> list[str]:
        """Return the floors that are missed, as clauses; an F1 that is not defined misses every floor."""
        for name in self.classes:
            if name not in evidence.class_f1:
                raise InputError(
                    f"the gate names the class {name}{nearest(name, evidence.class_f1)}; the model has none"
                )
        floors = [
            ("accuracy", evidence.accuracy, self.accuracy),
            ("macro F1", evidence.macro_f1, self.macro_f1),
            *((f"F1 of {n}", value, self.classes.get(n, self.class_f1)) for n, value in evidence.class_f1.items()),
        ]
        return [
            f"{what} is {'not defined (no test map)' if np.isnan(value) else f'{value:.4f}'}, the floor {floor:g}"
            for what, value, floor in floors
            if floor is not None and not value >= floor
        ]


@dataclass(frozen=True)
class Change:
    """One move of the champion."""

    at: str
    """When, UTC."""
    action: str
    """`promote`, `rollback` or `automatic rollback`."""
    champion: str
    """The version that answers from then on."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True)
class Pointers:
    """`pointers.json`, replaced as one file, so that champion and previous always belong together."""

    SCHEMA: ClassVar[str] = "qwafer/pointers/1"

    champion: str = ""
    """The version that answers; empty: none yet."""
    previous: str = ""
    """The one before it; empty: none, or it has been taken back to."""
    changes: tuple[Change, ...] = ()
    """All moves, the last one last."""


class ModelRegistry:
    """A folder of versions: `versions/MAJOR.MINOR.PATCH/`, `pointers.json` and `gate.toml`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_path(folder)

    def add(self, release: Release, version: str, note: str = "") -> ReleaseRecord:
        """Write a version; raise InputError for one that exists, is older than the newest, or is not a version."""
        check_printable("`note`", note)
        with self._locked():
            self.check_new(version)
            (self.folder / VERSIONS).mkdir(exist_ok=True)
            remove_abandoned((self.folder / VERSIONS).glob(".qwafer-*"))
            return release.save(self.folder / VERSIONS / version, version, note)

    def check_new(self, version: str) -> None:
        """Raise InputError for a version that exists, is older than the newest, or is not a version."""
        number, newest = _number(version), max(map(_number, self.versions()), default=None)
        if newest is not None and number <= newest:
            raise InputError(
                f"version {version} must be above the newest, {'.'.join(map(str, newest))}: versions are never changed"
            )

    def versions(self) -> list[str]:
        """Return the versions, ascending."""
        folder = self.folder / VERSIONS
        names = [path.name for path in folder.glob("*") if VERSION.fullmatch(path.name)] if folder.is_dir() else []
        return sorted(names, key=_number)

    def record(self, version: str) -> ReleaseRecord:
        """Return what a version is.

        Raises InputError for one that is not there, RecordError for one under another name.
        """
        folder = self._folder_of(version)
        record = read_release(folder)
        if record.version != version:
            raise RecordError(f"{folder} is version {record.version}: it was copied or renamed by hand")
        return record

    def evidence(self, version: str) -> Evidence:
        """Return what a version is worth, after the digest of the file was compared."""
        check_file(self._folder_of(version), self.record(version), EVIDENCE)
        return load_record(Evidence, self._folder_of(version) / EVIDENCE)

    def load(self, version: str) -> Release:
        """Return a version, after the digest of every file was compared."""
        self.record(version)
        return Release.load(self._folder_of(version))

    def pointers(self) -> Pointers:
        """Return which version answers, and what came before."""
        path = self.folder / POINTERS
        return load_record(Pointers, path) if path.exists() else Pointers()

    def promote(self, version: str, gate: Gate | None = None, reason: str = "") -> Pointers:
        """Let a version answer; the champion becomes the previous one.

        `gate` is that of `gate.toml` if none. Raises InputError for a version that misses it, or is the champion.
        """
        if gate is None:
            path = self.folder / GATE
            if not path.is_file():
                raise InputError(f"there is no gate: write {path}, with floors such as accuracy = 0.9, or give one")
            gate = Gate.load(path)
        missed = gate.misses(self.evidence(version))
        if missed:
            raise InputError(f"version {version} misses the gate: {'; '.join(missed)}")
        self.load(version)  # a damaged version is refused before it answers
        with self._locked():
            now = self.pointers()
            if now.champion == version:
                raise InputError(f"version {version} is the champion already")
            return self._moved(now, version, now.champion, "promote", reason)

    def rollback(self, reason: str = "", *, action: str = "rollback", champion: str | None = None) -> Pointers:
        """Let the previous version answer again; with `champion` only where that one answers still.

        Raises InputError where there is no previous version.
        """
        with self._locked():
            now = self.pointers()
            if champion is not None and now.champion != champion:
                return now
            if not now.previous:
                raise InputError("there is no previous version to go back to: promote one")
            self.load(now.previous)
            return self._moved(now, now.previous, "", action, reason)

    def _moved(self, now: Pointers, champion: str, previous: str, action: str, reason: str) -> Pointers:
        check_printable("`reason`", reason)
        change = Change(datetime.now(UTC).isoformat(timespec="seconds"), action, champion, reason)
        found = replace(now, champion=champion, previous=previous, changes=(*now.changes, change))
        save_record(self.folder / POINTERS, found)
        return found

    def _folder_of(self, version: str) -> Path:
        _number(version)
        folder = self.folder / VERSIONS / version
        if not (folder / RECORD).is_file():
            known = self.versions()
            raise InputError(
                f"{self.folder} has no version {version}{nearest(version, known)}; it has {', '.join(known) or 'none'}"
            )
        return folder

    def _locked(self) -> AbstractContextManager[None]:
        """One change at a time, whatever process makes it."""
        return one_at_a_time(self.folder / LOCK)


def _number(version: str) -> tuple[int, ...]:
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise InputError(f"`version` must be MAJOR.MINOR.PATCH, such as 1.0.0, got {version!r}")
    return tuple(map(int, version.split(".")))
