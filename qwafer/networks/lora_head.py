"""`LoraHead`: the rest of a network that was cut, frozen, with low-rank adapters, then a linear map."""

import functools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from qwafer._arrays import check_traced
from qwafer._errors import InputError
from qwafer._process import compiler_options
from qwafer.backbones.adapters import Adapters, Place, change, chosen, rank_within
from qwafer.backbones.checkpoints import unpacked_tensors
from qwafer.backbones.keys import parameter_tree
from qwafer.backbones.layers import Staged
from qwafer.backbones.pretrained import Architecture, architecture
from qwafer.backbones.registry import BACKBONES, parted
from qwafer.features import Origin
from qwafer.heads import HeadInputs, draw
from qwafer.heads._base import rounded
from qwafer.heads._classical import ClassicalHead
from qwafer.heads._normalization import normalization

if TYPE_CHECKING:
    from qwafer.engines import Program
    from qwafer.networks.lora import LoraOptions

NETWORK, LINEAR, GROUP = "network.", "projection.linear", "projection."
"""Prefix of the buffers of the frozen network, name of the linear map, prefix of the adapters."""
BATCH = 256
"""Examples per call where the statistics of the frozen network's features are taken."""


class LoraHead(ClassicalHead):
    """l = V^T z + c, z the standardised features of a network that goes on from the stage before which it was cut.

    Every adapted kernel, as a matrix W (n_in, n_out), is applied as W + (scale / r) A B with A (n_in, r), B (r, n_out)
    and B = 0 at the start (LoRA: Hu et al. 2021, arXiv 2106.09685): the untrained head is the frozen network behind a
    linear map. W, every other weight of the network, and the mean and standard deviation of the frozen network's
    features on the training split are buffers; A, B, V and c are trained.
    """

    module: Staged = eqx.field(static=True)
    """The network."""
    stage: str = eqx.field(static=True)
    """The stage before which it was cut."""
    shape: tuple[int, ...] = eqx.field(static=True)
    """(H, W, C) of an example."""
    scale: float = eqx.field(static=True)
    """Factor of the changes."""
    looped: ClassVar[bool] = False

    def logits(
        self,
        features: Float[Array, "batch D"],
        program: "Program | None",
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n_labels"]:
        """Return the logits (batch, n_labels) of what entered the stage, flattened; see `Head.logits`."""
        return self.layer(self.standardized(self.network_features(features)), LINEAR)

    def network_features(self, features: Float[Array, "batch D"]) -> Float[Array, "batch F"]:
        """Return the features (batch, F) of the adapted network, of examples (batch, D) as they enter the stage."""
        width = int(np.prod(self.shape))
        check_traced("features", features, ("batch", width))
        kernels = {name.removeprefix(NETWORK): self.array(name) for name in self.buffers if name.startswith(NETWORK)}
        for name, (a, b) in self.matrices().items():
            kernel = kernels[f"{name}/kernel"]
            with jax.default_matmul_precision("highest"):
                kernels[f"{name}/kernel"] = kernel + change(a, b, self.scale, kernel.shape)
        return _forward(self.module, self.stage, self.shape, kernels, jnp.asarray(features, self.dtype))

    def matrices(self) -> dict[str, tuple[Array, Array]]:
        """Return {layer: (A (n_in, r), B (r, n_out))} of the adapters."""
        names = [name.removeprefix(GROUP).removesuffix(".a") for name in self.params if name.endswith(".a")]
        return {name: (self.params[f"{GROUP}{name}.a"], self.params[f"{GROUP}{name}.b"]) for name in names}

    def adapters(self, provenance: Mapping[str, Any], ids: Mapping[str, np.ndarray]) -> Adapters:
        """Return the adapters alone, for a file; `provenance` is that of the features, `ids` are those of `Adapters`.

        Raises InputError for a head without adapters, or features that were not those of a network that was cut.
        """
        matrices = {name: (np.asarray(a), np.asarray(b)) for name, (a, b) in self.matrices().items()}
        if not matrices:
            raise InputError("the head has no adapters: its rank is 0")
        name, _, _ = _cut(Origin(provenance, None))
        return Adapters(name, dict(provenance["weights"]), self.scale, matrices, dict(ids))


def lora_head(options: "LoraOptions", inputs: HeadInputs) -> LoraHead:
    """Return an untrained `LoraHead`: A normal of standard deviation 1 / sqrt(n_in), B 0, the linear map that of head
    `linear` on the whole network's features.

    Raises InputError for features that are not those of a network that was cut, layers that cannot be adapted, or a
    budget below rank 1.
    """
    name, stage, shape = _cut(inputs.origin)
    width = int(np.prod(shape))
    if inputs.features.shape[1] != width:
        raise InputError(
            f"the features are said to be of shape {shape}, {width} each, and there are {inputs.features.shape[1]}"
        )
    assert inputs.origin is not None
    blank = inputs.origin.network is not None and not inputs.origin.network.size
    state = None if blank else _state(inputs.origin, name)
    form = architecture(name, state)
    tree, n_features = _rest(form.module, stage, shape)
    places = _places(form, tree)
    if state is not None:
        whole = flatten_dict(parameter_tree(form.table, state), sep="/")
        tree = {path: whole[path] for path in tree}
    buffers = {f"{NETWORK}{path}": jnp.asarray(value) for path, value in tree.items()}
    statistics = np.zeros((1, n_features), np.float32)
    if not blank:
        frozen = {path: jnp.asarray(value) for path, value in tree.items()}
        statistics = _features_of(form.module, stage, shape, frozen, inputs.features)
    for kind, value in normalization(statistics, "standard", inputs.dtype).items():
        buffers[kind] = rounded(value, inputs.dtype)
    params = {
        f"{LINEAR}.weight": draw(
            inputs.seed, f"{LINEAR}.weight", (n_features, inputs.n_labels), inputs.dtype, n_features**-0.5
        ),
        f"{LINEAR}.bias": rounded(np.zeros(inputs.n_labels), inputs.dtype),
    }
    params |= _adapters(options, places, (n_features + 1) * inputs.n_labels, inputs)
    return LoraHead(params, buffers, inputs.n_labels, inputs.dtype, form.module, stage, shape, float(options.scale))


def _adapters(
    options: "LoraOptions", places: tuple[Place, ...], others: int, inputs: HeadInputs
) -> dict[str, jax.Array]:
    """Return the initial adapters beside `others` parameters."""
    if options.rank == 0 and options.budget is None:
        return {}
    wanted = chosen(places, options.layers)
    rank = options.rank if options.budget is None else rank_within(wanted, options.budget, others)
    params = {}
    for place in wanted:
        name, own = f"{GROUP}{place.name}", place.rank(rank)
        params[f"{name}.a"] = draw(inputs.seed, f"{name}.a", (place.n_in, own), inputs.dtype, place.n_in**-0.5)
        params[f"{name}.b"] = rounded(np.zeros((own, place.n_out)), inputs.dtype)
    return params


def _cut(origin: Origin | None) -> tuple[str, str, tuple[int, ...]]:
    """Return the network that made features, the stage before which it was cut, and the shape of an example."""
    provenance = {} if origin is None else origin.provenance
    name, cut = provenance.get("backbone"), provenance.get("cut")
    if not isinstance(cut, Mapping) or not isinstance(name, str):
        made = f"features of {name}" if isinstance(name, str) else "features of unknown origin"
        raise InputError(
            f"head lora goes on with a network that was cut, and these are {made}: take maps, and a backbone such as "
            "wafercnn@block2"
        )
    whole, stage = parted(name)
    shape: Any = cut.get("shape")
    sides = isinstance(shape, (list, tuple)) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if whole not in BACKBONES.names or stage != cut.get("stage") or not sides:
        raise InputError(f"the features do not tell how their network was cut: backbone {name}, cut {dict(cut)}")
    return whole, str(stage), tuple(shape)


def _state(origin: Origin, name: str) -> dict[str, np.ndarray]:
    """Return the weights that came with features."""
    if origin.network is None:
        raise InputError(
            f"the features of {name} do not hold the weights of the network, with which head lora goes on: extract "
            "them again, or keep `FeatureSet.network`"
        )
    state = unpacked_tensors(origin.network)
    for key, shape in architecture(name, state).shapes.items():
        if key not in state or state[key].shape != shape:
            raise InputError(f"the weights that came with the features do not fit {name}: {key} should be {shape}")
    return state


def _rest(module: Staged, stage: str, shape: tuple[int, ...]) -> tuple[dict[str, np.ndarray], int]:
    """Return the parameters of the stages from `stage` on, all zero, by path, and the number of features."""

    def rest(x: Array) -> Any:
        variables = module.init(jax.random.key(0), x, begin=stage)
        return variables["params"], module.apply({"params": variables["params"]}, x, begin=stage)

    params, features = jax.eval_shape(rest, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    tree = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flatten_dict(params, sep="/").items()}
    return tree, int(features.shape[1])


def _places(form: Architecture, tree: Mapping[str, np.ndarray]) -> tuple[Place, ...]:
    """Return the layers among those of `tree` that may be adapted, in the order of the network."""
    found = {}
    for path in form.table:
        name = "/".join(path)
        kernel = tree.get(f"{name}/kernel")
        if kernel is not None:
            found[name] = Place(name, int(np.prod(kernel.shape[:-1])), kernel.shape[-1])
    names = [name for name in found if any(fnmatchcase(name, pattern) for pattern in form.adapted)]
    return tuple(found[name] for name in names)


def _forward(
    module: Staged, stage: str, shape: tuple[int, ...], weights: Mapping[str, Array], features: Array
) -> Array:
    """Return the features (batch, F) of a network with `weights` by path, of what enters `stage` (batch, D)."""
    tree = unflatten_dict(dict(weights), sep="/")
    with jax.default_matmul_precision("highest"):  # else ten bits of mantissa in the matrix units of recent GPUs
        return module.apply({"params": tree}, features.reshape(-1, *shape), begin=stage)


def _features_of(
    module: Staged, stage: str, shape: tuple[int, ...], weights: Mapping[str, Array], features: np.ndarray
) -> np.ndarray:
    """Return the features (M, F) of examples (M, D), `BATCH` at a time."""
    run = _compiled(module, stage, shape)
    parts = []
    for start in range(0, len(features), BATCH):
        part = np.asarray(features[start : start + BATCH], np.float32)
        padded = np.pad(part, ((0, BATCH - len(part)), (0, 0)))
        parts.append(np.asarray(run(weights, padded))[: len(part)])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=8)
def _compiled(module: Staged, stage: str, shape: tuple[int, ...]) -> Callable[..., Array]:
    forward = functools.partial(_forward, module, stage, shape)
    return jax.jit(forward, compiler_options=compiler_options())
