"""Chunks of an unfinished extraction on disk: what a killed run leaves, and the next one resumes."""

import contextlib
import fcntl
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError, RecordError
from qwafer._io import (
    DAMAGED,
    TEMPORARY,
    atomic_path,
    canonical_json,
    digest,
    jsonable,
    read_or_set_aside,
    remove_temporaries,
    write_json,
)
from qwafer._records import read_json, sealed, unsealed

MANIFEST, LOCK, ASSEMBLED = "manifest.json", "lock", "features.npy"
_CHUNK = re.compile(r"(\d{9})-(\d{9})\.npz")
_OURS = re.compile(rf"{_CHUNK.pattern}|{MANIFEST}|{LOCK}|{ASSEMBLED}|{re.escape(TEMPORARY)}.*")


class ChunkStore:
    """The folder `OUT.parts/`: a manifest that says what is extracted, and one .npz per chunk of rows [start, stop).

    A chunk is written atomically and flushed before it counts; chunks of any lengths fit together as long as their ends
    are multiples of the compute batch, so that a run may be resumed with another `--batch`. It carries a digest of the
    manifest and its place, and the checksums that every NPZ has: a file from elsewhere, or a damaged one, is none.
    """

    def __init__(self, folder: Path, record: dict[str, Any], n_rows: int) -> None:
        self.folder = folder
        self.record = record
        self.n_rows = n_rows
        self._manifest = {"n_rows": n_rows, "record": jsonable(record)}

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder or resume it, and set aside what is damaged in it.

        Raises InputError for a folder of another extraction or of somebody else, and one that another process holds.
        """
        foreign = self._foreign()
        if foreign:
            raise InputError(
                f"{self.folder} holds other things ({', '.join(foreign[:3])}): move it away, or choose another output"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is writing {self.folder}: let it finish, or choose another output"
                ) from error
            remove_temporaries(self.folder)
            path = self.folder / MANIFEST
            found = read_or_set_aside(_read_manifest, path)
            if found is not None and canonical_json(found) != canonical_json(self._manifest):
                what = difference(found.get("record", {}), self.record)
                raise InputError(
                    f"{self.folder} holds parts of another extraction ({what}): delete it, or choose another output"
                )
            if found is None:
                write_json(path, sealed(self._manifest))
            for start, stop in self.spans():
                read_or_set_aside(self._read, self._path(start, stop))
            yield

    def spans(self) -> list[tuple[int, int]]:
        """Return the [start, stop) of the chunks on disk, in order."""
        matches = (_CHUNK.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted((int(match[1]), int(match[2])) for match in matches if match)

    def missing(self, step: int) -> list[tuple[int, int]]:
        """Return the spans still to compute, at most `step` rows each and split at multiples of `step`."""
        gaps = []
        position = 0
        for start, stop in [*self.spans(), (self.n_rows, self.n_rows)]:
            while position < start:
                end = min((position // step + 1) * step, start)
                gaps.append((position, end))
                position = end
            position = max(position, stop)
        return gaps

    def write(self, start: int, rows: np.ndarray) -> None:
        """Store the rows [start, start + len(rows))."""
        with atomic_path(self._path(start, start + len(rows))) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, rows=rows, origin=np.array(self._origin(start)))

    def rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (start, rows) of every chunk in order."""
        for start, stop in self.spans():
            yield start, self._read(self._path(start, stop))

    def _origin(self, start: int) -> str:
        return digest(self._manifest, start)

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:09d}-{stop:09d}.npz"

    def _read(self, path: Path) -> np.ndarray:
        """Return the rows of a chunk; raise RecordError for a file that is not what `write` wrote here."""
        match = _CHUNK.fullmatch(path.name)
        assert match is not None
        start, stop = int(match[1]), int(match[2])
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                rows, origin = archive["rows"], archive["origin"].item()
        except OSError:
            raise
        except Exception as error:  # what NumPy and zipfile raise for damaged bytes has no common class
            raise RecordError(f"{path} is damaged ({error})") from error
        fits = rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == stop - start and stop <= self.n_rows
        if not fits or origin != self._origin(start):
            raise RecordError(f"{path} is not a chunk of this extraction")
        return np.asarray(rows)

    def assembled(self, inverse: np.ndarray) -> np.ndarray:
        """Return the rows of all maps, (len(inverse), D), held on disk and mapped: row i is chunk row inverse[i]."""
        path = self.folder / ASSEMBLED
        target: np.ndarray | None = None
        for start, rows in self.rows():
            if target is None:
                shape = (len(inverse), rows.shape[1])
                _reserve(path, shape)
                target = np.lib.format.open_memmap(path, mode="r+")
            members = np.flatnonzero((inverse >= start) & (inverse < start + len(rows)))
            target[members] = rows[inverse[members] - start]
        if target is None:
            raise InputError(f"{self.folder} holds no chunk: run the same command again")
        return target

    def remove(self) -> None:
        """Delete what this class has written, and the folder unless it holds anything else."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == MANIFEST):  # the mark goes last
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            self.folder.rmdir()

    def remove_finished(self) -> None:
        """Delete what a process that was killed after its last write has left; nothing where there is no such folder.

        A folder of another extraction, or one that a process holds, stays.
        """
        if (self.folder / MANIFEST).is_file():
            with contextlib.suppress(InputError), self.opened():
                self.remove()

    def _foreign(self) -> list[str]:
        """Return what lies in a folder without the mark of this class, which is its manifest."""
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []
        if any(name.startswith(MANIFEST) for name in names):
            return []
        return [name for name in names if name != LOCK and not name.startswith(TEMPORARY) and DAMAGED not in name]


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the first two entries in which two records differ, as short text for an error."""
    wanted = jsonable(wanted)
    parts = []
    for key in sorted({*found, *wanted}):
        there, here = found.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            inner = difference(there, here)
            if inner:
                parts.append(f"{key}: {inner}")
        elif there != here:
            parts.append(f"{key} is {_short(there)} there and {_short(here)} here")
    return "; ".join(parts[:2])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _read_manifest(path: Path) -> dict[str, Any]:
    found = unsealed(read_json(path), str(path))
    if not isinstance(found, dict):
        raise RecordError(f"{path} is damaged: it holds no JSON object")
    return found


def _reserve(path: Path, shape: tuple[int, int]) -> None:
    """Create a .npy of float32 zeros with its blocks allocated: a mapped hole on a full disk would kill the process."""
    header = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    zeros = bytes(1 << 20)
    remaining = shape[0] * shape[1] * 4
    with path.open("wb") as file:
        file.write(header.getbuffer())
        while remaining:
            remaining -= file.write(zeros[: min(remaining, len(zeros))])
