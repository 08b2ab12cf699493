"""The classical heads against NumPy."""

import jax
import numpy as np
import pytest

from qwafer import InputError
from qwafer.config import RunConfig
from qwafer.training import make_head
from tests.factories import head_options

FEATURES = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


def made(**head):
    return make_head(RunConfig(head=head_options(normalize="raw", **head)), FEATURES, 3, 0)


def test_linear_head():
    head = made(name="linear")
    weight, bias = head.params["projection.linear.weight"], np.arange(3, dtype=np.float32)
    head = head.with_parameters({"projection.linear.weight": weight, "projection.linear.bias": bias})
    np.testing.assert_allclose(head.logits(FEATURES, None), FEATURES @ np.asarray(weight) + bias, rtol=1e-5)


def test_mlp_head():
    head = made(name="mlp", hidden=7)
    p = {name: np.asarray(value) for name, value in head.params.items()}
    hidden = np.maximum(FEATURES @ p["projection.hidden.weight"] + p["projection.hidden.bias"], 0)
    expected = hidden @ p["projection.output.weight"] + p["projection.output.bias"]
    np.testing.assert_allclose(head.logits(FEATURES, None), expected, rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    head = made(name="mlp", hidden=64, dropout=0.4)
    calm = head.logits(FEATURES, None)
    np.testing.assert_array_equal(calm, head.logits(FEATURES, None, key=jax.random.key(0)))
    draws = np.stack([head.logits(FEATURES, None, key=jax.random.key(i), train=True) for i in range(400)])
    assert not np.allclose(draws[0], draws[1])
    spread = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.abs((draws.mean(axis=0) - calm) / spread).max() < 5
    with pytest.raises(InputError, match="`key` is needed"):
        head.logits(FEATURES, None, train=True)
