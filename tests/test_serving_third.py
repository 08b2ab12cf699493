"""More attacks on the way from a run to the line: numbers too long to print, ids that are shared, looks that fail."""

import contextlib
import dataclasses
import io
import json
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")

from qwafer import InputError
from qwafer.cli.export import main as export_main
from qwafer.cli.monitor import main as monitor_main
from qwafer.cli.serve import main as serve_main
from qwafer.serving.registry import ModelRegistry
from qwafer.serving.release import Release
from qwafer.serving.store import Store
from qwafer.serving.wire import parse_infer
from tests.serving_factory import MAPS, OPEN, Client, made_registry, made_release, request_of, running
from tests.test_serving_line import row

HEAD = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


@pytest.fixture(scope="module")
def client(release: Release, tmp_path_factory: Any) -> Any:
    registry = made_registry(tmp_path_factory.mktemp("line"), release, "1.0.0")
    with running(registry, audit=1.0, body_seconds=1.0, queue=4, most_maps=20) as found:
        yield found


def npy(maps: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(maps))
    return file.getvalue()


def test_a_product_of_sides_that_is_too_long_to_print_is_refused() -> None:
    """Python prints no number of more than 4,300 digits: the message raised, and the answer was a 500."""
    side = 10**3000
    form = {"inputs": [{"name": "maps", "datatype": "UINT8", "shape": [1, side, side], "data": [1]}]}
    with pytest.raises(InputError, match="`data` of maps must hold"):
        parse_infer(json.dumps(form).encode())


def test_a_head_in_two_parts_is_waited_for_on_a_connection_that_was_idle(client: Client) -> None:
    """The connection was closed where a look came a moment after the first part: the answer before had begun it."""
    for idle in (1.7, 0.7):
        with contextlib.closing(socket.create_connection(("127.0.0.1", client.port), timeout=10)) as connection:
            for parts in ((HEAD,), (HEAD[:20], HEAD[20:])):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.6 if len(parts) > 1 else 0)
                assert connection.recv(4096).startswith(b"HTTP/1.1 200"), (idle, len(parts))
                time.sleep(idle)


@pytest.mark.slow
def test_the_second_head_that_never_ends_is_closed(client: Client) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", client.port), timeout=10)) as connection:
        connection.sendall(HEAD)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(HEAD[:20])
        assert connection.recv(1) == b""


def test_many_maps_under_one_id_are_refused(client: Client) -> None:
    """A wafer counts once: of three maps under one id two counted nowhere, and nobody was told."""
    before = client.service.store.count()
    status, said = client("POST", "/classify?wafer_id=X&lot_id=L", npy(MAPS.maps[:3]))
    assert (status, "one wafer" in said["error"]) == (400, True)
    assert client.service.store.count() == before
    assert client("POST", "/classify?lot_id=L", npy(MAPS.maps[:3]))[0] == 200
    assert client("POST", "/classify?wafer_id=X&lot_id=L", npy(MAPS.maps[:1]))[0] == 200


def test_a_request_that_never_gets_in_is_not_told_to_come_again(client: Client) -> None:
    """More maps than may wait were answered 503 with Retry-After, however empty the queue was."""
    status, said = client("POST", "/classify", npy(MAPS.maps[:8]))
    assert (status, said) == (413, {"error": "a request must have at most 4 maps, got 8"})
    free = threading.Event()
    client.service.batcher._worker.submit(free.wait, 30)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client, "POST", "/classify", npy(MAPS.maps[:4])) for _ in range(3)]
        end = time.monotonic() + 20
        while not any(each.done() for each in asked):
            assert time.monotonic() < end
            time.sleep(0.01)
        free.set()
        found = [each.result() for each in asked]
    assert sorted(status for status, _ in found) == [200, 200, 503]
    assert (503, {"error": "the queue is full"}) in found


