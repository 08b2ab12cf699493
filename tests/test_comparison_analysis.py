"""Heads analysed and compared: scikit-learn's numbers, tuned on validation alone, marked where they mean nothing."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sk

from qwafer._errors import InputError
from qwafer._records import from_json, load_record, save_record, to_json
from qwafer.comparison import analyse, calibrations, example_differences, seed_differences, threshold_variants
from qwafer.comparison.analysis import mean_cost, over_seeds
from qwafer.comparison.design import Design
from qwafer.comparison.differences import Differences
from qwafer.comparison.record import FeatureSource, HeadRecord, head_record
from qwafer.comparison.runs import check_same_examples
from qwafer.config import RunConfig
from qwafer.data import Split
from qwafer.evaluation import tune_thresholds
from qwafer.sweeps.inference import InferenceTiming, PassTiming
from qwafer.training import Digests, RunResult
from qwafer.training._environment import environment
from qwafer.training._judge import judge
from qwafer.training._prepare import Prepared
from qwafer.training.resources import Latency, PeakMemory
from qwafer.training.result import ParameterCount, Timings
from tests.factories import feature_set

FIXED = Design("fixed split", 0.0)


def head_run(seed=0, n=(90, 160), k=4, *, exclusive=False, logits=None, labels=None):
    """A run that gave `logits` on `labels`, drawn unless given, judged as training judges its own."""
    rng = np.random.default_rng(seed)
    drawn, truth = {}, {}
    for part, size in zip(("val", "test"), n, strict=True):
        if exclusive:
            classes = rng.integers(0, k, size)
            truth[part] = np.eye(k, dtype=np.uint8)[classes]
        else:
            truth[part] = (rng.random((size, k)) < 0.35).astype(np.uint8)
        drawn[part] = (rng.normal(size=(size, k)) + 1.5 * truth[part] - 0.5).astype(np.float32)
    logits, labels = logits or drawn, labels or truth
    n_val, n_test = (len(labels[part]) for part in ("val", "test"))
    data = feature_set(
        n_val + n_test,
        k=k,
        labels=np.concatenate([labels["val"], labels["test"]]),
        label_names=tuple(f"label {i}" for i in range(k)),
        exclusive=exclusive,
    )
    rows = np.arange(n_val + n_test)
    judged = judge(Prepared(data, Split(rows[:0], rows[:n_val], rows[n_val:], "s"), "d", (), exclusive), logits)
    return RunResult(
        config=RunConfig().to_dict(),
        seed=seed,
        label_names=data.label_names,
        val=judged.val,
        test=judged.test,
        initial=None,
        best_epoch=0,
        epochs_run=0,
        converged=None,
        curves={},
        digests=Digests("d", "s"),
        n_parameters=ParameterCount(trainable=10, frozen=0, total=10),
        degenerate=judged.degenerate,
        notes=(),
        timings=Timings(training=1.0, total=1.5),
        engine={},
        compile_cache={},
        environment=environment(),
        memory=PeakMemory(process=1, device=None),
        outputs=judged.outputs,
    )


def test_metrics_equal_scikit_learn():
    run = head_run()
    analysis = analyse(run, n_resamples=50)
    logits, labels = run.logits["test"].astype(np.float64), run.labels["test"]
    p = 1 / (1 + np.exp(-logits))
    decided = logits > np.asarray(tune_thresholds(run.logits["val"], run.labels["val"]).values)
    expected = {
        "roc_auc": sk.roc_auc_score(labels, logits, average=None),
        "average_precision": sk.average_precision_score(labels, logits, average=None),
        "brier": np.mean((p - labels) ** 2, axis=0),
        "f1": sk.f1_score(labels, logits > 0, average=None),
        "f1_tuned": sk.f1_score(labels, decided, average=None),
        "precision_tuned": sk.precision_score(labels, decided, average=None),
        "recall_tuned": sk.recall_score(labels, decided, average=None),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(analysis.test.per_class[name], values, rtol=0, atol=1e-12)
        assert analysis.test.macro[name] == pytest.approx(values.mean(), abs=1e-12)
    assert analysis.test.macro["exact_match_tuned"] == pytest.approx(sk.accuracy_score(labels, decided), abs=1e-12)
    assert analysis.intervals["f1"].estimate == pytest.approx(expected["f1_tuned"].mean(), abs=1e-12)
    assert analysis.intervals["roc_auc"].estimate == pytest.approx(expected["roc_auc"].mean(), abs=1e-12)
    low, high = analysis.intervals["f1"].low, analysis.intervals["f1"].high
    assert low < expected["f1_tuned"].mean() < high


def test_exclusive_classes_equal_scikit_learn():
    run = head_run(exclusive=True)
    analysis = analyse(run, n_resamples=50)
    classes, predicted = run.labels["test"].argmax(axis=1), run.logits["test"].argmax(axis=1)
    macro = analysis.test.macro
    assert macro["accuracy"] == pytest.approx(sk.accuracy_score(classes, predicted), abs=1e-12)
    assert macro["f1"] == pytest.approx(sk.f1_score(classes, predicted, average="macro"), abs=1e-12)
    assert macro["loss"] == pytest.approx(
        sk.log_loss(classes, np.exp(z := run.logits["test"].astype(np.float64)) / np.exp(z).sum(axis=1, keepdims=True)),
        abs=1e-9,
    )
    assert analysis.thresholds == {}
    assert list(analysis.calibration) == ["temperature"]


def test_thresholds_and_calibration_come_from_validation_alone():
    run = head_run()
    rng = np.random.default_rng(5)
    scrambled = head_run(
        logits={**run.logits, "test": rng.normal(size=(160, 4))},
        labels={**run.labels, "test": rng.integers(0, 2, (160, 4)).astype(np.uint8)},
    )
    assert analyse(run, n_resamples=10).test.thresholds == analyse(scrambled, n_resamples=10).test.thresholds
    ours, theirs = threshold_variants(run), threshold_variants(scrambled)
    assert [ours[m].thresholds for m in ours] == [theirs[m].thresholds for m in theirs]
    assert ours["f1"].f1 != theirs["f1"].f1
    for method, found in calibrations(run).items():
        assert found.fit == calibrations(scrambled)[method].fit
    moved = head_run(labels={**run.labels, "val": 1 - run.labels["val"]})
    assert threshold_variants(moved)["f1"].thresholds != ours["f1"].thresholds


def test_each_way_of_tuning_is_best_at_what_it_tunes():
    run = head_run(n=(4000, 4000), k=2)
    # The same examples in both parts: what is best on validation is then best on test.
    run = head_run(
        logits=dict.fromkeys(("val", "test"), run.logits["val"]),
        labels=dict.fromkeys(("val", "test"), run.labels["val"]),
        k=2,
    )
    variants = threshold_variants(run, costs=(0, 1, 8, 0))
    assert max(variants, key=lambda m: variants[m].f1) == "f1"
    assert max(variants, key=lambda m: variants[m].balanced_accuracy) == "youden"
    assert min(variants, key=lambda m: variants[m].cost) == "cost"
    assert variants["cost"].recall > variants["f1"].recall  # a miss costs eight false alarms


def test_costs_are_counted_by_hand():
    predictions = np.array([[True, False], [True, True], [False, False]])
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    # column 0: tp, fp, fn; column 1: tn, tp, tn
    cost = mean_cost(predictions, labels, np.array([[0.5, 1.0], [5.0, -1.0]]))
    assert cost == pytest.approx((-1 + 1 + 5 + 0.5 - 1 + 0.5) / 6)
    with pytest.raises(InputError, match="four numbers"):
        threshold_variants(head_run(), costs=(1, 2, 3))


@pytest.mark.parametrize("case", ["absent", "constant", "ties"])
def test_degenerate_data_are_marked_and_raise_nothing(case):
    run = head_run()
    logits, labels = ({part: a.copy() for part, a in group.items()} for group in (run.logits, run.labels))
    for part in ("val", "test"):
        if case == "absent":
            labels[part][:, 1] = 0
        elif case == "constant":
            logits[part][:, 1] = 0.25
        else:
            logits[part] = np.round(logits[part])
    analysis = analyse(head_run(logits=logits, labels=labels), n_resamples=50)
    marked = analysis.test.degenerate
    assert marked[1] == (case != "ties")
    assert not any(marked[:1])
    if case == "absent":
        assert np.isnan(analysis.test.per_class["roc_auc"][1])
        assert analysis.thresholds["f1"].thresholds.degenerate[1]
        assert analysis.calibration["platt"].fit.degenerate[1]
    if case == "constant":
        assert analysis.test.per_class["roc_auc"][1] == 0.5


def test_temperature_scaling_repairs_overconfident_logits():
    rng = np.random.default_rng(3)
    logits, labels = {}, {}
    for part in ("val", "test"):
        z = rng.normal(size=(4000, 2))
        labels[part] = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.uint8)
        logits[part] = 4 * z
    found = calibrations(head_run(logits=logits, labels=labels, k=2))
    for method in ("temperature", "platt"):
        np.testing.assert_allclose(found[method].fit.scale, 0.25, rtol=0.1)
        assert found[method].effect.after.macro["ece"] < 0.3 * found[method].effect.before.macro["ece"]


def test_values_over_seeds():
    table = over_seeds({"f1": value, "undefined": np.nan} for value in (0.2, 0.4, 0.9))
    assert dataclasses.asdict(table["f1"]) == pytest.approx(
        {"n": 3, "mean": 0.5, "sd": np.std([0.2, 0.4, 0.9], ddof=1), "low": 0.2, "high": 0.9}
    )
    assert to_json(table["undefined"]) == {"n": 0, "mean": None, "sd": None, "low": None, "high": None}
    assert to_json(over_seeds([{"f1": 0.5}])["f1"]) == {"n": 1, "mean": 0.5, "sd": None, "low": 0.5, "high": 0.5}


def timing():
    latency, one_pass = Latency(1, 2, 3, 0.1, 0.2, 0.3, 0.15), PassTiming(10, 5, 0.5)
    return InferenceTiming(latency, latency, one_pass, one_pass, PeakMemory(7, None))


@pytest.mark.parametrize("exclusive", [False, True])
def test_records_are_read_back_as_written(tmp_path, exclusive):
    runs = {seed: head_run(seed, exclusive=exclusive) for seed in (0, 3)}
    if not exclusive:  # undefined values are written too
        absent = {part: labels * np.array([1, 0, 1, 1], np.uint8) for part, labels in runs[3].labels.items()}
        runs[3] = head_run(3, logits=runs[3].logits, labels=absent)
    trained = dataclasses.replace(runs[0], best_epoch=2, epochs_run=4, engine={"engine": "xla"})
    analyses = {seed: analyse(run, n_resamples=10) for seed, run in {**runs, 0: trained}.items()}
    source = FeatureSource("f.npz", "d", 250, 4, {"backbone": "made"})
    record = head_record("quantum", {**runs, 0: trained}, analyses, timing(), source)
    save_record(tmp_path / "bench_quantum.json", record)
    again = load_record(HeadRecord, tmp_path / "bench_quantum.json")
    assert to_json(again) == to_json(record)
    assert to_json(record)["schema"] == "qwafer/bench-head/2"
    assert again.first.test.macro == record.first.test.macro
    assert (again.seed, again.main_metric) == (0, "f1" if exclusive else "f1_tuned")
    assert from_json(InferenceTiming, to_json(timing())) == timing()

    assert (again.head, again.first.best_epoch, again.engine) == ("quantum", 2, {"engine": "xla"})
    assert np.isnan(again.runs[3].test.per_class["roc_auc"]).tolist() == [False, not exclusive, False, False]

    others = {"a": {0: runs[0]}, "b": {0: head_run(logits=head_run(9).logits)}}
    if not exclusive:
        compared = {head: {s: analyse(run, n_resamples=10) for s, run in by.items()} for head, by in others.items()}
        differences = Differences(
            seed_differences(compared, "a", [0], exclusive=False, design=FIXED),
            example_differences(others, "a", n_resamples=10),
        )
        assert from_json(Differences, to_json(differences)) == differences


def test_equal_heads_do_not_differ_and_a_better_one_does():
    base = head_run()
    better = head_run(logits={part: base.logits[part] + 2 * base.labels[part] for part in base.logits})
    found = example_differences(
        {"base": {0: base}, "same": {0: head_run()}, "better": {0: better}}, "base", n_resamples=300
    )
    assert list(found) == ["same", "better"]
    assert found["same"][0]["f1"].estimate == 0
    assert found["same"][0]["f1"].degenerate
    for name in ("f1", "roc_auc"):
        assert found["better"][0][name].low > 0
    reverse = example_differences({"better": {0: better}, "base": {0: base}}, "better", n_resamples=300)
    assert reverse["base"][0]["f1"].estimate == -found["better"][0]["f1"].estimate


def test_differences_over_seeds_are_those_of_the_metric():
    runs = {head: {seed: head_run(seed + shift) for seed in range(3)} for head, shift in (("a", 0), ("b", 10))}
    analyses = {head: {s: analyse(run, n_resamples=10) for s, run in by.items()} for head, by in runs.items()}
    (comparison,) = seed_differences(analyses, "a", range(3), exclusive=False, design=FIXED)["f1_tuned"]
    expected = [analyses["b"][s].test.macro["f1_tuned"] - analyses["a"][s].test.macro["f1_tuned"] for s in range(3)]
    assert comparison.differences == pytest.approx(expected)
    assert comparison.verdict == "too few seeds"


def test_heads_on_other_examples_are_refused():
    base = head_run()
    moved = dataclasses.replace(base, outputs={**base.outputs, "test_rows": base.rows["test"][::-1]})
    with pytest.raises(InputError, match="different test examples with seed 0"):
        check_same_examples({"base": {0: base}, "moved": {0: moved}})
    other = dataclasses.replace(base, outputs={**base.outputs, "val_labels": 1 - base.labels["val"]})
    with pytest.raises(InputError, match="different val examples"):
        check_same_examples({"base": {0: base}, "other": {0: other}})
    check_same_examples({"base": {0: base}, "same": {0: head_run()}})
    assert np.array_equal(base.rows["test"], np.arange(90, 250))
