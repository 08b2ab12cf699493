"""The options of every head, and what a head of one's own must offer. Nothing heavy is imported here.

A head is a frozen dataclass of options. One that is trained by the loop makes a `Head` (`make`); a contender, which
trains itself, such as a decision tree, returns a predictor (`fit`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qwafer._checks import check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer._registry import Registry
from qwafer.circuits.circuit import count_weights

if TYPE_CHECKING:
    import numpy as np

    from qwafer.heads._base import Head, HeadInputs

LOOP = ("objective", "sampling", "training")
"""The sections of a configuration that a head trained by the loop reads."""

PARAMETER_GROUPS = ("projection", "circuit", "readout", "alpha")
"""The optimiser's groups; the first part of a parameter's name (`projection.weight`) is its group."""


class TrainedHead(Protocol):
    """Options of a head that the loop trains."""

    sections: ClassVar[tuple[str, ...]]
    """The sections of a configuration that the head reads beside `data` and `head`: `LOOP`, and `circuit` and `engine`
    where it runs a circuit."""

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained head."""
        ...


class Contender(Protocol):
    """Options of a head that trains itself."""

    sections: ClassVar[tuple[str, ...]]
    """As in `TrainedHead`; often () or (`objective`,)."""

    def fit(self, prepared: Any, seed: int) -> "Fitted":
        """Return what predicts, fitted on the training split of `prepared` (`qwafer.training.Prepared`) alone."""
        ...


class Fitted(Protocol):
    """A contender, fitted; `n_parameters` (int) may say how many numbers prediction reads."""

    def logits(self, features: "np.ndarray") -> "np.ndarray":
        """Return the logits (N, n_labels) of `features` (N, D)."""
        ...


HEADS: Registry[Any] = Registry(
    "head.name",
    {
        "quantum": "qwafer.heads.options:QuantumOptions",
        "linear": "qwafer.heads.options:LinearOptions",
        "mlp": "qwafer.heads.options:MlpOptions",
        "trigonometric": "qwafer.heads.options:TrigonometricOptions",
        "quantised": "qwafer.heads.few_bits:QuantisedOptions",
        "mixture": "qwafer.heads.few_bits:MixtureOptions",
        "lora": "qwafer.networks.lora:LoraOptions",
        "tree": "qwafer.heads.options:TreeOptions",
        "wafercnn": "qwafer.networks.options:WaferCnnOptions",
        "waferresnet": "qwafer.networks.options:WaferResNetOptions",
        "trm": "qwafer.networks.options:TrmOptions",
        "efficientnet": "qwafer.networks.options:EfficientNetOptions",
        "mobilenet": "qwafer.networks.options:MobileNetOptions",
        "fidelity": "qwafer.models.options:FidelityOptions",
        "boltzmann": "qwafer.models.options:BoltzmannOptions",
        "quanvolutional": "qwafer.models.options:QuanvolutionalOptions",
        "dressed_nn": "qwafer.models.options:DressedNnOptions",
        "iqp_kernel": "qwafer.models.kernels:IqpKernelOptions",
        "projected_kernel": "qwafer.models.kernels:ProjectedKernelOptions",
        "separable_kernel": "qwafer.models.kernels:SeparableKernelOptions",
        "svc": "qwafer.models.kernels:SvcOptions",
        "kitchen_sinks": "qwafer.models.kitchen_sinks:KitchenSinksOptions",
        "metric_learner": "qwafer.models.metric:MetricLearnerOptions",
    },
)

NORMALIZATIONS = ("standard", "min_max", "l2", "raw")
"""How a head may normalise its features."""
LABEL_OPTIONS = ("data.source", "data.reader", "data.task")
"""What determines the number of labels."""
WIDTH_OPTIONS = ("data.source", "data.reader", "data.n_maps", "data.seed", "data.backbone")
"""What determines the number of features."""


