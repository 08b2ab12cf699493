"""What a process used, and how long a call takes: peak memory, and latencies with their counts."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwafer._checks import check_interval, check_positive_int

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Latency:
    """Wall milliseconds of one call, over repetitions in one process, after warm-up."""

    examples: int
    """Examples per call."""
    warm_up: int
    """Calls before the clock started, which compile and fill caches."""
    repetitions: int
    """Calls timed, one by one."""
    p50: float
    """Median, in milliseconds, as all that follow."""
    p90: float
    """90th percentile."""
    p99: float
    """99th percentile."""
    mean: float
    """Mean."""

    @property
    def throughput(self) -> float:
        """Examples per second at the median."""
        return 1000 * self.examples / self.p50


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a process has had in use, in bytes."""

    process: int | None = None
    """Its largest resident size; None where the work was not done in a process of its own."""
    device: int | None = None
    """Peak on the accelerator; None where JAX's device is the CPU, whose memory is the process's."""

    @classmethod
    def now(cls) -> "PeakMemory":
        """Return the peaks of this process so far."""
        return cls(peak_memory(), peak_device_memory())


def measure_latency(
    call: Callable[[], object], examples: int, *, warm_up: int, repetitions: int, seconds: float
) -> Latency:
    """Time `call`, which must return only when its result is there (a NumPy array, not an unfinished JAX one).

    After `warm_up` calls, up to `repetitions` are timed one by one; once `seconds` have passed no further one starts,
    but ten are always done.
    """
    check_positive_int("examples", examples)
    check_positive_int("repetitions", repetitions)
    check_positive_int("warm_up", warm_up, minimum=0)
    check_interval("seconds", seconds, 0, float("inf"))
    for _ in range(warm_up):
        call()
    spent: list[int] = []
    begin = time.perf_counter_ns()
    while len(spent) < repetitions:
        start = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        spent.append(end - start)
        if len(spent) >= 10 and end - begin > seconds * 1e9:
            break
    milliseconds = np.asarray(spent, np.float64) / 1e6
    p50, p90, p99 = (float(value) for value in np.percentile(milliseconds, (50, 90, 99)))
    return Latency(examples, warm_up, len(spent), p50, p90, p99, float(milliseconds.mean()))


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes.

    On Linux it is VmHWM, which starts anew with the program: `ru_maxrss` may still hold the peak of the process that
    started this one.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak_device_memory() -> int | None:
    """Return the peak bytes in use on JAX's first device; None where it is the CPU, whose memory is the process's."""
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return None
    statistics = device.memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else int(peak)
