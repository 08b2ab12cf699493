"""`RunResult`: everything about one run that a report or a comparison reads."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from qwafer._errors import InputError, RecordError
from qwafer._io import atomic_path, digest, write_json
from qwafer._notebook import as_html
from qwafer._reading import reads
from qwafer._records import IN_MEMORY, from_json, read_json, to_json
from qwafer.data.files import read_npz
from qwafer.evaluation import Evaluation, evaluate
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
    """Content ids and weights of the training examples, batch by batch, over the first stage (`training.epochs`): those
    that were handed to the steps, and the plan where it was stopped before; empty where nothing is trained in batches.
    """
    source: str = ""
    """The features as they were given, before `data.limit` and the task: one file, one digest."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Initial value of each parameter, by `NAME[SHAPE]`."""
    teacher: str = ""
    """What a teacher gives of all examples, or the examples of another task; empty where there are none."""


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
    bits: int | None = None
    """Bits of everything that the head stores for prediction, statistics and scales included (`size_of`); None for a
    contender that does not say, and in results of older versions."""


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
    lanes: int = 1
    """Runs that trained side by side in one program, which share its seconds (`train_lanes`); 1: alone."""


@dataclass(frozen=True, eq=False, repr=False)
class RunResult:
    """One run: plain data with one JSON form, the arrays behind its metrics beside it, in memory the trained head.

    What is not trained in epochs has no curves, no epochs and no initial scores. A saved run carries a digest over all
    that it claims, and its metrics are computed again from its logits when it is read. This guards against accidents
    (an edited number, a file copied over another), not against fraud: who wants to can write a digest that fits.
    """

    SCHEMA: ClassVar[str] = "qwafer/run/3"

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
    converged: bool | None
    """Whether training went on until a doubling did not pay (`has_converged`), or early stopping ended it and the
    validation loss had arrived, too; None where nothing is trained in epochs."""
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
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the features come from, as `FeatureSet.provenance` says, after `data.limit`."""
    n_examples: dict[str, int] = field(default_factory=dict)
    """Rows of `train`, `val` and `test`."""
    n_groups: dict[str, int] = field(default_factory=dict)
    """Lots in each part, where `data.split_by` is `group`; else empty."""
    digest: str = ""
    """Over the JSON form and the arrays, written by `save` and checked by `load`; empty in memory before."""
    outputs: dict[str, np.ndarray] = field(default_factory=dict, metadata=IN_MEMORY)
    """The arrays `val_logits` (N, n_labels), `val_labels` (N, n_labels) uint8, `val_rows` (N,), `val_ids` (N,) uint64
    and, where lots are known, `val_groups` (N,) int64; and the same of `test`."""

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
        """`val` and `test`: (N,) rows of the run's data."""
        return self._outputs("rows")

    @property
    def ids(self) -> dict[str, np.ndarray]:
        """`val` and `test`: (N,) uint64 hashes of the examples' content ids, equal for identical maps in any run."""
        return self._outputs("ids")

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """`val` and `test`: (N,) int64 hashes of the examples' lots; empty where the data know none."""
        return self._outputs("groups")

    def _outputs(self, kind: str) -> dict[str, np.ndarray]:
        return {name.partition("_")[0]: array for name, array in self.outputs.items() if name.endswith(f"_{kind}")}

    def same_outputs(self, other: "RunResult") -> bool:
        """Return whether both hold the same arrays, bit for bit."""
        return self.outputs.keys() == other.outputs.keys() and all(
            np.array_equal(array, other.outputs[name], equal_nan=array.dtype.kind == "f")
            for name, array in self.outputs.items()
        )

    def __repr__(self) -> str:
        name = self.config.get("head", {}).get("name", "unknown head")
        shown = ("roc_auc", "f1" if self.exclusive else "f1_tuned")
        scores = ", ".join(f"test.{metric}={self.test.macro.get(metric, np.nan):.4f}" for metric in shown)
        return f"RunResult({name}, seed={self.seed}, epochs_run={self.epochs_run}, {scores})"

    def to_pandas(self) -> Any:
        """Return the metrics as a `pandas.DataFrame`: a row for each label and the average over labels, of validation
        and of test, a column for each metric; NaN where one is not defined.
        """
        import pandas

        rows = {}
        for part, found in (("val", self.val), ("test", self.test)):
            for place, label in enumerate(found.label_names):
                rows[part, label] = {metric: values[place] for metric, values in found.per_class.items()}
            rows[part, "average"] = found.macro
        table = pandas.DataFrame.from_dict(rows, orient="index")
        return table.rename_axis(index=["part", "label"])

    def _repr_html_(self) -> str:
        """Return what a notebook shows: notes and what spoils the run first, then the metrics of the test split."""
        spoilt = []
        if self.degenerate:
            reasons = (
                f"{label}: {reason}"
                for label, reason in zip(self.test.label_names, self.test.reasons, strict=True)
                if reason
            )
            spoilt.append(f"degenerate: metrics at thresholds cannot be trusted. {'; '.join(reasons)}")
        if self.converged is False:
            spoilt.append("training had not converged")
        return as_html(repr(self), [*spoilt, *self.notes], self.to_pandas().loc["test"])

    def curve(self, name: str) -> np.ndarray:
        """Return the curve `name` as float64, (T,) or (T, n_labels); NaN where undefined, empty where there is none."""
        return np.asarray(self.curves.get(name, ()), np.float64)

    def parameter_groups(self, kind: str) -> list[str]:
        """Return the groups of parameters that have a curve of `kind`, one of `GROUP_CURVES`."""
        return [group for of, dot, group in (name.partition(".") for name in self.curves) if dot and of == kind]

    def fingerprint(self) -> str:
        """Return the digest of what was measured, metrics and losses over the epochs; nothing of options or speed."""
        measured = {name: self.curves[name] for name in sorted(self.curves) if name.startswith(("train_", "val_"))}
        initial = None if self.initial is None else to_json(self.initial)
        return digest(to_json(self.val), to_json(self.test), initial, measured)

    def save(self, path: str | Path) -> None:
        """Write the arrays beside `path` as `.npz`, then the JSON with its digest to `path`, each atomically.

        Raises InputError for a result without its arrays: its metrics could not be computed again.
        """
        path = Path(path)
        if not self.outputs:
            raise InputError("a run result without logits and labels cannot be saved: its metrics rest on them")
        with atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **self.outputs)
        form = to_json(self)
        write_json(path, {**form, "digest": _digest(form, self.outputs)})

    @classmethod
    @reads("is damaged: run it again")
    def load(cls, path: str | Path) -> "RunResult":
        """Return the result saved at `path`, with its arrays, after its digest and its metrics were computed again.

        Raises InputError for a file that holds something else, a result of another version, and damaged arrays;
        RecordError for a result that is not what was saved.
        """
        path = Path(path)
        try:
            form = read_json(path)
            result = from_json(cls, form, str(path))
        except InputError as error:
            raise InputError(f"the run result {error}; run it again") from error
        result = dataclasses.replace(result, outputs=_read_arrays(path.with_suffix(".npz"), path))
        if _digest(form, result.outputs) != result.digest:
            raise RecordError(
                f"{path} and its logits are not what the run wrote (their digest differs): a file was edited or "
                "replaced; delete it, and the run is done again"
            )
        wrong = result._recomputed()
        if wrong is not None:
            raise RecordError(
                f"{path} claims a {wrong} that its own logits and labels do not give: delete it, and the run is done "
                "again"
            )
        return result

    def _recomputed(self) -> str | None:
        """Return the first metric, as PART.NAME, that the logits, labels and thresholds do not give; None if all are
        given.
        """
        for part, claimed in (("val", self.val), ("test", self.test)):
            try:
                found = evaluate(
                    self.logits[part],
                    self.labels[part],
                    label_names=self.label_names,
                    thresholds=claimed.thresholds,
                    exclusive=claimed.exclusive,
                )
            except (InputError, KeyError):
                return f"{part} split"
            wrong = _difference(claimed, found)
            if wrong is not None:
                return f"{part}.{wrong}"
        return None


