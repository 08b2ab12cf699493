"""Which examples make a batch: shuffled passes, or balanced draws with their importance weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from qwafer._arrays import zero_one
from qwafer._checks import check_positive_int
from qwafer._errors import InputError
from qwafer._io import digest, key_seed
from qwafer.objective.priors import class_importance_weights, importance_weights
from qwafer.objective.sampling import SamplingConfig


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch."""

    rows: Int32[np.ndarray, "n_batches batch"]
    """Rows of the training split; row 0 also pads."""
    weights: Float32[np.ndarray, "n_batches batch"]
    """Weight of each example in the loss; 0 for what pads."""


class Sampler(Protocol):
    """A rule that fixes the batches of every epoch from the run's seed alone, whatever the arm does with them."""

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples a batch, padding included."""
        ...

    def epoch(self, number: int) -> Batches:
        """Return the batches of epoch `number` (1, 2, ...); equal calls give equal batches."""
        ...


@dataclass(frozen=True)
class ShuffledPasses:
    """Shuffled passes over `n_examples`; the last batch of a pass is padded.

    With `fixed` batches per epoch, passes follow one another until so many batches are full, and nothing is padded.
    """

    n_examples: int
    batch_size: int
    seed: int
    fixed: int | None = None

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self.fixed or -(-self.n_examples // self.batch_size)

    def epoch(self, number: int) -> Batches:
        """Return the batches of epoch `number`; see `Sampler`."""
        rng = np.random.default_rng(key_seed(self.seed, f"batches/{number}"))
        total = self.n_batches * self.batch_size
        wanted = total if self.fixed else self.n_examples
        rows = np.zeros(total, np.int32)
        rows[:wanted] = _stream(rng, np.arange(self.n_examples), wanted)
        weights = (np.arange(total) < wanted).astype(np.float32)
        return Batches(rows.reshape(-1, self.batch_size), weights.reshape(-1, self.batch_size))


@dataclass(frozen=True)
class BalancedDraws:
    """Batches with the same number of examples of each class; each class is shuffled passes of its own.

    The batch prior of a class is the fraction of a batch that it really holds, a whole number over `batch_size`.
    """

    members: tuple[np.ndarray, ...]
    """Rows of the training split of each class; positives come first, then negatives, in a binary task."""
    counts: tuple[int, ...]
    """Examples of each class in a batch."""
    class_weights: tuple[float, ...]
    """Weight of the examples of each class."""
    seed: int
    n_batches: int

    @property
    def batch_size(self) -> int:
        """Examples per batch."""
        return sum(self.counts)

    def epoch(self, number: int) -> Batches:
        """Return the batches of epoch `number`; see `Sampler`."""
        rng = np.random.default_rng(key_seed(self.seed, f"batches/{number}"))
        parts = [
            _stream(rng, members, self.n_batches * count).reshape(self.n_batches, count)
            for members, count in zip(self.members, self.counts, strict=True)
        ]
        weights = np.repeat(self.class_weights, self.counts)
        weights = np.broadcast_to(weights, (self.n_batches, self.batch_size))
        return Batches(np.concatenate(parts, axis=1).astype(np.int32), weights.astype(np.float32))


def make_sampler(
    config: SamplingConfig,
    labels: UInt8[np.ndarray, "M n_labels"],
    *,
    batch_size: int,
    seed: int,
    fixed_num_batches: int | None = None,
    exclusive: bool = False,
) -> Sampler:
    """Return the sampler that `config` describes for a training split with `labels` (M, n_labels), which are
    `exclusive` classes or not.

    Several labels that are not exclusive are refused: an example carries some of them at once, so that the share of one
    label in a batch bounds those of the others, and no one rule balances them all.

    Raises InputError where balanced batches are asked for and the split does not have every class, or the batch no room
    for all, or for several labels.
    """
    check_positive_int("batch_size", batch_size)
    labels = zero_one("labels", labels, ("M", "n_labels"))
    if len(labels) == 0:
        raise InputError("`labels` must hold at least one example to draw batches from")
    if not config.balanced:
        return ShuffledPasses(len(labels), batch_size, seed, fixed_num_batches)
    n_batches = fixed_num_batches or -(-len(labels) // batch_size)
    balance = _by_class if exclusive else _by_sign
    return BalancedDraws(*balance(config, labels, batch_size), seed, n_batches)


Balance = tuple[tuple[np.ndarray, ...], tuple[int, ...], tuple[float, ...]]
"""Rows, examples in a batch and weight of each class."""


def _by_class(config: SamplingConfig, labels: np.ndarray, batch_size: int) -> Balance:
    """Return the balance of exclusive classes; see `make_sampler`."""
    if (labels.sum(axis=1) != 1).any():
        raise InputError("`labels` of exclusive classes must hold one class for each example")
    counts = config.class_counts(batch_size, labels.shape[1])
    sizes = labels.sum(axis=0)
    if not sizes.all():
        raise InputError(
            "`sampling.balanced` needs an example of every class in the training split, and "
            f"{int((sizes == 0).sum())} of {len(sizes)} classes have none"
        )
    weights = np.ones(len(sizes))
    if config.importance_weights:
        weights = class_importance_weights(sizes / len(labels), np.asarray(counts) / batch_size)
    return tuple(map(np.flatnonzero, labels.T)), counts, tuple(weights.tolist())


def _by_sign(config: SamplingConfig, labels: np.ndarray, batch_size: int) -> Balance:
    """Return the balance of the positives and negatives of one label; see `make_sampler`."""
    if labels.shape[1] != 1:
        raise InputError(
            f"`sampling.balanced` needs one label or exclusive classes, got {labels.shape[1]} labels: set data.task to "
            "any or to a label"
        )
    positives, negatives = np.flatnonzero(labels[:, 0]), np.flatnonzero(~labels[:, 0])
    n_positive = round(batch_size * config.pos_frac)
    if not len(positives) or not len(negatives):
        raise InputError(
            "`sampling.balanced` needs positive and negative examples in the training split, and one is absent"
        )
    if not 0 < n_positive < batch_size:
        raise InputError(
            f"`training.batch_size` = {batch_size} has no room for both classes at sampling.pos_frac = "
            f"{config.pos_frac}: use larger batches"
        )
    weights = 1.0, 1.0
    if config.importance_weights:
        weights = importance_weights(len(positives) / len(labels), n_positive / batch_size)
    return (positives, negatives), (n_positive, batch_size - n_positive), weights


def order_digest(sampler: Sampler, epochs: int, ids: np.ndarray, done: Sequence[str] = ()) -> str:
    """Return the digest of the examples and weights of all batches of `epochs` epochs: equal where arms see the same.

    `ids` (M,) uint64 are those of the training examples. `done` holds the `batches_digest` of the epochs that ran; the
    others are as the sampler plans them.
    """
    planned = range(len(done) + 1, epochs + 1)
    return digest(*done, *(batches_digest(sampler.epoch(number), ids) for number in planned))


def batches_digest(batches: Batches, ids: np.ndarray) -> str:
    """Return the digest of one epoch: the `ids` (M,) of its examples in order, and their weights as float32."""
    return digest(ids[np.asarray(batches.rows)], np.asarray(batches.weights, np.float32))


def _stream(rng: np.random.Generator, members: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` of endless shuffled passes over `members`."""
    passes = [rng.permutation(members) for _ in range(-(-length // len(members)))]
    return np.concatenate(passes)[:length]
