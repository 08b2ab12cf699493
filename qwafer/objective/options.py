"""What is minimised, as options. JAX is imported when a loss is called."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer._registry import Registry

if TYPE_CHECKING:
    import jax
    import numpy as np


class Loss(Protocol):
    """A frozen dataclass of options that gives one number for the logits of a batch."""

    exclusive: ClassVar[bool]
    """Whether the labels are exclusive classes, decided by the largest logit (softmax)."""
    reweights: ClassVar[bool]
    """Whether it weighs the classes anew, so that it cannot be told apart from balanced batches."""

    def constants(self, train_labels: "np.ndarray") -> "dict[str, np.ndarray]":
        """Return the arrays that the loss takes from the labels (M, n_labels) of the training split."""
        ...

    def value(
        self, logits: "jax.Array", labels: "jax.Array", weights: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the weighted mean over a batch: logits and labels (batch, n_labels), weights (batch,), 0 for what
        pads.
        """
        ...


LOSSES: Registry[Any] = Registry(
    "objective.loss",
    {
        "bce": "qwafer.objective.options:Bce",
        "focal": "qwafer.objective.options:Focal",
        "asymmetric": "qwafer.objective.options:Asymmetric",
        "softmax": "qwafer.objective.options:Softmax",
        "roc_auc": "qwafer.objective.options:RocAuc",
        "linear": "qwafer.objective.bounded:Linear",
        "square": "qwafer.objective.bounded:Square",
        "distilled": "qwafer.objective.distilled:Distilled",
        "distilled_labels": "qwafer.objective.distilled:DistilledLabels",
        "mixed": "qwafer.objective.mixed:Mixed",
        "mixed_labels": "qwafer.objective.mixed:MixedLabels",
    },
)

RULES = ("balanced", "effective")
ARGUMENTS = ("pos_weight", "class_weights", "effective_beta", "label_smoothing")
"""Options of the losses here that are arguments of the compiled program, not parts of it: `constants` holds what they
say, or they are numbers that `value` uses without branching on them. A loss need not name any (`arguments`)."""


@dataclass(frozen=True)
class PerLabelLoss:
    """The mean over labels, then over examples, of c_k loss_k; subclasses give loss_k (`per_label`)."""

    pos_weight: str | None = None
    """Weight of positive examples per label: unset (1), `balanced` (negatives / positives of the training split),
    `effective` (the same of effective numbers), a number, or one per label (1,2.5)."""
    class_weights: str | None = None
    """Weight of each label's term: unset (1), `balanced` (inverse to the positives of the training split), `effective`
    (to their effective numbers), both with mean one, or one per label."""
    effective_beta: float = 0.999
    """Beta of the effective number (1 - beta^n) / (1 - beta) of n examples."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over its two values."""

    exclusive: ClassVar[bool] = False
    reweights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_weights("pos_weight", self.pos_weight)
        _check_weights("class_weights", self.class_weights)
        _check_shares(self.effective_beta, self.label_smoothing)

    def implied(self, config: Any) -> dict[str, Any]:
        """Return the weights in the one spelling that equal weights share."""
        return {name: _spelled(getattr(self, name)) for name in ("pos_weight", "class_weights")}

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels) of logits and smoothed labels; `pos_weight` (n_labels,)."""
        raise TypeError(f"{type(self).__name__} must define per_label")

    def constants(self, train_labels: "np.ndarray") -> "dict[str, np.ndarray]":
        """Return `pos_weight` and `class_weight`, (n_labels,) each."""
        from qwafer.objective.priors import class_weights, positive_weights

        return {
            "pos_weight": positive_weights(self.pos_weight, train_labels, self.effective_beta),
            "class_weight": class_weights(self.class_weights, train_labels, self.effective_beta),
        }

    def per_example(
        self, logits: "jax.Array", labels: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the loss of every example (batch,), weights of labels included."""
        import jax.numpy as jnp

        dtype = logits.dtype
        smooth = (1 - self.label_smoothing) * labels + self.label_smoothing / 2
        each = self.per_label(logits, smooth, constants["pos_weight"].astype(dtype))
        return jnp.mean(constants["class_weight"].astype(dtype)[None, :] * each, axis=1)

    def value(
        self, logits: "jax.Array", labels: "jax.Array", weights: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return sum_i w_i loss_i / sum_i w_i; see `Loss`."""
        return _mean(weights, self.per_example(logits, labels, constants))

    def level_at_zero(self, labels: "np.ndarray") -> float | None:
        """Return the loss of logits that are all 0 on labels (N, n_labels), where a run may stall; None where it is not
        known.
        """
        return None

    def _level(self, labels: "np.ndarray", gamma: float) -> float:
        """Return (1/2)^gamma log 2, times the mean weight of the labels' terms."""
        constants = self.constants(labels)
        positive = (1 - self.label_smoothing) * labels.mean(axis=0) + self.label_smoothing / 2
        weight = constants["class_weight"] * (constants["pos_weight"] * positive + 1 - positive)
        return float(0.5**gamma * math.log(2) * weight.mean())

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "effective_beta" and "effective" not in (self.pos_weight, self.class_weights):
            return "neither objective.pos_weight nor objective.class_weights is effective"
        return _one_label(option, config)


@dataclass(frozen=True)
class Bce(PerLabelLoss):
    """Binary cross-entropy per label."""

    arguments: ClassVar[tuple[str, ...]] = ARGUMENTS

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels); see `losses.binary_cross_entropy`."""
        from qwafer.objective import losses

        return losses.binary_cross_entropy(logits, labels, pos_weight)

    def level_at_zero(self, labels: "np.ndarray") -> float | None:
        """Return log 2, weighted as the labels are."""
        return self._level(labels, 0.0)


@dataclass(frozen=True)
class Focal(PerLabelLoss):
    """(1 - p_t)^gamma times the binary cross-entropy (Lin et al. 2017)."""

    focal_gamma: float = 2.0
    """Exponent gamma."""

    reweights: ClassVar[bool] = True
    arguments: ClassVar[tuple[str, ...]] = (*ARGUMENTS, "focal_gamma")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("objective.focal_gamma", self.focal_gamma, 0, 20, open_low=True)

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels); see `losses.focal`."""
        from qwafer.objective import losses

        return losses.focal(logits, labels, self.focal_gamma, pos_weight)

    def level_at_zero(self, labels: "np.ndarray") -> float | None:
        """Return (1/2)^gamma log 2, weighted as the labels are: 0.1733 for gamma = 2."""
        return self._level(labels, self.focal_gamma)


