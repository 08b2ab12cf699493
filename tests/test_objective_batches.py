"""Batches: every example once a pass, balanced where asked, and the same for every arm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwafer import InputError
from qwafer.objective import SamplingConfig, make_sampler, order_digest

LABELS = (np.arange(103) % 7 == 0).astype(np.uint8)[:, None]  # 15 positives
IDS = np.arange(len(LABELS), dtype=np.uint64)
BALANCED = SamplingConfig(balanced=True)


def sampler(config=None, **options):
    return make_sampler(config or SamplingConfig(), LABELS, **{"batch_size": 10, "seed": 3, **options})


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 5))
def test_a_pass_holds_every_example_once_and_pads_the_last_batch(n, batch, epoch):
    passes = make_sampler(SamplingConfig(), np.zeros((n, 2), np.uint8), batch_size=batch, seed=0)
    batches = passes.epoch(epoch)
    assert batches.rows.shape == batches.weights.shape == (passes.n_batches, batch)
    assert sorted(batches.rows[batches.weights > 0].tolist()) == list(range(n))
    assert set(batches.weights.ravel().tolist()) <= {0.0, 1.0}


def test_epochs_differ_and_repeat():
    passes = sampler()
    assert not np.array_equal(passes.epoch(1).rows, passes.epoch(2).rows)
    np.testing.assert_array_equal(passes.epoch(2).rows, sampler().epoch(2).rows)
    assert not np.array_equal(passes.epoch(1).rows, sampler(seed=4).epoch(1).rows)


@pytest.mark.parametrize("fixed", [1, 4, 37])
def test_fixed_batches_are_full(fixed):
    batches = sampler(fixed_num_batches=fixed).epoch(1)
    assert batches.rows.shape == (fixed, 10)
    assert (batches.weights == 1).all()
    counts = np.bincount(batches.rows.ravel(), minlength=103)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("pos_frac", "n_positive"), [(0.5, 5), (0.2, 2), (0.04, None), (0.98, None)])
def test_balanced_batches(pos_frac, n_positive):
    config = SamplingConfig(balanced=True, pos_frac=pos_frac)
    if n_positive is None:
        with pytest.raises(InputError, match="no room for both classes"):
            sampler(config)
        return
    balanced = sampler(config)
    batches = balanced.epoch(1)
    labels = LABELS[batches.rows, 0]
    assert (labels.sum(axis=1) == n_positive).all()
    np.testing.assert_allclose(batches.weights.mean(axis=1), 1, rtol=1e-6)
    pi_t, pi_b = LABELS.mean(), n_positive / 10
    expected = np.where(labels == 1, pi_t / pi_b, (1 - pi_t) / (1 - pi_b))
    np.testing.assert_allclose(batches.weights, expected, rtol=1e-6)
    negatives = np.bincount(batches.rows[labels == 0], minlength=103)[LABELS[:, 0] == 0]
    assert negatives.max() - negatives.min() <= 1


def test_without_importance_weights_balanced_examples_weigh_one():
    batches = sampler(SamplingConfig(balanced=True, importance_weights=False)).epoch(1)
    assert (batches.weights == 1).all()


def test_the_digest_tells_orders_apart():
    digests = {
        order_digest(sampler(), 2, IDS),
        order_digest(sampler(), 3, IDS),
        order_digest(sampler(seed=4), 2, IDS),
        order_digest(sampler(BALANCED), 2, IDS),
        order_digest(sampler(batch_size=11), 2, IDS),
    }
    assert len(digests) == 5
    assert order_digest(sampler(), 2, IDS) == order_digest(sampler(), 2, IDS)


def test_balanced_batches_need_one_label_and_both_classes():
    with pytest.raises(InputError, match="needs one label or exclusive classes, got 2"):
        make_sampler(BALANCED, np.zeros((5, 2), np.uint8), batch_size=4, seed=0)
    with pytest.raises(InputError, match="one is absent"):
        make_sampler(BALANCED, np.ones((5, 1), np.uint8), batch_size=4, seed=0)
