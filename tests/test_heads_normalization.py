"""How heads normalise: formulas, statistics of the training split alone, and that a run and its file predict alike."""

import numpy as np
import pytest

from qwafer import InputError, RunConfig, train
from qwafer.heads import head_inputs
from qwafer.probes.run.execution import probe_claims
from qwafer.training import Predictor
from tests.factories import feature_set, head_options, training_options

X = np.random.default_rng(0).normal(2.0, 3.0, (40, 5)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(2.0, 6.0, (30, 5)).astype(np.float32)
EXPECTED = {
    "standard": lambda x: (x - X.mean(0)) / X.std(0),
    "min_max": lambda x: (x - X.min(0)) / (X.max(0) - X.min(0)),
    "l2": lambda x: x / np.linalg.norm(x, axis=1, keepdims=True),
    "raw": lambda x: x,
}


def head(how: str, features: np.ndarray = X):
    return head_options("linear", normalize=how).make(head_inputs(features, 1, 0, normalize=how))


@pytest.mark.parametrize("how", EXPECTED)
def test_features_are_normalised_by_the_training_split_alone(how):
    for rows in (X, OTHER):
        np.testing.assert_allclose(head(how).standardized(rows), EXPECTED[how](rows), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        head_inputs(X, 1, 0, normalize=how).standardized(), EXPECTED[how](X.astype(np.float64)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("how", EXPECTED)
def test_features_without_spread_zeros_and_large_numbers_stay_finite(how):
    odd = np.concatenate([X, np.full((40, 1), 1e4, np.float32), np.zeros((40, 1), np.float32)], axis=1)
    odd[3] = 0
    odd[:, 5] = 1e4
    assert np.isfinite(head(how, odd).standardized(odd)).all()
    huge = np.float32(1e30) * X
    np.testing.assert_allclose(head("l2").standardized(huge), EXPECTED["l2"](huge.astype(np.float64)), rtol=1e-5)
    np.testing.assert_array_equal(head("l2").standardized(np.zeros((2, 5), np.float32)), np.zeros((2, 5)))
    if how == "min_max":
        np.testing.assert_array_equal(head(how, odd).standardized(odd)[:, 6], np.zeros(40))


@pytest.mark.parametrize("how", EXPECTED)
def test_a_run_its_file_and_the_probes_agree(how, tmp_path):
    config = RunConfig(head=head_options("linear", normalize=how), training=training_options(epochs=1, batch_size=32))
    data = feature_set(90, 4)
    run = train(config, data, 0)
    path = tmp_path / "p.npz"
    run.predictor.save(path)
    again = Predictor.load(path)
    np.testing.assert_array_equal(again.logits(data.features), run.predictor.logits(data.features))
    assert [report.name for report in probe_claims(run, data) if report.verdict == "fail"] == []


def test_an_unknown_way_is_refused():
    with pytest.raises(InputError, match=r"`head.normalize` must be one of l2, min_max, raw, standard"):
        head_options("linear", normalize="unit")
    with pytest.raises(InputError, match=r"`head.normalize` must be one of"):
        head_inputs(X, 1, 0, normalize="unit")
