"""Search the options of every arm of an experiment at random, the same number of trials for each, on validation alone.

    python experiments/search.py                                # every experiment in the table of README.md
    python experiments/search.py bench --source features.npz    # one of `python -m qwafer.bench`

No trial sees an example that the experiment tests on: where a file brings its split, its test part is left out; where
every seed draws a split, a quarter of the examples is set apart for the search, and the experiment runs on the others.
What is complete is not done again. `searched/NAME.json` is written at the end; `run_all.py` takes the winners from
there.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from published import CAPS, HERE, SEARCHED, Options, Search, Trial, searched_digest
from run_all import BENCHES, DATA, NAMES, SMALL, check_names, experiment_on, feature_files, has_data, set_apart

from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer._process import run_verb
from qwafer._records import save_record
from qwafer.execution import Event, Job, LocalProcesses
from qwafer.experiment import Experiment, load_experiment
from qwafer.overrides import no_effect, with_options
from qwafer.source import source_facts
from qwafer.sweeps import OutputDirectory
from qwafer.sweeps.jobs import TRAIN, train_payload
from qwafer.sweeps.sources import provide_features
from qwafer.training import RunResult

RATE = {"training.learning_rate": (1e-3, 1e-1)}
ANGLES = {**RATE, "head.init_scale": (0.05, 2.0)}
HEADS = {
    **ANGLES,
    "head.alpha_init": (1.0, 30.0),
    "head.dropout": (0.01, 0.5),
    "training.lr_mult_readout": (1.0, 10.0),
    "training.lr_mult_alpha": (1.0, 10.0),
    "training.weight_decay": (1e-5, 1e-1),
}
SPACES = {
    "balanced_and_focal": RATE,
    "schedules": RATE,
    "alpha": RATE,
    "imbalance": RATE,
    "qubits_and_layers": ANGLES,
    "encodings": ANGLES,
    "entanglement": ANGLES,
    "best_head": RATE,
    "bench": HEADS,
    "wm811k": HEADS,
    **dict.fromkeys(SMALL, RATE),
}
"""Bounds of what is searched, by experiment. An arm is searched over those options that have an effect in it; an option
that an experiment varies on purpose is not among them."""
FIXED = {"bench": {"reference_4": ("head.init_scale", "head.alpha_init")}}
"""Options that make an arm what it is, and are not searched in it."""
SHORT = {
    "bench": {"training.epochs": 10},
    "wm811k": {"training.epochs": 5},
    **{name: {"training.epochs": 5} for name in SMALL},
}
"""The same for single experiments: shorter first stages where the training split is as large as the experiment's."""
BUDGET = 8
SEEDS = (1000, 1001)
"""Seeds of every trial: none is one of an experiment."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments to search: {', '.join(SPACES)}")
    parser.add_argument("--source", metavar="FILE", help="maps or features, for bench, wm811k and small_*")
    parser.add_argument("--out", default=str(HERE.parent / "runs" / "searches"), metavar="DIR", help="where runs go")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="worker processes (2)")
    parser.add_argument("--trials", type=int, default=BUDGET, metavar="N", help=f"trials per arm ({BUDGET})")
    parser.add_argument("--dry-run", action="store_true", help="print the number of runs, and do nothing")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    for name in arguments.names:
        if name not in SPACES:
            raise InputError(f"there is nothing to search in {name}: known are {', '.join(SPACES)}")
    names = [name for name in arguments.names or NAMES if name in SPACES]
    check_names(names, arguments.source)
    if not has_data():
        raise InputError(f"{DATA} must hold mixedwm38.npz and wm811k.npz: a search on synthetic maps says nothing")
    out, total = Path(arguments.out), 0
    sources = {}
    if not arguments.dry_run and set(names) & set(NAMES):
        sources = feature_files(out.parent / "experiments" / "features", real=True)
    for name in names:
        path = HERE / f"{name}.toml"
        experiment = load_experiment(path) if arguments.dry_run else experiment_on(name, sources, arguments.source)
        trials = draw(experiment, SPACES[name], FIXED.get(name, {}), arguments.trials)
        runs = sum(map(len, trials.values())) * len(SEEDS)
        total += runs
        print(f"{name}: {len(trials)} arms, {arguments.trials} trials each, {runs} runs", flush=True)
        if arguments.dry_run:
            continue
        found = search(
            experiment,
            trials,
            SPACES[name],
            out / name,
            seeds=SEEDS,
            base={**CAPS, **SHORT.get(name, {})},
            jobs=arguments.jobs,
            features=out.parent / "experiments" / name / "features",
        )
        save_record(SEARCHED / f"{name}.json", found)
        for arm, options in found.winners().items():
            print(f"  {arm}: {', '.join(f'{option} = {value:g}' for option, value in options.items())}", flush=True)
    print(f"{total} runs in all")
    return 0


def draw(
    experiment: Experiment,
    space: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, Sequence[str]],
    budget: int,
) -> dict[str, list[Options]]:
    """Return `budget` configurations of each arm, log-uniform between the bounds, to three digits.

    A Latin hypercube (McKay, Beckman and Conover 1979): each option has one value in each of `budget` equal parts of
    its logarithmic range. An option draws from a stream of its own, so that trial k of two arms has equal values of
    what both have.
    """
    drawn = {}
    for option, (low, high) in space.items():
        rng = np.random.default_rng(key_seed(0, f"search {option}"))
        u = (rng.permutation(budget) + rng.uniform(size=budget)) / budget
        drawn[option] = [float(f"{low * (high / low) ** share:.3g}") for share in u]
    trials = {}
    for arm, config in experiment.arms.items():
        facts = source_facts(config.data)
        mine = [o for o in space if o not in fixed.get(arm, ()) and no_effect(config, o, facts) is None]
        trials[arm] = [{option: drawn[option][k] for option in mine} for k in range(budget)]
    return trials


def search(
    experiment: Experiment,
    trials: Mapping[str, Sequence[Options]],
    space: Mapping[str, tuple[float, float]],
    out: Path,
    *,
    seeds: tuple[int, ...],
    base: Mapping[str, float],
    jobs: int,
    features: Path,
) -> Search:
    """Run the trials that `out` does not hold yet, and return all of them; the arms' `data.source` must be files.

    The features of maps are made in `features`: where the experiment makes its own, so that a network is trained once.

    Raises InputError where seeds of the experiment are used, or a trial of some arm cannot be run at all.
    """
    if set(seeds) & set(experiment.seeds):
        raise InputError("`seeds` of a search must not be seeds of the experiment")
    whole = provide_features({arm: config.data for arm, config in experiment.arms.items()}, features)
    apart = {arm: set_apart(source.path) for arm, source in whole.items()}
    files = {arm: search for arm, (search, _) in apart.items()}
    if experiment.name in BENCHES and any(apart[arm][1] != whole[arm].path for arm in apart):
        raise InputError(f"the source of {experiment.name} must bring a split: a search must not see its test part")
    arms = {
        f"{arm}.{k}": with_options(experiment.arms[arm], {**options, **base, "data.source": str(files[arm])})
        for arm, own in trials.items()
        for k, options in enumerate(own)
    }
    facts = {arm: source_facts(config.data) for arm, config in arms.items()}
    tried = Experiment(f"{experiment.name}-search", arms, next(iter(arms)), seeds, experiment.metric, facts=facts)
    directory = OutputDirectory(out)
    directory.check_owner(tried)
    with directory.locked(), LocalProcesses(jobs) as executor:
        sources = provide_features({arm: config.data for arm, config in arms.items()}, out / "features")
        directory.claim(tried, {arm: source.record for arm, source in sources.items()})
        todo = {f"{arm}/seed-{seed}": (arm, seed) for arm, seed in directory.read(tried).pending}

        def note(event: Event) -> None:
            if event.failure is not None:
                directory.write_failure(*todo[event.key], event.failure)
            if event.kind in ("done", "failed"):
                print("." if event.kind == "done" else "x", end="", flush=True)

        def job(key: str, arm: str, seed: int) -> Job:
            return Job(key, TRAIN, train_payload(arms[arm], sources[arm].path, seed, directory.run_path(arm, seed)))

        executor.run([job(key, arm, seed) for key, (arm, seed) in todo.items()], note)
        runs = directory.read(tried).results
    print(f" {len(todo)} runs")
    metric = experiment.metric.partition(".")[2]
    found = tuple(
        _trial(arm, options, metric, runs[f"{arm}.{k}"], seeds)
        for arm, own in trials.items()
        for k, options in enumerate(own)
    )
    everything = [run for by_seed in runs.values() for run in by_seed.values()]
    searched = {arm: tuple(own[0]) for arm, own in trials.items()}
    return Search(
        name=experiment.name,
        experiment=searched_digest(HERE / f"{experiment.name}.toml", searched),
        metric=f"val.{metric}",
        budget=len(next(iter(trials.values()))),
        seeds=seeds,
        space=dict(space),
        base=dict(base),
        data={arm: source.record.digest or "" for arm, source in whole.items()},
        revisions=tuple(dict.fromkeys((run.environment.git_revision or "none")[:12] for run in everything)),
        trials=found,
    )


def _trial(arm: str, options: Options, metric: str, runs: Mapping[int, RunResult], seeds: Sequence[int]) -> Trial:
    values = {seed: runs[seed].val.macro.get(metric, np.nan) if seed in runs else np.nan for seed in seeds}
    mean = float(np.mean(list(values.values())))
    return Trial(
        arm=arm,
        options=options,
        values={seed: value if np.isfinite(value) else None for seed, value in values.items()},
        value=mean if np.isfinite(mean) else None,
        epochs={seed: run.epochs_run for seed, run in runs.items()},
        converged={seed: run.converged for seed, run in runs.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
