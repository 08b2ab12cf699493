"""Heads and seeds join a finished benchmark; what it costs to add seeds until a verdict comes."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from qwafer.bench import main
from qwafer.comparison.statistics import paired_t_p
from qwafer.sweeps import OutputDirectory

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"
TOML = """
seeds = 1
metric = "test.f1_tuned"
data.n_maps = 240
data.task = "any"
training = {epochs = 1, max_doublings = 0}
[arms.linear]
head = "linear"
[arms.narrow]
head.name = "mlp"
head.hidden = 4
"""


def runs(out):
    return {str(path): path.read_bytes() for path in sorted((out / "sweep" / "runs").rglob("*.json"))}


@pytest.mark.slow
def test_a_head_and_a_seed_join_a_finished_benchmark(tmp_path, monkeypatch):
    (tmp_path / "two.toml").write_text(TOML)
    words = [str(tmp_path / "two.toml"), "--maps", "synthetic", "--executor", "serial", "--descriptive", "--quiet"]
    words += ["--out", str(tmp_path / "out")]
    for day, more in (("2026-01-02", []), ("2026-02-03", ["--heads", "linear,narrow,tree", "--seeds", "2"])):
        monkeypatch.setattr("qwafer.sweeps.directory.today", lambda day=day: day)
        before = runs(tmp_path / "out")
        assert main([*words, *more]) == 0
    after = runs(tmp_path / "out")
    assert len(before) == 2
    assert len(after) == 6
    assert {path: after[path] for path in before} == before, "what was there stays as it is"
    (added,) = OutputDirectory(tmp_path / "out" / "sweep").record().additions
    assert (added.date, added.arms, added.seeds, added.runs) == ("2026-02-03", ("tree",), (1,), 2)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "**Added 2026-02-03, when 2 runs were complete: arm tree, seed 1.**" in report
    assert "seeds were added after results could be seen (1, then 2): p values are too small" in report
    assert "arm tree was added after results could be seen" in report

    assert main([*words, "--seeds", "2"]) == 2, "no head leaves"
    assert runs(tmp_path / "out") == after


def false_verdicts(rho, looks, n=40_000):
    """Return how often one of the looks, at so many seeds each, ends at p < 0.05 though the mean difference is 0.

    Normal differences that the data correlate as `rho` = c / (1 - c) says, and the test that allows for it.
    """
    rng = np.random.default_rng(0)
    shared = rho / (1 + rho)
    d = np.sqrt(shared) * rng.normal(size=(n, 1)) + np.sqrt(1 - shared) * rng.normal(size=(n, max(looks)))
    found = np.zeros(n, bool)
    for seeds in looks:
        mean, sd = d[:, :seeds].mean(axis=1), d[:, :seeds].std(axis=1, ddof=1)
        p = 2 * stats.t.sf(np.abs(mean) / (sd * np.sqrt(1 / seeds + rho)), seeds - 1)
        assert p[0] == pytest.approx(paired_t_p(mean[0], sd[0], seeds, rho))
        found |= p < 0.05
    return found.mean()


def test_the_page_says_what_it_costs_to_look_again():
    text = PAGE.read_text(encoding="utf-8").partition("## Seeds that are added")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 2
    for (_, once, again), rho in zip(rows, (0.0, 0.45), strict=True):
        assert float(once) == pytest.approx(false_verdicts(rho, [20]), abs=0.004)
        assert float(again) == pytest.approx(false_verdicts(rho, range(6, 21, 2)), abs=0.006)
