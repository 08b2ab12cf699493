"""Latencies with their counts, and peak memory."""

import subprocess
import sys
import time

import numpy as np
import pytest

from qwafer._errors import InputError
from qwafer.sweeps.inference import time_calls
from qwafer.training.resources import measure_latency, peak_memory


def test_calls_are_counted_and_warm_up_is_not_timed():
    calls = []

    def call():
        calls.append(time.sleep(0.02 if len(calls) < 3 else 0.001))

    latency = measure_latency(call, 4, warm_up=3, repetitions=20, seconds=10)
    assert len(calls) == 23
    assert (latency.examples, latency.warm_up, latency.repetitions) == (4, 3, 20)
    assert 1 <= latency.p50 <= latency.p90 <= latency.p99
    assert latency.throughput == pytest.approx(4000 / latency.p50)


def test_a_slow_call_stops_at_the_time_limit_but_not_before_ten():
    calls = []
    latency = measure_latency(lambda: calls.append(time.sleep(0.002)), 1, warm_up=0, repetitions=500, seconds=0.0)
    assert latency.repetitions == len(calls) == 10


@pytest.mark.parametrize("bad", [{"repetitions": 0}, {"warm_up": -1}, {"seconds": -1.0}])
def test_bad_counts_are_refused(bad):
    options = {"warm_up": 0, "repetitions": 1, "seconds": 1.0} | bad
    with pytest.raises(InputError, match=next(iter(bad))):
        measure_latency(lambda: None, 1, **options)


def test_peak_memory_is_that_of_this_program_not_of_its_parent():
    np.ones(2**25)  # 256 MiB: the parent's
    code = (
        "import numpy as np\n"
        "from qwafer.training.resources import peak_memory\n"
        "before = peak_memory(); np.ones(2**23); print(before, peak_memory())"  # 64 MiB
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    before, after = map(int, child.split())
    assert after >= before + 50 * 2**20
    assert after < peak_memory()


def test_every_kind_of_call_is_timed_with_its_own_function():
    seen = {"one": set(), "many": set()}
    timing = time_calls(
        lambda x: seen["one"].add(x.shape),
        lambda x: seen["many"].add(x.shape),
        8,
        np.zeros((5, 3), np.float32),
        np.zeros((6, 3), np.float32),
    )
    assert seen == {"one": {(1, 3)}, "many": {(8, 3), (5, 3), (6, 3)}}
    assert timing.one.examples == 1
    assert timing.batch.examples == 8
    assert timing.val.examples == 5
    assert timing.test.throughput == pytest.approx(6 / timing.test.seconds)
    assert timing.memory.process > 2**24
