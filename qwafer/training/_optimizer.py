"""AdamW with a learning rate and a weight decay per parameter group, and the schedules."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qwafer._errors import InputError
from qwafer.config import TrainingConfig
from qwafer.heads import PARAMETER_GROUPS, group_of

Schedule = Callable[[Any], Any]


def make_schedule(config: TrainingConfig, stage_steps: int) -> Schedule:
    """Return the learning rate as a function of the step (0, 1, ...), for a run whose first stage (`config.epochs`) has
    `stage_steps` steps.

    `constant`; over a stage of T steps, t of which are done, `cosine`: lr (1 + cos(pi t / T)) / 2; `one_cycle`: up to
    lr over the first 30% of the steps and down again, by cosines (Smith and Topin 2018), from lr/25 and to lr/10^4 of
    that. Each doubling is a stage of its own, of as many steps as all before it (warm restarts, SGDR: Loshchilov and
    Hutter 2017); the step alone says where its stage begins.
    """
    rate = config.learning_rate
    if config.schedule == "constant":
        schedule = optax.constant_schedule(rate)
    else:
        ends = [stage_steps * 2**k for k in range(config.max_doublings + 1)]
        lengths = [stage_steps, *ends[:-1]]
        if config.schedule == "cosine":
            stages = [optax.cosine_decay_schedule(rate, length) for length in lengths]
        else:
            # Optax divides by the length of each phase: fewer than four steps would leave a phase without any.
            stages = [optax.cosine_onecycle_schedule(max(length, 4), rate) for length in lengths]
        schedule = optax.join_schedules(stages, ends[:-1])
    # Under 64 bit a schedule is float64 and would make the updates so.
    return lambda step: jnp.asarray(schedule(step), jnp.float32)


def make_optimizer(config: TrainingConfig, stage_steps: int, names: Iterable[str]) -> optax.GradientTransformation:
    """Return clipping by the global norm, then AdamW (Loshchilov and Hutter 2019) for each group of the parameters
    `names`.

    A group's learning rate is the schedule times its `lr_mult_*`; its weight decay is its own or, where that is none,
    `weight_decay`. Decay applies to every array of a group, biases included.
    """
    schedule = make_schedule(config, stage_steps)
    labels = {name: group_of(name) for name in names}
    unknown = sorted(set(labels.values()) - set(PARAMETER_GROUPS))
    if unknown:
        raise InputError(
            f"the name of a parameter must start with its group, one of {', '.join(PARAMETER_GROUPS)}, got {unknown[0]}"
        )
    transforms = {
        group: _adamw(schedule, getattr(config, f"lr_mult_{group}"), group_decay(config, group))
        for group in PARAMETER_GROUPS
    }
    grouped = optax.partition(transforms, labels)
    if config.grad_clip is None:
        return grouped
    return optax.chain(optax.clip_by_global_norm(config.grad_clip), grouped)


def group_decay(config: TrainingConfig, group: str) -> float:
    """Return the weight decay of `group`."""
    own = getattr(config, f"weight_decay_{group}")
    return config.weight_decay if own is None else own


def group_norms(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the Euclidean norm of the arrays of each group that occurs among the names of `values`.

    The bias of a readout counts as the group `bias` here: in the readout's norm it would hide a readout that is dead.
    """
    squares: dict[str, jax.Array] = {}
    for name, value in values.items():
        group = "bias" if name == "readout.bias" else group_of(name)
        square = jnp.sum(jnp.square(value))
        squares[group] = squares[group] + square if group in squares else square
    return {group: jnp.sqrt(square) for group, square in squares.items()}


def _adamw(schedule: Schedule, multiplier: float, decay: float) -> optax.GradientTransformation:
    return optax.adamw(lambda step: jnp.asarray(multiplier, jnp.float32) * schedule(step), weight_decay=decay)
