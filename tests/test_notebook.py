"""What results show in a notebook, and as tables."""

import numpy as np
import pytest

import qwafer
from qwafer.studies import run_experiment

TOML = """
seeds = 6
metric = "test.roc_auc"
title = "Two <heads>"
[data]
task = "any"
n_maps = 300
[training]
epochs = 2
max_doublings = 0
[arms.linear]
head = "linear"
[arms.wide]
head = "mlp"
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "two.toml").write_text(TOML)
    return run_experiment(
        qwafer.load_experiment(folder / "two.toml"), folder / "out", executor=qwafer.execution.Threads()
    )


def test_a_summary_is_a_table_of_comparisons(outcome):
    table = outcome.summary.to_pandas()
    (comparison,) = outcome.summary.comparisons
    assert list(table.index) == ["wide"]
    assert table.loc["wide", "difference"] == comparison.mean
    assert table.loc["wide", "verdict"] == comparison.verdict
    assert table[["difference", "low", "high", "level", "p"]].dtypes.eq("float64").all()


def test_a_notebook_shows_every_warning_with_the_verdict(outcome):
    shown = outcome._repr_html_()
    assert "Two &lt;heads&gt;" in shown
    assert "<heads>" not in shown
    assert "synthetic" in shown  # the gravest warning of this sweep
    assert outcome.summary.comparisons[0].verdict in shown
    assert str(outcome.report) in shown


def test_a_run_is_a_table_of_metrics(outcome):
    run = outcome.results.results["linear"][0]
    table = run.to_pandas()
    assert table.loc[("test", "average"), "roc_auc"] == run.test.macro["roc_auc"]
    assert table.loc[("val", "defect"), "f1"] == run.val.per_class["f1"][0]
    assert np.isnan(table.loc[("val", "defect"), "f1_micro"])


def test_a_notebook_shows_what_spoils_a_run(outcome):
    import dataclasses

    run = outcome.results.results["linear"][0]
    reasons = ("one class <only>",)
    test = dataclasses.replace(run.test, degenerate=(True,), reasons=reasons)
    shown = dataclasses.replace(run, degenerate=True, converged=False, test=test)._repr_html_()
    assert "had not converged" in shown
    assert "one class &lt;only&gt;" in shown
    assert "cannot be trusted" in shown
