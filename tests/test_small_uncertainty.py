"""Doubt against closed forms: mutual information of known mixtures, risk against coverage."""

import numpy as np
import pytest

from qwafer import InputError
from qwafer.evaluation import risk_coverage, uncertainty
from qwafer.heads import MixtureOptions, head_inputs


def entropy(*p):
    return -sum(q * np.log(q) for q in p if q)


def test_mutual_information_of_known_mixtures():
    same = np.tile([0.7, 0.2, 0.1], (5, 2, 1))
    found = uncertainty(same)
    np.testing.assert_allclose(found.total, entropy(0.7, 0.2, 0.1))
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-12)
    certain = np.eye(4)[:, None, :]  # four samples, each sure of another outcome
    found = uncertainty(certain)
    np.testing.assert_allclose(found.mutual_information, np.log(4))
    np.testing.assert_allclose(found.expected, 0, atol=1e-12)
    flip = np.array([[[0.9, 0.1]], [[0.1, 0.9]]])  # one bit through a symmetric channel: log 2 - H(0.1)
    np.testing.assert_allclose(uncertainty(flip).mutual_information, np.log(2) - entropy(0.9, 0.1))


def test_what_is_not_a_probability_is_refused():
    for bad in ([[[0.5, 0.6]]], [[[1.5, -0.5]]]):
        with pytest.raises(InputError, match="at least 0 and add up to 1"):
            uncertainty(np.array(bad))


def test_risk_against_coverage():
    doubt = np.array([0.4, 0.1, 0.3, 0.2])
    found = risk_coverage(doubt, np.array([1, 0, 1, 0]))  # both errors are the most doubtful
    np.testing.assert_allclose(found.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.risk, [0, 0, 1 / 3, 1 / 2])
    assert found.area == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    ties = risk_coverage(np.ones(4), np.array([1, 0, 1, 0]))
    assert (ties.coverage.tolist(), ties.risk.tolist(), ties.area) == ([1.0], [0.5], 0.5)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):  # nothing hangs on the order of the examples
        again = risk_coverage(doubt[order], np.array([1, 0, 1, 0])[order])
        np.testing.assert_array_equal(again.risk, found.risk)


def test_samples_of_the_router():
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    head = MixtureOptions(router_dropout=0.3, experts=("8", "1", "qesc"), normalize="raw").make(
        head_inputs(x, 2, 0, normalize="raw")
    )
    head = head.with_parameters(
        {**head.params, "projection.router.weight": 2 * head.params["projection.router.weight"]}
    )
    samples = np.asarray(head.sampled_routing(x, n_samples=64, seed=1))
    np.testing.assert_array_equal(samples, head.sampled_routing(x, n_samples=64, seed=1))
    assert samples.shape == (64, 40, 3)
    found = uncertainty(samples)
    assert (found.mutual_information <= np.log(3)).all()
    assert found.mutual_information.min() > 0
    nothing = uncertainty(np.asarray(head.sampled_routing(np.zeros((1, 6), np.float32), n_samples=8)))
    np.testing.assert_allclose(nothing.mutual_information, 0, atol=1e-6)  # there is nothing to drop
    np.testing.assert_allclose(nothing.total, np.log(3), rtol=1e-4)  # and nothing to tell the experts apart by
    with pytest.raises(InputError, match="no dropout to sample"):
        MixtureOptions().make(head_inputs(x, 2, 0)).sampled_routing(x)


def test_the_page_shows_what_was_measured():
    import importlib.util
    import json
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("popcount_benchmark", root / "benchmarks" / "popcount.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    record = json.loads((root / "benchmarks" / "results" / "popcount.json").read_text())
    assert module.table(record) in (root / "docs" / "small.md").read_text(encoding="utf-8")