@dataclass(frozen=True)
class QuantumOptions:
    """Projection, circuit, readout: l = alpha (s(x) + bias); see `QuantumHead`."""

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are)."""
    projection: str = "linear"
    """`linear` (trained, with bias), `fixed` (a random orthonormal frame, frozen), `pca` (principal axes of the
    training split, frozen) or `identity`: the features are the inputs, `min_max` ones from -1 to 1."""
    projection_bits: int | None = None
    """Bits of every weight of the projection, symmetric with a scale for each input of the circuit, trained straight
    through, as in `QuantisedOptions`: 1, 2, 4, 8 or 16; none: those of the dtype."""
    angle_map: str = "tanh"
    """How projected features become angles: `tanh` (angle_scale * tanh(z)), `atan` (angle_scale * 2/pi * atan(z)) or
    `linear` (angle_scale * z)."""
    angle_scale: float = 1.5707963267948966
    """Largest angle in radians for the bounded maps, factor for `linear`; pi/2 by default."""
    angle_bits: int | None = None
    """Bits of every angle, of the inputs and of the trained gates: the nearest multiple of 2 pi / 2^bits, as an angle
    register has it; none: those of the dtype. Coefficients of a readout are not angles."""
    init_scale: float = 0.1
    """Standard deviation of the initial ansatz angles (radians); `z_vec` weights start at 1/n_qubits plus it."""
    alpha_mode: str = "softplus"
    """`softplus`: alpha = softplus(a) + 1e-3 > 0; `direct`: alpha = a."""
    alpha_init: float = 4.0
    """Initial alpha, the slope of the logit in the readout."""
    alpha_train: bool = True
    """Train alpha; false freezes it at `alpha_init`."""
    alpha_per_label: bool = False
    """One alpha per label instead of one for all."""

    sections: ClassVar[tuple[str, ...]] = ("circuit", "engine", *LOOP)
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial circuit": ("init_scale",),
        "initial projection": WIDTH_OPTIONS,
        "initial readout": (*LABEL_OPTIONS, "init_scale"),
        "initial readout.bias": LABEL_OPTIONS,
        "initial alpha": (*LABEL_OPTIONS, "alpha_init", "alpha_mode", "alpha_per_label"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_choice("head.projection", self.projection, ("linear", "fixed", "pca", "identity"))
        check_choice("head.angle_map", self.angle_map, ("tanh", "atan", "linear"))
        check_choice("head.alpha_mode", self.alpha_mode, ("softplus", "direct"))
        check_interval("head.angle_scale", self.angle_scale, 0, 100, open_low=True)
        if self.projection_bits is not None:
            check_positive_int("head.projection_bits", self.projection_bits, maximum=16)
            if self.projection_bits & (self.projection_bits - 1):
                raise InputError(f"`head.projection_bits` must be 1, 2, 4, 8 or 16, got {self.projection_bits}")
        if self.angle_bits is not None:
            check_positive_int("head.angle_bits", self.angle_bits, maximum=16)
        check_interval("head.init_scale", self.init_scale, 0, 100)
        check_interval("head.alpha_init", self.alpha_init, -math.inf, math.inf, open_low=True, open_high=True)
        if self.alpha_mode == "softplus" and self.alpha_init <= 1e-3:
            raise InputError(f"`head.alpha_init` must exceed 1e-3 with alpha_mode softplus, got {self.alpha_init}")

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `QuantumHead`."""
        from qwafer.heads._quantum import quantum_head

        return quantum_head(self, inputs)

    def no_effect(self, option: str, config: Any, facts: Any) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        if option in ("alpha_mode", "alpha_per_label") and not self.alpha_train:
            return "head.alpha_train is false; alpha keeps its initial value"
        if option == "init_scale":
            circuit = config.circuit.circuit(1)
            said = dict(getattr(circuit, "initial", ()))
            if not count_weights({name: s for name, s in circuit.weight_shapes().items() if name not in said}):
                return (
                    "the circuit says how its weights start"
                    if said
                    else "the circuit has no angles and no readout weights"
                )
        if option == "alpha_per_label" and config.data.task != "multilabel":
            return f"data.task is {config.data.task}, which has one label"
        return None

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups in which this head has nothing to train, each with the reason."""
        reasons = {}
        if self.projection != "linear":
            reasons["projection"] = f"head.projection is {self.projection}, which is frozen"
        if not self.alpha_train:
            reasons["alpha"] = "head.alpha_train is false"
        return reasons


class ClassicalOptions:
    """What the classical heads share: their layers form the group `projection`."""

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups in which this head has nothing to train, each with the reason."""
        reason = "the layers of a classical head form the group projection"
        return {group: reason for group in PARAMETER_GROUPS if group != "projection"}


