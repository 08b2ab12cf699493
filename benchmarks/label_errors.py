"""Whether labels that are known to be wrong are flagged: some of a run's validation labels are replaced by other ones.

    python benchmarks/label_errors.py OUT/runs/ARM/seed-S.json [--share 0.03] [--draws 5]

Of exclusive classes another class is drawn, of several labels one of them is flipped. The labels that the file comes
with count as right, although some are not: precision is a lower bound. Needs qwafer[labels]; seconds.
"""

import argparse
import sys

import numpy as np

from qwafer.evaluation import likely_label_errors
from qwafer.training import RunResult


def planted(labels: np.ndarray, share: float, seed: int, *, exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N, K) of which a share of the rows is wrong, and which rows (N,) these are."""
    rng = np.random.default_rng(seed)
    n, k = labels.shape
    wrong = rng.permutation(n) < round(share * n)
    given = labels.astype(bool)
    if exclusive:
        shifted = (labels.argmax(axis=1) + rng.integers(1, k, n)) % k
        given[wrong] = np.eye(k, dtype=bool)[shifted[wrong]]
    else:
        given[wrong, rng.integers(0, k, n)[wrong]] ^= True
    return given, wrong


def main() -> int:
    """Print, as means over draws, how many labels are flagged, precision, recall, and precision of the first ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN.json")
    parser.add_argument("--share", type=float, default=0.03, help="share of the maps with a planted error (0.03)")
    parser.add_argument("--draws", type=int, default=5, help="draws of these maps (5)")
    arguments = parser.parse_args()
    run = RunResult.load(arguments.run)
    logits, labels = run.logits["val"], run.labels["val"]
    rows = []
    for seed in range(arguments.draws):
        given, wrong = planted(labels, arguments.share, seed, exclusive=run.exclusive)
        found = likely_label_errors(logits, given, label_names=run.label_names, exclusive=run.exclusive)
        flagged = np.array([suspect.row for suspect in found.suspects], np.int64)
        hits, first = wrong[flagged], wrong[flagged[:100]]
        rows.append((wrong.sum(), len(flagged), hits.mean(), hits.sum() / wrong.sum(), first.mean()))
    names = ("planted", "flagged", "precision", "recall", "precision of the first 100")
    for name, value in zip(names, np.mean(rows, axis=0), strict=True):
        print(f"{name:28} {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
