"""What a line does to its service: wafers sent twice, answers that are deleted, signals, test splits that are read."""

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")

import qwafer
from qwafer import InputError
from qwafer.cli.export import main as export_main
from qwafer.cli.monitor import main as monitor_main
from qwafer.cli.registry import main as registry_main
from qwafer.serving.release import Release
from qwafer.serving.store import Store, Stored, packed_map
from qwafer.serving.wire import parse_classify, parse_infer
from qwafer.sweeps.ledger import examples_digest, read_ledger
from tests.serving_factory import MAPS, OPEN, Client, made_registry, made_release, request_of, running

ROOT = Path(__file__).resolve().parents[1]
DAY = 86400.0


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


def row(wafer: str, lot: str = "L", version: str = "1.0.0", at: float = 100.0, **more: Any) -> Stored:
    values: dict[str, Any] = {
        "at": at, "wafer": wafer, "lot": lot, "version": version, "prediction": "none", "confidence": 0.9,
        "distance": 1.0, "flagged": False, "audit": True, "latency": 2.0, "probabilities": b"", "height": 1,
        "width": 1, "map": packed_map(np.ones((1, 1), np.uint8)),
    }  # fmt: skip
    return Stored(**{**values, **more})


@pytest.mark.parametrize("verb", ["export", "registry"])
def test_a_model_that_is_not_there_is_not_called_damaged(verb: str, tmp_path: Path, capsys: Any) -> None:
    if verb == "export":
        words = [str(tmp_path / "nothere"), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]
        assert export_main(words) == 2
    else:
        assert registry_main(["add", str(tmp_path / "r"), str(tmp_path / "nothere"), "--version", "1.0.0"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nothere'} does not exist; check the path\n"


@pytest.mark.parametrize("wafer", [[[True, 2], [0, 1]], [[0, 1], [False, 2]], [[1, 2.0]], [[1, None]]])
def test_a_die_is_a_whole_number_and_not_a_truth(wafer: list[list[Any]]) -> None:
    """NumPy takes `true` beside numbers for 1: a client that sends pass/fail as truths got an answer."""
    flat = [die for line in wafer for die in line]
    data = {"name": "maps", "datatype": "UINT8", "shape": [1, len(wafer), len(wafer[0])], "data": flat}
    with pytest.raises(InputError, match="must hold 0"):
        parse_classify(json.dumps({"wafer_map": wafer}).encode(), "application/json")
    with pytest.raises(InputError, match="must hold 0"):
        parse_infer(json.dumps({"inputs": [data]}).encode())
    good = [[0, 1, 2], [2, 1, 0]]
    (found,), _ = parse_classify(json.dumps({"wafer_map": good}).encode(), "application/json")
    np.testing.assert_array_equal(found.map, good)


def test_sigterm_answers_what_is_under_way_and_ends_with_0(release: Release, tmp_path: Path) -> None:
    made_registry(tmp_path, release, "1.0.0")
    words = [sys.executable, "-m", "qwafer.serve", str(tmp_path), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for sent in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
        ) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().decode().rsplit(":", 1)[1])
            slow = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            body = json.dumps(request_of(MAPS.maps[0])).encode()
            slow.putrequest("POST", "/classify")
            slow.putheader("Content-Type", "application/json")
            slow.putheader("Content-Length", str(len(body)))
            slow.endheaders(body[:100])
            Client(port)("GET", "/health")  # the first request is with the service by now
            process.send_signal(sent)
            time.sleep(0.3)
            slow.send(body[100:])
            answer = slow.getresponse()
            assert answer.status == 200
            number = json.loads(answer.read())["answer_id"]
            slow.close()
            assert process.wait(20) == 0
            assert Store(tmp_path / "answers.sqlite").version_of(number) == "1.0.0"


def test_a_statistic_counts_a_wafer_once_by_its_first_answer(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    first, again, other_lot, other_version = store.add(
        [row("W"), row("W", prediction="Center"), row("W", "M"), row("W", version="1.1.0", prediction="Donut")]
    )
    unnamed = store.add([row("", ""), row("", "")])
    assert store.count()[0] == 6, "every answer is kept"
    assert store.window().ids.tolist() == [first, other_lot, other_version, *unnamed]
    for number in (first, again, other_lot):
        store.say(number, "none")
    assert store.n_reviewed("1.0.0", 0.0) == 2
    assert again not in store.maps([again]), "and no engineer is asked for it by a draw"
    (flagged,) = store.add([row("W", flagged=True, audit=False)])
    assert store.queue(1)[0][0] == flagged, "but where it is doubted"
    assert store.find("W") == (other_version, "1.1.0")
    assert store.find("W", "L") == (other_version, "1.1.0")
    assert store.find("W", "M") == (other_lot, "1.0.0")
    (third,) = store.add([row("W", version="1.1.0")])
    assert store.find("W", "L") == (other_version, "1.1.0"), "that which counts"
    store.remove_before(200.0)
    assert third not in store.window().ids


def test_a_trial_counts_a_wafer_of_both_versions_once(release: Release, tmp_path: Path, capsys: Any) -> None:
    made_registry(tmp_path, release, "1.0.0", "1.1.0")
    store, (height, width) = Store(tmp_path / "answers.sqlite"), MAPS.maps[0].shape
    shape = {"height": height, "width": width, "map": packed_map(MAPS.maps[0])}
    for version in ("1.1.0", "1.0.0"):
        for number in store.add([row(f"W{i}", version=version, at=time.time(), **shape) for i in range(30)]):
            store.say(number, "none")
    store.close()
    assert monitor_main([str(tmp_path), "--trial", "1.0.0", "1.1.0"]) == 2
    assert "version 1.0.0 has given no answers" in capsys.readouterr().err
    store.say(store.add([row("new", version="1.0.0", at=time.time(), **shape)])[0], "none")
    assert monitor_main([str(tmp_path), "--trial", "1.0.0", "1.1.0"]) == 1
    assert "31 reviews: the first look is at 50" in capsys.readouterr().out


def test_a_wafer_sent_twice_takes_no_champion_back_twice_as_fast(release: Release, tmp_path: Path) -> None:
    good = dataclasses.replace(release, evidence=dataclasses.replace(release.evidence, accuracy=0.9))
    registry = made_registry(tmp_path, good, "1.0.0", "1.0.1")
    registry.promote("1.0.1", OPEN)
    time.sleep(1.1)  # changes have a resolution of a second
    with running(registry, audit=1.0, most_maps=100) as client:
        names = [f"W{i % 40}" for i in range(80)]
        maps = [request_of(MAPS.maps[i % 40], name) for i, name in enumerate(names)]
        _, found = client("POST", "/classify", {"wafers": maps})
        for answer in found["answers"]:
            label = next(name for name in release.model.label_names if name != answer["prediction"])
            _, said = client("POST", "/feedback", {"answer_id": answer["answer_id"], "label": label})
            assert "rolled_back_to" not in said, "40 wafers are no 50 reviews"


def test_what_is_deleted_still_counts_for_the_looks(release: Release, tmp_path: Path) -> None:
    """Deleting made 49 reviews of 60: the look at 50 was taken again and again, each time at the level of the first."""
    store = Store(tmp_path / "s.sqlite")
    numbers = store.add([row(f"W{i}", at=100.0 + i, flagged=i % 3 == 0) for i in range(60)])
    store.add([row("W0", at=150.5)])
    for i, number in enumerate(numbers):
        store.say(number, "none" if i % 2 else "Center")
    before = {since: store.tally("1.0.0", since) for since in (0.0, 130.0)}
    assert before[0.0].tolist() == [[40, 40, 20], [20, 20, 10]]
    assert store.remove_before(120.0, (130.0,)) == 20
    assert store.remove_before(145.0, (130.0,)) == 25
    assert store.count() == (16, 15)
    assert store.n_reviewed("1.0.0", 0.0) == 60
    for since, wanted in before.items():
        np.testing.assert_array_equal(store.tally("1.0.0", since), wanted)
    assert store.tally("1.1.0", 0.0).sum() == 0


def test_a_look_is_taken_once(release: Release, tmp_path: Path) -> None:
    """A review that is changed leaves their number at 50: each change was one more look at the level of the first."""
    good = dataclasses.replace(release, evidence=dataclasses.replace(release.evidence, accuracy=0.9))
    registry = made_registry(tmp_path, good, "1.0.0", "1.0.1")
    registry.promote("1.0.1", OPEN)
    time.sleep(1.1)  # changes have a resolution of a second
    with running(registry, audit=1.0, most_maps=100) as client:
        _, found = client(
            "POST", "/classify", {"wafers": [request_of(m, f"W{i}") for i, m in enumerate(MAPS.maps[:50])]}
        )
        given = [(answer["answer_id"], answer["prediction"].split(" + ")) for answer in found["answers"]]
        for number, said in given:
            labels = [] if said == ["none"] else said
            assert "rolled_back_to" not in client("POST", "/feedback", {"answer_id": number, "labels": labels})[1]
        for number, said in given:
            wrong = next(name for name in release.model.label_names if name not in said)
            _, told = client("POST", "/feedback", {"answer_id": number, "label": wrong})
            assert "rolled_back_to" not in told
    assert registry.pointers().champion == "1.0.1"


def test_the_looks_of_a_trial_are_kept_when_answers_are_deleted(release: Release, tmp_path: Path, capsys: Any) -> None:
    made_registry(tmp_path, release, "1.0.0", "1.1.0")
    store, (height, width) = Store(tmp_path / "answers.sqlite"), MAPS.maps[0].shape
    shape = {"height": height, "width": width, "map": packed_map(MAPS.maps[0])}

    def reviewed(first: int, last: int, at: float) -> None:
        rows = [row(f"W{i}", version=("1.1.0", "1.0.0")[i % 2], at=at + i, **shape) for i in range(first, last)]
        for number in store.add(rows):
            store.say(number, "none")

    verb = [str(tmp_path), "--trial", "1.0.0", "1.1.0"]
    reviewed(0, 60, time.time() - 30 * DAY)
    assert monitor_main(verb) == 1
    assert "after 50 reviews" in capsys.readouterr().out
    store.remove_before(time.time() - 20 * DAY)
    reviewed(60, 120, time.time() - 10 * DAY)
    assert monitor_main([*verb, "--out", str(tmp_path)]) == 1
    assert "after 50 reviews" in capsys.readouterr().out
    told = json.loads((tmp_path / "trial.json").read_text())
    assert (len(told["looks"]), told["n_reviews"]) == (1, 60), "the look at 50 is spent, and the next one is at 100"
    reviewed(120, 180, time.time() - 9 * DAY)
    assert monitor_main([*verb, "--out", str(tmp_path)]) == 1
    looks = json.loads((tmp_path / "trial.json").read_text())["looks"]
    assert [look["n"] for look in looks] == [50, 100]
    assert looks[0]["level"] < looks[1]["level"]


def test_a_store_of_the_layout_before_is_brought_up(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "s.sqlite")
    old.executescript(
        """CREATE TABLE answers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, wafer TEXT NOT NULL, lot TEXT NOT NULL,
  version TEXT NOT NULL, prediction TEXT NOT NULL, confidence REAL NOT NULL, distance REAL NOT NULL,
  flagged INTEGER NOT NULL, audit INTEGER NOT NULL, latency REAL NOT NULL, probabilities BLOB NOT NULL,
  height INTEGER NOT NULL, width INTEGER NOT NULL, map BLOB);
CREATE INDEX answers_at ON answers (at);
CREATE INDEX answers_wafer ON answers (wafer);
CREATE INDEX answers_queue ON answers (id) WHERE map IS NOT NULL;
CREATE TABLE feedback (
  answer INTEGER PRIMARY KEY REFERENCES answers (id) ON DELETE CASCADE,
  at REAL NOT NULL, label TEXT NOT NULL, reviewer TEXT NOT NULL);
PRAGMA user_version = 1;"""
    )
    with old:
        for wafer in ("W", "W", "", ""):
            old.execute(
                "INSERT INTO answers VALUES (NULL, 1.0, ?, 'L', '1.0.0', 'a', 0.5, 1.0, 1, 0, 2.0, x'', 1, 1, NULL)",
                (wafer,),
            )
        old.execute("INSERT INTO feedback VALUES (1, 2.0, 'a', 'A')")
    old.close()
    store = Store(tmp_path / "s.sqlite")
    assert store.count() == (4, 1)
    assert store.window().ids.tolist() == [1, 3, 4]
    store.close()
    assert Store(tmp_path / "s.sqlite").tally("1.0.0", 0.0).tolist() == [[0, 0, 0], [3, 1, 1]]


def test_what_is_added_and_exported_is_a_read_of_the_test_split(release: Release, tmp_path: Path, capsys: Any) -> None:
    np.savez(tmp_path / "maps.npz", arr_0=MAPS.maps, arr_1=MAPS.labels)
    release.model.save(tmp_path / "m.safetensors")
    where, model, maps = str(tmp_path / "line"), str(tmp_path / "m.safetensors"), str(tmp_path / "maps.npz")
    assert registry_main(["add", where, model, "--version", "1.0.0", "--maps", maps]) == 0
    assert "has been read by 1 experiment from this folder: line 1.0.0 (1 run)." in capsys.readouterr().out
    assert registry_main(["add", where, model, "--version", "1.0.1", "--maps", maps]) == 0
    said = capsys.readouterr().out
    assert "by 2 experiments from this folder: line 1.0.0 (1 run), line 1.0.1 (1 run); choosing between them" in said
    assert registry_main(["add", where, model, "--version", "1.0.1", "--maps", maps]) == 2
    words = [model, "--format", "onnx", "--out", str(tmp_path / "m.onnx"), "--maps", maps]
    for runs in ("1 run", "2 runs"):
        assert export_main(words) == 0
        assert f"m.onnx ({runs})" in capsys.readouterr().out
    ((key, reads),) = read_ledger(tmp_path / "line").data.items()
    qwafer.features_from_maps(MAPS, "spatial").save(tmp_path / "features.npz")
    assert key == examples_digest(tmp_path / "features.npz"), "that of the sweeps which made the model"
    assert [(read.name, read.runs) for read in reads] == [("line 1.0.0", 1), ("line 1.0.1", 1), ("m.onnx", 2)], (
        "a version that is refused for its number has read nothing"
    )
    version = [f"{where}/versions/1.0.0", *words[1:]]
    assert export_main(version) == 0, "a version has its evidence: nothing is read"
    assert len(read_ledger(tmp_path / "line").data) == 1


def test_connections_that_send_nothing_keep_nobody_out(release: Release, tmp_path: Path) -> None:
    """uvicorn waits for the head of a request without end, and answers 503 beyond its number of connections."""
    registry = made_registry(tmp_path, release, "1.0.0")
    with running(registry, queue=64, body_seconds=1.0) as client, contextlib.ExitStack() as stack:
        busy = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)))
        busy.request("GET", "/health")
        assert busy.getresponse().read()
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", client.port))) for _ in range(63)]
        silent[0].sendall(b"GET /health HTTP/1.1\r\nHost:")
        assert client("GET", "/health")[0] == 503
        end = time.monotonic() + 10
        while client("GET", "/health")[0] == 503:
            assert time.monotonic() < end
            time.sleep(0.1)
        silent[0].settimeout(10)
        assert silent[0].recv(1) == b""
        busy.request("GET", "/health")
        assert busy.getresponse().status == 200, "one that has been idle since its answer stays"


def test_one_map_is_not_computed_as_eight() -> None:
    """A backbone of one compiled size computed one map in the time of eight, which was most of the latency."""
    backbone = qwafer.backbones.extractor("wafercnn", random_weights=0)
    assert backbone.quick is not None
    for n in (1, 3):
        some = list(MAPS.maps[:n])
        np.testing.assert_allclose(backbone.quick(some), backbone.features(some), rtol=1e-5, atol=1e-5)
    assert qwafer.backbones.extractor("spatial").quick is None
