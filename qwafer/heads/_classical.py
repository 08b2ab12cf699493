"""The classical rivals of the quantum head: a linear map and a network with one hidden layer."""

import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.engines import Program
from qwafer.heads._base import Head, HeadInputs, draw, rounded

if TYPE_CHECKING:
    from qwafer.heads.options import MlpOptions


class ClassicalHead(Head):
    """A head without a circuit, in which every trainable parameter has an effect."""

    def effective(self) -> int:
        """Return the number of trainable parameters: every one has an effect."""
        return self.count()["trainable"]


class LinearHead(ClassicalHead):
    """l = W^T x + b on standardised features x: logistic regression, (D + 1) n_labels parameters."""

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        return self.layer(self.standardized(features), "projection.linear")


class MlpHead(ClassicalHead):
    """l = V^T relu(W^T x + b) + c on standardised features x, with inverted dropout on the hidden units in training."""

    dropout: float = eqx.field(static=True)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        hidden = jax.nn.relu(self.layer(self.standardized(features), "projection.hidden"))
        if train and self.dropout > 0:
            if key is None:
                raise InputError("`key` is needed to train with dropout")
            keep = jax.random.bernoulli(key, 1 - self.dropout, hidden.shape)
            hidden = jnp.where(keep, hidden / (1 - self.dropout), jnp.zeros_like(hidden))
        return self.layer(hidden, "projection.output")


def linear_head(inputs: HeadInputs) -> LinearHead:
    """Return an untrained `LinearHead`: weights of standard deviation 1/sqrt(D), bias 0."""
    width = inputs.features.shape[1]
    params = _layer("projection.linear", width, inputs.n_labels, 1 / math.sqrt(width), inputs.seed)
    return LinearHead(params, inputs.buffers, inputs.n_labels, inputs.dtype)


def mlp_head(options: "MlpOptions", inputs: HeadInputs) -> MlpHead:
    """Return an untrained `MlpHead`: He-normal hidden weights (std sqrt(2/D)), output std 1/sqrt(hidden), biases 0."""
    width, hidden, seed = inputs.features.shape[1], options.hidden, inputs.seed
    params = {
        **_layer("projection.hidden", width, hidden, math.sqrt(2 / width), seed),
        **_layer("projection.output", hidden, inputs.n_labels, 1 / math.sqrt(hidden), seed),
    }
    return MlpHead(params, inputs.buffers, inputs.n_labels, inputs.dtype, options.dropout)


def _layer(name: str, n_in: int, n_out: int, scale: float, seed: int) -> dict[str, Array]:
    return {
        f"{name}.weight": draw(seed, f"{name}.weight", (n_in, n_out), "float32", scale),
        f"{name}.bias": rounded(np.zeros(n_out), "float32"),
    }
