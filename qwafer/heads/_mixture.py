"""A mixture of quantised experts: a router, top-k dispatch that computes what was routed, and its balance."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.engines import Program
from qwafer.heads._base import HeadInputs
from qwafer.heads._few_bits import FewBitHead, Layer, layer_weights
from qwafer.heads._quantised import forward, initial, network
from qwafer.heads._quantisers import Quantiser

if TYPE_CHECKING:
    from qwafer.heads.few_bits import MixtureOptions

BLOCK = 16
"""Rows that an expert computes at a time, in batches of so many and more."""
ROUTER = "projection.router"


class MixtureHead(FewBitHead):
    """l = sum over the `top_k` experts e of largest p_e(x): p_e(x) l_e(x), p = softmax(R^T x + r), x standardised.

    Each l_e is a `QuantisedHead` of a precision of its own; the router stays in float32. As in the Switch transformer
    (Fedus, Zoph and Shazeer 2022, arXiv:2101.03961) p_e weighs its expert as it is, so that the router learns.
    """

    top_k: int = eqx.field(static=True)
    balance: float = eqx.field(static=True)
    router_dropout: float = eqx.field(static=True)
    n_experts: int = eqx.field(static=True)

    def experts(self) -> list[tuple[Layer, ...]]:
        """Return the layers of each expert."""
        depth = len(self.layers) // self.n_experts
        return [self.layers[i * depth : (i + 1) * depth] for i in range(self.n_experts)]

    def routing(
        self, features: Float[Array, "batch D"], *, key: jax.Array | None = None
    ) -> Float[Array, "batch n_experts"]:
        """Return the router's probabilities p (batch, n_experts) of `features` (batch, D).

        With a `key` its inputs are dropped at the rate `router_dropout`, and the rest scaled by 1 / (1 - rate).
        """
        return self._probabilities(self.standardized(features), key)

    def sampled_routing(
        self, features: Float[Array, "batch D"], n_samples: int = 32, seed: int = 0
    ) -> Float[Array, "n_samples batch n_experts"]:
        """Return the router's probabilities (n_samples, batch, n_experts) under draws of its dropout,
        each example with draws of its own.

        `evaluation.uncertainty` takes from them what the router does not know (Monte-Carlo dropout: Gal and Ghahramani
        2016, arXiv:1506.02142). Raises InputError for a head without `router_dropout`, whose samples would be equal.
        """
        check_positive_int("n_samples", n_samples)
        if self.router_dropout == 0:
            raise InputError("the router has no dropout to sample: train with head.router_dropout above 0")
        x = self.standardized(features)
        keys = jax.random.split(jax.random.key(key_seed(seed, "router dropout")), n_samples)
        return jax.lax.map(lambda key: self._probabilities(x, key), keys)

    def load(self, features: Float[Array, "batch D"]) -> Float[Array, " n_experts"]:
        """Return the part of the assignments (n_experts,) that each expert gets: 1 / n_experts each is balance, zeros
        are experts that do nothing, NaN where a feature is.
        """
        p = self.routing(features)
        chosen = jax.lax.top_k(p, self.top_k)[1]
        found = jnp.bincount(chosen.reshape(-1), length=self.n_experts) / chosen.size
        return jnp.where(jnp.isfinite(p).all(), found, jnp.nan)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels); see `Head.logits`."""
        return self._routed(features, key, train=train)[0]

    def training_outputs(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        weights: Float[Array, " batch"],
        key: jax.Array,
    ) -> tuple[Float[Array, "batch n_labels"], Array | None]:
        """Return the logits, and `balance` times the `balance_loss` of the examples whose weight is not 0."""
        logits, p, chosen = self._routed(features, key, train=True)
        return logits, self.balance * balance_loss(p, chosen, weights != 0)

    def _probabilities(self, x: Array, key: jax.Array | None) -> Array:
        if key is not None and self.router_dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.router_dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.router_dropout), jnp.zeros_like(x))
        return jax.nn.softmax(self.layer(x, ROUTER), axis=1)

    def _routed(self, features: Array, key: jax.Array | None, *, train: bool) -> tuple[Array, Array, Array]:
        """Return logits, the router's probabilities and the experts chosen (batch, top_k)."""
        if train and key is None and self.router_dropout > 0:
            raise InputError("`key` is needed to train with dropout")
        x = self.standardized(features)
        p = self._probabilities(x, key if train else None)
        gates, chosen = jax.lax.top_k(p, self.top_k)

        def expert(layers: tuple[Layer, ...]) -> Callable[[Array], Array]:
            weights = [layer_weights(self, layer, train=train) for layer in layers]  # once, not once per block
            return lambda rows: forward(self, rows, layers, weights)

        outputs = dispatch(x, chosen, [expert(layers) for layers in self.experts()], self.n_labels)
        return (gates[:, :, None] * outputs).sum(axis=1), p, chosen