def steps(store: Store, what: Any) -> int:
    """Thousands of instructions of SQLite that something takes."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    store._connection.set_progress_handler(count, 10)
    try:
        what()
    finally:
        store._connection.set_progress_handler(None, 0)
    return counted[0]


@pytest.mark.parametrize("layout", [2, 3])
def test_wafers_that_are_numbered_within_their_lot_are_found_without_looking_at_all(
    layout: int, tmp_path: Path
) -> None:
    """Wafer 7 of every lot was looked at before an answer was kept: 50 ms per wafer beside 200,000 answers."""
    store = Store(tmp_path / "s.sqlite")
    if layout == 2:
        with store._connection as connection:
            connection.execute("DROP INDEX answers_of_wafer")
            connection.execute("CREATE INDEX answers_wafer ON answers (wafer)")
            connection.execute("PRAGMA user_version = 2")
        store.close()
        store = Store(tmp_path / "s.sqlite")
    counts = []
    for lots in (range(20), range(20, 3000)):
        store.add([row("7", f"L{lot}", version=version) for lot in lots for version in ("1.0.0", "1.0.1")])
        name = f"new {lots[0]}"
        counts.append(
            (
                steps(store, lambda name=name: store.add([row("7", name)])),
                steps(store, lambda name=name: store.find("7", name)),
            )
        )
    assert all(after <= 2 * before + 20 for before, after in zip(*counts, strict=True)), counts


def test_a_wafer_counts_once_whatever_process_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    other = sqlite3.connect(tmp_path / "s.sqlite")
    other.execute("BEGIN IMMEDIATE")
    names = [name for (_, name, *_) in other.execute("PRAGMA table_info(answers)") if name not in ("id", "repeat")]
    values = dataclasses.astuple(row("W"))
    other.execute(f"INSERT INTO answers ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", values)

    def add() -> None:
        store.add([row("W")])
        store.close()

    thread = threading.Thread(target=add)
    thread.start()
    time.sleep(0.5)
    other.commit()
    thread.join()
    other.close()
    assert len(store.window()) == 1
    assert store.count()[0] == 2


def test_a_look_that_two_processes_take_is_kept_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    assert store.keep_look("what", 0, "first")
    assert not store.keep_look("what", 0, "second")
    assert store.looks("what") == {0: "first"}


def test_a_champion_whose_way_back_failed_is_taken_back_later(release: Release, tmp_path: Path) -> None:
    """The review was refused with 400 although it was kept, and the look was spent: a worse champion stayed."""
    good = dataclasses.replace(release, evidence=dataclasses.replace(release.evidence, accuracy=0.99))
    registry = made_registry(tmp_path, good, "1.0.0", "1.0.1")
    registry.promote("1.0.1", OPEN)
    time.sleep(1.1)  # changes have a resolution of a second
    file = tmp_path / "versions" / "1.0.0" / "model.safetensors"
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(b"damaged")
    with running(registry, audit=1.0, most_maps=100) as client:
        _, found = client(
            "POST", "/classify", {"wafers": [request_of(m, f"W{i}") for i, m in enumerate(MAPS.maps[:52])]}
        )
        for k, answer in enumerate(found["answers"]):
            label = next(name for name in release.model.label_names if name != answer["prediction"])
            if k == 51:
                file.write_bytes(whole)
            status, said = client("POST", "/feedback", {"answer_id": answer["answer_id"], "label": label})
            assert status == 200, said
            assert ("rolled_back_to" in said) == (k == 51)
    assert registry.pointers().champion == "1.0.0"


def test_a_port_that_is_taken_and_a_token_that_is_no_text_are_said(
    release: Release, tmp_path: Path, capsys: Any
) -> None:
    made_registry(tmp_path, release, "1.0.0")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        assert serve_main([str(tmp_path), "--port", port]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert port in said
        assert said.count("\n") == 1
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    assert serve_main([str(tmp_path), "--token-file", str(tmp_path / "token")]) == 2
    assert "is not text" in capsys.readouterr().err


def test_nothing_is_exported_into_a_version(release: Release, tmp_path: Path, capsys: Any) -> None:
    registry = made_registry(tmp_path / "line", release, "1.0.0")
    folder = tmp_path / "line" / "versions" / "1.0.0"
    for name in ("evidence.json", "model.onnx"):
        words = [str(folder / "model.safetensors"), "--format", "onnx", "--out", str(folder / name)]
        assert export_main([*words, "--maps", "synthetic"]) == 2
        assert "never changed" in capsys.readouterr().err
    assert len(list(folder.iterdir())) == 4
    registry.load("1.0.0")


def test_what_says_that_there_are_no_answers_names_an_option_that_there_is(
    release: Release, tmp_path: Path, capsys: Any
) -> None:
    made_registry(tmp_path, release, "1.0.0")
    Store(tmp_path / "answers.sqlite").close()
    assert monitor_main([str(tmp_path)]) == 2
    assert "--days" in capsys.readouterr().err


def test_answers_do_not_wait_for_the_judging_of_a_review(release: Release, tmp_path: Path) -> None:
    """Both had one thread: among 60,000 reviews each new one held all answers up for a tenth of a second."""
    free, asked = threading.Event(), threading.Event()

    class Slow(ModelRegistry):
        def pointers(self) -> Any:
            if asked.is_set() and "load" not in threading.current_thread().name:
                free.wait(30)
            return super().pointers()

    made_registry(tmp_path, release, "1.0.0")
    with running(Slow(tmp_path), audit=1.0) as client, ThreadPoolExecutor(2) as pool:
        _, answer = client("POST", "/classify", request_of(MAPS.maps[0], "W1"))
        asked.set()
        said = pool.submit(client, "POST", "/feedback", {"answer_id": answer["answer_id"], "label": "none"})
        try:
            end = time.monotonic() + 20
            while client.service.store.count()[1] == 0:
                assert time.monotonic() < end
                time.sleep(0.01)
            found = pool.submit(client, "POST", "/classify", request_of(MAPS.maps[1], "W2")).result(10)
            assert (found[0], said.done()) == (200, False)
        finally:
            free.set()
        assert said.result(20)[0] == 200
