"""The first steps of training, one by one: what an independent re-execution and a comparison of arms look at."""

import contextlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from qwafer.config import RunConfig
from qwafer.engines import Program
from qwafer.objective import order_digest
from qwafer.training import _train
from qwafer.training._optimizer import parameter_moments
from qwafer.training._prepare import Prepared
from qwafer.training._step import State, Totals, one_step


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
    """What is evaluated after the last of `steps`, float64."""


@dataclass(frozen=True, eq=False)
class FirstStep:
    """The step of training before it is compiled, and every number that it is given."""

    jaxpr: str
    """Its program, as JAX prints it."""
    program: Program | None
    """The program of the circuit; None for a head that runs none."""
    initial: tuple[np.ndarray, ...]
    """Initial parameters, the head's frozen arrays and the constants of the objective."""
    told: tuple[np.ndarray, ...]
    """The learning rates of the first stage, then what else the optimiser is told."""
    batches: str
    """Digest of the batches of the first stage."""


def first_step(config: RunConfig, prepared: Prepared, seed: int) -> FirstStep:
    """Return the step that a run of `config` takes first; nothing is trained."""
    run = _train.Run(config, prepared, seed, None)
    inputs = run.head, run.objective, run.state, run.batch(1), run.key, 0
    head, objective = run.head, run.objective
    return FirstStep(
        str(jax.make_jaxpr(one_step(run.program))(*inputs)),
        run.program,
        tuple(np.asarray(leaf) for leaf in jax.tree.leaves((head.params, head.buffers, objective))),
        (run.schedule(np.arange(run.stage_steps)), *(np.asarray(leaf) for leaf in jax.tree.leaves(run.told))),
        order_digest(run.sampler, config.training.epochs, run.ids[run.rows]),
    )


class _EnoughError(Exception):
    """Enough steps of an epoch were taken."""


def first_steps(config: RunConfig, prepared: Prepared, seed: int, count: int, epochs: int = 0) -> Trace:
    """Return `count` steps at the start of epoch 1 and of epoch 2, taken by the training path itself, and one on either
    side of the end of each stage up to epoch `epochs`.

    Fewer steps where an epoch has fewer, and one epoch where training has one. After the first epoch parameters and
    moments are still those of the first steps, while the steps are counted as in the run: what depends on the count, as
    the schedule does, is seen at work there.
    """
    run = _train.Run(config, prepared, seed, None)
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
        run.epoch, run.state = epoch, _counted(run.state, epoch * run.sampler.n_batches)
        with contextlib.suppress(_EnoughError):
            run._train_epoch()
    per_epoch = run.sampler.n_batches
    for end in (end for end in config.training.stage_ends if end <= epochs):
        for number in (end * per_epoch - 1, end * per_epoch):
            if int(run.state.step) <= number < epochs * per_epoch:
                run.state = _counted(run.state, number)
                epoch, i = number // per_epoch + 1, number % per_epoch
                rest = run.head, run.objective, run.state, run.batch(epoch), run.key
                after, _ = take(*rest, np.int32(i), np.int32(i + 1))
                taken.append(_step(epoch, i, run.state, after))
                run.state = after
    evaluated = _train.evaluated_arrays(config.training, run.state)
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
    """Return the first and second moments of every parameter by name."""
    first, second = parameter_moments(state.optimizer, state.params)
    return _arrays(first), _arrays(second)
