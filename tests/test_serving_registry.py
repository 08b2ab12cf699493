"""Versions never change, one gate stands before the champion, and a process may die anywhere."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwafer import InputError
from qwafer._errors import RecordError
from qwafer.serving.registry import Gate, ModelRegistry
from qwafer.serving.release import Release
from tests.serving_factory import MAPS, OPEN, made_release


@pytest.fixture(scope="module")
def release() -> Release:
    return made_release()


def test_a_version_is_what_was_added_and_is_never_changed(release: Release, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "r")
    registry.add(release, "1.0.0", "first")
    again = registry.load("1.0.0")
    assert (again.version, again.record and again.record.note) == ("1.0.0", "first")
    np.testing.assert_array_equal(again.model.predict(MAPS).logits, release.model.predict(MAPS).logits)
    for version, says in (("1.0.0", "must be above the newest"), ("0.9.9", "must be above"), ("v2", "MAJOR.MINOR")):
        with pytest.raises(InputError, match=says):
            registry.add(release, version)
    registry.add(release, "1.10.0")
    registry.add(release, "2.0.0")
    assert registry.versions() == ["1.0.0", "1.10.0", "2.0.0"]
    with pytest.raises(InputError, match=r"has no version 1.1.0; did you mean `1.10.0`"):
        registry.load("1.1.0")
    file = tmp_path / "r" / "versions" / "2.0.0" / "review.safetensors"
    file.chmod(0o644)
    file.write_bytes((tmp_path / "r" / "versions" / "1.0.0" / "model.safetensors").read_bytes())
    with pytest.raises(RecordError, match="its sha256 differs"):
        registry.promote("2.0.0", OPEN)
    assert registry.pointers().champion == ""


def test_champion_and_previous_move_together(release: Release, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    for version in ("1.0.0", "1.0.1", "1.1.0"):
        registry.add(release, version)
    with pytest.raises(InputError, match="no previous version"):
        registry.rollback()
    registry.promote("1.0.0", OPEN, "the first")
    registry.promote("1.1.0", OPEN)
    with pytest.raises(InputError, match="is the champion already"):
        registry.promote("1.1.0", OPEN)
    now = registry.pointers()
    assert (now.champion, now.previous) == ("1.1.0", "1.0.0")
    assert registry.rollback(champion="1.0.1") == now, "another version answers: nothing to take back"
    back = registry.rollback("too many wrong")
    assert (back.champion, back.previous) == ("1.0.0", "")
    assert [change.action for change in back.changes] == ["promote", "promote", "rollback"]
    assert back.changes[-1].reason == "too many wrong"
    with pytest.raises(InputError, match="no previous version"):
        registry.rollback()


def test_the_gate_refuses_what_misses_a_floor_or_has_no_number(release: Release, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    registry.add(release, "1.0.0")
    with pytest.raises(InputError, match="there is no gate"):
        registry.promote("1.0.0")
    found = release.evidence
    worst = min(found.class_f1, key=lambda name: found.class_f1[name])
    floor = found.class_f1[worst] + 0.01
    (tmp_path / "gate.toml").write_text(f'accuracy = 0.0\n[classes]\n"{worst}" = {floor}\n')
    with pytest.raises(InputError, match=f"1.0.0 misses the gate: F1 of {worst} is"):
        registry.promote("1.0.0")
    (tmp_path / "gate.toml").write_text(f"accuracy = {found.accuracy}\nmacro_f1 = {found.macro_f1}\n")
    assert registry.promote("1.0.0").champion == "1.0.0"
    unknown = dataclasses.replace(found, class_f1={**found.class_f1, worst: np.nan})
    assert Gate(class_f1=0.0).misses(found) == []
    assert Gate(class_f1=0.0).misses(unknown) == [f"F1 of {worst} is not defined (no test map), the floor 0"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("acuracy = 0.9", "has no option acuracy; did you mean `accuracy`"),
        ("accuracy = 1.5", r"must lie in \[0, 1\]"),
        ('accuracy = "much"', "must be a number"),
        ("classes = 3", "must be a table"),
        ("", "must have a floor"),
        ("accuracy = ", "is not a gate in TOML"),
    ],
)
def test_a_gate_is_read_strictly(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        Gate.load(tmp_path / "gate.toml")
    with pytest.raises(InputError, match="the gate names the class Centre; did you mean `Center`"):
        Gate(classes={"Centre": 0.5}).misses(_named("Center"))


def _named(name: str) -> Any:
    class Found:
        class_f1 = {name: 1.0}  # noqa: RUF012

    return Found


MOVES = """
import sys
from qwafer.serving.registry import Gate, ModelRegistry
registry = ModelRegistry(sys.argv[1])
registry.load = lambda version: None  # reading the versions takes longer than what is killed
print("ready", flush=True)
while True:
    registry.promote("1.0.1" if registry.pointers().champion == "1.0.0" else "1.0.0", Gate(accuracy=0.0))
"""


def test_a_killed_promotion_leaves_pointers_that_belong_together(release: Release, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path)
    for version in ("1.0.0", "1.0.1"):
        registry.add(release, version)
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", MOVES, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while len(registry.pointers().changes) < 5 * (turn + 1):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        now = registry.pointers()
        moves = [change.champion for change in now.changes]
        assert moves[-1] == now.champion
        assert now.previous == moves[-2]
        registry.promote(now.previous, OPEN)  # the lock died with its process


def test_the_verb_adds_promotes_and_refuses(release: Release, tmp_path: Path, capsys: Any) -> None:
    from qwafer.cli.registry import main

    release.model.save(tmp_path / "m.safetensors")
    where, maps = str(tmp_path / "r"), ["--maps", "synthetic"]
    assert main(["promote", where, "1.0.0"]) == 2
    assert "there is no registry" in capsys.readouterr().err
    assert main(["add", where, str(tmp_path / "m.safetensors"), "--version", "1.0.0"]) == 2
    assert "name its maps by --maps" in capsys.readouterr().err
    assert main(["add", where, str(tmp_path / "m.safetensors"), "--version", "1.0.0", *maps]) == 2
    assert "do not give the split" in capsys.readouterr().err
    ModelRegistry(where).add(release, "1.0.0", "by hand")
    (tmp_path / "gate.toml").write_text("accuracy = 1.0\n")
    assert main(["promote", where, "1.0.0", "--gate", str(tmp_path / "gate.toml")]) == 2
    assert capsys.readouterr().err.startswith("error: version 1.0.0 misses the gate: accuracy is 0.")
    (tmp_path / "gate.toml").write_text("accuracy = 0.0\n")
    assert main(["promote", where, "1.0.0", "--gate", str(tmp_path / "gate.toml")]) == 0
    assert main(["list", where]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "champion 1.0.0, previous none"
    assert shown[1].split()[:2] == ["1.0.0", "champion"]
    assert main(["rollback", where]) == 2
