"""Weights & Biases: offline unless WANDB_MODE says otherwise; `wandb sync` sends what lies in the output directory."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwafer._lazy import optional_package
from qwafer.tracking.tracker import Curves, TrackedRun


class Wandb:
    """Runs of one project, named as the experiment; digests are in the configuration of each."""

    def __init__(self, folder: Path):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = optional_package("wandb", "wandb", "--track wandb needs")
        self._folder = folder
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Begin the run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=re.sub(r"[/\\#?%:]", "-", run.group),
            name=run.name,
            config={**run.parameters, **{f"digest.{name}": value for name, value in run.digests.items()}},
            dir=str(self._folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def log(self, curves: Curves, metrics: Mapping[str, float]) -> None:
        """Log curves by epoch, and final metrics in the summary."""
        by_epoch: dict[int, dict[str, float]] = {}
        for name, points in curves.items():
            for epoch, value in points:
                by_epoch.setdefault(epoch, {})[name] = value
        for epoch in sorted(by_epoch):
            self._run.log(by_epoch[epoch], step=epoch)
        self._run.summary.update(dict(metrics))

    def finish(self, artefacts: Sequence[Path]) -> None:
        """Log the files as an artefact, and end the run."""
        if artefacts:
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", str(self._run.name))
            files = self._wandb.Artifact(name, type="qwafer")
            for path in artefacts:
                files.add_file(str(path))
            self._run.log_artifact(files)
        self._run.finish()
