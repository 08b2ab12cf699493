"""Runs that differ in their seeds alone, trained side by side: one compiled step takes a step of each.

A step of a small head is mostly the cost of starting kernels, which is paid once for all lanes. A run has a lane of its
own, from first to last: what a lane computes depends on nothing in the others, so that a run's numbers depend on the
lanes' number and on its own alone, and not on which other runs are there, are done, or were killed.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._errors import InputError
from qwafer._process import compiler_options
from qwafer.config import RunConfig
from qwafer.engines import Program
from qwafer.engines.cache import cleared
from qwafer.features import FeatureSet
from qwafer.heads import Head
from qwafer.training._prepare import prepare
from qwafer.training._step import STEPS_A_CALL, EpochArrays, State, Totals, one_step, zero_totals
from qwafer.training._train import Run
from qwafer.training.make import make_program
from qwafer.training.result import RunResult

MOST_NUMBERS = 8192
"""Amplitudes of a batch, and parameters of a head, up to which a step is mostly the cost of starting kernels (measured:
4 wires and a batch of 64 take half the time, 6 wires and 8 trained readouts no less than alone; nor do 22,000
parameters)."""
FEWEST_STEPS = {True: 150_000, False: 20_000}
"""Steps of all runs, of quantum heads and of classical ones, from which what lanes save is more than what their larger
program takes to compile."""

Outcome = Callable[[int, RunResult | Exception], None]
"""Called with a seed and its result, or with what its run raised."""


def lanes_gain(config: RunConfig, head: Head, n_train: int, n_seeds: int) -> bool:
    """Return whether runs of `config` with so many seeds, which train `head` on `n_train` examples, are faster side by
    side: small classical heads, and small circuits on engine xla, where the first stage alone takes steps enough.

    Seeds that draw their examples (`data.limit`) have no array of features in common, and train alone.
    """
    if config.data.limit is not None or not head.looped:
        return False
    options = config.training
    batch, n_batches = options.batch_size, options.fixed_num_batches or n_train // options.batch_size
    program = make_program(config, head.n_labels, batch)
    if sum(value.size for value in head.params.values()) > MOST_NUMBERS:
        return False
    if program is not None:
        circuit = program.circuit
        circuits = circuit.n_outputs if circuit.readout_facts.gates else 1
        if program.info.get("engine") != "xla" or batch * circuits * 2**circuit.n_qubits > MOST_NUMBERS:
            return False
    return n_seeds * options.epochs * n_batches >= FEWEST_STEPS[program is not None]


def train_lanes(
    config: RunConfig,
    data: FeatureSet,
    lanes: Sequence[Sequence[int]],
    outcome: Outcome,
    *,
    directories: Mapping[int, str | Path] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Train the seeds of each lane one after another, and all lanes side by side; `outcome` gets each as it ends.

    An empty lane is carried along. Results agree with those of `train` to rounding. A run that raises ends alone; an
    interrupt saves the checkpoints of all runs. `progress` gets the part of the epochs that are known to be needed.
    Raises InputError where seeds draw their examples (`data.limit`): the lanes share one array of features.
    """
    if config.data.limit is not None:
        raise InputError("seeds that train side by side share their examples: `data.limit` must be none")
    waiting = [collections.deque(seeds) for seeds in lanes]
    total, done = sum(map(len, waiting)), 0
    current: list[_Lane | None] = [None] * len(lanes)
    stacked: _Constants | None = None
    first = True

    def fill(place: int) -> None:
        nonlocal stacked, done
        lane = current[place]
        while lane or waiting[place]:
            seed = lane.seed if lane else waiting[place].popleft()
            try:
                lane = lane or _Lane(config, data, seed, (directories or {}).get(seed), current)
                if lane.advance():
                    break
                outcome(seed, lane.result())
            except Exception as error:
                outcome(seed, error)
            lane, done = None, done + 1
        if current[place] is not lane:
            current[place], stacked = lane, None

    try:
        for place in range(len(lanes)):
            fill(place)
        while any(current):
            stacked = stacked or _Constants.of(current)
            _train_epoch(stacked, current, compile_first=first)
            first = False
            for place, lane in enumerate(current):
                if lane is not None:
                    fill(place)
            if progress is not None:
                progress((done + sum(lane.part() for lane in current if lane is not None)) / total)
    except KeyboardInterrupt:
        for lane in current:
            if lane is not None:
                lane.run.save_checkpoint()
        raise


class _Lane:
    """A run and where it stands."""

    def __init__(
        self,
        config: RunConfig,
        data: FeatureSet,
        seed: int,
        directory: str | Path | None,
        lanes: "Sequence[_Lane | None]",
    ):
        self.seed, self.n_lanes, self.begin = seed, len(lanes), time.perf_counter()
        self.run = Run(config, prepare(config, data, seed), seed, directory, lanes=len(lanes))
        for other in lanes:
            if other is not None:  # the examples are the same for all seeds: they are held once
                self.run.features, self.run.labels = other.run.features, other.run.labels
        self.run.resume()
        self.epochs: Iterator[None] = self.run.epochs(compile_steps=False)

    def advance(self) -> bool:
        """Do all that belongs between two epochs; return whether another one follows."""
        return next(self.epochs, _END) is not _END

    def part(self) -> float:
        return self.run.epoch / min(end for end in self.run.config.training.stage_ends if end >= self.run.epoch)

    def result(self) -> RunResult:
        result = self.run.result(self.begin)
        return dataclasses.replace(result, timings=dataclasses.replace(result.timings, lanes=self.n_lanes))


