"""AdamW with a learning rate and a weight decay per parameter group, and the schedules."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwafer._errors import InputError
from qwafer.config import TrainingConfig
from qwafer.heads import PARAMETER_GROUPS, group_of

Schedule = Callable[[Any], np.ndarray]
"""Steps (any shape) to learning rates, float32."""


def make_schedule(config: TrainingConfig, stage_steps: int) -> Schedule:
    """Return the learning rate as a function of the steps (0, 1, ...), where the first stage (`config.epochs`) has
    `stage_steps` of them.

    `constant`, and `plateau` before it is halved (`plateau_factor`); over a stage of T steps, t of which are done,
    `cosine`: lr (1 + cos(pi t / T)) / 2; `one_cycle`: up to lr over the first 30% of the steps and down again, by
    cosines (Smith and Topin 2018), from lr/25 and to lr/10^4 of that. Each doubling is a stage of its own, of as many
    steps as all before it (warm restarts, SGDR: Loshchilov and Hutter 2017); the step alone says where its stage
    begins. With `config.warmup`, step t counts (t + 1) / W in the
    first W = warmup stage_steps steps.
    """
    peak, ends = config.learning_rate, stage_steps * 2 ** np.arange(config.max_doublings + 1)
    rising_steps = max(round(config.warmup * stage_steps), 1)

    def schedule(step: Any) -> np.ndarray:
        step = np.asarray(step)
        return (unwarmed(step) * np.minimum((step + 1) / rising_steps, 1)).astype(np.float32)

    def unwarmed(step: np.ndarray) -> np.ndarray:
        if config.schedule in ("constant", "plateau"):
            return np.full(step.shape, peak)
        stage = np.minimum(np.searchsorted(ends, step, side="right"), len(ends) - 1)
        begin = np.where(stage > 0, ends[np.maximum(stage, 1) - 1], 0)
        done, length = step - begin, ends[stage] - begin
        if config.schedule == "cosine":
            rates = _cosine(peak, 0.0, done / length)
        else:
            length = np.maximum(length, 4)  # a shorter one would have a phase without any step
            up = (0.3 * length).astype(np.int64)
            rising = _cosine(peak / START, peak, done / up)
            rates = np.where(done < up, rising, _cosine(peak, peak / START / END, (done - up) / (length - up)))
        return rates

    return schedule


START, END = 25.0, 1e4
"""Peak over first rate, and first over last rate, of `one_cycle`."""


def plateau_factor(values: Sequence[float], patience: int) -> float:
    """Return 2^-k, k the times that `patience` of the `values` (greater is better) in turn were no better than the best
    before them.
    """
    best, waited, halvings = -math.inf, 0, 0
    for value in values:
        if value > best:
            best, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            waited, halvings = 0, halvings + 1
    return 0.5**halvings


def _cosine(first: float, last: float, part: np.ndarray) -> np.ndarray:
    """Return the rate after a `part` in 0..1 (clipped) of the way from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + np.cos(np.pi * np.clip(part, 0, 1))) / 2


class Hyperparameters(NamedTuple):
    """What the optimiser is told beside the learning rate, as arrays: arguments of the compiled step, so that other
    values need no other program.
    """

    lr_mult: dict[str, jax.Array]
    """Learning-rate multiplier of each group that occurs, float32."""
    weight_decay: dict[str, jax.Array]
    """Weight decay of each group that occurs, in the dtype of the parameters."""
    grad_clip: jax.Array
    """Largest global gradient norm; infinite where there is none."""
    ema_decay: jax.Array | None
    """Decay of the moving average of the parameters; None where it is off."""


ADAM = optax.scale_by_adam()


