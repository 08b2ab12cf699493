"""`RunResult`: everything about one run that a report or a comparison reads."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._io import atomic_path, jsonable, write_json
from qwafer.training.predictor import Predictor

FORMAT = 1
"""Version of the JSON; readers refuse others."""


@dataclass(frozen=True, eq=False)
class RunResult:
    """One run: plain JSON data, and beside it, in memory, the trained head and the logits behind the metrics."""

    config: dict[str, dict[str, Any]]
    """The whole configuration, section by section."""
    seed: int
    """The run's seed."""
    label_names: tuple[str, ...]
    """The labels of the task, in the order of every list a label."""
    metrics: dict[str, dict[str, Any]]
    """`val` and `test`: the `Evaluation` at the best checkpoint (thresholds tuned on validation); `initial`: loss,
    auc and sep on validation before the first step."""
    best_epoch: int
    """Epoch of the checkpoint that was evaluated, the best on validation by `training.val_objective`; 0: before any
    step."""
    epochs_run: int
    """Epochs trained."""
    curves: dict[str, list[Any]]
    """One entry an evaluation: `epoch`, `step`, `train_loss` (mean over the batches since the last evaluation),
    `val_loss`, `val_auc`, `val_sep` (macro), `val_auc_per_label`, `learning_rate`, and `grad_norm.G` (mean over those
    batches, before clipping), `param_norm.G`, `distance.G` (from the initial values) for each group G, the bias of a
    readout being the group `bias`; `alpha` (one a label)."""
    digests: dict[str, Any]
    """`data`, `split`, `batches`, and `parameters`: digest of the initial value of each parameter, keyed by name and
    shape."""
    n_parameters: dict[str, int]
    """`trainable`, `frozen` and `total` numbers in the head."""
    degenerate: bool
    """Whether thresholded metrics of some label cannot be trusted, or training diverged; `notes` and the evaluations
    say why."""
    notes: tuple[str, ...]
    """What a reader should know, one sentence each."""
    timings: dict[str, float]
    """Wall seconds: `compile` (making and compiling programs before the clock starts), `training`, `evaluation`,
    `total`; and `steps`, `steps_per_second`."""
    engine: dict[str, Any]
    """What executed the circuit (`Program.info` of the training program); empty for classical heads."""
    compile_cache: dict[str, Any]
    """Statistics of the engines' compile cache at the end of the run; empty where the engine has none."""
    versions: dict[str, str]
    """Versions of Python and packages."""
    git_revision: str | None
    """Commit of the checkout, `-dirty` if it differs; None outside one."""
    host: dict[str, Any]
    """Machine, devices, threads, allocator."""
    predictor: Predictor | None = field(default=None, repr=False)
    """The trained head, ready to use; not in the JSON."""
    outputs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """`val_logits`, `val_labels`, `val_rows`, and the same of `test`; not in the JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but `predictor` and `outputs` as plain JSON data; NaN becomes None."""
        data = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("predictor", "outputs")
        }
        return {"format": FORMAT, **jsonable(data)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunResult":
        """Return the result that `to_dict` wrote, without `predictor` and `outputs`; raises InputError on anything
        else.
        """
        if data.get("format") != FORMAT:
            raise InputError(f"a run result must have format {FORMAT}, got {data.get('format')!r}: run it again")
        values = {name: value for name, value in data.items() if name != "format"}
        expected = {item.name for item in dataclasses.fields(cls)} - {"predictor", "outputs"}
        if set(values) != expected:
            wrong = sorted(set(values) ^ expected)
            raise InputError(f"a run result must have its fields, no more and no fewer; wrong: {', '.join(wrong)}")
        values["label_names"], values["notes"] = tuple(values["label_names"]), tuple(values["notes"])
        return cls(**values)

    def save(self, path: str | Path, *, outputs: bool = False) -> None:
        """Write the JSON to `path`, atomically; with `outputs`, first the logits and labels beside it as `.npz`."""
        path = Path(path)
        if outputs:
            with atomic_path(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **self.outputs)
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> "RunResult":
        """Return the result saved at `path`, with `outputs` if their file lies beside it."""
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not a run result: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{path} is not a run result: it holds no JSON object")
        result = cls.from_dict(data)
        beside = path.with_suffix(".npz")
        if not beside.is_file():
            return result
        with np.load(beside, allow_pickle=False) as arrays:
            return dataclasses.replace(result, outputs=dict(arrays))
