"""Whether a planted shift of real maps is found, and how often weeks in which nothing has moved are alarms.

    python benchmarks/drift_replay.py MAPS.npz [--weeks 200]

A linear head on spatial features is trained and assessed; weeks of 100, 500 and 2,000 wafers are drawn from its test
split: as it is, with one class three times as frequent, with noise (5% of the dies the other way), turned by a quarter.
Counted are weeks in which `monitor` tells of drift (Holm's p at most 0.01), and those in which PSI alone exceeds 0.1.
Writes results/drift_replay.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import qwafer
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.heads import LinearOptions
from qwafer.objective import Softmax
from qwafer.onnx.calibration import rows_of, split_of_run
from qwafer.serving import Release, assess
from qwafer.serving.answering import Answering
from qwafer.serving.drift import LEVEL, monitor
from qwafer.serving.store import Window

MOST = 12_000
SIZES = (100, 500, 2000)


def window_of(answers, rows):
    """Return the answers at rows as a window of answers of version 1.0.0."""
    n = len(rows)
    texts = np.array(answers["predictions"])[rows]
    scores = (answers["confidence"][rows], answers["distance"][rows], answers["review"][rows])
    none, unknown = np.full(n, None), np.full(n, np.nan)
    made = (np.zeros(n), np.full(n, ""), np.full(n, "1.0.0"), texts, *scores, np.zeros(n, bool), np.ones(n))
    return Window(*made, none, unknown, np.arange(n), np.full(n, ""))


def answered(answering, maps):
    """Return what is answered for all maps, column by column."""
    parts = [answering(maps[i : i + 512]) for i in range(0, len(maps), 512)]
    columns = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("confidence", "distance", "review")}
    return {**columns, "predictions": [text for part in parts for text in part.predictions]}


def main():
    """Run the replay, print its table and write its numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("maps")
    parser.add_argument("--weeks", type=int, default=200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    maps = qwafer.read_maps(arguments.maps)
    maps = maps.take(np.sort(rng.choice(len(maps), min(MOST, len(maps)), replace=False)))
    features = qwafer.features_from_maps(maps, "spatial")
    training = TrainingConfig(epochs=20, max_doublings=0)
    config = RunConfig(head=LinearOptions(), objective=Softmax(), data=DataConfig(task="multilabel"), training=training)
    model = qwafer.Model.from_run(qwafer.train(config, features, seed=0), features.provenance)
    review, evidence = assess(model, maps)
    answering = Answering(Release(model, review, evidence))
    rows = rows_of(split_of_run(model, maps), "test")
    test = [np.asarray(maps.maps[row]) for row in rows]
    noisy = [np.where((w > 0) & (rng.random(w.shape) < 0.05), 3 - w, w).astype(np.uint8) for w in test]
    even = np.full(len(test), 1.0)
    rare = np.argsort(maps.labels[rows].sum(axis=0))[len(maps.label_names) // 2]
    kinds = {
        "nothing": (test, even),
        f"three times as many {maps.label_names[rare]}": (test, even + 2 * maps.labels[rows][:, rare]),
        "5% of the dies the other way": (noisy, even),
        "turned by a quarter": ([np.ascontiguousarray(np.rot90(w)) for w in test], even),
    }
    found = {"maps": maps.source, "accuracy": evidence.accuracy, "n_val": evidence.reference.n, "rows": []}
    print("| moved | wafers a week | weeks with a drift alarm | weeks with PSI above 0.1 |\n|---|--:|--:|--:|")
    for name, (wafers, weights) in kinds.items():
        answers = answered(answering, wafers)
        for n in SIZES:
            alarms = above = 0
            for week in range(arguments.weeks):
                drawn = window_of(answers, rng.choice(len(test), n, p=weights / weights.sum()))
                tests = monitor(drawn, evidence, "1.0.0", since=0.0, until=1.0, seed=week).tests
                alarms += any(each.p_holm <= LEVEL for each in tests)
                above += tests[0].value > 0.1
            found["rows"].append([name, n, alarms / arguments.weeks, above / arguments.weeks])
            print(f"| {name} | {n:,} | {alarms / arguments.weeks:.1%} | {above / arguments.weeks:.1%} |", flush=True)
    out = Path(__file__).resolve().parent / "results" / "drift_replay.json"
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
