"""Quantisation-aware fine-tuning: the weights move, with the ranges of activations as they were calibrated."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwafer._io import key_seed
from qwafer._process import compiler_options
from qwafer.execution.job import OnProgress, Progress
from qwafer.networks.augmentation import turned
from qwafer.objective import make_objective
from qwafer.onnx.forward import Forward
from qwafer.onnx.options import Int8Options
from qwafer.onnx.packages import onnx
from qwafer.training import Prepared

Loader = Callable[[np.ndarray], np.ndarray]
"""From rows of the maps to images (n, H, W, 3)."""


@dataclass(frozen=True)
class FineTuning:
    """How a fine-tuning went."""

    epochs: int
    """Passes over the training split."""
    best_epoch: int
    """The epoch that was kept, of the smallest validation loss; 0: the graph as it was calibrated."""
    val_loss: tuple[float, ...]
    """Validation loss after each epoch, computed in 8 bits; that of the calibrated graph first."""


def fine_tune(
    quantised: Any,
    graph: Any,
    prepared: Prepared,
    images: Loader,
    objective: Any,
    options: Int8Options,
    progress: OnProgress | None = None,
) -> tuple[Any, FineTuning]:
    """Return the quantised graph with fine-tuned weights, and how the fine-tuning went.

    Every step sees the network as it will run: codes of weights with a scale per channel from the weights as they
    are, activations on the calibrated grid, biases on theirs. The gradient takes rounding for the identity and is 0
    where a value is clipped (Jacob et al. 2018, arXiv 1712.05877; Bengio et al. 2013, arXiv 1308.3432). Minimised is
    the loss of the model's run over the training split, maps turned and mirrored at random; kept is the epoch of the
    smallest validation loss, epoch 0 included.

    Args:
        quantised: the calibrated `ModelProto`.
        graph: the float32 one that it was made from, whose weights are the start.
        prepared: the split, see `split_of_run`.
        images: from rows of the maps to images.
        objective: the options of the loss.
        options: epochs, learning rate, batch size, seed.
        progress: called after every step.
    """
    forward = Forward.of(quantised)
    start = {each.name: onnx().numpy_helper.to_array(each) for each in graph.graph.initializer}
    weights = {name: jnp.asarray(start[name]) for name in forward.trained()}
    rows, labels = (array for array in prepared.part("train"))
    rows = rows[:, 0].astype(np.int64)
    loss = make_objective(objective, labels)
    size = min(options.batch_size, len(rows))
    steps = len(rows) // size * options.fine_tune_epochs
    optimizer = optax.adam(optax.cosine_onecycle_schedule(max(steps, 2), options.learning_rate, pct_start=0.1))
    moments = optimizer.init(weights)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def step(weights: Any, moments: Any, batch: Any, labels: Any) -> tuple[Any, Any]:
        def value(weights: Any) -> Any:
            return loss(forward.logits(batch, forward.quantised(weights)), labels, jnp.ones(len(labels), jnp.float32))

        updates, moments = optimizer.update(jax.grad(value)(weights), moments, weights)
        return optax.apply_updates(weights, updates), moments

    measure = _validation(forward, prepared, images, loss, size)
    losses, best, kept = [measure(weights)], 0, weights
    streams = {name: np.random.default_rng(key_seed(options.seed, f"int8/{name}")) for name in ("batches", "turns")}
    for epoch in range(options.fine_tune_epochs):
        order = streams["batches"].permutation(len(rows))
        for done, first in enumerate(range(0, len(rows) - size + 1, size), 1):
            chosen = order[first : first + size]
            batch = turned(images(rows[chosen]), streams["turns"])
            weights, moments = step(weights, moments, batch, jnp.asarray(labels[chosen], jnp.float32))
            if progress is not None:
                progress(Progress("fine-tuning", epoch * (len(rows) // size) + done, steps, text=graph.graph.name))
        losses.append(measure(weights))
        if losses[-1] < losses[best]:
            best, kept = epoch + 1, weights
    return with_weights(quantised, forward, kept), FineTuning(options.fine_tune_epochs, best, tuple(losses))


def with_weights(quantised: Any, forward: Forward, weights: Any) -> Any:
    """Return a copy of the quantised graph with the codes, scales and biases of float32 `weights`."""
    constants = {name: np.asarray(value) for name, value in forward.quantised(weights).items()}
    copy = type(quantised)()
    copy.CopyFrom(quantised)
    for each in copy.graph.initializer:
        if each.name in constants:
            array = constants[each.name].astype(forward.constants[each.name].dtype)
            each.CopyFrom(onnx().numpy_helper.from_array(array, each.name))
    return copy


def _validation(forward: Forward, prepared: Prepared, images: Loader, loss: Any, size: int) -> Callable[[Any], float]:
    """Return the function from weights to the mean loss over the validation split."""
    rows, labels = prepared.part("val")
    places: Sequence[np.ndarray] = np.array_split(np.arange(len(rows)), -(-len(rows) // size))
    longest = max(map(len, places))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def part(weights: Any, batch: Any, labels: Any, counted: Any) -> Any:
        return loss(forward.logits(batch, forward.quantised(weights)), labels, counted)

    def measure(weights: Any) -> float:
        total = 0.0
        for each in places:
            chosen = np.resize(each, longest)  # one shape: what repeats has weight 0
            counted = (np.arange(longest) < len(each)).astype(np.float32)
            batch = images(rows[chosen, 0].astype(np.int64))
            value = part(weights, batch, jnp.asarray(labels[chosen], jnp.float32), counted)
            total += float(value) * len(each)
        return total / len(rows)

    return measure
