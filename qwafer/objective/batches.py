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
from qwafer.objective.options import SamplingConfig
from qwafer.objective.priors import importance_weights


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
    """Batches with the same number of positives each; positives and negatives are shuffled passes of their own.

    The batch prior pi_b is the fraction of positives that a batch really holds, round(batch_size pos_frac) /
    batch_size. Positives weigh `w_pos`, negatives `w_neg`.
    """

    positives: np.ndarray
    negatives: np.ndarray
    batch_size: int
    n_positive: int
    w_pos: float
    w_neg: float
    seed: int
    n_batches: int

    def epoch(self, number: int) -> Batches:
        """Return the batches of epoch `number`; see `Sampler`."""
        rng = np.random.default_rng(key_seed(self.seed, f"batches/{number}"))
        n_negative = self.batch_size - self.n_positive
        parts = [
            _stream(rng, members, self.n_batches * count).reshape(self.n_batches, count)
            for members, count in ((self.positives, self.n_positive), (self.negatives, n_negative))
        ]
        weights = np.repeat([self.w_pos, self.w_neg], [self.n_positive, n_negative])
        weights = np.broadcast_to(weights, (self.n_batches, self.batch_size))
        return Batches(np.concatenate(parts, axis=1).astype(np.int32), weights.astype(np.float32))


def make_sampler(
    config: SamplingConfig,
    labels: UInt8[np.ndarray, "M n_labels"],
    *,
    batch_size: int,
    seed: int,
    fixed_num_batches: int | None = None,
) -> Sampler:
    """Return the sampler that `config` describes for a training split with `labels` (M, n_labels).

    Raises InputError where balanced batches are asked for and the split has not both classes, or the batch no room for
    both.
    """
    check_positive_int("batch_size", batch_size)
    labels = zero_one("labels", labels, ("M", "n_labels"))
    if len(labels) == 0:
        raise InputError("`labels` must hold at least one example to draw batches from")
    if not config.balanced:
        return ShuffledPasses(len(labels), batch_size, seed, fixed_num_batches)
    if labels.shape[1] != 1:
        raise InputError(
            f"`sampling.balanced` needs one label, got {labels.shape[1]}: set data.task to any or to a label"
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
    w_pos, w_neg = 1.0, 1.0
    if config.importance_weights:
        w_pos, w_neg = importance_weights(len(positives) / len(labels), n_positive / batch_size)
    n_batches = fixed_num_batches or -(-len(labels) // batch_size)
    return BalancedDraws(positives, negatives, batch_size, n_positive, w_pos, w_neg, seed, n_batches)


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
