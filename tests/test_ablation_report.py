"""Summary, warnings, report and figures of runs whose faults are planted."""

import dataclasses
import json

import numpy as np
import pytest

from qwafer._errors import InputError, PairingError
from qwafer._io import write_json
from qwafer.comparison import check_metric, metric_value
from qwafer.comparison.metrics import LOWER_IS_BETTER, METRICS
from qwafer.comparison.summary import ordered_groups, timings
from qwafer.comparison.summary import summarize as summary_of
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.experiment import Experiment
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.reports import write_report as write_report_of
from qwafer.reports.ablation import number, spread, table
from qwafer.reports.figures import text_problems
from qwafer.reports.figures.ablation import (
    curves_figure,
    differences_figure,
    learning_figure,
    metric_label,
    paired_figure,
)
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.directory import pending
from qwafer.training import RunResult, train

SEEDS = (0, 1, 2)
DATA = {arm: {"digest": "d", "n_examples": 90, "n_features": 4, "file": "f.npz"} for arm in ("linear", "mlp")}


@pytest.fixture(scope="module")
def experiment():
    shared = {"data.task": "a", "training.epochs": 3, "training.batch_size": 16}
    arms = {name: with_options(RunConfig(), {**shared, "head.name": name}) for name in ("linear", "mlp")}
    return Experiment("two", arms, "linear", SEEDS, title="Two heads", description="Why.", expected="Little.")


@pytest.fixture(scope="module")
def runs(experiment):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (90, 1)).astype(np.uint8)
    data = FeatureSet(
        features=(rng.standard_normal((90, 4)) + 0.8 * labels).astype(np.float32),
        labels=labels,
        label_names=("a",),
        content_ids=np.array([str(i) for i in range(90)]),
        provenance={},
    )
    return {arm: {seed: train(config, data, seed) for seed in SEEDS} for arm, config in experiment.arms.items()}


def summary_in(directory, experiment):
    """Write the summary and return it."""
    sweep = directory.read(experiment)
    summary = summary_of(experiment, sweep.results, sweep.failures, directory.record(), str(directory.path))
    write_json(directory.path / "summary.json", summary)
    return summary


def write_report(experiment, directory, summary):
    results = directory.read(experiment).results
    return write_report_of(directory.path, summary, timings(results), results)


@pytest.fixture
def summarize(experiment, runs, tmp_path):
    """Write the runs, changed by `edit(arm, seed, result)`, and return the summary; None leaves a run out."""

    def write(edit=lambda arm, seed, result: result, experiment=experiment, failures=()):
        directory = OutputDirectory(tmp_path / "out")
        directory.claim(experiment, DATA)
        for arm, results in runs.items():
            for seed, result in results.items():
                edited = edit(arm, seed, result)
                if edited is not None:
                    edited.save(directory.run_path(arm, seed))
        for arm, seed, error in failures:
            directory.write_failure(arm, seed, Failure("WorkerDied", error))
        return directory, summary_in(directory, experiment)

    return write


def in_arm(arm, **changes):
    return lambda name, seed, result: dataclasses.replace(result, **changes) if name == arm else result


def with_curves(result, **curves):
    return dataclasses.replace(result, curves={**result.curves, **curves})


def warnings(summary, text):
    return [sentence for sentence in summary["warnings"] if text in sentence]


