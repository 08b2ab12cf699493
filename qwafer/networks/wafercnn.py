"""WaferCNN as a `Network`: trained on the training split only, with label-preserving augmentation, then frozen."""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from qwafer._checkpoints import Checkpoints, remove_checkpoints
from qwafer._checks import LARGEST_SEED, check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError, RecordError
from qwafer._io import canonical_json, jsonable, key_seed, read_or_set_aside
from qwafer._reading import reads
from qwafer.backbones import Extractor
from qwafer.backbones.checkpoints import read_tensors, write_tensors
from qwafer.backbones.layers import Images, global_mean
from qwafer.backbones.trained import id_tensors
from qwafer.data import Split, WaferMaps, make_split
from qwafer.execution.job import OnProgress, Progress
from qwafer.networks.wafercnn_module import CHANNELS, FROZEN, N_INPUTS, WaferImages, channels, quarters

RECORD = "qwafer_training"
"""Key of the metadata that say how weights were trained."""
EPS = 1e-5
MOMENTUM = 0.05
"""Weight of a batch in the running mean and variance."""
STREAMS = ("batches", "augmentation")
"""Random streams that go on from epoch to epoch."""
Step = Callable[..., tuple[Any, Any, Any]]


@dataclass(frozen=True)
class WaferCNN:
    """How WaferCNN is trained; a `Network`."""

    seed: int = 0
    """Seed of the split, the initial weights, the batches and the augmentation."""
    split_by: str = "content"
    """How the split is made: `content`, `group` (whole lots together) or `time`; see `make_split`."""
    epochs: int = 12
    """Passes over the training split."""
    batch_size: int = 32
    """Maps per step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; it rises over the first tenth of the steps and falls to zero (one cycle)."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of the convolution kernels."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("seed", self.seed, minimum=0, maximum=LARGEST_SEED)
        check_choice("split_by", self.split_by, ("content", "group", "time"))
        check_positive_int("epochs", self.epochs, maximum=1_000_000)
        check_positive_int("batch_size", self.batch_size, maximum=1_000_000)
        check_interval("learning_rate", self.learning_rate, 0, 1, open_low=True)
        check_interval("weight_decay", self.weight_decay, 0, 1)

    def train(self, maps: WaferMaps, path: str | Path, progress: OnProgress | None = None) -> Path:
        """Train on the training split of `maps`, write the weights to `path` (safetensors) and return it.

        Minimised is the mean binary cross-entropy over labels; every map is turned and mirrored at random (eight ways,
        none of which changes a label). Beside the weights, the file records the options, the sha256 of the data, the
        digest of the split and the content ids of its training and validation maps, so that features carry the split
        along.

        A `path` that holds weights of the same training is returned as it is; one of another is refused, one that is
        damaged is set aside with a warning. Every epoch leaves a checkpoint in `PATH.parts`, from which a killed
        training resumes, bit for bit; they go when the weights are there.

        Raises:
            InputError: a file that is in the way, or data that cannot be split.
        """
        path = Path(path)
        split = make_split(
            maps.labels, maps.content_ids, seed=self.seed, by=self.split_by, groups=maps.groups, times=maps.times
        )
        data = {"source": maps.source, "sha256": maps.sha256}
        record = jsonable({"options": asdict(self), "data": data, "split": split.digest, "labels": maps.label_names})
        parts = path.with_name(f"{path.name}.parts")
        found = read_or_set_aside(training_record, path, damage=RecordError)
        if found is None:
            checkpoints = Checkpoints(parts, record)
            state = _fit(maps, split, self, progress, checkpoints) | id_tensors(split, maps.content_ids)
            write_tensors(path, state, {RECORD: json.dumps(record)})
        elif canonical_json(found.get(RECORD)) != canonical_json(record):
            raise InputError(f"{path} exists and holds other weights: delete it, or choose another path")
        remove_checkpoints(parts)
        return path

    def extractor(self, weights: str | Path, dtype: str | None = None) -> Extractor:
        """Return the frozen network with `weights`."""
        return FROZEN(weights, dtype=dtype)


@reads("is not a safetensors file, or a damaged one", error=RecordError)
def training_record(path: Path) -> dict[str, Any]:
    """Return what `path` says about its training, under `RECORD`; nothing for weights that say nothing.

    Raises RecordError where `WaferCNN.train` wrote the file, and it is damaged.
    """
    try:
        metadata = read_tensors(path)[1]
        return {RECORD: json.loads(metadata[RECORD])} if RECORD in metadata else {}
    except InputError as error:
        with path.open("rb") as file:
            head = file.read(4096)
        if not head or RECORD.encode() in head:
            raise
        raise InputError(f"{path} is in the way of the weights ({error}): choose another path") from error


def _fit(
    maps: WaferMaps,
    split: Split,
    options: WaferCNN,
    progress: OnProgress | None,
    checkpoints: Checkpoints | None = None,
) -> dict[str, np.ndarray]:
    """Return the checkpoint, in torch's layouts, of a WaferCNN that is trained on `split.train`."""
    codes = WaferImages().codes([maps.maps[i] for i in split.train])
    labels = maps.labels[split.train].astype(np.float32)
    size = min(options.batch_size, len(codes))
    steps = len(codes) // size * options.epochs
    optimizer, step = _program(steps, options.learning_rate, options.weight_decay)
    parameters = _initial(options.seed, labels.shape[1])
    statistics = [(jnp.zeros(n, jnp.float32), jnp.ones(n, jnp.float32)) for n in CHANNELS]
    moments = optimizer.init(parameters)
    streams = {name: np.random.default_rng(key_seed(options.seed, f"wafercnn/{name}")) for name in STREAMS}
    first = 0
    found = checkpoints and checkpoints.latest((parameters, statistics, moments))
    if found:
        first, (parameters, statistics, moments), states = found
        for name, stream in streams.items():
            stream.bit_generator.state = states[name]
    done = len(codes) // size * first
    for epoch in range(first, options.epochs):
        shuffled = streams["batches"].permutation(len(codes))
        for start in range(0, len(codes) - size + 1, size):
            rows = shuffled[start : start + size]
            batch = augmented(codes[rows], streams["augmentation"])
            parameters, statistics, moments = step(parameters, statistics, moments, batch, labels[rows])
            done += 1
            if progress is not None:
                progress(Progress("training", done * size, steps * size, text="wafercnn"))
        if checkpoints:
            states = {name: stream.bit_generator.state for name, stream in streams.items()}
            checkpoints.save(epoch + 1, (parameters, statistics, moments), states)
    return _state(parameters, statistics)


