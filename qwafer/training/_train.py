"""`train`: one run from features to `RunResult`."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qwafer._checkpoints import Checkpoints
from qwafer._checks import LARGEST_SEED, check_positive_int
from qwafer._io import digest, hash_texts, key_seed
from qwafer._process import free_memory_maps
from qwafer.config import RunConfig
from qwafer.engines import Program
from qwafer.engines.process import check_not_forked
from qwafer.evaluation import Evaluation
from qwafer.execution import OnProgress, Progress
from qwafer.features import FeatureSet
from qwafer.heads import Head, predict_logits, size_of
from qwafer.objective import Batches, Objective, Sampler, batches_digest, make_objective, make_sampler, order_digest
from qwafer.objective.batches import ShuffledPasses
from qwafer.training._contender import fit_contender
from qwafer.training._environment import environment
from qwafer.training._history import History
from qwafer.training._judge import judge, judge_validation
from qwafer.training._optimizer import hyperparameters, make_schedule, plateau_factor
from qwafer.training._other import other_task
from qwafer.training._prepare import Prepared, check_feature_set, given_config, prepare, written_config
from qwafer.training._step import (
    STEPS_A_CALL,
    CompiledSteps,
    EpochArrays,
    State,
    Totals,
    evaluated_arrays,
    initial_state,
    loops,
    steps,
)
from qwafer.training._targets import targets, taught_hint
from qwafer.training._validation import Scores, mean_loss, validate
from qwafer.training.make import circuit_digest, make_head, make_program
from qwafer.training.predictor import PREDICTION_BATCH, Predictor
from qwafer.training.result import Digests, InitialScores, ParameterCount, RunResult

Observe = Callable[[dict[str, Any]], None]
"""Called after each evaluation with the new entry of the curves."""


def train(
    config: RunConfig,
    data: FeatureSet,
    seed: int,
    *,
    from_source: bool = False,
    directory: str | Path | None = None,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
) -> RunResult:
    """Train the head that `config` describes on `data`, and evaluate its best checkpoint on validation and test.

    Equal arguments give equal results on one machine. The test split is read once, at the end.

    Args:
        config: every option; `config.data.source` and what belongs to it have no part in it, `data` being there.
            The result says `given` in their place, and where the features come from in its `provenance`.
        data: features and labels, before or after `FeatureSet.task`.
        seed: every random choice derives from it and a name: split, initial parameters, batches, dropout.
        from_source: `data` are what `config.data` names, as the jobs of a sweep read them: the result says so.
        directory: where checkpoints lie, if any: every `training.checkpoint_every_epochs`, and one when the run is
            interrupted. A run whose directory holds its checkpoint resumes there, and continues bit for bit.
        progress: called after each evaluation with the epochs done.
        observe: called after each evaluation with the new entry of the curves.

    Raises:
        InputError: options, data or memory that do not allow the run; nothing is compiled by then.
    """
    seed = check_positive_int("seed", seed, minimum=0, maximum=LARGEST_SEED)
    check_feature_set(data)
    config = config if from_source else given_config(config, data)
    return train_prepared(config, prepare(config, data, seed), seed, directory, progress, observe)


def train_prepared(
    config: RunConfig,
    prepared: Prepared,
    seed: int,
    directory: str | Path | None = None,
    progress: OnProgress | None = None,
    observe: Observe | None = None,
) -> RunResult:
    """Train on data that are split already; see `train`."""
    begin = time.perf_counter()
    free_memory_maps()
    if not config.trained_by_loop:
        return fit_contender(config, prepared, seed)
    run = Run(config, prepared, seed, directory)
    try:
        run.resume()
        run.loop(progress, observe)
        return run.result(begin)
    except KeyboardInterrupt:
        run.save_checkpoint()
        raise


class Run:
    """The moving parts of one call of `train`."""

    def __init__(
        self, config: RunConfig, prepared: Prepared, seed: int, directory: str | Path | None, *, lanes: int = 1
    ):
        self.config, self.prepared, self.seed = config, prepared, seed
        check_not_forked()
        options = config.training
        features, labels = prepared.part("train")
        self.val = prepared.part("val")
        self.ids, self.rows = hash_texts(prepared.data.content_ids), prepared.split.train.astype(np.int32)
        self.other = other_task(config, prepared)
        if self.other is not None:
            self.rows = np.append(self.rows, len(self.ids) + self.other.rows).astype(np.int32)
            self.ids = np.append(self.ids, hash_texts(self.other.data.content_ids))
        self.n_labels = labels.shape[1]
        known = prepared.data.origin, prepared.data.label_names
        self.head: Head = make_head(config, features, self.n_labels, seed, *known)
        self.objective: Objective = make_objective(config.objective, labels)
        self.sampler: Sampler = make_sampler(
            config.sampling,
            labels,
            batch_size=options.batch_size,
            seed=seed,
            fixed_num_batches=options.fixed_num_batches,
            exclusive=prepared.exclusive,
        )
        if self.other is not None:
            self.sampler = ShuffledPasses(len(self.rows), options.batch_size, seed, options.fixed_num_batches)
        self.stage_steps = options.epochs * self.sampler.n_batches
        self.history = History()
        self.program, self.forward = self._timed("compile", self._programs)
        self.steps: CompiledSteps = steps(self.program)
        inputs, wanted = prepared.data.features, targets(config, prepared)
        self.taught, values = wanted.digest, wanted.values
        hint = taught_hint(self.head, wanted.n_features, seed)
        self.objective = dataclasses.replace(self.objective, hint=hint)
        if self.other is not None:
            inputs, values = np.concatenate([inputs, self.other.data.features]), self.other.labels(values)
            self.objective = dataclasses.replace(self.objective, other=self.other.readout(self.head, seed))
            self.taught = self.other.data.digest()
        self.features = jnp.asarray(np.asarray(inputs, self.head.dtype))
        self.labels = jnp.asarray(np.asarray(values, self.head.dtype))
        self.schedule = make_schedule(options, self.stage_steps)
        self.told = hyperparameters(options, {**self.head.params, **self.objective.parameters()})
        self.key = jax.random.key(key_seed(seed, "dropout"))
        self.epoch = 0
        self.state: State = initial_state(options, self.head, self.objective)
        self.best: dict[str, jax.Array] = evaluated_arrays(options, self.state)
        self.settled: tuple[int, Any, Callable[[], dict[str, Any]]] | None = None
        self.checkpoints: Checkpoints | None = None
        if directory is not None:
            digests = {"data": prepared.data_digest, "split": prepared.split.digest}
            digests |= {"teacher": self.taught} if self.taught else {}
            digests |= {"circuit": own} if (own := circuit_digest(config, self.n_labels)) else {}
            identity = {"config": config.to_dict(), "seed": seed, **digests}
            self.checkpoints = Checkpoints(Path(directory), identity, lanes=lanes)

    def loop(self, progress: OnProgress | None = None, observe: Observe | None = None) -> None:
        """Train until a doubling does not pay (`has_converged`), the last doubling, early stopping or divergence."""
        for _ in self.epochs(progress, observe):
            self.train_epoch()

    def train_epoch(self) -> None:
        """Take the steps of the next epoch; what `epochs` does comes before and after it."""
        self._timed("training", self._train_epoch)

    def epochs(
        self, progress: OnProgress | None = None, observe: Observe | None = None, *, compile_steps: bool = True
    ) -> Iterator[None]:
        """Yield where the next epoch is to be trained, and do all that belongs before, between and after."""
        options = self.config.training
        if options.preflight_compile:
            self._timed("compile", lambda: self._preflight(compile_steps=compile_steps))
        if self.history.initial is None:
            scores = self._timed("evaluation", self._validate)
            self.history.initial = InitialScores(scores.loss, scores.roc_auc, scores.separation)
        ends = options.stage_ends
        while not self._finished():
            yield
            if self.epoch % options.eval_every_epochs == 0 or self.epoch in ends:
                entry = self._evaluate()
                if observe is not None:
                    observe(entry)
                if progress is not None:
                    progress(Progress("training", self.epoch, min(end for end in ends if end >= self.epoch)))
            self._settle()
            every = options.checkpoint_every_epochs
            if every and (self.epoch % every == 0 or self._finished()):
                self.save_checkpoint()

    def _programs(self) -> tuple[Program | None, Program | None]:
        """Return the programs of training and of evaluation; some engines compile here."""
        make = functools.partial(make_program, self.config, self.n_labels, seed=self.seed)
        return make(self.config.training.batch_size), make(PREDICTION_BATCH, gradient=False)

    def _finished(self) -> bool:
        """Return whether no epoch follows, from what a checkpoint holds alone, so that a resumed run agrees."""
        options = self.config.training
        if self.history.stopped(options):
            return True
        ends = options.stage_ends
        return self.epoch in ends and (self.epoch == ends[-1] or self.history.converged(options))

    def _preflight(self, *, compile_steps: bool) -> None:
        """Compile the programs of training and evaluation by calling them; nothing of the run changes."""
        if compile_steps:
            # A looped call of no steps compiles everything and computes nothing; another has to take one.
            jax.block_until_ready(self._steps(self.state, self.batch(1), 0, 0 if loops(self.program, self.head) else 1))
        predict_logits(self.head.packed(), self.val[0][:1], self.forward, PREDICTION_BATCH)
        mean_loss(self.objective, np.zeros(self.val[1].shape, self.head.dtype), self.val[1], self._typical())

    def batch(self, epoch: int) -> EpochArrays:
        """Return what the steps of `epoch` (from 1) read."""
        batches, n = self.sampler.epoch(epoch), self.sampler.n_batches
        longest = n if self.config.training.fixed_num_batches else -(-len(self.features) // self.sampler.batch_size)
        spare = ((0, max(longest - n, 0)), (0, 0))
        return EpochArrays(
            self.features,
            self.labels,
            np.pad(self.rows[batches.rows], spare),
            np.pad(batches.weights, spare).astype(self.head.dtype),
            np.pad(self._learning_rates(epoch), spare[0]),
            self.told,
        )

    def _learning_rates(self, epoch: int) -> np.ndarray:
        """Return the learning rate (n_batches,) float32 of each step of `epoch`."""
        n, options = self.sampler.n_batches, self.config.training
        rates = self.schedule(np.arange((epoch - 1) * n, epoch * n))
        if options.schedule != "plateau":
            return rates
        values = self.history.objective_values(options)
        seen = sum(evaluated < epoch for evaluated in self.history.curves.get("epoch", []))
        factor = plateau_factor(values[:seen], options.plateau_patience)
        return rates * np.float32(factor)

    def _train_epoch(self) -> None:
        """Take the steps of the next epoch."""
        batch, state = self.batch(self.epoch + 1), self.state
        width = STEPS_A_CALL if loops(self.program, self.head) else 1
        n = self.sampler.n_batches
        for start in range(0, n, width):
            stop = min(start + width, n)
            state, totals = self._steps(state, batch, start, stop)
            self.history.sums.add(totals, stop - start)  # reads the totals, and so waits for the call to end
        self.end_epoch(state, batch)

    def end_epoch(self, state: State, batch: EpochArrays) -> None:
        """Note that the next epoch was trained on `batch` and ended in `state`."""
        n = self.sampler.n_batches
        self.state, self.epoch = state, self.epoch + 1
        self.history.batches.append(batches_digest(Batches(batch.rows[:n], batch.weights[:n]), self.ids))

    def _steps(self, state: State, batch: EpochArrays, start: int, stop: int) -> tuple[State, Totals]:
        bounds = np.int32(start), np.int32(stop)
        return self.steps(self.head, self.objective, state, batch, self.key, *bounds)

    def _validate(self) -> Scores:
        head = self.head.with_arrays(evaluated_arrays(self.config.training, self.state)).packed()
        logits = predict_logits(head, self.val[0], self.forward, PREDICTION_BATCH)
        return validate(self.objective, logits, self.val[1], self._typical())

    def _typical(self) -> float:
        """Return the size of the validation split to expect of any seed."""
        return len(self.prepared.data) * self.config.data.val_fraction

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate on validation, extend the curves, and keep the parameters if they are the best."""
        options = self.config.training
        scores = self._timed("evaluation", self._validate)
        entry = self.history.append(
            options, self.epoch, self.head, self.state, float(self._learning_rates(self.epoch)[-1]), scores
        )
        if self.history.note_best(scores.value(options.val_objective), self.epoch):
            self.best = evaluated_arrays(options, self.state)
        return entry

    def _timed(self, what: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return action()
        finally:
            self.history.seconds[what] += time.perf_counter() - start

    def _settle(self) -> None:
        """Remember the run as it is between two epochs: what an interrupt, wherever it strikes, leaves on disk."""
        self.settled = (self.epoch, (self.state, self.best), self.history.snapshot())

    def save_checkpoint(self) -> None:
        """Write the last whole epoch to the directory, if there is one of both."""
        if self.checkpoints is not None and self.settled is not None:
            epoch, tree, record = self.settled
            self.checkpoints.save(epoch, tree, record())

    def resume(self) -> None:
        """Continue from the newest checkpoint in the directory, if there is one."""
        found = None if self.checkpoints is None else self.checkpoints.latest((self.state, self.best))
        if found is not None:
            self.epoch, (self.state, self.best), record = found
            spent = self.history.seconds["compile"]
            self.history = History.from_record(record)
            self.history.seconds["compile"] += spent
            self._settle()

    def best_head(self) -> Head:
        """Return the head of the best checkpoint so far; that of the last epoch where none can be told."""
        if self.history.best_epoch == 0 and not self.history.diverged:
            return self.head.with_arrays(evaluated_arrays(self.config.training, self.state))
        return self.head.with_arrays(self.best)

    def validation(self) -> Evaluation:
        """Return the measures of the best checkpoint so far on validation; the test split is not read."""
        head = self.best_head().packed()
        return judge_validation(self.prepared, predict_logits(head, self.val[0], self.forward, PREDICTION_BATCH))

    def result(self, begin: float) -> RunResult:
        """Evaluate the best checkpoint on validation and, for the only time, on test."""
        notes, best_epoch = list(self.prepared.notes), self.history.best_epoch
        notes += [] if self.other is None else [self.other.note]
        if self.history.diverged:
            notes.append(
                f"training diverged: the loss of epoch {self.epoch} is not finite, and nothing was trained after it"
            )
        if best_epoch == 0 and not self.history.diverged:
            best_epoch = self.epoch
            notes.append(
                f"training.val_objective = {self.config.training.val_objective} is undefined on the validation split: "
                "the last epoch was taken instead of the best"
            )
        head = self.best_head()
        evaluated = head.packed()
        parts = {"val": self.val, "test": self.prepared.part("test")}
        logits = self._timed(
            "evaluation",
            lambda: {
                name: predict_logits(evaluated, features, self.forward, PREDICTION_BATCH)
                for name, (features, _) in parts.items()
            },
        )
        judged = judge(self.prepared, logits)
        return RunResult(
            config=written_config(self.config),
            seed=self.seed,
            label_names=self.prepared.data.label_names,
            val=judged.val,
            test=judged.test,
            initial=self.history.initial,
            best_epoch=best_epoch,
            epochs_run=self.epoch,
            converged=self.history.converged(self.config.training),
            curves=self.history.curves,
            digests=self._digests(),
            n_parameters=ParameterCount(**self.head.count(), effective=self.head.effective(), bits=size_of(head).bits),
            degenerate=self.history.diverged or judged.degenerate,
            notes=tuple(notes),
            timings=self.history.timings(time.perf_counter() - begin, self.epoch * self.sampler.n_batches),
            engine={} if self.program is None else dict(self.program.info),
            compile_cache=_cache_statistics(),
            environment=environment(),
            predictor=Predictor.of(self.config, head, self.prepared, judged, self.seed),
            provenance=self.prepared.data.provenance,
            n_examples=self.prepared.n_examples,
            n_groups=self.prepared.n_groups,
            outputs=judged.outputs,
        )

    def _digests(self) -> Digests:
        epochs = self.config.training.epochs
        return Digests(
            data=self.prepared.data_digest,
            split=self.prepared.split.digest,
            batches=order_digest(self.sampler, epochs, self.ids[self.rows], self.history.batches[:epochs]),
            source=self.prepared.source_digest,
            teacher=self.taught,
            parameters={
                f"{name}{list(value.shape)}": digest(np.asarray(value))
                for name, value in self.head.parameters().items()
            },
        )


def _cache_statistics() -> dict[str, Any]:
    """Return the statistics of the engines' compile cache."""
    from qwafer import engines

    statistics = getattr(engines, "cache_info", None)
    return {} if statistics is None else dict(statistics())
