"""What a run says of its end, its metrics, its split and its predictor: planted faults are caught, odd runs are not."""

import dataclasses
import importlib
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.evaluation import metrics
from qwafer.features import FeatureSet
from qwafer.heads import LinearHead
from qwafer.heads import _predict as predict_module
from qwafer.probes.run.execution import probe_claims
from qwafer.probes.scores import logits as scores
from qwafer.probes.trust import trust_table
from qwafer.training import _history, _optimizer, _prepare, _step, _train, _validation, predictor, train
from tests.factories import feature_set, head_options, loss_options

evaluation = importlib.import_module("qwafer.evaluation.evaluate")
T = TrainingConfig(epochs=3, batch_size=32, max_doublings=0, learning_rate=0.05)
PLAIN = RunConfig(head=head_options("linear"), training=T)


def having(**options):
    return dataclasses.replace(PLAIN, training=dataclasses.replace(T, **options))


AVERAGED = having(ema_decay=0.9)
PATIENT = having(epochs=8, early_stopping=3)
DOUBLED = having(epochs=1, max_doublings=3, schedule="cosine")
BY_LOT, BY_TIME, FOLDS = (
    dataclasses.replace(PLAIN, data=DataConfig(**options))
    for options in ({"split_by": "group"}, {"split_by": "time"}, {"n_folds": 4})
)


@pytest.fixture(scope="module")
def data():
    return feature_set(
        800, 6, 3, signal=2.0, groups=np.array([f"lot {i % 40}" for i in range(800)]), times=np.arange(800.0)
    )


@pytest.fixture
def planted(monkeypatch):
    def forget():
        _step.steps.cache_clear()
        predict_module._forward.cache_clear()
        _validation._loss.clear_cache()

    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def failing(run, data):
    return {report.name: report.headline for report in probe_claims(run, data) if report.verdict == "fail"}


def everywhere(patch, name, value):
    for module in (_train, _history, _step, _optimizer):
        if hasattr(module, name):
            patch.setattr(module, name, value)


def average_not_corrected(patch):
    everywhere(patch, "evaluated_arrays", lambda config, state: state.average if int(state.step) else state.params)


def average_not_evaluated(patch):
    everywhere(patch, "evaluated_arrays", lambda config, state: state.params)


def always_converged(patch):
    patch.setattr(_history, "has_converged", lambda *given: True)


def patience_ignored(patch):
    patch.setattr(_history.History, "stopped", lambda self, config: self.diverged)


def no_patience(patch):
    patch.setattr(_history.History, "stopped", lambda self, config: self.diverged or self.since_best >= 1)


def nothing_learned_after(share):
    def plant(patch):
        real = _optimizer.make_schedule
        everywhere(patch, "make_schedule", lambda config, n: lambda t: real(config, n)(t) * (t < share * n))

    return plant


def no_restart(patch):
    real = _optimizer.make_schedule
    everywhere(patch, "make_schedule", lambda config, n: lambda t: real(config, n)(jnp.minimum(t, n - 1)))


def precision_is_area(patch):
    real = metrics.ranking
    patch.setattr(metrics, "ranking", lambda values, truth: (real(values, truth)[0],) * 2)


def brier_of_fourth_power(patch):
    patch.setattr(metrics, "brier", lambda p, truth: ((p - truth) ** 4).mean(axis=0))


def best_label_for_mean(patch):
    best = lambda per_class, labels: {name: float(np.nanmax(values)) for name, values in per_class.items()}  # noqa: E731
    patch.setattr(evaluation, "_class_means", best)


def predictor_with(**change):
    def plant(patch):
        real = predictor.Predictor.of.__func__

        def of(cls, *given):
            found = real(cls, *given)
            return dataclasses.replace(found, **{name: new(getattr(found, name)) for name, new in change.items()})

        patch.setattr(predictor.Predictor, "of", classmethod(of))

    return plant


def predictor_inverted(patch):
    real = predictor.Predictor.logits
    patch.setattr(predictor.Predictor, "logits", lambda self, features: -real(self, features))


