"""Inference that halts: a recursive network stops where it holds its answer for right; what that costs and saves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qwafer._arrays import whole_array
from qwafer._checks import check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer.backbones.base import available_cores
from qwafer.data import WaferMaps
from qwafer.heads import Halted

BATCH = 32
"""Maps per call of the compiled step, at most."""
CHUNK = 1024
"""Maps whose states are in memory at a time."""
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Halting thresholds of a report."""
WARM_UP = 5
"""Maps that are answered before time is taken."""


class Halting(Protocol):
    """What halting asks of a network, a frozen dataclass; `Trm` has it."""

    @property
    def supervision_steps(self) -> int:
        """Steps at most."""

    @property
    def size(self) -> int:
        """Dies a side of the codes."""

    def codes(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size) uint8 of maps of any shapes."""

    def begin(self, params: Any, codes: Array) -> Any:
        """Return the state before the first step: a named tuple of arrays with the batch on their second axis."""

    def advance(self, params: Any, state: Any) -> tuple[Any, Array, Array]:
        """Return the state after one more step, its logits (batch, n_labels) and halting logits (batch,)."""


def halted_logits(
    network: Halting, params: Any, statistics: Any, codes: np.ndarray, threshold: float, *, batch: int = BATCH
) -> Halted:
    """Return the logits of the first step whose halting probability exceeds `threshold`, else of the last, for codes
    (n, size, size).

    One map runs in a loop on the device (`lax.while_loop`). Of several, `batch` at a time, those that have halted are
    taken out after each step, and the rest go on in batches that are full again, the last one padded to a power of two,
    so that no more than 1 + log2(batch) programs are compiled. How many maps share a batch changes logits by rounding
    alone. At threshold 1 no map halts early: with batches of the same size, these are the logits of
    `network.outputs(...)` after the last step, bit for bit.

    `params` and `statistics` are the network's; a network that halts has none of the latter.

    Raises:
        InputError: codes of another shape or of values other than 0, 1, 2; a threshold outside of [0, 1].
    """
    check_interval("threshold", threshold, 0, 1)
    check_positive_int("batch", batch, maximum=CHUNK)
    codes = whole_array("codes", codes, 0, 2).astype(np.uint8)
    if codes.ndim != 3 or codes.shape[1:] != (network.size,) * 2 or not len(codes):
        raise InputError(f"`codes` must have shape (n, {network.size}, {network.size}), got {codes.shape}")
    limit = halting_limit(threshold)
    if len(codes) == 1:
        logits, steps = _one(network, params, codes, limit)
        return Halted(np.asarray(logits), np.asarray(steps, np.int64)[None])
    parts = [_many(network, params, codes[i : i + CHUNK], limit, batch) for i in range(0, len(codes), CHUNK)]
    return Halted(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def compile_halting(network: Halting, params: Any, *, batch: int = BATCH) -> None:
    """Compile every program that `halted_logits` may call with these parameters, by calling it."""
    empty = np.zeros((batch, network.size, network.size), np.uint8)
    jax.block_until_ready(_one(network, params, empty[:1], halting_limit(0.0)))
    rows = 1
    while rows <= batch:
        state = _begin(network, params, empty[:rows])
        state, *_ = _advance(network, params, state)
        jax.block_until_ready(_advance(network, params, jax.tree.map(np.asarray, state)))
        rows *= 2


def halting_limit(threshold: float) -> np.float32:
    """Return the halting logit above which a map halts: log(p / (1 - p)), which is infinite for 1."""
    with np.errstate(divide="ignore"):
        return np.float32(np.log(np.float64(threshold)) - np.log1p(-np.float64(threshold)))


@partial(jax.jit, static_argnums=0)
def _begin(network: Halting, params: Any, codes: Array) -> Any:
    return network.begin(params, codes)


@partial(jax.jit, static_argnums=0)
def _advance(network: Halting, params: Any, state: Any) -> tuple[Any, Array, Array]:
    return network.advance(params, state)


@partial(jax.jit, static_argnums=0)
def _one(network: Halting, params: Any, codes: Array, limit: Array) -> tuple[Array, Array]:
    """Return logits (1, n_labels) and the steps used of one map."""

    def goes_on(carry: tuple[Any, Array, Array, Array]) -> Array:
        _, _, halt, steps = carry
        return (steps == 0) | ((steps < network.supervision_steps) & ~(halt[0] > limit))

    def step(carry: tuple[Any, Array, Array, Array]) -> tuple[Any, Array, Array, Array]:
        state, logits, halt = network.advance(params, carry[0])
        return state, logits, halt, carry[3] + 1

    state = network.begin(params, codes)
    _, *read = jax.eval_shape(network.advance, params, state)
    nothing = [jnp.zeros(like.shape, like.dtype) for like in read]
    _, logits, _, steps = lax.while_loop(goes_on, step, (state, *nothing, jnp.int32(0)))
    return logits, steps


def _many(network: Halting, params: Any, codes: np.ndarray, limit: np.float32, batch: int) -> Halted:
    """Return the answers on codes (n, size, size), of which all states fit into memory."""
    going = np.arange(len(codes))  # the maps that have not halted, in the order of the rows of `states`
    steps_used = np.empty(len(codes), np.int64)
    logits: dict[int, np.ndarray] = {}
    states: Any = None
    for step in range(1, network.supervision_steps + 1):
        kept, still = [], []
        for start in range(0, len(going), batch):
            members = going[start : start + batch]
            rows = _padded(start, len(members))
            if states is None:
                state = _begin(network, params, codes[rows])
            else:
                state = jax.tree.map(lambda array, rows=rows: array[:, rows], states)
            state, *read = _advance(network, params, state)
            found, halt = (np.asarray(array)[: len(members)] for array in read)
            done = (halt > limit) | (step == network.supervision_steps)
            logits.update(zip(members[done], found[done], strict=True))
            steps_used[members[done]] = step
            rest = np.flatnonzero(~done)
            still.append(members[rest])
            kept.append(jax.tree.map(lambda array, rest=rest: np.asarray(array)[:, rest], state))
        going = np.concatenate(still)
        if not len(going):
            break
        states = jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=1), *kept)
    return Halted(np.stack([logits[i] for i in range(len(codes))]), steps_used)


def _padded(start: int, n: int) -> np.ndarray:
    """Return `n` rows from `start` on, the last one repeated up to a power of two."""
    return np.minimum(np.arange(start, start + (1 << (n - 1).bit_length())), start + n - 1)


@dataclass(frozen=True)
class HaltingRow:
    """What one threshold comes to."""

    threshold: float
    """Halting probability above which a map halts."""
    accuracy: float
    """Share of the maps whose every label is right."""
    mean_steps: float
    """Supervision steps per map."""
    p50: float
    """Median seconds of one map, from its dies to its logits."""
    p90: float
    """Seconds within which nine maps of ten are answered."""
    p99: float
    """Seconds within which 99 maps of 100 are answered."""


@dataclass(frozen=True)
class HaltingReport:
    """What halting costs and saves on some maps."""

    n_maps: int
    """Maps of the accuracies."""
    n_timed: int
    """Maps of the latencies, one after another."""
    cores: int
    """Cores that the process may use."""
    n_parameters: int
    """Trained numbers of the network."""
    accuracy_per_step: tuple[float, ...]
    """Accuracy of the answers after step 1, 2, ..., for all maps."""
    rows: tuple[HaltingRow, ...]
    """One per threshold, from the least."""
    threshold: float
    """The threshold of `steps_per_class`."""
    steps_per_class: dict[str, tuple[int, ...]]
    """Maps of each class, or with each label, that halt after step 1, 2, ..."""


def halting_report(
    network: Halting,
    params: Any,
    statistics: Any,
    maps: WaferMaps,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    threshold: float = 0.9,
    timed: int = 300,
) -> HaltingReport:
    """Return accuracy, steps and latency of a network that halts, by threshold and by class, on labelled `maps`.

    Accuracies and steps of all thresholds come from one pass over all steps. Latencies are of `timed` maps from all
    over `maps`, answered one at a time by this process (`cores` says on how many cores), each from its dies in memory
    to its logits, after a few that are not timed. A map is right where all its labels are: those with positive logits,
    or of exclusive classes the largest. Maps that have none of the labels are counted as `no label`.

    Raises:
        InputError: maps without labels; thresholds outside of [0, 1].
    """
    if not maps.label_names or not len(maps):
        raise InputError("`maps` must have labels, by which answers are right or wrong")
    check_positive_int("timed", timed)
    for one in (threshold, *thresholds):
        check_interval("threshold", one, 0, 1)
    codes = network.codes(list(maps.maps))
    logits, halt = _trajectory(network, params, codes)  # (T, n, n_labels), (T, n)
    labels = maps.labels.astype(bool)
    decided = logits > 0
    if maps.exclusive:
        decided = np.arange(logits.shape[2]) == logits.argmax(axis=2)[..., None]
    right = (decided == labels).all(axis=2)  # (T, n)
    some = [maps.maps[i] for i in np.linspace(0, len(maps) - 1, min(timed, len(maps))).astype(int)]
    rows = []
    for one in sorted(set(thresholds)):
        used = _steps_used(halt, one)
        seconds = _seconds(network, params, some, one)
        quantiles = (float(np.quantile(seconds, q)) for q in (0.5, 0.9, 0.99))
        accuracy = right[used - 1, np.arange(len(maps))].mean()
        rows.append(HaltingRow(float(one), float(accuracy), float(used.mean()), *quantiles))
    used = _steps_used(halt, threshold)
    classes = dict(zip(maps.label_names, labels.T, strict=True))
    if not labels.any(axis=1).all():
        classes["no label"] = ~labels.any(axis=1)
    counted = {
        name: tuple(int((used[members] == step).sum()) for step in range(1, len(halt) + 1))
        for name, members in classes.items()
    }
    return HaltingReport(
        n_maps=len(maps),
        n_timed=len(some),
        cores=available_cores(),
        n_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        accuracy_per_step=tuple(float(value) for value in right.mean(axis=1)),
        rows=tuple(rows),
        threshold=float(threshold),
        steps_per_class=counted,
    )


def _trajectory(network: Halting, params: Any, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (T, n, n_labels) and halting logits (T, n) of all steps."""
    steps: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for start in range(0, len(codes), BATCH):
        rows = _padded(start, min(BATCH, len(codes) - start))
        state = _begin(network, params, codes[rows])
        steps.append([])
        for _ in range(network.supervision_steps):
            state, *read = _advance(network, params, state)
            logits, halt = (np.asarray(array)[: len(codes) - start] for array in read)
            steps[-1].append((logits, halt))
    logits, halt = (
        np.concatenate([np.stack([step[part] for step in piece]) for piece in steps], axis=1) for part in (0, 1)
    )
    return logits, halt


def _steps_used(halt: np.ndarray, threshold: float) -> np.ndarray:
    """Return (n,) the first step, from 1, whose halting logit (T, n) is above the threshold's, else T."""
    halts = halt > halting_limit(threshold)
    halts[-1] = True
    return halts.argmax(axis=0) + 1


def _seconds(network: Halting, params: Any, maps: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Return the seconds of each of `maps`, one at a time."""
    limit = halting_limit(threshold)
    seconds = []
    for one in [*maps[:WARM_UP], *maps]:
        start = time.perf_counter()
        jax.block_until_ready(_one(network, params, network.codes([one]), limit))
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[len(maps[:WARM_UP]) :])
