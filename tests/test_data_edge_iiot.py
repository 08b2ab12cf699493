"""Edge-IIoTset: which columns are read and how, and that categories come from the training part alone."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from qwafer import InputError
from qwafer.data import DataTable, make_split, read_edge_iiot
from qwafer.data import edge_iiot as module
from qwafer.features import FeatureSet
from qwafer.source import from_table

README_COLUMNS = """
frame.time ip.src_host ip.dst_host arp.dst.proto_ipv4 arp.opcode arp.hw.size arp.src.proto_ipv4
icmp.checksum icmp.seq_le icmp.transmit_timestamp icmp.unused http.file_data http.content_length
http.request.uri.query http.request.method http.referer http.request.full_uri http.request.version
http.response http.tls_port tcp.ack tcp.ack_raw tcp.checksum tcp.connection.fin tcp.connection.rst
tcp.connection.syn tcp.connection.synack tcp.dstport tcp.flags tcp.flags.ack tcp.len tcp.options
tcp.payload tcp.seq tcp.srcport udp.port udp.stream udp.time_delta dns.qry.name dns.qry.name.len
dns.qry.qu dns.qry.type dns.retransmission dns.retransmit_request dns.retransmit_request_in
mqtt.conack.flags mqtt.conflag.cleansess mqtt.conflags mqtt.hdrflags mqtt.len mqtt.msg_decoded_as
mqtt.msg mqtt.msgtype mqtt.proto_len mqtt.protoname mqtt.topic mqtt.topic_len mqtt.ver mbtcp.len
mbtcp.trans_id mbtcp.unit_id Attack_label Attack_type
"""
HEADER = README_COLUMNS.split()

ROWS: list[dict[str, object]] = [
    {"tcp.len": "14.0", "mqtt.topic": "Temperature_and_Humidity", "http.request.method": "GET", "Attack_label": 0},
    {"tcp.len": "", "mqtt.topic": "0.0", "http.request.method": "0", "Attack_label": 1, "tcp.flags": "0x00000012"},
    {"tcp.len": "nan", "mqtt.topic": "0", "http.request.method": "TRACE", "Attack_label": 1, "tcp.flags": "1e400"},
    {
        "tcp.len": "7",
        "mqtt.topic": "0",
        "Attack_label": 1,
        "http.file_data": 'a "quoted", <b>payload</b>\nof two lines',
    },
    {"tcp.len": " 8 ", "mqtt.topic": "0", "Attack_label": "1.0", "mqtt.msg": "é", "Attack_type": "DDoS_UDP"},
]


def write(path: Path, rows: list[dict[str, object]] = ROWS, header: list[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, restval="0", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def refuses(fragment: str, path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(fragment)) as caught:
        read_edge_iiot(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_63_columns_are_all_accounted_for() -> None:
    assert len(HEADER) == len(set(HEADER)) == 63
    assert sorted(module.COLUMNS) == sorted(HEADER)


def test_numbers_categories_and_labels(tmp_path: Path) -> None:
    table = read_edge_iiot(write(tmp_path / "t.csv"))
    assert isinstance(table, DataTable)
    numbers = dict(zip(table.numeric_names, table.numeric.T, strict=True))
    assert numbers["tcp.len"].tolist() == [14, 0, 0, 7, 8]
    assert numbers["tcp.flags"].tolist() == [0, 0x12, 0, 0, 0]
    categories = dict(zip(table.categorical_names, table.categorical, strict=True))
    assert categories["mqtt.topic"].tolist() == ["Temperature_and_Humidity", "0", "0", "0", "0"]
    assert categories["http.request.method"].tolist() == ["GET", "0", "TRACE", "0", "0"]
    assert table.labels.tolist() == [[0], [1], [1], [1], [1]]
    assert table.label_names == ("attack",)
    assert "2 entries of tcp.len are not finite numbers and became 0" in table.notes
    assert "1 entries of tcp.flags are not finite numbers and became 0" in table.notes
    assert table.times is None


def test_identifiers_payloads_times_and_the_attack_type_are_dropped(tmp_path: Path) -> None:
    table = read_edge_iiot(write(tmp_path / "t.csv"))
    dropped = dict(table.dropped)
    kept = {*table.numeric_names, *table.categorical_names, "Attack_label"}
    assert kept.isdisjoint(dropped)
    assert kept | set(dropped) == set(HEADER)
    for name in (
        "frame.time",
        "ip.src_host",
        "tcp.srcport",
        "http.file_data",
        "mqtt.msg",
        "tcp.payload",
        "Attack_type",
    ):
        assert dropped[name]
    assert {reason.partition(":")[0] for reason in dropped.values()} == {"time", "identifier", "payload", "label"}


def test_rows_that_differ_only_in_what_is_dropped_are_the_same_content(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[0], "ip.src_host": "192.168.0.128", "tcp.srcport": "1883"}, {**ROWS[0], "tcp.len": "15"}]
    rows.append({**ROWS[0], "mqtt.len": "-0.0"})
    ids = read_edge_iiot(write(tmp_path / "t.csv", rows)).content_ids
    assert ids[0] == ids[1] == ids[3] != ids[2]


def test_chunks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**ROWS[i % 5], "udp.time_delta": str(i / 8), "dns.qry.name.len": f"name{i % 7}"} for i in range(23)]
    path = write(tmp_path / "t.csv", rows)
    whole = read_edge_iiot(path)
    monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    chunked = read_edge_iiot(path)
    for name in ("numeric", "labels", "content_ids"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(chunked, name))
    for one, other in zip(whole.categorical, chunked.categorical, strict=True):
        assert one.tolist() == other.tolist()
    assert whole.notes == chunked.notes
    rows[13]["Attack_label"] = "Normal"
    refuses("Attack_label must be 0 or 1; data row 13 has 'Normal'", write(tmp_path / "t.csv", rows))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["2021-11-21T11:44:10.5", "2021-11-22T11:44:10", "2021-11-21T12:44:10"], [0, 24 * 3600 - 0.5, 3600 - 0.5]),
        (["Nov 21, 2021 11:44:10.081753000 CET", "Nov  2, 2021 11:44:11.081753000 CET", "Dec 21, 2021 11:44:10.0 CET"],
         [0, 1 - 19 * 86400, 30 * 86400 - 0.081753]),
        ([" 2021 11:44:10.081753000 ", " 2021 11:44:11.0 ", " 2021 11:44:12.0 "], None),
        (["2021-11-21T11:44:10", "192.168.0.128", "2021-11-21T11:44:10"], None),
        (["2021-11-21T11:44:10", "", "2021-11-21T11:44:10"], None),
        (["6.0", "6.0", "6.0"], None),
    ],
)  # fmt: skip
def test_times_only_where_every_row_has_a_whole_date(tmp_path: Path, entries: list[str], expected: list | None) -> None:
    rows = [{"frame.time": entry, "Attack_label": i % 2} for i, entry in enumerate(entries)]
    table = read_edge_iiot(write(tmp_path / "t.csv", rows))
    if expected is None:
        assert table.times is None
        assert table.notes[-1].startswith("frame.time has no whole date")
    else:
        assert table.times is not None
        np.testing.assert_allclose(table.times - table.times[0], expected, atol=1e-6)
        assert 1.6e9 < table.times[0] < 1.7e9


def test_other_tables_are_refused(tmp_path: Path) -> None:
    refuses("does not exist", tmp_path / "absent.csv")
    renamed = [name if name != "tcp.len" else "tcp.lenght" for name in HEADER if name != "mqtt.ver"]
    refuses(
        "has 62 columns, Edge-IIoTset has 63; missing: tcp.len, mqtt.ver; unknown: tcp.lenght; did you mean `tcp.len`?",
        write(tmp_path / "a.csv", header=renamed),
    )
    refuses("has a header and no rows", write(tmp_path / "b.csv", rows=[]))
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00,\x00")
    refuses("is not a whole CSV file", tmp_path / "c.csv")
    whole = write(tmp_path / "d.csv").read_text()
    (tmp_path / "d.csv").write_text(whole + "1,2,3\n")
    refuses("Attack_label must be 0 or 1; data row 5 has", tmp_path / "d.csv")
    (tmp_path / "e.csv").write_text(whole + ",".join(["0"] * 70) + "\n")
    refuses("is not a whole CSV file (ParserError: Error tokenizing data. C error: Expected 63", tmp_path / "e.csv")
    (tmp_path / "f.csv").write_text(",".join(HEADER) + "\n" + ",".join(["0"] * 64) + "\n")
    refuses("its rows have more entries than its header", tmp_path / "f.csv")


def many(n: int = 60) -> list[dict[str, object]]:
    """Rows of which each has a method of its own, so that every part of a split holds methods that train does not."""
    return [
        {"http.request.method": f"M{i:02}", "tcp.len": i, "Attack_label": i % 2, "mqtt.topic": "ab"[i % 2]}
        for i in range(n)
    ]


def test_categories_come_from_the_training_part_alone(tmp_path: Path) -> None:
    table = read_edge_iiot(write(tmp_path / "t.csv", many()))
    split = make_split(table.labels, table.content_ids, seed=0)
    features = from_table(table, split)
    assert features.feature_names is not None
    methods = [i for i, name in enumerate(features.feature_names) if name.startswith("http.request.method=")]
    assert [features.feature_names[i].partition("=M")[2] for i in methods] == [f"{i:02}" for i in split.train]
    encoded = features.features[:, methods]
    np.testing.assert_array_equal(encoded[split.train], np.eye(len(split.train), dtype=np.float32))
    assert not encoded[split.val].any()
    assert not encoded[split.test].any()
    assert features.provenance["unseen"]["http.request.method"] == len(split.val) + len(split.test)
    assert features.provenance["unseen"]["mqtt.topic"] == 0
    assert features.provenance["split"] == split.digest
    assert features.provenance["dropped"]["frame.time"] == "time"
    assert features.split is not None
    assert (features.split[split.test] == "test").all()
    np.testing.assert_array_equal(features.features[:, features.feature_names.index("tcp.len")], np.arange(60))
    topics = [features.feature_names.index(f"mqtt.topic={topic}") for topic in "ab"]
    np.testing.assert_array_equal(features.features[:, topics], np.tile(np.eye(2), (30, 1)))


def test_what_only_other_parts_hold_has_no_influence_on_training_features(tmp_path: Path) -> None:
    """The leak test: change a category outside the training part; no training feature, and no column, changes."""
    rows = many()
    table = read_edge_iiot(write(tmp_path / "t.csv", rows))
    split = make_split(table.labels, table.content_ids, seed=0)
    rows[int(split.test[0])]["http.request.method"] = "NEW"
    changed = from_table(read_edge_iiot(write(tmp_path / "u.csv", rows)), split)
    before = from_table(table, split)
    assert changed.feature_names == before.feature_names
    np.testing.assert_array_equal(changed.features, before.features)


def test_a_feature_set_of_a_table_survives_the_disk(tmp_path: Path) -> None:
    table = read_edge_iiot(write(tmp_path / "t.csv", many()))
    features = from_table(table, make_split(table.labels, table.content_ids, seed=0))
    features.save(tmp_path / "f.npz")
    assert FeatureSet.load(tmp_path / "f.npz").digest() == features.digest()


def test_from_table_refuses_a_foreign_split_and_too_large_numbers(tmp_path: Path) -> None:
    table = read_edge_iiot(write(tmp_path / "t.csv", many()))
    split = make_split(table.labels[:50], table.content_ids[:50], seed=0)
    with pytest.raises(InputError, match="the split has 50 rows, the table 60"):
        from_table(table, split)
    rows = many()
    rows[3]["tcp.len"] = "1e39"
    huge = read_edge_iiot(write(tmp_path / "t.csv", rows))
    with pytest.raises(InputError, match=r"1 of \d+ are not, the first is inf at row 3, column \d+ \(tcp.len\)"):
        from_table(huge, make_split(huge.labels, huge.content_ids, seed=0))
