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


@pytest.mark.parametrize(("bits", "angles", "projection"), [(1, None, "linear"), (4, 5, "linear"), (8, 3, "pca")])
def test_a_projection_of_few_bits_is_that_of_the_file(bits, angles, projection, tmp_path):
    result = train(config(angles, projection_bits=bits, projection=projection), DATA, 0)
    predictor, wide = result.predictor, train(config(angles, projection=projection), DATA, 0).n_parameters
    n_weights, n_wires = 5 * 3, 3
    assert result.n_parameters.trainable == wide.trainable
    assert result.n_parameters.bits == wide.bits - 32 * n_weights + bits * n_weights + 32 * n_wires
    head = predictor.head
    packed = head.packed()
    codes = np.asarray(packed.buffers["projection.codes"])
    assert set(np.abs(np.unique(codes))) <= ({1} if bits == 1 else set(range(2 ** (bits - 1))))
    assert packed.count() == {"trainable": 0, "frozen": packed.count()["total"], "total": packed.count()["total"]}
    exact = np.asarray(head.standardized(DATA.features), np.float64) @ (
        codes * np.asarray(packed.array("projection.scale"))
    )
    if angles is None:
        angle = np.pi / 2 * np.tanh(exact + np.asarray(head.array("projection.bias")))
        np.testing.assert_allclose(head.inputs(DATA.features), angle, atol=1e-5)
    predictor.save(tmp_path / "h", packed=True)
    assert (tmp_path / "h").stat().st_size == size_of(predictor).file_bytes
    loaded = Predictor.load(tmp_path / "h")
    np.testing.assert_array_equal(loaded.logits(DATA), predictor.logits(DATA))
    assert size_of(loaded) == size_of(predictor)


def test_gradients_pass_the_rounding_of_the_projection():
    options = config(None, projection_bits=2, init_scale=1.0)
    head = make_head(options, DATA.features, 2, 0)
    program = make_program(options, 2, 120)
    through = jax.grad(lambda p: head.with_parameters(p).scores(DATA.features, program).sum())(head.params)
    packed = head.packed()
    wide = make_head(config(None, init_scale=1.0), DATA.features, 2, 0)
    rounded = packed.array("projection.codes") * packed.array("projection.scale")[None]
    at = {**wide.params, "projection.weight": rounded}
    expected = jax.grad(lambda p: wide.with_parameters(p).scores(DATA.features, program).sum())(at)
    for name, value in expected.items():
        np.testing.assert_allclose(through[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits", [0, 3, 32])
def test_bits_of_a_projection(bits):
    with pytest.raises(InputError, match=r"`head\.projection_bits` must be"):
        QuantumOptions(projection_bits=bits)
