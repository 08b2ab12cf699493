"""Attacks on the way from a run to the line, each of which once did harm."""

import dataclasses
import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra qwafer[serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra qwafer[serve] is not installed")

from qwafer import InputError
from qwafer._errors import RecordError
from qwafer.serving.registry import ModelRegistry
from qwafer.serving.release import Release
from qwafer.serving.service import log
from tests.serving_factory import MAPS, OPEN, Client, made_registry, made_release, request_of, running


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