@dataclass(frozen=True)
class Asymmetric(PerLabelLoss):
    """Focal with exponents of its own for positives and negatives (Ridnik et al. 2021)."""

    asymmetric_gamma_pos: float = 0.0
    """Exponent of positives."""
    asymmetric_gamma_neg: float = 4.0
    """Exponent of negatives."""
    asymmetric_clip: float = 0.05
    """Probability below which a negative costs nothing."""

    reweights: ClassVar[bool] = True
    arguments: ClassVar[tuple[str, ...]] = (
        *ARGUMENTS,
        "asymmetric_gamma_pos",
        "asymmetric_gamma_neg",
        "asymmetric_clip",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("asymmetric_gamma_pos", "asymmetric_gamma_neg"):
            check_interval(f"objective.{option}", getattr(self, option), 0, 20)
        check_interval("objective.asymmetric_clip", self.asymmetric_clip, 0, 1, open_high=True)

    def per_label(self, logits: "jax.Array", labels: "jax.Array", pos_weight: "jax.Array") -> "jax.Array":
        """Return the loss (batch, n_labels); see `losses.asymmetric`."""
        from qwafer.objective import losses

        gammas = self.asymmetric_gamma_pos, self.asymmetric_gamma_neg
        return losses.asymmetric(logits, labels, *gammas, self.asymmetric_clip, pos_weight)


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy of exclusive classes."""

    class_weights: str | None = None
    """Weight of the examples of each class: unset (1), `balanced` (inverse to the class's examples in the training
    split), `effective` (to their effective number), both with mean one, or one per class (1,2.5,...)."""
    effective_beta: float = 0.999
    """Beta of the effective number (1 - beta^n) / (1 - beta) of n examples."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over the classes."""

    exclusive: ClassVar[bool] = True
    reweights: ClassVar[bool] = False
    arguments: ClassVar[tuple[str, ...]] = ("class_weights", "effective_beta", "label_smoothing")

    def __post_init__(self) -> None:
        _check_weights("class_weights", self.class_weights)
        _check_shares(self.effective_beta, self.label_smoothing)

    def implied(self, config: Any) -> dict[str, Any]:
        """Return the weights in the one spelling that equal weights share."""
        return {"class_weights": _spelled(self.class_weights)}

    def constants(self, train_labels: "np.ndarray") -> "dict[str, np.ndarray]":
        """Return `class_weight` (n_classes,), the weight of the examples of each class."""
        from qwafer.objective.priors import example_weights

        return {"class_weight": example_weights(self.class_weights, train_labels, self.effective_beta)}

    def per_example(
        self, logits: "jax.Array", labels: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the loss of every example (batch,), the weight of its class included."""
        from qwafer.objective import losses

        class_weight = constants["class_weight"].astype(logits.dtype)
        smooth = (1 - self.label_smoothing) * labels + self.label_smoothing / logits.shape[1]
        return (labels @ class_weight) * losses.softmax_cross_entropy(logits, smooth)

    def value(
        self, logits: "jax.Array", labels: "jax.Array", weights: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return sum_i w_i loss_i / sum_i w_i; see `Loss`."""
        return _mean(weights, self.per_example(logits, labels, constants))

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "effective_beta" and self.class_weights != "effective":
            return "objective.class_weights is not effective"
        return _one_label(option, config)


@dataclass(frozen=True)
class RocAuc:
    """A surrogate of ROC-AUC: the mean over pairs of log(1 + exp(l_negative - l_positive)) (Gao and Zhou 2015)."""

    class_weights: str | None = None
    """Weight of each label's term: unset (1), `balanced`, `effective`, or one per label; see `PerLabelLoss`."""
    effective_beta: float = 0.999
    """Beta of the effective number (1 - beta^n) / (1 - beta) of n examples."""

    exclusive: ClassVar[bool] = False
    reweights: ClassVar[bool] = False
    arguments: ClassVar[tuple[str, ...]] = ("class_weights", "effective_beta")
    pairs: ClassVar[bool] = True
    """Whether a weight common to a class cancels: it compares pairs of a positive and a negative."""

    def __post_init__(self) -> None:
        _check_weights("class_weights", self.class_weights)
        _check_shares(self.effective_beta, 0.0)

    def implied(self, config: Any) -> dict[str, Any]:
        """Return the weights in the one spelling that equal weights share; a common factor cancels."""
        return {"class_weights": _spelled(self.class_weights, factor_cancels=True)}

    def constants(self, train_labels: "np.ndarray") -> "dict[str, np.ndarray]":
        """Return `class_weight` (n_labels,)."""
        from qwafer.objective.priors import class_weights

        return {"class_weight": class_weights(self.class_weights, train_labels, self.effective_beta)}

    def value(
        self, logits: "jax.Array", labels: "jax.Array", weights: "jax.Array", constants: "Mapping[str, jax.Array]"
    ) -> "jax.Array":
        """Return the mean over the labels that have a pair; see `losses.pairwise_logistic`."""
        import jax.numpy as jnp

        from qwafer.objective import losses

        each, present = losses.pairwise_logistic(logits, labels, weights)
        per_label = constants["class_weight"].astype(logits.dtype) * present
        total = jnp.sum(per_label)
        return jnp.sum(per_label * each) / jnp.where(total > 0, total, jnp.ones_like(total))

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "effective_beta" and self.class_weights != "effective":
            return "objective.class_weights is not effective"
        return _one_label(option, config)


def _mean(weights: "jax.Array", values: "jax.Array") -> "jax.Array":
    """Return the weighted mean; an example of weight 0, as those that pad a batch, has no effect.

    The weights of a balanced batch have mean one by construction, so that the denominator is the number of real
    examples.
    """
    import jax.numpy as jnp

    return jnp.sum(weights * values) / jnp.sum(weights)


def _spelled(text: str | None, *, factor_cancels: bool = False) -> str | None:
    """Return the one spelling of equal weights: None for ones, a single number for equal ones."""
    if text is None or text in RULES:
        return text
    values = [float(part) for part in text.split(",")]
    if factor_cancels:
        values = [value / values[0] for value in values]
    distinct = values if len(set(values)) > 1 else values[:1]
    return None if distinct == [1.0] else ",".join(f"{value:.12g}" for value in distinct)


def _one_label(option: str, config: Any) -> str | None:
    if option == "class_weights" and config.data.task != "multilabel":
        return f"data.task is {config.data.task}, which has one label"
    return None


def _check_weights(option: str, text: str | None) -> None:
    if text is None or text in RULES:
        return
    try:
        positive = all(0 < float(part) < float("inf") for part in text.split(","))
    except ValueError:
        positive = False
    if not positive:
        raise InputError(
            f"`objective.{option}` must be none, balanced, effective or positive numbers (1,2.5), got {text!r}"
        )


def _check_shares(effective_beta: float, label_smoothing: float) -> None:
    check_interval("objective.effective_beta", effective_beta, 0, 1, open_low=True, open_high=True)
    check_interval("objective.label_smoothing", label_smoothing, 0, 1, open_high=True)
