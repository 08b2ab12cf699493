"""Quantum Boltzmann machine (Zoufal et al. 2021, arXiv:2006.06004): <O> of a thermal state, energies linear in x.

On one wire per feature H(x) = sum_i (theta_2i . x) Z_i + (theta_2i+1 . x) X_i + sum_{i<j} (theta_ij . x) Z_i Z_j, and
l = log((1 + f) / (1 - f)) of f = tr(O e^(-H/T)) / tr e^(-H/T), so that p = (1 + f) / 2. Null: `entangled` = false.

`as_published`, the code of Bowles, Ahmed and Schuld 2024 does not advance its index over the pairs, so that all ZZ
terms share one weight vector and the others are never read.
"""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.engines import Program
from qwafer.heads import HeadInputs, draw
from qwafer.heads._classical import ClassicalHead
from qwafer.models.base import PUBLISHED

if TYPE_CHECKING:
    from qwafer.models.options import BoltzmannOptions

MOST_WIRES = 8
"""Wires of a Hamiltonian whose exponential is taken: a matrix of 2^n x 2^n per example."""
EDGE = 1e-6
"""f stays this far from -1 and 1, so that logits are finite."""
Z, X = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])


def terms(n_wires: int, variant: str) -> tuple[np.ndarray, list[int]]:
    """Return the operators (n_terms, 2^n, 2^n) of the Hamiltonian, and the row of theta that multiplies x for each."""
    singles = [{i: pauli} for i in range(n_wires) for pauli in (Z, X)]
    pairs = [{i: Z, j: Z} for i, j in itertools.combinations(range(n_wires), 2)]
    rows = [*range(2 * n_wires), *(2 * n_wires + (0 if variant == PUBLISHED else k) for k in range(len(pairs)))]
    return np.stack([_product(own, n_wires) for own in (*singles, *pairs)]), rows


def observable(n_wires: int, n_visible: int, kind: str) -> np.ndarray:
    """Return the mean (`sum`) or the `product` of Z on the first `n_visible` wires, (2^n, 2^n)."""
    if kind == "product":
        return _product(dict.fromkeys(range(n_visible), Z), n_wires)
    return np.asarray(sum(_product({i: Z}, n_wires) for i in range(n_visible)) / n_visible)


def _product(own: Mapping[int, np.ndarray], n_wires: int) -> np.ndarray:
    found = np.ones((1, 1))
    for wire in range(n_wires):
        found = np.kron(found, own.get(wire, np.eye(2)))
    return found


def thermal_value(energies: Array, operators: Array, measured: Array, temperature: float) -> Array:
    """Return tr(O e^(-H/T)) / tr e^(-H/T) of H = sum_k energies_k operators_k."""
    h = jnp.einsum("k,kab->ab", energies, operators) / temperature
    lowest = jax.lax.stop_gradient(jnp.linalg.eigvalsh(h)[0])  # a shift changes nothing, and no exponential overflows
    state = jax.scipy.linalg.expm(lowest * jnp.eye(len(h), dtype=h.dtype) - h, max_squarings=32)
    return jnp.sum(state * measured.T) / jnp.trace(state)


class BoltzmannHead(ClassicalHead):
    """l = log((1 + f) / (1 - f)) of a thermal expectation value f; see the module."""

    n_visible: int = eqx.field(static=True)
    observable: str = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    entangled: bool = eqx.field(static=True)
    variant: str = eqx.field(static=True)

    def expectation(self, theta: Float[Array, "terms D"], x: Float[Array, " D"]) -> Float[Array, ""]:
        """Return f of one example of standardised features."""
        energies = theta @ x
        if not self.entangled:
            z, y = energies[0::2][: self.n_visible], energies[1::2][: self.n_visible]
            size = jnp.sqrt(z**2 + y**2 + np.finfo(x.dtype).tiny)
            each = -z / size * jnp.tanh(size / self.temperature)
            return jnp.mean(each) if self.observable == "sum" else jnp.prod(each)
        operators, rows = terms(len(x), self.variant)
        measured = observable(len(x), self.n_visible, self.observable)
        arrays = jnp.asarray(operators, x.dtype), jnp.asarray(measured, x.dtype)
        return thermal_value(energies[jnp.asarray(rows)], *arrays, self.temperature)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        x = self.standardized(features)

        def label(theta: Array) -> Array:
            return jax.vmap(lambda row: self.expectation(theta, row))(x)

        f = jnp.clip(jax.vmap(label, out_axes=1)(self.params["projection.theta"]), EDGE - 1, 1 - EDGE)
        return jnp.log1p(f) - jnp.log1p(-f)

    def effective(self) -> int:
        """Return the parameters that some logit depends on."""
        width = int(self.params["projection.theta"].shape[2])
        used = 2 * self.n_visible if not self.entangled else len(set(terms(width, self.variant)[1]))
        return int(self.n_labels * used * width)


def boltzmann_head(options: "BoltzmannOptions", inputs: HeadInputs) -> BoltzmannHead:
    """Return the untrained head, theta normal of standard deviation 1; raise InputError above 8 features."""
    n = inputs.features.shape[1]
    if options.entangled and n > MOST_WIRES:
        raise InputError(
            f"a Boltzmann machine has a wire per feature, at most {MOST_WIRES}, got {n} features: reduce them first"
        )
    n_terms = 2 * n + (math.comb(n, 2) if options.entangled else 0)
    params = {"projection.theta": draw(inputs.seed, "projection.theta", (inputs.n_labels, n_terms, n), inputs.dtype)}
    visible = {"single": 1, "half": max(n // 2, 1), "full": n}[options.visible]
    form = visible, options.observable, options.temperature, options.entangled, options.variant
    return BoltzmannHead(params, inputs.buffers, inputs.n_labels, inputs.dtype, *form)
