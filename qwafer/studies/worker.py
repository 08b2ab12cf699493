"""The worker process of a benchmark: trains a run and stores all that a report reads, and times a trained head."""

import sys
import time
from pathlib import Path
from typing import Any

from qwafer._records import save_record
from qwafer.comparison.resources import PeakMemory
from qwafer.sweeps.directory import predictor_path, resources_path
from qwafer.sweeps.worker import Report, check, load_features, run_config, serve


def main() -> int:
    """Serve the tasks of a benchmark."""
    return serve({"run": run, "check": check, "time": measure, "time_tree": measure_tree})


def run(message: dict[str, Any], report: Report) -> None:
    """Train one head with one seed; write its logits, its predictor and its memory, and its result last.

    A run is complete when its result is there, so everything else is then there too.
    """
    from qwafer.training import train

    start = time.perf_counter()
    features = load_features(message["features"])
    result = train(
        run_config(message["config"]),
        features,
        message["seed"],
        directory=None if message["directory"] is None else Path(message["directory"]),
        progress=lambda entry: report("progress", fraction=entry["epoch"] / entry["epochs"]),
    )
    out = Path(message["out"])
    assert result.predictor is not None
    result.predictor.save(predictor_path(out))
    save_record(resources_path(out), PeakMemory.now())
    result.save(out, outputs=True)
    report("done", seconds=time.perf_counter() - start)


def measure(message: dict[str, Any], report: Report) -> None:
    """Time the trained head of one run, alone in this process, and write the record."""
    from qwafer.comparison.inference import time_head
    from qwafer.training import Predictor, prepare

    predictor = Predictor.load(message["predictor"])
    prepared = prepare(predictor.config, load_features(message["features"]), message["seed"])
    save_record(message["out"], time_head(predictor, prepared.part("val")[0], prepared.part("test")[0]))
    report("done", seconds=0.0)


def measure_tree(message: dict[str, Any], report: Report) -> None:
    """Fit and time the decision tree, alone in this process, and write the record."""
    from qwafer.comparison.tree import timed_tree

    timing = timed_tree(run_config(message["config"]), load_features(message["features"]), message["seed"])
    save_record(message["out"], timing)
    report("done", seconds=0.0)


if __name__ == "__main__":
    sys.exit(main())
