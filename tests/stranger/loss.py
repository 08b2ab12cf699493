"""A loss of a stranger's own: the Brier score, which is bounded."""

from dataclasses import dataclass

import jax

from qwafer.objective import PerLabelLoss


@dataclass(frozen=True)
class Brier(PerLabelLoss):
    """w (p - y)^2 per label."""

    def per_label(self, logits, labels, pos_weight):
        weight = labels * pos_weight[None, :] + (1 - labels)
        return weight * (jax.nn.sigmoid(logits) - labels) ** 2
