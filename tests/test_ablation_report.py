"""Summary, warnings, report and figures of runs whose faults are planted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from qwafer._errors import InputError, PairingError
from qwafer._records import from_json, load_record, sealed, to_json
from qwafer.comparison import Summary, SweepTimings, check_metric, metric_value
from qwafer.comparison.metrics import METRICS, metric_label
from qwafer.comparison.summary import ordered_groups
from qwafer.config import RunConfig
from qwafer.execution import Failure
from qwafer.experiment import Experiment
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.reports.document import Table, to_markdown
from qwafer.reports.figures import text_problems
from qwafer.reports.figures.ablation import (
    curves_figure,
    differences_figure,
    learning_figure,
    paired_figure,
)
from qwafer.reports.format import format_number, format_spread
from qwafer.studies.ablation import conclude
from qwafer.sweeps import OutputDirectory, SourceRecord
from qwafer.training import RunResult, Timings, train

SEEDS = (0, 1, 2)
DATA = {arm: SourceRecord(digest="d", n_examples=90, n_features=4, file="f.npz") for arm in ("linear", "mlp")}


@pytest.fixture(scope="module")
def experiment():
    shared = {"data.task": "a", "training.epochs": 3, "training.max_doublings": 0, "training.batch_size": 16}
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
    return {
        arm: {seed: train(config, data, seed, from_source=True) for seed in SEEDS}
        for arm, config in experiment.arms.items()
    }


@pytest.fixture
def summarize(experiment, runs, tmp_path):
    """Write the runs, and return the summary of them changed by `edit(arm, seed, result)`; None leaves a run out."""

    def write(edit=lambda arm, seed, result: result, experiment=experiment, failures=()):
        directory = OutputDirectory(tmp_path / "out")
        record = directory.claim(experiment, DATA)
        for arm, results in runs.items():
            for seed, result in results.items():
                if edit(arm, seed, result) is not None:
                    result.save(directory.run_path(arm, seed))
        for arm, seed, error in failures:
            directory.write_failure(arm, seed, Failure("WorkerDied", error, "a traceback"))
        results = directory.read(experiment)
        for arm, found in results.results.items():  # in memory: a file that was edited is refused
            found.update({seed: edit(arm, seed, result) for seed, result in found.items()})
        summary, _ = conclude(experiment, directory.path, results, record)
        return directory, summary

    return write


def in_arm(arm, **changes):
    return lambda name, seed, result: dataclasses.replace(result, **changes) if name == arm else result


def with_curves(result, **curves):
    return dataclasses.replace(result, curves={**result.curves, **curves})


def warnings(summary, text):
    return [sentence for sentence in summary.warnings if text in sentence]


def test_summary_of_sound_runs(summarize, experiment, runs):
    directory, summary = summarize()
    written = json.loads((directory.path / "summary.json").read_text())
    assert written["experiment"]["digest"] == experiment.digest()
    assert written["comparisons"][0]["seeds"] == list(SEEDS)
    values = {arm: [metric_value(r, "test.roc_auc") for r in results.values()] for arm, results in runs.items()}
    np.testing.assert_allclose(summary.comparisons[0].differences, np.subtract(values["mlp"], values["linear"]))
    for arm, column in values.items():
        assert written["arms"][arm]["values"] == {str(seed): value for seed, value in zip(SEEDS, column, strict=True)}
        assert summary.arms[arm].mean == pytest.approx(np.mean(column))
        assert summary.arms[arm].sd == pytest.approx(np.std(column, ddof=1))
        assert summary.arms[arm].metrics["test.roc_auc"].mean == pytest.approx(np.mean(column))
        assert summary.arms[arm].complete == SEEDS
        first = np.mean([run.curves["grad_norm.projection"][0] for run in runs[arm].values()])
        assert summary.arms[arm].learning["projection"].first_grad_norm == pytest.approx(first)
    assert summary.pairing.equal == ("data", "split", "batches")
    assert summary.identical_arms == ()
    assert summary.comparisons[0].verdict == "too few seeds"
    for text in ("failed", "dead", "bit-identical", "versions", "seeds were added", "leaves out"):
        assert not warnings(summary, text)


def test_records_survive_their_files(summarize, experiment):
    directory, summary = summarize(lambda arm, seed, result: None if (arm, seed) == ("mlp", 1) else result)
    loaded = load_record(Summary, directory.path / "summary.json")
    assert loaded == summary
    assert sealed(to_json(loaded)) == json.loads((directory.path / "summary.json").read_text())
    timings = load_record(SweepTimings, directory.path / "timings.json")
    assert from_json(SweepTimings, to_json(timings)) == timings
    assert sorted(timings.arms["mlp"].runs) == [0, 2]
    record = directory.record()
    assert record.seeds == experiment.seeds
    assert record.data == DATA
    for name, form, version in (("summary", Summary, 3), ("timings", SweepTimings, 2)):
        path = directory.path / f"{name}.json"
        older = json.loads(path.read_text().replace(f"/{version}", f"/{version - 1}", 1))
        older.pop("checksum")
        path.write_text(json.dumps(older))
        with pytest.raises(InputError, match="of another version"):
            load_record(form, path)


def test_a_directory_of_an_earlier_version_is_refused(summarize):
    directory, _ = summarize()
    file = directory.path / "experiment.json"
    for content in ('{"format": 1, "name": "two"}', file.read_text().replace("experiment/3", "experiment/2"), "{"):
        file.write_text(content)
        with pytest.raises(InputError, match=r"experiment.json .*; choose another output directory"):
            directory.record()


def contender(arm, seed, result):
    """The arm mlp as something that fits itself, without epochs."""
    if arm == "linear":
        return result
    digests = dataclasses.replace(result.digests, batches="", parameters={})
    return dataclasses.replace(
        result, initial=None, best_epoch=0, epochs_run=0, curves={}, digests=digests, timings=Timings(total=1.0)
    )


def test_a_contender_without_epochs_is_compared_and_reported(summarize):
    directory, summary = summarize(contender)
    assert summary.pairing.equal == ("data", "split")
    assert summary.comparisons[0].verdict == "too few seeds"
    assert summary.arms["mlp"].learning == {}
    assert summary.arms["mlp"].best_epochs == dict.fromkeys(SEEDS, 0)
    assert not warnings(summary, "was the best")
    text = (directory.path / "report.md").read_text()
    assert "\n| mlp | " not in text.split("## Is everything learning?")[1]  # no row of gradients
    assert "initial values of 0 shared parameters: none" in text
    assert (directory.path / "figures" / "curves.png").is_file()
    directory, summary = summarize(lambda arm, seed, result: contender("mlp", seed, result))
    assert "Is everything learning?" not in (directory.path / "report.md").read_text()


def test_summary_holds_no_duration(summarize, experiment):
    directory, _ = summarize()
    first = (directory.path / "summary.json").read_bytes()

    def slower(arm, seed, result):
        return dataclasses.replace(
            result,
            timings=Timings(**{name: 2 * value for name, value in dataclasses.asdict(result.timings).items()}),
            compile_cache={"hits": 3},
            engine={"compile_seconds": 1.0} | result.engine,
        )

    directory, _ = summarize(slower)
    assert (directory.path / "summary.json").read_bytes() == first
    seconds = load_record(SweepTimings, directory.path / "timings.json").arms["mlp"]
    assert seconds.sum.total == pytest.approx(sum(run.total for run in seconds.runs.values()))
    assert seconds.sum.steps == sum(run.steps for run in seconds.runs.values())
    assert seconds.sum.steps_per_second == pytest.approx(seconds.sum.steps / seconds.sum.training)


def test_failed_and_missing_runs(summarize):
    directory, summary = summarize(
        lambda arm, seed, result: None if (arm, seed) in (("mlp", 1), ("mlp", 2)) else result,
        failures=[("mlp", 1, "killed by signal 9")],
    )
    assert summary.comparisons[0].dropped_seeds == (1, 2)
    assert summary.arms["mlp"].failed[1] == Failure("WorkerDied", "killed by signal 9")
    assert warnings(summary, "mlp: 1 run failed (seed 1)")[0].endswith("killed by signal 9.")
    assert warnings(summary, "the run was not done")
    text = (directory.path / "report.md").read_text()
    assert "| 1 | " in text
    assert "failed" in text


def test_no_run_at_all(summarize, experiment):
    directory, summary = summarize(lambda *_: None)
    assert summary.comparisons[0].verdict == "no data"
    text = (directory.path / "report.md").read_text()
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
        first = runs["linear"][seed]
        return dataclasses.replace(result, val=first.val, test=first.test, initial=first.initial, curves=first.curves)

    _, summary = summarize(same)
    assert summary.identical_arms == (("linear", "mlp"),)
    assert "head.name" in warnings(summary, "bit-identical results on every seed")[0]
    assert summary.comparisons[0].verdict == "identical"


def test_unequal_splits_are_refused(summarize):
    def other(arm, seed, result):
        split = "0" if (arm, seed) == ("mlp", 1) else result.digests.split
        return dataclasses.replace(result, digests=dataclasses.replace(result.digests, split=split))

    with pytest.raises(PairingError, match="with seed 1 the `split` digest differs"):
        summarize(other)


def test_degenerate_runs_are_marked(summarize):
    def degenerate(arm, seed, result):
        test = dataclasses.replace(result.test, reasons=("scores are constant",))
        changed = dataclasses.replace(result, degenerate=True, test=test)
        return changed if arm == "mlp" else result

    _, summary = summarize(degenerate)
    (sentence,) = warnings(summary, "marked degenerate")
    assert sentence.startswith("mlp: 3 of 3 runs marked degenerate (a: scores are constant)")


def test_epochs_tell_of_the_learning_rate(summarize):
    def told(arm, seed, result):
        return dataclasses.replace(result, best_epoch=2 if arm == "mlp" else 1, converged=arm == "linear" or seed > 0)

    _, summary = summarize(told)
    assert warnings(summary, "mlp: training had not converged in 1 of 3 runs")
    assert not warnings(summary, "linear: training had not converged")
    assert warnings(summary, "linear: the first evaluation was the best in 3 of 3 runs")
    assert not warnings(summary, "mlp: the first evaluation")


def made_with(result, **changes):
    return dataclasses.replace(result, environment=dataclasses.replace(result.environment, **changes))


def test_mixed_versions_and_revisions(summarize):
    def mixed(arm, seed, result):
        return made_with(result, versions={**result.environment.versions, "jax": f"0.{seed}"}, git_revision=str(seed))

    _, summary = summarize(mixed)
    assert warnings(summary, "different versions of jax.")
    assert warnings(summary, "different revisions of the code: 0, 1, 2")
    _, summary = summarize(lambda arm, seed, result: made_with(result, git_revision="abc-dirty"))
    assert warnings(summary, "-dirty")


def test_seeds_added_or_left_out_are_told(summarize, experiment):
    directory, _ = summarize(experiment=dataclasses.replace(experiment, seeds=(0, 1)))
    directory.claim(experiment, DATA)
    assert directory.record().extended_after == (2,)
    _, summary = summarize()
    assert warnings(summary, "seeds were added after results could be seen (2, then 3)")
    _, summary = summarize(experiment=dataclasses.replace(experiment, seeds=(0, 1)))
    assert warnings(summary, "leaves out seed 2")


def test_a_margin_chosen_after_the_results_is_told(summarize, experiment):
    _, summary = summarize()
    assert not warnings(summary, "margin")
    _, summary = summarize(experiment=dataclasses.replace(experiment, margin=0.2))
    assert warnings(summary, "the margin was 0.01 before the first run and is 0.2 now")


def test_notes_of_runs_are_counted(summarize):
    _, summary = summarize(lambda arm, seed, result: dataclasses.replace(result, notes=("Odd.",) * (seed == 0)))
    assert "Odd (2 of 6 runs)." in summary.warnings


def test_undefined_metric(summarize):
    def undefined(arm, seed, result):
        test = dataclasses.replace(result.test, macro={**result.test.macro, "roc_auc": np.nan})
        return dataclasses.replace(result, test=test) if seed == 0 else result

    _, summary = summarize(undefined)
    assert summary.comparisons[0].dropped_seeds == (0,)
    assert summary.arms["mlp"].values[0] is None


def test_report_stands_alone(summarize, experiment):
    directory, _ = summarize()
    text = (directory.path / "report.md").read_text()
    for part in (
        "# Two heads",
        "Why.",
        "Little.",
        "too few seeds",
        "Holm",
        "pseudomedian",
        "On data like these",
        "f.npz",
        experiment.digest(),
    ):
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
    linear, mlp = summary.arms.values()
    many = dataclasses.replace(
        summary,
        arms={name: (mlp if i % 2 else linear) for i, name in enumerate(names)},
        comparisons=tuple(dataclasses.replace(summary.comparisons[0], arm=name) for name in names[1:]),
    )
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
    assert directory.read(experiment).pending == []
    whole = path.read_text()
    for damage in (whole[: len(whole) // 2], "[]", "{}", whole.replace("qwafer/run/3", "qwafer/run/2")):
        path.write_text(damage)
        assert directory.read(experiment).pending == [("mlp", 0)]
    for foreign in (whole.replace('"seed": 0', '"seed": 5', 1), directory.run_path("linear", 0).read_text()):
        path.write_text(foreign)
        with pytest.raises(InputError, match="delete it"):
            directory.read(experiment)
    path.write_text(whole)
    sweep = directory.read(experiment)
    assert isinstance(sweep.results["mlp"][0], RunResult)
    assert not any(sweep.failures.values())
    path.unlink()
    assert directory.read(experiment).pending == [("mlp", 0)]
    again = directory.read(experiment, sweep)  # what was read is not read again
    assert all(again.results[arm][seed] is run for arm, runs in sweep.results.items() for seed, run in runs.items())


def test_metrics_are_checked():
    check_metric("test.f1_tuned")
    for metric, hint in (
        ("val.f1_tuned", "what picks cannot judge"),
        ("test.auc", ""),
        ("roc_auc", "did you mean `test.roc_auc`"),
        ("test.predicted_positive_rate", ""),
    ):
        with pytest.raises(InputError, match="`metric` must be") as error:
            check_metric(metric)
        assert hint in str(error.value)
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == [
        *("loss", "brier", "ece", "top_label_ece")
    ]


def test_metrics_exist(runs):
    macro = runs["mlp"][0].test.macro
    exclusive_only = {"accuracy", "top_label_ece"}
    assert set(METRICS) - set(macro) == exclusive_only


def test_small_pieces():
    assert format_number(None) == "–"
    assert format_number(0.123456) == "0.1235"
    assert format_number(12345) == "12,345"
    assert format_spread(0.5, None) == "0.5000"
    assert format_spread(0.5, 0.01) == "0.5000 ± 0.0100"
    assert format_spread(None, None) == "–"
    text = to_markdown([Table(("a", "b"), [("x|y", 1)])], Path())
    assert text.splitlines() == ["| a | b |", "|---|--:|", "| x\\|y | 1 |"]
    assert ordered_groups(["alpha", "other", "projection", "alpha"]) == ["projection", "alpha", "other"]
    assert metric_label("test.roc_auc") == "Test ROC-AUC"
    assert metric_label("test.f1_tuned") == "Test F1, tuned"
    assert metric_label("val.average_precision") == "Val average precision"
