"""Calibration against SciPy's optimisers, known maps, and degenerate labels."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp

from qwafer import InputError
from qwafer._records import from_json, to_json
from qwafer.evaluation import (
    Calibration,
    CalibrationEffect,
    compare_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_curve,
    roc_auc,
)


def data(seed: int, n: int = 400, slope: float = 0.4, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true log-odds are slope * l + shift."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, 3))
    return logits, (rng.random((n, 3)) < expit(slope * logits + shift)).astype(int)


def nll(z: np.ndarray, target: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, z) - target * z))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_the_minimum_that_scipy_finds(seed, factor):
    logits, labels = data(seed)
    if factor == 1:
        fit = fit_calibration(logits, labels)
        assert not any(fit.degenerate)
        assert fit.shift == (0.0, 0.0, 0.0)
        for k in range(3):
            best = minimize_scalar(
                lambda s, k=k: nll(s * logits[:, k], labels[:, k]),
                bounds=(0.01, 100),
                method="bounded",
                options={"xatol": 1e-10},
            )
            assert fit.scale[k] == pytest.approx(best.x, rel=1e-6)
            p = expit(fit.scale[k] * logits[:, k])
            assert abs(np.mean((p - labels[:, k]) * logits[:, k])) < 1e-12, "the derivative vanishes"
    else:  # beyond the bounds of the scale: it stops there and says so
        fit = fit_calibration(factor * logits, labels)
        assert all(fit.degenerate)
        assert set(fit.scale) == {100.0 if factor < 1 else 0.01}
        assert "bound" in fit.reasons[0]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(3))
def test_platt_is_the_minimum_that_scipy_finds(seed, factor):
    logits, labels = data(seed, shift=-1)
    fit = fit_calibration(factor * logits, labels, "platt")
    for k in range(3):
        n_pos = labels[:, k].sum()
        target = np.where(labels[:, k], (n_pos + 1) / (n_pos + 2), 1 / (len(labels) - n_pos + 2))
        best = minimize(
            lambda w, k=k, t=target: nll(w[0] * logits[:, k] + w[1], t),
            [0.0, 0.0],
            method="BFGS",
            options={"gtol": 1e-9},
        )
        np.testing.assert_allclose([fit.scale[k] * factor, fit.shift[k]], best.x, rtol=1e-5)
        p = expit(fit.apply(factor * logits)[:, k])
        assert abs(np.mean(p - target)) < 1e-12
        assert abs(np.mean((p - target) * logits[:, k])) < 1e-12


def test_softmax_temperature_is_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 300)
    logits = 5 * (rng.normal(size=(300, 4)) + np.eye(4)[classes])

    def loss(scale: float) -> float:
        z = scale * logits
        return float(np.mean(logsumexp(z, axis=1) - z[np.arange(300), classes]))

    fit = fit_calibration(logits, classes, exclusive=True)
    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10})
    assert fit.scale[0] == pytest.approx(best.x, rel=1e-6)
    assert len(set(fit.scale)) == 1
    report = compare_calibration(fit, logits, classes)
    assert report.after.macro["loss"] == pytest.approx(best.fun, rel=1e-9)
    assert report.after.macro["top_label_ece"] < report.before.macro["top_label_ece"]


def test_known_maps_are_recovered_and_rankings_stay():
    logits, labels = data(0, n=40_000, slope=0.4, shift=-1.0)
    fit = fit_calibration(logits, labels, "platt")
    np.testing.assert_allclose(fit.scale, 0.4, atol=0.02)
    np.testing.assert_allclose(fit.shift, -1.0, atol=0.05)
    held_out = data(1, n=40_000, slope=0.4, shift=-1.0)
    report = compare_calibration(fit, *held_out)
    assert report.before.macro["ece"] > 0.15
    assert report.after.macro["ece"] < 0.01
    np.testing.assert_array_equal(roc_auc(fit.apply(held_out[0]), held_out[1]), roc_auc(*held_out))


def test_separable_data_stay_finite_under_platt_and_stop_at_the_bound_under_temperature():
    logits = np.linspace(-3, 3, 100)[:, None]
    labels = (logits > 0).astype(int)
    platt = fit_calibration(logits, labels, "platt")
    assert 1 < platt.scale[0] < 1e3
    assert fit_calibration(logits, labels).scale == (100.0,)
    anti = fit_calibration(logits, 1 - labels)
    assert anti.scale == (0.01,)
    assert "do not rank" in anti.reasons[0]


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_degenerate_labels_keep_their_logits_and_are_marked(method):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4))
    labels = (rng.random((50, 4)) < 0.5).astype(int)
    labels[:, 0], labels[:, 1] = 0, 1
    logits[:, 2] = 2.0
    logits[3, 3] = np.nan
    fit = fit_calibration(logits, labels, method)
    assert fit.degenerate == (True,) * 4
    np.testing.assert_array_equal(fit.apply(logits), logits)
    assert from_json(Calibration, json.loads(json.dumps(to_json(fit)))) == fit
    effect = compare_calibration(fit, logits, labels)
    text = json.dumps(to_json(effect), allow_nan=False)
    assert json.dumps(to_json(from_json(CalibrationEffect, json.loads(text)))) == text


@pytest.mark.parametrize(
    ("logits", "classes"),
    [(np.zeros((4, 3)), [0, 1, 2, 0]), (np.eye(3), [1, 1, 1]), (np.full((3, 3), np.nan), [0, 1, 2])],
)
def test_degenerate_exclusive_classes_keep_their_logits(logits, classes):
    fit = fit_calibration(logits, np.array(classes), exclusive=True)
    assert all(fit.degenerate)
    assert set(fit.scale) == {1.0}


def test_the_reliability_curve_carries_the_error():
    rng = np.random.default_rng(0)
    p = rng.random((500, 2)) ** 2
    labels = rng.random((500, 2)) < p
    curves = reliability_curve(p, labels)
    np.testing.assert_allclose(
        [curve.ece for curve in curves], expected_calibration_error(p, labels), rtol=0, atol=1e-15
    )
    assert sum(curves[0].count) == 500
    assert curves[0].edges[0] == 0
    assert curves[0].edges[-1] == 1
    empty = reliability_curve(np.full(5, 0.5), np.ones(5))[0]
    assert np.isnan(empty.observed).sum() == 14
    assert empty.ece == 0.5


def test_bad_options_are_refused():
    logits, labels = data(0)
    with pytest.raises(InputError, match="method"):
        fit_calibration(logits, labels, "isotonic")
    with pytest.raises(InputError, match="temperature"):
        fit_calibration(logits, labels[:, 0], "platt", exclusive=True)
    with pytest.raises(InputError, match="shape"):
        fit_calibration(logits[:, 0], labels[:, 0])
