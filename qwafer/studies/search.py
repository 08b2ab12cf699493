"""`run_search`: the options of every arm of an experiment, searched with one budget on validation alone, resumably."""

import builtins
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwafer._checks import check_choice, check_path, check_positive_int
from qwafer._errors import InputError
from qwafer._io import canonical_json, exclusively, read_or_set_aside, remove_temporaries, write_text
from qwafer._records import from_json, load_record, save_record
from qwafer.comparison import check_comparable, check_metric
from qwafer.comparison.metrics import higher_is_better
from qwafer.config import RunConfig
from qwafer.execution import Event, Executor, Job, LocalProcesses, OnProgress, Tally
from qwafer.experiment import Experiment, check_seeds
from qwafer.overrides import with_options
from qwafer.source import source_facts
from qwafer.studies.ablation import check_arms
from qwafer.studies.proposals import SAMPLERS, make_proposer, optuna_version
from qwafer.studies.pruning import PRUNERS, stops
from qwafer.studies.space import BUDGETED, Options, Space, by_bounds
from qwafer.studies.toml import experiment_toml
from qwafer.studies.trials import Search, Trial
from qwafer.sweeps.apart import set_apart
from qwafer.sweeps.jobs import TRY, run_job, run_payload
from qwafer.sweeps.sources import Source, provide_features
from qwafer.tracking import TrackedRun, Tracking
from qwafer.training import TrialScores
from qwafer.training._environment import git_revision