def test_summary_of_sound_runs(summarize, experiment, runs):
    directory, summary = summarize()
    written = json.loads((directory.path / "summary.json").read_text())
    assert written["experiment"]["digest"] == experiment.digest()
    assert written["comparisons"][0]["seeds"] == list(SEEDS)
    values = {arm: [metric_value(r.metrics, "test.roc_auc") for r in results.values()] for arm, results in runs.items()}
    np.testing.assert_allclose(summary["comparisons"][0]["differences"], np.subtract(values["mlp"], values["linear"]))
    for arm, column in values.items():
        assert written["arms"][arm]["values"] == {str(seed): value for seed, value in zip(SEEDS, column, strict=True)}
        assert summary["arms"][arm]["mean"] == pytest.approx(np.mean(column))
        assert summary["arms"][arm]["sd"] == pytest.approx(np.std(column, ddof=1))
        assert summary["arms"][arm]["metrics"]["test"]["roc_auc"]["mean"] == pytest.approx(np.mean(column))
        assert summary["arms"][arm]["complete"] == list(SEEDS)
        first = np.mean([run.curves["grad_norm.projection"][0] for run in runs[arm].values()])
        assert summary["arms"][arm]["learning"]["projection"]["first_grad_norm"] == pytest.approx(first)
    assert summary["pairing"]["equal"] == ("data", "split", "batches")
    assert summary["identical_arms"] == ()
    assert summary["comparisons"][0]["verdict"] == "too few seeds"
    for text in ("failed", "dead", "bit-identical", "versions", "seeds were added", "leaves out"):
        assert not warnings(summary, text)


def test_summary_holds_no_duration(summarize, experiment):
    directory, _ = summarize()
    first = (directory.path / "summary.json").read_bytes()

    def slower(arm, seed, result):
        return dataclasses.replace(
            result,
            timings={name: 2 * value for name, value in result.timings.items()},
            compile_cache={"hits": 3},
            engine={"compile_seconds": 1.0} | result.engine,
        )

    directory, _ = summarize(slower)
    assert (directory.path / "summary.json").read_bytes() == first
    seconds = timings(directory.read(experiment).results)
    total = sum(run["total"] for run in seconds["mlp"]["runs"].values())
    assert seconds["mlp"]["sum"]["total"] == pytest.approx(total)


def test_failed_and_missing_runs(summarize):
    directory, summary = summarize(
        lambda arm, seed, result: None if (arm, seed) in (("mlp", 1), ("mlp", 2)) else result,
        failures=[("mlp", 1, "killed by signal 9")],
    )
    assert summary["comparisons"][0]["dropped_seeds"] == (1, 2)
    assert summary["arms"]["mlp"]["failed"][1]["error"] == "killed by signal 9"
    assert warnings(summary, "mlp: 1 run failed (seed 1)")[0].endswith("killed by signal 9.")
    assert warnings(summary, "the run was not done")
    text = write_report(summary_experiment(summary, directory), directory, summary).read_text()
    assert "| 1 | " in text
    assert "failed" in text


def summary_experiment(summary, directory):
    arms = {arm: with_options(RunConfig(), _flat(config)) for arm, config in directory.record()["arms"].items()}
    return Experiment(summary["experiment"]["name"], arms, "linear", SEEDS)


def _flat(config):
    return {f"{section}.{name}": value for section, values in config.items() for name, value in values.items()}


def test_no_run_at_all(summarize, experiment):
    directory, summary = summarize(lambda *_: None)
    assert summary["comparisons"][0]["verdict"] == "no data"
    text = write_report(experiment, directory, summary).read_text()
    assert "nothing can be said" in text
    assert not (directory.path / "figures").exists()


def test_dead_parameters_are_found(summarize):
    def dead(arm, seed, result):
        n = len(result.curves["epoch"])
        changed = {"grad_norm.readout": [0.0] * n, "distance.readout": [0.0] * n}
        return with_curves(result, **changed) if arm == "mlp" and seed != 2 else result

    _, summary = summarize(dead)
    assert warnings(summary, "mlp: readout has a gradient of exactly zero in 2 of 3 runs: it is dead")
    assert warnings(summary, "mlp: readout did not move in 2 of 3 runs")
    assert not [sentence for sentence in warnings(summary, "dead") if sentence.startswith("linear")]


def test_bit_identical_arms_are_a_finding(summarize, runs):
    def same(arm, seed, result):
        return dataclasses.replace(result, metrics=runs["linear"][seed].metrics, curves=runs["linear"][seed].curves)

    _, summary = summarize(same)
    assert summary["identical_arms"] == (("linear", "mlp"),)
    assert "head.name" in warnings(summary, "bit-identical results on every seed")[0]
    assert summary["comparisons"][0]["verdict"] == "identical"


