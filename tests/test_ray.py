"""Sweeps on a Ray cluster (`make test-ray`): two nodes here, one lost, a worker and the driver killed."""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qwafer
from qwafer._errors import InputError
from qwafer.backbones import extract, extractor
from qwafer.execution import Job, LocalProcesses, make_executor, run_all
from qwafer.experiment import load_experiment
from qwafer.studies import run_experiment
from qwafer.sweeps import OutputDirectory

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of files and processes of Ray
]
ray = pytest.importorskip("ray", reason="the executor `ray` needs Ray: pip install 'qwafer[ray]'")
ROOT = Path(__file__).resolve().parents[1]

TOML = """
seeds = 8
metric = "test.roc_auc"
engine = "xla"
[data]
task = "any"
n_maps = 400
[training]
epochs = 3
max_doublings = 0
[circuit]
n_qubits = 3
[arms.mean_z]
circuit.readout = "mean_z"
[arms.trained]
"""

JOBS = """
import os, time
from pathlib import Path
from qwafer import InputError
from qwafer.execution import plain

@plain
def act(payload, report):
    do = payload["do"]
    if do == "once":
        with open(payload["log"], "a") as file:
            file.write("x")
        if os.path.getsize(payload["log"]) == 1:
            os.kill(os.getpid(), 9)
    if do == "die":
        os._exit(3)
    if do == "fail":
        raise InputError("no such thing")
    if do == "copy":
        report(0.5)
        time.sleep(1.5)
        Path(payload["to"]).write_bytes(Path(payload["from"]).read_bytes() * 2)
        assert payload["to"] != payload["there"]
    if do == "hang":
        time.sleep(3600)
    if do == "nap":
        time.sleep(0.01)
    return {"pid": os.getpid()}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "ray_jobs.py").write_text(JOBS)
    sys.path.insert(0, str(folder))
    yield "ray_jobs:act"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def cluster(module):
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def executor(cluster):
    with make_executor("ray", jobs=2, address=cluster.address) as found:
        yield found


def leftovers():
    import tempfile

    return list(Path(tempfile.gettempdir()).glob("qwafer-ray-*"))


def test_files_travel_and_the_driver_writes(executor, module, tmp_path):
    (tmp_path / "in.txt").write_text("ab")
    there = str(tmp_path / "deep" / "out.txt")
    payload = {"do": "copy", "from": str(tmp_path / "in.txt"), "to": there, "there": "x"}
    events = []
    job = Job("copy", module, {**payload, "there": there + " "}, reads=(payload["from"],), writes=(there,))
    run_all(executor, [job], events.append)
    assert Path(there).read_text() == "abab"
    assert [event.kind for event in events] == ["started", "progress", "done"]
    assert events[-1].node in {node["NodeID"] for node in ray.nodes()}


def test_a_dead_process_costs_its_job_nothing(executor, module, tmp_path):
    log = str(tmp_path / "log")
    assert run_all(executor, [Job("once", module, {"do": "once", "log": log})])["once"]["pid"]
    assert Path(log).read_text() == "xx"


def test_what_always_dies_fails_in_the_end_and_what_raises_at_once(executor, module):
    failures = {}

    def note(event):
        if event.failure is not None:
            failures[event.key] = event.failure

    executor.run([Job("die", module, {"do": "die"}), Job("fail", module, {"do": "fail"})], note)
    assert failures["die"].type == "WorkerDied"
    assert (failures["fail"].type, failures["fail"].error) == ("InputError", "no such thing")


def test_silence_ends_a_job(executor, module):
    failures = []
    executor.run([Job("hang", module, {"do": "hang"}, timeout=3)], lambda e: failures.append(e.failure))
    assert failures[-1].type == "TimedOut"


def test_a_cluster_that_is_not_there_is_one_sentence():
    code = "from qwafer.execution import *; make_executor('ray', address='127.0.0.1:1').run([Job('a', 'm:f')], print)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert "InputError: there is no Ray cluster at 127.0.0.1:1" in done.stderr


def test_a_local_executor_has_no_address():
    with pytest.raises(InputError, match="address"):
        make_executor("local", 2, address="auto")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "two.toml"
    path.write_text(TOML)
    return load_experiment(path)


@pytest.fixture(scope="module")
def local(experiment, tmp_path_factory):
    """What local processes give."""
    with LocalProcesses(2) as executor:
        return run_experiment(experiment, tmp_path_factory.mktemp("local"), executor=executor).results.results


def assert_same_runs(found, local):
    assert {arm: sorted(runs) for arm, runs in found.items()} == {arm: sorted(runs) for arm, runs in local.items()}
    for arm, runs in local.items():
        for seed, run in runs.items():
            assert found[arm][seed].same_outputs(run), (arm, seed)


def test_a_sweep_survives_a_lost_node_a_killed_worker_and_a_killed_driver(experiment, local, cluster, tmp_path):
    """Every run is done exactly once in the end, and equals that of local processes bit for bit."""
    extra = cluster.add_node(num_cpus=1)
    out = tmp_path / "out"
    (tmp_path / "two.toml").write_text(TOML)
    command = [
        sys.executable,
        "-m",
        "qwafer.ablate",
        str(tmp_path / "two.toml"),
        "--out",
        str(out),
        "--executor",
        "ray",
    ]
    command += ["--address", cluster.address, "--jobs", "3", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def done():
        return len(list(out.glob("runs/*/seed-?.json")))

    def wait_for(number, process):
        end = time.monotonic() + 400
        while done() < number:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.2)

    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(2, first)
    first.kill()
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/seed-?.json")}
    assert 2 <= len(before) < 16
    second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(len(before) + 1, second)
    cluster.remove_node(extra, allow_graceful=False)
    victims = [p for p in Path("/proc").glob("[0-9]*") if b"ray::_Worker" in (p / "cmdline").read_bytes()]
    assert victims
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(victims[0].name), signal.SIGKILL)
    _said, errors = second.communicate(timeout=500)
    assert second.returncode == 0, errors
    results = OutputDirectory(out).read(experiment).results
    assert_same_runs(results, local)
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written  # complete runs were not done again
    assert not list(out.glob("**/.qwafer-*"))


def test_many_short_jobs_leave_nothing_behind(executor, module):
    jobs = [Job(str(k), module, {"do": "nap"}) for k in range(300)]
    assert len(run_all(executor, jobs)) == 300
    executor.__exit__(None, None, None)
    assert not leftovers()


def test_the_numbers_do_not_depend_on_the_executor(experiment, local, executor, tmp_path):
    found = run_experiment(experiment, tmp_path / "out", executor=executor)
    assert_same_runs(found.results.results, local)
    record = json.loads(next(tmp_path.glob("out/runs/*/seed-0.json")).read_text())
    assert record["seed"] == 0
    assert np.isfinite(record["test"]["macro"]["roc_auc"])


def test_an_extraction_on_a_cluster_gives_the_same_bits(executor, tmp_path):
    maps = qwafer.synthetic_maps(200, seed=3)
    backbone = dataclasses.replace(extractor("spatial"), compute_batch=64)
    found = extract(maps, backbone, tmp_path / "f.npz", batch=64, executor=executor)
    np.testing.assert_array_equal(found.features, extract(maps, backbone, tmp_path / "g.npz").features)
    assert found.digest() == qwafer.FeatureSet.load(tmp_path / "g.npz").digest()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_jobs_leave_nothing_behind(cluster, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = importlib.import_module("executors").measure
    found = measure(lambda: make_executor("ray", jobs=2, address=cluster.address), 10_000, 0.01)
    assert found["growth"] < 64 * 2**20
    assert not [each for each in found["left"] if "ray::IDLE" not in each]  # the cluster's own, which it keeps


def test_the_experiments_run_on_a_cluster(cluster, monkeypatch, tmp_path):
    """`make experiments` by its script, on synthetic maps: the readout over its seeds, shortened."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    script = importlib.import_module("run_all")
    short = ["engine=xla", "training.epochs=1", "training.max_doublings=0", "data.n_maps=200"]

    def shortened(name, *_, **__):
        return load_experiment(name, short), None

    monkeypatch.setattr(script, "with_data", shortened)
    monkeypatch.setattr(script, "N_SYNTHETIC", 200)
    words = ["mean_z_vs_readout", "--synthetic", "--out", str(tmp_path), "--executor", "ray", "--address"]
    assert script.main([*words, cluster.address, "--jobs", "2"]) == 0
    experiment = load_experiment("mean_z_vs_readout", short)
    assert not OutputDirectory(tmp_path / "mean_z_vs_readout").read(experiment).pending
