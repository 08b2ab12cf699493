"""Chunks of an unfinished extraction on disk: what a killed run leaves, and the next one resumes."""

import contextlib
import fcntl
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import atomic_path, canonical_json, jsonable, write_json
from qwafer._reading import reads
from qwafer._records import read_json

MANIFEST = "manifest.json"


class ChunkStore:
    """The folder `OUT.parts/`: a manifest that says what is extracted, and one .npy per chunk of rows [start, stop).

    A chunk is written atomically and flushed before it counts; chunks of any lengths fit together as long as their ends
    are multiples of the compute batch, so that a run may be resumed with another `--batch`.
    """

    def __init__(self, folder: Path, record: dict[str, Any], n_rows: int) -> None:
        self.folder = folder
        self.record = record
        self.n_rows = n_rows

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder or resume it; refuse one of another extraction, or one that another process holds."""
        manifest = {"n_rows": self.n_rows, "record": jsonable(self.record)}
        path = self.folder / MANIFEST
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is writing {self.folder}: let it finish, or choose another output"
                ) from error
            if path.is_file():
                found = _read_manifest(path)
                if canonical_json(found) != canonical_json(manifest):
                    what = difference(found.get("record", {}), self.record)
                    raise InputError(
                        f"{self.folder} holds parts of another extraction ({what}): delete it, or choose another output"
                    )
            else:
                write_json(path, manifest)
            yield

    def spans(self) -> list[tuple[int, int]]:
        """Return the [start, stop) of the chunks on disk, in order."""
        return sorted(_span(path) for path in self.folder.glob("*-*.npy"))

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
        # np.save on a real file hides the operating system's reason (a full disk) behind a message of its own.
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        path = self.folder / f"{start:09d}-{start + len(rows):09d}.npy"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(buffer.getbuffer())

    def rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (start, rows) of every chunk in order, mapped from disk."""
        for start, stop in self.spans():
            path = self.folder / f"{start:09d}-{stop:09d}.npy"
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise InputError(f"{path} is damaged: delete it and run the same command again") from error
            if len(rows) != stop - start:
                raise InputError(f"{path} is damaged: delete it and run the same command again")
            yield start, rows

    def assembled(self, inverse: np.ndarray) -> np.ndarray:
        """Return the rows of all maps, (len(inverse), D), held on disk and mapped: row i is chunk row inverse[i]."""
        path = self.folder / "features.npy"
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
        """Delete the folder with everything in it."""
        shutil.rmtree(self.folder)


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


def _span(path: Path) -> tuple[int, int]:
    start, stop = path.stem.split("-")
    return int(start), int(stop)


@reads("is damaged: delete its folder")
def _read_manifest(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("record"), dict):
        raise InputError(f"{path} is damaged: delete the folder {path.parent}")
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
