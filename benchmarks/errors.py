"""What heads on spatial features get wrong on real maps, and whether labels that are known to be wrong are flagged.

    python benchmarks/errors.py wm811k.npz mixedwm38.npz [--out benchmarks/results/errors.json]

Trains `linear` and `mlp` with seed 0 and looks at validation. Then 3% of the validation labels are replaced, of
exclusive classes by another class, of several labels by flipping one of them, five times anew; the labels of the file
count as right, although some are not, so that precision is a lower bound. Needs
qwafer[labels]; two minutes on one core.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import qwafer
from qwafer._io import write_json
from qwafer._process import configure_jax
from qwafer.evaluation import likely_label_errors
from qwafer.reports.errors import ErrorReport
from qwafer.studies import study_errors

HEADS = """
title = "Heads on spatial features"
[data]
task = "multilabel"
backbone = "spatial"
[training]
epochs = 15
max_doublings = 1
batch_size = 128
learning_rate = 3e-3
schedule = "cosine"
[arms.linear]
head.name = "linear"
[arms.mlp]
head.name = "mlp"
training.learning_rate = 1e-3
"""
SHARE, DRAWS = 0.03, 5


def planted(labels: np.ndarray, seed: int, *, exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N, K) of which a share of the rows is wrong, and which rows (N,) these are."""
    rng = np.random.default_rng(seed)
    n, k = labels.shape
    wrong = rng.permutation(n) < round(SHARE * n)
    given = labels.astype(bool)
    if exclusive:
        shifted = (labels.argmax(axis=1) + rng.integers(1, k, n)) % k
        given[wrong] = np.eye(k, dtype=bool)[shifted[wrong]]
    else:
        given[wrong, rng.integers(0, k, n)[wrong]] ^= True
    return given, wrong


def found_again(result: Any) -> dict[str, float]:
    """Return what becomes of planted errors, means over draws."""
    logits, labels, exclusive = result.logits["val"], result.labels["val"], result.exclusive
    rows = []
    for seed in range(DRAWS):
        given, wrong = planted(labels, seed, exclusive=exclusive)
        found = likely_label_errors(logits, given, label_names=result.label_names, exclusive=exclusive)
        flagged = np.array([suspect.row for suspect in found.suspects], np.int64)
        hits = wrong[flagged]
        rows.append((wrong.sum(), len(flagged), hits.sum() / wrong.sum(), hits.mean(), hits[: wrong.sum()].mean()))
    names = ("planted", "flagged", "recall", "precision", "precision_of_first")
    return {name: float(value) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def numbers(report: ErrorReport) -> dict[str, Any]:
    """Return the findings without the lists of maps."""
    found = report.analysis
    assert report.label_errors is not None
    return {
        "maps": found.errors.n,
        "wrong": found.errors.hits,
        "interval": (found.errors.low, found.errors.high),
        "confident": found.confident.hits,
        "confidence": (found.confidence.right, found.confidence.wrong),
        "confusions": [(pair.true, pair.predicted, pair.n, pair.of) for pair in found.confusions[:10]],
        "neighbours": sum(pair.n for pair in found.neighbours),
        "density": [
            (part.low, part.high, part.errors.hits, part.errors.n, part.errors.low, part.errors.high)
            for part in found.density
        ],
        "flagged": len(report.label_errors.suspects),
        "package": report.label_errors.package,
    }


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the table of docs/networks.md on planted errors."""
    lines = [
        "| data | head | planted | flagged | of the planted ones | planted among the flagged "
        "| among as many of the first as were planted |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for source, heads in results.items():
        for head, own in heads.items():
            said = own["planted"]
            shares = (f"{said[name]:.0%}" for name in ("recall", "precision", "precision_of_first"))
            cells = (source, head, f"{said['planted']:.0f}", f"{said['flagged']:.0f}", *shares)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wm811k", help="WM-811K (nine exclusive classes)")
    parser.add_argument("mixedwm38", help="MixedWM38 (eight labels)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "errors.json"))
    arguments = parser.parse_args()
    configure_jax()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "heads.toml").write_text(HEADS, encoding="utf-8")
        for source, path, loss in (("WM-811K", arguments.wm811k, "softmax"), ("MixedWM38", arguments.mixedwm38, "bce")):
            maps = qwafer.read_maps(path)
            features = qwafer.features_from_maps(maps, "spatial")
            experiment = qwafer.load_experiment(folder / "heads.toml", [f"objective.loss={loss}"])
            for head, config in experiment.arms.items():
                result = qwafer.train(config, features, seed=0)
                result.save(folder / source / head / "seed-0.json")
                report, _ = study_errors(folder / source / head / "seed-0.json", maps, out=folder / "look", worst=1)
                results.setdefault(source, {})[head] = {**numbers(report), "planted": found_again(result)}
                print(source, head, results[source][head], flush=True)
    write_json(arguments.out, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