def test_unequal_splits_are_refused(summarize):
    def other(arm, seed, result):
        changed = {**result.digests, "split": "0"} if (arm, seed) == ("mlp", 1) else result.digests
        return dataclasses.replace(result, digests=changed)

    with pytest.raises(PairingError, match="with seed 1 the `split` digest differs"):
        summarize(other)


def test_degenerate_runs_are_marked(summarize):
    def degenerate(arm, seed, result):
        test = {**result.metrics["test"], "reasons": ["scores are constant"]}
        changed = dataclasses.replace(result, degenerate=True, metrics={**result.metrics, "test": test})
        return changed if arm == "mlp" else result

    _, summary = summarize(degenerate)
    (sentence,) = warnings(summary, "marked degenerate")
    assert sentence.startswith("mlp: 3 of 3 runs marked degenerate (a: scores are constant)")


def test_epochs_tell_of_the_learning_rate(summarize):
    _, summary = summarize(lambda arm, seed, result: dataclasses.replace(result, best_epoch=3 if arm == "mlp" else 1))
    assert warnings(summary, "mlp: the last epoch was the best in 3 of 3 runs")
    assert warnings(summary, "linear: the first evaluation was the best in 3 of 3 runs")
    _, summary = summarize(lambda arm, seed, result: dataclasses.replace(result, best_epoch=2))
    assert not warnings(summary, "was the best")


def test_mixed_versions_and_revisions(summarize):
    def mixed(arm, seed, result):
        versions = {**result.versions, "jax": f"0.{seed}"}
        return dataclasses.replace(result, versions=versions, git_revision=str(seed))

    _, summary = summarize(mixed)
    assert warnings(summary, "different versions of jax.")
    assert warnings(summary, "different revisions of the code: 0, 1, 2")
    _, summary = summarize(lambda arm, seed, result: dataclasses.replace(result, git_revision="abc-dirty"))
    assert warnings(summary, "-dirty")


def test_seeds_added_or_left_out_are_told(summarize, experiment):
    directory, _ = summarize(experiment=dataclasses.replace(experiment, seeds=(0, 1)))
    directory.claim(experiment, DATA)
    assert directory.record()["extended_after"] == [2]
    _, summary = summarize()
    assert warnings(summary, "seeds were added after results could be seen (2, then 3)")
    _, summary = summarize(experiment=dataclasses.replace(experiment, seeds=(0, 1)))
    assert warnings(summary, "leaves out seed 2")


def test_notes_of_runs_are_counted(summarize):
    _, summary = summarize(lambda arm, seed, result: dataclasses.replace(result, notes=("Odd.",) * (seed == 0)))
    assert "Odd (2 of 6 runs)." in summary["warnings"]


def test_undefined_metric(summarize):
    def undefined(arm, seed, result):
        part = result.metrics["test"]
        test = {**part, "macro": {**part["macro"], "roc_auc": None}}
        return dataclasses.replace(result, metrics={**result.metrics, "test": test}) if seed == 0 else result

    _, summary = summarize(undefined)
    assert summary["comparisons"][0]["dropped_seeds"] == (0,)
    assert summary["arms"]["mlp"]["values"][0] is None


def test_report_stands_alone(summarize, experiment):
    directory, summary = summarize()
    path = write_report(experiment, directory, summary)
    text = path.read_text()
    for part in ("# Two heads", "Why.", "Little.", "too few seeds", "Holm", "sign-flip", "f.npz", experiment.digest()):
        assert part in text
    assert str(directory.path) not in text  # it can be moved and quoted
    for name in ("paired", "differences", "curves", "learning"):
        assert f"(figures/{name}.png)" in text
        for suffix in ("png", "pdf"):
            assert (directory.path / "figures" / f"{name}.{suffix}").stat().st_size > 1000
    for line in text.splitlines():
        assert "None" not in line.replace("None.", "")
        assert "nan" not in line.split()


