"""Attacks on the way from a run to the line, each of which once did harm."""

import dataclasses
import io
import shutil
import sys
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
from qwafer._errors import RecordError
from qwafer.cli.export import main as export_main
from qwafer.cli.monitor import main as monitor_main
from qwafer.serving.drift import LEVEL, class_f1
from qwafer.serving.registry import ModelRegistry
from qwafer.serving.release import Release
from qwafer.serving.service import log
from qwafer.serving.store import Store, Stored, packed_map
from qwafer.serving.trial import _look, _verdict, reviews_to_decide
from tests.serving_factory import MAPS, OPEN, Client, made_registry, made_release, request_of, running
from tests.test_serving_drift import CLASSES, SHARES, drawn, evidence_of, seen, window


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


@pytest.fixture(scope="module")
def client(release: Release, tmp_path_factory: Any) -> Any:
    registry = made_registry(tmp_path_factory.mktemp("line"), release, "1.0.0")
    with running(registry, audit=1.0) as found:
        found("POST", "/classify", request_of(MAPS.maps[0], "W1"))
        yield found


def npy_of_shape(shape: tuple[Any, ...], nbytes: int) -> bytes:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(nbytes)


@pytest.mark.parametrize("shape", [(-2, -2), (-1, -1, 4), (True, 4)])
def test_sides_that_are_not_lengths_are_refused(client: Client, shape: tuple[Any, ...]) -> None:
    assert client("POST", "/classify", npy_of_shape((2, 2), 4))[0] == 200
    status, said = client("POST", "/classify", npy_of_shape(shape, 4))
    assert status == 400
    assert "NPY body must hold" in said["error"]


@pytest.mark.parametrize(
    "form",
    [
        {"wafer_id": "W1", "reviewer": "\ud800"},
        {"wafer_id": "W1", "reviewer": "a\0b"},
        {"wafer_id": "\ud800"},
        {"wafer_id": "W1", "answer_id": 10**40},
    ],
)
def test_feedback_with_characters_that_cannot_be_kept_is_refused(client: Client, form: dict[str, Any]) -> None:
    before = client.service.store.count()
    assert client("POST", "/feedback", {**form, "label": "none"})[0] == 400
    assert client.service.store.count() == before


@pytest.mark.parametrize(
    "form", [{"labels": ["none", "Center"]}, {"label": "Center", "labels": []}, {"label": "none + Center"}]
)
def test_feedback_that_contradicts_itself_is_refused(client: Client, form: dict[str, Any]) -> None:
    status, said = client("POST", "/feedback", {"wafer_id": "W1", **form})
    assert (status, "labels" in said["error"]) == (400, True)


def test_feedback_that_names_two_answers_is_refused(client: Client) -> None:
    _, other = client("POST", "/classify", request_of(MAPS.maps[1], "W2"))
    both = {"answer_id": other["answer_id"], "label": "none"}
    assert client("POST", "/feedback", {**both, "wafer_id": "W1"})[0] == 404
    assert client("POST", "/feedback", {**both, "wafer_id": "W2"})[0] == 200


def test_one_class_alone_is_said_of_exclusive_classes(release: Release, tmp_path: Path) -> None:
    """`Center + Donut`, or none, can never be right there: it would count against whatever was answered."""
    names = release.model.label_names
    changed = {"exclusive": True}
    one = dataclasses.replace(
        release,
        review=dataclasses.replace(release.review, **changed),
        evidence=dataclasses.replace(release.evidence, **changed),
    )
    with running(made_registry(tmp_path, one, "1.0.0"), audit=1.0) as found:
        _, answer = found("POST", "/classify", request_of(MAPS.maps[0], "W1"))
        for labels, status in ((list(names[:2]), 400), ([], 400), ([names[0]], 200)):
            said = found("POST", "/feedback", {"answer_id": answer["answer_id"], "labels": labels})
            assert said[0] == status, said


def test_a_media_type_is_read_whatever_its_case(client: Client) -> None:
    status, said = client("POST", "/classify", b'{"wafer_map": [[1, 2]]}', **{"Content-Type": "Application/JSON"})
    assert (status, said["model_version"]) == (200, "1.0.0")


def test_a_request_of_too_many_maps_is_refused_before_they_are_read(client: Client) -> None:
    """Reading 60,000 small maps takes seconds, in which nobody else is answered."""
    body = b'{"wafers":[' + b",".join([b'{"wafer_map":[[0]]}'] * 60_000) + b"]}"
    status, said = client("POST", "/classify", body, **{"Content-Type": "application/json"})
    assert (status, said["error"]) == (413, "a request must have at most 256 maps, got 60000")
    read = [{"wafer_map": "not read"}] * 257
    assert client("POST", "/classify", {"wafers": read})[0] == 413, "the count comes first"


