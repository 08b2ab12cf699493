"""Is the doubt of a mixture's router worth anything? Over seeds, on MixedWM38 and on two kinds of foreign maps.

    python experiments/doubt.py --source FEATURES.npz --weights WEIGHTS.safetensors

FEATURES are those of WaferCNN with the WEIGHTS. Foreign are maps of WM-811K, and maps of MixedWM38 with shuffled dies.
Writes results/doubt.json, and the table and the figures of docs/small.md.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from published import RESULTS, load_search
from run_all import DATA, HERE, has_data, write_table

from qwafer._errors import InputError
from qwafer._process import configure_jax, run_verb
from qwafer._records import save_record
from qwafer.backbones import features_from_maps
from qwafer.data import WaferMaps, read_maps
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet
from qwafer.overrides import with_options
from qwafer.reports.format import format_spread
from qwafer.studies import RouterDoubt, router_doubt, write_router_doubt
from qwafer.training import train

ARM = "mixture_1"
"""Of `small_mixture.toml`, with its searched learning rate and a router that drops its inputs."""
DROPOUT = 0.1
SEEDS = range(5)
N_FOREIGN = 2000


@dataclass(frozen=True)
class DoubtResult:
    """`results/doubt.json`: by measure, one value per seed."""

    SCHEMA: ClassVar[str] = "qwafer/doubt-result/1"

    seeds: tuple[int, ...]
    n_samples: int
    n_test: int
    error_rate: tuple[float, ...]
    area: dict[str, tuple[float, ...]]
    """Under risk against coverage."""
    surely_above_confidence: dict[str, int]
    """Seeds whose interval over examples shows more than the confidence of the prediction."""
    surely_below_confidence: dict[str, int]
    auc_errors: dict[str, tuple[float, ...]]
    auc_foreign: dict[str, dict[str, tuple[float, ...]]]
    """By kind of foreign maps, then by measure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--source", required=True, metavar="F.npz", help="features of WaferCNN on MixedWM38")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its weights")
    parser.add_argument("--out", default=str(HERE.parent / "runs" / "doubt"), metavar="DIR", help="records, by seed")
    arguments = parser.parse_args(argv)
    configure_jax()
    return run_verb(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if not has_data():
        raise InputError(f"{DATA} must hold mixedwm38.npz and wm811k.npz")
    data, found = FeatureSet.load(arguments.source), {}
    foreign = {
        name: features_from_maps(maps, "wafercnn", weights=arguments.weights) for name, maps in foreign_maps().items()
    }
    path = HERE / "small_mixture.toml"
    search = load_search(path)
    if search is None:
        raise InputError("the search of small_mixture is missing: run experiments/search.py small_mixture first")
    config = with_options(load_experiment(path, [f"data.source={arguments.source}"]).arms[ARM], search.winner(ARM))
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, router_dropout=DROPOUT))
    for seed in SEEDS:
        predictor = train(config, data, seed, from_source=True).predictor
        assert predictor is not None
        found[seed] = {name: router_doubt(predictor, data, seed=seed, foreign=maps) for name, maps in foreign.items()}
        for name, doubt in found[seed].items():
            write_router_doubt(doubt, _folder(arguments.out, seed, name))
    result = result_of(found)
    save_record(RESULTS / "doubt.json", result)
    write_table(HERE.parent / "docs" / "small.md", "doubt", table(result))
    for figure in ("histogram", "risk_coverage"):
        image = (_folder(arguments.out, SEEDS[0], "WM-811K") / f"{figure}.png").read_bytes()
        (HERE.parent / "docs" / "images" / f"doubt_{figure}.png").write_bytes(image)
    print(table(result))
    return 0


def _folder(out: str, seed: int, kind: str) -> Path:
    """Return where the doubt of one seed with one kind of foreign maps goes."""
    return Path(out) / f"seed-{seed}-{kind.replace(' ', '_')}"


def foreign_maps() -> dict[str, WaferMaps]:
    """Return maps of WM-811K, and maps of MixedWM38 with the dies of each map shuffled over its wafer."""
    rng = np.random.default_rng(0)
    other, own = read_maps(DATA / "wm811k.npz"), read_maps(DATA / "mixedwm38.npz")
    shuffled = []
    for k in rng.choice(len(own.maps), N_FOREIGN, replace=False):
        dies = np.array(own.maps[k])
        dies[dies > 0] = rng.permutation(dies[dies > 0])
        shuffled.append(dies)
    rows = np.sort(rng.choice(len(other.maps), N_FOREIGN, replace=False))
    return {
        "WM-811K": WaferMaps.from_arrays([other.maps[k] for k in rows]),
        "shuffled dies": WaferMaps.from_arrays(shuffled),
    }


def result_of(found: dict[int, dict[str, RouterDoubt]]) -> DoubtResult:
    """Return the result of the doubts by seed and kind of foreign maps."""
    first = [next(iter(by_kind.values())) for by_kind in found.values()]
    measures = tuple(first[0].worth)

    def each(what: str, doubts: Sequence[RouterDoubt]) -> dict[str, tuple[float, ...]]:
        return {m: tuple(round(getattr(doubt.worth[m], what), 6) for doubt in doubts) for m in measures}

    intervals = {m: [doubt.worth[m].over_confidence for doubt in first] for m in measures}
    return DoubtResult(
        seeds=tuple(found),
        n_samples=first[0].n_samples,
        n_test=len(first[0].examples),
        error_rate=tuple(round(doubt.error_rate, 6) for doubt in first),
        area=each("area", first),
        surely_above_confidence={m: sum(low > 0 for low, _ in intervals[m]) for m in measures},
        surely_below_confidence={m: sum(high < 0 for _, high in intervals[m]) for m in measures},
        auc_errors=each("auc_errors", first),
        auc_foreign={
            kind: each("auc_foreign", [by_kind[kind] for by_kind in found.values()])
            for kind in next(iter(found.values()))
        },
    )


def table(result: DoubtResult) -> str:
    """Return the table of docs/small.md."""
    kinds = list(result.auc_foreign)
    rows = [
        "| doubt | area under risk and coverage | more / less than confidence (seeds) | ROC-AUC for errors | "
        + " | ".join(f"for {kind}" for kind in kinds)
        + " |",
        f"|---|--:|--:|--:|{'--:|' * len(kinds)}",
    ]
    for measure, areas in result.area.items():
        against = f"{result.surely_above_confidence[measure]} / {result.surely_below_confidence[measure]}"
        cells = [
            measure.replace("_", " "),
            _spread(areas),
            "" if measure == "confidence" else against,
            _spread(result.auc_errors[measure]),
            *(_spread(result.auc_foreign[kind][measure]) for kind in kinds),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        f"Head `{ARM}` with a router that drops a tenth of its inputs, {len(result.seeds)} seeds, {result.n_test:,} "
        f"test maps, {result.n_samples} samples; overall error rate {_spread(result.error_rate)}: the area of a doubt "
        "that says nothing.",
    ]
    return "\n".join(rows)


def _spread(values: Sequence[float]) -> str:
    return format_spread(float(np.mean(values)), float(np.std(values, ddof=1)))


if __name__ == "__main__":
    sys.exit(main())