def _digest(form: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return the digest of a JSON form without its own digest, and of the arrays by name."""
    claims = {name: value for name, value in form.items() if name != "digest"}
    return digest(claims, *(part for name in sorted(arrays) for part in (name, arrays[name])))


def _difference(claimed: Evaluation, found: Evaluation) -> str | None:
    """Return the first field or metric in which two evaluations differ by more than rounding; None if in none."""
    if claimed.macro.keys() != found.macro.keys() or claimed.per_class.keys() != found.per_class.keys():
        return "list of metrics"
    for name, value in claimed.macro.items():
        if not _close(value, found.macro[name]):
            return name
    for name, values in claimed.per_class.items():
        here = found.per_class[name]
        if len(values) != len(here) or not all(map(_close, values, here)):
            return f"{name} per label"
    fields = ("label_names", "n_examples", "n_positive", "degenerate", "reasons")
    return next((name for name in fields if getattr(claimed, name) != getattr(found, name)), None)


def _close(one: float, other: float) -> bool:
    """Return whether two numbers are equal but for rounding, or both NaN."""
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)


def _read_arrays(path: Path, owner: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise RecordError(f"{owner} has lost its logits ({path.name}): delete it, and the run is done again")
    return read_npz(path)


Runs = Mapping[str, Mapping[int, RunResult]]
"""Results by arm (or head) and seed."""
