"""MLflow, by its own client: SQLite in the output directory, or the server of MLFLOW_TRACKING_URI."""

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._lazy import optional_package
from qwafer.tracking.tracker import Curves, TrackedRun

METRICS, PARAMETERS = 1000, 100
"""The most that one call of MLflow's takes."""


class Mlflow:
    """Runs of one MLflow experiment, named as that of qwafer; digests are tags."""

    def __init__(self, folder: Path):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow about its own parts
            self._mlflow = optional_package("mlflow", "mlflow", "--track mlflow needs")
            optional_package("sqlalchemy", "mlflow", "--track mlflow needs")
            from mlflow import entities

        self._entities = entities
        self._folder = folder.resolve()
        self._client: Any = None
        self._run = ""

    def start(self, run: TrackedRun) -> None:
        """Create the run, and the store before the first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._create(run)

    def _create(self, run: TrackedRun) -> None:
        if self._client is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            own = f"sqlite:///{self._folder / 'mlflow.db'}"
            self._client = self._mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or own)
        found = self._client.get_experiment_by_name(run.group)
        where = None if "MLFLOW_TRACKING_URI" in os.environ else (self._folder / "mlartifacts").as_uri()
        key = self._client.create_experiment(run.group, where) if found is None else found.experiment_id
        self._run = self._client.create_run(key, run_name=run.name).info.run_id
        given = [self._entities.Param(name, str(value)) for name, value in run.parameters.items()]
        tags = [self._entities.RunTag(f"digest.{name}", value) for name, value in run.digests.items()]
        self._client.log_batch(self._run, tags=tags)
        for begin in range(0, len(given), PARAMETERS):
            self._client.log_batch(self._run, params=given[begin : begin + PARAMETERS])

    def log(self, curves: Curves, metrics: Mapping[str, float]) -> None:
        """Log curves by epoch, and final metrics at step 0."""
        now, metric = int(1000 * time.time()), self._entities.Metric
        values = [metric(_key(name), value, now, epoch) for name, points in curves.items() for epoch, value in points]
        values += [metric(_key(name), value, now, 0) for name, value in metrics.items()]
        for begin in range(0, len(values), METRICS):
            self._client.log_batch(self._run, metrics=values[begin : begin + METRICS])

    def finish(self, artefacts: Sequence[Path]) -> None:
        """Log the files, and end the run."""
        for path in artefacts:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)


def _key(name: str) -> str:
    """Return `name` with what MLflow does not take in the name of a metric as `_CODE_`: names stay different."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else f"_{ord(c):x}_" for c in name)
