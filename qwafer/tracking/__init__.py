"""Trackers: runs, trials and reports, told to TensorBoard, MLflow or Weights & Biases by the driver alone."""

from pathlib import Path

from qwafer._registry import Registry, foreign
from qwafer.tracking.tracker import TrackedRun as TrackedRun
from qwafer.tracking.tracker import Tracker as Tracker
from qwafer.tracking.tracking import Tracking as Tracking

TRACKERS: Registry = Registry(
    "tracker",
    {
        "tensorboard": "qwafer.tracking.tensorboard:TensorBoard",
        "mlflow": "qwafer.tracking.mlflow:Mlflow",
        "wandb": "qwafer.tracking.wandb:Wandb",
    },
)
"""Trackers by name; what a name stands for is called as `Class(folder)`, which writes nothing yet."""


def make_tracking(name: str, folder: str | Path) -> Tracking:
    """Return what tells the tracker called `name`, `package.module:Class` of anybody's own included, what is done in
    the output directory `folder`.

    Raises InputError for a name that stands for none, CapabilityError where its package is not installed.
    """
    make = TRACKERS.get(name)
    with foreign("tracker", name):
        return Tracking(make(Path(folder)), name, Path(folder))
