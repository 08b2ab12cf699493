"""Sweeps from the command line: killed, resumed, extended, with failing runs, and refused."""

import dataclasses
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qwafer import engines
from qwafer._errors import InputError
from qwafer._records import save_record
from qwafer.ablate import main
from qwafer.circuits import CircuitSpec, GateCircuit
from qwafer.config import DataConfig
from qwafer.engines.expected import expected_steps
from qwafer.execution import Threads, processes
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.studies import run_experiment
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.sources import provide_features, source_key
from qwafer.training import RunResult
from tests.factories import feature_set, two_heads

ROOT = Path(__file__).resolve().parents[1]
TOML = two_heads(seeds=3, task="a")
RUNS = [(arm, seed) for seed in range(3) for arm in ("linear", "mlp")]


def two_labels(**changes):
    """Ninety examples; no example has the second label."""
    one = feature_set(90, seed=1, signal=0.7)
    labels = np.pad(one.labels, ((0, 0), (0, 1)))
    return dataclasses.replace(one, **{"labels": labels, "label_names": ("a", "never"), **changes})


@pytest.fixture(scope="module", autouse=True)
def no_revision():
    """Other hands may commit while these tests run: the workers see no repository."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GIT_DIR", os.devnull)
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "two.toml").write_text(TOML)
    two_labels().save(folder / "f.npz")
    return folder


def command(work, out, *more):
    return [
        str(work / "two.toml"),
        "--features",
        str(work / "f.npz"),
        "--out",
        str(out),
        "--quiet",
        "--descriptive",
        *more,
    ]


@pytest.fixture(scope="module")
def unbroken(work):
    """An undisturbed sweep with two workers: its output directory."""
    assert main(command(work, work / "unbroken")) == 0
    return work / "unbroken"


def run_file(out, arm, seed):
    return out / "runs" / arm / f"seed-{seed}.json"


def complete(out):
    return [run for run in RUNS if run_file(out, *run).is_file()]


def same_summary(first, second):
    assert (first / "summary.json").read_bytes() == (second / "summary.json").read_bytes()


def test_what_is_written(unbroken):
    assert complete(unbroken) == RUNS
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["pairing"]["equal"] == ["data", "split", "batches"]
    assert summary["arms"]["mlp"]["changes"] == {"head.dropout": 0.0, "head.hidden": 8, "head.name": "mlp"}
    names = sorted(path.name for path in unbroken.iterdir() if not path.name.startswith("."))
    assert names == ["experiment.json", "figures", "report.md", "runs", "summary.json", "timings.json"]
    assert not [path for path in unbroken.rglob(".*") if path.name != ".lock"]  # no temporary file is left


def test_a_killed_sweep_resumes_and_redoes_nothing(work, unbroken):
    out = work / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "qwafer.ablate", *command(work, out, "--jobs", "1")],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(complete(out)) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {run: run_file(out, *run).stat() for run in complete(out)}
    assert 2 <= len(before) < len(RUNS)
    assert not (out / "summary.json").exists()

    assert main(command(work, out)) == 0
    for run, stat in before.items():
        after = run_file(out, *run).stat()
        assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    same_summary(out, unbroken)


FAILING = """
import dataclasses, os
from qwafer.execution import LocalProcesses

def die(payload, report):
    os.kill(os.getpid(), 9)

def fail(payload, report):
    raise FloatingPointError("it\\nbroke")

class Some(LocalProcesses):
    failing = {"mlp/seed-1": "die", "mlp/seed-2": "fail"}

    def run(self, jobs, on_event):
        super().run([self._changed(job) for job in jobs], on_event)

    def _changed(self, job):
        function = self.failing.get(job.key)
        return job if function is None else dataclasses.replace(job, function=f"{__name__}:{function}")

