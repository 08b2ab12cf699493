"""What every head offers: named, grouped parameters and logits."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from qwafer._arrays import check_traced, real_array, shaped
from qwafer._checks import check_positive_int, check_shape
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.circuits import Circuit
from qwafer.engines import Program
from qwafer.features import Origin
from qwafer.heads._normalization import LENGTH, MEAN, SCALE, normalization, normalized
from qwafer.heads.size import Stored


class Halted(NamedTuple):
    """The answers of what halts: each example takes as many steps as it needs."""

    logits: np.ndarray
    """(N, n_labels), of the step at which each example's answer was final."""
    steps_used: np.ndarray
    """(N,) int64, from 1."""


class Head(eqx.Module):
    """A map from features (batch, D) to logits (batch, n_labels), as a JAX pytree.

    `params` holds what is trained and `buffers` what is not (standardisation, frozen projections, a frozen alpha),
    both by name. A name's part before the first dot is its group; classical layers belong to `projection`. A saved head
    is made again from zeros with another seed and given these arrays: other fields must not depend on data or seed.
    """

    params: dict[str, Array]
    buffers: dict[str, Array]
    n_labels: int = eqx.field(static=True)
    dtype: str = eqx.field(static=True)
    looped: ClassVar[bool] = True
    """Whether many steps go into one compiled loop. In the body of one, a convolution takes XLA's CPU
    backend 40 times as long."""

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels) of `features` (batch, D).

        `program` executes the circuit of a quantum head for exactly this batch size; classical heads ignore it. `key`
        drives dropout and is needed only with `train=True` and a positive rate.
        """
        raise TypeError(f"{type(self).__name__} must define logits")

    def __call__(
        self,
        features: Float[Array, "batch D"],
        program: Program | None = None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels) of `features` (batch, D); see `logits`."""
        return self.logits(features, program, key=key, train=train)

    def halted(self, features: Real[np.ndarray, "examples D"]) -> Halted | None:
        """Return the answers for `features` (N, D) at the step at which each is final, computed no further than that;
        None for a head that takes the same steps for all.
        """
        return None

    def compile_halted(self) -> None:
        """Compile every program that `halted` may call, whatever the number of examples."""

    def training_outputs(
        self,
        features: Float[Array, "batch D"],
        program: Program | None,
        *,
        weights: Float[Array, " batch"],
        key: jax.Array,
    ) -> tuple[Float[Array, "batch n_labels"], Array | None]:
        """Return the logits (batch, n_labels) in training, and what is added to the loss of the batch, if anything.

        `weights` (batch,) are those of the examples in the loss: what has weight 0 pads the batch.
        """
        return self.logits(features, program, key=key, train=True), None

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
        """Return what a step minimises, the part of it that is the objective, and the `statistics` after the step.

        `objective` is that of the run: logits, labels (batch, n_labels) and weights (batch,) to the loss of the batch.
        """
        logits, penalty = self.training_outputs(features, program, weights=weights, key=key)
        loss = objective(logits, labels, weights)
        return loss if penalty is None else loss + penalty, loss, self.statistics()

    def statistics(self) -> dict[str, Array]:
        """Return the buffers that training moves without a gradient, such as running means, by name."""
        return {}

    def n_features(self) -> int | None:
        """Return how many features of its own the head has, which may learn from a teacher's; None: it has none."""
        return None

    def array(self, name: str) -> Array:
        """Return the parameter or buffer called `name`; a buffer is frozen: its gradient is 0."""
        return self.params[name] if name in self.params else jax.lax.stop_gradient(self.buffers[name])

    def trainable(self) -> Any:
        """Return this head with True in place of every trainable array and False in place of every frozen one.

        It is the filter of a loop of your own, `eqx.partition(head, head.trainable())`: gradients of frozen arrays are
        0 anyway, but weight decay would move what is given to an optimiser.
        """
        frozen = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda head: head.params, frozen, dict.fromkeys(self.params, True))

    def parameters(self) -> dict[str, Array]:
        """Return the trainable arrays by name."""
        return dict(self.params)

    def with_parameters(self, params: Mapping[str, Array]) -> Any:
        """Return the same head with other values of its trainable arrays; raise InputError for other names or
        shapes.
        """
        if missing := [name for name in self.params if name not in params]:
            raise InputError(f"`params` must hold {', '.join(self.params)}; {missing[0]} is missing")
        for name, value in self.params.items():
            check_traced(name, params[name], value.shape)
        return eqx.tree_at(lambda head: head.params, self, {name: params[name] for name in self.params})

    def with_arrays(self, arrays: Mapping[str, Array]) -> Any:
        """Return the same head with other values of its trainable arrays and of its `statistics`."""
        buffers = {name: arrays.get(name, value) for name, value in self.buffers.items()}
        moved = self if not self.statistics() else eqx.tree_at(lambda head: head.buffers, self, buffers)
        return moved.with_parameters(arrays)

    def count(self) -> dict[str, int]:
        """Return the number of `trainable` parameters, and of those `frozen` in the head (statistics and frozen
        arrays); of a packed head all are frozen, the scales among them.
        """
        if self.is_packed:
            numbers = sum(part.numbers for part in self.stored().values())
            return {"trainable": 0, "frozen": numbers, "total": numbers}
        trainable = sum(math.prod(value.shape) for value in self.params.values())
        frozen = sum(math.prod(value.shape) for value in self.buffers.values())
        return {"trainable": trainable, "frozen": frozen, "total": trainable + frozen}

    def effective(self) -> int | None:
        """Return the number of trainable parameters that some logit depends on, whatever the data; None: not known."""
        return None

    @property
    def is_packed(self) -> bool:
        """Whether the head holds packed numbers in place of its parameters; see `packed`."""
        return False

    def packed(self) -> Any:
        """Return the head as it is stored and evaluated: itself, but where its numbers take fewer bits than its
        dtype.
        """
        return self

    def stored(self) -> dict[str, Stored]:
        """Return what a packed file holds of the head: the arrays by name, with their widths."""
        return {name: Stored.plain(value) for name, value in {**self.params, **self.buffers}.items()}

    def with_stored(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return this head with the arrays that `stored` has given; raise InputError for others."""
        self.check_stored(arrays)
        held = [{name: jnp.asarray(arrays[name]) for name in group} for group in (self.params, self.buffers)]
        return dataclasses.replace(self, params=held[0], buffers=held[1])

    def check_stored(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise InputError unless `arrays` have the names, shapes and types of those that `stored` gives."""
        expected = {name: part.array for name, part in self.stored().items()}
        for name in sorted({*expected, *arrays}):
            have, want = (
                f"{found[name].dtype} of shape {found[name].shape}" if name in found else "none"
                for found in (arrays, expected)
            )
            if have != want:
                raise InputError(f"the stored array `{name}` must be {want}, got {have}")

    @shaped(empty=True)
    def standardized(self, features: Real[Array, "batch D"]) -> Float[Array, "batch D"]:
        """Return the features as the head sees them, in its dtype: normalised as `head.normalize` says.

        Raises InputError for what are not real numbers of shape (batch, D).
        """
        features = jnp.asarray(features, self.dtype)
        if MEAN in self.buffers:
            check_shape("features", features, ("batch", self.buffers[MEAN].shape[0]))
        kept = (MEAN, SCALE, LENGTH)
        return normalized(features, {name: self.array(name) for name in kept if name in self.buffers})

    def layer(self, x: Float[Array, "batch n_in"], name: str) -> Float[Array, "batch n_out"]:
        """Return x W + b with W (n_in, n_out) the array `name`.weight and b (n_out,) the array `name`.bias.

        Raises InputError for `x`, such as features that are not standardised, of another width.
        """
        weight = self.array(f"{name}.weight")
        check_shape("features", x, ("batch", weight.shape[0]))
        return x @ weight + self.array(f"{name}.bias")[None, :]


@dataclasses.dataclass(frozen=True, eq=False)
class HeadInputs:
    """What an untrained head is made of, beside its own options."""

    features: np.ndarray
    """(M, D) features of the training split, as they are."""
    n_labels: int
    """Labels, or exclusive classes."""
    seed: int
    """The run's seed; see `draw`."""
    dtype: str
    """Precision of the head: that of its circuit, `float32` for a classical head."""
    buffers: dict[str, Array]
    """The normalisation, for the buffers of the head; empty where it sees features as they are."""
    circuit: Circuit | None = None
    """The circuit, for heads that run one."""
    label_names: tuple[str, ...] | None = None
    """The labels by name, where they are known."""
    origin: Origin | None = None
    """What made the features, for heads that go on with it; None: not known."""

    def standardized(self) -> np.ndarray:
        """Return the features (M, D) as the head sees them, float64."""
        buffers = {name: np.asarray(value, np.float64) for name, value in self.buffers.items()}
        return np.asarray(normalized(self.features.astype(np.float64), buffers))


def head_inputs(
    features: np.ndarray,
    n_labels: int,
    seed: int,
    circuit: Circuit | None = None,
    *,
    normalize: str = "standard",
    label_names: tuple[str, ...] | None = None,
    origin: Origin | None = None,
) -> HeadInputs:
    """Return the inputs of a head for training features (M, D), checked; raise InputError for unusable ones.

    `normalize` is `standard`, `min_max`, `l2` or `raw`; see `head.normalize`. `origin` is `FeatureSet.origin`.
    """
    check_positive_int("n_labels", n_labels)
    values = real_array("features", features, ("examples", "D"), finite=True)
    if 0 in values.shape:
        raise InputError(f"`features` must have shape (examples, D) with at least one of each, got {values.shape}")
    dtype = "float32" if circuit is None else circuit.dtype
    buffers = {name: rounded(value, dtype) for name, value in normalization(values, normalize, dtype).items()}
    return HeadInputs(values, n_labels, seed, dtype, buffers, circuit, label_names, origin)


def draw(seed: int, name: str, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Array:
    """Return the initial normal values of the parameter `name`, of standard deviation `scale`.

    They depend on the seed, the name and the shape alone, so that two arms share the start of every parameter that
    both have.
    """
    values = np.random.default_rng(key_seed(seed, f"parameter/{name}")).standard_normal(shape)
    return rounded(scale * values, dtype)


def draw_uniform(seed: int, name: str, shape: tuple[int, ...], dtype: str, low: float, high: float) -> Array:
    """Return initial values of the parameter `name` that are uniform between `low` and `high`; see `draw`."""
    return rounded(np.random.default_rng(key_seed(seed, f"parameter/{name}")).uniform(low, high, shape), dtype)


def rounded(values: Any, dtype: str) -> Array:
    """Return `values` as an array of JAX, rounded by NumPy: JAX would compile a program for each shape to do so."""
    return jnp.asarray(np.asarray(values, dtype))


def group_of(name: str) -> str:
    """Return the optimiser group of the parameter `name`."""
    return name.split(".", 1)[0]
