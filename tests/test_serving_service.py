"""The service: answers of the model, nothing acknowledged lost, no request failed by a promotion, bad input refused."""

import base64
import dataclasses
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")

from qwafer import InputError
from qwafer.serving.options import ServeOptions
from qwafer.serving.release import Release
from qwafer.serving.reviewed import look, look_alpha, reviewed_accuracy
from qwafer.serving.service import on_trial
from qwafer.serving.store import Store, Stored, Window
from tests.serving_factory import MAPS, OPEN, Client, made_registry, made_release, request_of, running

ROOT = Path(__file__).resolve().parents[1]
N_KILLED = 4
"""Clients of a service that is killed."""


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


@pytest.fixture(scope="module")
def client(release: Release, tmp_path_factory: Any) -> Any:
    registry = made_registry(tmp_path_factory.mktemp("line"), release, "1.0.0")
    with running(registry, audit=1.0, most_maps=40, body_seconds=0.5, largest_body=1 << 20) as found:
        yield found


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def test_every_form_of_a_request_has_the_answer_of_the_model(client: Client, release: Release) -> None:
    wafer = MAPS.maps[7]
    logits = release.model.predict([wafer]).logits
    features = np.asarray(release.model.backbone.features([wafer]))
    wanted = release.review.answers(logits, features, release.model.head.thresholds, release.model.label_names)
    coded = {"base64": base64.b64encode(wafer.tobytes()).decode(), "shape": list(wafer.shape)}
    bodies = [
        client("POST", "/classify", request_of(wafer)),
        client("POST", "/classify", {**request_of(wafer), "wafer_map": coded}),
        client("POST", "/classify?wafer_id=W&lot_id=L", npy(wafer)),
        client("POST", "/classify?wafer_id=W&lot_id=L", npy(np.asfortranarray(wafer))),
    ]
    assert [status for status, _ in bodies] == [200] * 4
    answers = [{k: v for k, v in body.items() if k not in ("answer_id", "inference_latency_ms")} for _, body in bodies]
    assert all(answer == answers[0] for answer in answers)
    (found, *_) = answers
    assert (found["wafer_id"], found["lot_id"], found["model_version"]) == ("W", "L", "1.0.0")
    assert found["prediction"] == wanted.predictions[0]
    assert found["flagged_for_review"] == bool(wanted.review[0])
    np.testing.assert_allclose(list(found["class_probabilities"].values()), wanted.probabilities[0], atol=1e-5)
    assert list(found["class_probabilities"]) == list(release.model.label_names)
    status, several = client("POST", "/classify", npy(MAPS.maps[:9]))
    assert status == 200
    assert [a["prediction"] for a in several["answers"]] == [
        client("POST", "/classify", request_of(each))[1]["prediction"] for each in MAPS.maps[:9]
    ]


def test_clients_of_triton_and_kserve_are_answered(client: Client, release: Release) -> None:
    assert client("GET", "/v2/health/ready") == (200, {"ready": True})
    _, about = client("GET", "/v2/models/qwafer")
    assert about["versions"] == ["1.0.0"]
    assert about["inputs"] == [{"name": "maps", "datatype": "UINT8", "shape": [-1, -1, -1]}]
    some = MAPS.maps[:3]
    data = {"name": "maps", "shape": list(some.shape), "datatype": "UINT8", "data": some.ravel().tolist()}
    before = client.service.store.count()[0]
    status, found = client("POST", "/v2/models/qwafer/versions/1.0.0/infer", {"id": "7", "inputs": [data]})
    assert (status, found["id"], found["model_version"]) == (200, "7", "1.0.0")
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in found["outputs"]}
    np.testing.assert_array_equal(outputs["labels"], release.model.predict(some).decisions)
    assert {output["name"] for output in about["outputs"]} == set(outputs)
    assert client.service.store.count()[0] == before + 3
    assert client("GET", "/v2/models/other")[0] == client("GET", "/v2/models/qwafer/versions/9.0.0/ready")[0] == 404
    for wrong in ({"shape": [3, 3, 3]}, {"datatype": "FP32"}, {"shape": [-1, 2, 2]}, {"data": "x"}, {"name": "m"}):
        assert client("POST", "/v2/models/qwafer/infer", {"inputs": [{**data, **wrong}]})[0] == 400


