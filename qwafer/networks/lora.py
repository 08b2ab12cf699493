"""The options of head `lora`: a linear map on a network that goes on from where it was cut, with low-rank adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.heads.options import LOOP, WIDTH_OPTIONS, ClassicalOptions

if TYPE_CHECKING:
    from qwafer.heads import HeadInputs
    from qwafer.networks.lora_head import LoraHead


@dataclass(frozen=True)
class LoraOptions(ClassicalOptions):
    """The rest of a frozen network, which `data.backbone = NAME@STAGE` has cut, with low-rank adapters, and a linear
    map on its features; see `LoraHead`.
    """

    layers: str = "*"
    """Which layers have adapters: patterns of their names, separated by commas, such as `block2` or `stage3_*/mixer/*`.
    Those that may: convolutions of WaferCNN, pointwise convolutions of EfficientNet and MobileNet, projections of the
    attention and the mixers of MambaVision."""
    rank: int = 4
    """Rank of the adapters; less where a layer has fewer inputs or outputs; 0: no adapters."""
    budget: int | None = None
    """Most trained parameters, adapters and linear map together: the rank is the largest within it; none: `rank`."""
    scale: float = 8.0
    """The kernel of a layer is W + (scale / rank) A B; B starts at zero."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    normalize: ClassVar[str] = "raw"
    """Its inputs are not features yet; what the network makes of them is normalised (`standard`)."""
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection.linear": (*WIDTH_OPTIONS, "data.task"),
        "initial projection": (*WIDTH_OPTIONS, "data.task", "layers", "rank", "budget"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("head.rank", self.rank, minimum=0, maximum=65_536)
        if self.budget is not None:
            check_positive_int("head.budget", self.budget)
        check_interval("head.scale", self.scale, 0, 1e6, open_low=True)
        if not isinstance(self.layers, str) or not all(part.strip() for part in self.layers.split(",")):
            raise InputError(f"`head.layers` must be patterns of layers, separated by commas, got {self.layers!r}")

    def make(self, inputs: "HeadInputs") -> "LoraHead":
        """Return the untrained `LoraHead`: what the frozen network gives, through a linear map."""
        from qwafer.networks.lora_head import lora_head

        return lora_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "rank" and self.budget is not None:
            return f"head.budget is {self.budget}, which decides the rank"
        if option in ("layers", "scale") and self.rank == 0 and self.budget is None:
            return "head.rank is 0: there are no adapters"
        return None
