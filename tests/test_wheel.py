"""The wheel, installed outside the checkout, runs every verb from an empty directory."""

import os
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from qwafer.cli.overview import VERBS

ROOT = Path(__file__).resolve().parents[1]
SHORT = (
    "--set",
    "engine=xla",
    "--set",
    "training.epochs=1",
    "--set",
    "training.max_doublings=0",
    "--jobs",
    "1",
    "--quiet",
)

MODEL = """
import qwafer
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.heads import LinearOptions
features = qwafer.features_from_maps(qwafer.read_maps("synthetic"), "spatial")
short = TrainingConfig(epochs=1, max_doublings=0)
config = RunConfig(head=LinearOptions(), data=DataConfig(task="multilabel"), training=short)
result = qwafer.train(config, features, seed=0)
qwafer.Model.from_run(result, features.provenance).save("model.safetensors")
import numpy as np
np.save("fresh.npy", qwafer.synthetic_maps(60, seed=9).maps)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of: a checkout keeps what it built before in `build`."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns("__pycache__", "results")
    for name in ("qwafer", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("qwafer-*.whl")
    return built


class Place:
    """An empty directory, and how a command is given there."""

    def __init__(self, folder, python, **environment):
        self.folder, self.python = folder, str(python)
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment

    def __call__(self, *words, status=(0,)):
        done = subprocess.run(
            [self.python, *words], capture_output=True, text=True, check=False, cwd=self.folder, env=self.environment
        )
        assert done.returncode in status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    """The packages of this environment, and qwafer from its wheel."""
    folder, target = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("target")
    install = ["pip", "--quiet", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    Place(folder, sys.executable)("-m", *install)
    return Place(folder, sys.executable, PYTHONPATH=str(target))


def test_the_wheel_holds_every_file_of_the_package_and_the_experiments(wheel):
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    package = {path.relative_to(ROOT) for path in (ROOT / "qwafer").rglob("*") if path.is_file()}
    assert {path for path in package if path.suffix != ".pyc"} <= held
    shipped = {path.name for path in held if path.parent.name == "experiments"}
    assert shipped == {path.name for path in (ROOT / "experiments").glob("*.toml")}
    (scripts,) = (name for name in held if name.name == "entry_points.txt")
    assert "qwafer = qwafer.cli.overview:main" in zipfile.ZipFile(wheel).read(str(scripts)).decode()


def test_verbs_of_an_installed_wheel_run_from_an_empty_directory(place):
    """After `pip install --target`, which leaves no record of where the experiments are."""
    found = Path(place("-c", "import qwafer; print(qwafer.__file__)").strip())
    assert ROOT not in found.parents
    assert Path(place.environment["PYTHONPATH"]) in found.parents
    listed = place("-m", "qwafer")
    assert all(f"qwafer.{verb} " in listed for verb in VERBS)
    names = {line.split()[0] for line in place("-m", "qwafer", "--list-experiments").splitlines()}
    assert names == {path.stem for path in (ROOT / "experiments").glob("*.toml")}
    place("-m", "qwafer", "extract", "--maps", "synthetic", "--maps-count", "120", "--out", "f.npz", "--quiet")
    sweep = ("mean_z_vs_readout", "--features", "f.npz", "--seeds", "1", "--descriptive", "--out", "out", *SHORT)
    place("-m", "qwafer", "ablate", *sweep)
    assert "mean_z" in (place.folder / "out" / "report.md").read_text()
    assert "out" in place("-m", "qwafer", "verify", "out")


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """A new environment that holds the wheel, and what it and its extras ask for, in the pinned versions."""
    folder = tmp_path_factory.mktemp("new")
    venv.create(folder / "venv", with_pip=True)
    place = Place(folder, folder / "venv" / "bin" / "python", OMP_NUM_THREADS="1")
    extras = f"{wheel}[completion,onnx,serve]"
    place("-m", "pip", "--quiet", "install", "--constraint", str(ROOT / "constraints.txt"), extras)
    (folder / "work").mkdir()
    place.folder = folder / "work"
    return place


@pytest.mark.wheel
@pytest.mark.timeout(3600)  # it downloads some hundred packages
def test_every_verb_runs_in_an_empty_environment(empty):
    """Of each verb a command that does its work, as a user of the wheel alone gives it."""
    run = Place(empty.folder, Path(empty.python).parent / "qwafer", **empty.environment)
    ran = set()

    def verb(name, *words, status=(0,)):
        ran.add(name)
        return run(name, *words, status=status)

    assert "ablate" in run()
    verb("extract", "--maps", "synthetic", "--maps-count", "120", "--out", "f.npz", "--quiet")
    epochs = ("--set", "training.epochs=1")
    verb("fit", "--network", "wafercnn", "--maps", "synthetic", "--maps-count", "60", "--out", "w.safetensors", *epochs)
    assert "seeds" in verb("plan", "--features", "f.npz", "--effect", "0.05", "--sd", "0.01")
    sweep = ("mean_z_vs_readout", "--features", "f.npz", "--seeds", "2", "--descriptive", *SHORT)
    verb("ablate", *sweep, "--out", "out")
    verb("ablate", "mean_z_vs_readout", "--dry-run")
    verb("bench", "bench", "--features", "f.npz", "--heads", "mlp,linear", "--seeds", "1", "--descriptive", *SHORT[2:])
    verb("verify", "out")
    few = ("--budget", "1", "--epochs", "1", "--sampler", "hypercube", "--no-compare", "--set", "data.n_maps=400")
    verb("search", "equal_budgets", "--space", "equal_budgets", *few, "--out", "searched", "--quiet")
    short = ("--set", "training.epochs=2", "--set", "data.n_maps=400")
    assert "pass" in verb("diagnose", "mean_z_vs_readout", "--engine", "xla", *short, "--quiet", status=(0, 1))
    empty("-c", MODEL)
    assert "wrong" in verb("errors", "model.safetensors", "--maps", "synthetic", "--out", "looked")
    verb("registry", "add", "line", "model.safetensors", "--version", "1.0.0", "--maps", "synthetic")
    (empty.folder / "line" / "gate.toml").write_text("macro_f1 = 0.0\nclass_f1 = 0.0\n")
    verb("registry", "promote", "line", "1.0.0")
    for form in ("stablehlo", "onnx"):
        verb("export", "model.safetensors", "--format", form, "--maps", "synthetic", "--out", f"model.{form}")
    ran.add("serve")
    _serve(run)
    verb("monitor", "line", "--out", "drift", status=(0, 1))
    assert ran == set(VERBS)
    assert {path.name for path in empty.folder.iterdir()} >= {"out", "bench_reports", "line", "model.onnx", "drift"}


def _serve(run):
    """Start the service, ask it for its health, and give it maps."""
    command = [run.python, "serve", "line", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=run.folder, env=run.environment) as service:
        try:
            assert service.stdout is not None
            port = service.stdout.readline().strip().rsplit(":", 1)[1]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                assert "1.0.0" in answer.read().decode()
            maps = (run.folder / "fresh.npy").read_bytes()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/classify", data=maps, timeout=60) as answer:
                assert answer.status == 200
        finally:
            service.terminate()
