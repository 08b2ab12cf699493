"""Knowledge distillation: losses whose soft targets are a teacher's. JAX is imported when a loss is called."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.objective.options import ARGUMENTS, Bce, Softmax

if TYPE_CHECKING:
    import jax

SOFT = ("temperature", "soft_weight")


@dataclass(frozen=True)
class Taught:
    """What the losses of distillation share."""

    teacher: str = ""
    """Feature file of the teacher's logits: `python -m qwafer.extract --backbone logits --weights MODEL --out FILE`."""
    temperature: float = 4.0
    """T, which softens both distributions."""
    soft_weight: float = 0.7
    """alpha, the weight of the soft targets."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"teacher": ("teacher",)}

    def check_taught(self) -> None:
        """Raise InputError for values that cannot be."""
        check_interval("objective.temperature", self.temperature, 0, math.inf, open_low=True, open_high=True)
        check_interval("objective.soft_weight", self.soft_weight, 0, 1)
        if not isinstance(self.teacher, str):
            raise InputError(f"`objective.teacher` must be the path of a feature file, got {self.teacher!r}")

    def without_teacher(self, option: str) -> str | None:
        """Return why `option` has no effect where nothing is taught, as a clause; None where it has one."""
        if option in ("teacher", "temperature") and self.soft_weight == 0:
            return "objective.soft_weight is 0"
        return None


@dataclass(frozen=True)
class Distilled(Taught, Softmax):
    """alpha T^2 KL(softmax(t / T) || softmax(l / T)) + (1 - alpha) softmax cross-entropy, for logits t of a teacher
    (Hinton, Vinyals and Dean 2015, arXiv:1503.02531); in validation the cross-entropy alone.
    """

    arguments: ClassVar[tuple[str, ...]] = (*Softmax.arguments, *SOFT)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_taught()

    def per_example(
        self, logits: "jax.Array", labels: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the loss of every example (batch,); `labels` (batch, 2 n_classes) hold the teacher's logits, too."""
        import jax
        import jax.numpy as jnp

        hard, teacher = split_targets(labels, logits.shape[1])
        own = super().per_example(logits, hard, constants)
        if teacher is None:
            return own
        t = self.temperature
        soft = jax.nn.log_softmax(teacher / t, axis=1)
        apart = jnp.sum(jnp.exp(soft) * (soft - jax.nn.log_softmax(logits / t, axis=1)), axis=1)
        return self.soft_weight * t**2 * apart + (1 - self.soft_weight) * own

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        return self.without_teacher(option) or super().no_effect(option, config, facts)


@dataclass(frozen=True)
class DistilledLabels(Taught, Bce):
    """`Distilled` for several labels: the mean over labels of the KL divergence of sigmoid(l / T) from sigmoid(t / T),
    and the binary cross-entropy.
    """

    arguments: ClassVar[tuple[str, ...]] = (*ARGUMENTS, *SOFT)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_taught()

    def per_example(
        self, logits: "jax.Array", labels: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the loss of every example (batch,); `labels` (batch, 2 n_labels) hold the teacher's logits, too."""
        import jax
        import jax.numpy as jnp

        hard, teacher = split_targets(labels, logits.shape[1])
        own = super().per_example(logits, hard, constants)
        if teacher is None:
            return own
        t = self.temperature
        p = jax.nn.sigmoid(teacher / t)
        apart = jax.nn.softplus(logits / t) - jax.nn.softplus(teacher / t) - p * (logits - teacher) / t
        return self.soft_weight * t**2 * jnp.mean(apart, axis=1) + (1 - self.soft_weight) * own

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        return self.without_teacher(option) or super().no_effect(option, config, facts)


def split_targets(targets: Any, n_labels: int) -> tuple[Any, Any | None]:
    """Return labels (batch, n_labels), and the teacher's logits where `targets` hold them behind the labels."""
    if targets.shape[1] == n_labels:
        return targets, None
    return targets[:, :n_labels], targets[:, n_labels:]
