"""The weighted fidelity loss of data re-uploading (Perez-Salinas et al. 2020, equation 23) as a head."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.engines import Program
from qwafer.heads import HeadInputs, QuantumHead, QuantumOptions
from qwafer.heads._quantum import quantum_head


class FidelityHead(QuantumHead):
    """l = mean_j s_j. In training l = sum_j (a1_j p1_j - a0_j p0_j), p1_j = (1 + s_j) / 2 = 1 - p0_j, and a penalty.

    The loss `linear`, (1 - (2 y - 1) l) / 2, and the penalty mean sum_j [(a0 p0)^2 + (a1 p1)^2 - a0 p0 - a1 p1] / 2 add
    up to 1/2 sum_j (a0_j p0_j - (1 - y))^2 + (a1_j p1_j - y)^2 and a constant: the weighted fidelity loss. The alphas,
    `alpha.classes` (2, n_outputs), start at 1 and are trained; predictions do not read them.
    """

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the mean of the outputs (batch, 1)."""
        return jnp.mean(self.scores(features, program), axis=1, keepdims=True)

    def training_outputs(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        weights: Float[Array, " batch"],
        key: jax.Array,
    ) -> tuple[Float[Array, "batch n_labels"], Array | None]:
        """Return the logits in training (batch, 1), and the penalty, a mean by `weights` as the loss is."""
        s = self.scores(features, program)
        alpha = self.params["alpha.classes"]
        zero, one = alpha[0][None, :] * (1 - s) / 2, alpha[1][None, :] * (1 + s) / 2
        each = jnp.sum(zero**2 + one**2 - zero - one, axis=1) / 2
        return jnp.sum(one - zero, axis=1, keepdims=True), jnp.sum(weights * each) / jnp.sum(weights)


def fidelity_head(options: QuantumOptions, inputs: HeadInputs) -> FidelityHead:
    """Return the untrained head, made of a quantum head with `options`; raise InputError for several labels, or a
    readout that is trained.
    """
    if inputs.n_labels != 1:
        raise InputError(f"the fidelity loss is for one label, got {inputs.n_labels}: set data.task to one of them")
    assert inputs.circuit is not None
    if "readout" in inputs.circuit.weight_shapes():
        raise InputError(
            "the fidelity loss is of measured wires: head fidelity needs a circuit without a readout to train"
        )
    n_outputs = inputs.circuit.n_outputs
    head: Any = quantum_head(options, dataclasses.replace(inputs, n_labels=n_outputs))
    params, buffers = dict(head.params), dict(head.buffers)
    buffers["readout.bias"] = params.pop("readout.bias")
    params["alpha.classes"] = jnp.ones((2, n_outputs), head.dtype)
    fields = {item.name: getattr(head, item.name) for item in dataclasses.fields(head)}
    return FidelityHead(**{**fields, "params": params, "buffers": buffers, "n_labels": 1})
