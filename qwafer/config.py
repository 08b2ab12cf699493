"""Every option of a run: one frozen dataclass a section, validated once, written whole into every result."""

import dataclasses
from dataclasses import dataclass, field

from qwafer._checks import check_choice, check_interval, check_positive_int
from qwafer._errors import InputError
from qwafer.circuits.spec import ANSATZE, DTYPES, ENCODINGS, ENTANGLEMENTS, CircuitSpec

ENGINES = ("auto", "catalyst", "xla", "reference")
HEADS = ("quantum", "linear", "mlp")
LOSSES = ("bce", "focal", "asymmetric", "softmax", "auc")


@dataclass(frozen=True)
class DataConfig:
    """Which examples, which labels, which split."""

    source: str = "synthetic"
    """A file of wafer maps, a table, a FeatureSet (.npz), or `synthetic` for the embedded generator."""
    reader: str | None = None
    """Reader of `source`: a name in `data.READERS`, or `package.module:function`; none: told by the file's content."""
    n_maps: int = 2000
    """Maps that the synthetic generator draws; without effect on files, and refused with them."""
    seed: int = 0
    """Seed of the synthetic generator."""
    backbone: str = "spatial"
    """Backbone that turns maps into features where `source` holds maps: a name in `backbones.BACKBONES`, or
    `package.module:thing`."""
    task: str = "multilabel"
    """`multilabel`: every label; `any`: defect or none; a label's name: that pattern against the rest."""
    split_by: str = "content"
    """`content`: stratified, identical maps together; `group`: whole lots together; `time`: oldest to train, newest
    to test."""
    train_fraction: float = 0.7
    """Fraction of the examples that train."""
    val_fraction: float = 0.1
    """Fraction that picks checkpoints and thresholds; the rest is the test split."""
    split_seed: int | None = None
    """Seed of the split; none: the run's own seed, so that the spread over seeds includes the split."""
    limit: int | None = None
    """Use only so many examples, drawn by `split_seed`; none: all."""

    def __post_init__(self) -> None:
        check_positive_int("data.n_maps", self.n_maps, minimum=10)
        check_choice("data.split_by", self.split_by, ("content", "group", "time"))
        check_interval("data.train_fraction", self.train_fraction, 0, 1, open_low=True, open_high=True)
        check_interval("data.val_fraction", self.val_fraction, 0, 1, open_low=True, open_high=True)
        if self.train_fraction + self.val_fraction >= 1:
            raise InputError(
                "`data.train_fraction` + `data.val_fraction` must be less than 1, so that a test split remains"
            )
        if self.limit is not None:
            check_positive_int("data.limit", self.limit, minimum=10)


@dataclass(frozen=True)
class CircuitConfig:
    """The circuit of a quantum head; see `CircuitSpec` for the meaning. The number of outputs follows from the task."""

    n_qubits: int = 4
    """Wires."""
    n_layers: int = 2
    """Layers of the ansatz."""
    encoding: str = "ry"
    """`ry`, `rx` or `rz` (after Hadamards)."""
    ansatz: str = "strongly_entangling"
    """`strongly_entangling`, `basic_entangler` or `separable`."""
    entanglement: str = ""
    """`ring`, `linear`, `all` or `none`; empty: the ansatz's own."""
    readout: str = "mean_z_readout"
    """`mean_z`, `z_vec` or `mean_z_readout`."""
    reupload: bool = False
    """Encode the data again before every layer."""
    dtype: str = "float32"
    """Precision of values and gradients: `float32` or `float64`."""

    def __post_init__(self) -> None:
        check_choice("circuit.encoding", self.encoding, ENCODINGS)
        check_choice("circuit.ansatz", self.ansatz, ANSATZE)
        check_choice("circuit.entanglement", self.entanglement, ("", *ENTANGLEMENTS))
        check_choice("circuit.readout", self.readout, ("mean_z", "z_vec", "mean_z_readout"))
        check_choice("circuit.dtype", self.dtype, DTYPES)
        self.spec(1)

    def spec(self, n_outputs: int) -> CircuitSpec:
        """Return the `CircuitSpec` with so many outputs."""
        return CircuitSpec(**dataclasses.asdict(self), n_outputs=n_outputs)


