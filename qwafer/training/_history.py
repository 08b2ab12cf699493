"""What a run remembers between evaluations: curves, the best checkpoint, the time spent."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from qwafer.config import TrainingConfig
from qwafer.heads import Head, QuantumHead
from qwafer.training._convergence import has_converged
from qwafer.training._optimizer import group_norms
from qwafer.training._step import State, Totals, evaluated_arrays
from qwafer.training._validation import Scores
from qwafer.training.result import InitialScores, Timings


@dataclass
class Sums:
    """Totals since the last evaluation, in float64 on the host."""

    steps: int = 0
    loss: float = 0.0
    weight: float = 0.0
    gradient: dict[str, float] = field(default_factory=dict)

    def add(self, totals: Totals, steps: int) -> None:
        """Add the totals of a compiled call of so many steps."""
        self.steps += steps
        self.loss += float(totals.loss)
        self.weight += float(totals.weight)
        for group, norm in totals.gradient.items():
            self.gradient[group] = self.gradient.get(group, 0.0) + float(norm)


@dataclass
class History:
    """Curves, the best evaluation so far, and seconds spent."""

    curves: dict[str, list[Any]] = field(default_factory=dict)
    best_value: float = -math.inf
    best_epoch: int = 0
    since_best: int = 0
    diverged: bool = False
    initial: InitialScores | None = None
    batches: list[str] = field(default_factory=list)
    """`batches_digest` of each epoch that ran."""
    sums: Sums = field(default_factory=Sums)
    seconds: dict[str, float] = field(default_factory=lambda: {"compile": 0.0, "training": 0.0, "evaluation": 0.0})

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """Return what gives everything as it is now, whenever it is called, as plain JSON data for `from_record`.

        Curves and batches only grow, so that their lengths say where they stood: a copy after every epoch would make
        the time of a run quadratic in its epochs.
        """
        lengths, n_batches = {name: len(values) for name, values in self.curves.items()}, len(self.batches)
        rest = dataclasses.asdict(dataclasses.replace(self, curves={}, batches=[]))

        def record() -> dict[str, Any]:
            curves = {name: self.curves[name][:length] for name, length in lengths.items()}
            return {**rest, "curves": curves, "batches": self.batches[:n_batches]}

        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "History":
        """Return the history of a `snapshot`, with the same floats."""
        initial = record["initial"] and InitialScores(**record["initial"])
        return cls(**{**record, "sums": Sums(**record["sums"]), "initial": initial})

    def timings(self, total: float, steps: int) -> Timings:
        """Return the seconds spent, of a run that took `total` for `steps`."""
        training = self.seconds["training"]
        return Timings(
            compile=self.seconds["compile"],
            training=training,
            evaluation=self.seconds["evaluation"],
            total=total,
            steps=steps,
            steps_per_second=steps / training if training else 0.0,
        )

    def note_best(self, value: float, epoch: int) -> bool:
        """Return whether `value` at `epoch` is the best so far; NaN never is."""
        if value > self.best_value:
            self.best_value, self.best_epoch, self.since_best = value, epoch, 0
            return True
        self.since_best += 1
        return False

    def stopped(self, config: TrainingConfig) -> bool:
        """Return whether training ends here whatever the epochs: by divergence or early stopping."""
        return self.diverged or (config.early_stopping is not None and self.since_best >= config.early_stopping)

    def objective_values(self, config: TrainingConfig) -> list[float]:
        """Return what `training.val_objective` was at each evaluation, greater being better."""
        sign = -1.0 if config.val_objective == "loss" else 1.0
        return [sign * value for value in self.curves.get(f"val_{config.val_objective}", [])]

    def converged(self, config: TrainingConfig) -> bool:
        """Return whether the run so far has converged, by `has_converged`.

        Early stopping says of the objective alone that it does not improve any more, and for as long as its patience:
        the validation loss must have arrived, too, or an impatient run that has hardly left would have converged.
        """
        if self.diverged:
            return False
        values = self.objective_values(config)
        initial = math.inf if self.initial is None else self.initial.loss
        losses, tolerance = self.curves["val_loss"], config.convergence_tolerance
        if self.stopped(config) and self.best_epoch > 0:
            values = [math.nan] * len(values)
        return has_converged(self.curves["epoch"], losses, values, tolerance, initial)

    def append(
        self, config: TrainingConfig, epoch: int, head: Head, state: State, learning_rate: float, scores: Scores
    ) -> dict[str, Any]:
        """Add one entry to every curve, clear the sums, and return the entry.

        `head` holds the initial parameters; `learning_rate` is that of the last step.
        """
        sums, self.sums = self.sums, Sums()
        found = evaluated_arrays(config, state)
        params = {name: np.asarray(found[name]) for name in head.params}
        moved = {name: value - np.asarray(head.params[name]) for name, value in params.items()}
        entry: dict[str, Any] = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": sums.loss / sums.weight,
            "val_loss": scores.loss,
            "val_roc_auc": scores.roc_auc,
            "val_separation": scores.separation,
            "val_macro_f1": scores.macro_f1,
            "val_roc_auc_per_label": scores.roc_auc_per_label,
            "learning_rate": learning_rate,
        }
        for name, norms in (("param_norm", group_norms(params)), ("distance", group_norms(moved))):
            entry |= {f"{name}.{group}": float(norm) for group, norm in norms.items()}
        entry |= {f"grad_norm.{group}": total / sums.steps for group, total in sums.gradient.items()}
        if isinstance(head, QuantumHead):
            entry["alpha"] = np.asarray(_alpha(head.with_parameters(params)), np.float64).tolist()
        self.diverged = not (math.isfinite(entry["train_loss"]) and math.isfinite(scores.loss))
        for name, value in entry.items():
            self.curves.setdefault(name, []).append(value)
        return entry


@jax.jit
def _alpha(head: QuantumHead) -> jax.Array:
    return head.alpha()