def test_a_version_under_another_name_is_refused(release: Release, tmp_path: Path) -> None:
    """A copied folder would answer as the version that it was copied from, and be loaded anew every second."""
    registry = made_registry(tmp_path, release, "1.0.0")
    shutil.copytree(tmp_path / "versions" / "1.0.0", tmp_path / "versions" / "2.0.0")
    for read in (registry.record, registry.load, registry.evidence, lambda name: registry.promote(name, OPEN)):
        with pytest.raises(RecordError, match=r"is version 1\.0\.0"):
            read("2.0.0")
    assert registry.pointers().champion == "1.0.0"


def test_evidence_of_another_version_is_refused(release: Release, tmp_path: Path) -> None:
    """Its accuracy is what `list` shows, and what a champion is taken back for."""
    registry = made_registry(tmp_path, release, "1.0.0")
    better = dataclasses.replace(release, evidence=dataclasses.replace(release.evidence, accuracy=0.99))
    registry.add(better, "1.0.1")
    worse, file = tmp_path / "versions" / "1.0.0" / "evidence.json", tmp_path / "versions" / "1.0.1" / "evidence.json"
    worse.chmod(0o644)
    shutil.copyfile(file, worse)
    with pytest.raises(RecordError, match="sha256 differs"):
        registry.evidence("1.0.0")


