"""What the verdicts say holds in simulation: benchmarks/coverage.py, with a tenth of its replications."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from qwafer.comparison.design import Design
from qwafer.comparison.statistics import compare_arms

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("qwafer_coverage", ROOT / "benchmarks" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def verdicts(d: np.ndarray, margin: float) -> list[str]:
    """The verdicts on the differences `d` (arms, seeds) on one split."""
    values = {f"arm{i}": dict(enumerate(row.tolist())) for i, row in enumerate([0 * d[0], *d])}
    found = compare_arms(
        values,
        baseline="arm0",
        metric="test.roc_auc",
        seeds=range(d.shape[1]),
        design=Design("fixed split", 0.0),
        margin=margin,
    )
    return [c.verdict for c in found]


def test_equivalence_is_not_found_by_looking_at_more_arms():
    """Four arms at the margin's edge: at most 5% of experiments call one of them equivalent, by Monte Carlo of 2,000.

    The arm that Holm leaves with the 95% interval is the one whose estimate happens to lie nearest 0.
    """
    rng = np.random.default_rng(0)
    false = sum("equivalent" in verdicts(0.01 * (1 + rng.standard_normal((4, 20))), 0.01) for _ in range(2000))
    assert false / 2000 < 0.05 + 3 * 0.005


def test_an_arm_within_the_margin_is_equivalent_among_others():
    rng = np.random.default_rng(0)
    assert verdicts(0.01 * rng.standard_normal((4, 20)), 0.1) == ["equivalent"] * 4


def test_splits_drawn_anew_err_no_more_than_one_split(coverage):
    """Near chance, where the correction of Nadeau and Bengio errs in one in ten."""
    design = (coverage.NEAR_CHANCE, coverage.BY_SEED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "DESIGNS", (design,))
        cells = list(coverage.verdict_errors(250))
    assert {(c.seeds, c.comparisons) for c in cells} == {(n, m) for n in (6, 8, 10, 20) for m in (1, 4)}
    assert all(cell.holds(3.0) for cell in cells), cells
    assert max(cell.rate for cell in cells) > 0.01  # the arms are trained, and the test is not vacuous


def test_an_uncorrected_test_is_caught(coverage):
    """The simulation sees what it is for: without the overlap, equal arms differ in a fifth of the experiments."""
    false = 0
    for values in coverage.trained_values(coverage.NEAR_CHANCE, coverage.BY_SEED, 100, 0):
        (found,) = coverage.compared(values[:2, :8], coverage.FIXED)
        false += found.verdict in ("better", "worse")
    assert false / 100 > 0.15


@pytest.mark.parametrize("part", ["interval_coverage", "false_equivalents"])
def test_bounds_hold_with_few_replications(coverage, part):
    cells = list(getattr(coverage, part)(60))
    assert [cell for cell in cells if not cell.holds(3.5)] == []


def test_a_bound_that_is_missed_is_seen(coverage):
    assert not coverage.Cell("errors", "", 6, 1, 0.09, (0.0, 0.06), 1000).holds(3.0)
    assert coverage.Cell("errors", "", 6, 1, 0.07, (0.0, 0.06), 1000).holds(3.0)
    assert coverage.shown(coverage.Cell("errors", "", 6, 1, 0.07, (0.0, 0.06), 1000)) == "**0.070**"


def test_the_page_shows_the_results(coverage):
    """The tables of docs/statistics.md are those of the committed results, and no bound is missed in them."""
    page, cells = coverage.PAGE.read_text(encoding="utf-8"), coverage.read_cells()
    assert coverage.with_tables(page, cells) == page
    assert {cell.part for cell in cells} == set(coverage.PARTS)
    assert [cell for cell in cells if not cell.holds()] == []


def test_sentences_of_the_page_say_what_was_measured(coverage):
    """Errors of other overlaps near chance: up to 10% (g/f), 11% (1/(K - 1)), 5% (ours), 21 to 51% (none)."""
    rates = {}
    for cell in coverage.read_cells():
        if cell.part == "alternatives":
            rates.setdefault(cell.case, []).append(round(100 * cell.rate))
    assert max(rates["new splits, rho = g/f (Nadeau and Bengio)"]) == 10
    assert max(rates["folds, rho = 1/(K - 1) (Bouckaert and Frank)"]) == 11
    assert max(rates["new splits, rho = ours"] + rates["folds, rho = ours"]) == 5
    uncorrected = rates["new splits, rho = 0 (uncorrected)"]
    assert (min(uncorrected), max(uncorrected)) == (21, 51)
