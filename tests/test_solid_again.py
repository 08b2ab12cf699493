"""What broke when the tool that was called solid was attacked once more, by someone who had not written it."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from qwafer import InputError, Model, engines
from qwafer.ablate import main
from qwafer.circuits import CircuitSpec
from qwafer.config import DataConfig, RunConfig
from qwafer.experiment import Experiment
from qwafer.heads import LinearOptions
from qwafer.studies import verify
from qwafer.training import train
from tests.factories import feature_set, training_options, two_heads

pytestmark = pytest.mark.usefixtures("without_figures")
SHORT = ["--executor", "serial", "--quiet", "--descriptive"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with an experiment, its features, and a finished sweep in `out`."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "e.toml").write_text(two_heads(seeds=2, task="L0"))
    feature_set(120, seed=1, signal=0.5).save(folder / "f.npz")
    assert main(arguments(folder, folder / "out")) == 0
    return folder


@pytest.fixture
def out(swept, tmp_path):
    """A copy of the finished sweep."""
    return shutil.copytree(swept / "out", tmp_path / "out")


def arguments(folder, out, *more):
    return [str(folder / "e.toml"), "--features", str(folder / "f.npz"), "--out", str(out), *SHORT, *more]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--jobs", "0"], "--jobs"),
        (["--executor", "nope"], "executor"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(swept, tmp_path, capsys, more, says):
    words = [word for word in arguments(swept, tmp_path / "new") if word not in ("--executor", "serial")]
    assert main([*words, "--dry-run", *more]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["xla", "catalyst", "reference"])
def test_a_dry_run_asks_for_the_memory_of_a_circuit(swept, tmp_path, capsys, engine):
    toml = (
        two_heads(seeds=2, task="L0") + f'[arms.large]\nhead = "quantum"\nengine = "{engine}"\ncircuit.n_qubits = 40\n'
    )
    (tmp_path / "e.toml").write_text(toml)
    (tmp_path / "f.npz").symlink_to(swept / "f.npz")
    assert main([*arguments(tmp_path, tmp_path / "new"), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "arm large" in error
    assert "memory" in error


@pytest.mark.parametrize("name", ["experiment.json", "timings.json", "summary.json"])
@pytest.mark.parametrize("content", ["{}", "null", "[]"])
def test_a_file_that_says_nothing_is_damaged_and_made_again(swept, out, name, content):
    (out / name).write_text(content)
    assert [path.name for path in verify(out).damaged] == [name]
    if name == "experiment.json":
        with pytest.warns(UserWarning, match="set aside as experiment.json.damaged"):
            assert main(arguments(swept, out)) == 0
    else:
        assert main(arguments(swept, out)) == 0
    assert not verify(out).damaged


def test_a_missing_record_of_the_experiment_is_named_and_made_again(swept, out):
    (out / "experiment.json").unlink()
    assert [path.name for path in verify(out).damaged] == ["experiment.json"]
    with pytest.warns(UserWarning, match="is missing, and with it what was expected"):
        assert main(arguments(swept, out)) == 0
    assert not verify(out).damaged


def test_a_folder_of_somebody_else_stays_refused(swept, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("mine")
    assert main(arguments(swept, tmp_path)) == 2
    assert "holds other things" in capsys.readouterr().err


def test_the_run_of_another_arm_is_no_run_of_this_one(out):
    for end in ("json", "npz"):
        shutil.copy(out / "runs" / "mlp" / f"seed-1.{end}", out / "runs" / "linear" / f"seed-1.{end}")
    damaged = verify(out).damaged
    assert [path.parent.name for path in damaged] == ["linear"]
    assert "is not a run of arm linear" in next(iter(damaged.values()))


def test_names_of_arms_are_bounded():
    arms = {"a": RunConfig(), "b" * 101: RunConfig(training=training_options(epochs=7))}
    with pytest.raises(InputError, match="at most 100 letters"):
        Experiment("e", arms, "a", (0, 1), "test.roc_auc")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
@pytest.mark.parametrize("name", ["experiment.json", "runs/linear/seed-1.json"])
def test_what_is_no_regular_file_is_set_aside(swept, out, kind, name):
    path = out / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert [found.name for found in verify(out).damaged] == [path.name]
    with pytest.warns(UserWarning, match="not a regular file.*it was set aside"):
        assert main(arguments(swept, out)) == 0
    assert not verify(out).damaged


def test_a_logit_that_is_not_finite_is_an_error():
    data = feature_set(120, seed=1, signal=0.5)
    data = dataclasses.replace(data, features=data.features * np.float32(1e-3))
    config = RunConfig(head=LinearOptions(), training=training_options(epochs=1), data=DataConfig(task="L0"))
    result = train(config, data, 0)
    large = np.full((3, data.features.shape[1]), 3e38, "float32")
    large[0] = 0
    with pytest.raises(InputError, match="no finite logit for 2 of 3 examples, the first in row 1"):
        result.predictor.logits(large)
    nan = jax.tree.map(lambda leaf: leaf * np.nan, result.predictor.head.params)
    diverged = dataclasses.replace(result.predictor, head=result.predictor.head.with_parameters(nan))
    with pytest.raises(InputError, match="diverged"):
        diverged.probabilities(data)
    with pytest.raises(InputError, match="must be an Extractor or a provenance"):
        Model.from_run(result, None)


def test_an_experiment_that_changed_and_has_another_name_is_refused_for_the_change(swept, out, tmp_path, capsys):
    (tmp_path / "other.toml").write_text(two_heads(seeds=2, task="L0").replace("epochs = 2", "epochs = 3"))
    words = [str(tmp_path / "other.toml"), *arguments(swept, out)[1:]]
    assert main(words) == 2
    assert "training.epochs of arm linear is 2 there, 3 here" in capsys.readouterr().err


def test_a_sweep_that_grew_under_another_name_is_one_experiment(swept, tmp_path):
    assert main(arguments(swept, tmp_path / "out")) == 0
    more = two_heads(seeds=2, task="L0") + '[arms.tree]\nhead = "tree"\n'
    (tmp_path / "larger.toml").write_text(more)
    assert main([str(tmp_path / "larger.toml"), *arguments(swept, tmp_path / "out")[1:]]) == 0
    (reads,) = json.loads((tmp_path / "test-reads.json").read_text())["data"].values()
    assert [read["runs"] for read in reads] == [6]


def test_sizes_are_refused_quickly_and_odd_arrays_in_a_sentence(tmp_path, capsys):
    with pytest.raises(InputError, match="use fewer qubits or layers"):
        engines.get("reference").program(CircuitSpec(2, 20_000), 2)
    program = engines.get("xla").program(CircuitSpec(2, 1), 2)
    weights = {"ansatz": np.zeros((1, 2, 3), "float32")}
    with pytest.raises(InputError, match="must hold real numbers"):
        program(weights, jax.random.split(jax.random.key(0), 4).reshape(2, 2))
    assert main([str(tmp_path)]) == 2
    assert "is not a file" in capsys.readouterr().err
