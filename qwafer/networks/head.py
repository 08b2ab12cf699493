"""A network on wafer maps as a head, so that the loop that trains heads trains it."""

import math
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from qwafer._errors import InputError
from qwafer.engines import Program
from qwafer.heads import HEADS, Halted, Head, HeadInputs
from qwafer.networks.augmentation import Codes, augmented, symmetries
from qwafer.networks.halting import compile_halting, halted_logits, halting_limit
from qwafer.networks.options import NetworkOptions

RECORD = "qwafer_training"
"""Key of the metadata of weights that say how they were trained."""
PREFIX = "projection."
"""The group of the parameters of a network."""
BOUND = "bound_labels"
"""The buffer (n_labels,) that is 1 for labels whose maps are not moved."""
Tree: TypeAlias = dict[str, Any]
"""Arrays by name, in dicts in dicts."""


class Outputs(NamedTuple):
    """What a network computes of a batch."""

    logits: Float[Array, "steps batch n_labels"]
    """Of every supervision step; one for a network that does not recur."""
    features: Float[Array, "batch D"]
    """What a head on the frozen network reads."""
    halt: Float[Array, "steps batch"] | None = None
    """Log-odds of halting after each step, where the network halts."""


class Architecture(Protocol):
    """A network by its arrays: parameters and statistics are nested dicts of float32; see `flat`."""

    @property
    def size(self) -> int:
        """Side of the maps in dies."""
        ...

    def initial(self, seed: int, n_labels: int) -> tuple[Tree, Tree]:
        """Return the initial parameters and statistics, such as the moments of normalisations."""
        ...

    def outputs(
        self, params: Tree, statistics: Tree, codes: Codes, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Outputs, Tree]:
        """Return the outputs for maps (batch, size, size), and the statistics after the step."""
        ...

    def tensors(self, params: Tree, statistics: Tree) -> dict[str, np.ndarray]:
        """Return what a file of weights holds of parameters and statistics."""
        ...


