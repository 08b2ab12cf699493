"""Losses for rare labels, exclusive classes and rankings; weights of labels, classes and costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

from qwafer import InputError
from qwafer.config import RunConfig
from qwafer.objective import (
    asymmetric,
    binary_cross_entropy,
    class_weights,
    effective_number,
    example_weights,
    focal,
    make_objective,
    pairwise_logistic,
    positive_weights,
)
from qwafer.overrides import with_options
from tests.factories import loss_options

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(60, 3))
LABELS = (RNG.random((60, 3)) < [0.5, 0.1, 0.8]).astype(np.uint8)
CLASSES = RNG.choice(3, size=60, p=[0.6, 0.3, 0.1])
ONE_HOT = np.eye(3, dtype=np.uint8)[CLASSES]
ONES = jnp.ones(60)


def loss_of(labels, weights=ONES, logits=LOGITS, **options):
    objective = make_objective(loss_options(**options), labels)
    return float(objective(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights)))


def test_asymmetric_loss_is_its_formula():
    p = 1 / (1 + np.exp(-LOGITS))
    q = np.maximum(p - 0.05, 0)
    expected = np.where(LABELS, -((1 - p) ** 0.5) * np.log(p), -(q**3.0) * np.log(1 - q))
    options = {"asymmetric_gamma_pos": 0.5, "asymmetric_gamma_neg": 3.0}
    np.testing.assert_allclose(loss_of(LABELS, loss="asymmetric", **options), expected.mean(), rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_asymmetric_loss_with_equal_exponents_and_no_clip_is_focal(gamma):
    logits, labels, ones = jnp.asarray(LOGITS), jnp.asarray(LABELS, float), jnp.ones(3)
    np.testing.assert_allclose(
        asymmetric(logits, labels, gamma, gamma, 0.0, ones), focal(logits, labels, gamma, ones), rtol=1e-9
    )


def test_softmax_cross_entropy_equals_scikit_learn():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss_of(ONE_HOT, loss="softmax"), log_loss(CLASSES, p), rtol=1e-9)
    expected = log_loss(CLASSES, p, sample_weight=np.array([1.0, 2.0, 5.0])[CLASSES], normalize=False) / 60
    np.testing.assert_allclose(loss_of(ONE_HOT, loss="softmax", class_weights="1,2,5"), expected, rtol=1e-6)


def test_smoothed_softmax_mixes_in_the_mean_over_classes():
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    expected = -(0.9 * log_p[np.arange(60), CLASSES] + 0.1 * log_p.mean(axis=1)).mean()
    np.testing.assert_allclose(loss_of(ONE_HOT, loss="softmax", label_smoothing=0.1), expected, rtol=1e-9)


def test_smoothed_binary_labels_move_towards_one_half():
    smooth = jnp.asarray(0.8 * LABELS + 0.1)
    expected = binary_cross_entropy(jnp.asarray(LOGITS), smooth, jnp.ones(3)).mean()
    np.testing.assert_allclose(loss_of(LABELS, label_smoothing=0.2), expected, rtol=1e-9)


def test_the_auc_surrogate_is_the_mean_over_pairs():
    means, present = pairwise_logistic(jnp.asarray(LOGITS), jnp.asarray(LABELS, float), ONES)
    for k in range(3):
        positive, negative = LOGITS[LABELS[:, k] == 1, k], LOGITS[LABELS[:, k] == 0, k]
        pairs = np.log1p(np.exp(negative[None, :] - positive[:, None]))
        np.testing.assert_allclose(means[k], pairs.mean(), rtol=1e-9)
        assert means[k] >= np.log(2) * (1 - roc_auc_score(LABELS[:, k], LOGITS[:, k]))
    np.testing.assert_array_equal(present, np.ones(3))
    np.testing.assert_allclose(loss_of(LABELS, loss="roc_auc"), np.mean(means), rtol=1e-9)


def test_the_auc_surrogate_sees_neither_padding_nor_labels_without_a_pair():
    labels = LABELS.copy()
    labels[:40, 1] = 0
    weights = (np.arange(60) < 40).astype(float)
    wild = np.where(np.arange(60)[:, None] < 40, LOGITS, 1e6)
    objective = make_objective(loss_options("roc_auc"), LABELS)
    value, gradient = jax.jit(jax.value_and_grad(objective))(
        jnp.asarray(wild), jnp.asarray(labels), jnp.asarray(weights)
    )
    means, _ = pairwise_logistic(jnp.asarray(LOGITS[:40]), jnp.asarray(labels[:40], float), jnp.ones(40))
    np.testing.assert_allclose(value, (means[0] + means[2]) / 2, rtol=1e-9)
    assert np.isfinite(gradient).all()
    assert float(objective(jnp.asarray(LOGITS), jnp.zeros((60, 3)), ONES)) == 0.0


def test_minimising_the_auc_surrogate_ranks():
    x = RNG.normal(size=(80, 2))
    y = (x @ [1.0, -2.0] + 0.5 * RNG.normal(size=80) > 1).astype(np.uint8)[:, None]
    objective = make_objective(loss_options("roc_auc"), y)
    step = jax.jit(jax.grad(lambda w: objective(jnp.asarray(x) @ w[:, None], jnp.asarray(y), jnp.ones(80))))
    w = jnp.asarray([-1.0, 0.0])
    start = roc_auc_score(y[:, 0], x @ np.asarray(w))
    for _ in range(100):
        w = w - step(w)
    assert start < 0.5 < 0.9 < roc_auc_score(y[:, 0], x @ np.asarray(w))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": "asymmetric"},
        {"loss": "asymmetric", "asymmetric_clip": 0.0},
        {"loss": "asymmetric", "asymmetric_gamma_neg": 0.0, "asymmetric_clip": 0.2},
        {"loss": "softmax", "label_smoothing": 0.1},
        {"loss": "roc_auc"},
        {"label_smoothing": 0.1},
    ],
)
def test_values_and_gradients_are_finite_in_the_tails(options, dtype):
    logits = jnp.asarray([[-1e4, -200.0, -3.0], [0.0, 90.0, 1e4], [1.0, 2.0, 3.0]], dtype)
    objective = make_objective(loss_options(**options), ONE_HOT)
    for labels in (jnp.eye(3, dtype=dtype), jnp.eye(3, dtype=dtype)[::-1]):
        value, gradient = jax.jit(jax.value_and_grad(objective))(logits, labels, jnp.ones(3, dtype))
        assert np.isfinite(value)
        assert value.dtype == dtype
        assert np.isfinite(gradient).all()


def test_gradients_of_the_asymmetric_loss_equal_finite_differences():
    def loss(logits):
        return jnp.sum(asymmetric(logits, jnp.asarray(LABELS, float), 0.7, 3.0, 0.05, jnp.ones(3)))

    direction, h = RNG.normal(size=LOGITS.shape), 1e-6
    slope = (loss(LOGITS + h * direction) - loss(LOGITS - h * direction)) / (2 * h)
    np.testing.assert_allclose(np.sum(np.asarray(jax.grad(loss)(jnp.asarray(LOGITS))) * direction), slope, rtol=1e-6)


def test_effective_numbers():
    counts = np.array([0.0, 1, 2, 50, 1e6])
    expected = [sum(0.99**i for i in range(int(n))) for n in counts[:4]] + [100.0]
    np.testing.assert_allclose(effective_number(counts, 0.99), expected, rtol=1e-9)
    np.testing.assert_allclose(effective_number(counts[:3], 1 - 1e-12), counts[:3], rtol=1e-4)


def test_balanced_class_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=CLASSES)
    np.testing.assert_allclose(example_weights("balanced", ONE_HOT), expected)
    counts = ONE_HOT.sum(axis=0)
    effective = example_weights("effective", ONE_HOT, beta=0.9)
    np.testing.assert_allclose((effective * counts).sum(), counts.sum())
    weighed = effective * effective_number(counts, 0.9)
    np.testing.assert_allclose(weighed, np.full(3, weighed[0]))
    absent = np.column_stack([ONE_HOT, np.zeros(60, np.uint8)])
    assert np.isfinite(example_weights("balanced", absent)).all()


def test_label_weights_have_mean_one_and_favour_the_rare():
    weights = class_weights("balanced", LABELS)
    np.testing.assert_allclose(weights.mean(), 1)
    np.testing.assert_allclose(weights * LABELS.sum(axis=0), weights[0] * LABELS[:, 0].sum())
    each = np.asarray(binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.ones(3)))
    expected = (each * np.array([2.0, 0.5, 1.0])).mean()
    np.testing.assert_allclose(loss_of(LABELS, class_weights="2,0.5,1"), expected, rtol=1e-6)


def test_positive_weights_may_differ_by_label():
    np.testing.assert_array_equal(positive_weights("1,2,3", LABELS), [1, 2, 3])
    positives = LABELS.sum(axis=0)
    expected = effective_number(60 - positives, 0.95) / effective_number(positives, 0.95)
    np.testing.assert_allclose(positive_weights("effective", LABELS, 0.95), expected)
    for option in ("pos_weight", "class_weights"):
        with pytest.raises(InputError, match=f"`objective.{option}` must hold one number, or one for each of 3 labels"):
            make_objective(loss_options(**{option: "1,2"}), LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "softmax", "pos_weight": "balanced"}, "objective.loss is softmax, which has no such option"),
        ({"loss": "roc_auc", "label_smoothing": 0.1}, "objective.loss is roc_auc, which has no such option"),
        ({"class_weights": "1,-2"}, "positive numbers"),
        ({"class_weights": "1,,2"}, "positive numbers"),
        ({"pos_weight": "nan"}, "positive numbers"),
        ({"loss": "asymmetric", "asymmetric_clip": 1.0}, "asymmetric_clip"),
        ({"asymmetric_clip": 0.5}, "objective.loss is bce, which has no such option"),
        ({"loss": "asymmetric", "focal_gamma": 1.0}, "objective.loss is asymmetric, which has no such option"),
    ],
)
def test_options_without_effect_or_meaning_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        with_options(RunConfig(), {f"objective.{name}": value for name, value in options.items()})
