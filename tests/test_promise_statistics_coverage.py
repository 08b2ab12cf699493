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
    """Four arms at the margin's edge: at most 5% of experiments call one of them equivalent, by Monte Carlo of 3,000.

    The arm that Holm leaves with the 95% interval is the one whose estimate happens to lie nearest 0.
    """
    rng = np.random.default_rng(0)
    false = sum("equivalent" in verdicts(1 + rng.standard_normal((4, 20)), 1.0) for _ in range(3000))
    assert false / 3000 < 0.05 + 3 * 0.004


def test_an_arm_within_the_margin_is_equivalent_among_others():
    rng = np.random.default_rng(0)
    assert verdicts(0.01 * rng.standard_normal((4, 20)), 0.1) == ["equivalent"] * 4
