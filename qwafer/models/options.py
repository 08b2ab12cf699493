"""The options of the heads of this room that the loop trains. Nothing heavy is imported here."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_choice, check_interval, check_positive_int, plain_numbers
from qwafer.heads.options import (
    LABEL_OPTIONS,
    LOOP,
    NORMALIZATIONS,
    WIDTH_OPTIONS,
    ClassicalOptions,
    QuantumOptions,
)
from qwafer.models.base import DESCRIBED, PUBLISHED

if TYPE_CHECKING:
    from qwafer.heads import Head, HeadInputs


@dataclass(frozen=True)
class FidelityOptions:
    """The mean of a circuit's outputs as logit, trained by the weighted fidelity loss; see `FidelityHead`."""

    normalize: str = "min_max"
    """As in `QuantumOptions`."""
    projection: str = "identity"
    """As in `QuantumOptions`."""
    angle_map: str = "linear"
    """As in `QuantumOptions`."""
    angle_scale: float = math.pi / 2
    """As in `QuantumOptions`, radians."""
    init_scale: float = 0.1
    """As in `QuantumOptions`."""

    sections: ClassVar[tuple[str, ...]] = ("circuit", "engine", *LOOP)
    needs_loss: ClassVar[str] = "linear"
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial circuit": ("init_scale",),
        "initial projection": WIDTH_OPTIONS,
        "initial readout": (*LABEL_OPTIONS, "init_scale"),
        "initial alpha": (),
    }

    def __post_init__(self) -> None:
        self.quantum()

    def quantum(self) -> QuantumOptions:
        """Return the options of the quantum head that it is made of."""
        return QuantumOptions(**dataclasses.asdict(self), alpha_init=1.0, alpha_train=False)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `FidelityHead`; raise InputError for several labels."""
        from qwafer.models.fidelity import fidelity_head

        return fidelity_head(self.quantum(), inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        return self.quantum().no_effect(option, config, facts)

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups in which this head has nothing to train, each with the reason."""
        reasons = self.quantum().untrained_groups() | {"readout": "the fidelity loss has no bias"}
        return {group: reason for group, reason in reasons.items() if group != "alpha"}


@dataclass(frozen=True)
class BoltzmannOptions(ClassicalOptions):
    """One wire per feature, at most 8; see `qwafer.models.boltzmann`."""

    normalize: str = "standard"
    """As in `LinearOptions`."""
    visible: str = "single"
    """Wires that are measured: `single` (the first), `half` or `full`."""
    observable: str = "sum"
    """`sum`: their mean Z; `product`: the product of their Z."""
    temperature: float = 1.0
    """k T of the thermal state."""
    entangled: bool = True
    """Terms Z_i Z_j; false: the separable null."""
    variant: str = DESCRIBED
    """`as_described`: a weight vector per pair; `as_published`: one for all pairs."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection": (*WIDTH_OPTIONS, "data.task", "entangled")
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_choice("head.visible", self.visible, ("single", "half", "full"))
        check_choice("head.observable", self.observable, ("sum", "product"))
        check_choice("head.variant", self.variant, (DESCRIBED, PUBLISHED))
        check_interval("head.temperature", self.temperature, 0, 1e6, open_low=True)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained head, theta normal of standard deviation 1; raise InputError above 8 features."""
        from qwafer.models.boltzmann import boltzmann_head

        return boltzmann_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "variant" and not self.entangled:
            return "head.entangled is false: there are no pairs"
        if option == "observable" and self.visible == "single":
            return "head.visible is single: the sum and the product of one Z are the same"
        return None


@dataclass(frozen=True)
class QuanvolutionalOptions(ClassicalOptions):
    """Square images as features; see `qwafer.models.quanvolution`."""

    filters: str = "quantum"
    """`quantum`: random circuits; `classical`: the image itself, the null."""
    n_channels: int = 1
    """Random circuits."""
    depth: int = 10
    """Layers of a random circuit."""
    rotations: int = 20
    """Rotations of a layer."""
    kernel_size: int = 3
    """Rows and columns of a convolution."""
    n_filters: int = 32
    """Channels of the first convolution; the second has twice as many, the hidden layer four times."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    normalize: ClassVar[str] = "min_max"
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection": (
            "data.source",
            "data.reader",
            "data.task",
            "filters",
            "n_channels",
            "kernel_size",
            "n_filters",
        )
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.filters", self.filters, ("quantum", "classical"))
        for name in ("n_channels", "depth", "rotations", "kernel_size", "n_filters"):
            check_positive_int(f"head.{name}", getattr(self, name), maximum=1024)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained head; raise InputError for features that are not a square image."""
        from qwafer.models.quanvolution import quanvolutional_head

        return quanvolutional_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option in ("n_channels", "depth", "rotations") and self.filters == "classical":
            return "head.filters is classical"
        return None


@dataclass(frozen=True)
class DressedNnOptions(ClassicalOptions):
    """Two layers of tanh as wide as the circuit that they replace."""

    normalize: str = "standard"
    """As in `LinearOptions`."""
    n_units: int = 4
    """Units of a layer: the wires of the circuit."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection.first": (*WIDTH_OPTIONS, "n_units"),
        "initial projection.second": ("n_units",),
        "initial projection.output": ("data.source", "data.reader", "data.task", "n_units"),
    }

    def __post_init__(self) -> None:
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_positive_int("head.n_units", self.n_units, maximum=4096)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained head: weights of standard deviation 1/sqrt(D), then 1/n_units."""
        from qwafer.models.dressed_nn import dressed_nn_head

        return dressed_nn_head(self, inputs)