def test_an_engineer_works_off_the_queue(client: Client, release: Release) -> None:
    _, first = client("POST", "/classify", request_of(MAPS.maps[3], "once more"))
    _, queue = client("GET", "/review?limit=5")
    assert queue[0]["answer_id"] == first["answer_id"]
    assert queue[0]["wafer_map"] == MAPS.maps[3].tolist()
    assert queue[0]["because"] == ("flagged" if first["flagged_for_review"] else "drawn")
    label = release.model.label_names[0]
    status, said = client("POST", "/feedback", {"wafer_id": "once more", "label": label, "reviewer": "A"})
    assert (status, said["answer_id"], said["label"]) == (200, first["answer_id"], label)
    assert first["answer_id"] not in [item["answer_id"] for item in client("GET", "/review?limit=200")[1]]
    pair = [release.model.label_names[2], release.model.label_names[0]]
    _, said = client("POST", "/feedback", {"answer_id": first["answer_id"], "labels": pair})
    assert said["label"] == " + ".join(release.model.label_names[i] for i in (0, 2)), "the order of the labels"
    assert client("POST", "/feedback", {"answer_id": first["answer_id"], "labels": []})[1]["label"] == "none"
    for wrong, status in (
        ({"answer_id": 10**9, "label": label}, 404),
        ({"wafer_id": "never seen", "label": label}, 404),
        ({"answer_id": first["answer_id"], "label": "Spiral"}, 400),
        ({"answer_id": first["answer_id"]}, 400),
        ({"answer_id": True, "label": label}, 400),
        ({"label": label}, 400),
    ):
        assert client("POST", "/feedback", wrong)[0] == status, wrong


def test_what_is_counted_and_shown(client: Client) -> None:
    client("POST", "/classify", request_of(MAPS.maps[0]))
    assert client("GET", "/health")[1]["model_version"] == "1.0.0"
    _, text = client("GET", "/metrics")
    counted = sum(
        float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith("qwafer_answers_total")
    )
    assert counted == client.service.store.count()[0]
    assert re.search(r'qwafer_requests_total\{status="200"\} [1-9]', text.decode())
    _, page = client("GET", "/")
    assert b"Waiting for an engineer" in page
    assert "/classify" in client("GET", "/openapi.json")[1]["paths"]