def balance_loss(
    p: Float[Array, "batch E"], chosen: Int[Array, "batch k"], counted: Bool[Array, " batch"] | None = None
) -> Float[Array, ""]:
    """Return E sum_e f_e P_e (arXiv:2101.03961, eq. 4): f_e the part of the assignments that expert e gets, P_e its
    mean probability, over the examples that are `counted`. 1 where both are equal for all experts, at most E.
    """
    n_experts = p.shape[1]
    each = jnp.ones(len(p), p.dtype) if counted is None else counted.astype(p.dtype)
    parts = each / jnp.maximum(each.sum(), 1)
    f = (parts[:, None] * (chosen[:, :, None] == jnp.arange(n_experts)[None, None]).sum(axis=1)).sum(axis=0)
    return n_experts / chosen.shape[1] * (f * (parts[:, None] * p).sum(axis=0)).sum()


def dispatch(
    x: Float[Array, "rows n"],
    chosen: Int[Array, "rows k"],
    experts: Sequence[Callable[[Array], Array]],
    n_out: int,
    block: int = BLOCK,
) -> Float[Array, "rows k n_out"]:
    """Return the output (n_out,) of each chosen expert for each row; an expert computes the rows routed to it alone.

    Shapes are static: the rows k assignments are sorted by expert, those of each expert begin a new block of `block`
    rows, and a loop over (rows k + E (block - 1)) // block blocks, enough for any routing, calls the expert of each
    block. A block that no expert needs costs nothing but its turn; what is computed too much is what fills the last
    block of each expert, at most `block` - 1 rows. No assignment is ever dropped: there is no capacity to exceed.
    """
    (n_rows, k), n_experts, block = chosen.shape, len(experts), min(block, len(chosen))
    if not n_rows:
        return jnp.zeros((0, k, n_out), x.dtype)
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    counts = jnp.bincount(flat, length=n_experts)
    ends = jnp.cumsum(-(-counts // block))
    n_blocks = (n_rows * k + n_experts * (block - 1)) // block
    expert = flat[order]
    begins, firsts = ends - (-(-counts // block)), jnp.cumsum(counts) - counts
    slots = begins[expert] * block + jnp.arange(n_rows * k) - firsts[expert]
    rows = jnp.zeros(n_blocks * block, order.dtype).at[slots].set(order // k).reshape(n_blocks, block)
    owners = jnp.searchsorted(ends, jnp.arange(n_blocks), side="right")  # n_experts: of nobody

    def compute(_: None, at: tuple[Array, Array]) -> tuple[None, Array]:
        nobody = lambda rows: jnp.zeros((block, n_out), x.dtype)  # noqa: E731
        return None, jax.lax.switch(at[0], [*experts, nobody], x[at[1]])

    outputs = jax.lax.scan(compute, None, (owners, rows))[1].reshape(-1, n_out)
    return jnp.zeros((n_rows * k, n_out), x.dtype).at[order].set(outputs[slots]).reshape(n_rows, k, n_out)


def mixture_head(options: "MixtureOptions", inputs: HeadInputs) -> MixtureHead:
    """Return an untrained `MixtureHead`; experts start as quantised heads do, each from draws of its own."""
    n_features, n_experts = inputs.features.shape[1], len(options.experts)
    router = Layer(ROUTER, n_features, n_experts, Quantiser("16"))
    layers = tuple(
        layer
        for i, precision in enumerate(options.experts)
        for layer in network(
            f"projection.experts.{i}", n_features, options.hidden, inputs.n_labels, Quantiser(precision)
        )
    )
    params = initial((router, *layers), inputs.seed, inputs.dtype)
    form = layers, options.top_k, options.balance, options.router_dropout, n_experts
    return MixtureHead(params, inputs.buffers, inputs.n_labels, inputs.dtype, *form)
