"""The generated data sets are what defines them, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwafer
from qwafer.data.generated import (
    GENERATORS,
    bars_and_stripes,
    generated,
    hidden_manifold,
    linearly_separable,
    two_curves,
)
from qwafer.source import generated_features


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_gives_one_draw(name):
    x, y = generated(name, 50, 3)
    again = generated(name, 50, 3)
    assert x.shape[0] == len(y) == 50
    assert set(np.unique(y)) == {0, 1}
    np.testing.assert_array_equal(x, again[0])
    assert not np.array_equal(x, generated(name, 50, 4)[0])
    assert np.isfinite(x).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(0, 1000))
def test_a_margin_parts_the_linearly_separable(n_features, seed):
    x, y = linearly_separable(40, seed, n_features=n_features)
    side = x.sum(axis=1)
    assert (np.abs(side) > 0.02 * n_features).all()
    assert (np.abs(x) <= 1).all()
    np.testing.assert_array_equal(y == 1, side < 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 10), st.integers(1, 8), st.integers(2, 60), st.integers(0, 1000))
def test_hidden_manifolds_have_equal_classes_and_few_dimensions(n_features, dimension, n, seed):
    x, y = hidden_manifold(n, seed, n_features=n_features, dimension=dimension)
    assert abs(int(y.sum()) - n / 2) <= 0.5
    assert (np.abs(x) < 1).all()
    linear = np.arctanh(x)
    rank = np.linalg.matrix_rank(linear - linear.mean(axis=0), tol=1e-6)
    assert rank <= min(n_features, dimension)


def test_bars_are_columns_and_stripes_are_rows():
    x, y = bars_and_stripes(200, 0, side=4, noise=0.0)
    images = x.reshape(-1, 4, 4)
    assert set(np.unique(images)) == {-1, 1}
    assert (np.ptp(images[y == 1], axis=2) == 0).all()
    assert (np.ptp(images[y == 0], axis=1) == 0).all()
    noisy, _ = bars_and_stripes(2000, 0, side=4, noise=0.5)
    np.testing.assert_allclose((noisy - bars_and_stripes(2000, 0, side=4, noise=0.0)[0]).std(), 0.5, rtol=0.05)


def test_two_curves_are_one_curve_moved():
    """Without noise, every feature is a Fourier series of one number: a curve, and its copy at a distance."""
    x, y = two_curves(400, 0, n_features=3, degree=2, offset=50.0, noise=0.0)
    np.testing.assert_allclose([x.mean(axis=0), x.std(axis=0)], [[0] * 3, [1] * 3], atol=1e-9)
    assert abs(x[y == 0].mean() - x[y == 1].mean()) > 1.9  # far apart, each is a cluster at -1 or 1
    own = x[y == 0] - x[y == 0].mean(axis=0)
    assert np.linalg.matrix_rank(own, tol=1e-9) == 3
    wave = two_curves(4000, 0, n_features=1, degree=1, offset=0.0, noise=0.0)[0][:, 0]
    edges = np.histogram(wave, 20)[0]  # one wave of t: few points where it moves fast, many where it turns
    assert edges.max() > 3 * edges.min()


def test_features_of_a_generator_are_a_source(tmp_path):
    made = generated_features("hidden_manifold", 60, 1, n_features=5)
    made.save(tmp_path / "hidden.npz")
    loaded = qwafer.FeatureSet.load(tmp_path / "hidden.npz")
    assert loaded.features.shape == (60, 5)
    assert loaded.label_names == ("hidden_manifold",)
    assert '"n_features":5' in loaded.provenance["data"]["source"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: generated("moons"), "linearly_separable"),
        (lambda: generated("two_curves", 1), "`n`"),
        (lambda: generated("two_curves", 10, -1), "`seed`"),
        (lambda: linearly_separable(10, 0, n_features=0), "n_features"),
        (lambda: linearly_separable(10, 0, margin=-1.0), "margin"),
        (lambda: bars_and_stripes(10, 0, noise=-1.0), "noise"),
        (lambda: generated_features("two_curves", colour=1), "colour"),
    ],
)
def test_bad_options_are_refused(call, text):
    with pytest.raises(qwafer.InputError, match=text):
        call()
