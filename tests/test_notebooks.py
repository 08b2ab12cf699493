"""The notebooks run from beginning to end in a kernel of their own, and are stored without what they showed."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_notebooks_are_stored_without_outputs():
    assert {path.stem for path in NOTEBOOKS} >= {"own_circuit", "own_data", "own_training_loop"}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path
            for target in re.findall(r"\]\((?!http)([^)#]+)", cell.source):
                assert (path.parent / target).exists(), target


SLOW = {"own_circuit"}
"""What docs/own-circuit.md runs as well, in the fast tests."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in NOTEBOOKS],
)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which shows figures
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    options = {"resources": {"metadata": {"path": str(tmp_path)}}, "kernel_name": "python3", "timeout": 300}
    NotebookClient(notebook, **options).execute(env=dict(os.environ))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds, "a figure is shown"
    said = "".join(output.get("text", "") for output in outputs)
    assert "Warning" not in said
    assert "Traceback" not in said