def test_digits_of_other_scripts_are_no_version(release: Release, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MAJOR\.MINOR\.PATCH"):
        ModelRegistry(tmp_path).add(release, "1.0.1\u0663")


def test_a_log_that_cannot_be_written_fails_no_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is on disk by then: a client that is told of a failure would send the wafer again."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        log("event")
        assert client("POST", "/classify", request_of(MAPS.maps[0], "W3"))[0] == 200
        sys.stderr.detach()
        monkeypatch.undo()


def test_versions_are_followed_after_whatever_loading_raises(release: Release, tmp_path: Path) -> None:
    class Broken(ModelRegistry):
        def load(self, version: str) -> Release:
            if version == "1.0.1":
                raise RuntimeError("out of memory")
            return super().load(version)

    made_registry(tmp_path, release, "1.0.0", "1.0.1", "1.0.2")
    with running(Broken(tmp_path)) as client:  # type: ignore[arg-type]
        other = ModelRegistry(tmp_path)
        for version, answers in (("1.0.1", "1.0.0"), ("1.0.2", "1.0.2")):
            other.promote(version, OPEN)
            end = time.monotonic() + 20
            while time.monotonic() < end and client("GET", "/health")[1]["model_version"] != answers:
                time.sleep(0.1)
            time.sleep(1.5 if answers == "1.0.0" else 0)
            assert client("GET", "/health")[1]["model_version"] == answers


@pytest.mark.parametrize("n_lots", [1, 4, 12])
def test_few_lots_raise_no_more_alarms_than_stated(release: Release, n_lots: int) -> None:
    """One lot was taken for independent wafers, and the effect of few lots for known: alarms in half of the weeks."""
    rng = np.random.default_rng(1)
    evidence, alarms = evidence_of(release, rng, n=4000), 0
    for seed in range(100):
        n = max(50, 25 * n_lots)
        of_lot = np.repeat(rng.choice(CLASSES, n_lots, p=SHARES), n // n_lots)
        texts = np.where(rng.random(len(of_lot)) < 0.5, of_lot, rng.choice(CLASSES, len(of_lot), p=SHARES))
        lots = np.repeat([f"L{i}" for i in range(n_lots)], n // n_lots)
        found = seen(drawn(rng, len(of_lot), predictions=texts, lots=lots), evidence, seed)
        alarms += any(test.p_holm <= LEVEL for test in found.tests)
    assert alarms <= 5


def test_an_answer_without_a_lot_does_not_make_the_others_independent(release: Release) -> None:
    rng = np.random.default_rng(2)
    of_lot = np.repeat(rng.choice(CLASSES, 40, p=SHARES), 25)
    lots = np.repeat([f"L{i}" for i in range(40)], 25)
    evidence = evidence_of(release, rng)
    every = seen(drawn(rng, 1000, predictions=of_lot, lots=lots), evidence).tests[0]
    lots[0] = ""
    some = seen(drawn(rng, 1000, predictions=of_lot, lots=lots), evidence).tests[0]
    assert every.n_effective < 60
    assert some.n_effective == pytest.approx(every.n_effective, rel=0.2)
    none = seen(drawn(rng, 1000, predictions=of_lot), evidence).tests[0]
    assert none.n_effective == 1000


def test_no_f1_is_told_from_doubtful_answers_alone() -> None:
    """Without an audit F1 was that of flagged wafers, the hard ones: an alarm of classes that are 95% right."""
    rng = np.random.default_rng(3)
    true = rng.choice(CLASSES, 2000, p=SHARES)
    flagged = rng.random(2000) < 0.1
    said = np.where(rng.random(2000) < np.where(flagged, 0.5, 0.02), rng.permutation(true), true)
    columns = {"labels": true.astype(object), "flagged": flagged}
    for drawn_too, told in ((0, False), (5, False), (200, True)):
        audit = ~flagged & (np.cumsum(~flagged) <= drawn_too)
        reviewed = np.where(flagged | audit, 1.0, np.nan)
        found = class_f1(window(said, audit=audit, reviewed=reviewed, **columns), tuple(CLASSES))
        assert bool(found) == told
    assert found["a"][0] > 0.9


def test_the_reviews_that_a_trial_is_said_to_take_have_its_power() -> None:
    """The looks share one error rate, so that a test of one look takes too few: its power was 30%, not 80%."""
    rng = np.random.default_rng(4)
    up, down = 0.045, 0.03
    n, weights = reviews_to_decide(up + down, np.array([1.0]), np.array([1])), np.array([1, 0, 0, 0])
    better = 0
    for _ in range(200):
        found, size, number = rng.choice([1, -1, 0], n, p=[up, down, 1 - up - down]), 50, 0
        verdict = "undecided"
        while size <= n and verdict == "undecided":
            verdict = _verdict(_look(found[:size], np.zeros(size, int), weights, number))
            size, number = 2 * size, number + 1
        better += verdict == "better"
    assert better >= 0.74 * 200
    assert n in {50 * 2**k for k in range(20)}, "there is a look at that number"
    assert reviews_to_decide(0.05, np.array([0.9, 0.1]), np.array([10, 90])) > 4 * reviews_to_decide(
        0.05, np.array([0.9, 0.1]), np.array([90, 10])
    )


def test_the_looks_of_a_trial_begin_with_it(release: Release, tmp_path: Path, capsys: Any) -> None:
    """In a window that slides each week is a trial of its own: so many error rates as weeks."""
    made_registry(tmp_path, release, "1.0.0", "1.1.0")
    store, day = Store(tmp_path / "answers.sqlite"), 86400.0
    row = {"lot": "L", "prediction": "none", "confidence": 0.9, "distance": 1.0, "flagged": False}
    row |= {"audit": True, "latency": 1.0, "probabilities": b"", "map": packed_map(MAPS.maps[0])}
    height, width = MAPS.maps[0].shape
    for i in range(60):
        at, version = time.time() - 30 * day + i, "1.1.0" if i % 2 else "1.0.0"
        (number,) = store.add([Stored(at=at, wafer=f"W{i}", version=version, height=height, width=width, **row)])  # type: ignore[arg-type]
        store.say(number, "none")
    store.close()
    verb = [str(tmp_path), "--trial", "1.0.0", "1.1.0"]
    assert monitor_main(verb) == 1
    assert "after 50 reviews" in capsys.readouterr().out
    assert monitor_main([*verb, "--days", "7"]) == 2
    assert "leave out --days" in capsys.readouterr().err


def test_a_model_is_not_written_over_by_its_export(release: Release, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "m.safetensors"
    release.model.save(path)
    before = path.read_bytes()
    for out in (path, tmp_path / "." / "m.safetensors"):
        assert export_main([str(path), "--format", "onnx", "--out", str(out), "--maps", "synthetic"]) == 2
        assert "is the model" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_services_that_begin_together_share_one_store(tmp_path: Path) -> None:
    """Both made the tables, and one of two services on a new registry ended."""

    def opened(path: Path, barrier: threading.Barrier) -> None:
        barrier.wait()
        store = Store(path)
        store.close()

    with ThreadPoolExecutor(4) as pool:
        for turn in range(15):
            barrier = threading.Barrier(4)
            for each in [pool.submit(opened, tmp_path / f"{turn}.sqlite", barrier) for _ in range(4)]:
                each.result()


def test_what_a_killed_add_left_is_removed(release: Release, tmp_path: Path) -> None:
    registry = made_registry(tmp_path, release, "1.0.0")
    (tmp_path / "versions" / ".qwafer-0123abcd-1.0.1").mkdir()
    registry.add(release, "1.0.1")
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == ["1.0.0", "1.0.1"]
