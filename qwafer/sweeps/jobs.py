"""The jobs of a sweep: train a run, check that it could start, time a trained head."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwafer._records import to_json
from qwafer.config import RunConfig
from qwafer.execution import ReportPart
from qwafer.features import FeatureSet
from qwafer.sweeps.directory import predictor_path
from qwafer.training.resources import PeakMemory

TRAIN, CHECK, TIME = (f"{__name__}:{name}" for name in ("train_run", "check_run", "time_run"))
"""The names of the jobs."""


def run_payload(config: RunConfig, features: str | Path, seed: int) -> dict[str, Any]:
    """Return what every job on a run is told: the configuration, the feature file and the seed."""
    return {"config": config.to_dict(), "features": str(features), "seed": seed}


def train_payload(
    config: RunConfig,
    features: str | Path,
    seed: int,
    out: Path,
    *,
    checkpoints: Path | None = None,
    store_all: bool = False,
    measure: bool = False,
) -> dict[str, Any]:
    """Return the payload of `train_run`: the result goes to `out`; see there for the rest."""
    return {
        **run_payload(config, features, seed),
        "out": str(out.resolve()),
        "checkpoints": None if checkpoints is None else str(checkpoints.resolve()),
        "store_all": store_all,
        "measure": measure,
    }


def train_run(payload: Mapping[str, Any], report: ReportPart) -> None:
    """Train one arm with one seed and write its result.

    With `store_all` the predictor is written beside it, and before it: a run is complete when its result is there. With
    `measure` it holds the peak memory of the process, which then should have done nothing else.
    """
    from qwafer.heads import Head
    from qwafer.training import train

    result = train(
        run_config(payload),
        load_features(payload["features"]),
        payload["seed"],
        from_source=True,
        directory=payload["checkpoints"],
        progress=lambda state: report(state.done / state.total),
    )
    out = Path(payload["out"])
    if payload["measure"]:
        result = dataclasses.replace(result, memory=PeakMemory.now())
    if payload["store_all"] and result.predictor is not None and isinstance(result.predictor.head, Head):
        result.predictor.save(predictor_path(out))
    result.save(out)


def check_run(payload: Mapping[str, Any], report: ReportPart) -> None:
    """Raise what a run would raise before its first step: for its data, split, head, circuit and memory."""
    from qwafer.training import make_head, make_program, prepare

    config = run_config(payload)
    prepared = prepare(config, load_features(payload["features"]), payload["seed"])
    if not config.trained_by_loop:
        return
    features, labels = prepared.part("train")
    make_head(config, features, labels.shape[1], payload["seed"])
    make_program(config, labels.shape[1], config.training.batch_size)


def time_run(payload: Mapping[str, Any], report: ReportPart) -> dict[str, Any]:
    """Return the JSON form of the `InferenceTiming` of a trained head, which must be alone in its process.

    `predictor` is its file; a contender, which has none, is fitted again.
    """
    from qwafer.sweeps.inference import time_head
    from qwafer.training import Predictor, prepare, train

    config, data = run_config(payload), load_features(payload["features"])
    stored = Path(payload["predictor"])
    predictor = (
        Predictor.load(stored) if stored.is_file() else train(config, data, payload["seed"], from_source=True).predictor
    )
    assert predictor is not None
    prepared = prepare(config, data, payload["seed"])
    return to_json(time_head(predictor, prepared.part("val")[0], prepared.part("test")[0]))


@lru_cache(maxsize=2)
def load_features(path: str) -> FeatureSet:
    """Return the features of a file, read once per process; their arrays are read-only, so that no run alters them."""
    return FeatureSet.load(path)


def run_config(payload: Mapping[str, Any]) -> RunConfig:
    """Return the configuration in the payload of a job."""
    return RunConfig.from_dict(payload["config"])
