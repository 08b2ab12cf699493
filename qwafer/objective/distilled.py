"""Knowledge distillation: losses whose targets are a teacher's, too. JAX is imported when a loss is called."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.objective.options import ARGUMENTS, Bce, Softmax

if TYPE_CHECKING:
    import jax

TAUGHT = ("teacher", "teacher_features", "temperature", "soft_weight", "feature_weight")
"""Options that are no part of the compiled program: files, whose arrays stand behind the labels, and numbers."""


@dataclass(frozen=True)
class Taught:
    """What the losses of distillation share."""

    teacher: str = ""
    """Feature file of the teacher's logits: `python -m qwafer.extract --backbone logits --weights MODEL --out FILE`.
    Not needed where `soft_weight` is 0."""
    temperature: float = 4.0
    """T, which softens both distributions."""
    soft_weight: float = 0.7
    """alpha, the weight of the soft targets."""
    teacher_features: str | None = None
    """Feature file of a teacher, such as those of its frozen network: a linear map that is trained beside the student
    takes the student's features to them, each standardised over the training split (FitNets: Romero et al. 2015,
    arXiv:1412.6550). For heads that are networks."""
    feature_weight: float = 1.0
    """beta, the weight of the mean squared error of that map, over examples and features."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"teacher": ("teacher", "teacher_features")}

    def check_taught(self) -> None:
        """Raise InputError for values that cannot be."""
        check_interval("objective.temperature", self.temperature, 0, math.inf, open_low=True, open_high=True)
        check_interval("objective.soft_weight", self.soft_weight, 0, 1)
        check_interval("objective.feature_weight", self.feature_weight, 0, math.inf, open_high=True)
        if not isinstance(self.teacher, str):
            raise InputError(f"`objective.teacher` must be the path of a feature file, got {self.teacher!r}")
        if not (self.teacher_features is None or (isinstance(self.teacher_features, str) and self.teacher_features)):
            found = repr(self.teacher_features)
            raise InputError(f"`objective.teacher_features` must be none or the path of a feature file, got {found}")

    def without_teacher(self, option: str, config: Any) -> str | None:
        """Return why `option` has no effect where nothing is taught, as a clause; None where it has one."""
        if option in ("teacher", "temperature") and self.soft_weight == 0:
            return "objective.soft_weight is 0"
        if option == "feature_weight" and self.teacher_features is None:
            return "objective.teacher_features is none"
        if option == "teacher_features" and self.feature_weight == 0:
            return "objective.feature_weight is 0"
        if option in ("teacher_features", "feature_weight") and not getattr(config.head, "has_features", False):
            return f"head.name {config.name('head')} has no features of its own: take a network"
        return None


@dataclass(frozen=True)
class Distilled(Taught, Softmax):
    """alpha T^2 KL(softmax(t / T) || softmax(l / T)) + (1 - alpha) softmax cross-entropy, for logits t of a teacher
    (Hinton, Vinyals and Dean 2015, arXiv:1503.02531); in validation the cross-entropy alone.
    """

    arguments: ClassVar[tuple[str, ...]] = (*Softmax.arguments, *TAUGHT)

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
        return self.without_teacher(option, config) or super().no_effect(option, config, facts)


@dataclass(frozen=True)
class DistilledLabels(Taught, Bce):
    """`Distilled` for several labels: the mean over labels of the KL divergence of sigmoid(l / T) from sigmoid(t / T),
    and the binary cross-entropy.
    """

    arguments: ClassVar[tuple[str, ...]] = (*ARGUMENTS, *TAUGHT)

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
        return self.without_teacher(option, config) or super().no_effect(option, config, facts)


def split_targets(targets: Any, n_labels: int) -> tuple[Any, Any | None]:
    """Return labels (batch, n_labels), and the teacher's logits where `targets` hold them behind the labels."""
    if targets.shape[1] == n_labels:
        return targets, None
    return targets[:, :n_labels], targets[:, n_labels:]
