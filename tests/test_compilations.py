"""Programs are compiled once per shape: not once per seed, learning rate, decay, loss weight or split size."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import LayeredOptions
from qwafer.config import RunConfig, TrainingConfig
from qwafer.features import FeatureSet
from qwafer.training import prepare, train
from tests.factories import head_options, loss_options

COMPILED = "/jax/core/compile/backend_compile_duration"
T = TrainingConfig(epochs=2, batch_size=16, max_doublings=1, schedule="cosine")
QUANTUM = RunConfig(
    circuit=LayeredOptions(n_qubits=2, n_layers=1, readout="mean_z_readout"), engine=engines.get("xla"), training=T
)
MLP = RunConfig(head=head_options("mlp"), training=T)


COUNTED: list[str] = []


def listen(event, duration, **_):
    if event == COMPILED:
        COUNTED.append(event)


jax.monitoring.register_event_duration_secs_listener(listen)


@contextlib.contextmanager
def compilations():
    """Count what XLA compiles meanwhile, the smallest operation outside a jitted function included."""
    before, found = len(COUNTED), []
    yield found
    found += COUNTED[before:]


def features(n=301):
    """Many examples have one content, so that the sizes of the splits differ from seed to seed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    y = (x[:, :2] + 0.3 * rng.normal(size=(n, 2)) > 0.2).astype(np.uint8)
    return FeatureSet(x, y, ("a", "b"), np.array([f"m{i // 3}" for i in range(n)]), {})


def changed(config, **options):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **options))


@pytest.mark.parametrize("config", [QUANTUM, MLP], ids=["quantum", "mlp"])
def test_seeds_and_numbers_share_what_is_compiled(config):
    data = features()
    sizes = {
        tuple(len(getattr(prepare(config, data, seed).split, part)) for part in ("train", "val")) for seed in range(5)
    }
    assert len(sizes) > 1, "the case does not test what it is for"
    with compilations() as first:
        train(config, data, 0)
    assert first
    others = [
        changed(config, learning_rate=3e-3),
        changed(config, lr_mult_projection=0.5, weight_decay=1e-3, grad_clip=None),
        dataclasses.replace(config, objective=loss_options("bce", pos_weight="balanced", label_smoothing=0.1)),
        dataclasses.replace(config, data=dataclasses.replace(config.data, train_fraction=0.6)),
    ]
    with compilations() as later:
        for seed in range(1, 5):
            train(config, data, seed)
        for other in others:
            train(other, data, 1)
    assert not later


def test_exponents_of_a_loss_are_arguments():
    data = features()
    focal = dataclasses.replace(MLP, objective=loss_options("focal", focal_gamma=2.0))
    train(focal, data, 0)
    with compilations() as later:
        weak = train(dataclasses.replace(focal, objective=loss_options("focal", focal_gamma=0.5)), data, 0)
    assert not later
    strong = train(focal, data, 0)
    assert weak.curve("train_loss")[0] > strong.curve("train_loss")[0], "the exponent must reach the program"
