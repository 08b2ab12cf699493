"""BCa intervals against `scipy.stats.bootstrap` on the same resamples; macro metrics against a plain loop."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from qwafer import InputError
from qwafer._records import from_json, to_json
from qwafer.evaluation import Interval, bca_metric_differences, bca_metrics, evaluate
from qwafer.evaluation import intervals as module
from qwafer.evaluation.intervals import bca_from_replicates, resample_indices
from qwafer.evaluation.metric_intervals import METRICS, _statistics


def bca(values, statistic=np.mean, *, n_resamples=999, seed=0, level=0.95):
    """The interval of a statistic of `values` from its replicates and leave-one-out values."""
    rows = np.concatenate(list(resample_indices(len(values), n_resamples, seed)))
    left_out = np.array([statistic(np.delete(values, i), axis=-1) for i in range(len(values))])
    return bca_from_replicates(statistic(values, axis=-1), statistic(values[rows], axis=-1), left_out, level)


def scipy_interval(values, statistic, seed, n_resamples=999, level=0.95):
    result = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=n_resamples,
        method="BCa",
        confidence_level=level,
        rng=np.random.default_rng(seed),
    )
    return [*result.confidence_interval, result.standard_error]


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [4, 8, 10, 137])
@pytest.mark.parametrize("draw", ["normal", "exponential", "integers"])
def test_the_interval_of_a_mean_is_that_of_scipy(draw, n, level):
    rng = np.random.default_rng(n)
    values = rng.integers(0, 4, n).astype(float) if draw == "integers" else getattr(rng, draw)(size=n)
    own = bca(values, seed=5, level=level)
    expected = scipy_interval(values, np.mean, 5, level=level)
    np.testing.assert_allclose([own.low, own.high, own.standard_error], expected, rtol=1e-12)
    assert own.estimate == values.mean()
    assert not own.degenerate


@pytest.mark.parametrize("statistic", [np.median, np.std, stats.skew])
def test_the_interval_of_a_function_is_that_of_scipy(statistic):
    values = np.random.default_rng(1).gamma(2, size=40)
    own = bca(values, statistic, seed=7)
    np.testing.assert_allclose(
        [own.low, own.high, own.standard_error], scipy_interval(values, statistic, 7), rtol=1e-12
    )


def test_chunks_do_not_change_a_number(monkeypatch):
    logits, labels = data(0)
    whole = bca_metrics(logits, labels, n_resamples=100)
    monkeypatch.setattr(module, "_CHUNK", 333)
    assert bca_metrics(logits, labels, n_resamples=100) == whole


def test_degenerate_data_are_marked_and_survive_json():
    own = bca(np.full(8, 0.1))
    assert own.degenerate
    assert (own.low, own.high) == (own.estimate,) * 2
    undefined = bca_from_replicates(np.nan, np.full(9, np.nan), np.full(8, np.nan))
    assert undefined.degenerate
    for interval in (own, undefined):
        text = json.dumps(to_json(interval), allow_nan=False)
        assert json.dumps(to_json(from_json(Interval, json.loads(text)))) == text


def test_a_statistic_outside_its_bootstrap_distribution_has_no_interval():
    own = bca(np.arange(20.0), lambda x, axis: np.max(x, axis=axis) + (x.shape[-1] != 19) * (x.ndim == 1))
    assert np.isnan([own.low, own.high]).all()
    assert "outside" in own.reason


def data(seed: int, n: int = 60, k: int = 3, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < 0.4).astype(np.uint8)
    logits = rng.normal(size=(n, k)) + labels
    return (np.round(logits) if ties else logits), labels


def plain(name: str, logits: np.ndarray, labels: np.ndarray, thresholds) -> float:
    """A metric of the examples given, by scikit-learn."""
    decided = logits > thresholds
    if name == "exact_match":
        return float(np.mean((decided == labels).all(axis=1)))
    with_both = [k for k in range(labels.shape[1]) if labels[:, k].any()]
    if name == "f1":
        return float(np.mean([sk.f1_score(labels[:, k], decided[:, k], zero_division=0) for k in with_both]))
    if name == "average_precision":
        return float(np.mean([sk.average_precision_score(labels[:, k], logits[:, k]) for k in with_both]))
    with_both = [k for k in with_both if not labels[:, k].all()]
    return float(np.mean([sk.roc_auc_score(labels[:, k], logits[:, k]) for k in with_both])) if with_both else np.nan


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_weighted_metrics_equal_a_loop_over_resampled_examples(name, ties):
    logits, labels = data(3, ties=ties)
    n, thresholds = len(labels), np.array([0.3, -0.2, 0.0])
    statistics, _ = _statistics(logits, labels, [name], thresholds, False)
    rows = np.random.default_rng(0).integers(0, n, (50, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in rows], axis=1).astype(np.int32)
    expected = [plain(name, logits[row], labels[row], thresholds) for row in rows]
    np.testing.assert_allclose(statistics[name].replicates(counts), expected, rtol=0, atol=1e-12)
    expected = [plain(name, np.delete(logits, i, 0), np.delete(labels, i, 0), thresholds) for i in range(n)]
    np.testing.assert_allclose(statistics[name].jackknife, expected, rtol=0, atol=1e-12)
    assert statistics[name].estimate(n) == pytest.approx(plain(name, logits, labels, thresholds), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_class_with_a_single_positive_equals_the_loop_too(name):
    logits, labels = data(4, n=12, k=2)
    labels[:, 0] = 0
    labels[5, 0] = 1
    statistics, n = _statistics(logits, labels, [name], None, False)
    expected = [plain(name, np.delete(logits, i, 0), np.delete(labels, i, 0), 0.0) for i in range(n)]
    np.testing.assert_allclose(statistics[name].jackknife, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_of_a_metric_is_that_of_scipy(name):
    logits, labels = data(0, n=40, k=2)
    own = bca_metrics(logits, labels, metrics=[name], n_resamples=300, seed=2)[name]

    def statistic(index, axis):
        return np.apply_along_axis(
            lambda rows: plain(name, logits[rows.astype(int)], labels[rows.astype(int)], 0.0), axis, index
        )

    expected = scipy_interval(np.arange(40.0), statistic, 2, n_resamples=300)
    np.testing.assert_allclose([own.low, own.high, own.standard_error], expected, rtol=0, atol=1e-12)


def test_differences_are_paired():
    logits, labels = data(0, n=300)
    other = logits + 0.05 * np.random.default_rng(1).normal(size=logits.shape)
    paired = bca_metric_differences(logits, other, labels, n_resamples=500)
    single = bca_metrics(logits, labels, n_resamples=500)
    for name, interval in paired.items():
        assert interval.standard_error < single[name].standard_error / 3
        expected = (
            evaluate(logits, labels, label_names="abc").macro[name]
            - evaluate(other, labels, label_names="abc").macro[name]
        )
        assert interval.estimate == pytest.approx(expected, abs=1e-12)
        assert interval.low <= interval.estimate <= interval.high
    same = bca_metric_differences(logits, logits, labels, n_resamples=50)["f1"]
    assert (same.estimate, same.low, same.high, same.degenerate) == (0.0, 0.0, 0.0, True)


def test_exclusive_classes():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 200)
    logits = rng.normal(size=(200, 4)) + np.eye(4)[classes]
    own = bca_metrics(logits, classes, metrics=METRICS, exclusive=True, n_resamples=200)
    macro = evaluate(logits, classes, label_names="abcd", exclusive=True).macro
    for name, interval in own.items():
        assert interval.estimate == pytest.approx(macro[name], abs=1e-12)
        assert interval.low < interval.estimate < interval.high


def test_degenerate_metrics_are_marked_and_warn_nothing():
    logits, labels = data(0)
    perfect = bca_metrics(20.0 * labels - 10, labels, metrics=METRICS, n_resamples=50)
    for interval in perfect.values():
        assert (interval.estimate, interval.low, interval.high, interval.degenerate) == (1.0, 1.0, 1.0, True)
    for truth in (np.zeros_like(labels), np.ones_like(labels)):
        assert np.isnan(bca_metrics(logits, truth, n_resamples=50)["roc_auc"].low)
        assert bca_metrics(logits, truth, n_resamples=50)["roc_auc"].degenerate
    broken = logits.copy()
    broken[0] = np.nan
    assert bca_metrics(broken, labels, n_resamples=50)["roc_auc"].degenerate
    rare = np.zeros((60, 1), np.uint8)
    rare[:2] = 1
    own = bca_metrics(logits[:, :1], rare, n_resamples=200)["roc_auc"]
    assert "resamples have no value" in own.reason
    assert own.degenerate


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x, y: bca_metrics(x, y, metrics=["f2"]), "metrics"),
        (lambda x, y: bca_metrics(x, y, level=1.0), "level"),
        (lambda x, y: bca_metrics(x, y, n_resamples=0), "n_resamples"),
        (lambda x, y: bca_metrics(x, y, thresholds=[0.0]), "thresholds"),
        (lambda x, y: bca_metrics(x, y[:, 0], thresholds=np.zeros(3), exclusive=True), "no effect"),
    ],
)
def test_bad_options_are_refused(call, word):
    with pytest.raises(InputError, match=word):
        call(*data(0))