RECORD, LOCK, WINNERS = "search.json", ".lock", "winners.toml"
FIRST_SEED = 1000
"""The first seed of trials where none are given."""
N_SEEDS = 2
"""Seeds of a trial where none are given."""
BATCH = 4
"""Trials per arm and round where nothing is given."""
RETRIES = 2
"""How often a trial is run again that had one of `ACCIDENTS`."""
ACCIDENTS = ("WorkerDied", "TimedOut", "MemoryError")


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left behind."""

    search: Search
    """`search.json`."""
    experiment: Experiment
    """The experiment with the winners, on examples that no trial has seen or without what they were scored on."""
    winners: Path
    """`winners.toml`: the same as a file, for `ablate` and `bench`."""
    n_done: int
    """Trials that were run in this call."""


def trial_seeds(experiment: Experiment, n: int = N_SEEDS) -> tuple[int, ...]:
    """Return the first `n` seeds from 1000 on that the experiment does not use."""
    taken = set(experiment.seeds)
    return tuple(seed for seed in range(FIRST_SEED, FIRST_SEED + n + len(taken)) if seed not in taken)[:n]


def run_search(
    experiment: Experiment,
    space: Space,
    out: str | Path,
    *,
    budget: int,
    seeds: Sequence[int] | None = None,
    epochs: int | None = None,
    base: Mapping[str, Any] | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    batch: int = BATCH,
    executor: Executor | None = None,
    jobs: int = 2,
    progress: OnProgress | None = None,
    features: Path | None = None,
    track: Tracking | None = None,
) -> SearchOutcome:
    """Do the trials that `out` does not hold yet, and write `search.json` and `winners.toml` there.

    Every arm has `budget` trials, each of at most `epochs` epochs on each of `seeds`; a trial that is pruned or fails
    counts, and what it did not train is not given to another. Trials are proposed in rounds of `batch` per arm; what is
    proposed and where a trial is pruned depends on complete rounds alone, and so neither on the executor nor on how
    often the search was killed. No trial has a test split: see `set_apart` and `qwafer.training.run_trial`.

    Args:
        experiment: its arms are searched, for its metric, on validation.
        space: by arm, what is drawn; see `load_space`.
        out: output directory.
        budget: trials per arm; may grow later, not shrink.
        seeds: of every trial; none: two from 1000 on. None may be one of the experiment's.
        epochs: of a trial; none: `training.epochs`, which must then be the same in all arms.
        base: further options in which every trial differs from the experiment.
        sampler: one of `SAMPLERS`.
        pruner: one of `PRUNERS`.
        batch: trials per arm and round.
        executor: what runs the trials; none: `jobs` worker processes of this machine.
        jobs: their number.
        progress: called with where the search stands.
        features: folder of features that the experiment makes itself, beside which examples are set apart; none: one
            in `out`.
        track: told every trial of a complete round, and the record at the end.

    Raises:
        InputError: data, space, budget or a directory that do not allow the search, or an arm without any value.
        CapabilityError: Optuna is not installed, or the data cannot be set apart.
    """
    check_positive_int("budget", budget)
    check_positive_int("batch", batch)
    check_choice("sampler", sampler, SAMPLERS)
    check_choice("pruner", pruner, PRUNERS)
    check_metric(experiment.metric)
    check_comparable(experiment)
    _check_fresh(experiment)
    seeds = trial_seeds(experiment) if seeds is None else tuple(seeds)
    check_seeds(seeds)
    if set(seeds) & set(experiment.seeds):
        raise InputError("`seeds` of a search must not be seeds of the experiment")
    base = {**(base or {}), **({} if epochs is None else {"training.epochs": epochs})}
    base = base if "training.max_doublings" in base else {**base, "training.max_doublings": 0}
    arms = {arm: with_options(config, base) for arm, config in experiment.arms.items()}
    _check_epochs(arms)
    out = check_path(out)
    _check_folder(out)
    version = optuna_version(sampler)
    with exclusively(out / LOCK, f"another search is running in {out}: wait for it, or choose another --out"):
        remove_temporaries(out)
        folder = out / "features" if features is None else features
        whole = provide_features({arm: config.data for arm, config in arms.items()}, folder, progress=progress)
        shared, own = by_bounds(space)
        plan = Search(
            name=experiment.name,
            experiment=experiment.digest(),
            metric=f"val.{experiment.metric.partition('.')[2]}",
            budget=budget,
            seeds=seeds,
            space=shared,
            base=base,
            data={arm: source.record.digest or "" for arm, source in whole.items()},
            revisions=(git_revision()[:12],),
            trials=(),
            own=own,
            sampler=sampler,
            pruner=pruner,
            batch=batch,
            version=version,
        )
        plan = _claimed(out, plan)
        by = {config.data.split_by for config in arms.values()}
        if len(by) > 1:
            raise InputError(f"`data.split_by` must be the same in all arms of a search, got {', '.join(sorted(by))}")
        apart = {
            arm: set_apart(source.path, folder if features is None else None, *by) for arm, source in whole.items()
        }
        tried = {arm: _on(config, apart[arm][0], trial=True) for arm, config in arms.items()}
        with LocalProcesses(jobs) if executor is None else executor as running:
            state = _Trials(out, plan, tried, {arm: files[0] for arm, files in apart.items()}, running, progress, track)
            if state.pending():
                sources = {arm: Source(apart[arm][0], source.record) for arm, source in whole.items()}
                facts = {arm: source_facts(config.data) for arm, config in tried.items()}
                given = dataclasses.replace(experiment, arms=tried, seeds=seeds, searched=None, facts=facts)
                found_arms = check_arms(given, sources, list(tried), running)
                plan = _with_circuits(out, plan, {arm: found.circuit for arm, found in found_arms.items()})
            state.run(space)
        search = dataclasses.replace(plan, trials=tuple(trial for arm in arms for trial in state.done[arm]))
        save_record(out / RECORD, search)
        winners = search.winners()
        chosen = {arm: _on(with_options(experiment.arms[arm], winners[arm]), apart[arm][1]) for arm in arms}
        found = dataclasses.replace(
            experiment,
            name=f"{experiment.name[:90]}-searched",
            arms=chosen,
            facts={arm: source_facts(config.data) for arm, config in chosen.items()},
            searched=search.searched(),
        )
        write_text(out / WINNERS, experiment_toml(found))
        if track is not None:
            counts = {"budget": budget, "sampler": sampler, "pruner": pruner, "seeds": ", ".join(map(str, seeds))}
            run = TrackedRun("search", plan.name, counts, {"experiment": plan.experiment})
            track.tell(run, {}, {}, [out / RECORD, out / WINNERS])
    return SearchOutcome(search, found, out / WINNERS, state.n_run)


class _Trials:
    """The trials of a search, round by round: proposed, run where they are not there, told."""

    def __init__(
        self,
        out: Path,
        plan: Search,
        arms: Mapping[str, RunConfig],
        features: Mapping[str, Path],
        executor: Executor,
        progress: OnProgress | None,
        track: Tracking | None,
    ):
        self.done: dict[str, list[Trial]] = {arm: [] for arm in arms}
        self.n_run = 0
        self._out, self._plan, self._arms, self._features, self._executor = out, plan, arms, features, executor
        self._higher = higher_is_better(plan.metric)
        self._track = track
        self._tally = Tally("trials", plan.budget * len(arms), progress)

    def path(self, arm: str, number: int) -> Path:
        """Return the file of a trial."""
        return self._out / "trials" / arm / f"{number:04d}.json"

    def pending(self) -> bool:
        """Return whether some trial is not there."""
        return not all(self.path(arm, number).is_file() for arm in self._arms for number in range(self._plan.budget))

    def run(self, space: Space) -> None:
        """Do all rounds; those that are on disk are proposed again, and must be the same."""
        plan = self._plan
        proposers = {
            arm: make_proposer(plan.sampler, arm, space[arm], plan.budget, higher_is_better=self._higher)
            for arm in self._arms
        }
        for start in range(0, plan.budget, plan.batch or plan.budget):
            numbers = range(start, min(start + (plan.batch or plan.budget), plan.budget))
            asked = {arm: proposer.ask(len(numbers)) for arm, proposer in proposers.items()}
            self._round(numbers, asked)
            for arm, proposer in proposers.items():
                options = zip(numbers, asked[arm], strict=True)
                self.done[arm] += [self._load(arm, number, own) for number, own in options]
                proposer.tell(self.done[arm][start:])
                self._tell(arm, numbers)

    def _tell(self, arm: str, numbers: range) -> None:
        if self._track is None:
            return
        for number in numbers:
            trial, name = self.done[arm][number], self._plan.metric
            state = "pruned" if trial.pruned else "complete" if trial.value is not None else f"failed {trial.error}"
            run = TrackedRun(
                f"{arm}/trial-{number:04d}", self._plan.name, {"arm": arm, "state": state, **trial.options}
            )
            points = [(epoch, value) for epoch, value in trial.stops.items() if value is not None]
            metrics = {f"{name}/seed-{seed}": value for seed, value in trial.values.items()}
            self._track.tell(run, {name: points}, {name: trial.value, **metrics}, [self.path(arm, number)])

    def _load(self, arm: str, number: int, options: Options) -> Trial:
        trial = self._read(arm, number, options)
        assert trial is not None
        return trial

    def _read(self, arm: str, number: int, options: Options) -> Trial | None:
        trial = read_or_set_aside(partial(load_record, Trial), self.path(arm, number))
        if trial is not None and (trial.arm, trial.options) != (arm, options):
            raise InputError(
                f"{self.path(arm, number)} is not the trial that is proposed there ({trial.options} there, {options} "
                "here): choose another --out"
            )
        return trial

    def _round(self, numbers: range, asked: Mapping[str, Sequence[Options]]) -> None:
        """Do the trials of a round; one that repeats an earlier one of its arm is not run again."""
        todo: dict[str, Job] = {}
        trials: dict[str, tuple[str, int, Options]] = {}
        repeated: list[tuple[str, int, Trial | str]] = []
        for arm, proposals in asked.items():
            known: dict[str, Trial | str] = {canonical_json(trial.options): trial for trial in self.done[arm]}
            limits = stops(self._plan.pruner, self._arms[arm], self.done[arm], higher_is_better=self._higher)
            for number, options in zip(numbers, proposals, strict=True):
                key, same = f"{arm}/{number:04d}", canonical_json(options)
                trials[key] = arm, number, options
                if self._read(arm, number, options) is not None:
                    self._tally(Event(key, "done", 1.0))
                elif same in known:
                    repeated.append((arm, number, known[same]))
                else:
                    try:
                        config = with_options(self._arms[arm], options)
                    except (InputError, TypeError) as error:
                        self._save(arm, number, _failed(arm, options, self._plan, str(error)))
                        self._tally(Event(key, "failed"))
                        continue
                    todo[key] = self._job(key, arm, config, [(stop.epoch, stop.bound) for stop in limits])
                known.setdefault(same, key)
        self._do(todo, trials)
        for arm, number, earlier in repeated:
            first = self._load(*trials[earlier]) if isinstance(earlier, str) else earlier
            self._save(arm, number, first)
            self._tally(Event(f"{arm}/{number:04d}", "done", 1.0))

    def _job(self, key: str, arm: str, config: RunConfig, limits: Sequence[tuple[int, float | None]]) -> Job:
        payload = {
            **run_payload(config, self._features[arm], self._plan.seeds[0]),
            "seeds": list(self._plan.seeds),
            "metric": self._plan.metric.partition(".")[2],
            "higher_is_better": self._higher,
            "stops": [list(limit) for limit in limits],
        }
        return run_job(key, TRY, payload, family=arm)

    def _do(self, todo: Mapping[str, Job], trials: Mapping[str, tuple[str, int, Options]]) -> None:
        waiting, self.n_run = dict(todo), self.n_run + len(todo)
        for left in reversed(range(RETRIES + 1)):
            lost: dict[str, Job] = {}

            def note(event: Event, left: int = left, lost: dict[str, Job] = lost) -> None:
                arm, number, options = trials[event.key]
                if event.failure is not None and event.failure.type in ACCIDENTS and left:
                    lost[event.key] = todo[event.key]
                    return
                if event.failure is not None and _of_system(event.failure.type):
                    raise InputError(
                        f"the trial {event.key} could not run ({event.failure.type}: {event.failure.error}), which is "
                        "no outcome of it: the same command, given again, goes on there"
                    )
                if event.failure is not None:
                    said = f"{event.failure.type}: {event.failure.error}"
                    self._save(arm, number, _failed(arm, options, self._plan, said))
                elif event.kind == "done":
                    scores = from_json(TrialScores, event.result)
                    measured = {item.name: getattr(scores, item.name) for item in dataclasses.fields(scores)}
                    self._save(arm, number, Trial(arm=arm, options=options, value=scores.value, **measured))
                self._tally(event)

            self._executor.run(list(waiting.values()), note)
            waiting = lost
            if not waiting:
                return

    def _save(self, arm: str, number: int, trial: Trial) -> None:
        save_record(self.path(arm, number), trial)


def _of_system(failure: str) -> bool:
    """Return whether a failure is one of files, disks or connections (`OSError`)."""
    found = getattr(builtins, failure, None)
    return isinstance(found, type) and issubclass(found, OSError)


def _failed(arm: str, options: Options, plan: Search, error: str) -> Trial:
    return Trial(arm, options, dict.fromkeys(plan.seeds), None, {}, {}, error=error)


def _check_fresh(experiment: Experiment) -> None:
    if experiment.searched is not None:
        trials = ", ".join(f"{arm} {count}" for arm, count in experiment.searched.trials.items())
        raise InputError(
            f"the options of {experiment.name} were found by a search already ({trials} trials), which another one "
            "would leave out: search the experiment that it was made from, with a larger budget"
        )


def _check_epochs(arms: Mapping[str, RunConfig]) -> None:
    epochs = {arm: config.training.stage_ends[-1] for arm, config in arms.items() if config.trained_by_loop}
    if len(set(epochs.values())) > 1:
        said = ", ".join(f"{arm} {count}" for arm, count in epochs.items())
        raise InputError(
            f"every arm must have the same budget of epochs ({', '.join(BUDGETED)}), got {said}: give --epochs"
        )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose another output directory")
    names = {entry.name for entry in (out.iterdir() if out.exists() else ())}
    if names and not names & {LOCK, RECORD}:
        raise InputError(
            f"{out} holds other things ({', '.join(sorted(names)[:3])}) and no search: choose an empty or new output "
            "directory"
        )


def _claimed(out: Path, plan: Search) -> Search:
    """Write the plan of a search that begins, or return it for one that goes on; refuse the folder of another one."""
    known = read_or_set_aside(partial(load_record, Search), out / RECORD)
    if known is not None:
        for item in dataclasses.fields(Search):
            there, here = getattr(known, item.name), getattr(plan, item.name)
            if item.name not in ("budget", "revisions", "trials", "raised", "circuits") and there != here:
                raise InputError(
                    f"{out} holds another search ({item.name} {there} there, {here} here): choose another --out"
                )
        if plan.budget < known.budget or (plan.sampler == "hypercube" and plan.budget != known.budget):
            raise InputError(
                f"{out} holds a search of {known.budget} trials per arm, and what was tried cannot be untried: "
                f"`budget` must be {'that' if plan.sampler == 'hypercube' else 'at least that'}, got {plan.budget}"
            )
        seen = (known.budget,) if plan.budget > known.budget and (out / WINNERS).is_file() else ()
        revisions = tuple(dict.fromkeys((*known.revisions, *plan.revisions)))
        raised = (*known.raised, *seen)
        plan = dataclasses.replace(plan, revisions=revisions, raised=raised, circuits=known.circuits)
    save_record(out / RECORD, plan)
    if not (known and plan.budget == known.budget):
        (out / WINNERS).unlink(missing_ok=True)  # those of a smaller budget
    return plan


def _with_circuits(out: Path, plan: Search, here: Mapping[str, str]) -> Search:
    """Write and return the plan with the digests of the circuits that are `here`; raise InputError where the trials
    that are there ran other ones.
    """
    for arm, digest in here.items():
        there = plan.circuits.get(arm, digest)
        if there != digest:
            raise InputError(
                f"the trials of arm {arm} in {out} ran another circuit ({there[:16]}) than is there now "
                f"({digest[:16]}): its function, what it calls, or JAX has changed: choose another --out"
            )
    found = {arm: digest for arm, digest in here.items() if digest}
    plan = dataclasses.replace(plan, circuits={**plan.circuits, **found})
    save_record(out / RECORD, plan)
    return plan


def _on(config: RunConfig, features: Path, *, trial: bool = False) -> RunConfig:
    """Return the configuration on a file of features; of a `trial`, whose features bring a split, without folds."""
    data = dataclasses.replace(config.data, source=str(features.resolve()), reader=None)
    return dataclasses.replace(config, data=dataclasses.replace(data, n_folds=None) if trial else data)
