"""The objective of a run: one number from the logits of a batch."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real, UInt8

from qwafer._arrays import check_traced, shaped, zero_one
from qwafer._checks import plain
from qwafer.objective.hint import NAMES, Hint
from qwafer.objective.other_task import NAMES as OTHER_NAMES
from qwafer.objective.other_task import OtherTask


class Objective(eqx.Module):
    """A loss with what it takes from the labels of the training split, as a JAX pytree.

    Its numbers are leaves, not parts of the program: runs that differ in them share what is compiled.
    """

    constants: dict[str, Array]
    """What `loss.constants` gave, float32."""
    numbers: dict[str, Array]
    """The options of the loss among its `arguments` that are numbers, by name."""
    form: Any = eqx.field(static=True)
    """The loss with all of its `arguments` at their defaults."""
    n_labels: int = eqx.field(static=True)
    """Labels, or exclusive classes."""
    hint: Hint | None = None
    """The trained map from features of the head to those of a teacher; None where none are taught."""
    other: OtherTask | None = None
    """The trained readout of another task, whose examples are in the batches; None where there is none."""

    @property
    def loss(self) -> Any:
        """The `Loss`; `numbers` are arrays in it, and what its `constants` were made of is at its default."""
        return self._loss(None)

    @shaped()
    def __call__(
        self,
        logits: Float[Array, "batch n_labels"],
        labels: Real[Array, "batch n_targets"],
        weights: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return the weighted mean of the loss over a batch; an example of weight 0 has no effect.

        `labels` are (batch, n_labels), with the logits of a teacher behind them for a loss that takes them, and its
        features behind those where there is a `hint`, which are left to `feature_loss`. Where there is an `other` task,
        what it is told stands there: its examples count in the mean, and what they cost is left to `feature_loss`.

        Raises InputError for arrays of other shapes, or of another number of labels than it was made for.
        """
        loss, (targets, told) = self._loss(logits), self._parted(labels)
        targets = targets.astype(logits.dtype)
        if self.other is not None and told.shape[1]:
            own, _, total = self.other.weights(told, weights, self.numbers["other_weight"])
            return jnp.sum(own * loss.per_example(logits, targets, self.constants)) / total
        value: Array = loss.value(logits, targets, weights, self.constants)
        return value

    @shaped()
    def feature_loss(
        self,
        features: Float[Array, "batch D"],
        labels: Real[Array, "batch n_targets"],
        weights: Float[Array, " batch"],
    ) -> Float[Array, ""]:
        """Return beta times the loss of the `hint` (`Hint.loss`), for features of the head and those of a teacher, the
        last columns of `labels`; or the part of the mean that examples of an `other` task have; 0 without either.

        Raises InputError for arrays of other shapes.
        """
        if self.other is not None:
            _, told = self._parted(labels)
            check_traced("features", features, ("batch", self.other.arrays[OTHER_NAMES[0]].shape[0]))
            check_traced("labels", told, ("batch", self.other.width))
            _, others, total = self.other.weights(told, weights, self.numbers["other_weight"])
            return jnp.sum(others * self.other.per_example(features, told)) / total
        if self.hint is None:
            return jnp.zeros((), features.dtype)
        _, taught = self._parted(labels)
        check_traced("features", features, ("batch", self.hint.arrays[NAMES[0]].shape[0]))
        check_traced("labels", taught, ("batch", self.hint.width))
        beta = self.numbers["feature_weight"].astype(features.dtype)
        return beta * self.hint.loss(features, taught.astype(features.dtype), weights)

    def with_arrays(self, arrays: Mapping[str, Array]) -> "Objective":
        """Return the same objective with other values of what is trained in it (`parameters`)."""
        return dataclasses.replace(self, hint=_with(self.hint, arrays), other=_with(self.other, arrays))

    def parameters(self) -> dict[str, Array]:
        """Return what is trained in it, by name: the arrays of its `hint`, or of its `other` task."""
        trained = [part.arrays for part in (self.hint, self.other) if part is not None]
        return {name: array for arrays in trained for name, array in arrays.items()}

    def own_weights(self, labels: Real[Array, "batch n_targets"], weights: Float[Array, " batch"]) -> Array:
        """Return the weights (batch,) of the examples of the run's own task: all of them where there is no other."""
        if self.other is None:
            return weights
        return self.other.weights(self._parted(labels)[1], weights, self.numbers["other_weight"])[0]

    @shaped()
    def per_example(
        self, logits: Float[Array, "batch n_labels"], labels: Real[Array, "batch n_labels"]
    ) -> Float[Array, " batch"]:
        """Return the loss of every example (batch,); not defined for losses of pairs (`roc_auc`)."""
        loss = self._loss(logits)
        value: Array = loss.per_example(logits, labels.astype(logits.dtype), self.constants)
        return value

    def _parted(self, labels: Any) -> tuple[Any, Any]:
        """Return labels with the logits of a teacher, if any, and its features, or what another task is told, which
        labels alone have not.
        """
        beside = self.other if self.hint is None else self.hint
        width = 0 if beside is None or labels.shape[1] == self.n_labels else beside.width
        end = max(labels.shape[1] - width, 0)
        targets = labels[:, :end]
        if not (hasattr(self.form, "teacher") and end == 2 * self.n_labels):
            check_traced("labels", targets, ("batch", self.n_labels))
        return targets, labels[:, end:]

    def _loss(self, logits: Any) -> Any:
        """Return the loss with its numbers in the dtype of `logits`, which must be those of `n_labels` labels."""
        if logits is not None:
            check_traced("logits", logits, ("batch", self.n_labels))
        dtype, loss = getattr(logits, "dtype", None), copy.copy(self.form)
        for name, value in self.numbers.items():
            # The options were checked when the loss was made; a tracer cannot be checked again.
            object.__setattr__(loss, name, value if dtype is None else value.astype(dtype))
        return loss


def _with(part: Any, arrays: Mapping[str, Array]) -> Any:
    """Return a trained part of an objective with its arrays out of `arrays`; None where there is none."""
    return None if part is None else dataclasses.replace(part, arrays={name: arrays[name] for name in part.arrays})


def make_objective(loss: Any, train_labels: UInt8[np.ndarray, "M n_labels"]) -> Objective:
    """Return the objective of `loss`; `train_labels` (M, n_labels) of the training split give its constants."""
    labels = zero_one("train_labels", train_labels, ("M", "n_labels")).astype(np.uint8)
    constants = {name: jnp.asarray(np.asarray(value, np.float32)) for name, value in loss.constants(labels).items()}
    arguments = [item for item in dataclasses.fields(loss) if item.name in getattr(loss, "arguments", ())]
    values = {item.name: plain(getattr(loss, item.name)) for item in arguments}
    numbers = {  # 3 is the number 3.0: what is no number here stands at its default in the program
        name: jnp.asarray(np.asarray(value, np.float64))
        for name, value in values.items()
        if isinstance(value, (int, float))
    }
    form = dataclasses.replace(loss, **{item.name: item.default for item in arguments})
    return Objective(constants, numbers, form, labels.shape[1])
