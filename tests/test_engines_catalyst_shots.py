"""Finite shots and parameter shifts of the catalyst engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import engines
from qwafer.circuits import CircuitSpec


@pytest.mark.parametrize(("readout", "outputs"), [("mean_z_readout", 2), ("z_vec", 2), ("bloch", 1)])
def test_shots_scatter_around_the_exact_values_as_they_should(readout: str, outputs: int) -> None:
    shots, batch = 400, 60
    spec = CircuitSpec(2, 1, readout=readout, n_outputs=outputs, dtype="float64")
    rng = np.random.default_rng(0)
    weights = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in spec.weight_shapes().items()}
    x = jnp.asarray(rng.normal(size=(1, 2))) + 1e-9 * jnp.arange(batch)[:, None]  # equal up to their noise
    cotangent = jnp.ones((batch, spec.n_outputs))

    def both(**options: object) -> list[np.ndarray]:
        value, pull_back = jax.vjp(engines.get("catalyst", **options).program(spec, batch), weights, x)
        return [np.asarray(value), np.asarray(pull_back(cotangent)[1])]

    for noisy, exact in zip(both(shots=shots), both(), strict=True):
        spread = noisy.std(axis=0)
        assert (spread > 0).all()
        # The mean of 60 draws lies within five standard errors; a shot's standard deviation is at most 1 an expectation
        # value, of which there are two an output (four shifted ones a derivative).
        assert (np.abs(noisy.mean(axis=0) - exact.mean(axis=0)) < 5 * spread / np.sqrt(batch)).all()
        assert (spread < 8 / np.sqrt(shots)).all()


def test_noise_is_a_function_of_seed_and_arguments() -> None:
    spec = CircuitSpec(2, 1, dtype="float64")
    weights, x = {"ansatz": jnp.ones((1, 2, 3))}, jnp.ones((2, 2))
    program = engines.get("catalyst", shots=50).program(spec, 2)
    first = program(weights, x)
    np.testing.assert_array_equal(program(weights, x), first)
    assert not np.array_equal(first[0], first[1])  # equal examples, independent noise
    assert not np.array_equal(program(weights, x + 1e-9), first)
    assert not np.array_equal(engines.get("catalyst", shots=50).program(spec, 2, seed=1)(weights, x), first)
    engines.cache_clear()
    np.testing.assert_array_equal(engines.get("catalyst", shots=50).program(spec, 2)(weights, x), first)


def test_parameter_shift_agrees_with_adjoint() -> None:
    spec = CircuitSpec(2, 1, "rx", readout="bloch", dtype="float64")
    weights, x = {"ansatz": jnp.full((1, 2, 3), 0.3)}, jnp.asarray([[0.1, 0.2], [0.4, -1.0]])

    def gradient(**options: object) -> jax.Array:
        program = engines.get("catalyst", **options).program(spec, 2)
        return jax.grad(lambda x: (program(weights, x) ** 2).sum())(x)

    np.testing.assert_allclose(gradient(diff_method="parameter-shift"), gradient(), atol=1e-12)