def test_the_script_of_the_page_is_one(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    page = (ROOT / "qwafer" / "serving" / "page.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (tmp_path / "page.js").write_text(script)
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)
    used = set(re.findall(r'byId\("(\w+)"\)', script))
    assert used <= set(re.findall(r'id="(\w+)"', page))
    assert "innerHTML" not in script, "what clients send is shown as text"


def malformed(i: int) -> tuple[bytes, str]:
    """The i-th body that is not a request, and its content type."""
    rng = random.Random(i)
    good = json.dumps(request_of(MAPS.maps[0][:5, :5])).encode()
    binary = npy(MAPS.maps[0])
    wrong: list[Any] = [
        None, 3, "x", [], {}, {"wafer_map": None}, {"wafer_map": "x"}, {"wafer_map": []}, {"wafer_map": [[]]},
        {"wafer_map": [[0, 1], [2]]}, {"wafer_map": [[3]]}, {"wafer_map": [[-1]]}, {"wafer_map": [[0.5]]},
        {"wafer_map": [[True]]}, {"wafer_map": [["1"]]}, {"wafer_map": [[[1]]]}, {"wafer_map": [[1e400]]},
        {"wafer_map": [[10**30]]}, {"wafer_map": {"base64": "!!", "shape": [1, 1]}}, {"wafers": []}, {"wafers": 3},
        {"wafer_map": {"base64": "AAAA", "shape": [2, 2]}}, {"wafer_map": {"shape": [1, 1]}}, {"wafers": [3]},
        {"wafer_map": {"base64": "AAAA", "shape": "x"}}, {"wafer_map": [[0]], "wafer_id": 3},
        {"wafer_map": [[0]], "wafer_id": "x" * 300}, {"wafer_map": [[0]], "wafer_id": "\u0000"}, {"wafer_map": [0] * 9},
        {"wafer_map": [[0]], "lot_id": "\ud800"}, {"wafer_map": [[0]], "timestamp": []},
    ]  # fmt: skip
    kind = rng.choice(["json", "cut", "flip", "npy", "deep", "dtype"])
    if kind == "json":
        return json.dumps(rng.choice(wrong)).encode(), "application/json"
    if kind == "cut":
        return good[: rng.randrange(len(good))], "application/json"
    if kind == "flip":
        content = bytearray(binary)
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(128)] ^= 1 << rng.randrange(8)
        return bytes(content[: -rng.randrange(1, 9)]), "application/octet-stream"
    if kind == "npy":
        return binary[: rng.randrange(len(binary))], "application/x-npy"
    if kind == "deep":
        return b"[" * rng.randrange(1, 100_000), "application/json"
    arrays = [np.zeros(4, np.uint8), np.zeros((2, 2)), np.full((2, 2), 9, np.uint8), np.zeros((0, 3), np.uint8)]
    return npy(rng.choice([*arrays, np.array([{}], object)]), pickled=True), ""


def check_malformed(client: Client, numbers: range) -> None:
    for i in numbers:
        body, kind = malformed(i)
        status, said = client("POST", "/classify", body, **({"Content-Type": kind} if kind else {}))
        assert status == 400, (i, status, body[:200])
        assert "Traceback" not in said["error"]


def test_malformed_bodies_are_refused(client: Client) -> None:
    before = client.service.store.count()
    check_malformed(client, range(250))
    for i in range(40):
        body, _ = malformed(i)
        assert client("POST", "/feedback", body)[0] == 400
        assert client("POST", "/v2/models/qwafer/infer", body)[0] == 400
    assert client.service.store.count() == before
    for path, status in (("/review?limit=0", 400), ("/review?limit=x", 422), ("/nothing", 404)):
        assert client("GET", path)[0] == status


@pytest.mark.slow
def test_ten_thousand_malformed_bodies_are_refused(client: Client) -> None:
    check_malformed(client, range(10_000))


def test_limits_of_size_and_time(client: Client) -> None:
    assert client("POST", "/classify", npy(MAPS.maps[:41]))[0] == 413
    assert client("POST", "/classify", iter([b"x" * (1 << 20), b"y"]))[0] == 413, "without a length, too"
    with socket.create_connection(("127.0.0.1", client.port)) as large:
        large.sendall(f"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: {(1 << 20) + 1}\r\n\r\n".encode())
        assert large.recv(100).split()[1] == b"413", "before a byte of it was read"
    with socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
        assert client("POST", "/classify", request_of(MAPS.maps[0]))[0] == 200, "others are not held up"
        assert slow.recv(100).split()[1] == b"408"


def test_a_token_is_asked_for_and_rates_are_held(release: Release, tmp_path: Path) -> None:
    registry = made_registry(tmp_path, release, "1.0.0")
    with running(registry, token="secret", rate=2.0) as client:
        assert client("GET", "/health")[0] == 200
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
            assert client("GET", "/metrics", **headers)[0] == 401
    with running(registry, rate=2.0) as client:
        statuses = [client("GET", "/health")[0] for _ in range(30)]
        assert statuses[0] == 200
        assert 429 in statuses
    with pytest.raises(InputError, match="is open to other machines: give a token"):
        ServeOptions(host="0.0.0.0")