@dataclass(frozen=True)
class EngineConfig:
    """How the circuit is executed."""

    name: str = "catalyst"
    """`catalyst`, `xla`, `reference`, or `auto` to choose by the measured table."""
    batching: str = ""
    """Catalyst only: `scan` (an example at a time), `choi` (the batch in one circuit) or `auto`; empty: `scan`."""
    device: str = ""
    """Catalyst only: PennyLane device; empty: `lightning.qubit`."""
    shots: int | None = None
    """Catalyst only: finite shots an expectation value; none: exact."""
    diff_method: str = ""
    """Catalyst only: `adjoint` or `parameter-shift`; empty: what works best on the device."""

    def __post_init__(self) -> None:
        check_choice("engine.name", self.name, ENGINES)
        check_choice("engine.batching", self.batching, ("", "scan", "choi", "auto"))
        check_choice("engine.diff_method", self.diff_method, ("", "adjoint", "parameter-shift"))
        if self.shots is not None:
            check_positive_int("engine.shots", self.shots)
        if self.name not in ("catalyst", "auto"):
            for option in ("batching", "device", "shots", "diff_method"):
                if getattr(self, option):
                    raise InputError(f"`engine.{option}` has no effect on engine {self.name}: it belongs to `catalyst`")

    def options(self) -> dict[str, object]:
        """Return the options that are set, as keywords of `qwafer.engines.get`."""
        values = dataclasses.asdict(self)
        del values["name"]
        return {option: value for option, value in values.items() if value not in ("", None)}


