"""The first steps of training, one by one: what an independent re-execution is compared with."""

import contextlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from qwafer.config import RunConfig
from qwafer.training import _train
from qwafer.training._prepare import Prepared
from qwafer.training._step import State, Totals


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the training path, as NumPy arrays in float64."""

    epoch: int
    """Epoch, from 1."""
    index: int
    """Number of the step in its epoch, from 0."""
    number: int
    """Steps before it."""
    before: dict[str, np.ndarray]
    """Parameters before it."""
    after: dict[str, np.ndarray]
    """Parameters after it."""
    moments: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    """AdamW's first and second moments before it."""
    moments_after: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    """The same after it."""
    average: dict[str, np.ndarray]
    """Moving average of the parameters before it; empty where it is off."""
    average_after: dict[str, np.ndarray]
    """The same after it."""


@dataclass(frozen=True, eq=False)
class Trace:
    """The first steps of a run, and the frozen arrays of its head."""

    steps: tuple[Step, ...]
    """`count` steps of the first epoch, then as many of the second; then those around the end of each stage."""
    buffers: dict[str, np.ndarray]
    """Standardisation, frozen projection, frozen alpha, by name, float64."""
    evaluated: dict[str, np.ndarray]
    """The parameters that are evaluated after the last of `steps`, float64."""


class _EnoughError(Exception):
    """Enough steps of an epoch were taken."""


def first_steps(config: RunConfig, prepared: Prepared, seed: int, count: int, epochs: int = 0) -> Trace:
    """Return `count` steps at the start of epoch 1 and of epoch 2, taken by the training path itself, and one on either
    side of the end of each stage up to epoch `epochs`.

    The second epoch starts where the steps of the first ended. Fewer steps where an epoch has fewer, and one epoch
    where training has one. At the end of a stage parameters and moments are still those of the first steps, while the
    steps are counted as in the run: what depends on the count, as the schedule does, is seen at work there.
    """
    run = _train._Run(config, prepared, seed, None)
    take = run.steps
    taken: list[Step] = []

    def watched(head: Any, objective: Any, state: State, batch: Any, key: Any, start: Any, stop: Any) -> Any:
        sums: Totals | None = None
        for i in range(int(start), int(stop)):
            index = sum(step.epoch == run.epoch + 1 for step in taken)
            if index == count:
                raise _EnoughError
            after, totals = take(head, objective, state, batch, key, np.int32(i), np.int32(i + 1))
            taken.append(_step(run.epoch + 1, index, state, after))
            run.state = state = after
            sums = totals if sums is None else jax.tree.map(jax.numpy.add, sums, totals)
        return state, sums

    run.steps = watched
    for epoch in range(min(2, config.training.stage_ends[-1])):
        run.epoch = epoch
        with contextlib.suppress(_EnoughError):
            run._train_epoch()
    per_epoch = run.sampler.n_batches
    for end in (end for end in config.training.stage_ends if end <= epochs):
        for number in (end * per_epoch - 1, end * per_epoch):
            if int(run.state.step) <= number < epochs * per_epoch:
                run.state = _counted(run.state, number)
                epoch, i = number // per_epoch + 1, number % per_epoch
                rest = run.head, run.objective, run.state, run._batch(epoch), run.key
                after, _ = take(*rest, np.int32(i), np.int32(i + 1))
                taken.append(_step(epoch, i, run.state, after))
                run.state = after
    evaluated = _train.evaluated_parameters(config.training, run.state)
    return Trace(tuple(taken), _arrays(run.head.buffers), _arrays(evaluated))


def _counted(state: State, number: int) -> State:
    """Return `state` with every count of steps, the optimiser's among them, set to `number`."""

    def leaf(value: Any) -> Any:
        counts = jax.numpy.issubdtype(value.dtype, jax.numpy.integer) and value.ndim == 0
        return jax.numpy.full_like(value, number) if counts else value

    return jax.tree.map(leaf, state)


def _step(epoch: int, index: int, before: State, after: State) -> Step:
    return Step(
        epoch,
        index,
        int(before.step),
        _arrays(before.params),
        _arrays(after.params),
        _moments(before),
        _moments(after),
        _arrays(before.average),
        _arrays(after.average),
    )


def _arrays(values: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in values.items() if hasattr(value, "shape")}


def _moments(state: State) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the moments of every parameter, collected from the groups of the optimiser."""
    first: dict[str, np.ndarray] = {}
    second: dict[str, np.ndarray] = {}
    for leaf in jax.tree.leaves(state.optimizer, is_leaf=lambda node: hasattr(node, "mu")):
        if hasattr(leaf, "mu"):
            first |= _arrays(leaf.mu)
            second |= _arrays(leaf.nu)
    return first, second
