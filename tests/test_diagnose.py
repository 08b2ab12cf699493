"""`python -m qwafer.diagnose`: the trust table, its files and its exit status; the scripts of qwafer.diagnostics."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from qwafer._records import load_record, sealed, to_json
from qwafer.circuits import LayeredOptions
from qwafer.cli.diagnose import build_parser, main
from qwafer.config import TrainingConfig
from qwafer.execution import Progress
from qwafer.experiment import load_experiment
from qwafer.heads import LinearOptions
from qwafer.probes.trust import Section, TrustTable, _count_steps, trust_table
from qwafer.reports.document import to_markdown
from qwafer.reports.trust import document_blocks
from qwafer.sweeps.sources import load_features
from tests.factories import feature_set

SCRIPTS = Path(__file__).resolve().parents[1] / "qwafer" / "diagnostics"
SMALL = (
    "data.n_maps=300",
    "data.task=Edge-Loc",
    "circuit.n_qubits=2",
    "circuit.n_layers=1",
    "training.epochs=2",
    "training.max_doublings=0",
)


def settings(*extra: str) -> list[str]:
    return [argument for option in (*SMALL, *extra) for argument in ("--set", option)]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")


def test_small_experiment_passes_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "xla", "--quiet", "--out", str(tmp_path / "out"), *settings()]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    for name in ("gradient agreement", "sensitivity", "score sign", "leakage", "ineffective options"):
        assert name in text
    table = load_record(TrustTable, tmp_path / "out" / "report.json")
    assert sealed(to_json(table)) == json.loads((tmp_path / "out" / "report.json").read_text())
    assert table.verdict == "warn"
    assert table.counts()["fail"] == 0
    reports = {report.name: report for report in table.reports}
    assert reports["sensitivity"].verdict == "warn"
    assert reports["ineffective options"].verdict == "pass"
    assert set(reports["sensitivity"].numbers) == {"mean_z", "mean_z_readout"}
    assert len(reports) == 37
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "| sensitivity | **warn** |" in markdown
    for line in markdown.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "out" / line.split("](")[1].rstrip(")")).stat().st_size > 1000
    assert len(list((tmp_path / "out" / "figures").glob("*.pdf"))) == 8


def leaky_features(path: Path) -> Path:
    """Write features whose test maps are training maps again."""
    split = np.array(["train"] * 80 + ["val"] * 20 + ["test"] * 20)
    ids = np.array([f"map{i % 100}" for i in range(120)])
    feature_set(signal=2.0, split=split, content_ids=ids, label_names=("defect",)).save(path)
    return path


def test_a_leak_makes_the_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = leaky_features(tmp_path / "leak.npz")
    experiment = tmp_path / "one.toml"
    experiment.write_text('[arms.a]\nhead="linear"\n[arms.b]\nhead="linear"\ntraining.learning_rate=0.1\n')
    options = ["--set", "training.epochs=2", "--set", "data.task=multilabel"]
    assert main([str(experiment), "--features", str(path), "--quiet", *options]) == 1
    text = capsys.readouterr().out
    assert "20 in train/test" in " ".join(text.split())
    assert "fail: leakage" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "catalist"], "did you mean `catalyst`"),
        (["--set", "training.epoch=2"], "training.epochs"),
        (["--features", "nowhere.npz"], "nowhere.npz"),
        (["nowhere.toml"], "nowhere.toml does not exist"),
        (["--seed", "-1"], "`--seed` must be at least 0"),
        (["--stack", "--engine", "xla"], "leave out --engine"),
        (["--stack", "some.toml"], "leave out EXPERIMENT.toml"),
        (["--stack", "--set", "a=b"], "leave out --set"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_stack_facts_are_printed_written_and_decide_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qwafer.engines.catalyst import stack

    for verdict, status in (("fails", 0), ("works", 1)):
        fact = stack.StackFact("q", "vmap of a QNode", verdict, "no batching rule", "fails", True, "scans instead")  # type: ignore[arg-type]
        monkeypatch.setattr(stack, "run_stack_probes", lambda progress, fact=fact: (fact,))
        assert main(["--stack", "--quiet", "--out", str(tmp_path)]) == status
        text = capsys.readouterr().out
        for words in ("vmap of a QNode", "no batching rule", "scans instead"):
            assert words in text
        assert json.loads((tmp_path / "stack.json").read_text())[0]["verdict"] == verdict
        assert "| q | vmap of a QNode |" in (tmp_path / "stack.md").read_text()


def test_help_names_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["--help"])
    assert stop.value.code == 0
    assert "Exit status: 0 nothing failed, 1 something failed, 2 bad input" in " ".join(capsys.readouterr().out.split())


def test_features_given_as_maps_are_refused_as_by_the_other_verbs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(leaky_features(tmp_path / "leak.npz"))
    said = []
    for verb in ("ablate", "bench", "diagnose", "extract"):
        module = importlib.import_module(f"qwafer.{verb}")
        out = ["--out", str(tmp_path / "out")]
        assert module.main(["--maps", path, "--quiet", *out]) == 2
        said.append(capsys.readouterr().err)
    assert "holds features, not wafer maps: give it as --features" in said[0]
    assert len(set(said)) == 1
    assert not (tmp_path / "out").exists()


def test_arms_of_one_source_share_the_features() -> None:
    experiment = load_experiment("mean_z_vs_readout", ["data.n_maps=40"])
    data = load_features({arm: config.data for arm, config in experiment.arms.items()})
    assert data["mean_z"] is data["mean_z_readout"]


def test_progress_is_counted() -> None:
    experiment = load_experiment("mean_z_vs_readout", [*SMALL, "engine=xla"])
    config = dataclasses.replace(experiment.arms["mean_z"], head=LinearOptions(), circuit=None, engine=None)
    arms = {"a": config, "b": dataclasses.replace(config, training=TrainingConfig(epochs=1))}
    told: list[Progress] = []
    data = load_features({arm: config.data for arm, config in arms.items()})
    table = trust_table(arms, data, progress=told.append)
    assert [(state.stage, state.done, state.total) for state in told] == [("probes", step, 4) for step in range(4)]
    assert [state.text for state in told] == ["scores of a", "scores of b", "data", "pairing"]
    assert table.verdict != "fail"
    assert _count_steps(experiment.arms) == 8


def test_document_says_what_to_do_only_where_something_is_wrong() -> None:
    from qwafer.probes import Report

    bad = Report("p", "Is it?", "fail", "no | no", tolerance="t", meaning="It hurts.", remedy="Mend it.")
    good = dataclasses.replace(bad, name="q", verdict="pass", headline="yes")
    text = to_markdown(document_blocks(TrustTable((Section("matter", (bad, good)),))))
    assert text.count("Mend it.") == 1
    assert "no \\| no" in text
    assert "Verdict: **FAIL** (1 pass, 1 fail)" in text


def script(name: str) -> ModuleType:
    """Return a script of qwafer.diagnostics."""
    return importlib.import_module(f"qwafer.diagnostics.{name}")


def test_identity_script_shows_zeros_beside_the_expectation_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("gradient_identity").main(["--readout", "z_vec", "--route", "hamiltonian", "--qubits", "2"]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("readout[")]
    assert len(lines) == 2
    for line in lines:
        assert float(line[-2]) == 0
        assert abs(float(line[-1])) > 1e-3
    arguments = ["--readout", "z_vec", "--route", "contraction", "--qubits", "2", "--engine", "xla"]
    assert script("gradient_identity").main(arguments) == 0


def test_scripts_on_circuits_run(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--engine", "xla", "--qubits", "2", "--layers", "1"]
    assert script("gradient_agreement").main([*small, "--points", "1"]) == 0
    assert script("dead_parameters").main(small) == 0
    assert "inert: readout[0, :, 2] by structure" in capsys.readouterr().out
    assert script("expressive_power").main(small) == 0
    assert script("barren_plateau").main(["--max-qubits", "3", "--samples", "20", "--init-scale", "0.1"]) == 0
    assert "global, initial weights, per wire" in capsys.readouterr().out


def test_scripts_take_every_option_of_a_circuit(capsys: pytest.CaptureFixture[str]) -> None:
    common = script("_common")
    options = common.parser("What?")
    for text, entanglement in (([], "ring"), (["--entanglement", "linear"], "linear")):
        assert common.spec_of(options.parse_args(text), "mean_z").entanglement == entanglement
    assert common.spec_of(options.parse_args(["--ansatz", "separable"]), "mean_z").entanglement == "none"
    taken = {action.dest for action in options._actions}
    fields = {field.name for field in dataclasses.fields(LayeredOptions)} - {"n_qubits", "n_layers", "readout"}
    assert {*fields, "qubits", "layers"} <= taken  # the readout is each script's own
    assert script("dead_parameters").main(["--engine", "xla", "--entanglement", "rign"]) == 2
    assert "did you mean `ring`" in capsys.readouterr().err


def test_help_of_the_identity_script_gives_each_route_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("gradient_identity").main(["--help"])
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert {"hamiltonian", "contraction", "gates"} <= set(first)


def test_scripts_use_public_names_of_the_library() -> None:
    for path in SCRIPTS.glob("[!_]*.py"):
        assert "qwafer._" not in path.read_text(), path.name


def test_scripts_on_data_and_training_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(leaky_features(tmp_path / "leak.npz"))
    assert script("data_trust").main(["--features", path]) == 1
    assert "FAIL: leakage" in capsys.readouterr().out
    small = ["--engine", "xla", "--features", path, *settings()[4:], "--set", "data.task=multilabel"]
    small += ["--set", "head.alpha_init=0.002", "--set", "training.learning_rate=1e-6"]
    assert script("focal_stall").main(small) == 1
    assert "focal stall at gamma = 2: loss at 0.1733" in capsys.readouterr().out


@pytest.mark.slow
def test_script_on_nulls_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(leaky_features(tmp_path / "leak.npz"))
    small = ["--engine", "xla", "--features", path, *settings()[4:], "--set", "data.task=multilabel"]
    assert script("nulls").main([*small, "--out", str(tmp_path / "nulls")]) == 0
    assert "| frozen_random |" in capsys.readouterr().out


def test_every_script_explains_its_question() -> None:
    scripts = [path for path in SCRIPTS.glob("*.py") if not path.name.startswith("_")]
    assert len(scripts) >= 8
    for path in scripts:
        docstring = path.read_text().split('"""')[1]
        assert docstring.splitlines()[0].endswith("?"), path.name
        assert f"python -m qwafer.diagnostics.{path.stem}" in docstring


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["xla", "catalyst"])
def test_default_experiment_has_exactly_one_warning(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", engine, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert lines[-1] == "28 pass, 1 warn, 1 skip"
    warned = [line for line in lines if line.strip().startswith("warn ")]
    assert len(warned) == 1
    assert "sensitivity" in warned[0]
    assert "inert: readout[0, :, 2]" in " ".join(" ".join(lines).split())


def test_every_script_of_the_package_lies_in_diagnostics_too() -> None:
    folder = SCRIPTS.parents[1] / "diagnostics"
    names = sorted(path.name for path in SCRIPTS.glob("[!_]*.py"))
    assert sorted(path.name for path in folder.glob("*.py")) == names
    done = subprocess.run(
        [sys.executable, str(folder / "barren_plateau.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m qwafer.diagnostics.barren_plateau")
    for name in names:
        assert f'"qwafer.diagnostics.{name[:-3]}"' in (folder / name).read_text()