def split_with(name, **change):
    def plant(patch):
        real = getattr(_prepare, name)

        def split(labels, ids, **given):
            return real(labels, ids, **{**given, **{key: new(given[key]) for key, new in change.items()}})

        patch.setattr(_prepare, name, split)

    return plant


def fewer_parameters(patch):
    patch.setattr(LinearHead, "count", lambda self: {"trainable": 3, "frozen": 0, "total": 3})


def initial_loss_tenfold(patch):
    real = _train.InitialScores
    patch.setattr(_train, "InitialScores", lambda loss, area, apart: real(10 * loss, area, apart))


def own_lots(patch):
    patch.setattr(_prepare.Prepared, "groups", lambda self, part: np.arange(len(getattr(self.split, part))))


def digest_of(name):
    def plant(patch):
        real = _train.Run._digests
        digests = lambda self: dataclasses.replace(real(self), **{name: "0" * 16})  # noqa: E731
        patch.setattr(_train.Run, "_digests", digests)

    return plant


FAULTS = [
    (digest_of("source"), PLAIN, "run data"),
    (digest_of("split"), PLAIN, "run data"),
    (average_not_corrected, AVERAGED, "training replay"),
    (average_not_evaluated, AVERAGED, "training replay"),
    (nothing_learned_after(0.7), PLAIN, "training replay"),
    (nothing_learned_after(1), DOUBLED, "training replay"),
    (no_restart, DOUBLED, "training replay"),
    (always_converged, DOUBLED, "checkpoint"),
    (patience_ignored, PATIENT, "checkpoint"),
    (no_patience, PATIENT, "checkpoint"),
    (initial_loss_tenfold, PLAIN, "checkpoint"),
    (precision_is_area, PLAIN, "run scores"),
    (brier_of_fourth_power, PLAIN, "run scores"),
    (best_label_for_mean, PLAIN, "run scores"),
    (predictor_with(thresholds=lambda cuts: tuple(cut + 1 for cut in cuts)), PLAIN, "run scores"),
    (predictor_with(label_names=lambda names: names[::-1]), PLAIN, "run scores"),
    (predictor_inverted, PLAIN, "run scores"),
    (fewer_parameters, PLAIN, "run scores"),
    (own_lots, PLAIN, "run data"),
    (split_with("make_split", by=lambda by: "content"), BY_LOT, "run data"),
    (split_with("make_split", by=lambda by: "content"), BY_TIME, "run data"),
    (split_with("make_split", times=lambda times: -times), BY_TIME, "run data"),
    (split_with("make_split", train_fraction=lambda share: 0.2), PLAIN, "run data"),
    (split_with("make_split", seed=lambda seed: 0), PLAIN, "run data"),
    (split_with("make_fold", seed=lambda seed: 0), FOLDS, "run data"),
]


@pytest.mark.parametrize(("fault", "config", "caught_by"), FAULTS, ids=[str(i) for i in range(len(FAULTS))])
def test_a_fault_in_what_a_run_says_is_caught(fault, config, caught_by, data, planted):
    fault(planted)
    assert caught_by in failing(train(config, data, 3), data)


@pytest.mark.parametrize("config", [PLAIN, AVERAGED, PATIENT, DOUBLED, BY_LOT, BY_TIME, FOLDS], ids=str)
def test_the_same_runs_without_a_fault_pass(config, data):
    assert failing(train(config, data, 3), data) == {}


def test_the_trust_table_sees_a_split_that_is_not_by_lot(data, planted):
    def of(config):
        table = trust_table({"a": config}, {"a": data}, seed=3)
        return next(report for report in table.reports if report.name == "split as stated")

    assert of(BY_LOT).verdict == "pass"
    split_with("make_split", by=lambda by: "content")(planted)
    assert of(BY_LOT).verdict == "fail"
    assert "lots are both in train and in" in of(BY_LOT).headline


def exclusive_classes(n=200, k=4):
    rng = np.random.default_rng(0)
    which = rng.integers(k, size=n)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[:, :k] += 2 * np.eye(k, dtype=np.float32)[which]
    names, ids = tuple(f"c{i}" for i in range(k)), np.array([f"m{i}" for i in range(n)])
    return FeatureSet(x, np.eye(k, dtype=np.uint8)[which], names, ids, {}, exclusive=True)


