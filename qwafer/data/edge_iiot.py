"""Reader of Edge-IIoTset CSV files (Ferrag et al. 2022, doi 10.1109/ACCESS.2022.3165809) into a `DataTable`."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer._reading import reads
from qwafer.data.files import check_file
from qwafer.data.maps import CONTENT_ID_DTYPE, check_labels, check_rows

LABEL = "Attack_label"

DROPPED: dict[str, str] = {
    "frame.time": "time",
    "ip.src_host": "identifier: address",
    "ip.dst_host": "identifier: address",
    "arp.dst.proto_ipv4": "identifier: address",
    "arp.src.proto_ipv4": "identifier: address",
    "icmp.checksum": "identifier: unique to a packet",
    "icmp.seq_le": "identifier: counter of packets",
    "icmp.transmit_timestamp": "time",
    "http.file_data": "payload",
    "http.request.uri.query": "payload",
    "http.referer": "payload",
    "http.tls_port": "identifier: port",
    "http.request.full_uri": "payload",
    "tcp.ack": "identifier: counter of a connection",
    "tcp.ack_raw": "identifier: counter of a connection",
    "tcp.checksum": "identifier: unique to a packet",
    "tcp.dstport": "identifier: port",
    "tcp.options": "payload",
    "tcp.payload": "payload",
    "tcp.seq": "identifier: counter of a connection",
    "tcp.srcport": "identifier: port",
    "udp.port": "identifier: port",
    "udp.stream": "identifier: counter of a capture",
    "dns.qry.name": "payload",
    "mqtt.msg_decoded_as": "payload",
    "mqtt.msg": "payload",
    "mbtcp.trans_id": "identifier: counter of a connection",
    "mbtcp.unit_id": "identifier: device",
    "Attack_type": "label: names the attack, which decides Attack_label",
}
"""Columns that are never features, with the reason: a model could learn the capture by heart from them."""

CATEGORICAL = (
    "http.request.method",
    "http.request.version",
    "dns.qry.name.len",
    "mqtt.conack.flags",
    "mqtt.protoname",
    "mqtt.topic",
)
"""Columns of text, or of a mixture of text and numbers; encoded one-hot, from the training part alone."""

NUMERIC = (
    "arp.opcode",
    "arp.hw.size",
    "icmp.unused",
    "http.content_length",
    "http.response",
    "tcp.connection.fin",
    "tcp.connection.rst",
    "tcp.connection.syn",
    "tcp.connection.synack",
    "tcp.flags",
    "tcp.flags.ack",
    "tcp.len",
    "udp.time_delta",
    "dns.qry.qu",
    "dns.qry.type",
    "dns.retransmission",
    "dns.retransmit_request",
    "dns.retransmit_request_in",
    "mqtt.conflag.cleansess",
    "mqtt.conflags",
    "mqtt.hdrflags",
    "mqtt.len",
    "mqtt.msgtype",
    "mqtt.proto_len",
    "mqtt.topic_len",
    "mqtt.ver",
    "mbtcp.len",
)
"""Columns of numbers, some of them written in hexadecimal."""

COLUMNS = (*DROPPED, *CATEGORICAL, *NUMERIC, LABEL)
"""All 63 columns, in no particular order."""

CHUNK_ROWS = 100_000
"""Rows read at a time, which bounds memory: the text of all 63 columns takes far more of it than the result."""


@dataclass(frozen=True, eq=False)
class DataTable:
    """Labelled rows of a table: numbers, categories that are not yet encoded, and what was left out and why."""

    numeric: np.ndarray
    """(N, Dn) float64, finite."""
    numeric_names: tuple[str, ...]
    """Dn names."""
    categorical: tuple[np.ndarray, ...]
    """Dc columns, each (N,) str; "" where the file has nothing."""
    categorical_names: tuple[str, ...]
    """Dc names."""
    labels: np.ndarray
    """(N, K) uint8 of 0 and 1."""
    label_names: tuple[str, ...]
    """K names."""
    content_ids: np.ndarray
    """(N,) of 16 hex digits; equal for rows that are equal in every feature."""
    dropped: tuple[tuple[str, str], ...]
    """(column, reason) of every column that is not a feature."""
    source: str
    """What was read, in words."""
    sha256: str
    """SHA-256 of the file."""
    times: np.ndarray | None = None
    """(N,) float64 seconds since 1970, where every row has a time."""
    notes: tuple[str, ...] = ()
    """Sentences on what the reader changed."""

    def __post_init__(self) -> None:
        n = len(self.labels)
        if n == 0:
            raise InputError(f"{self.source} holds no rows; at least one is needed")
        if self.numeric.shape != (n, len(self.numeric_names)) or not np.isfinite(self.numeric).all():
            raise InputError(f"`numeric` of {self.source} must be finite and of shape ({n}, {len(self.numeric_names)})")
        if len(self.categorical) != len(self.categorical_names) or any(c.shape != (n,) for c in self.categorical):
            raise InputError(f"`categorical` of {self.source} must be {len(self.categorical_names)} columns of {n}")
        check_labels(self.labels, self.label_names, n, self.source)
        check_rows(self.content_ids, None, self.times, n, self.source)

    def __len__(self) -> int:
        return len(self.labels)


@reads("is not a whole CSV file")
def read_edge_iiot(path: str | Path) -> DataTable:
    """Return the rows of an Edge-IIoTset CSV under the binary label `Attack_label`.

    Of the 63 columns, identifiers, payloads, times and the attack's type are dropped (`DROPPED`, listed in the result
    with the reason). Of the rest, `CATEGORICAL` stay text, and `NUMERIC` become float64: decimal, or hexadecimal after
    0x; what is empty or not a finite number becomes 0, counted in `notes`. `frame.time` gives `times` where every row
    has a whole date; the published files have lost the day, and then there are no times.

    Raises:
        InputError: not a CSV, columns that are missing or unknown (named), or a label other than 0 and 1.
    """
    import pandas as pd

    path = check_file(path)
    parts: list[_Chunk] = []
    _check_columns(path, list(pd.read_csv(path, nrows=0, index_col=False).columns))
    # All columns, although few are kept: only so does pandas see rows that are longer than the header.
    with pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=CHUNK_ROWS) as chunks:
        for chunk in chunks:
            if not isinstance(chunk.index, pd.RangeIndex):
                raise InputError(f"{path} is not a whole CSV file: its rows have more entries than its header")
            first_row = sum(len(part.labels) for part in parts)
            parts.append(_chunk({str(name): column for name, column in chunk.items()}, path, first_row))
    if not any(len(part.labels) for part in parts):
        raise InputError(f"{path} has a header and no rows; at least one is needed")
    bad = np.sum([part.bad for part in parts], axis=0)
    notes = [
        f"{count} entries of {name} are not finite numbers and became 0"
        for name, count in zip(NUMERIC, bad.tolist(), strict=True)
        if count
    ]
    times = [part.times for part in parts if part.times is not None]
    if len(times) < len(parts):
        notes.append("frame.time has no whole date in some rows, so there are no times to split by")
    categorical = zip(*(part.categorical for part in parts), strict=True)
    return DataTable(
        numeric=np.concatenate([part.numeric for part in parts]),
        numeric_names=NUMERIC,
        categorical=tuple(np.concatenate(column) for column in categorical),
        categorical_names=CATEGORICAL,
        labels=np.concatenate([part.labels for part in parts]),
        label_names=("attack",),
        content_ids=np.concatenate([part.content_ids for part in parts]),
        dropped=tuple(DROPPED.items()),
        source=f"Edge-IIoTset ({path.name})",
        sha256=file_sha256(path),
        times=np.concatenate(times) if len(times) == len(parts) else None,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Chunk:
    """So many rows of the file, converted."""

    numeric: np.ndarray
    bad: list[int]
    categorical: tuple[np.ndarray, ...]
    labels: np.ndarray
    content_ids: np.ndarray
    times: np.ndarray | None


def _chunk(columns: dict[str, Any], path: Path, first_row: int) -> _Chunk:
    """Convert some rows, given as pandas columns of text; `first_row` numbers them in messages."""
    numbers = [_numbers(columns[name]) for name in NUMERIC]
    numeric = np.column_stack([values for values, _ in numbers])
    categorical = tuple(_by_distinct(columns[name], _category) for name in CATEGORICAL)
    labels = _by_distinct(columns[LABEL], _number)
    wrong = np.flatnonzero(~np.isin(labels, (0, 1)))
    if len(wrong):
        raise InputError(
            f"{path}: {LABEL} must be 0 or 1; data row {first_row + wrong[0]} has {columns[LABEL].iloc[wrong[0]]!r}"
        )
    return _Chunk(
        numeric=numeric,
        bad=[count for _, count in numbers],
        categorical=categorical,
        labels=labels.astype(np.uint8)[:, None],
        content_ids=_row_ids(numeric, categorical),
        times=_times(columns["frame.time"]),
    )


def _check_columns(path: Path, found: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    extra = [name for name in found if name not in COLUMNS]
    if not missing and not extra:
        return
    complaints = []
    if missing:
        complaints.append(f"missing: {', '.join(missing)}")
    if extra:
        complaints.append(f"unknown: {', '.join(extra)}{nearest(extra[0], missing)}")
    other = "; a table of another kind is read by extract --table" if len(missing) > len(COLUMNS) // 2 else ""
    raise InputError(
        f"{path} has {len(found)} columns, Edge-IIoTset has {len(COLUMNS)}; {'; '.join(complaints)}{other}"
    )


def _by_distinct(column: Any, convert: Callable[[str], Any]) -> np.ndarray:
    """Return (N,) `convert` of each entry of a pandas column of text, called once for each distinct entry."""
    codes, distinct = column.fillna("").factorize()
    return np.array([convert(str(entry)) for entry in distinct])[codes]


def _numbers(column: Any) -> tuple[np.ndarray, int]:
    """Return (N,) float64 of a column of text, and how many entries were not finite numbers (they become 0)."""
    values = _by_distinct(column, _number)
    bad = ~np.isfinite(values)
    return np.where(bad, 0, values), int(bad.sum())


def _number(text: str) -> float:
    """Return the number that a text spells, NaN if none."""
    text = text.strip()
    try:
        return float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
    except (ValueError, OverflowError):
        return math.nan


def _category(text: str) -> str:
    """Return one spelling of a category: whole numbers, which the files write as 0 and as 0.0, lose their fraction."""
    text = text.strip()
    number = _number(text)
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def _times(column: Any) -> np.ndarray | None:
    """Return (N,) seconds since 1970 if all entries are ISO 8601 or Wireshark dates ("Nov 21, 2021 11:44:10.08 CET").

    Names of time zones are ignored: they shift all times alike, and times serve for their order.
    """
    import pandas as pd

    text = column.fillna("").str.strip().str.replace(r"(\d) [A-Z][A-Za-z ]*$", r"\1", regex=True)
    for layout in ("ISO8601", "%b %d, %Y %H:%M:%S.%f"):
        dated = text.str.match(r"\d{4}-\d{2}-\d{2}[ T]\d") if layout == "ISO8601" else text.str.match(r"[A-Z][a-z]{2} ")
        if dated.all():
            parsed = pd.to_datetime(text, errors="coerce", utc=True, format=layout)
            if not parsed.isna().any():
                return np.asarray((parsed - pd.Timestamp(0, tz="UTC")).dt.total_seconds(), dtype=np.float64)
    return None


def _row_ids(numeric: np.ndarray, categorical: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return (N,) ids of rows: the start of the SHA-256 of all numbers and categories."""
    texts = [column.tolist() for column in categorical]
    numbers = np.ascontiguousarray(numeric + 0.0, dtype="<f8")  # + 0.0 turns -0.0 into 0.0
    ids = np.empty(len(numeric), dtype=CONTENT_ID_DTYPE)
    for i, row in enumerate(numbers):
        state = hashlib.sha256(row.tobytes())
        state.update("\0".join(text[i] for text in texts).encode())
        ids[i] = state.hexdigest()[:16]
    return ids
