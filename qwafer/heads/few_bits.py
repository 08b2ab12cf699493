"""The options of the heads whose weights have few bits. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qwafer._checks import check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer.heads.options import LABEL_OPTIONS, LOOP, NORMALIZATIONS, WIDTH_OPTIONS, ClassicalOptions

if TYPE_CHECKING:
    from qwafer.heads._base import Head, HeadInputs
    from qwafer.heads._quantisers import Quantiser

PRECISIONS = ("bitnet", "1", "2", "4", "8", "16", "qesc")
"""How the weights of a layer may be stored."""
CALIBRATIONS = ("max", "percentile", "mse")
"""How the range of a channel is found."""
MOST_EXPERTS = 256
"""Most experts of a mixture."""


@dataclass(frozen=True)
class QuantisedOptions(ClassicalOptions):
    """A linear map, or a network of one hidden layer, with few-bit weights; see `QuantisedHead`."""

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are). The first
    two take 64 stored bits for each feature."""
    precision: str = "4"
    """`1`, `2`, `4`, `8` or `16` bits, symmetric, with a scale for each output; `bitnet`: -1, 0, 1 with one scale,
    inputs of 8 bits (arXiv:2402.17764); `qesc`: -1, 0, 1 with a scale for each output, inputs of `activation_bits`,
    evaluated by population counts."""
    hidden: int | None = None
    """Hidden units; none: a linear map."""
    method: str = "straight_through"
    """`straight_through`: training sees the quantised weights, its gradient does not; `post_training`: training is in
    float32, validation and test see the quantised weights."""
    calibration: str = "max"
    """Range of a channel, for 2 bits and more: `max` |w|, a `percentile` of |w|, or `mse`, the one of 48 with the least
    squared error."""
    percentile: float = 99.9
    """Percentile of |w| in a channel, for that calibration."""
    activation_bits: int = 8
    """Bits of the inputs of each layer, for `qesc`; the time of a product grows with them."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection.linear": (*WIDTH_OPTIONS, "data.task"),
        "initial projection.hidden": (*WIDTH_OPTIONS, "hidden"),
        "initial projection.output": (*LABEL_OPTIONS, "hidden"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_choice("head.precision", self.precision, PRECISIONS)
        if self.hidden is not None:
            check_positive_int("head.hidden", self.hidden, maximum=65_536)
        check_choice("head.method", self.method, ("straight_through", "post_training"))
        check_choice("head.calibration", self.calibration, CALIBRATIONS)
        check_interval("head.percentile", self.percentile, 50, 100)
        check_positive_int("head.activation_bits", self.activation_bits, maximum=8)

    def quantiser(self) -> "Quantiser":
        """Return how each layer is quantised."""
        from qwafer.heads._quantisers import Quantiser

        straight = self.method == "straight_through"
        return Quantiser(self.precision, self.calibration, self.percentile, self.activation_bits, straight)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `QuantisedHead`."""
        from qwafer.heads._quantised import quantised_head

        return quantised_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        averaged = self.precision in ("1", "bitnet", "qesc")
        if option in ("calibration", "percentile") and averaged:
            return f"head.precision is {self.precision}, whose scale is the mean of |w|"
        if option == "percentile" and self.calibration != "percentile":
            return f"head.calibration is {self.calibration}"
        if option == "activation_bits" and self.precision != "qesc":
            inputs = "has inputs of 8 bits" if self.precision == "bitnet" else "leaves its inputs as they are"
            return f"head.precision is {self.precision}, which {inputs}"
        return None


@dataclass(frozen=True)
class MixtureOptions(ClassicalOptions):
    """Quantised experts, of which a router picks some for each example; see `MixtureHead`."""

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are)."""
    experts: tuple[str, ...] = PRECISIONS
    """The precision of each expert, as in `QuantisedOptions`; they are trained straight through."""
    hidden: int | None = None
    """Hidden units of each expert; none: linear maps."""
    top_k: int = 2
    """Experts that compute the logits of an example."""
    balance: float = 1e-3
    """Weight of the loss that balances the load of the experts (arXiv:2101.03961)."""
    router_dropout: float = 0.0
    """Dropout rate of the router's inputs in training, and where its uncertainty is asked for."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection.router": (*WIDTH_OPTIONS, "experts"),
        "initial projection.experts": (*WIDTH_OPTIONS, "data.task", "experts", "hidden"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        if not isinstance(self.experts, tuple) or not 1 <= len(self.experts) <= MOST_EXPERTS:
            raise InputError(f"`head.experts` must be a tuple of 1 to {MOST_EXPERTS} precisions, got {self.experts!r}")
        for precision in self.experts:
            check_choice("head.experts", precision, PRECISIONS)
        if self.hidden is not None:
            check_positive_int("head.hidden", self.hidden, maximum=65_536)
        check_positive_int("head.top_k", self.top_k)
        if self.top_k > len(self.experts):
            raise InputError(f"`head.top_k` must be at most the {len(self.experts)} experts, got {self.top_k}")
        check_interval("head.balance", self.balance, 0, 1e3)
        check_interval("head.router_dropout", self.router_dropout, 0, 1, open_high=True)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `MixtureHead`."""
        from qwafer.heads._mixture import mixture_head

        return mixture_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option == "balance" and self.top_k == len(self.experts):
            return f"head.top_k is {self.top_k}: every expert computes every example"
        return None
