"""Every published class has a name, options that make a run, and a null that is there."""

from pathlib import Path

import numpy as np
import pytest

import qwafer
from qwafer.config import RunConfig
from qwafer.experiment import load_experiment
from qwafer.heads import HEADS
from qwafer.models import MODELS
from qwafer.overrides import flat_config, no_effect, with_options
from qwafer.source import source_facts

CLASSES = {
    "CircuitCentricClassifier",
    "DataReuploadingClassifier",
    "DataReuploadingClassifierNoScaling",
    "DataReuploadingClassifierNoTrainableEmbedding",
    "DataReuploadingClassifierNoCost",
    "DataReuploadingClassifierSeparable",
    "DressedQuantumCircuitClassifier",
    "DressedQuantumCircuitClassifierSeparable",
    "DressedQuantumCircuitClassifierOnlyNN",
    "IQPKernelClassifier",
    "IQPVariationalClassifier",
    "ProjectedQuantumKernel",
    "QuantumBoltzmannMachine",
    "QuantumBoltzmannMachineSeparable",
    "QuantumKitchenSinks",
    "QuantumMetricLearner",
    "QuanvolutionalNeuralNetwork",
    "SeparableVariationalClassifier",
    "SeparableKernelClassifier",
    "TreeTensorClassifier",
    "VanillaQNN",
    "WeiNet",
}


def config_of(name):
    model = MODELS[name]
    short = {"data.task": "any", "training.epochs": 1, "training.max_doublings": 0, "training.batch_size": 32}
    loop = hasattr(HEADS.get(model.settings["head.name"]), "make")
    given = {key: value for key, value in short.items() if loop or not key.startswith("training")}
    return with_options(RunConfig(), {**model.options(9 if model.kind == "image" else 4), **given})


def test_all_classes_of_the_paper_are_here():
    assert {model.published for model in MODELS.values()} >= CLASSES
    for name, model in MODELS.items():
        assert model.null in {*MODELS, *HEADS.names} - {name}


@pytest.mark.parametrize("name", MODELS)
def test_no_option_of_a_model_is_without_effect(name):
    config = config_of(name)
    for option in MODELS[name].settings:
        assert no_effect(config, option, source_facts(config.data)) is None


def test_options_do_not_depend_on_what_was_set_before():
    """Options that two things share keep their values where another thing is named: a model says all of its own."""
    other = with_options(RunConfig(), {"circuit.n_layers": 7, "head.normalize": "l2", "head.angle_scale": 0.5})
    for model in MODELS.values():
        options = model.options(9)
        assert with_options(other, options).head == with_options(RunConfig(), options).head
        assert with_options(other, options).circuit == with_options(RunConfig(), options).circuit


def test_the_experiment_has_the_options_of_the_models():
    experiment = load_experiment(Path(__file__).resolve().parents[1] / "experiments" / "better_than_classical.toml")
    for arm in set(experiment.arms) & set(MODELS):
        own = flat_config(experiment.arms[arm])
        fewer = {"circuit.n_layers": 4} if arm == "iqp_variational" else {}  # ten of them compile for a minute
        wanted = {**MODELS[arm].options(4), **fewer}
        assert {option: own[option] for option in wanted} == wanted
    for arm in experiment.arms:
        assert arm not in MODELS or MODELS[arm].null in experiment.arms or MODELS[arm].null == "cosines"


TRAINED = ["boltzmann_separable"]
OTHERS = [name for name in MODELS if name not in TRAINED]


@pytest.mark.parametrize("name", [*TRAINED, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)])
def test_every_model_trains(name):
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 1)) < 0.5).astype(np.uint8)
    n = 9 if MODELS[name].kind == "image" else 4
    data = qwafer.FeatureSet.from_arrays(rng.normal(size=(60, n)) + labels, labels)
    result = qwafer.train(config_of(name), data, seed=0)
    assert np.isfinite(result.outputs["test_logits"]).all()
    if result.curves and MODELS[name].settings.get("training.lr_mult_readout") == 0:
        assert max(result.curves.get("distance.readout", [0])) == 0  # the model has no bias
