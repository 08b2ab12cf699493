"""Losses of batches that hold examples of two tasks, exclusive classes or several labels each. JAX is imported when a
loss is called.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qwafer._checks import check_interval
from qwafer._errors import InputError
from qwafer.objective.options import ARGUMENTS, Bce, Softmax

OTHER = ("other", "other_weight")
"""Options that are no part of the compiled program: a file, whose examples join the batches, and a number."""


@dataclass(frozen=True)
class Together:
    """What the losses of two tasks share.

    Examples of both are drawn into the batches together. Those of the run's own data cost what the loss without the
    other task costs, those of the other one the cross-entropy of their own task, times `other_weight`, by a readout of
    their own on the features of the network, which is trained beside it and is no part of it (Caruana 1997, "Multitask
    learning"): labels of one name in both tasks have two readouts. The loss of a batch is the sum over the sum of
    weights. Validation, test and all that is chosen by them are those of the run's own data alone.
    """

    other: str = ""
    """Feature file of the other task, of the backbone of this run: `python -m qwafer.extract --maps FILE --backbone
    dies_52 --out FILE`. Its examples only train; those that stand in validation or test here, by their content id, by
    their features or, with data.split_by = group, by the name of their lot, are left out."""
    other_weight: float = 1.0
    """Weight of an example of the other task; one of the run's own data has 1."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"teacher": ("other",), "batches": ("other",)}

    def check_together(self) -> None:
        """Raise InputError for values that cannot be."""
        if not isinstance(self.other, str):
            raise InputError(f"`objective.other` must be the path of a feature file, got {self.other!r}")
        check_interval("objective.other_weight", self.other_weight, 0, math.inf, open_low=True, open_high=True)

    def check_config(self, config: Any) -> None:
        """Raise InputError where the rest of `config` does not go with two tasks."""
        loss = config.name("objective")
        if not getattr(config.head, "has_features", False):
            raise InputError(
                f"`objective.loss` = {loss} needs a head that has features of its own, which "
                f"{config.name('head')} has not: take a network"
            )
        if config.sampling.balanced:
            raise InputError(
                f"`objective.loss` = {loss} cannot be combined with sampling.balanced: the classes of two tasks have "
                "no common balance"
            )
        if config.data.split_by in ("time", "fold"):
            raise InputError(
                f"`objective.loss` = {loss} cannot be combined with data.split_by = {config.data.split_by}: the other "
                "task's examples are not ordered or folded with those here, and might tell of the test part"
            )


@dataclass(frozen=True)
class Mixed(Together, Softmax):
    """`softmax` on the run's own exclusive classes, and the cross-entropy of another task in the same batches, by a
    readout of its own on the features of the network; in validation the former alone.
    """

    arguments: ClassVar[tuple[str, ...]] = (*Softmax.arguments, *OTHER)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_together()


@dataclass(frozen=True)
class MixedLabels(Together, Bce):
    """`bce` on the run's own labels, and the cross-entropy of another task in the same batches, by a readout of its own
    on the features of the network; in validation the former alone.
    """

    arguments: ClassVar[tuple[str, ...]] = (*ARGUMENTS, *OTHER)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_together()

    def level_at_zero(self, labels: Any) -> float | None:
        """Return None: the training loss is of both tasks."""
        return None