def hyperparameters(config: TrainingConfig, params: Mapping[str, jax.Array]) -> Hyperparameters:
    """Return what `config` says of the optimiser of `params`; raise InputError for a parameter of no known group."""
    groups = sorted({group_of(name) for name in params})
    unknown = sorted(set(groups) - set(PARAMETER_GROUPS))
    if unknown:
        raise InputError(
            f"the name of a parameter must start with its group, one of {', '.join(PARAMETER_GROUPS)}, got {unknown[0]}"
        )
    dtype = jnp.result_type(*params.values()) if params else jnp.float32
    clip = math.inf if config.grad_clip is None else config.grad_clip
    return Hyperparameters(
        {group: jnp.asarray(getattr(config, f"lr_mult_{group}"), jnp.float32) for group in groups},
        {group: jnp.asarray(group_decay(config, group), dtype) for group in groups},
        jnp.asarray(clip, dtype),
        None if config.ema_decay is None else jnp.asarray(config.ema_decay, dtype),
    )


def optimizer_state(params: dict[str, jax.Array]) -> Any:
    """Return the moments of `params` before the first step, of all parameters of a dtype in one vector."""
    state = jax.eval_shape(lambda: ADAM.init(_packed(params)))
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)  # Adam starts from zeros


def optimizer_update(
    gradient: dict[str, jax.Array],
    state: Any,
    params: dict[str, jax.Array],
    learning_rate: jax.Array,
    told: Hyperparameters,
) -> tuple[dict[str, jax.Array], Any]:
    """Return parameters and moments after a step of clipping by the global norm and AdamW (Loshchilov and Hutter 2019).

    p - lr_g (a + decay_g p), with a the bias-corrected ratio of moments (Adam) of the clipped gradient of all groups,
    lr_g = `learning_rate` times the group's multiplier. Decay applies to every array of a group, biases included. All
    parameters of a dtype are one vector here: a kernel for each array would be most of the step of a small head.
    """
    clipped, _ = optax.clip_by_global_norm(told.grad_clip).update(gradient, optax.EmptyState())
    directions, state = ADAM.update(_packed(clipped), state)
    moved = {}
    for dtype, value in _packed(params).items():
        rate = (learning_rate * _each(told.lr_mult, params, dtype)).astype(dtype)
        moved[dtype] = value - rate * (directions[dtype] + _each(told.weight_decay, params, dtype) * value)
    return _unpacked(moved, params), state


def parameter_moments(state: Any, params: Mapping[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return the first and second moments in the optimiser's `state`, by the names of `params`."""
    return _unpacked(state.mu, params), _unpacked(state.nu, params)


def _packed(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return all entries of the arrays of each dtype in one vector, in the order of their names."""
    names = _by_dtype(arrays)
    return {dtype: jnp.concatenate([arrays[name].reshape(-1) for name in own]) for dtype, own in names.items()}


def _unpacked(vectors: Mapping[str, jax.Array], like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the arrays, of the shapes of `like`, that `_packed` made `vectors` of."""
    arrays = {}
    for dtype, names in _by_dtype(like).items():
        parts = jnp.split(vectors[dtype], np.cumsum([like[name].size for name in names])[:-1])
        arrays.update({name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)})
    return {name: arrays[name] for name in like}


def _each(values: Mapping[str, jax.Array], params: Mapping[str, jax.Array], dtype: str) -> jax.Array:
    """Return the value of the group of each entry of the vector of `dtype`, (1,) where all are of one group."""
    names = _by_dtype(params)[dtype]
    if len({group_of(name) for name in names}) == 1:
        return values[group_of(names[0])][None]
    return jnp.concatenate([jnp.broadcast_to(values[group_of(name)], (params[name].size,)) for name in names])


def _by_dtype(arrays: Mapping[str, jax.Array]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in sorted(arrays):
        names.setdefault(str(arrays[name].dtype), []).append(name)
    return names


def group_decay(config: TrainingConfig, group: str) -> float:
    """Return the weight decay of `group`."""
    own = getattr(config, f"weight_decay_{group}")
    return config.weight_decay if own is None else own


def group_norms(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Euclidean norm of the arrays, JAX's or NumPy's, of each group that occurs among the names of `values`.

    The bias of a readout counts as the group `bias` here: in the readout's norm it would hide a readout that is dead.
    """
    squares: dict[str, Any] = {}
    for name, value in values.items():
        group = "bias" if name == "readout.bias" else group_of(name)
        square = (value * value).sum()
        squares[group] = squares[group] + square if group in squares else square
    return {group: square**0.5 for group, square in squares.items()}