class NetworkHead(Head):
    """A network on the dies: features (batch, size * size) of 0, 1 and 2 to logits (batch, n_labels).

    The loss of a batch is the mean over supervision steps of the objective of the step's logits, plus the objective's
    loss of the features where a teacher gives some or another task reads them (`Objective.feature_loss`), plus, for a
    network that halts, `halt_weight` times the mean over steps of the binary cross-entropy of its halting probability
    against whether the step's answer was right, over the examples of the run's own task.
    """

    options: Any = eqx.field(static=True)

    looped: ClassVar[bool] = False

    def effective(self) -> int:
        """Return the number of trainable parameters: every one has an effect."""
        return self.count()["trainable"]

    def n_features(self) -> int:
        """Return the number of features that the network's readout takes."""
        size = self.options.architecture().size
        found, _ = jax.eval_shape(self.outputs, jax.ShapeDtypeStruct((1, size, size), jnp.float32))
        return int(found.features.shape[1])

    def statistics(self) -> dict[str, Array]:
        """Return the buffers that training moves."""
        return {name: value for name, value in self.buffers.items() if name != BOUND}

    def outputs(
        self, codes: Codes, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Outputs, dict[str, Array]]:
        """Return the outputs for maps (batch, size, size), and the statistics after a step of training."""
        found, moved = self.options.architecture().outputs(*self.trees(), codes, train=train, key=key)
        return found, flat(moved)

    def trees(self) -> tuple[Tree, Tree]:
        """Return parameters and statistics, as the architecture takes them."""
        params = {name.removeprefix(PREFIX): value for name, value in self.params.items()}
        return unflatten_dict(params, sep="."), unflatten_dict(self.statistics(), sep=".")

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a file of weights holds of the network."""
        found: dict[str, np.ndarray] = self.options.architecture().tensors(*jax.tree.map(np.asarray, self.trees()))
        return found

    def codes(self, features: Float[Array, "batch D"]) -> Codes:
        """Return the maps (batch, size, size) behind features; raise InputError for another number of dies."""
        size = self.options.architecture().size
        if features.shape[-1] != size * size:
            raise InputError(
                f"the network reads maps of {size} x {size} dies, got {features.shape[-1]} features: "
                f"take data.backbone = dies_{size}"
            )
        return jnp.asarray(features, jnp.float32).reshape(-1, size, size)

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels) of the step that answers, the last or the first that halts; with `tta`
        their mean over the symmetries. See `Head.logits`.
        """
        codes = self.codes(features)
        if not self.options.tta:
            return self._answer(codes)
        return jnp.stack([self._answer(one) for one in symmetries(codes)]).mean(axis=0)  # no loop: see `Head.looped`

    def _answer(self, codes: Codes) -> Float[Array, "batch n_labels"]:
        found, _ = self.outputs(codes)
        threshold = self._halt_threshold
        if found.halt is None or threshold == 1:
            return found.logits[-1]
        halts = (found.halt > halting_limit(threshold)).at[-1].set(True)
        return jnp.take_along_axis(found.logits, halts.argmax(axis=0)[None, :, None], axis=0)[0]

    def halted(self, features: Float[np.ndarray, "examples D"]) -> Halted | None:
        """Return logits and steps of the halting network where `halt_threshold` is below 1; see `Head.halted`.

        With `tta` the logits are the mean over the symmetries, and the steps the sum over them.
        """
        threshold = self._halt_threshold
        if threshold == 1:
            return None
        codes = self.codes(features)
        forms = symmetries(codes) if self.options.tta else codes[None]
        network: Any = self.options.architecture()
        found = halted_logits(network, *self.trees(), np.concatenate(np.asarray(forms)), threshold)
        logits = found.logits.reshape(len(forms), len(codes), -1).mean(axis=0)
        return Halted(logits, found.steps_used.reshape(len(forms), len(codes)).sum(axis=0))

    def compile_halted(self) -> None:
        """Compile what `halted` calls; nothing where the network does not halt."""
        if self._halt_threshold < 1:
            network: Any = self.options.architecture()
            compile_halting(network, self.trees()[0])

    @property
    def _halt_threshold(self) -> float:
        """The halting probability above which an answer is final; 1: every map takes all steps."""
        return float(getattr(self.options, "halt_threshold", 1.0))

    def training_loss(
        self,
        objective: Any,
        features: Float[Array, "batch D"],
        labels: Float[Array, "batch n_labels"],
        program: Program | None,
        *,
        weights: Float[Array, " batch"],
        key: jax.Array,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Return what a step minimises, the objective of the last supervision step, and the statistics after it."""
        # What pads a batch would enter the moments of a normalisation: examples of the batch itself take its place.
        real = jnp.maximum(jnp.sum(weights > 0), 1)
        rows = jnp.arange(len(weights))
        rows = jnp.where(weights > 0, rows, rows % real)
        codes = self.codes(features)[rows]
        moves, drops = jax.random.split(key)
        truth = labels[:, : self.n_labels]  # a loss may be told more behind the labels
        free = (truth @ self.buffers[BOUND])[rows] == 0
        codes = augmented(codes, moves, free, self.options.augment, self.options.flip_rate)
        found, statistics = self.outputs(codes, train=True, key=drops)
        losses = jnp.stack([objective(logits, labels, weights) for logits in found.logits])
        beside = objective.feature_loss(found.features, labels, weights)
        whole = jnp.mean(losses) + beside
        if found.halt is not None:
            right = _right(found.logits, truth, exclusive=objective.loss.exclusive)
            own = objective.own_weights(labels, weights)
            whole = whole + self.options.halt_weight * _halting_loss(found.halt, right, own)
        return whole, losses[-1] if objective.other is None else losses[-1] + beside, statistics


def flat(tree: Tree) -> dict[str, Array]:
    """Return the arrays of a tree by dotted names."""
    found: dict[str, Array] = flatten_dict(dict(tree), sep=".")
    return found


def _right(logits: Array, labels: Array, *, exclusive: bool) -> Array:
    """Return (steps, batch), 1 where the answer of a step is that of the labels (batch, n_labels), all of them."""
    if exclusive:
        right = logits.argmax(axis=-1) == labels.argmax(axis=-1)[None]
    else:
        right = ((logits > 0) == (labels[None] > 0.5)).all(axis=-1)
    return right.astype(logits.dtype)


def _halting_loss(halt: Array, right: Array, weights: Array) -> Array:
    """Return the mean over steps, weighted over examples, of the binary cross-entropy of log-odds against `right`; 0
    without an example.
    """
    each, total = jax.nn.softplus(halt) - halt * right, jnp.sum(weights)
    return jnp.sum(each.mean(axis=0) * weights) / jnp.where(total > 0, total, 1)


def network_head(options: NetworkOptions, inputs: HeadInputs) -> NetworkHead:
    """Return an untrained network; raise InputError for maps of another size, or bound labels that are not there."""
    architecture = options.architecture()
    size, width = architecture.size, inputs.features.shape[1]
    if width != size * size:
        side = math.isqrt(width)
        dies = side * side == width
        found = f"maps of {side} x {side} dies: " if dies else f"{width} features: take maps, and "
        raise InputError(
            f"head {HEADS.name_of(type(options))} reads maps of {size} x {size} dies, got {found}"
            f"set data.backbone = dies_{size}"
        )
    params, statistics = architecture.initial(inputs.seed, inputs.n_labels)
    bound = _bound(options, inputs)
    buffers = {**flat(statistics), BOUND: jnp.asarray(bound)}
    named = {f"{PREFIX}{name}": value for name, value in flat(params).items()}
    return NetworkHead(named, buffers, inputs.n_labels, "float32", options)


def _bound(options: NetworkOptions, inputs: HeadInputs) -> np.ndarray:
    """Return (n_labels,) float32, 1 for the labels that `bound_labels` names."""
    bound = np.zeros(inputs.n_labels, np.float32)
    for name in filter(None, (part.strip() for part in options.bound_labels.split(","))):
        if inputs.label_names is None:
            continue  # a blank head, whose buffers a file fills
        if name not in inputs.label_names:
            raise InputError(f"`head.bound_labels` names {name}, and the labels are {', '.join(inputs.label_names)}")
        bound[inputs.label_names.index(name)] = 1
    return bound
