"""The options of networks on wafer maps, which are heads on the dies themselves. Nothing heavy is imported here.

A network reads a backbone `dies_SIZE` and is trained by the loop that trains every head: it has its split, seeds,
batches, losses, schedules, checkpoints and records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.heads.options import LABEL_OPTIONS, LOOP, WIDTH_OPTIONS, ClassicalOptions

if TYPE_CHECKING:
    from qwafer.heads import HeadInputs
    from qwafer.networks.head import Architecture, NetworkHead


GRIDS = (26, 32, 52, 64)
"""Sides of the maps that backbones `dies_SIZE` give."""
MIXERS = ("attention", "mlp")
LARGEST_SIDE = 64
"""Tokens a side of a map, at most."""
DEPTH = 16
"""Channels per head, where the heads are not given."""


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
    has_features: ClassVar[bool] = True
    """Whether the head has features of its own, which may learn from a teacher's (`objective.teacher_features`)."""
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


@dataclass(frozen=True)
class WaferResNetShape:
    """The shape of the residual network: what its arrays depend on."""

    width: int = 48
    """Channels of the first stage; the others have two and three times as many."""
    blocks: int = 1
    """Residual blocks per stage, of two convolutions each."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("width", self.width, maximum=4096)
        check_positive_int("blocks", self.blocks, maximum=64)


@dataclass(frozen=True)
class WaferResNetOptions(WaferResNetShape, NetworkOptions):
    """A residual network on the map of 52 x 52 dies (754,568 parameters for eight labels); see
    `networks.waferresnet.WaferResNet`.
    """

    backbone: ClassVar[str] = "dies_52"
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection": (*WIDTH_OPTIONS, *LABEL_OPTIONS, *(field.name for field in fields(WaferResNetShape)))
    }

    def __post_init__(self) -> None:
        NetworkOptions.__post_init__(self)
        WaferResNetShape.__post_init__(self)

    def architecture(self) -> "Architecture":
        """Return the network."""
        from qwafer.networks.waferresnet import WaferResNet

        return WaferResNet(self.width, self.blocks)


@dataclass(frozen=True)
class EfficientNetOptions(NetworkOptions):
    """EfficientNet-B0 on the map of 64 x 64 dies (4,017,796 parameters for eight labels); see `networks.students`."""

    backbone: ClassVar[str] = "dies_64"

    def architecture(self) -> "Architecture":
        """Return EfficientNet-B0."""
        from qwafer.networks.students import unfolded

        return unfolded("efficientnet")


@dataclass(frozen=True)
class MobileNetOptions(NetworkOptions):
    """MobileNetV3-Small on the map of 64 x 64 dies (931,624 parameters for eight labels); see `networks.students`."""

    backbone: ClassVar[str] = "dies_64"

    def architecture(self) -> "Architecture":
        """Return MobileNetV3-Small."""
        from qwafer.networks.students import unfolded

        return unfolded("mobilenet")


@dataclass(frozen=True)
class TrmShape:
    """The shape of the tiny recursive network: what its arrays depend on."""

    size: int = 64
    """Dies a side, to which maps are brought by nearest neighbour."""
    patch: int = 8
    """Dies a side of a token."""
    width: int = 96
    """Channels of a token."""
    mixer: str = "mlp"
    """What mixes tokens: `mlp`, a SwiGLU over them, or `attention` with rotary embedding of rows and columns."""
    heads: int | None = None
    """Heads of the attention; unset: as many as give 16 channels each."""
    layers: int = 2
    """Layers of f."""
    supervision_steps: int = 3
    """T, the steps that are trained to answer, and after each of which the network may halt."""
    recursions: int = 6
    """n, the changes of z per step."""
    expansion: int = 1
    """Hidden units of a SwiGLU, over the number of its inputs."""
    no_gradient: int | None = None
    """First recursions of a step through which no gradient flows: cheaper to train. Unset: all but the last two; 0: it
    flows through all."""
    halt_bias: float = -3.0
    """Initial bias of the halting logit; negative: the network starts deep, and learns to halt."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("size", self.size, minimum=2, maximum=2048)
        check_positive_int("patch", self.patch, maximum=2048)
        if self.size % self.patch:
            raise InputError(f"`patch` must divide `size` = {self.size}, got {self.patch}")
        if not 2 <= self.side <= LARGEST_SIDE:
            raise InputError(f"`size` / `patch` must lie in [2, {LARGEST_SIDE}], got {self.size} / {self.patch}")
        check_positive_int("width", self.width, maximum=4096)
        check_choice("mixer", self.mixer, MIXERS)
        if self.heads is not None:
            check_positive_int("heads", self.heads, maximum=4096)
            if self.mixer != "attention":
                raise InputError("`heads` has no effect with the mixer mlp, which has none: leave it out")
        if self.mixer == "attention" and self.width % (4 * self.n_heads):
            raise InputError(
                f"`width` per head must be a multiple of 4, which the rotary embedding turns in two pairs, got "
                f"{self.width} / {self.n_heads}"
            )
        check_positive_int("layers", self.layers, maximum=64)
        check_positive_int("supervision_steps", self.supervision_steps, maximum=64)
        check_positive_int("recursions", self.recursions, maximum=1024)
        check_positive_int("expansion", self.expansion, maximum=16)
        if self.no_gradient is not None:
            check_positive_int("no_gradient", self.no_gradient, minimum=0)
            if self.no_gradient >= self.recursions:
                raise InputError(
                    f"`no_gradient` must be less than `recursions` = {self.recursions}, or the embedding would learn "
                    f"nothing, got {self.no_gradient}"
                )
        check_interval("halt_bias", self.halt_bias, -20, 20)

    @property
    def side(self) -> int:
        """Tokens a side."""
        return self.size // self.patch

    @property
    def n_constant(self) -> int:
        """First recursions of a step through which no gradient flows."""
        return max(0, self.recursions - 2) if self.no_gradient is None else self.no_gradient

    @property
    def n_heads(self) -> int:
        """Heads of the attention."""
        return max(1, self.width // DEPTH) if self.heads is None else self.heads


@dataclass(frozen=True)
class TrmOptions(TrmShape, NetworkOptions):
    """A tiny recursive network on the dies: two layers applied again and again, which may halt early; see
    `networks.trm.Trm`.
    """

    halt_weight: float = 0.5
    """Weight of the halting loss: the cross-entropy of the halting probability against whether the step's answer is
    right."""
    halt_threshold: float = 1.0
    """Halting probability above which the answer of a step is final, in evaluation; 1: the last step answers."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection": (*WIDTH_OPTIONS, *LABEL_OPTIONS, *(field.name for field in fields(TrmShape)))
    }

    def __post_init__(self) -> None:
        NetworkOptions.__post_init__(self)
        TrmShape.__post_init__(self)
        if self.size not in GRIDS:
            raise InputError(
                f"`size` must be one of {', '.join(map(str, GRIDS))}, for which there are dies, got {self.size}"
            )
        check_interval("head.halt_weight", self.halt_weight, 0, 1e3)
        check_interval("head.halt_threshold", self.halt_threshold, 0, 1)

    @property
    def backbone(self) -> str:
        """The dies that the network reads."""
        return f"dies_{self.size}"

    def architecture(self) -> "Architecture":
        """Return the network."""
        from qwafer.networks.trm import Trm

        return Trm(**{field.name: getattr(self, field.name) for field in fields(TrmShape)})

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "heads" and self.mixer != "attention":
            return f"head.mixer is {self.mixer}, which has none"
        if option == "halt_bias" and self.halt_weight == 0 and self.halt_threshold == 1:
            return "head.halt_weight is 0 and head.halt_threshold is 1: halting is neither trained nor used"
        return super().no_effect(option, config, facts)