def reports_of(config, data):
    return {report.name: report for report in trust_table({"a": config}, {"a": data}, seed=0).reports}


def test_exclusive_classes_have_a_trust_table():
    reports = reports_of(dataclasses.replace(PLAIN, objective=loss_options("softmax")), exclusive_classes())
    assert {name for name, report in reports.items() if report.verdict == "fail"} == set()
    assert reports["threshold fragility"].verdict == "skip"
    assert reports["score spread"].verdict == "pass"


def test_the_largest_logit_predicts_an_exclusive_class():
    # All logits are above 0: each would be predicted for every example by itself.
    truth = np.eye(2, dtype=np.uint8)[np.arange(40) % 2]
    report = scores.score_spread(10.0 + 2.0 * truth, truth, None, ("a", "b"), exclusive=True)
    assert report.verdict == "pass", report.headline


def test_labels_that_nothing_scores_are_not_green():
    data = feature_set(200, 6, 3, signal=2.0)
    labels, parts = np.array(data.labels), np.repeat(["train", "val", "test"], [120, 40, 40])
    labels[parts == "val", 0] = 0
    report = reports_of(PLAIN, dataclasses.replace(data, labels=labels, split=parts))["score sign"]
    assert report.verdict == "warn"
    assert report.headline.startswith("L0: one class alone among 20 held-out examples")


def test_one_held_out_example_has_no_constant_scores():
    report = reports_of(PLAIN, feature_set(20, 6, 3))["score spread"]
    assert report.verdict == "skip"
    assert "too few to tell" in report.headline


def test_few_lots_are_no_reason_to_refuse_the_trust_table():
    data = feature_set(200, 6, 3, groups=np.array([f"lot {i % 3}" for i in range(200)]))
    reports = reports_of(BY_LOT, data)
    assert reports["split by origin"].verdict == "skip"
    assert "cannot be split by group" in reports["split by origin"].headline


def test_batches_without_a_pair_are_no_alarm():
    rng, labels = np.random.default_rng(0), np.zeros((300, 3), np.uint8)
    for k, rows in enumerate(itertools.pairwise((0, 5, 9, 12))):
        labels[slice(*rows), k] = 1
    x = rng.normal(size=(300, 6)).astype(np.float32)
    data = FeatureSet(x, labels, ("a", "b", "c"), np.array([f"m{i}" for i in range(300)]), {})
    training = dataclasses.replace(T, batch_size=16)
    config = dataclasses.replace(PLAIN, objective=loss_options("roc_auc"), training=training)
    for seed in range(3):
        assert failing(train(config, data, seed), data) == {}


def test_an_impatient_run_that_has_hardly_left_has_not_converged():
    data = feature_set(300, 6, 3, signal=1.0)
    for patience in (1, 2):
        slow = {"epochs": 40, "learning_rate": 1e-3, "early_stopping": patience}
        run = train(having(**slow), data, 0)
        longer = train(having(**{**slow, "epochs": 160, "early_stopping": None}), data, 0)
        assert run.epochs_run < 10
        assert longer.val.macro["roc_auc"] > run.val.macro["roc_auc"] + 0.1, "there was more to learn"
        assert run.converged is False
        assert failing(run, data) == {}


@pytest.mark.filterwarnings("ignore:.*set aside:UserWarning")
def test_a_damaged_checkpoint_costs_the_epochs_since_the_one_before(data, tmp_path):
    config = having(epochs=4, checkpoint_every_epochs=2)
    whole = train(config, data, 0, directory=tmp_path)
    newest = tmp_path / "checkpoints" / "epoch-000004"
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    for _ in range(2):  # the damaged one is written anew
        assert train(config, data, 0, directory=tmp_path).fingerprint() == whole.fingerprint()


def test_a_file_in_the_place_of_the_directory_is_refused_in_one_sentence(data, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="cannot hold checkpoints"):
        train(PLAIN, data, 0, directory=tmp_path / "out")
