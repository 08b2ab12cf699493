"""A head of a stranger's own, trained by the loop: distances to trained prototypes."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from qwafer.heads import LOOP, Head, HeadInputs, draw


class PrototypeHead(Head):
    def logits(self, features, program, *, key=None, train=False):
        gaps = self.standardized(features)[:, None, :] - self.params["projection.centres"][None]
        return self.params["projection.bias"][None, :] - (gaps**2).mean(axis=-1)


@dataclass(frozen=True)
class Prototypes:
    scale: float = 1.0
    """Standard deviation of the initial centres."""
    sections: ClassVar[tuple[str, ...]] = LOOP

    def make(self, inputs: HeadInputs) -> Head:
        shape = (inputs.n_labels, inputs.features.shape[1])
        centres = draw(inputs.seed, "projection.centres", shape, inputs.dtype, self.scale)
        params = {"projection.centres": centres, "projection.bias": jnp.zeros(shape[:1], inputs.dtype)}
        return PrototypeHead(params, inputs.buffers, inputs.n_labels, inputs.dtype)