@functools.cache
def _program(steps: int, learning_rate: float, weight_decay: float) -> tuple[optax.GradientTransformation, Step]:
    """Return optimiser and compiled step: (parameters, statistics, moments, codes, labels) -> the first three anew."""
    schedule = optax.cosine_onecycle_schedule(max(steps, 2), learning_rate, pct_start=0.1)
    optimizer = optax.adamw(schedule, weight_decay=weight_decay, mask=_decayed)

    @jax.jit
    def step(parameters: Any, statistics: Any, moments: Any, codes: Array, labels: Array) -> tuple[Any, Any, Any]:
        def loss(parameters: Any) -> tuple[Array, Any]:
            logits, seen = _forward(parameters, channels(codes, jnp))
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), seen

        gradient, seen = jax.grad(loss, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradient, moments, parameters)
        weight = jnp.asarray(MOMENTUM, jnp.float32)
        statistics = jax.tree.map(lambda old, new: old + weight * (new - old), statistics, seen)
        return optax.apply_updates(parameters, updates), statistics, moments

    return optimizer, step


def augmented(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (n, size, size) codes, each turned by a random multiple of 90 degrees and mirrored or not."""
    choice = rng.integers(0, 8, len(codes))
    result = np.empty_like(codes)
    for element in range(8):
        members = choice == element
        turned = np.rot90(codes[members], element % 4, axes=(1, 2))
        result[members] = turned[:, :, ::-1] if element >= 4 else turned
    return result


def _initial(seed: int, n_labels: int) -> dict[str, Any]:
    """He-normal kernels, each from a stream of its own."""

    def normal(name: str, shape: tuple[int, ...], fan_in: int) -> Array:
        rng = np.random.default_rng(key_seed(seed, f"wafercnn/{name}"))
        return jnp.asarray(rng.standard_normal(shape) * np.sqrt(2 / fan_in), jnp.float32)

    widths = (N_INPUTS, *CHANNELS)
    blocks = [
        {
            "kernel": normal(f"block{i}", (3, 3, widths[i], widths[i + 1]), 9 * widths[i]),
            "scale": jnp.ones(widths[i + 1], jnp.float32),
            "bias": jnp.zeros(widths[i + 1], jnp.float32),
        }
        for i in range(len(CHANNELS))
    ]
    head = {"kernel": normal("head", (CHANNELS[-1], n_labels), CHANNELS[-1]), "bias": jnp.zeros(n_labels, jnp.float32)}
    return {"blocks": blocks, "head": head}


def _decayed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Weight decay belongs to kernels, not to scales and biases."""
    return jax.tree.map(lambda array: array.ndim > 1, parameters)


def _forward(parameters: dict[str, Any], x: Images) -> tuple[Float[Array, "batch labels"], Any]:
    """Return logits, and the mean and variance of each normalisation."""
    seen = []
    for block in parameters["blocks"]:
        x = lax.conv_general_dilated(
            x, block["kernel"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x, *moments = norm_pool_relu(x, block["scale"], block["bias"])
        seen.append(tuple(moments))
    head = parameters["head"]
    return global_mean(x) @ head["kernel"] + head["bias"][None], seen


@jax.custom_vjp
def norm_pool_relu(x: Images, scale: Array, bias: Array) -> tuple[Images, Array, Array]:
    """Return relu(max over 2 x 2 of (x - mean) / sqrt(var + eps) * scale + bias), and mean and variance over the batch.

    Its own reverse pass: all but one sum of it are taken at a quarter of the size, where autodiff's walk the full image
    several times (half the time of a training step on a CPU). Mean and variance are constants to it.
    """
    return _norm_pool_relu(x, scale, bias)[0]


def _norm_pool_relu(x: Images, scale: Array, bias: Array) -> tuple[tuple[Images, Array, Array], tuple[Array, ...]]:
    count = x.size // x.shape[-1]
    mean = _channel_sum(x) / count
    variance = _channel_sum((x - _spread(mean)) ** 2) / count
    inverse = lax.rsqrt(variance + EPS)
    gain = scale * inverse
    corners = [y * _spread(gain) + _spread(bias - mean * gain) for y in quarters(x)]
    top = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    return (jax.nn.relu(top), mean, variance), (x, scale, bias, mean, inverse, top)


def _norm_pool_relu_reverse(saved: tuple[Array, ...], cotangents: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse, top = saved
    batch, height, width, n = x.shape
    rows, columns = height // 2, width // 2
    gain = scale * inverse
    received = jnp.where(top > 0, cotangents[0], 0)
    corners = [y * _spread(gain) + _spread(bias - mean * gain) for y in quarters(x)]
    winner = jnp.where(corners[0] == top, 0, jnp.where(corners[1] == top, 1, jnp.where(corners[2] == top, 2, 3)))
    winner, received = lax.optimization_barrier((winner.astype(jnp.int8), received))
    chosen = _pick(winner, [(y - _spread(mean)) * _spread(inverse) for y in quarters(x)])
    d_bias, d_scale = _channel_sum(received), _channel_sum(received * chosen)
    count = x.size // n

    def through_moments(y: Images) -> Images:
        return _spread(-gain / count) * (_spread(d_bias) + (y - _spread(mean)) * _spread(inverse * d_scale))

    def spread_squares(y: Images) -> Array:
        return jnp.broadcast_to(y[:, :, None, :, None], (batch, rows, 2, columns, 2, n))

    place = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    direct = jnp.where(spread_squares(winner) == place, spread_squares(received * _spread(gain)), 0)
    direct = direct.reshape(batch, 2 * rows, 2 * columns, n)
    direct = jnp.pad(direct, ((0, 0), (0, height - 2 * rows), (0, width - 2 * columns), (0, 0)))
    return direct + through_moments(x), d_scale, d_bias


norm_pool_relu.defvjp(_norm_pool_relu, _norm_pool_relu_reverse)


def _pick(winner: Images, corners: list[Images]) -> Images:
    picked = corners[3]
    for index in (2, 1, 0):
        picked = jnp.where(winner == index, corners[index], picked)
    return picked


def _spread(vector: Array) -> Images:
    return jnp.expand_dims(vector, (0, 1, 2))


def _channel_sum(x: Images) -> Array:
    """Sum over all axes but the last, in two steps that XLA's CPU backend keeps in cache."""
    batch, height, width, n = x.shape
    return lax.optimization_barrier(x.reshape(batch * height, width, n).sum(axis=1)).sum(axis=0)


def _state(parameters: dict[str, Any], statistics: list[tuple[Array, Array]]) -> dict[str, np.ndarray]:
    """Return the checkpoint, in torch's layouts."""
    state: dict[str, np.ndarray] = {}
    for i, (block, (mean, variance)) in enumerate(zip(parameters["blocks"], statistics, strict=True)):
        state[f"blocks.{i}.conv.weight"] = np.ascontiguousarray(np.transpose(block["kernel"], (3, 2, 0, 1)))
        state[f"blocks.{i}.norm.weight"] = np.asarray(block["scale"])
        state[f"blocks.{i}.norm.bias"] = np.asarray(block["bias"])
        state[f"blocks.{i}.norm.running_mean"] = np.asarray(mean)
        state[f"blocks.{i}.norm.running_var"] = np.asarray(variance)
    state["head.weight"] = np.ascontiguousarray(np.asarray(parameters["head"]["kernel"]).T)
    state["head.bias"] = np.asarray(parameters["head"]["bias"])
    return state
