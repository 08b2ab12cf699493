"""How often a champion is taken back for nothing, and how soon one that is worse, by simulation of its reviews."""

from pathlib import Path

import numpy as np
import pytest

from qwafer.serving.reviewed import ALPHA, FIRST_LOOK, accuracy_bounds, below, look, look_alpha, reviewed_accuracy
from tests.test_serving_service import window_of

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
MOST = 10_000
"""Reviews, after each of which somebody asks."""


def taken_back(
    n_runs: int,
    right: tuple[float, float],
    baseline: float,
    *,
    flagged: float = 0.1,
    audit: float = 0.05,
    seed: int = 0,
) -> np.ndarray:
    """The reviews (n_runs,) after which the champion is taken back; infinite where it is not by the last look.

    An answer is flagged with probability `flagged`, drawn with `audit` else; one of both is reviewed, and is right with
    the probability `right` of its stratum. Between two reviews lie answers that nobody reviews.
    """
    rng = np.random.default_rng(seed)
    reviewed = flagged + (1 - flagged) * audit
    tally, found, before = np.zeros((n_runs, 2, 3), np.int64), np.full(n_runs, np.inf), 0
    for n in [n for n in range(1, MOST + 1) if look(n) is not None]:
        doubtful = rng.binomial(n - before, flagged / reviewed, n_runs)
        for stratum, count in enumerate((n - before - doubtful, doubtful)):
            tally[:, stratum, :2] += count[:, None]
            tally[:, stratum, 2] += rng.binomial(count, right[stratum])
        tally[:, 0, 0] += rng.negative_binomial(n - before, reviewed, n_runs)
        left, before = np.flatnonzero(np.isinf(found)), n
        if not len(left):
            break
        bounds = accuracy_bounds(tally[left], 2 * look_alpha(look(n) or 0), to_come=True)
        assert below(tally[left[0]], baseline, look(n) or 0)[0].high == pytest.approx(bounds[2][0])
        found[left[bounds[2] < baseline]] = n
    return found


@pytest.mark.parametrize("right", [(0.978, 0.7), (0.95, 0.95), (0.9999, 0.3)])
def test_a_champion_as_good_as_the_one_before_stays_at_the_stated_rate(right: tuple[float, float]) -> None:
    """With the share of flagged answers taken for known, one in ten went where nearly all errors were flagged."""
    n_runs = 2000
    taken = np.isfinite(taken_back(n_runs, right, 0.9 * right[0] + 0.1 * right[1])).sum()
    assert taken <= ALPHA * n_runs + 3 * np.sqrt(ALPHA * n_runs)


def test_the_page_says_how_soon_a_worse_one_goes() -> None:
    right = (0.978, 0.7)
    said = []
    for drop in (0.05, 0.1):
        found = taken_back(2000, (right[0] - drop, right[1] - drop), 0.9 * right[0] + 0.1 * right[1])
        said.append(f"{np.quantile(found, 0.8, method='inverted_cdf'):,.0f}")
        assert np.mean(found <= float(said[-1].replace(",", ""))) > 0.82, "whatever the seed"
    sentence = f"A drop of 5 points is found by {said[0]} reviews in eight cases of ten, one of 10 points by {said[1]}"
    assert sentence in " ".join(PAGE.split())
    rate = np.isfinite(taken_back(10_000, right, 0.9 * right[0] + 0.1 * right[1], seed=1)).mean()
    assert rate < 0.001, "the page says: one in a thousand"


def test_the_bounds_are_those_of_a_window_and_wider_for_answers_to_come() -> None:
    rng = np.random.default_rng(0)
    flagged = rng.random(500) < 0.2
    reviewed, right = rng.random(500) < np.where(flagged, 0.9, 0.1), rng.random(500) < 0.8
    tally = np.array([[(part & of).sum() for of in (part, reviewed, reviewed & right)] for part in (~flagged, flagged)])
    found = reviewed_accuracy(window_of(flagged, ~flagged, right, reviewed))
    estimate, low, high = accuracy_bounds(np.stack([tally, tally]))
    assert (estimate[1], low[1], high[1]) == pytest.approx((found.estimate, found.low, found.high))
    shares = tally[:, 0] / tally[:, 0].sum()
    assert found.estimate == pytest.approx((shares * tally[:, 2] / tally[:, 1]).sum())
    _, lower, higher = accuracy_bounds(tally, to_come=True)
    assert lower < found.low < found.high < higher
    nothing = accuracy_bounds(np.zeros((2, 3)), to_come=True)
    assert np.isnan(nothing[0])
    assert (float(nothing[1]), float(nothing[2])) == (0.0, 1.0)
    assert look(FIRST_LOOK) == 0
