"""Search the options of every arm of an experiment at random, the same number of trials for each, on validation alone.

    python experiments/search.py                                # every experiment in the table of README.md
    python experiments/search.py bench --source features.npz    # one of `python -m qwafer.bench`

No trial sees an example that the experiment tests on: where a file brings its split, its test part is left out; where
every seed draws a split, a quarter of the examples is set apart for the search, and the experiment runs on the others.
What is complete is not done again. `searched/NAME.json` is written at the end; `run_all.py` takes the winners from
there.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from published import CAPS, HERE, SEARCHED, searched_digest
from run_all import BENCHES, DATA, NAMES, SMALL, check_names, experiment_on, feature_files, has_data

from qwafer._errors import InputError
from qwafer._process import run_verb
from qwafer._records import save_record
from qwafer.experiment import Experiment, load_experiment
from qwafer.features import FeatureSet
from qwafer.studies import Dimension, Search, run_search, spread
from qwafer.studies.space import Space
from qwafer.sweeps.sources import provide_features

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
        space = space_of(experiment)
        runs = len(space) * arguments.trials * len(SEEDS)
        total += runs
        print(f"{name}: {len(space)} arms, {arguments.trials} trials each, {runs} runs", flush=True)
        if arguments.dry_run:
            continue
        found = search(
            experiment,
            space,
            out / name,
            budget=arguments.trials,
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


def space_of(experiment: Experiment) -> dict[str, dict[str, Dimension]]:
    """Return what is drawn in each arm of an experiment of `SPACES`: what has an effect there and is not `FIXED`."""
    shared = {option: Dimension(low, high, log=True) for option, (low, high) in SPACES[experiment.name].items()}
    fixed = FIXED.get(experiment.name, {})
    drawn = spread(shared, experiment)
    return {arm: {o: d for o, d in own.items() if o not in fixed.get(arm, ())} for arm, own in drawn.items()}


def search(
    experiment: Experiment,
    space: Space,
    out: Path,
    *,
    budget: int,
    seeds: tuple[int, ...],
    base: Mapping[str, float],
    jobs: int,
    features: Path,
) -> Search:
    """Return the search of `experiment` by a Latin hypercube and without pruning, resumed in `out`; see `run_search`.

    Raises InputError where a source of `BENCHES` brings no split.
    """
    if experiment.name in BENCHES:
        whole = provide_features({arm: config.data for arm, config in experiment.arms.items()}, features)
        if any(FeatureSet.load(source.path).split is None for source in whole.values()):
            raise InputError(f"the source of {experiment.name} must bring a split: a search must not see its test part")
    found = run_search(
        experiment,
        space,
        out,
        budget=budget,
        seeds=seeds,
        base=base,
        sampler="hypercube",
        pruner="none",
        jobs=jobs,
        features=features,
    )
    print(f"{found.n_done} trials")
    options = {arm: tuple(own) for arm, own in space.items()}
    digest = searched_digest(HERE / f"{experiment.name}.toml", options)
    return dataclasses.replace(found.search, experiment=digest)


if __name__ == "__main__":
    sys.exit(main())
