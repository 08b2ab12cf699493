"""Many jobs: each is done once, in the order of its family, and nothing of them stays."""

import importlib
import random
from functools import partial
from pathlib import Path

import pytest

from qwafer.execution import Job, make_executor
from qwafer.execution.running import _Waiting

ROOT = Path(__file__).resolve().parents[1]


def test_every_job_is_taken_once_and_by_the_rule_of_families():
    for trial in range(200):
        rng = random.Random(trial)
        jobs = [Job(str(k), "m:f", family=rng.choice(["", *"abc"])) for k in range(rng.randrange(1, 30))]
        slots, served, left = rng.randrange(1, 4), {}, list(jobs)
        waiting = _Waiting(jobs, served)
        while left:
            slot = rng.randrange(slots)
            own = served.get(slot)
            others = {family for other, family in served.items() if other != slot and family}

            def cost(job, own=own, others=others):
                return 2 * (not job.family or job.family != own) + (job.family in others)

            expected = min(left, key=cost)  # the first of those that cost least
            assert len(waiting) == len(left)
            assert waiting.take(slot) is expected
            left.remove(expected)
        assert waiting.take(0) is None


@pytest.mark.slow
def test_ten_thousand_jobs_leave_nothing_behind(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = importlib.import_module("executors").measure
    found = measure(partial(make_executor, "local", 2), 10_000, 0.01)
    assert found["growth"] < 16 * 2**20
    assert not found["left"]
