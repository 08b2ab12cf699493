"""Quantum models of others against their nulls: `better_than_classical.toml` and `rivals.toml`, once for each data set.

    python experiments/better_than_classical.py             # search and compare, resumably, and write docs/models.md
    python experiments/better_than_classical.py rivals      # heads on wafer maps
    python experiments/better_than_classical.py --dry-run   # count the runs

`better_than_classical` has 1,200 examples of four features: `rings`, real wafers of WM-811K (defect or none, as many of
either) by the failing rates of the whole, the middle and the edge, and the distance of their centroid; the others are
generated (`qwafer.data.generated`). `rivals` has the defects of WM-811K as eight classes, and MixedWM38, both by the
features of backbone `spatial`. A quarter of each is set apart for the search, which no experiment tests on.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from published import HERE, RESULTS, Result, result_of
from run_all import DATA, has_data, with_prior, write_table
from search import search

from qwafer._errors import InputError
from qwafer._process import run_verb
from qwafer._records import load_record, save_record
from qwafer.comparison import SweepTimings
from qwafer.config import DataConfig
from qwafer.experiment import Experiment, load_experiment
from qwafer.features import NO_DEFECT_NAMES, FeatureSet
from qwafer.overrides import with_options
from qwafer.reports.format import format_spread
from qwafer.source import generated_features
from qwafer.studies import Dimension, run_experiment, spread
from qwafer.sweeps.apart import set_apart
from qwafer.sweeps.sources import provide_features

N = 1200
WAFER = ("failing_ratio", "ring_0", "ring_12", "centroid_distance")
SPACE = {
    "training.learning_rate": (1e-3, 1e-1),
    "head.C": (0.1, 100.0),
    "head.learning_rate": (1e-3, 1e-1),
    "head.variance": (0.1, 10.0),
}
"""What is searched: the rate of what is trained in steps, C of the kernels, the variance of kitchen sinks."""
BUDGET, SEEDS = 3, (1000,)
CAPS = {"training.max_doublings": 1}
CLASSICAL = ("mlp", "mlp_4", "mlp_8", "linear", "svc", "dressed_nn")


@dataclass(frozen=True)
class Page:
    """`results/NAME.json`."""

    SCHEMA: ClassVar[str] = "qwafer/better_than_classical/1"

    results: dict[str, Result]
    """By data set."""


@dataclass(frozen=True)
class Study:
    """An experiment on several data sets, and how each of them is made in a folder."""

    data: dict[str, Callable[[Path], FeatureSet]]
    """By name."""
    space: dict[str, tuple[float, float]]
    """What is searched, within which bounds."""

    def real(self) -> tuple[str, ...]:
        """Return the data sets that are made of real wafer maps."""
        return tuple(name for name, make in self.data.items() if make in WAFERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("study", nargs="?", default="better_than_classical", choices=sorted(STUDIES), help="which one")
    parser.add_argument("--data", metavar="NAMES", help="only these data sets, and nothing is published (a trial)")
    parser.add_argument("--out", metavar="DIR", help="where runs go (runs/STUDY)")
    parser.add_argument("--arms", metavar="ARMS", help="only these, and nothing is published (a trial)")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="worker processes (2)")
    parser.add_argument("--dry-run", action="store_true", help="print the number of runs, and do nothing")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    name, study = arguments.study, STUDIES[arguments.study]
    sets = tuple(arguments.data.split(",")) if arguments.data else tuple(study.data)
    unknown = [one for one in sets if one not in study.data]
    if unknown:
        raise InputError(f"there is no data set {unknown[0]} in {name}: known are {', '.join(study.data)}")
    chosen = tuple(arguments.arms.split(",")) if arguments.arms else None
    if arguments.dry_run:
        experiment = _experiment(name, None, chosen)
        n = len(experiment.arms)
        print(f"{len(sets)} data sets, {n} arms: {len(sets) * n * (BUDGET * len(SEEDS) + len(experiment.seeds))} runs")
        return 0
    real = [one for one in sets if one in study.real()]
    if real and not has_data():
        raise InputError(f"{DATA} must hold mixedwm38.npz and wm811k.npz for the data set {real[0]}")
    out = Path(arguments.out or HERE.parent / "runs" / name)
    page = Page({one: compare(name, one, chosen, out, arguments.jobs) for one in sets})
    print(table(page))
    if chosen is None and sets == tuple(study.data):
        save_record(RESULTS / f"{name}.json", page)
        write_table(HERE.parent / "docs" / "models.md", name, table(page))
    return 0


def compare(name: str, one: str, chosen: Sequence[str] | None, out: Path, jobs: int) -> Result:
    """Search the options of every arm on a quarter of the data set `one`, and run the experiment on the others."""
    study = STUDIES[name]
    file = out / "features" / f"{one}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        study.data[one](file.parent).save(file)
    whole = _experiment(name, file, chosen)
    space = spread({option: Dimension(low, high, log=True) for option, (low, high) in study.space.items()}, whole)
    found = search(
        whole, space, out / one / "search", budget=BUDGET, seeds=SEEDS, base=CAPS, jobs=jobs, features=out / one
    )
    winners = found.winners()
    rest = _experiment(name, set_apart(file)[1], chosen)
    arms = {arm: with_options(config, winners[arm]) for arm, config in rest.arms.items()}
    rest = replace(rest, arms=arms, searched=found.searched())
    summary = run_experiment(rest, out / one / "sweep", jobs=jobs).summary
    return result_of(summary, load_record(SweepTimings, out / one / "sweep" / "timings.json"), found)


def _experiment(name: str, source: Path | None, chosen: Sequence[str] | None) -> Experiment:
    """Return the experiment on a file of features, with only the `chosen` arms beside the baseline."""
    options = [] if source is None else [f"data.source={source}"]
    experiment = load_experiment(HERE / f"{name}.toml", options)
    arms = experiment.arms if chosen is None else dict.fromkeys((experiment.baseline, *chosen))
    return replace(experiment, arms={arm: experiment.arms[arm] for arm in arms})


def spatial(source: str, folder: Path) -> FeatureSet:
    """Return the spatial features of a file of real wafer maps."""
    data = DataConfig(source=str(DATA / f"{source}.npz"))
    return FeatureSet.load(provide_features({source: data}, folder)[source].path)


def rings(folder: Path) -> FeatureSet:
    """Return N wafers of WM-811K, half of them with a defect, by the four features of `WAFER`."""
    balanced = with_prior(spatial("wm811k", folder), 0.5)
    columns = [list(balanced.feature_names or ()).index(name) for name in WAFER]
    rows = np.sort(np.random.default_rng(0).choice(len(balanced), N, replace=False))
    taken = balanced.take(rows)
    return replace(taken, features=taken.features[:, columns], feature_names=WAFER)


def eight_classes(folder: Path) -> FeatureSet:
    """Return the wafers of WM-811K that have a defect, as eight exclusive classes."""
    whole = spatial("wm811k", folder)
    kinds = [k for k, label in enumerate(whole.label_names) if label.casefold() not in NO_DEFECT_NAMES]
    taken = whole.take(np.flatnonzero(whole.labels[:, kinds].any(axis=1)))
    names = tuple(whole.label_names[k] for k in kinds)
    return replace(taken, labels=np.ascontiguousarray(taken.labels[:, kinds]), label_names=names)


def mixed_wm38(folder: Path) -> FeatureSet:
    """Return MixedWM38 with its eight labels."""
    return spatial("mixedwm38", folder)


def generated(name: str) -> Callable[[Path], FeatureSet]:
    """Return what makes N examples of a generator of `qwafer.data.generated`."""
    return lambda folder: generated_features(name, N)


WAFERS = (rings, eight_classes, mixed_wm38)
STUDIES = {
    "better_than_classical": Study(
        {"rings": rings, **{name: generated(name) for name in ("linearly_separable", "hidden_manifold", "two_curves")}},
        SPACE,
    ),
    "rivals": Study(
        {"eight_classes": eight_classes, "mixed_wm38": mixed_wm38},
        {**SPACE, "head.init_scale": (0.05, 2.0)},
    ),
}


def table(page: Page) -> str:
    """Return the page's table: the metric by arm and data set; bold is better than the network, italic worse."""
    names = list(page.results)
    lines = [f"| model | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for arm in next(iter(page.results.values())).arms:
        cells = []
        for result in page.results.values():
            verdicts = {difference.arm: difference.verdict for difference in result.differences}
            text = format_spread(result.arms[arm].mean, result.arms[arm].sd)
            cells.append({"better": f"**{text}**", "worse": f"*{text}*"}.get(verdicts.get(arm, ""), text))
        lines.append(f"| `{arm}`{' (classical)' if arm in CLASSICAL else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
