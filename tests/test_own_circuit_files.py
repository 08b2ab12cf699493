"""A function that changes under a name: nothing that was trained with the old one is taken for the new one's."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import qwafer
from qwafer.circuits import CIRCUITS
from qwafer.circuits.function_options import _captured
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.execution import make_executor
from qwafer.experiment import Experiment
from qwafer.heads import LinearOptions
from qwafer.studies import Dimension, run_experiment, run_search
from qwafer.training import Predictor
from qwafer.training import predictor as predictors

BODY = """import pennylane as qml


def body(weights, x):
    qml.AngleEmbedding(x, wires=range(2))
    qml.{gate}(wires=[0, 1])
    qml.RX(weights["w"][0], wires=1)
    return qml.expval(qml.Z(0)), qml.expval(qml.Z(1))
"""


@pytest.fixture
def own(tmp_path):
    """Write the function, with another gate when called again; a process that starts anew would import it."""
    path = tmp_path / "with a space" / "own.py"
    path.parent.mkdir()

    def write(gate="CNOT"):
        path.write_text(BODY.format(gate=gate))
        for name in [name for name in sys.modules if name.startswith("qwafer_file_")]:
            monkeypatch.delitem(sys.modules, name)
        _captured.cache_clear()
        return CIRCUITS.get("function")(f"{path}:body", n_inputs=2, weights="w=1", readout="measured")

    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write


def config(circuit, folder):
    features = np.random.default_rng(0).normal(size=(120, 3))
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 0], axis=1).astype(np.uint8)
    data = folder / "own.npz"
    if not data.exists():
        qwafer.FeatureSet.from_arrays(features, labels).save(data)
    training = TrainingConfig(epochs=1, batch_size=32, max_doublings=0)
    return RunConfig(circuit=circuit, engine=qwafer.engines.get("xla"), data=DataConfig(str(data)), training=training)


def train(config, seed=0, **options):
    return qwafer.train(config, qwafer.FeatureSet.load(config.data.source), seed, from_source=True, **options)


def test_a_sweep_is_not_continued_with_another_function(own, tmp_path):
    def run(circuit, seeds):
        quantum = config(circuit, tmp_path)
        arms = {"linear": dataclasses.replace(quantum, head=LinearOptions(), circuit=None, engine=None), "own": quantum}
        with make_executor("serial") as executor:
            experiment = Experiment("own", arms, baseline="linear", seeds=seeds)
            return run_experiment(experiment, tmp_path / "runs", executor=executor, descriptive=True, batch_seeds=False)

    assert run(own(), (0,)).n_done == 2
    with pytest.raises(qwafer.PairingError, match=r"arm own with seed 0 ran another circuit .*own.py:body"):
        run(own("CZ"), (0, 1))
    assert not (tmp_path / "runs" / "runs" / "own" / "seed-1.json").exists()
    assert run(own(), (0, 1)).n_done == 2
    # A file that changes while a sweep is running: the reports of what has been mixed are refused, too.
    (tmp_path / "runs" / "runs" / "own" / "seed-1.json").unlink()
    train(config(own("CZ"), tmp_path), seed=1).save(tmp_path / "runs" / "runs" / "own" / "seed-1.json")
    with pytest.raises(qwafer.PairingError, match="seeds 0 and 1 ran different circuits"):
        run(own(), (0, 1))


@pytest.mark.parametrize("packed", [False, True])
def test_a_saved_head_is_not_read_with_another_function(own, tmp_path, packed, monkeypatch):
    predictor = train(config(own(), tmp_path)).predictor
    path = tmp_path / "head"
    predictor.save(path, packed=packed)
    own()
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(Predictor.load(path).logits(x), predictor.logits(x))
    own("CZ")
    with pytest.raises(qwafer.InputError, match=r"own.py:body, or what it calls, is not the circuit any longer"):
        Predictor.load(path)
    monkeypatch.setattr(predictors, "version", lambda name: "0.0")  # traces of another JAX say nothing
    with pytest.warns(UserWarning, match="it cannot be told whether .*own.py:body is still the circuit"):
        Predictor.load(path)


def test_a_checkpoint_is_not_continued_with_another_function(own, tmp_path):
    folder = tmp_path / "checkpoints"

    def stop(progress):
        if progress.done > 1:
            raise KeyboardInterrupt

    first = config(own(), tmp_path)
    first = dataclasses.replace(
        first, training=dataclasses.replace(first.training, epochs=3, checkpoint_every_epochs=1)
    )
    with pytest.raises(KeyboardInterrupt):
        train(first, directory=folder, progress=stop)
    changed = dataclasses.replace(first, circuit=own("CZ"))
    with pytest.raises(qwafer.InputError, match="another configuration, circuit"):
        train(changed, directory=folder)


def test_a_weight_that_is_not_named_is_said(tmp_path):
    def body(weights, x):
        return weights["theta"]

    with pytest.raises(qwafer.InputError, match=r"KeyError: 'theta' \(its weights are scale: name all of them"):
        qwafer.circuit(body, weights={"scale": 1}, n_inputs=1)
    with pytest.raises(qwafer.InputError, match=r"KeyError: 'theta' \(it has no weights: name all of them"):
        qwafer.circuit(body, n_inputs=1)


def test_a_file_that_is_not_there_is_said_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(qwafer.InputError, match=f"there is no file {tmp_path}/own.py"):
        CIRCUITS.get("function")("own.py:body").circuit(1)


def test_an_arm_that_joins_after_the_function_has_changed_is_not_compared(own, tmp_path):
    """Runs that are complete ran the old function; those to come would have run the new one, unsaid."""

    def run(arms):
        with make_executor("serial") as executor:
            experiment = Experiment("own", arms, baseline="own", seeds=(0,))
            return run_experiment(experiment, tmp_path / "runs", executor=executor, descriptive=True)

    def arms(gate, *, slow):
        own_arm = config(own(gate), tmp_path)
        found = {
            "own": own_arm,
            "linear": dataclasses.replace(own_arm, head=LinearOptions(), circuit=None, engine=None),
        }
        rate = dataclasses.replace(own_arm.training, learning_rate=1e-3)
        return found | ({"slow": dataclasses.replace(own_arm, training=rate)} if slow else {})

    assert run(arms("CNOT", slow=False)).n_done == 2
    with pytest.raises(qwafer.PairingError, match="arm own with seed 0 ran another circuit"):
        run(arms("CZ", slow=True))


def test_a_search_is_not_continued_with_another_function(own, tmp_path):
    def search(circuit):
        quantum = config(circuit, tmp_path)
        arms = {"linear": dataclasses.replace(quantum, head=LinearOptions(), circuit=None, engine=None), "own": quantum}
        experiment = Experiment("own", arms, baseline="linear", seeds=(0,))
        space = {arm: {"training.learning_rate": Dimension(1e-3, 1e-1, log=True)} for arm in arms}
        options = {"budget": 2, "seeds": (1000,), "sampler": "hypercube", "pruner": "none"}
        with make_executor("serial") as executor:
            return run_search(experiment, space, tmp_path / "search", executor=executor, **options)

    first = search(own())
    assert first.search.circuits == {"own": own().circuit(2).digest}
    (tmp_path / "search" / "trials" / "own" / "0001.json").unlink()
    with pytest.raises(qwafer.InputError, match=r"the trials of arm own in .* ran another circuit"):
        search(own("CZ"))
    again = search(own())
    assert again.n_done == 1
    assert again.search == first.search


def test_a_file_that_changed_in_a_running_process_is_said(own):
    """A notebook would have asked the old function, and its workers run the new one."""
    options = own()
    options.circuit(2)
    path = Path(options.function.rpartition(":")[0])
    path.write_text(path.read_text().replace("CNOT", "CZ"))
    for make in (options.circuit, dataclasses.replace(options, n_inputs=3).circuit):
        with pytest.raises(qwafer.InputError, match=r"own.py has changed since this process imported it"):
            make(2)
