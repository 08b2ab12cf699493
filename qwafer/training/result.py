"""`RunResult`: everything about one run that a report or a comparison reads."""

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._errors import InputError
from qwafer._io import atomic_path, digest
from qwafer._records import IN_MEMORY, load_record, save_record, to_json
from qwafer.evaluation import Evaluation
from qwafer.training._environment import Environment
from qwafer.training.predictor import Predictor
from qwafer.training.resources import PeakMemory

CURVES = {
    "epoch": "Epoch",
    "step": "Step",
    "train_loss": "Training loss",
    "val_loss": "Validation loss",
    "val_roc_auc": "Validation ROC-AUC",
    "val_separation": "Validation separation",
    "val_roc_auc_per_label": "Validation ROC-AUC per label",
    "learning_rate": "Learning rate",
    "alpha": "Alpha",
}
"""The curves of a run, and how an axis calls them. Training loss is the mean over the batches since the last
evaluation, ROC-AUC and separation are macro averages, alpha is one value per label."""
GROUP_CURVES = {"grad_norm": "Gradient norm", "param_norm": "Parameter norm", "distance": "Distance moved"}
"""The curves `KIND.GROUP` of every group of parameters (the bias of a readout being the group `bias`): the gradient
norm before clipping, mean over the batches since the last evaluation; the norm; the distance from the initial
values."""


@dataclass(frozen=True)
class InitialScores:
    """Scores on validation before the first step."""

    loss: float
    roc_auc: float
    """Macro average; NaN where it is undefined."""
    separation: float
    """Macro average in logit units; NaN where it is undefined."""


@dataclass(frozen=True)
class Digests:
    """Digests of what a run was made from: two runs of equal digests saw the same."""

    data: str
    """Features and labels of the task."""
    split: str
    """Rows of training, validation and test."""
    batches: str = ""
    """Order of the training examples; empty where nothing is trained in batches."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Initial value of each parameter, by `NAME[SHAPE]`."""


@dataclass(frozen=True)
class ParameterCount:
    """Numbers in a head; None where a contender does not say."""

    trainable: int | None
    """Numbers that training may change."""
    frozen: int
    """Statistics and frozen arrays."""
    total: int | None
    """Both."""
    effective: int | None = None
    """Trainable numbers that the output depends on: without the last RZ of every readout and other inert angles. None
    where it is not known: above 12 wires, for a head of one's own, and in results of older versions."""


@dataclass(frozen=True)
class Timings:
    """Wall seconds of a run."""

    compile: float = 0.0
    """Making and compiling programs before the clock starts."""
    training: float = 0.0
    evaluation: float = 0.0
    total: float = 0.0
    steps: int = 0
    """Optimiser steps."""
    steps_per_second: float = 0.0
    """Steps per second of `training`; 0 without a step."""


@dataclass(frozen=True, eq=False, repr=False)
class RunResult:
    """One run: plain data with one JSON form, and in memory the trained head and the logits behind the metrics.

    What is not trained in epochs has no curves, no epochs and no initial scores.
    """

    SCHEMA: ClassVar[str] = "qwafer/run/2"

    config: dict[str, Any]
    """The JSON form of the whole configuration, section by section."""
    seed: int
    """The run's seed."""
    label_names: tuple[str, ...]
    """The labels of the task, in the order of every list with one value per label."""
    val: Evaluation
    """Metrics of the best checkpoint on validation, thresholds tuned there."""
    test: Evaluation
    """The same on test, with the thresholds of validation."""
    initial: InitialScores | None
    """Where training started from."""
    best_epoch: int
    """Epoch of the checkpoint that was evaluated, the best on validation by `training.val_objective`; 0: before any
    step."""
    epochs_run: int
    """Epochs trained."""
    curves: dict[str, list[Any]]
    """One entry per evaluation of each of `CURVES` and `GROUP_CURVES` that the head has."""
    digests: Digests
    n_parameters: ParameterCount
    degenerate: bool
    """Whether thresholded metrics of some label cannot be trusted, or training diverged; `notes` and the evaluations
    say why."""
    notes: tuple[str, ...]
    """What a reader should know, one sentence each."""
    timings: Timings
    engine: dict[str, Any]
    """What executed the circuit (`Program.info` of the training program); empty where no circuit runs."""
    compile_cache: dict[str, Any]
    """Statistics of the engines' compile cache at the end of the run; empty where the engine has none."""
    environment: Environment
    memory: PeakMemory = field(default_factory=PeakMemory)
    """The most memory that its process had in use; unknown where it did not have a process of its own."""
    predictor: Predictor | None = field(default=None, metadata=IN_MEMORY)
    """The trained head, ready to use."""
    outputs: dict[str, np.ndarray] = field(default_factory=dict, metadata=IN_MEMORY)
    """`val_logits`, `val_labels`, `val_rows`, and the same of `test`."""

    @property
    def exclusive(self) -> bool:
        """Whether one of the classes is decided, by the largest logit."""
        return self.test.exclusive

    @property
    def logits(self) -> dict[str, np.ndarray]:
        """`val` and `test`: (N, n_labels); empty where the outputs are not there."""
        return self._outputs("logits")

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """`val` and `test`: (N, n_labels) of 0 and 1."""
        return self._outputs("labels")

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """`val` and `test`: rows of the run's data."""
        return self._outputs("rows")

    def _outputs(self, kind: str) -> dict[str, np.ndarray]:
        return {name.partition("_")[0]: array for name, array in self.outputs.items() if name.endswith(f"_{kind}")}

    def __repr__(self) -> str:
        score = self.test.macro.get("roc_auc", np.nan)
        return f"RunResult(seed={self.seed}, epochs_run={self.epochs_run}, test.roc_auc={score:.4f})"

    def curve(self, name: str) -> np.ndarray:
        """Return the curve `name` as float64, (T,) or (T, n_labels); NaN where undefined, empty where there is none."""
        return np.asarray(self.curves.get(name, ()), np.float64)

    def groups(self, kind: str) -> list[str]:
        """Return the groups of parameters that have a curve of `kind`, one of `GROUP_CURVES`."""
        return [group for of, dot, group in (name.partition(".") for name in self.curves) if dot and of == kind]

    def fingerprint(self) -> str:
        """Return the digest of what was measured, metrics and losses over the epochs; nothing of options or speed."""
        measured = {name: self.curves[name] for name in sorted(self.curves) if name.startswith(("train_", "val_"))}
        initial = None if self.initial is None else to_json(self.initial)
        return digest(to_json(self.val), to_json(self.test), initial, measured)

    def save(self, path: str | Path, *, outputs: bool = False) -> None:
        """Write the JSON to `path`, atomically; with `outputs`, first the logits and labels beside it as `.npz`."""
        path = Path(path)
        if outputs:
            with atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **self.outputs)
        save_record(path, self)

    @classmethod
    def load(cls, path: str | Path) -> "RunResult":
        """Return the result saved at `path`, with `outputs` if their file lies beside it.

        Raises InputError for a file that holds something else, or a result of another version, and for damaged
        outputs.
        """
        path = Path(path)
        try:
            result = load_record(cls, path)
        except InputError as error:
            raise InputError(f"the run result {error}; run it again") from error
        beside = path.with_suffix(".npz")
        if not beside.is_file():
            return result
        try:
            with beside.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dataclasses.replace(result, outputs=dict(arrays))
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{beside} is damaged ({error}): run it again") from error


Runs = Mapping[str, Mapping[int, RunResult]]
"""Results by arm (or head) and seed."""
