"""`Trm`: the tiny recursive network of `trm_module` with its options, from maps to logits of every supervision step."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array

from qwafer._checks import LARGEST_SEED, check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer._io import key_seed
from qwafer.backbones import Extractor
from qwafer.backbones.checkpoints import Checkpoint, check_fit, read_checkpoint
from qwafer.backbones.keys import Shapes
from qwafer.backbones.trained import recorded_split
from qwafer.networks.trm_module import CODES, Core, State, embedded, improved, pooled
from qwafer.networks.wafercnn_module import WaferImages

MIXERS = ("attention", "mlp")
LARGEST_SIDE = 64
"""Tokens a side of a map, at most."""
DEPTH = 16
"""Channels per head, where the heads are not given."""
COMPUTE_BATCH = 32
"""Maps per call of the frozen network."""


class Outputs(NamedTuple):
    """What a network says of a batch."""

    logits: Array
    """(steps, batch, n_labels), one entry per supervision step."""
    features: Array
    """(batch, D) of the last step: what a head on the frozen network reads."""
    halt: Array | None = None
    """(steps, batch): logit of the probability that the answer of the step is right."""


@dataclass(frozen=True)
class Trm:
    """A tiny recursive network; a `Network`.

    T supervision steps follow each other, each z <- f(x + y + z), n times, and y <- f(y + z), from y = z = 0, with x
    the embedded map and f the layers. Logits and halting logit of a step read the mean of y over the dies of the wafer.
    Source: Jolicoeur-Martineau 2025, arXiv:2510.04871.
    """

    size: int = 26
    """Dies a side, to which maps are brought by nearest neighbour."""
    patch: int = 2
    """Dies a side of a token."""
    width: int = 64
    """Channels of a token."""
    mixer: str = "mlp"
    """What mixes tokens: `mlp`, a SwiGLU over them, or `attention` with rotary embedding of rows and columns."""
    heads: int | None = None
    """Heads of the attention; unset: as many as give 16 channels each."""
    layers: int = 2
    """Layers of f."""
    supervision_steps: int = 3
    """T, the steps that are trained to answer, and after each of which the network may halt."""
    recursions: int = 6
    """n, the changes of z per step."""
    expansion: int = 2
    """Hidden units of a SwiGLU, over the number of its inputs."""
    no_gradient: int = 0
    """First recursions of a step through which no gradient flows: cheaper to train. 0: it flows through all."""
    halt_bias: float = -3.0
    """Initial bias of the halting logit; negative: the network starts deep, and learns to halt."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("size", self.size, minimum=2, maximum=2048)
        check_positive_int("patch", self.patch, maximum=2048)
        if self.size % self.patch:
            raise InputError(f"`patch` must divide `size` = {self.size}, got {self.patch}")
        if not 2 <= self.side <= LARGEST_SIDE:
            raise InputError(f"`size` / `patch` must lie in [2, {LARGEST_SIDE}], got {self.size} / {self.patch}")
        check_positive_int("width", self.width, maximum=4096)
        check_choice("mixer", self.mixer, MIXERS)
        if self.heads is not None:
            check_positive_int("heads", self.heads, maximum=4096)
            if self.mixer != "attention":
                raise InputError("`heads` has no effect with the mixer mlp, which has none: leave it out")
        if self.mixer == "attention" and self.width % (4 * self._heads):
            raise InputError(
                f"`width` per head must be a multiple of 4, which the rotary embedding turns in two pairs, got "
                f"{self.width} / {self._heads}"
            )
        check_positive_int("layers", self.layers, maximum=64)
        check_positive_int("supervision_steps", self.supervision_steps, maximum=64)
        check_positive_int("recursions", self.recursions, maximum=1024)
        check_positive_int("expansion", self.expansion, maximum=16)
        check_positive_int("no_gradient", self.no_gradient, minimum=0)
        if self.no_gradient >= self.recursions:
            raise InputError(
                f"`no_gradient` must be less than `recursions` = {self.recursions}, or the embedding would learn "
                f"nothing, got {self.no_gradient}"
            )
        check_interval("halt_bias", self.halt_bias, -20, 20)

    @property
    def side(self) -> int:
        """Tokens a side."""
        return self.size // self.patch

    @property
    def _heads(self) -> int:
        return max(1, self.width // DEPTH) if self.heads is None else self.heads

    def n_parameters(self, n_labels: int) -> int:
        """Return how many numbers are trained for `n_labels` labels."""
        return sum(int(np.prod(shape)) for shape in self.shapes(n_labels).values())

    def shapes(self, n_labels: int) -> Shapes:
        """Return {key: shape} of the tensors."""
        core = {f"core.{key}": shape for key, shape in _core_shapes(self).items()}
        return {
            "embedding": (self.patch**2 * CODES, self.width),
            **core,
            "head.kernel": (self.width, n_labels),
            "head.bias": (n_labels,),
            "halt.kernel": (self.width, 1),
            "halt.bias": (1,),
        }

    def codes(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, size, size) uint8 of n maps of any shapes, by nearest neighbour."""
        return WaferImages(self.size).codes(maps)

    def initial(self, seed: int, n_labels: int) -> tuple[dict[str, Any], tuple[()]]:
        """Return initial parameters, and no statistics.

        Kernels are normal with variance 1 / fan-in, from a stream of their own each; the vectors of dies are such that
        a token's sum has variance 1. The halting logit starts at `halt_bias` for every map.
        """
        check_positive_int("seed", seed, minimum=0, maximum=LARGEST_SEED)
        check_positive_int("n_labels", n_labels)

        def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
            if key == "halt.bias":
                return np.full(shape, self.halt_bias, np.float32)
            if key.endswith("scale"):
                return np.ones(shape, np.float32)
            if key.endswith("bias") or key == "halt.kernel":
                return np.zeros(shape, np.float32)
            fan_in = self.patch**2 if key == "embedding" else shape[0]
            rng = np.random.default_rng(key_seed(seed, f"trm/{key}"))
            return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

        return _tree({key: drawn(key, shape) for key, shape in self.shapes(n_labels).items()}), ()

    def begin(self, params: Mapping[str, Any], codes: Array) -> State:
        """Return the state before the first step, y = z = 0, of codes (batch, size, size)."""
        return embedded(params["embedding"], codes, self.patch)

    def advance(self, params: Mapping[str, Any], state: State) -> tuple[State, Array, Array]:
        """Return the state after one more supervision step, its logits (batch, n_labels) and halting logits (batch,).

        What comes in of y and z is a constant to the gradient.
        """
        core = _core(self)

        def f(weights: Any, h: Array) -> Array:
            return core.apply({"params": weights}, h)

        state = improved(f, params["core"], state, self.recursions, self.no_gradient)
        read = pooled(state)
        logits, halt = (read @ params[name]["kernel"] + params[name]["bias"][None] for name in ("head", "halt"))
        return state, logits, halt[:, 0]

    def outputs(
        self, params: Any, statistics: tuple[()], codes: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Outputs, tuple[()]]:
        """Return logits and halting logits of all steps, and the features of the last, of codes (batch, size, size).

        A pure function, to be traced by JAX; the same in training and after it, for there is nothing random in it.
        """

        def step(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
            state, logits, halt = self.advance(params, state)
            return state, (logits, halt)

        state, (logits, halt) = lax.scan(step, self.begin(params, codes), length=self.supervision_steps)
        return Outputs(logits, pooled(state), halt), statistics

    def tensors(self, params: Any, statistics: tuple[()]) -> dict[str, np.ndarray]:
        """Return what a file holds: {key: tensor}."""
        return {key: np.asarray(value) for key, value in flatten_dict(params, sep=".").items()}

    def restored(self, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], tuple[()]]:
        """Return parameters and no statistics of what `tensors` gave; other keys of a file are left out.

        Raises InputError where tensors are missing or of other shapes, as those of other options are.
        """
        bias = tensors.get("head.bias")
        wanted = self.shapes(1 if bias is None or bias.ndim != 1 else len(bias))
        check_fit(tensors, wanted, "trm with these options", ("training.",), dict)
        return _tree({key: tensors[key] for key in wanted}), ()

    def extractor(self, weights: str | Path | Checkpoint) -> Extractor:
        """Return the frozen network with `weights`: features (n, width) are the mean of y over the wafer's dies, after
        the last step.

        Raises InputError for weights of other options, or of another network.
        """
        checkpoint = weights if isinstance(weights, Checkpoint) else read_checkpoint(weights)
        params, statistics = self.restored(checkpoint.state)

        @jax.jit
        def read(codes: Array) -> Array:
            with jax.default_matmul_precision("highest"):
                return self.outputs(params, statistics, codes, train=False)[0].features

        def run(maps: Sequence[np.ndarray], size: int) -> np.ndarray:
            codes = self.codes(maps)
            padded = np.concatenate([codes, np.zeros((size - len(codes), self.size, self.size), np.uint8)])
            return np.asarray(read(padded))[: len(codes)]

        return Extractor(
            "trm",
            COMPUTE_BATCH,
            {
                "weights": checkpoint.record,
                "random_weights": checkpoint.record.get("random_weights"),
                "preprocessing": {"size": self.size, "resize": "nearest neighbour, pixel centres"},
                "network": asdict(self),
                "dtype": "float32",
                "device": {"platform": jax.devices()[0].platform, "count": 1},
                "versions": {package.__name__: package.__version__ for package in (jax, flax)},
            },
            lambda maps: run(maps, COMPUTE_BATCH),
            split=recorded_split(checkpoint.state),
            state=checkpoint.state,
            quick=lambda maps: run(maps, min(COMPUTE_BATCH, 1 << (len(maps) - 1).bit_length())),
        )


def _core(options: Trm) -> Core:
    return Core(options.layers, options.mixer, options._heads, options.expansion)


@functools.cache
def _core_shapes(options: Trm) -> Shapes:
    """Return {key: shape} of the layers' tensors."""
    tokens = jax.ShapeDtypeStruct((options.side**2, 1, options.width), jnp.float32)
    tree = jax.eval_shape(_core(options).init, jax.random.key(0), tokens)["params"]
    return {key: leaf.shape for key, leaf in flatten_dict(tree, sep=".").items()}


def _tree(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return unflatten_dict({key: jnp.asarray(value, jnp.float32) for key, value in tensors.items()}, sep=".")
