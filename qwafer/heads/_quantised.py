"""The quantised rivals of the linear head and of the network with one hidden layer."""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer.engines import Program
from qwafer.heads._base import HeadInputs, draw, rounded
from qwafer.heads._few_bits import FewBitHead, Layer, Weights, apply_layer, layer_weights
from qwafer.heads._quantisers import Quantiser

if TYPE_CHECKING:
    from qwafer.heads.few_bits import QuantisedOptions


class QuantisedHead(FewBitHead):
    """l = Q(W)^T x + b, or l = Q(V)^T f(Q(W)^T x + b) + c with a hidden layer, on standardised features x.

    Q are the codes and scales of `FewBitHead`; f is relu, for `qesc` tanh, since its input codes are symmetric about 0.
    """

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        weights = [layer_weights(self, layer, train=train) for layer in self.layers]
        return forward(self, self.standardized(features), self.layers, weights)


def forward(head: FewBitHead, x: Array, layers: tuple[Layer, ...], weights: list[Weights]) -> Array:
    """Return the outputs (rows, n_labels) of one layer, or of two with the non-linearity between them."""
    for place, (layer, own) in enumerate(zip(layers, weights, strict=True)):
        if place:
            x = jnp.tanh(x) if layer.quantiser.precision == "qesc" else jax.nn.relu(x)
        x = apply_layer(head, x, own, layer)
    return x


def network(name: str, n_in: int, hidden: int | None, n_out: int, quantiser: Quantiser) -> tuple[Layer, ...]:
    """Return the layers `NAME.linear`, or `NAME.hidden` and `NAME.output`."""
    if hidden is None:
        return (Layer(f"{name}.linear", n_in, n_out, quantiser),)
    return (
        Layer(f"{name}.hidden", n_in, hidden, quantiser),
        Layer(f"{name}.output", hidden, n_out, quantiser),
    )


def initial(layers: tuple[Layer, ...], seed: int, dtype: str) -> dict[str, Array]:
    """Return the initial parameters of layers, those of `linear_head` and `mlp_head`: of the same name, the same."""
    params = {}
    for layer in layers:
        gain = 2 if layer.name.endswith(".hidden") else 1
        scale, shape = math.sqrt(gain / layer.n_in), (layer.n_in, layer.n_out)
        params[f"{layer.name}.weight"] = draw(seed, f"{layer.name}.weight", shape, dtype, scale)
        params[f"{layer.name}.bias"] = rounded(np.zeros(layer.n_out), dtype)
    return params


def quantised_head(options: "QuantisedOptions", inputs: HeadInputs) -> QuantisedHead:
    """Return an untrained `QuantisedHead`, which starts as the linear head or the MLP of the same seed."""
    layers = network("projection", inputs.features.shape[1], options.hidden, inputs.n_labels, options.quantiser())
    params = initial(layers, inputs.seed, inputs.dtype)
    return QuantisedHead(params, inputs.buffers, inputs.n_labels, inputs.dtype, layers)
