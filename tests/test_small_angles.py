"""Angles of k bits on a quantum head: their grid, their gradients, their size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError, size_of
from qwafer.circuits import LayeredOptions
from qwafer.config import RunConfig
from qwafer.engines import get
from qwafer.heads import QuantumOptions
from qwafer.training import Predictor, make_head, make_program, train
from tests.factories import feature_set, training_options

DATA = feature_set(120, 5, 2)
CIRCUIT = LayeredOptions(n_qubits=3, n_layers=2, readout="mean_z_readout")


def config(bits, readout="mean_z_readout", **head):
    circuit = dataclasses.replace(CIRCUIT, readout=readout)
    training = training_options(epochs=2, batch_size=32)
    options = QuantumOptions(angle_bits=bits, **head)
    return RunConfig(head=options, circuit=circuit, engine=get("xla"), training=training)


def on_grid(values, bits):
    steps = np.asarray(values, np.float64) / (2 * np.pi / 2**bits)
    return np.allclose(steps, np.round(steps), atol=1e-3)


@pytest.mark.parametrize("readout", ["mean_z_readout", "z_vec"])
def test_every_angle_is_a_multiple_of_the_step(readout):
    head = make_head(config(4, readout, init_scale=1.0), DATA.features, 2, 0)
    assert on_grid(head.inputs(DATA.features), 4)
    weights = head.circuit_weights()
    assert on_grid(weights["ansatz"], 4)
    assert on_grid(weights["readout"], 4) == (readout == "mean_z_readout"), "coefficients are not angles"
    free = make_head(config(None, readout, init_scale=1.0), DATA.features, 2, 0)
    assert not on_grid(free.inputs(DATA.features), 4)
    for exact, rounded in ((free.inputs(DATA.features), head.inputs(DATA.features)), *(
        (free.circuit_weights()[name], weights[name]) for name in weights
    )):  # fmt: skip
        assert np.abs(np.asarray(exact) - np.asarray(rounded)).max() <= np.pi / 16 + 1e-6


def test_gradients_are_those_at_the_rounded_angles():
    options = config(4, init_scale=1.0)
    options = dataclasses.replace(options, circuit=dataclasses.replace(CIRCUIT, n_qubits=2, n_layers=1))
    head = make_head(options, DATA.features, 2, 0)
    program = make_program(options, 2, 20)
    x = DATA.features[:20]

    def total(weights):
        return program(weights, head.inputs(x)).sum()

    at_grid = jax.grad(total)(head.circuit_weights())
    through = jax.grad(lambda params: head.with_parameters(params).scores(x, program).sum())(head.params)
    np.testing.assert_allclose(through["circuit.ansatz"], at_grid["ansatz"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(through["readout.angles"], at_grid["readout"], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(through["projection.weight"])).max() > 0


@pytest.fixture(scope="module")
def run():
    return train(config(3, init_scale=2.0), DATA, 0)


def test_a_run_and_its_packed_file(run, tmp_path):
    predictor = run.predictor
    head = predictor.head
    n_angles = 2 * 3 * 3 + 2 * 3 * 3
    others = {**head.params, **head.buffers}
    floats = sum(value.size for name, value in others.items()) - n_angles
    assert run.n_parameters.bits == 3 * n_angles + 32 * floats
    packed = head.packed()
    assert np.abs(np.asarray(packed.params["circuit.ansatz"])).max() <= np.pi + 1e-6
    program = make_program(predictor.config, 2, len(DATA.features))
    np.testing.assert_allclose(
        packed.logits(DATA.features, program), head.logits(DATA.features, program), rtol=1e-4, atol=1e-5
    )
    predictor.save(tmp_path / "h", packed=True)
    assert (tmp_path / "h").stat().st_size == size_of(predictor).file_bytes
    loaded = Predictor.load(tmp_path / "h")
    np.testing.assert_array_equal(loaded.logits(DATA), predictor.logits(DATA))
    assert size_of(loaded) == size_of(predictor)


def test_what_is_not_finite_stays_so(run, tmp_path):
    predictor = run.predictor
    head = predictor.head
    broken = head.with_parameters(
        {**head.params, "circuit.ansatz": jnp.full_like(head.params["circuit.ansatz"], jnp.nan)}
    )
    diverged = dataclasses.replace(predictor, head=broken)
    with pytest.raises(InputError, match="no finite logit"):
        diverged.logits(DATA)
    with pytest.raises(InputError, match=r"`circuit\.ansatz` of the head is not finite"):
        diverged.save(tmp_path / "h", packed=True)


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_of_a_register(bits):
    with pytest.raises(InputError, match=r"`head\.angle_bits` must be at"):
        QuantumOptions(angle_bits=bits)