@dataclass(frozen=True)
class HeadConfig:
    """The trainable map from features to logits."""

    name: str = "quantum"
    """`quantum`, `linear` or `mlp`."""
    standardize: bool = True
    """Shift and scale each feature by its mean and standard deviation on the training split."""
    projection: str = "linear"
    """Quantum only: `linear` (trained, with bias), `fixed` (a random orthonormal frame, frozen) or `pca` (principal
    axes of the training split, frozen)."""
    angle_map: str = "tanh"
    """Quantum only: how projected features become angles: `tanh` (angle_scale * tanh(z)), `atan` (angle_scale * 2/pi *
    atan(z)) or `linear` (angle_scale * z)."""
    angle_scale: float = 1.5707963267948966
    """Quantum only: largest angle in radians for the bounded maps, factor for `linear`; pi/2 by default."""
    init_scale: float = 0.1
    """Quantum only: standard deviation of the initial ansatz angles (radians); `z_vec` weights start at 1/n_qubits
    plus it."""
    alpha_mode: str = "softplus"
    """Quantum only: `softplus`: alpha = softplus(a) + 1e-3 > 0; `direct`: alpha = a."""
    alpha_init: float = 4.0
    """Quantum only: initial alpha, the slope of the logit in the readout."""
    alpha_train: bool = True
    """Quantum only: train alpha; false freezes it at `alpha_init`."""
    alpha_per_label: bool = False
    """Quantum only: one alpha a label instead of one for all."""
    hidden: int = 256
    """MLP only: hidden units."""
    dropout: float = 0.0
    """MLP only: dropout rate in training."""

    def __post_init__(self) -> None:
        check_choice("head.name", self.name, HEADS)
        check_choice("head.projection", self.projection, ("linear", "fixed", "pca"))
        check_choice("head.angle_map", self.angle_map, ("tanh", "atan", "linear"))
        check_choice("head.alpha_mode", self.alpha_mode, ("softplus", "direct"))
        check_interval("head.angle_scale", self.angle_scale, 0, 100, open_low=True)
        check_interval("head.init_scale", self.init_scale, 0, 100)
        check_interval("head.dropout", self.dropout, 0, 1, open_high=True)
        check_positive_int("head.hidden", self.hidden)
        if self.alpha_mode == "softplus" and self.alpha_init <= 1e-3:
            raise InputError(f"`head.alpha_init` must exceed 1e-3 with alpha_mode softplus, got {self.alpha_init}")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    loss: str = "bce"
    """`bce`: binary cross-entropy a label; `focal`: (1 - p_t)^gamma times it; `asymmetric`: focal with exponents of its
    own for positives and negatives; `softmax`: cross-entropy of exclusive classes; `auc`: a surrogate of ROC-AUC."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss; must be 0 with every other loss."""
    asymmetric_gamma_pos: float = 0.0
    """Asymmetric only: exponent of positives."""
    asymmetric_gamma_neg: float = 4.0
    """Asymmetric only: exponent of negatives."""
    asymmetric_clip: float = 0.05
    """Asymmetric only: probability below which a negative costs nothing."""
    pos_weight: str = "none"
    """Weight of positive examples a label, for `bce`, `focal` and `asymmetric`: `none` (1), `balanced` (negatives /
    positives of the training split), `effective` (the same of effective numbers), a number, or one a label (1,2.5)."""
    class_weights: str = "none"
    """Weight of each label's term (`softmax`: of the examples of each class): `none` (1), `balanced` (inverse to the
    positives of the training split), `effective` (to their effective numbers), both with mean one, or one a label."""
    effective_beta: float = 0.999
    """Beta of the effective number (1 - beta^n) / (1 - beta) of n examples; without effect unless one is asked for."""
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over its values (`softmax`: over the classes); 0 with `auc`."""

    def __post_init__(self) -> None:
        check_choice("objective.loss", self.loss, LOSSES)
        for option in ("focal_gamma", "asymmetric_gamma_pos", "asymmetric_gamma_neg"):
            check_interval(f"objective.{option}", getattr(self, option), 0, 20)
        check_interval("objective.asymmetric_clip", self.asymmetric_clip, 0, 1, open_high=True)
        check_interval("objective.effective_beta", self.effective_beta, 0, 1, open_low=True, open_high=True)
        check_interval("objective.label_smoothing", self.label_smoothing, 0, 1, open_high=True)
        if (self.loss == "focal") != (self.focal_gamma > 0):
            raise InputError(
                "`objective.focal_gamma` must be positive with loss focal and 0 with every other, "
                f"got {self.focal_gamma} with {self.loss}"
            )
        for option in ("pos_weight", "class_weights"):
            text = getattr(self, option)
            if text not in ("none", "balanced", "effective") and not _positive_numbers(text):
                raise InputError(
                    f"`objective.{option}` must be none, balanced, effective or positive numbers (1,2.5), got {text!r}"
                )
        if self.pos_weight != "none" and self.loss in ("softmax", "auc"):
            raise InputError(f"`objective.pos_weight` has no effect on loss {self.loss}: use class_weights, or none")
        if self.label_smoothing > 0 and self.loss == "auc":
            raise InputError("`objective.label_smoothing` has no effect on loss auc, which compares pairs: set it to 0")


def _positive_numbers(text: str) -> bool:
    """Return whether `text` holds positive finite numbers, separated by commas."""
    try:
        return all(0 < float(part) < float("inf") for part in text.split(","))
    except ValueError:
        return False


@dataclass(frozen=True)
class SamplingConfig:
    """Which examples make a training batch."""

    balanced: bool = False
    """Draw batches with a fixed fraction of positives (binary tasks) instead of shuffled passes."""
    pos_frac: float = 0.5
    """Fraction of positives in a balanced batch (the batch prior pi_b)."""
    importance_weights: bool = True
    """Weight balanced examples by pi_t/pi_b and (1-pi_t)/(1-pi_b), so that the expected loss is that of the true
    prior pi_t."""

    def __post_init__(self) -> None:
        check_interval("sampling.pos_frac", self.pos_frac, 0, 1, open_low=True, open_high=True)


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule and the loop."""

    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 1e-2
    """Peak learning rate of AdamW."""
    schedule: str = "constant"
    """`constant`, `cosine` (to zero) or `one_cycle`."""
    weight_decay: float = 0.0
    """Decoupled weight decay of every group that has none of its own."""
    lr_mult_projection: float = 1.0
    """Learning-rate multiplier of the projection (and of classical layers)."""
    lr_mult_circuit: float = 1.0
    """Learning-rate multiplier of the ansatz angles."""
    lr_mult_readout: float = 1.0
    """Learning-rate multiplier of the readout weights and the bias."""
    lr_mult_alpha: float = 1.0
    """Learning-rate multiplier of alpha."""
    weight_decay_projection: float | None = None
    """Weight decay of the projection; none: `weight_decay`."""
    weight_decay_circuit: float | None = None
    """Weight decay of the ansatz angles; none: `weight_decay`."""
    weight_decay_readout: float | None = None
    """Weight decay of the readout weights and the bias; none: `weight_decay`."""
    weight_decay_alpha: float | None = None
    """Weight decay of alpha; none: `weight_decay`."""
    grad_clip: float | None = 1.0
    """Largest global gradient norm; none: no clipping."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the parameters, which is then what is evaluated; none: off."""
    early_stopping: int | None = None
    """Stop after so many evaluations without a better validation objective; none: never."""
    val_objective: str = "auc"
    """What picks the checkpoint on the validation split: `auc`, `sep` or `loss`."""
    eval_every_epochs: int = 1
    """Epochs between evaluations."""
    fixed_num_batches: int | None = None
    """Micro-run: exactly so many batches an epoch; none: one pass over the training split."""
    preflight_compile: bool = True
    """Compile every program of the run before its clock starts."""
    checkpoint_every_epochs: int = 0
    """Epochs between checkpoints on disk, from which a killed run resumes; 0: none."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every_epochs"):
            check_positive_int(f"training.{name}", getattr(self, name))
        for name in ("early_stopping", "fixed_num_batches"):
            if getattr(self, name) is not None:
                check_positive_int(f"training.{name}", getattr(self, name))
        check_positive_int("training.checkpoint_every_epochs", self.checkpoint_every_epochs, minimum=0)
        check_interval("training.learning_rate", self.learning_rate, 0, 10, open_low=True)
        check_choice("training.schedule", self.schedule, ("constant", "cosine", "one_cycle"))
        check_choice("training.val_objective", self.val_objective, ("auc", "sep", "loss"))
        for group in ("projection", "circuit", "readout", "alpha"):
            check_interval(f"training.lr_mult_{group}", getattr(self, f"lr_mult_{group}"), 0, 1e4)
            decay = getattr(self, f"weight_decay_{group}")
            if decay is not None:
                check_interval(f"training.weight_decay_{group}", decay, 0, 10)
        check_interval("training.weight_decay", self.weight_decay, 0, 10)
        if self.grad_clip is not None:
            check_interval("training.grad_clip", self.grad_clip, 0, 1e9, open_low=True)
        if self.ema_decay is not None:
            check_interval("training.ema_decay", self.ema_decay, 0, 1, open_low=True, open_high=True)


@dataclass(frozen=True)
class RunConfig:
    """One run, whole: what `qwafer.training.train` takes beside the features and the seed."""

    data: DataConfig = field(default_factory=DataConfig)
    circuit: CircuitConfig = field(default_factory=CircuitConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        loss = self.objective.loss
        if self.sampling.balanced and loss in ("focal", "asymmetric"):
            raise InputError(
                f"`objective.loss` = {loss} cannot be combined with sampling.balanced: both re-weight the classes, so "
                f"the {loss} effect and the prior shift could not be told apart; use one of them"
            )
        if loss == "softmax" and self.data.task != "multilabel":
            raise InputError(
                f"`objective.loss` = softmax needs all classes, got data.task = {self.data.task}: set it to "
                "multilabel, or use loss bce"
            )
        if self.sampling.balanced and self.data.task == "multilabel":
            raise InputError(
                "`sampling.balanced` needs a binary task (data.task = any, or a label's name): "
                "a batch cannot be balanced for several labels at once"
            )

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return the whole configuration as nested plain data."""
        return dataclasses.asdict(self)
