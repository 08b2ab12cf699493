"""The doubt of a router: its record, its figures, what it is worth."""

import dataclasses

import numpy as np
import pytest

from qwafer import CapabilityError, InputError
from qwafer._records import load_record
from qwafer.config import RunConfig
from qwafer.diagnostics import router_doubt as script
from qwafer.evaluation import risk_coverage
from qwafer.heads import LinearOptions, MixtureOptions
from qwafer.studies import RouterDoubt, router_doubt, write_router_doubt
from qwafer.studies.doubt import MEASURES
from qwafer.training import train
from tests.factories import feature_set, training_options

DATA = feature_set(400, 6, 3)


@pytest.fixture(scope="module")
def run():
    options = MixtureOptions(experts=("4", "2"), top_k=1, router_dropout=0.3)
    return train(RunConfig(head=options, training=training_options(epochs=4)), DATA, 0)


@pytest.fixture(scope="module")
def found(run):
    far = dataclasses.replace(DATA.take(np.arange(50)), features=8 * DATA.features[:50])
    return router_doubt(run.predictor, DATA, n_samples=16, foreign=far, n_resamples=50)


def test_every_test_example_has_its_doubt(run, found):
    assert len(found.examples) == len(run.logits["test"])
    assert found.error_rate == pytest.approx(1 - run.test.macro["exact_match_tuned"])
    assert 0 < found.error_rate == found.wrong.mean()
    for one in found.examples:
        assert 0 <= one.mutual_information <= one.total <= np.log(2) + 1e-6
        assert 0 <= one.confidence <= 1
    assert [one.wrong for one in found.foreign] == [None] * 50
    for name, worth in found.worth.items():
        assert worth.area == pytest.approx(risk_coverage(found.values(name), found.wrong).area, abs=1e-6)
        assert worth.gain == pytest.approx(found.error_rate - worth.area)
        assert worth.gain_interval[0] <= worth.gain <= worth.gain_interval[1]
        assert 0 <= worth.auc_foreign <= 1
        assert ("own confidence" in found.sentence(name)) == (name != "confidence")
    assert found.worth["confidence"].over_confidence == (0, 0)


def test_classes_are_those_of_the_test_split(run, found):
    rows = run.labels["test"].astype(bool)
    wrong = found.wrong
    for k, one in enumerate(found.classes.values()):
        assert one.n == rows[:, k].sum()
        assert one.error_rate == pytest.approx(wrong[rows[:, k]].mean())
        assert one.mutual_information == pytest.approx(found.values("mutual_information")[rows[:, k]].mean(), rel=1e-4)


def test_doubt_that_orders_the_errors_is_worth_what_it_can_be():
    from qwafer.studies.doubt import _worth

    wrong = np.arange(200) >= 150
    knowing = {name: np.arange(200.0) for name in MEASURES} | {"confidence": np.zeros(200)}
    found = _worth(knowing, wrong, {}, 200, 0)
    assert found["confidence"].gain == 0
    assert found["confidence"].auc_errors == pytest.approx(0.5)
    assert found["total"].auc_errors == 1
    assert found["total"].gain > 0.15
    assert found["total"].gain_interval[0] > 0
    assert found["total"].over_confidence[0] > 0
    assert found["total"].auc_foreign is None


def test_the_script_writes_the_record_and_the_figures(run, found, tmp_path, capsys):
    DATA.save(tmp_path / "f.npz")
    run.predictor.save(tmp_path / "m", packed=True)
    words = [str(tmp_path / "m"), "--features", str(tmp_path / "f.npz"), "--samples", "4", "--out", str(tmp_path / "d")]
    assert script.main(words) == 0
    said = capsys.readouterr().out
    assert "mutual information" in said
    assert "own confidence" in said
    files = {path.name for path in (tmp_path / "d").iterdir()}
    assert files == {"doubt.json"} | {
        f"{name}.{kind}" for name in ("histogram", "classes", "risk_coverage") for kind in ("png", "pdf")
    }
    assert load_record(RouterDoubt, tmp_path / "d" / "doubt.json").n_samples == 4
    assert load_record(RouterDoubt, write_router_doubt(found, tmp_path / "again")) == found


def test_refusals(run, tmp_path, capsys):
    linear = train(RunConfig(head=LinearOptions(), training=training_options(epochs=1)), DATA, 0).predictor
    with pytest.raises(CapabilityError, match="has no router"):
        router_doubt(linear, DATA)
    sure = train(RunConfig(head=MixtureOptions(experts=("4",), top_k=1), training=training_options(epochs=1)), DATA, 0)
    with pytest.raises(InputError, match="no dropout"):
        router_doubt(sure.predictor, DATA)
    with pytest.raises(InputError, match="6 features"):
        router_doubt(run.predictor, DATA, foreign=feature_set(9, 5, 3))
    with pytest.raises(InputError, match="the data have the labels"):
        router_doubt(run.predictor, feature_set(400, 6, 2))
    assert script.main([str(tmp_path / "none"), "--features", "f.npz"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