def test_a_full_queue_and_a_full_disk_are_said(release: Release, tmp_path: Path) -> None:
    registry = made_registry(tmp_path, release, "1.0.0")
    with running(registry, queue=4) as client:
        assert client("POST", "/classify", npy(MAPS.maps[:5])) == (503, {"error": "the queue is full"})
        assert client("POST", "/classify", npy(MAPS.maps[:4]))[0] == 200
        size = "PRAGMA max_page_count"
        service = client.service
        pages = service._writer.submit(lambda: service.store._connection.execute("PRAGMA page_count").fetchone()[0])
        service._writer.submit(lambda: service.store._connection.execute(f"{size} = {pages.result()}")).result()
        results = [client("POST", "/classify", npy(MAPS.maps[:4])) for _ in range(40)]
        assert {status for status, _ in results} <= {200, 503}
        assert "full" in results[-1][1]["error"]
        acknowledged = 4 + 4 * sum(status == 200 for status, _ in results)
        assert service.store.count()[0] == acknowledged
        service._writer.submit(lambda: service.store._connection.execute(f"{size} = 100000")).result()
        assert client("POST", "/classify", npy(MAPS.maps[:4]))[0] == 200


def test_no_request_fails_while_versions_change(release: Release, tmp_path: Path, monkeypatch: Any) -> None:
    from qwafer.serving import service

    monkeypatch.setattr(service, "POLL", 0.01)
    registry = made_registry(tmp_path, release, "1.0.0", "1.0.1")
    with running(registry) as client:
        found: list[tuple[int, Any]] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                found.append(client("POST", "/classify", npy(MAPS.maps[:2])))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            wanted = registry.promote("1.0.1", OPEN).champion if turn % 2 == 0 else registry.rollback().champion
            while client("GET", "/health")[1]["model_version"] != wanted:
                time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert {status for status, _ in found} == {200}
        versions = [{answer["model_version"] for answer in body["answers"]} for _, body in found]
        assert all(len(of_request) == 1 for of_request in versions)
        assert set.union(*versions) == {"1.0.0", "1.0.1"}
        assert client.service.store.count()[0] == 2 * len(found)
        window = client.service.store.window()
        said = {answer["answer_id"]: answer["model_version"] for _, body in found for answer in body["answers"]}
        assert said == dict(zip(window.ids.tolist(), window.versions.tolist(), strict=True))


