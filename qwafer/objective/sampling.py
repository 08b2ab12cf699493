"""Which examples make a training batch, as options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwafer._checks import check_interval
from qwafer._errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """Which examples make a training batch."""

    balanced: bool = False
    """Draw batches with fixed shares of positives and negatives (binary tasks) or of the classes (exclusive ones)
    instead of shuffled passes."""
    pos_frac: float = 0.5
    """Fraction of positives in a balanced batch of a binary task (the batch prior pi_b)."""
    class_shares: str | None = None
    """Shares of exclusive classes in a balanced batch: unset (equal), or a number for each class, of any sum
    (4,1,1)."""
    importance_weights: bool = True
    """Weight balanced examples by pi_t/pi_b and (1-pi_t)/(1-pi_b), those of class k by pi_k over its share of the
    batch, so that the expected loss is that of the true prior pi_t."""

    def __post_init__(self) -> None:
        check_interval("sampling.pos_frac", self.pos_frac, 0, 1, open_low=True, open_high=True)
        if self.class_shares is not None:
            _numbers(self.class_shares)

    def class_counts(self, batch_size: int, n_classes: int) -> tuple[int, ...]:
        """Return the examples of each class in a balanced batch, by largest remainders, the first class where two are
        equal.

        Raises InputError where there is not one share for each class, or no room for an example of each.
        """
        shares = [1.0] * n_classes if self.class_shares is None else _numbers(self.class_shares)
        if len(shares) != n_classes:
            raise InputError(
                f"`sampling.class_shares` must hold one number for each of {n_classes} classes, got {len(shares)}"
            )
        counts = _apportioned(batch_size, shares)
        if min(counts) < 1:
            raise InputError(
                f"`training.batch_size` = {batch_size} has no room for all {n_classes} classes in a balanced batch: "
                "use larger batches, or other sampling.class_shares"
            )
        return counts

    def determined_by(self, what: str) -> tuple[str, ...]:
        """Return the options that determine the digest `what`: balanced draws pick positives of the task."""
        if what != "batches":
            return ()
        options = ("balanced", "pos_frac", "class_shares", "importance_weights")
        return (*options, *(["data.task"] if self.balanced else []))

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option != "balanced" and not self.balanced:
            return "sampling.balanced is false"
        loss = f"objective.loss {config.name('objective')}"
        if option == "importance_weights" and getattr(config.objective, "pairs", False):
            return f"{loss} is a mean over pairs, from which the weights cancel"
        if option == "pos_frac" and config.objective.exclusive:
            return f"{loss} is of exclusive classes, whose shares sampling.class_shares says"
        if option == "class_shares" and not config.objective.exclusive:
            return f"{loss} is not of exclusive classes; sampling.pos_frac is the fraction of positives"
        return None

    def implied(self, config: Any) -> dict[str, Any]:
        """Return the fraction of positives, or the examples of each class, that a batch really holds."""
        size = config.training.batch_size
        options: dict[str, Any] = {"pos_frac": round(size * self.pos_frac) / size}
        if self.class_shares is not None:
            shares = _numbers(self.class_shares)
            counts = _apportioned(size, shares)
            equal = counts == _apportioned(size, [1.0] * len(shares))
            options["class_shares"] = None if equal else ",".join(map(str, counts))
        return options


def _numbers(text: str) -> list[float]:
    """Return the shares that `text` gives; raise InputError unless they are positive numbers."""
    try:
        shares = [float(part) for part in text.split(",")]
        positive = all(0 < share < float("inf") for share in shares)
    except (AttributeError, ValueError):
        positive = False
    if not positive:
        raise InputError(f"`sampling.class_shares` must be none or positive numbers (4,1,1), got {text!r}")
    return shares


def _apportioned(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers of sum `total` that are as `shares`, by largest remainders."""
    quotas = [total * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(shares)), key=lambda k: counts[k] - quotas[k])
    for k in order[: total - sum(counts)]:
        counts[k] += 1
    return tuple(counts)
