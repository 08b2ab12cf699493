"""Reader of Edge-IIoTset CSV files (Ferrag et al. 2022, doi 10.1109/ACCESS.2022.3165809) into a `Table`."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._checks import nearest
from qwafer._errors import InputError
from qwafer._io import file_sha256
from qwafer.data._files import check_file
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
    "http.response",
    "http.tls_port",
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


@dataclass(frozen=True, eq=False)
class Table:
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
    """(column, reason) of every column that is no feature."""
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
            raise InputError(f"`categorical` of {self.source} must be {len(self.categorical_names)} columns of {n} entries")
        check_labels(self.labels, self.label_names, n, self.source)
        check_rows(self.content_ids, None, self.times, n, self.source)

    def __len__(self) -> int:
        return len(self.labels)


def read_edge_iiot(path: str | Path) -> Table:
    """Return the rows of an Edge-IIoTset CSV under the binary label `Attack_label`.

    Of the 63 columns, identifiers, payloads, times and the attack's type are dropped (`DROPPED`, listed in the result with
    the reason); of the rest, `CATEGORICAL` stay text, and `NUMERIC` become float64: decimal, or hexadecimal after 0x;
    what is empty or no finite number becomes 0, counted in `notes`. `frame.time` gives `times` where every row has one.

    Raises:
        InputError: not a CSV, columns that are missing or unknown (named), or a label other than 0 and 1.
    """
    import pandas as pd

    path = check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more entries than the header
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a whole CSV file: {str(error).strip()}") from error
    _check_columns(path, list(frame.columns))
    columns = {name: frame[name].to_numpy(dtype=object) for name in COLUMNS}
    notes: list[str] = []
    numeric = np.empty((len(frame), len(NUMERIC)))
    for j, name in enumerate(NUMERIC):
        numeric[:, j], bad = _numbers(columns[name])
        if bad:
            notes.append(f"{bad} entries of {name} are no finite numbers and became 0")
    categorical = tuple(_categories(columns[name]) for name in CATEGORICAL)
    return Table(
        numeric=numeric,
        numeric_names=NUMERIC,
        categorical=categorical,
        categorical_names=CATEGORICAL,
        labels=_labels(path, columns[LABEL]),
        label_names=("attack",),
        content_ids=_row_ids(numeric, categorical),
        dropped=tuple(DROPPED.items()),
        source=f"Edge-IIoTset ({path.name})",
        sha256=file_sha256(path),
        times=_times(columns["frame.time"]),
        notes=tuple(notes),
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
    raise InputError(f"{path} has {len(found)} columns, Edge-IIoTset has {len(COLUMNS)}; {'; '.join(complaints)}")


def _numbers(column: np.ndarray) -> tuple[np.ndarray, int]:
    """Return (N,) float64 of a column of text, and how many entries were no finite number (they become 0)."""
    text, inverse = np.unique(column.astype(np.str_), return_inverse=True)
    values = np.array([_number(entry) for entry in text.tolist()])
    bad = ~np.isfinite(values)
    return np.where(bad, 0, values)[inverse], int(bad[inverse].sum())


def _number(text: str) -> float:
    text = text.strip()
    try:
        return float(int(text, 16)) if text[:2].lower() == "0x" else float(text)
    except (ValueError, OverflowError):
        return np.nan


def _categories(column: np.ndarray) -> np.ndarray:
    """Return (N,) str with one spelling of each category: numbers that are whole lose their ".0", "" stays "nothing"."""
    text, inverse = np.unique(column.astype(np.str_), return_inverse=True)
    return np.array([_category(entry) for entry in text.tolist()], dtype=np.str_)[inverse]


def _category(text: str) -> str:
    text = text.strip()
    number = _number(text)
    return str(int(number)) if np.isfinite(number) and number == int(number) else text


def _labels(path: Path, column: np.ndarray) -> np.ndarray:
    values = np.array([_number(entry) for entry in column.tolist()])
    wrong = np.flatnonzero(~np.isin(values, (0, 1)))
    if len(wrong):
        raise InputError(
            f"{path}: {LABEL} must be 0 or 1; {len(wrong)} rows have something else, the first is {column[wrong[0]]!r} "
            f"at data row {wrong[0]}"
        )
    return values.astype(np.uint8)[:, None]


def _times(column: np.ndarray) -> np.ndarray | None:
    """Return (N,) seconds since 1970 of Wireshark's times (" 2021 11:44:10.081753000 "), or None unless all rows have one.

    The published files have cut "month day," off at the comma, so that they order within a day only; whole dates are read too.
    """
    import pandas as pd

    text = pd.Series(column.astype(np.str_)).str.strip()
    short = text.str.fullmatch(r"\d{4} \d{1,2}:\d{2}:\d{2}(\.\d+)?")
    text = text.where(~short, text.str.replace(" ", "-01-01 ", n=1, regex=False))
    parsed: Any = pd.to_datetime(text, errors="coerce", utc=True, format="mixed")
    if parsed.isna().any():
        return None
    return (parsed - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)


def _row_ids(numeric: np.ndarray, categorical: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return (N,) ids of rows: the start of the SHA-256 of all numbers and categories."""
    texts = [column.tolist() for column in categorical]
    numbers = np.ascontiguousarray(numeric + 0.0, dtype="<f8")  # + 0.0 turns -0.0 into 0.0
    ids = np.empty(len(numeric), dtype=CONTENT_ID_DTYPE)
    for i in range(len(numeric)):
        state = hashlib.sha256(numbers[i].tobytes())
        state.update("\0".join(text[i] for text in texts).encode())
        ids[i] = state.hexdigest()[:16]
    return ids
