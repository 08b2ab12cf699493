"""The options of networks on wafer maps, which are heads on the dies themselves. Nothing heavy is imported here.

A network reads a backbone `dies_SIZE` and is trained by the loop that trains every head: it has its split, seeds,
batches, losses, schedules, checkpoints and records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_choice, check_interval, plain_numbers
from qwafer.heads.options import LABEL_OPTIONS, LOOP, WIDTH_OPTIONS, ClassicalOptions

if TYPE_CHECKING:
    from qwafer.heads import HeadInputs
    from qwafer.networks.head import Architecture, NetworkHead


@dataclass(frozen=True)
class NetworkOptions(ClassicalOptions):
    """What all networks share: how their maps are varied in training, and averaged over in evaluation."""

    augment: str = "symmetries"
    """How a map is moved at random in every step: `symmetries` (the eight of the grid), `rotations` (those, then any
    angle, nearest neighbour, on the dies of the wafer alone) or `none`. The boundary stays where it was."""
    flip_rate: float = 0.0
    """Part of the dies on the wafer that change between passing and failing at random in every step."""
    bound_labels: str = ""
    """Labels whose meaning a symmetry would change, such as that of a notch, by name, separated by commas: maps that
    carry one are not moved."""
    tta: bool = False
    """Evaluate the mean of the logits over the eight symmetries (test-time augmentation), in validation and test."""

    normalize: ClassVar[str] = "raw"
    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"initial projection": (*WIDTH_OPTIONS, *LABEL_OPTIONS)}

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.augment", self.augment, ("none", "symmetries", "rotations"))
        check_interval("head.flip_rate", self.flip_rate, 0, 0.5)

    def architecture(self) -> "Architecture":
        """Return what these options build."""
        raise TypeError(f"{type(self).__name__} must define architecture")

    def make(self, inputs: "HeadInputs") -> "NetworkHead":
        """Return the untrained `NetworkHead`."""
        from qwafer.networks.head import network_head

        return network_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "bound_labels" and self.augment == "none":
            return "head.augment is none"
        return None


@dataclass(frozen=True)
class WaferCnnOptions(NetworkOptions):
    """WaferCNN on the map of 52 x 52 dies (94,504 parameters for eight labels); see `networks.wafercnn`."""

    backbone: ClassVar[str] = "dies_52"

    def architecture(self) -> "Architecture":
        """Return WaferCNN."""
        from qwafer.networks.wafercnn import WaferCnn

        return WaferCnn()