@pytest.mark.parametrize("n_arms", [2, 5, 12])
def test_figures_are_legible(summarize, runs, n_arms):
    """No text leaves its figure or overlaps another, with few arms and many, and names of any length."""
    _, summary = summarize()
    names = ["linear", "mlp", "a_rather_long_name_of_an_arm", *[f"arm-{i}" for i in range(n_arms)]][:n_arms]
    linear, mlp = summary["arms"].values()
    many = {
        **summary,
        "arms": {name: (mlp if i % 2 else linear) for i, name in enumerate(names)},
        "comparisons": [{**summary["comparisons"][0], "arm": name} for name in names[1:]],
    }
    results = {name: runs["mlp" if i % 2 else "linear"] for i, name in enumerate(names)}
    for figure in (paired_figure(many), differences_figure(many), curves_figure(results), learning_figure(results)):
        assert text_problems(figure) == []


def test_curves_of_runs_that_stopped_early(runs):
    def short(result):
        return dataclasses.replace(result, curves={name: values[:1] for name, values in result.curves.items()})

    results = {"mlp": {0: runs["mlp"][0], 1: short(runs["mlp"][1])}}
    (line,) = (line for line in learning_figure(results).axes[0].lines if len(line.get_xdata()))
    curves = [runs["mlp"][seed].curves["grad_norm.projection"] for seed in (0, 1)]
    np.testing.assert_allclose(line.get_ydata(), [(curves[0][0] + curves[1][0]) / 2, *curves[0][1:]])


def test_damaged_and_foreign_runs_are_not_complete(summarize, experiment):
    directory, _ = summarize()
    path = directory.run_path("mlp", 0)
    assert pending(experiment, directory.read(experiment)) == []
    whole = path.read_text()
    for damage in (whole[: len(whole) // 2], "[]", "{}", whole.replace('"format": 1', '"format": 0')):
        path.write_text(damage)
        assert pending(experiment, directory.read(experiment)) == [("mlp", 0)]
    path.write_text(whole.replace('"seed": 0', '"seed": 5', 1))
    assert pending(experiment, directory.read(experiment)) == [("mlp", 0)]
    path.write_text(directory.run_path("linear", 0).read_text())
    assert pending(experiment, directory.read(experiment)) == [("mlp", 0)]
    path.write_text(whole)
    sweep = directory.read(experiment)
    assert isinstance(sweep.results["mlp"][0], RunResult)
    assert not any(sweep.failures.values())


def test_metrics_are_checked():
    check_metric("val.f1_tuned")
    for metric, hint in (
        ("test.auc", ""),
        ("roc_auc", "did you mean `test.roc_auc`"),
        ("test.predicted_positive_rate", ""),
    ):
        with pytest.raises(InputError, match="`metric` must be") as error:
            check_metric(metric)
        assert hint in str(error.value)
    assert set(LOWER_IS_BETTER) <= set(METRICS)


def test_metrics_exist(runs):
    macro = runs["mlp"][0].metrics["test"]["macro"]
    exclusive_only = {"accuracy", "top_label_ece"}
    assert set(METRICS) - set(macro) == exclusive_only


def test_small_pieces():
    assert number(None) == "–"
    assert number(0.123456) == "0.1235"
    assert number(12345) == "12,345"
    assert spread(0.5, None) == "0.5000"
    assert spread(0.5, 0.01) == "0.5000 ± 0.0100"
    assert spread(None, None) == "–"
    assert table(("a", "b"), [("x|y", 1)]).splitlines() == ["| a | b |", "|---|--:|", "| x\\|y | 1 |"]
    assert ordered_groups(["alpha", "other", "projection", "alpha"]) == ["projection", "alpha", "other"]
    assert metric_label("test.roc_auc") == "Test ROC-AUC"
    assert metric_label("val.average_precision") == "Val average precision"
