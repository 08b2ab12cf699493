"""What a new user meets first: the verbs, their lists, the reference of options, the package."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("extract", "ablate", "diagnose", "bench", "plan", "verify")


def python(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_two_routes_are_compared_at_one_point(capsys):
    script = importlib.import_module("qwafer.diagnostics.gradient_identity")
    columns = []
    for route in ("hamiltonian", "contraction"):
        script.main(["--qubits", "2", "--layers", "1", "--engine", "xla", "--route", route])
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("readout[")]
        columns.append([float(row[-1]) for row in rows])
    assert len(columns[0]) == 2
    assert columns[0] == pytest.approx(columns[1], abs=1e-5)


def test_the_qnode_of_the_guide_warns_of_nothing_and_trains_whole(tmp_path):
    """In a process as a user's is: JAX as it comes, in 32 bit."""
    page = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "own.py").write_text(code, encoding="utf-8")
    done = python("own.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "complex128" not in done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {"pass", "skip"}
    assert any("sensitivity all" in line and "live" in line for line in lines)