class All(Some):
    failing = {"mlp/seed-0": "fail"}
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """The module `failing_sweep`, whose executors let some runs fail."""
    (tmp_path / "failing_sweep.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    yield "failing_sweep"
    sys.modules.pop("failing_sweep", None)


def test_a_failing_run_is_recorded_and_tried_again(work, unbroken, failing, capsys):
    out = work / "failing"
    assert main(command(work, out, "--jobs", "1", "--executor", f"{failing}:Some")) == 0
    assert complete(out) == [run for run in RUNS if run not in (("mlp", 1), ("mlp", 2))]
    summary = json.loads((out / "summary.json").read_text())
    failed = summary["arms"]["mlp"]["failed"]
    assert "signal 9 (SIGKILL)" in failed["1"]["error"]
    assert failed["2"] == {"type": "FloatingPointError", "error": "it broke", "details": ""}
    assert summary["comparisons"][0]["dropped_seeds"] == [1, 2]
    record = json.loads((out / "runs" / "mlp" / "seed-2.error.json").read_text())
    assert "Traceback" in record["details"]
    text = " ".join(capsys.readouterr().out.split())  # the terminal breaks lines
    assert "warning: mlp: 1 run failed (seed 1)" in text

    kept = run_file(out, "linear", 0).stat().st_mtime_ns
    assert main(command(work, out)) == 0
    assert not list(out.rglob("*.error.json"))
    assert run_file(out, "linear", 0).stat().st_mtime_ns == kept
    same_summary(out, unbroken)


def test_nothing_to_compare_is_no_success(work, failing, capsys):
    """Every run of one arm fails: the report says so, and so does the exit status."""
    out = work / "nothing"
    assert main(command(work, out, "--jobs", "1", "--seeds", "1", "--executor", f"{failing}:All")) == 1
    assert "nothing can be said" in " ".join(capsys.readouterr().out.split())
    assert "nothing can be said" in (out / "report.md").read_text()


def test_workers_that_cannot_start_leave_nothing(work, monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "raise SystemExit('broken')"))
    with pytest.raises(
        RuntimeError, match="no arm can start; linear: WorkerDied: the worker process ended with status 1"
    ):
        main(command(work, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_figures")
def test_the_executor_changes_no_bit(work, unbroken):
    """In this very process, one run after the other."""
    assert main(command(work, work / "serial", "--executor", "serial")) == 0
    for run in RUNS:
        one, two = (json.loads(run_file(folder, *run).read_text()) for folder in (work / "serial", unbroken))
        for field in ("val", "test", "initial", "curves", "digests", "best_epoch"):
            assert one[field] == two[field]


@pytest.mark.usefixtures("without_figures")
def test_every_run_is_read_once(work, tmp_path, monkeypatch):
    """Two complete runs and one that is done now; the executor is the caller's."""
    experiment = load_experiment(work / "two.toml", [f"data.source={work / 'f.npz'}"])
    experiment = dataclasses.replace(experiment, seeds=(0,))
    assert run_experiment(experiment, tmp_path / "out", executor=Threads(), descriptive=True).n_done == 2
    run_file(tmp_path / "out", "mlp", 0).unlink()
    loaded, load = [], RunResult.load

    def counted(path):
        result = load(path)
        loaded.append(path)
        return result

    monkeypatch.setattr(RunResult, "load", counted)
    outcome = run_experiment(experiment, tmp_path / "out", executor=Threads(), descriptive=True)
    assert sorted(loaded) == [run_file(tmp_path / "out", arm, 0) for arm in ("linear", "mlp")]
    assert (outcome.n_done, outcome.n_failed) == (1, 0)
    assert outcome.results.results["mlp"][0].seed == 0


def test_an_output_directory_belongs_to_one_experiment(work, unbroken, capsys):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")}
    other = work / "other.npz"
    two_labels(features=two_labels().features + 1).save(other)
    cases = [
        (command(work, unbroken, "--set", "training.epochs=3"), "training.epochs of arm linear is 2 there, 3 here"),
        (["--out", str(unbroken), "--features", str(work / "f.npz")], "two there, mean_z_vs_readout here"),
        (
            [str(work / "two.toml"), "--features", str(other), "--out", str(unbroken), "--descriptive"],
            "other data (digest of arm linear",
        ),
    ]
    for arguments, sentence in cases:
        assert main(arguments) == 2
        assert sentence in refusal(capsys)
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*")} == before


def refusal(capsys):
    """Return the one line on stderr that a refused command prints."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.usefixtures("without_figures")
def test_one_worker_and_more_seeds_later_change_no_bit(work, unbroken):
    """Seeds 0 to 1, then 0 to 2, in one worker: the same as at once in two, and a warning that says so."""
    out = work / "extended"
    assert main(command(work, out, "--jobs", "1", "--seeds", "2")) == 0
    kept = run_file(out, "mlp", 1).stat().st_mtime_ns
    assert main(command(work, out, "--jobs", "1")) == 0
    assert run_file(out, "mlp", 1).stat().st_mtime_ns == kept
    for run in RUNS:
        one, two = (json.loads(run_file(folder, *run).read_text()) for folder in (out, unbroken))
        for volatile in ("timings", "compile_cache", "digest"):  # the digest is over the seconds, too
            del one[volatile], two[volatile]
        assert one == two
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (out, unbroken))
    assert [w for w in first.pop("warnings") if w not in second["warnings"]] == [
        "seeds were added after results could be seen (2, then 3): p values are too small where the additions "
        "depended on the results."
    ]
    del second["warnings"], first["checksum"], second["checksum"]
    (added,) = first["experiment"].pop("additions")
    assert (added["arms"], added["seeds"], added["runs"]) == ([], [2], 4)
    assert second["experiment"].pop("additions") == []
    assert first == second


@pytest.mark.usefixtures("without_figures")
def test_a_moved_directory_and_moved_features_still_resume(work, unbroken, tmp_path):
    import shutil

    shutil.copytree(unbroken, tmp_path / "moved")
    shutil.copy(work / "f.npz", tmp_path / "renamed.npz")
    arguments = [str(work / "two.toml"), "--features", str(tmp_path / "renamed.npz"), "--out", str(tmp_path / "moved")]
    stat = run_file(tmp_path / "moved", "mlp", 0).stat().st_mtime_ns
    assert main([*arguments, "--quiet", "--descriptive"]) == 0
    assert run_file(tmp_path / "moved", "mlp", 0).stat().st_mtime_ns == stat


def test_one_sweep_at_a_time(work, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(command(work, tmp_path / "out")) == 2
    assert "another sweep is running" in refusal(capsys)


def test_dry_run_writes_nothing(work, unbroken, tmp_path, capsys):
    assert main(command(work, tmp_path / "out", "--dry-run")) == 0
    assert "6 of 6 runs to do" in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())
    assert main(command(work, unbroken, "--dry-run", "--seeds", "4")) == 0
    text = capsys.readouterr().out
    assert "2 of 8 runs to do" in " ".join(text.split())
    assert "0-2" in text


class Call:
    def __reduce__(self):
        return os.system, ("touch called",)


def bad_files(folder):
    """Write each bad input and return the arguments that use it with a part of the refusal."""
    np.savez(folder / "keys.npz", wrong=np.zeros(3))
    with (folder / "call.pkl").open("wb") as file:
        pickle.dump(Call(), file)
    maps = np.ones((20, 8, 8), np.int32)
    maps[3, 2, 2] = 7
    np.savez(folder / "values.npz", arr_0=maps, arr_1=np.zeros((20, 8), np.int32))
    good = two_labels()
    good.save(folder / "good.npz")
    arrays = dict(np.load(folder / "good.npz"))
    arrays["features"] = np.where(np.arange(360).reshape(90, 4) == 5, np.nan, arrays["features"])
    np.savez(folder / "nan.npz", **arrays)
    f = ["--features", str(folder / "good.npz")]
    return {
        "missing maps": (["--maps", str(folder / "none.npz")], "none.npz"),
        "missing features": (["--features", str(folder / "none.npz")], "none.npz"),
        "wrong keys as maps": (["--maps", str(folder / "keys.npz")], "keys.npz has the arrays wrong"),
        "wrong keys as features": (["--features", str(folder / "keys.npz")], "keys.npz"),
        "features as maps": (["--maps", str(folder / "good.npz")], "give it as --features"),
        "maps as features": (["--features", str(folder / "values.npz")], "values.npz"),
        "a pickle that calls": (["--maps", str(folder / "call.pkl")], "system"),
        "values outside": (["--maps", str(folder / "values.npz")], "7"),
        "non-finite features": (["--features", str(folder / "nan.npz")], "`features` must be finite"),
        "one class": ([*f, "--set", "data.task=never"], "the task never has only negative examples"),
        "unknown task": ([*f, "--set", "data.task=b"], "`task` must be one of"),
        "unknown option": ([*f, "--set", "training.learning_rat=1e-3"], "did you mean `training.learning_rate`"),
        "equal arms": ([*f, "--set", "head=linear", "--set", "head.hidden=8"], "has no effect in any arm"),
        "unknown metric": ([*f], "`metric` must be test. and one of"),
        "no jobs": ([*f, "--jobs", "0"], "`--jobs` must be at least 1"),
        "unknown executor": ([*f, "--executor", "loca"], "did you mean `local`"),
        "no seeds": ([*f, "--seeds", "0"], "between 1 and 10000 seeds"),
        "out is a file": ([*f, "--out", str(folder / "good.npz")], "is a file"),
        "out holds other things": ([*f, "--out", str(folder)], "holds other things"),
    }


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    cases = bad_files(folder)
    before = sorted(folder.rglob("*"))
    for case, (arguments, sentence) in cases.items():
        Path("two.toml").write_text(TOML.replace("test.roc_auc", "test.magic") if case == "unknown metric" else TOML)
        out = [] if "--out" in arguments else ["--out", "out"]
        assert main(["two.toml", "--descriptive", *arguments, *out]) == 2, case
        assert sentence in refusal(capsys), case
        assert sorted(folder.rglob("*")) == before, case
        assert not Path("out").exists(), case
        assert not Path("called").exists(), case


def test_arms_that_resolve_to_the_same_configuration(work, tmp_path, capsys):
    arguments = ["--features", str(work / "f.npz"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--set", "circuit.readout=mean_z"]) == 2
    assert "the arms mean_z and mean_z_readout resolve to the same configuration" in refusal(capsys)
    assert not (tmp_path / "out").exists()


def test_more_qubits_than_memory_holds(work, tmp_path, capsys):
    arguments = ["--features", str(work / "f.npz"), "--out", str(tmp_path / "out"), "--set", "data.task=a", "--quiet"]
    assert main([*arguments, "--set", "engine=xla", "--set", "circuit.n_qubits=45"]) == 2
    assert "use fewer qubits" in refusal(capsys)
    assert not (tmp_path / "out").exists()


def test_a_missing_experiment(capsys):
    assert main(["nothing.toml"]) == 2
    assert "nothing.toml does not exist" in refusal(capsys)


def test_maps_are_extracted_once_into_the_output_directory(tmp_path):
    """Arms that share maps and backbone share one file, which stays; other maps are refused unextracted."""
    overrides = [
        "data.source=synthetic",
        "data.n_maps=60",
        "data.task=any",
        "training.epochs=1",
        "training.max_doublings=0",
    ]
    (tmp_path / "two.toml").write_text(TOML)
    experiment = load_experiment(tmp_path / "two.toml", overrides)
    directory = OutputDirectory(tmp_path / "out")
    seen = []
    arms = {arm: config.data for arm, config in experiment.arms.items()}
    folder = directory.path / "features"
    sources = provide_features(arms, folder, progress=seen.append)
    assert seen[-1].done == seen[-1].total > 0
    (file,) = (tmp_path / "out" / "features").iterdir()
    assert {source.path for source in sources.values()} == {file}
    assert FeatureSet.load(file).digest() == sources["mlp"].record.digest
    directory.claim(experiment, {arm: source.record for arm, source in sources.items()})

    stat = file.stat().st_mtime_ns
    assert provide_features(arms, folder)["linear"].record == sources["linear"].record
    assert file.stat().st_mtime_ns == stat
    record = directory.record()
    other = dataclasses.replace(record.data["linear"], maps_sha256="0" * 64)
    changed = dataclasses.replace(record, data={**record.data, "linear": other})
    save_record(directory.path / "experiment.json", changed)
    with pytest.raises(InputError, match="same experiment on other data"):
        run_experiment(experiment, directory.path, descriptive=True)
    assert [*(tmp_path / "out" / "features").iterdir()] == [file]


def test_arms_of_different_examples_have_files_of_their_own():
    synthetic = ({}, {"task": "any", "limit": 50, "backbone": "other"}, {"n_maps": 50}, {"seed": 1})
    files = ({"source": "x"}, {"source": "x", "seed": 3}, {"source": "x", "reader": "lswmd"})
    keys = [source_key(DataConfig(**options)) for options in (*synthetic, *files)]
    assert keys[0] == keys[1]
    assert keys[4] == keys[5]
    assert len(set(keys)) == 5


@pytest.mark.parametrize("verb", ["ablate", "bench", "diagnose", "extract", "verify"])
def test_help_is_light(verb):
    """Nothing heavy is imported before the arguments are parsed."""
    heavy = ["jax", "numpy", "scipy", "pandas", "sklearn", "matplotlib", "rich", "optax", "pennylane", "catalyst"]
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{verb!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module('qwafer.{verb}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        f"    print('status', stop.code, *(name for name in {heavy} if name in sys.modules))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"usage: python -m qwafer.{verb}" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "status 0"


def test_expected_steps_are_known_for_the_slow_default_alone():
    spec = CircuitSpec(4, 2)
    expected = expected_steps(engines.get("catalyst"), spec, 64)
    assert list(expected) == ["catalyst", "xla"]
    assert expected["catalyst"] > 20 * expected["xla"] > 0
    for engine in (engines.get("xla"), engines.get("reference"), engines.get("catalyst", shots=10)):
        assert expected_steps(engine, spec, 64) == {}
    assert expected_steps(engines.get("catalyst"), GateCircuit(1, (), n_inputs=0), 64) == {}


@pytest.mark.usefixtures("without_figures")
def test_a_sweep_says_what_a_faster_engine_would_take(tmp_path):
    toml = two_heads(seeds=2, task="L0") + (
        '[arms.quantum]\nhead = "quantum"\nengine = "catalyst"\ncircuit.n_qubits = 2\ncircuit.n_layers = 1\n'
    )
    (tmp_path / "e.toml").write_text(toml)
    feature_set(150, seed=1).save(tmp_path / "f.npz")
    seen = []
    experiment = load_experiment(tmp_path / "e.toml", [f"data.source={tmp_path / 'f.npz'}"])
    outcome = run_experiment(experiment, tmp_path / "out", executor=Threads(1), descriptive=True, progress=seen.append)
    assert outcome.n_failed == 0
    (note,) = [state.note for state in seen if state.note]
    steps = sum(result.timings.steps for result in outcome.results.results["quantum"].values())
    assert note.startswith(f"engine catalyst: the first {steps} steps of 2 runs take about ")
    assert "--set engine=xla would take" in note
