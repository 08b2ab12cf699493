"""Quantisers against closed forms: error bounds, thresholds, idempotence, straight-through gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qwafer.heads import QuantisedOptions, head_inputs
from qwafer.heads._quantisers import Quantiser, quantise, quantise_inputs
from qwafer.heads.few_bits import PRECISIONS

BITS = (2, 4, 8, 16)
FEATURES = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
SHAPES = st.sampled_from(((1, 1), (7, 3), (4, 9)))
MATRICES = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-8, 8, width=16).map(np.float32)))
few = settings(max_examples=25, deadline=None)


def quantised(weight, precision, **options):
    codes, scale = quantise(jnp.asarray(weight), Quantiser(str(precision), **options))
    return np.asarray(codes, np.float64), np.asarray(scale, np.float64)


def error(weight, precision, **options):
    codes, scale = quantised(weight, precision, **options)
    return ((codes * scale - weight) ** 2).sum(axis=0)


@few
@given(MATRICES, st.sampled_from(BITS))
def test_k_bits_are_off_by_half_a_step_at_most(weight, bits):
    codes, scale = quantised(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert (codes == np.round(codes)).all()
    assert (np.abs(codes) <= top).all()
    assert (np.abs(codes * scale - weight) <= scale / 2 * (1 + 1e-4)).all()
    largest = np.abs(weight).max(axis=0)
    np.testing.assert_allclose(scale, np.where(largest > 0, largest / top, 1), rtol=1e-6)
    assert (np.abs(codes).max(axis=0) == np.where(largest > 0, top, 0)).all()


@few
@given(MATRICES, st.sampled_from(PRECISIONS))
def test_what_is_quantised_has_the_same_codes_again(weight, precision):
    codes, scale = quantised(weight, precision)
    values = (codes * scale).astype(np.float32)
    again, scale_again = quantised(values, precision)
    kept = (again == codes) | (values == 0)  # one bit has no zero: a channel of zeros is 1 times 0
    assert kept.all()
    if precision not in ("bitnet", "qesc"):  # whose scale is a mean over the zeros, too
        np.testing.assert_allclose(scale_again, scale, rtol=1e-5)


def test_one_bit_is_the_sign_with_the_scale_of_least_error():
    weight = np.array([[0.5, -1.0], [-0.25, 0.0], [1.5, 2.0]], np.float32)
    codes, scale = quantised(weight, 1)
    np.testing.assert_array_equal(codes, [[1, -1], [-1, 1], [1, 1]])
    np.testing.assert_allclose(scale, [0.75, 1.0])
    least = error(weight, 1)
    for factor in (0.99, 1.01):
        assert (((codes * scale * factor - weight) ** 2).sum(axis=0) > least).all()


def test_ternary_thresholds_are_half_the_mean():
    weight = np.array([[0.2, 4.0], [-0.2, -1.0], [-0.6, 1.9], [1.0, -2.1]], np.float32)
    codes, scale = quantised(weight, "qesc")
    np.testing.assert_allclose(scale, [0.5, 2.25])
    np.testing.assert_array_equal(codes, [[0, 1], [0, 0], [-1, 1], [1, -1]])
    codes, scale = quantised(weight, "bitnet")
    np.testing.assert_allclose(scale, [1.375])  # thresholds at 0.6875, for the whole matrix
    np.testing.assert_array_equal(codes, [[0, 1], [0, -1], [0, 1], [1, -1]])


def test_calibrations():
    weight = np.random.default_rng(1).standard_t(3, size=(400, 3)).astype(np.float32)
    for bits in (2, 4, 8):
        top = 2 ** (bits - 1) - 1
        grid = []
        for j in range(1, 49):
            step = np.abs(weight.astype(np.float64)).max(axis=0) * j / 48 / top
            grid.append(((np.clip(np.round(weight / step), -top, top) * step - weight) ** 2).sum(axis=0))
        np.testing.assert_allclose(error(weight, bits, calibration="mse"), np.min(grid, axis=0), rtol=1e-3)
        if bits < 8:
            assert (error(weight, bits, calibration="mse") < 0.9 * error(weight, bits)).all()
    scale = quantised(weight, 4, calibration="percentile", percentile=90.0)[1]
    np.testing.assert_allclose(scale, np.percentile(np.abs(weight), 90, axis=0) / 7, rtol=1e-5)
    np.testing.assert_allclose(
        quantised(weight, 4, calibration="percentile", percentile=100.0)[1], quantised(weight, 4)[1]
    )
    sparse = np.eye(20, 1, dtype=np.float32)
    np.testing.assert_allclose(error(sparse, 4, calibration="percentile", percentile=90.0), 0, atol=1e-12)


@few
@given(MATRICES, st.integers(2, 8))
def test_inputs_are_off_by_a_step_at_most(x, bits):
    codes, scale = map(np.asarray, quantise_inputs(jnp.asarray(x), Quantiser("bitnet")))
    assert (np.abs(codes) <= 127).all()
    assert (np.abs(codes * scale[:, None] - x) <= scale[:, None] / 2 * (1 + 1e-4)).all()
    codes, scale = map(np.asarray, quantise_inputs(jnp.asarray(x), Quantiser("qesc", activation_bits=bits)))
    assert (np.abs(codes) <= 2**bits - 1).all()
    assert (codes % 2 == 1).all()
    assert (np.abs(codes * scale[:, None] - x) <= scale[:, None] * (1 + 1e-4)).all()


def test_one_plane_of_inputs_is_the_sign():
    codes, scale = quantise_inputs(jnp.asarray([[-1.0, 0.0, 4.0]]), Quantiser("qesc", activation_bits=1))
    np.testing.assert_array_equal(codes, [[-1, 1, 1]])
    np.testing.assert_allclose(scale, [5 / 3], rtol=1e-6)


def made(**options):
    return QuantisedOptions(normalize="raw", **options).make(head_inputs(FEATURES, 3, 0, normalize="raw"))


@pytest.mark.parametrize("precision", ["1", "4", "bitnet", "qesc"])
def test_gradients_go_straight_through(precision):
    """dL/dW = X_q^T C and dL/dx = C W_q^T for L = sum C * (X_q W_q + b): rounding counts as the identity."""
    head = made(precision=precision)
    weight, bias = head.params["projection.linear.weight"], head.params["projection.linear.bias"]
    cotangent = np.random.default_rng(2).normal(size=(20, 3)).astype(np.float32)

    def loss(weight, x):
        params = {"projection.linear.weight": weight, "projection.linear.bias": bias}
        return (cotangent * head.with_parameters(params).logits(x, None, train=True)).sum()

    of_weight, of_x = jax.grad(loss, argnums=(0, 1))(weight, jnp.asarray(FEATURES))
    codes, scale = quantised(weight, precision)
    found = quantise_inputs(jnp.asarray(FEATURES), Quantiser(precision))
    x = FEATURES if found is None else np.asarray(found[0]) * np.asarray(found[1])[:, None]
    np.testing.assert_allclose(of_weight, x.T @ cotangent, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(of_x, cotangent @ (codes * scale).T, rtol=2e-4, atol=2e-4)
    logits = head.logits(jnp.asarray(FEATURES), None, train=True)
    np.testing.assert_allclose(logits, x @ (codes * scale) + np.asarray(bias), rtol=2e-4, atol=2e-4)


def test_post_training_quantisation_trains_in_float32_and_predicts_quantised():
    head = made(precision="2", method="post_training")
    weight = np.asarray(head.params["projection.linear.weight"])
    np.testing.assert_allclose(head.logits(FEATURES, None, train=True), FEATURES @ weight, rtol=1e-4, atol=1e-6)
    codes, scale = quantised(weight, 2)
    np.testing.assert_allclose(head.logits(FEATURES, None), FEATURES @ (codes * scale), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "calibration"),
    [*((name, "max") for name in ("1", "4", "bitnet", "qesc")), ("4", "percentile"), ("4", "mse")],
)
def test_zeros_and_what_is_not_finite(precision, calibration):
    codes, scale = quantised(np.zeros((4, 2), np.float32), precision, calibration=calibration)
    assert (codes * scale == 0).all()
    broken = np.ones((4, 2), np.float32)
    broken[0, 0] = np.nan
    codes, scale = quantised(broken, precision, calibration=calibration)
    assert np.isnan((codes * scale)[:, 0]).any(), "a run that diverges must be seen to"
    head = made(precision=precision, calibration=calibration)
    zero = head.logits(np.zeros((2, 6), np.float32), None)
    np.testing.assert_array_equal(zero, np.broadcast_to(head.params["projection.linear.bias"], (2, 3)))


def test_hidden_units_start_as_those_of_the_mlp():
    from qwafer.heads import MlpOptions

    inputs = head_inputs(FEATURES, 3, 7)
    mlp, few_bits = MlpOptions(hidden=5).make(inputs), QuantisedOptions(hidden=5).make(inputs)
    assert mlp.params.keys() == few_bits.params.keys()
    for name, value in mlp.params.items():
        np.testing.assert_array_equal(value, few_bits.params[name])
    fine = QuantisedOptions(hidden=5, precision="16").make(inputs)
    np.testing.assert_allclose(fine.logits(FEATURES, None), mlp.logits(FEATURES, None), rtol=1e-3, atol=1e-3)
