"""Losses of bounded logits: expectation values, of which (1 + l) / 2 is a probability."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qwafer.objective.options import ARGUMENTS, PerLabelLoss

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Linear(PerLabelLoss):
    """(1 - (2 y - 1) l) / 2 per label: the probability of the wrong answer, where logits are expectation values.

    Logits without a bound make it fall for ever: freeze alpha at 1. Source: Havlicek et al. 2019, as in Bowles,
    Ahmed and Schuld 2024 (arXiv:2403.07059), models IQPVariational and DataReuploadingNoCost.
    """

    arguments: ClassVar[tuple[str, ...]] = ARGUMENTS

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels)."""
        return (pos_weight[None, :] * labels * (1 - logits) + (1 - labels) * (1 + logits)) / 2


@dataclass(frozen=True)
class Square(PerLabelLoss):
    """(l - (2 y - 1))^2 / 2 per label: logits as estimates of -1 and 1, for expectation values.

    Source: Schuld et al. 2020 (arXiv:1804.00633), as in Bowles, Ahmed and Schuld 2024 (arXiv:2403.07059).
    """

    arguments: ClassVar[tuple[str, ...]] = ARGUMENTS

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels)."""
        return (pos_weight[None, :] * labels * (logits - 1) ** 2 + (1 - labels) * (logits + 1) ** 2) / 2
