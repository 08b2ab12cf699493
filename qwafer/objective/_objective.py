"""The objective of a run: one number from the logits of a batch."""

import copy
import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real, UInt8

from qwafer._arrays import check_traced, shaped, zero_one
from qwafer._checks import plain


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

        `labels` are (batch, n_labels), with the logits of a teacher behind them for a loss that takes them.

        Raises InputError for arrays of other shapes, or of another number of labels than it was made for.
        """
        loss = self._loss(logits)
        self._check_targets(labels)
        value: Array = loss.value(logits, labels.astype(logits.dtype), weights, self.constants)
        return value

    @shaped()
    def per_example(
        self, logits: Float[Array, "batch n_labels"], labels: Real[Array, "batch n_labels"]
    ) -> Float[Array, " batch"]:
        """Return the loss of every example (batch,); not defined for losses of pairs (`roc_auc`)."""
        loss = self._loss(logits)
        value: Array = loss.per_example(logits, labels.astype(logits.dtype), self.constants)
        return value

    def _check_targets(self, labels: Any) -> None:
        if not (hasattr(self.form, "teacher") and labels.shape[1] == 2 * self.n_labels):
            check_traced("labels", labels, ("batch", self.n_labels))

    def _loss(self, logits: Any) -> Any:
        """Return the loss with its numbers in the dtype of `logits`, which must be those of `n_labels` labels."""
        if logits is not None:
            check_traced("logits", logits, ("batch", self.n_labels))
        dtype, loss = getattr(logits, "dtype", None), copy.copy(self.form)
        for name, value in self.numbers.items():
            # The options were checked when the loss was made; a tracer cannot be checked again.
            object.__setattr__(loss, name, value if dtype is None else value.astype(dtype))
        return loss


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
