"""`Trm`: the tiny recursive network of `trm_module` with its options, from maps to logits of every supervision step."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array

from qwafer._checks import LARGEST_SEED, check_positive_int
from qwafer._io import key_seed
from qwafer.backbones.checkpoints import check_fit
from qwafer.backbones.keys import Shapes
from qwafer.networks.head import Outputs, Tree
from qwafer.networks.options import TrmShape
from qwafer.networks.trm_module import CODES, Core, State, embedded, improved, pooled
from qwafer.networks.wafercnn_module import WaferImages


@dataclass(frozen=True)
class Trm(TrmShape):
    """A tiny recursive network; an `Architecture`.

    T supervision steps follow each other, each z <- f(x + y + z), n times, and y <- f(y + z), from y = z = 0, with x
    the embedded map and f the layers. Logits and halting logit of a step read the mean of y over the dies of the wafer.
    Source: Jolicoeur-Martineau 2025, arXiv:2510.04871.
    """

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

    def initial(self, seed: int, n_labels: int) -> tuple[Tree, Tree]:
        """Return initial parameters, and no statistics.

        Kernels are normal with variance 1 / fan-in, from a stream of their own each; the vectors of dies are such that
        a token's sum has variance 1. What ends a mixer or a SwiGLU is smaller by the root of how many of them a step
        adds up, 2 layers (n + 1), without which a recursion this deep hardly learns (the scaling of GPT-2, Radford et
        al. 2019, with the recursions as depth). The halting logit starts at `halt_bias` for every map.
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
            if key.endswith((".down", ".outward")):
                fan_in *= 2 * self.layers * (self.recursions + 1)
            rng = np.random.default_rng(key_seed(seed, f"trm/{key}"))
            return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

        return _tree({key: drawn(key, shape) for key, shape in self.shapes(n_labels).items()}), {}

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

        state = improved(f, params["core"], state, self.recursions, self.n_constant)
        read = pooled(state)
        logits, halt = (read @ params[name]["kernel"] + params[name]["bias"][None] for name in ("head", "halt"))
        return state, logits, halt[:, 0]

    def outputs(
        self, params: Tree, statistics: Tree, codes: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Outputs, Tree]:
        """Return logits and halting logits of all steps, and the features of the last, of codes (batch, size, size).

        A pure function, to be traced by JAX; the same in training and after it, for there is nothing random in it.
        """

        def step(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
            state, logits, halt = self.advance(params, state)
            return state, (logits, halt)

        state, (logits, halt) = lax.scan(step, self.begin(params, codes), length=self.supervision_steps)
        return Outputs(logits, pooled(state), halt), statistics

    def tensors(self, params: Tree, statistics: Tree) -> dict[str, np.ndarray]:
        """Return what a file holds: {key: tensor}."""
        return {key: np.asarray(value) for key, value in flatten_dict(params, sep=".").items()}

    def restored(self, tensors: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
        """Return parameters and no statistics of what `tensors` gave; other keys of a file are left out.

        Raises InputError where tensors are missing or of other shapes, as those of other options are.
        """
        bias = tensors.get("head.bias")
        wanted = self.shapes(1 if bias is None or bias.ndim != 1 else len(bias))
        check_fit(tensors, wanted, "trm with these options", ("training.",), dict)
        return _tree({key: tensors[key] for key in wanted}), {}


def _core(options: Trm) -> Core:
    return Core(options.layers, options.mixer, options.n_heads, options.expansion)


@functools.cache
def _core_shapes(options: Trm) -> Shapes:
    """Return {key: shape} of the layers' tensors."""
    tokens = jax.ShapeDtypeStruct((options.side**2, 1, options.width), jnp.float32)
    tree = jax.eval_shape(_core(options).init, jax.random.key(0), tokens)["params"]
    return {key: leaf.shape for key, leaf in flatten_dict(tree, sep=".").items()}


def _tree(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return unflatten_dict({key: jnp.asarray(value, jnp.float32) for key, value in tensors.items()}, sep=".")
