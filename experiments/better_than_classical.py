"""Published quantum models against their nulls, on every data set: `better_than_classical.toml`, once for each.

    python experiments/better_than_classical.py             # search and compare, resumably, and write docs/models.md
    python experiments/better_than_classical.py --dry-run   # count the runs

Data sets of 1,200 examples of four features: `rings`, real wafers of WM-811K (defect or none, as many of either) by the
failing rates of the whole, the middle and the edge, and the distance of their centroid; the others are generated
(`qwafer.data.generated`). A quarter of each is set apart for the search, which no experiment tests on.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from published import HERE, RESULTS, Result, result_of
from run_all import DATA, with_prior, write_table
from search import search

from qwafer._errors import InputError
from qwafer._process import run_verb
from qwafer._records import load_record, save_record
from qwafer.comparison import SweepTimings
from qwafer.config import DataConfig
from qwafer.experiment import Experiment, load_experiment
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.reports.format import format_spread
from qwafer.source import generated_features
from qwafer.studies import Dimension, run_experiment, spread
from qwafer.sweeps.apart import set_apart
from qwafer.sweeps.sources import provide_features

NAME = "better_than_classical"
N = 1200
WAFER = ("failing_ratio", "ring_0", "ring_12", "centroid_distance")
DATA_SETS = ("rings", "linearly_separable", "hidden_manifold", "two_curves")
SPACE = {
    "training.learning_rate": (1e-3, 1e-1),
    "head.C": (0.1, 100.0),
    "head.learning_rate": (1e-3, 1e-1),
    "head.variance": (0.1, 10.0),
}
"""What is searched: the rate of what is trained in steps, C of the kernels, the variance of kitchen sinks."""
BUDGET, SEEDS = 3, (1000,)
CAPS = {"training.max_doublings": 1}
CLASSICAL = ("mlp", "linear", "svc", "dressed_nn")


@dataclass(frozen=True)
class Page:
    """`results/better_than_classical.json`."""

    SCHEMA: ClassVar[str] = "qwafer/better_than_classical/1"

    results: dict[str, Result]
    """By data set."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="DATA", help=f"data sets, of {', '.join(DATA_SETS)} (all)")
    parser.add_argument("--out", default=str(HERE.parent / "runs" / NAME), metavar="DIR", help="where runs go")
    parser.add_argument("--arms", metavar="ARMS", help="only these, and nothing is published (a trial)")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="worker processes (2)")
    parser.add_argument("--dry-run", action="store_true", help="print the number of runs, and do nothing")
    arguments = parser.parse_args(argv)
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    names = arguments.names or DATA_SETS
    unknown = [name for name in names if name not in DATA_SETS]
    if unknown:
        raise InputError(f"there is no data set {unknown[0]}: known are {', '.join(DATA_SETS)}")
    if "rings" in names and not arguments.dry_run and not (DATA / "wm811k.npz").is_file():
        raise InputError(f"{DATA} must hold wm811k.npz for the data set rings")
    chosen = tuple(arguments.arms.split(",")) if arguments.arms else None
    if arguments.dry_run:
        experiment = _experiment(None, chosen)
        n = len(experiment.arms)
        print(
            f"{len(names)} data sets, {n} arms: {len(names) * n * (BUDGET * len(SEEDS) + len(experiment.seeds))} runs"
        )
        return 0
    out = Path(arguments.out)
    page = Page(
        {name: compare(features_file(name, out / "features"), chosen, out / name, arguments.jobs) for name in names}
    )
    print(table(page))
    if chosen is None and tuple(names) == DATA_SETS:
        save_record(RESULTS / f"{NAME}.json", page)
        write_table(HERE.parent / "docs" / "models.md", NAME, table(page))
    return 0


def compare(file: Path, chosen: Sequence[str] | None, out: Path, jobs: int) -> Result:
    """Search the options of every arm on a quarter of the features of `file`, and run the experiment on the others."""
    whole = _experiment(file, chosen)
    space = spread({option: Dimension(low, high, log=True) for option, (low, high) in SPACE.items()}, whole)
    found = search(whole, space, out / "search", budget=BUDGET, seeds=SEEDS, base=CAPS, jobs=jobs, features=out)
    winners, rest = found.winners(), _experiment(set_apart(file)[1], chosen)
    arms = {arm: with_options(config, winners[arm]) for arm, config in rest.arms.items()}
    rest = replace(rest, arms=arms, searched=found.searched())
    summary = run_experiment(rest, out / "sweep", jobs=jobs).summary
    return result_of(summary, load_record(SweepTimings, out / "sweep" / "timings.json"), found)


def _experiment(source: Path | None, chosen: Sequence[str] | None) -> Experiment:
    """Return the experiment on a file of features, with only the `chosen` arms beside the baseline."""
    experiment = load_experiment(HERE / f"{NAME}.toml", [] if source is None else [f"data.source={source}"])
    arms = experiment.arms if chosen is None else dict.fromkeys((experiment.baseline, *chosen))
    return replace(experiment, arms={arm: experiment.arms[arm] for arm in arms})


def features_file(name: str, folder: Path) -> Path:
    """Return the features of a data set, made where they are not there."""
    file = folder / f"{name}.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = rings(folder) if name == "rings" else generated_features(name, N)
        made.save(file)
    return file


def rings(folder: Path) -> FeatureSet:
    """Return N wafers of WM-811K, half of them with a defect, by the four features of `WAFER`."""
    data = DataConfig(source=str(DATA / "wm811k.npz"))
    whole = FeatureSet.load(provide_features({"rings": data}, folder)["rings"].path)
    balanced = with_prior(whole, 0.5)
    columns = [list(balanced.feature_names or ()).index(name) for name in WAFER]
    rows = np.sort(np.random.default_rng(0).choice(len(balanced), N, replace=False))
    taken = balanced.take(rows)
    return replace(taken, features=taken.features[:, columns], feature_names=WAFER)


def table(page: Page) -> str:
    """Return the page's table: ROC-AUC by arm and data set; bold is better than the network, italic worse."""
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
