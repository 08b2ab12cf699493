"""Frozen projections: random frames and principal axes."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from qwafer import InputError
from qwafer.circuits import LayeredOptions
from qwafer.config import RunConfig
from qwafer.heads import QuantumOptions
from qwafer.heads._projection import orthonormal_frame, principal_axes
from qwafer.training import make_head

FEATURES = np.random.default_rng(0).normal(size=(60, 8)) @ np.random.default_rng(1).normal(size=(8, 8)) + 5


def test_a_frame_is_orthonormal_and_belongs_to_its_seed():
    frame = orthonormal_frame(8, 3, seed=4)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(frame, orthonormal_frame(8, 3, seed=4))
    assert not np.allclose(frame, orthonormal_frame(8, 3, seed=5))


def test_principal_axes_give_whitened_components():
    axes, shift = principal_axes(FEATURES, 3)
    components = FEATURES @ axes + shift
    expected = PCA(3).fit_transform(FEATURES)
    expected /= expected.std(axis=0)
    np.testing.assert_allclose(np.abs(components), np.abs(expected), atol=1e-8)
    assert (axes[np.abs(axes).argmax(axis=0), range(3)] > 0).all()


def test_a_direction_without_variance_projects_on_zero():
    flat = np.outer(np.arange(10.0), np.ones(4))
    axes, shift = principal_axes(flat, 3)
    components = flat @ axes + shift
    np.testing.assert_allclose(components.std(axis=0), [1, 0, 0], atol=1e-9)


def test_pca_sees_standardised_features():
    config = RunConfig(head=QuantumOptions(projection="pca", angle_map="linear", angle_scale=1.0))
    scaled = (FEATURES * np.logspace(-3, 3, 8)).astype(np.float32)
    head = make_head(config, scaled, 1, 0)
    angles = np.asarray(head.inputs(scaled))
    np.testing.assert_allclose(angles.std(axis=0), np.ones(4), rtol=1e-3)
    plain = make_head(config, FEATURES.astype(np.float32), 1, 0)
    np.testing.assert_allclose(angles, plain.inputs(FEATURES.astype(np.float32)), atol=1e-2)


@pytest.mark.parametrize("projection", ["pca", "fixed"])
def test_frozen_projections_need_enough_features(projection):
    config = RunConfig(head=QuantumOptions(projection=projection), circuit=LayeredOptions(n_qubits=5))
    with pytest.raises(InputError, match="at least as many features"):
        make_head(config, np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32), 1, 0)
