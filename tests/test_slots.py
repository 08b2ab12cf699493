"""How many slots an executor opens: one for two families, all where jobs would wait for long."""

import threading

import pytest

from qwafer.execution import Event, Job, running
from qwafer.execution.running import run_in_slots

LONG = 3600.0


def jobs(*families, fresh=False):
    return [Job(f"{place}", "no:where", family=family, fresh=fresh) for place, family in enumerate(families)]


def slots_used(jobs, n, patience, act=lambda job: None):
    """Return the slots that served a job; one begins when the executor has taken note of what came before."""
    used, noted = set(), {job.key: threading.Event() for job in jobs}

    def serve(slot, job, put):
        used.add(slot)
        assert noted[job.key].wait(60)
        act(job)
        put(Event(job.key, "done"))

    run_in_slots(n, jobs, serve, lambda event: noted[event.key].set(), lambda: None, {}, patience)
    return used


def test_two_families_of_short_jobs_share_a_slot():
    assert slots_used(jobs(*"aaaabbbb"), 4, LONG) == {0}


@pytest.mark.parametrize(
    "given",
    [jobs("a", "b", "c", "a"), jobs("", "", ""), jobs("a", "a", "a", fresh=True)],
    ids=["families", "none", "fresh"],
)
def test_more_families_have_more_slots_at_once(given):
    both = threading.Barrier(2, timeout=60)
    first = {job.key for job in given[:2]}
    used = slots_used(given, 2, LONG, lambda job: both.wait() if job.key in first else None)
    assert used == {0, 1}


def test_without_patience_all_slots_are_open():
    all_of_them = threading.Barrier(4, timeout=60)
    assert slots_used(jobs(*"aaaa"), 4, 0.0, lambda job: all_of_them.wait()) == {0, 1, 2, 3}


def test_a_job_that_goes_on_and_on_opens_the_others():
    another = threading.Event()
    used = slots_used(jobs(*"aaa"), 3, 0.05, lambda job: another.wait(60) if job.key == "0" else another.set())
    assert len(used) > 1


class Clock:
    """Time that passes where a test says so."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(running, "time", found)
    return found


def test_many_short_jobs_open_the_others(clock):
    """Each takes a minute, the patience is 100 s: after two of them the others would wait for half an hour."""
    served, both = [], threading.Event()

    def act(job):
        clock.now += 60
        served.append(threading.get_ident())
        if len(set(served)) > 1:
            both.set()
        if len(served) > 2:
            both.wait(60)

    assert slots_used(jobs(*"a" * 30), 2, 100.0, act) == {0, 1}


def test_few_short_jobs_that_are_left_open_none(clock):
    """The patience is over with the second job, and a minute is left."""

    def act(job):
        clock.now += 60

    assert slots_used(jobs(*"aaa"), 2, 100.0, act) == {0}


def test_a_family_whose_first_job_took_long_counts_by_its_others(clock):
    """The first compiles for 200 s, the others take 1: nine of them are no reason for a second process."""

    def act(job):
        clock.now += 200 if job.key == "0" else 1

    assert slots_used(jobs(*"a" * 10), 2, 201.0, act) == {0}