@dataclass(frozen=True)
class LinearOptions(ClassicalOptions):
    """Logistic regression; see `LinearHead`."""

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are)."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"initial projection.linear": (*WIDTH_OPTIONS, "data.task")}

    def __post_init__(self) -> None:
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `LinearHead`."""
        from qwafer.heads._classical import linear_head

        return linear_head(inputs)


@dataclass(frozen=True)
class MlpOptions(ClassicalOptions):
    """A network of one hidden layer; see `MlpHead`."""

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are)."""
    hidden: int = 256
    """Hidden units."""
    dropout: float = 0.0
    """Dropout rate in training."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection.hidden": (*WIDTH_OPTIONS, "hidden"),
        "initial projection.output": (*LABEL_OPTIONS, "hidden"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_interval("head.dropout", self.dropout, 0, 1, open_high=True)
        check_positive_int("head.hidden", self.hidden, maximum=65_536)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `MlpHead`."""
        from qwafer.heads._classical import mlp_head

        return mlp_head(self, inputs)


@dataclass(frozen=True)
class TrigonometricOptions(ClassicalOptions):
    """A linear map of products of cosines and sines of learned angles: the surrogate of a circuit that encodes each
    angle `degree` times by a Pauli rotation; see `TrigonometricHead`.
    """

    normalize: str = "standard"
    """How features are normalised, by statistics of the training split: `standard` (mean 0, standard deviation 1),
    `min_max` (0 to 1), `l2` (each example to length 1, without statistics) or `raw` (as they are)."""
    n_angles: int = 4
    """Angles; the inputs of the circuit that it stands for."""
    degree: int = 1
    """Greatest frequency of an angle."""
    angle_map: str = "tanh"
    """As in `QuantumOptions`."""
    angle_scale: float = 1.5707963267948966
    """As in `QuantumOptions`, radians."""

    sections: ClassVar[tuple[str, ...]] = LOOP
    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "initial projection": (*WIDTH_OPTIONS, "n_angles"),
        "initial projection.output": (*LABEL_OPTIONS, "n_angles", "degree"),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("head.normalize", self.normalize, NORMALIZATIONS)
        check_positive_int("head.n_angles", self.n_angles, maximum=4096)
        check_positive_int("head.degree", self.degree, maximum=4096)
        if self.n_angles**2 * self.degree**2 > 65_536:
            raise InputError(
                "`head.n_angles` x `head.degree` must be at most 256, for the features grow with their square, got "
                f"{self.n_angles} x {self.degree}"
            )
        check_choice("head.angle_map", self.angle_map, ("tanh", "atan", "linear"))
        check_interval("head.angle_scale", self.angle_scale, 0, 100, open_low=True)

    def make(self, inputs: "HeadInputs") -> "Head":
        """Return the untrained `TrigonometricHead`."""
        from qwafer.heads._trigonometric import trigonometric_head

        return trigonometric_head(self, inputs)


@dataclass(frozen=True)
class TreeOptions:
    """scikit-learn's decision tree (Gini): the contender that needs no training loop; see `fit_tree`."""

    max_depth: int = 10
    """Largest depth."""

    sections: ClassVar[tuple[str, ...]] = ("objective",)
    backbone: ClassVar[str] = "spatial"
    """The backbone whose features it reads where a benchmark has maps."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("head.max_depth", self.max_depth, maximum=10_000)

    def fit(self, prepared: Any, seed: int) -> "Fitted":
        """Return the fitted tree."""
        from qwafer.heads._tree import fit_tree

        return fit_tree(prepared, seed, max_depth=self.max_depth)
