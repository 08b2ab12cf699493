"""Optimisation steps, compiled: many in one call, or one per call where the engine calls back to the host."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwafer._process import compiler_options
from qwafer.config import TrainingConfig
from qwafer.engines import Program
from qwafer.engines.cache import cleared
from qwafer.heads import Head
from qwafer.objective import Objective
from qwafer.training._optimizer import Hyperparameters, group_norms, optimizer_state, optimizer_update

STEPS_A_CALL = 64
"""Most steps in one compiled call: short enough that an interrupt is served soon."""


class State(NamedTuple):
    """Everything that an optimisation step reads and writes."""

    params: dict[str, jax.Array]
    optimizer: Any
    average: dict[str, jax.Array]
    """Exponential moving average of the parameters and statistics, started at zero; without an entry where it is
    off."""
    statistics: dict[str, jax.Array]
    """`Head.statistics`; without an entry for a head that has none."""
    step: jax.Array
    """Steps taken, int32."""


class Totals(NamedTuple):
    """Sums over the steps of a call."""

    loss: jax.Array
    """Loss of each batch times the sum of its weights."""
    weight: jax.Array
    gradient: dict[str, jax.Array]
    """Gradient norm of each group, before clipping."""


class EpochArrays(NamedTuple):
    """The arrays that the steps of an epoch read."""

    features: jax.Array
    """(N, D) of all examples, of which `rows` picks: the size of a training split differs from seed to seed, and each
    size would be a program of its own."""
    labels: jax.Array
    """(N, n_labels)."""
    rows: np.ndarray
    """(n, batch) of the training split; n is at least the number of batches, and equal for all seeds."""
    weights: np.ndarray
    """(n, batch) of the examples in the loss."""
    learning_rate: np.ndarray
    """(n,) of each step, before the multipliers of groups."""
    told: Hyperparameters
    """The rest of what the optimiser is told."""


CompiledSteps = Callable[[Head, Objective, State, EpochArrays, jax.Array, Any, Any], tuple[State, Totals]]


def calls_host(program: Program | None) -> bool:
    """Return whether the program leaves JAX for the host, so that steps are compiled one per call."""
    return program is not None and bool(program.info.get("host_callback", program.info.get("engine") == "catalyst"))


def loops(program: Program | None, head: Head) -> bool:
    """Return whether a compiled call takes many steps of `head`."""
    return head.looped and not calls_host(program)


def initial_state(config: TrainingConfig, head: Head, objective: Objective) -> State:
    """Return the state before the first step; what is trained in the objective stands beside the head's parameters."""
    params = {**head.parameters(), **objective.parameters()}
    statistics = head.statistics()
    averaged = {} if config.ema_decay is None else {**params, **statistics}
    average = {name: jnp.zeros_like(value) for name, value in averaged.items()}
    return State(params, optimizer_state(params), average, statistics, jnp.asarray(0, jnp.int32))


def evaluated_arrays(config: TrainingConfig, state: State) -> dict[str, jax.Array]:
    """Return the parameters and statistics that are evaluated: those of the state, or their moving average, corrected
    for its start at 0.

    Statistics are averaged as the parameters are: moments of layers whose weights are others normalise by the wrong
    scale.
    """
    step = int(state.step)
    if config.ema_decay is None or step == 0:
        return {**state.params, **state.statistics}
    correction = 1 - config.ema_decay**step
    return {name: value / jnp.asarray(correction, value.dtype) for name, value in state.average.items()}


def one_step(program: Program | None) -> Callable[..., tuple[State, Totals]]:
    """Return (head, objective, state, batch, key, i) -> (state, totals): the step of batch `i`, not compiled."""

    def one(
        head: Head, objective: Objective, state: State, batch: EpochArrays, key: jax.Array, i: Any
    ) -> tuple[State, Totals]:
        rows, weights = batch.rows[i], batch.weights[i]
        features, labels = jnp.take(batch.features, rows, axis=0), jnp.take(batch.labels, rows, axis=0)

        def loss_of(params: dict[str, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
            step_key = jax.random.fold_in(key, state.step)
            own = head.with_arrays({**params, **state.statistics})
            aim = objective.with_arrays(params)
            whole, loss, moved = own.training_loss(aim, features, labels, program, weights=weights, key=step_key)
            return whole, (loss, moved)

        gradient, (loss, statistics) = jax.grad(loss_of, has_aux=True)(state.params)
        params, moments = optimizer_update(gradient, state.optimizer, state.params, batch.learning_rate[i], batch.told)
        average = state.average
        if batch.told.ema_decay is not None:
            average = optax.incremental_update({**params, **statistics}, average, 1 - batch.told.ema_decay)
        weight = jnp.sum(weights)
        state = State(params, moments, average, statistics, state.step + 1)
        return state, Totals(loss * weight, weight, group_norms(gradient))

    return one


@cleared
@functools.lru_cache(maxsize=16)
def steps(program: Program | None) -> CompiledSteps:
    """Return the compiled function (head, objective, state, batch, key, start, stop) -> (state, totals).

    It takes the steps of batches `start` to `stop` - 1. All numbers are arguments: runs that differ in seed, rates,
    decays or weights of classes share what is compiled. Where steps are not looped (`loops`), `stop` is `start` + 1.
    """
    one = one_step(program)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(
        head: Head, objective: Objective, state: State, batch: EpochArrays, key: jax.Array, start: Any, stop: Any
    ) -> tuple[State, Totals]:
        if not loops(program, head):
            return one(head, objective, state, batch, key, start)

        def body(i: Any, carry: tuple[State, Totals]) -> tuple[State, Totals]:
            state, totals = carry
            state, step_totals = one(head, objective, state, batch, key, i)
            return state, jax.tree.map(jnp.add, totals, step_totals)

        return jax.lax.fori_loop(start, stop, body, (state, zero_totals(state, batch.weights)))

    return run


def zero_totals(state: State, weights: jax.Array) -> Totals:
    """Return the sums over no steps."""
    zero = jnp.asarray(0, weights.dtype)
    return Totals(zero, zero, {group: jnp.zeros_like(norm) for group, norm in group_norms(state.params).items()})
