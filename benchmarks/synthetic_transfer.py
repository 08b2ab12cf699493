"""What a head that was trained on synthetic maps says of real ones: ROC-AUC per label.

    python benchmarks/synthetic_transfer.py MixedWM38.npz WM-811K.npz [--n 10000] [--seeds 3] [--out DIR]

Spatial features; heads `linear` and `mlp`, trained on synthetic maps and scored on the test split of the same draw and
on every map of each real file. "told apart" is the ROC-AUC of ridge regression between synthetic and real features,
each half of the examples scored by the other. Two minutes on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from qwafer._io import write_json
from qwafer._process import configure_jax
from qwafer.backbones import extractor, features_from_maps
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.data import read_maps
from qwafer.evaluation import roc_auc
from qwafer.features import FeatureSet
from qwafer.heads import HEADS
from qwafer.probes.data.probed import ridge_scores

HEADS_TRAINED = ("linear", "mlp")


def spatial(source: str, **drawn: int) -> FeatureSet:
    """Return the spatial features of a source."""
    return features_from_maps(read_maps(source, **drawn), extractor("spatial"), jobs=1)


def told_apart(first: np.ndarray, second: np.ndarray, n: int = 4000) -> float:
    """Return the ROC-AUC of ridge regression between two sets of features, each half scored by the other."""
    rng = np.random.default_rng(0)
    rows = [features[rng.permutation(len(features))[:n]].astype(np.float64) for features in (first, second)]
    features = np.concatenate(rows)
    labels = np.repeat([0, 1], [len(rows[0]), len(rows[1])])
    order = rng.permutation(len(labels))
    halves = np.array_split(order, 2)
    scores = np.empty(len(labels))
    for own, other in (halves, halves[::-1]):
        scores[own] = ridge_scores(features[other], labels[other, None], features[own])[:, 0]
    return float(roc_auc(scores, labels))


def transfer(real: dict[str, FeatureSet], n: int, seeds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by head, by data and by label, the mean ROC-AUC over seeds; `synthetic` is the test split of the draw."""
    from qwafer.training import train

    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for seed in range(seeds):
        drawn = spatial("synthetic", n=n, seed=seed)
        for name in HEADS_TRAINED:
            config = RunConfig(
                data=DataConfig(task="multilabel"),
                head=HEADS.get(name)(),
                circuit=None,
                engine=None,
                training=TrainingConfig(epochs=60, batch_size=128, learning_rate=1e-3, schedule="cosine"),
            )
            run = train(config, drawn, seed)
            own = np.asarray(roc_auc(run.logits["test"], run.labels["test"]))
            scores = {"synthetic": dict(zip(drawn.label_names, own.tolist(), strict=True))}
            for file, features in real.items():
                logits = run.predictor.logits(features.features)
                shared = [label for label in drawn.label_names if label in features.label_names]
                scores[file] = {
                    label: float(
                        roc_auc(
                            logits[:, drawn.label_names.index(label)],
                            features.labels[:, features.label_names.index(label)],
                        )
                    )
                    for label in shared
                }
            for data, by_label in scores.items():
                for label, auc in by_label.items():
                    found.setdefault(name, {}).setdefault(data, {}).setdefault(label, []).append(float(auc))
    return {
        name: {data: {label: float(np.mean(v)) for label, v in labels.items()} for data, labels in by_data.items()}
        for name, by_data in found.items()
    }


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", nargs="+")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    configure_jax()
    real = {Path(path).stem: spatial(path) for path in arguments.real}
    drawn = spatial("synthetic", n=arguments.n, seed=0)
    apart = {name: told_apart(drawn.features, features.features) for name, features in real.items()}
    found = transfer(real, arguments.n, arguments.seeds)
    names = ["synthetic", *real]
    for head, by_data in found.items():
        print(f"\n{head}, {arguments.n} synthetic maps, mean of {arguments.seeds} seeds\n")
        print(f"| label | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
        for label in by_data["synthetic"]:
            cells = [f"{by_data[name][label]:.3f}" if label in by_data[name] else "" for name in names]
            print(f"| {label} | {' | '.join(cells)} |")
    print("\ntold apart:", ", ".join(f"{name} {auc:.3f}" for name, auc in apart.items()))
    if arguments.out is not None:
        write_json(
            arguments.out / "synthetic_transfer.json",
            {"n": arguments.n, "seeds": arguments.seeds, "roc_auc": found, "told_apart": apart},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