def test_a_killed_service_has_every_answer_that_it_gave(release: Release, tmp_path: Path) -> None:
    registry = made_registry(tmp_path, release, "1.0.0")
    given: list[int] = []
    for _ in range(2):
        words = ["-m", "qwafer.serve", str(tmp_path), "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
        ) as process:
            assert process.stdout is not None
            client = Client(int(process.stdout.readline().decode().rsplit(":", 1)[1]))
            killer = threading.Timer(0.4, process.kill)
            killer.start()
            statuses: list[int] = []

            def ask(client: Client = client, statuses: list[int] = statuses) -> None:
                try:
                    while True:
                        status, answer = client("POST", "/classify", npy(MAPS.maps[0]))
                        statuses.append(status)
                        given.append(answer["answer_id"])
                except (OSError, http.client.HTTPException):
                    pass

            threads = [threading.Thread(target=ask) for _ in range(N_KILLED)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert set(statuses) == {200}
            assert process.wait() == -signal.SIGKILL
    stored = Store(registry.folder / "answers.sqlite").window().ids
    assert len(given) > 5
    assert len(set(given)) == len(given)
    assert set(given) <= set(stored.tolist())
    assert len(stored) <= len(given) + 2 * N_KILLED, "at most what was under way when it was killed"


def window_of(flagged: np.ndarray, audit: np.ndarray, right: np.ndarray, reviewed: np.ndarray) -> Window:
    n = len(flagged)
    labels = np.array([("a" if ok else "b") if known else None for ok, known in zip(right, reviewed, strict=True)])
    empty = np.zeros(n)
    when = np.where(reviewed, np.arange(n), np.nan)
    texts = np.full(n, "a")
    return Window(
        empty, texts, texts, texts, empty, empty, flagged, audit, empty, labels, when, np.arange(n), np.full(n, "")
    )


def test_reviews_of_doubtful_answers_do_not_stand_for_all() -> None:
    """Flagged answers are right half of the time, the others nearly always: reviewed ones alone say 50%."""
    rng = np.random.default_rng(0)
    covered, naive = 0, []
    for _ in range(300):
        flagged = rng.random(2000) < 0.1
        audit = ~flagged & (rng.random(2000) < 0.05)
        right = rng.random(2000) < np.where(flagged, 0.5, 0.98)
        found = reviewed_accuracy(window_of(flagged, audit, right, flagged | audit))
        covered += found.low <= 0.1 * 0.5 + 0.9 * 0.98 <= found.high
        naive.append(right[flagged | audit].mean())
    assert covered >= 0.94 * 300
    assert np.mean(naive) < 0.7
    unseen = reviewed_accuracy(window_of(flagged, np.zeros(2000, bool), right, flagged))
    assert np.isnan(unseen.estimate)
    assert unseen.high > 0.95


def test_looks_spend_one_error_rate() -> None:
    assert [n for n in range(1, 500) if look(n) is not None] == [50, 100, 200, 400]
    assert sum(look_alpha(k) for k in range(10_000)) == pytest.approx(0.01, rel=1e-3)


def test_a_champion_that_reviews_show_to_be_worse_is_taken_back(release: Release, tmp_path: Path) -> None:
    good = dataclasses.replace(release, evidence=dataclasses.replace(release.evidence, accuracy=0.9))
    registry = made_registry(tmp_path, good, "1.0.0", "1.0.1")
    registry.promote("1.0.1", OPEN)
    time.sleep(1.1)  # changes have a resolution of a second
    wrong = release.model.label_names
    with running(registry, audit=1.0, most_maps=100) as client:
        _, found = client("POST", "/classify", npy(MAPS.maps[:60]))
        count = 0
        for answer in found["answers"]:
            count += 1
            label = next(name for name in wrong if name != answer["prediction"])
            _, said = client("POST", "/feedback", {"answer_id": answer["answer_id"], "label": label})
            if "rolled_back_to" in said:
                break
    assert (count, said["rolled_back_to"]) == (50, "1.0.0")
    now = registry.pointers()
    assert (now.champion, now.changes[-1].action) == ("1.0.0", "automatic rollback")
    assert "from 50 reviews is below" in now.changes[-1].reason


def test_wafers_keep_their_version_in_a_trial(release: Release, tmp_path: Path) -> None:
    registry = made_registry(tmp_path, release, "1.0.0", "1.1.0")
    with running(registry, trial="1.1.0", trial_share=0.3) as client:
        names = [f"W{i}" for i in range(12)]
        for _ in range(2):
            for name in names:
                _, answer = client("POST", "/classify", request_of(MAPS.maps[0], name))
                assert answer["model_version"] == ("1.1.0" if on_trial(name, 0.3) else "1.0.0")
    assert 0.27 < np.mean([on_trial(f"wafer {i}", 0.3) for i in range(5000)]) < 0.33


def test_a_store_is_read_strictly_and_forgets_by_age(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    row = Stored(100.0, "W", "L", "1.0.0", "a", 0.5, 1.0, True, False, 2.0, b"", 1, 1, b"")
    first, second = store.add([row, dataclasses.replace(row, at=200.0, wafer="V")])
    store.say(first, "b")
    assert store.window(150.0).at.tolist() == [200.0]
    assert store.window(0, 150).labels.tolist() == ["b"]
    assert store.remove_before(150.0) == 1
    assert store.count() == (1, 0)
    assert store.version_of(second) == "1.0.0"
    store.close()
    (tmp_path / "t.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="is not a store of answers"):
        Store(tmp_path / "t.sqlite")
    other = sqlite3.connect(tmp_path / "u.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(InputError, match="is not a store of answers"):
        Store(tmp_path / "u.sqlite")
