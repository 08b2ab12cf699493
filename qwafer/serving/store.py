"""`Store`: every answer and what engineers said of it, in SQLite; nothing that was acknowledged is lost."""

import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import check_path
from qwafer._errors import InputError, RecordError
from qwafer._reading import reads

LAYOUT = 2
"""Number of the layout of the tables."""
BUSY = 30.0
"""Seconds that a connection waits for another one."""
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, wafer TEXT NOT NULL, lot TEXT NOT NULL,
  version TEXT NOT NULL, prediction TEXT NOT NULL, confidence REAL NOT NULL, distance REAL NOT NULL,
  flagged INTEGER NOT NULL, audit INTEGER NOT NULL, latency REAL NOT NULL, probabilities BLOB NOT NULL,
  height INTEGER NOT NULL, width INTEGER NOT NULL, map BLOB, repeat INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS answers_at ON answers (at);
CREATE INDEX IF NOT EXISTS answers_wafer ON answers (wafer);
CREATE INDEX IF NOT EXISTS answers_queue ON answers (id) WHERE map IS NOT NULL;
CREATE TABLE IF NOT EXISTS feedback (
  answer INTEGER PRIMARY KEY REFERENCES answers (id) ON DELETE CASCADE,
  at REAL NOT NULL, label TEXT NOT NULL, reviewer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS past (
  version TEXT NOT NULL, since REAL NOT NULL, flagged INTEGER NOT NULL, answers INTEGER NOT NULL,
  reviews INTEGER NOT NULL, hits INTEGER NOT NULL, PRIMARY KEY (version, since, flagged));
CREATE TABLE IF NOT EXISTS looks (
  what TEXT NOT NULL, number INTEGER NOT NULL, said TEXT NOT NULL, PRIMARY KEY (what, number));
"""
_FROM_LAYOUT_1 = """
ALTER TABLE answers ADD COLUMN repeat INTEGER NOT NULL DEFAULT 0;
UPDATE answers SET repeat = 1 WHERE wafer != '' AND EXISTS (
  SELECT 1 FROM answers AS other WHERE other.wafer = answers.wafer AND other.lot = answers.lot
  AND other.version = answers.version AND other.id < answers.id);
"""
_REVIEWED = "label IS NOT NULL AND (flagged OR audit)"
_TALLY = (
    f"flagged, count(*) AS answers, total({_REVIEWED}) AS reviews, total({_REVIEWED} AND label = prediction) AS hits "
    "FROM answers LEFT JOIN (SELECT answer, label FROM feedback) ON answer = id WHERE NOT repeat"
)


@dataclass(frozen=True)
class Stored:
    """One answer as it is stored."""

    at: float
    """When it was given, seconds since 1970."""
    wafer: str
    """The wafer's id."""
    lot: str
    """The lot's id; empty where it is not known."""
    version: str
    """The version that answered."""
    prediction: str
    """What it said."""
    confidence: float
    """How sure it was."""
    distance: float
    """Of its features from the training features."""
    flagged: bool
    """Whether an engineer is to look because of doubt or distance."""
    audit: bool
    """Whether an engineer is to look because of a draw, which tells how good the other answers are."""
    latency: float
    """Milliseconds from the whole request to the answer."""
    probabilities: bytes
    """float32, one per label."""
    height: int
    """Rows of the map."""
    width: int
    """Columns of the map."""
    map: bytes | None
    """The map, compressed, where an engineer is to look; see `packed_map`."""


@dataclass(frozen=True, eq=False)
class Window:
    """Answers of a time, column by column, in the order in which they were given."""

    at: np.ndarray
    """(N,) seconds since 1970."""
    lots: np.ndarray
    """(N,) lots; empty where they are not known."""
    versions: np.ndarray
    """(N,) versions."""
    predictions: np.ndarray
    """(N,) what was said."""
    confidence: np.ndarray
    """(N,) how sure."""
    distance: np.ndarray
    """(N,) from the training features."""
    flagged: np.ndarray
    """(N,) whether doubt or distance asks for review."""
    audit: np.ndarray
    """(N,) whether a draw does."""
    latency: np.ndarray
    """(N,) milliseconds."""
    labels: np.ndarray
    """(N,) what an engineer said, None where none has."""
    reviewed: np.ndarray
    """(N,) seconds since 1970 of the last word of an engineer; NaN without one."""
    ids: np.ndarray
    """(N,) numbers of the answers."""
    wafers: np.ndarray
    """(N,) wafers; empty where they are not known."""

    def __len__(self) -> int:
        return len(self.at)

    @property
    def counted(self) -> np.ndarray:
        """(N,) whether a review counts: of an answer that was flagged, or drawn; not one that somebody volunteered."""
        return ~np.isnan(self.reviewed) & (self.flagged | self.audit)

    def take(self, chosen: np.ndarray) -> "Window":
        """Return the answers where `chosen` (N,) is true."""
        return Window(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


class Store:
    """The database of one service; any process may read it. Connections are per thread.

    **A statistic counts a wafer once**: by the first answer that a version gave to a wafer of a lot. Later ones are
    kept, marked as repeats when they are written, and appear in no window and no tally; a draw does not put them before
    an engineer. A wafer without an id is never a repeat.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = check_path(path)
        self._threads = threading.local()
        self._opened(path)

    @reads("is not a store of answers, or a damaged one")
    def _opened(self, path: str | Path) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self._connection as connection:
            self._wal()
            if self._layout(connection) == (LAYOUT, True):
                return
            connection.execute("BEGIN IMMEDIATE")
            layout, filled = self._layout(connection)  # again, where another process has made the tables meanwhile
            if layout > LAYOUT or (layout == 0 and filled):
                raise InputError(f"{path} is not a store of answers of this version of qwafer")
            if layout < LAYOUT:
                changes = (_FROM_LAYOUT_1 if layout else "") + _TABLES + f"PRAGMA user_version = {LAYOUT}"
                for line in changes.split(";"):
                    connection.execute(line)

    @staticmethod
    def _layout(connection: sqlite3.Connection) -> tuple[int, bool]:
        """Return the number of the layout, and whether there are tables."""
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        return int(layout), tables > 0

    def _wal(self) -> None:
        """Turn WAL on; SQLite does not wait by itself where another process is about to."""
        end = time.monotonic() + BUSY
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    @property
    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if found is None:
            found = self._threads.connection = sqlite3.connect(self.path, timeout=BUSY)
            found.execute("PRAGMA synchronous = FULL")  # a commit outlives a loss of power
            found.execute("PRAGMA foreign_keys = ON")
        return found

    def _rows(self, line: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a query finds; raise RecordError where the file is damaged."""
        try:
            return self._connection.execute(line, values).fetchall()
        except sqlite3.Error as error:
            raise RecordError(f"{self.path} cannot be read: is it damaged? ({error})") from error

    def close(self) -> None:
        """Close the connection of this thread."""
        if getattr(self._threads, "connection", None) is not None:
            self._threads.connection.close()
            del self._threads.connection

    def add(self, answers: Sequence[Stored]) -> list[int]:
        """Write answers in one transaction and return their numbers; they are on disk when it returns."""
        names = (*Stored.__dataclass_fields__, "repeat")
        line = f"INSERT INTO answers ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        before = "SELECT 1 FROM answers WHERE wafer = ? AND lot = ? AND version = ? LIMIT 1"
        numbers = []
        with self._connection as connection:
            for answer in answers:
                known = (answer.wafer, answer.lot, answer.version)
                repeat = bool(answer.wafer) and connection.execute(before, known).fetchone() is not None
                kept = replace(answer, audit=False, map=None) if repeat and answer.audit else answer
                numbers.append(int(connection.execute(line, (*astuple(kept), repeat)).lastrowid or 0))
        return numbers

    def find(self, wafer: str, lot: str | None = None) -> tuple[int, str] | None:
        """Return number and version of the answer for a wafer (of `lot`, if one is named): the first of the version and
        the lot that answered it last; None without one.
        """
        line = (
            "SELECT id, version FROM answers WHERE wafer = ? AND ifnull(?, lot) = lot ORDER BY repeat, id DESC LIMIT 1"
        )
        found = self._rows(line, wafer, lot)
        return (int(found[0][0]), str(found[0][1])) if found else None

    def version_of(self, answer: int, wafer: str | None = None) -> str | None:
        """Return the version that gave an answer, for `wafer` if one is named; None without one."""
        found = self._rows("SELECT version FROM answers WHERE id = ? AND ifnull(?, wafer) = wafer", answer, wafer)
        return str(found[0][0]) if found else None

    def say(self, answer: int, label: str, reviewer: str = "") -> None:
        """Keep what an engineer says of an answer; the last word counts. On disk when it returns."""
        line = "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?)"
        with self._connection as connection:
            connection.execute(line, (answer, time.time(), label, reviewer))

    def queue(self, limit: int) -> list[tuple[int, Stored]]:
        """Return the newest answers that wait for an engineer, with their numbers."""
        names = ", ".join(Stored.__dataclass_fields__)
        line = (
            f"SELECT id, {names} FROM answers WHERE map IS NOT NULL AND id NOT IN (SELECT answer FROM feedback) "
            "ORDER BY id DESC LIMIT ?"
        )
        return [(row[0], _stored(row[1:])) for row in self._rows(line, limit)]

    def maps(self, answers: Iterable[int]) -> dict[int, np.ndarray]:
        """Return the maps (H, W) of those of the answers whose map is kept."""
        line = "SELECT map, height, width FROM answers WHERE id = ?"
        rows = {int(i): self._rows(line, int(i)) for i in answers}
        return {i: unpacked_map(*found[0]) for i, found in rows.items() if found and found[0][0] is not None}

    def window(self, since: float = 0.0, until: float = np.inf) -> Window:
        """Return the answers from `since` to before `until`, seconds since 1970, but for repeats."""
        line = (
            "SELECT at, lot, version, prediction, confidence, distance, flagged, audit, latency, label, said, "
            "id, wafer FROM answers LEFT JOIN (SELECT answer, label, at AS said FROM feedback) ON answer = id "
            "WHERE at >= ? AND at < ? AND NOT repeat ORDER BY id"
        )
        rows = self._rows(line, since, min(until, 1e300))
        columns = list(zip(*rows, strict=True)) if rows else [()] * 13
        kinds = (float, str, str, str, float, float, bool, bool, float, object, float, np.int64, str)
        try:
            return Window(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))
        except (TypeError, ValueError, OverflowError) as error:
            raise RecordError(f"{self.path} is damaged: it holds other values than were written ({error})") from error

    def count(self) -> tuple[int, int]:
        """Return the numbers of answers and of reviews."""
        tables = ("answers", "feedback")
        first, second = (self._rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables)
        return int(first), int(second)

    def n_reviewed(self, version: str, since: float) -> int:
        """Return how many answers of a version since a time were flagged or drawn, and have been reviewed: as `tally`
        has them, without counting all answers.
        """
        line = (
            "SELECT count(*) FROM feedback JOIN answers ON answer = answers.id "
            "WHERE version = ? AND answers.at >= ? AND (flagged OR audit) AND NOT repeat "
            "UNION ALL SELECT total(reviews) FROM past WHERE version = ? AND since >= ?"
        )
        return sum(int(count) for (count,) in self._rows(line, version, since, version, since))

    def tally(self, version: str, since: float) -> np.ndarray:
        """Return (2, 3) of the answers of a version since a time, not flagged and flagged: answers, reviews that count,
        and those of them that say right. Answers that were deleted since count, too.
        """
        line = (
            f"SELECT {_TALLY} AND version = ? AND at >= ? GROUP BY flagged "
            "UNION ALL SELECT flagged, answers, reviews, hits FROM past WHERE version = ? AND since >= ?"
        )
        found = np.zeros((2, 3), np.int64)
        for flagged, *counts in self._rows(line, version, since, version, since):
            found[int(flagged)] += np.array(counts, np.int64)
        return found

    def remove_before(self, at: float, since: Sequence[float] = ()) -> int:
        """Delete answers given before `at`, with their reviews, and return how many they were.

        Their `tally` is kept, from each of the times `since` on: those from which it will be asked for.
        """
        edges = [0.0, *sorted(edge for edge in since if 0 < edge < at), at]
        line = (
            f"INSERT INTO past SELECT version, ?, {_TALLY} AND at >= ? AND at < ? GROUP BY version, flagged "
            "ON CONFLICT DO UPDATE SET answers = answers + excluded.answers, reviews = reviews + excluded.reviews, "
            "hits = hits + excluded.hits"
        )
        with self._connection as connection:
            for low, high in pairwise(edges):
                connection.execute(line, (low, low, high))
            return connection.execute("DELETE FROM answers WHERE at < ?", (at,)).rowcount

    def looks(self, what: str) -> dict[int, str]:
        """Return what the looks of a sequence said, by their numbers, ascending."""
        return {
            int(n): str(said)
            for n, said in self._rows("SELECT number, said FROM looks WHERE what = ? ORDER BY 1", what)
        }

    def keep_look(self, what: str, number: int, said: str) -> None:
        """Keep what a look of a sequence said, so that its error rate is spent once. On disk when it returns."""
        with self._connection as connection:
            connection.execute("INSERT INTO looks VALUES (?, ?, ?)", (what, number, said))


def packed_map(wafer: np.ndarray) -> bytes:
    """Return a map as it is stored."""
    return zlib.compress(np.ascontiguousarray(wafer, np.uint8).tobytes(), 1)


def unpacked_map(content: bytes, height: int, width: int) -> np.ndarray:
    """Return the map (height, width) uint8 that `packed_map` made; raise RecordError for anything else."""
    try:
        dies = zlib.decompressobj().decompress(content, height * width)
        return np.frombuffer(dies, np.uint8).reshape(height, width)
    except (zlib.error, ValueError) as error:
        raise RecordError(f"a stored map is damaged ({error})") from error


def _stored(row: Sequence[object]) -> Stored:
    values = dict(zip(Stored.__dataclass_fields__, row, strict=True))
    flags = {name: bool(values[name]) for name in ("flagged", "audit")}
    return Stored(**{**values, **flags})  # type: ignore[arg-type]
