"""The probes find the bugs of the published code by themselves, and the page says what they find."""

import importlib
import sys
from pathlib import Path

import pytest

from qwafer import diagnose
from qwafer._records import load_record
from qwafer.diagnostics.models import main
from qwafer.studies import Findings, findings_table, probe_models

ROOT = Path(__file__).resolve().parents[1]


def counts(name):
    (found,) = probe_models([name]).found
    return found.inert_parameters, found.inert_inputs, found.verdict


@pytest.mark.parametrize(
    ("name", "inert"),
    [
        ("boltzmann, as_published", 20),  # five of six weight vectors of four features
        pytest.param("boltzmann", 0, marks=pytest.mark.slow),
        pytest.param("weinet, as_published", 9, marks=pytest.mark.slow),
        pytest.param("weinet", 0, marks=pytest.mark.slow),
    ],
)
def test_the_published_bugs_show_as_inert_parameters(name, inert):
    assert counts(name) == (inert, 0, "warn" if inert else "pass")


@pytest.mark.slow
def test_the_published_metric_loss_shows_as_a_circuit_in_which_nothing_moves():
    assert counts("metric_learner, as_published, within a class") == (10, 4, "warn")


def test_the_page_has_the_committed_findings():
    if str(ROOT / "experiments") not in sys.path:
        sys.path.insert(0, str(ROOT / "experiments"))
    run_all = importlib.import_module("run_all")
    findings = load_record(Findings, ROOT / "experiments" / "results" / "models.json")
    content = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    begin, end = run_all.BEGIN.format("models"), run_all.END.format("models")
    assert content.split(begin)[1].split(end)[0] == f"\n{findings_table(findings)}\n"
    committed = {one.model: (one.inert_parameters, one.inert_inputs) for one in findings.found}
    assert committed["weinet, as_published"] == (9, 0)
    assert committed["boltzmann, as_published"] == (20, 0)


def test_an_unknown_model_is_refused(capsys):
    assert main(["--model", "perceptron"]) == 2
    assert "perceptron" in capsys.readouterr().err


def test_diagnose_takes_a_published_circuit_by_its_name(capsys):
    words = ["--circuit", "separable_variational", "--set", "circuit.n_qubits=2"]
    assert diagnose.main(words) == 2
    assert "circuit.name is separable_variational, which has no such option" in capsys.readouterr().err


@pytest.mark.slow
def test_diagnose_probes_a_published_circuit(capsys, tmp_path):
    assert diagnose.main(["--circuit", "tree_tensor", "--set", "circuit.n_inputs=4", "--out", str(tmp_path)]) in (0, 1)
    assert "sensitivity" in (tmp_path / "report.md").read_text()