_END = object()


class _Constants:
    """What the lanes' runs do not change, stacked; an empty lane holds that of another run."""

    def __init__(self, runs: Sequence[Run]):
        self.head, self.objective, self.told = (
            _stack([getattr(run, name) for run in runs]) for name in ("head", "objective", "told")
        )
        self.key = jnp.stack([run.key for run in runs])
        self.features, self.labels = runs[0].features, runs[0].labels
        self.steps = steps_together(runs[0].program)

    @classmethod
    def of(cls, lanes: "Sequence[_Lane | None]") -> "_Constants":
        spare = next(lane.run for lane in lanes if lane is not None)
        return cls([spare if lane is None else lane.run for lane in lanes])


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _train_epoch(constants: _Constants, lanes: "Sequence[_Lane | None]", *, compile_first: bool) -> None:
    """Take the steps of the next epoch of every run; with `compile_first`, what compiles them has a time of its own."""
    active = {place: lane.run for place, lane in enumerate(lanes) if lane is not None}
    clock = _Clock(list(active.values()))
    spare = next(iter(active))
    batches = {place: run.batch(run.epoch + 1) for place, run in active.items()}
    counts = np.array([active[place].sampler.n_batches if place in active else 0 for place in range(len(lanes))])
    chosen = [place if place in active else spare for place in range(len(lanes))]
    state = _stack([active[place].state for place in chosen])
    read = {
        name: np.stack([getattr(batches[place], name) for place in chosen])
        for name in ("rows", "weights", "learning_rate")
    }
    batch = EpochArrays(constants.features, constants.labels, told=constants.told, **read)

    def steps(start: int, stop: int) -> tuple[State, Totals]:
        fixed, bounds = (constants.head, constants.objective), (np.int32(start), np.int32(stop))
        return constants.steps(*fixed, state, batch, constants.key, *bounds, counts.astype(np.int32))

    if compile_first:
        clock.note("training")
        jax.block_until_ready(steps(0, 0))  # a call of no steps compiles everything and computes nothing
        clock.note("compile")
    for start in range(0, int(counts.max()), STEPS_A_CALL):
        stop = min(start + STEPS_A_CALL, int(counts.max()))
        state, totals = steps(start, stop)
        sums = jax.tree.map(np.asarray, totals)
        for place, run in active.items():
            taken = min(stop, int(counts[place])) - start
            if taken > 0:
                run.history.sums.add(jax.tree.map(lambda leaf, place=place: leaf[place], sums), taken)
    whole = jax.tree.map(np.asarray, state)
    clock.note("training")
    for place, run in active.items():
        run.end_epoch(jax.tree.map(lambda leaf, place=place: leaf[place], whole), batches[place])


class _Clock:
    """Wall seconds since it was last read, an equal part for each of `runs`."""

    def __init__(self, runs: Sequence[Run]):
        self.runs, self.begin = runs, time.perf_counter()

    def note(self, stage: str) -> None:
        now = time.perf_counter()
        for run in self.runs:
            run.history.seconds[stage] += (now - self.begin) / len(self.runs)
        self.begin = now


@cleared
@functools.lru_cache(maxsize=16)
def steps_together(program: Program | None) -> Callable[..., tuple[State, Totals]]:
    """Return the compiled function (heads, objectives, states, batch, keys, start, stop, counts) -> (states, totals).

    All but `batch.features` and `batch.labels`, which the lanes share, have a leading axis of lanes. It takes the steps
    `start` to `stop` - 1 of the epoch of every lane; a lane whose epoch has only `counts` steps stays as it is after
    them.
    """
    one = one_step(program)
    axes = EpochArrays(None, None, 0, 0, 0, 0)  # type: ignore[arg-type]

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(
        heads: Any, objectives: Any, states: State, batch: EpochArrays, keys: Any, start: Any, stop: Any, counts: Any
    ) -> tuple[State, Totals]:
        def body(i: Any, carry: tuple[State, Totals]) -> tuple[State, Totals]:
            before, totals = carry
            after, step_totals = jax.vmap(one, in_axes=(0, 0, 0, axes, 0, None))(
                heads, objectives, before, batch, keys, i
            )

            def pick(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where((i < counts).reshape(-1, *[1] * (new.ndim - 1)), new, old)

            added = jax.tree.map(jnp.add, totals, step_totals)
            return jax.tree.map(pick, after, before), jax.tree.map(pick, added, totals)

        totals = jax.vmap(zero_totals)(states, batch.weights)
        return jax.lax.fori_loop(start, stop, body, (states, totals))

    return run
