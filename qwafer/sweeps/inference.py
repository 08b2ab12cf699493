"""How fast a trained head answers: one example, a batch, the whole validation and test split."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qwafer.evaluation.metrics import Floats
from qwafer.training.resources import Latency, PeakMemory, measure_latency

if TYPE_CHECKING:
    from qwafer.training import Predictor

WARM_UP, REPETITIONS, SECONDS = 50, 2000, 10.0
"""Calls of one example before the clock starts, calls timed, and when the clock stops at the latest."""
BATCH_WARM_UP, BATCH_REPETITIONS = 10, 500
"""The same of a batch."""
PASSES = 5
"""Passes over a split; their median is reported."""


@dataclass(frozen=True)
class PassTiming:
    """How long all examples of one split take."""

    examples: int
    """Examples per pass."""
    passes: int
    """Passes timed, after one that was not."""
    seconds: float
    """Median of a pass."""

    @property
    def throughput(self) -> float:
        """Examples per second."""
        return self.examples / self.seconds


@dataclass(frozen=True)
class InferenceTiming:
    """How fast one trained head answers, features in and NumPy logits out, alone in a process."""

    SCHEMA: ClassVar[str] = "qwafer/inference-timing/1"

    one: Latency
    """Of a single example."""
    batch: Latency
    """Of a prediction batch."""
    val: PassTiming
    """Over the validation split."""
    test: PassTiming
    """Over the test split."""
    memory: PeakMemory
    """Of the process, at the end."""


def time_head(predictor: "Predictor", val: np.ndarray, test: np.ndarray) -> InferenceTiming:
    """Return the timing of a trained head on features (N, D): see `time_calls`.

    A single example goes through a program of batch size one, everything else through the program of the prediction
    batch: what a service that answers one wafer at a time would compile. A contender predicts as it does.
    """
    from qwafer.heads import Head, predict_logits
    from qwafer.training import make_program
    from qwafer.training.predictor import PREDICTION_BATCH

    def caller(batch: int) -> Callable[[np.ndarray], Floats]:
        if not isinstance(predictor.head, Head):
            return lambda features: np.asarray(predictor.head.logits(features))
        program = make_program(predictor.config, predictor.head.n_labels, batch, gradient=False)
        head = predictor.head.packed()
        return lambda features: predict_logits(head, features, program, batch)

    return time_calls(caller(1), caller(PREDICTION_BATCH), PREDICTION_BATCH, val, test)


def time_calls(
    one: Callable[[np.ndarray], Any], many: Callable[[np.ndarray], Any], batch: int, val: np.ndarray, test: np.ndarray
) -> InferenceTiming:
    """Time two functions of features (N, D) that return NumPy logits: `one` on an example, `many` on any number."""
    data = np.concatenate([test] * -(-batch // len(test))) if len(test) < batch else test
    rows = [data[i : i + 1] for i in range(min(len(data), 256))]
    turn = 0

    def single() -> None:
        nonlocal turn
        one(rows[turn % len(rows)])
        turn += 1

    def timed(features: np.ndarray) -> PassTiming:
        many(features)
        seconds = []
        for _ in range(PASSES):
            start = time.perf_counter()
            many(features)
            seconds.append(time.perf_counter() - start)
        return PassTiming(len(features), PASSES, statistics.median(seconds))

    return InferenceTiming(
        one=measure_latency(single, 1, warm_up=WARM_UP, repetitions=REPETITIONS, seconds=SECONDS),
        batch=measure_latency(
            lambda: many(data[:batch]), batch, warm_up=BATCH_WARM_UP, repetitions=BATCH_REPETITIONS, seconds=SECONDS
        ),
        val=timed(val),
        test=timed(test),
        memory=PeakMemory.now(),
    )
