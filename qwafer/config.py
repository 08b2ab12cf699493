"""`RunConfig`: one run, whole, from things that bring their own options; validated once, written whole into results.

A section of a configuration is either plain options (`data`, `sampling`, `training`) or a thing with options of its own
(`head`, `circuit`, `engine`, `objective`), found by name in an open registry. A section may declare, beside its fields:
`no_effect(option, config, facts)`, why one of its options has no effect here; `implied(config)`, the values that some
of its options stand for, so that equal runs have equal effective options; `determines` (or `determined_by(what)`),
which options shape the digest `data`, `split` or `batches` of a run, or `initial NAME`, the initial value of a
parameter, by the longest prefix of its name. What declares nothing of its parameters shapes them by all of its options,
a head by those of the data, too.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qwafer._checks import check_choice, check_interval, check_positive_int, plain_numbers
from qwafer._errors import InputError
from qwafer._registry import Registry
from qwafer.circuits.options import CIRCUITS
from qwafer.data.synthetic import MAX_MAPS
from qwafer.engines import ENGINES
from qwafer.features import SourceFacts
from qwafer.heads.options import HEADS, LOOP, PARAMETER_GROUPS, QuantumOptions
from qwafer.objective.options import LOSSES, Bce
from qwafer.objective.sampling import SamplingConfig

MAX_EPOCHS = 1_000_000
"""Epochs of a run, with all doublings, and examples of a batch, at most."""
MIN_EVALUATIONS = 4
"""Fewer evaluations cannot show that a run has converged."""
SOURCE = ("source", "reader", "n_maps", "seed")
"""Options of `data` that say which examples there are."""
SPLIT = ("limit", "split_seed", "split_by", "train_fraction", "val_fraction", "n_folds")
"""Options of `data` that say which of them train, validate and test."""


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
    `package.module:thing`; `NAME@STAGE`: what enters that stage of a network, for head `lora`."""
    task: str = "multilabel"
    """`multilabel`: every label; `any`: defect or none; a label's name: that pattern against the rest."""
    split_by: str = "content"
    """`content`: stratified, identical maps together; `group`: whole lots together; `time`: oldest to train, newest
    to test; `fold`: by the K folds that the data bring, seed s tests on fold s mod K and validates on the next one."""
    train_fraction: float = 0.7
    """Fraction of the examples that train."""
    val_fraction: float = 0.1
    """Fraction that picks checkpoints and thresholds; the rest is the test split."""
    split_seed: int | None = None
    """Seed of the split; none: the run's own seed, so that the spread over seeds includes the split."""
    n_folds: int | None = None
    """K-fold cross-validation: seed s tests on fold s mod K of the (s // K)-th random partition; none: every seed draws
    its split by the fractions."""
    limit: int | None = None
    """Use only so many examples, drawn with the split (with folds, once per partition); none: all."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "data": (*SOURCE, "backbone", "task", "limit", "split_seed", "n_folds"),
        "split": (*SOURCE, *SPLIT),
        "batches": (*SOURCE, *SPLIT),
    }

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_positive_int("data.n_maps", self.n_maps, minimum=10, maximum=MAX_MAPS)
        check_choice("data.split_by", self.split_by, ("content", "group", "time", "fold"))
        check_interval("data.train_fraction", self.train_fraction, 0, 1, open_low=True, open_high=True)
        check_interval("data.val_fraction", self.val_fraction, 0, 1, open_low=True, open_high=True)
        if self.n_folds is not None:
            self._check_folds(self.n_folds)
        elif self.train_fraction + self.val_fraction >= 1:
            raise InputError(
                "`data.train_fraction` + `data.val_fraction` must be less than 1, so that a test split remains"
            )
        if self.limit is not None:
            check_positive_int("data.limit", self.limit, minimum=10)

    @property
    def trained_fraction(self) -> float:
        """The fraction of the examples that train: `train_fraction`, or 1 - 1 / n_folds - `val_fraction`."""
        return self.train_fraction if self.n_folds is None else 1 - 1 / self.n_folds - self.val_fraction

    def limit_seed(self, seed: int) -> int:
        """Return the seed by which the run of `seed` draws the examples of `limit`: folds are of one set."""
        if self.split_by == "fold":
            return 0
        own = seed if self.split_seed is None else self.split_seed
        return own if self.n_folds is None else seed // self.n_folds

    def _check_folds(self, n_folds: int) -> None:
        check_positive_int("data.n_folds", n_folds, minimum=2)
        if self.split_by == "time":
            raise InputError("`data.n_folds` cannot be combined with data.split_by = time, which has one order")
        if self.split_by == "fold":
            raise InputError("`data.n_folds` cannot be combined with data.split_by = fold, whose folds the data bring")
        if self.split_seed is not None:
            raise InputError("`data.n_folds` cannot be combined with data.split_seed: a run's seed names its fold")
        if 1 / n_folds + self.val_fraction > 1 - 1e-9:
            raise InputError(
                f"`data.val_fraction` must be less than 1 - 1 / n_folds = {1 - 1 / n_folds:.3g}, or no training "
                f"examples remain; got {self.val_fraction}"
            )

    def no_effect(self, option: str, config: "RunConfig", facts: SourceFacts) -> str | None:
        """Return why `option` has no effect on a source of these `facts`, as a clause; None where it has one."""
        if option in ("n_maps", "seed") and facts.kind != "synthetic":
            return f"data.source is {self.source}; the synthetic generator does not run"
        if option == "backbone" and facts.kind == "features":
            return (
                f"data.source {self.source} holds features already, of one backbone; give the maps instead (--maps), "
                "or leave data.backbone out"
            )
        if option == "backbone" and facts.kind == "table":
            return f"data.source {self.source} holds a table, which is not pushed through a backbone"
        if option in ("split_by", "train_fraction", "val_fraction", "n_folds") and facts.brings_split:
            return f"data.source {self.source} brings its own split"
        if option == "n_folds" and facts.kind == "table":
            return f"data.source {self.source} holds a table, whose categories rest on one split"
        if option in ("train_fraction", "val_fraction", "n_folds") and self.split_by == "fold":
            return "data.split_by is fold: one fold of the data tests, the next one validates, the others train"
        if option == "train_fraction" and self.n_folds is not None:
            return f"data.n_folds is {self.n_folds}: what neither tests nor validates trains"
        if option == "split_seed" and self.limit is None:
            if facts.brings_split:
                return f"data.source {self.source} brings its own split, and data.limit draws nothing"
            if self.split_by == "time":
                return "data.split_by is time, which draws nothing"
        return None


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser, its schedule and the loop."""

    epochs: int = 10
    """Passes over the training split, of the first stage: training is doubled, `epochs`, 2 `epochs`, 4 `epochs`, ...,
    until a doubling does not pay (`qwafer.training.has_converged`)."""
    max_doublings: int = 3
    """Most doublings; 0: exactly `epochs`. A run that this ends is not converged, and has no verdict."""
    convergence_tolerance: float = 1e-3
    """Improvement of the best validation objective, relative to max(1, its magnitude), up to which the second half of
    the epochs did not pay; ten times as much, relative, for the validation loss."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 1e-2
    """Peak learning rate of AdamW."""
    schedule: str = "constant"
    """`constant`, `cosine` (to zero) or `one_cycle`, which start anew with each doubling, the optimiser's moments being
    kept (warm restarts: Loshchilov and Hutter 2017); `plateau`: halved wherever `plateau_patience` evaluations in turn
    were no better."""
    plateau_patience: int = 2
    """Evaluations without a better validation objective after which the schedule `plateau` halves the rate."""
    warmup: float = 0.0
    """Part of the steps of the first stage over which the learning rate rises from zero, linearly, as a factor of the
    schedule's."""
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
    val_objective: str = "roc_auc"
    """What picks the checkpoint on the validation split: `roc_auc`, `separation`, `loss` or `macro_f1` (the mean over
    classes of F1, at p = 0.5, of the largest logit for exclusive classes)."""
    eval_every_epochs: int = 1
    """Epochs between evaluations."""
    fixed_num_batches: int | None = None
    """Micro-run: exactly so many batches per epoch; none: one pass over the training split."""
    preflight_compile: bool = True
    """Compile every program of the run before its clock starts."""
    checkpoint_every_epochs: int = 0
    """Epochs between checkpoints on disk, from which a killed run resumes; 0: none."""

    determines: ClassVar[Mapping[str, tuple[str, ...]]] = {"batches": ("batch_size", "epochs", "fixed_num_batches")}

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name in ("epochs", "batch_size", "eval_every_epochs"):
            check_positive_int(f"training.{name}", getattr(self, name), maximum=MAX_EPOCHS)
        for name in ("early_stopping", "fixed_num_batches"):
            if getattr(self, name) is not None:
                check_positive_int(f"training.{name}", getattr(self, name), maximum=MAX_EPOCHS)
        check_positive_int("training.checkpoint_every_epochs", self.checkpoint_every_epochs, minimum=0)
        check_interval("training.max_doublings", self.max_doublings, 0, 20)
        check_positive_int("training.max_doublings", self.max_doublings, minimum=0)
        if self.stage_ends[-1] > MAX_EPOCHS:
            raise InputError(
                f"`training.epochs` x 2^`training.max_doublings` must be at most {MAX_EPOCHS:,} epochs, got "
                f"{self.epochs} x 2^{self.max_doublings}"
            )
        check_interval("training.convergence_tolerance", self.convergence_tolerance, 0, 1)
        check_interval("training.learning_rate", self.learning_rate, 0, 10, open_low=True)
        check_choice("training.schedule", self.schedule, ("constant", "cosine", "one_cycle", "plateau"))
        check_positive_int("training.plateau_patience", self.plateau_patience, maximum=MAX_EPOCHS)
        check_interval("training.warmup", self.warmup, 0, 1)
        check_choice("training.val_objective", self.val_objective, ("roc_auc", "separation", "loss", "macro_f1"))
        for group in PARAMETER_GROUPS:
            check_interval(f"training.lr_mult_{group}", getattr(self, f"lr_mult_{group}"), 0, 1e4)
            decay = getattr(self, f"weight_decay_{group}")
            if decay is not None:
                check_interval(f"training.weight_decay_{group}", decay, 0, 10)
        check_interval("training.weight_decay", self.weight_decay, 0, 10)
        if self.grad_clip is not None:
            check_interval("training.grad_clip", self.grad_clip, 0, 1e9, open_low=True)
        if self.ema_decay is not None:
            check_interval("training.ema_decay", self.ema_decay, 0, 1, open_low=True, open_high=True)

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The epochs at which training may end: `epochs`, and each doubling of it."""
        return tuple(self.epochs * 2**doublings for doublings in range(self.max_doublings + 1))

    @property
    def evaluation_epochs(self) -> tuple[int, ...]:
        """The epochs that are evaluated, where training goes on to its last doubling."""
        ends = self.stage_ends
        return tuple(sorted({*range(self.eval_every_epochs, ends[-1] + 1, self.eval_every_epochs), *ends}))

    def implied(self, config: "RunConfig") -> dict[str, Any]:
        """Return the options that stand for another value, with that value; what only says how to execute is left as it
        is by default.
        """
        names = [f"weight_decay_{group}" for group in PARAMETER_GROUPS]
        values: dict[str, Any] = {name: self.weight_decay for name in names if getattr(self, name) is None}
        if self.evaluation_epochs == self.stage_ends:
            values["eval_every_epochs"] = self.stage_ends[-1]
        return {**values, "preflight_compile": True, "checkpoint_every_epochs": 0}

    def no_effect(self, option: str, config: "RunConfig", facts: SourceFacts) -> str | None:
        """Return why `option` has no effect, as a clause; None where it has one."""
        untrained = config.untrained_groups()
        for group, reason in untrained.items():
            if option in (f"lr_mult_{group}", f"weight_decay_{group}"):
                return reason
        still = [group for group in PARAMETER_GROUPS if getattr(self, f"lr_mult_{group}") == 0]
        for group in still:
            if option == f"weight_decay_{group}":
                return f"training.lr_mult_{group} is 0, so that nothing of the group moves"
        count = len(self.evaluation_epochs)
        times = f"there {'is' if count == 1 else 'are'} {count} evaluation{'' if count == 1 else 's'} at most"
        if option == "early_stopping" and self.early_stopping is not None and self.early_stopping >= count:
            return f"{times}: training ends before it can"
        if option == "convergence_tolerance" and count < MIN_EVALUATIONS:
            return f"{times}, and {MIN_EVALUATIONS} are needed to tell convergence"
        if option == "plateau_patience" and self.schedule != "plateau":
            return f"training.schedule is {self.schedule}"
        if option == "val_objective" and count == 1:
            return f"{times}, and no checkpoint to pick"
        trained = [group for group in PARAMETER_GROUPS if group not in (*untrained, *still)]
        own = [getattr(self, f"weight_decay_{group}") for group in trained]
        if option == "weight_decay" and all(value is not None for value in own):
            if not trained:
                return "nothing moves"
            return f"every trained group ({', '.join(trained)}) has a weight decay of its own"
        return None


THINGS: dict[str, tuple[str, Registry[Any]]] = {
    "head": ("name", HEADS),
    "circuit": ("name", CIRCUITS),
    "engine": ("name", ENGINES),
    "objective": ("loss", LOSSES),
}
"""The sections that hold a thing: the option that names it, and the registry that knows it."""

MUST_DEFINE = {
    "head": ("sections",),
    "circuit": ("circuit",),
    "engine": ("program",),
    "objective": ("exclusive", "reweights", "constants", "value"),
}
"""What a thing of each section must define."""

DEFAULTS = {"head": "quantum", "circuit": "layered", "engine": "catalyst", "objective": "bce"}
"""The thing of each section where none is named."""


def thing_class(section: str, name: Any) -> type:
    """Return the class of options called `name`; raise InputError where it is not a frozen dataclass."""
    key, registry = THINGS[section]
    cls = registry.get(name)
    if not _is_record(cls):
        raise InputError(f"`{section}.{key}` = {name} must be a frozen dataclass of options, got {cls!r}")
    if key in (item.name for item in dataclasses.fields(cls)):
        raise InputError(f"`{section}.{key}` = {name} must not have an option `{key}`, which names the thing itself")
    return cls


def check_thing(section: str, thing: Any) -> None:
    """Raise InputError unless `thing` is an instance of a frozen dataclass with what `MUST_DEFINE` asks for."""
    if not _is_record(type(thing)):
        raise InputError(f"`{section}` must be an instance of a frozen dataclass of options, got {thing!r}")
    kind = type(thing).__name__
    missing = [name for name in MUST_DEFINE[section] if not hasattr(thing, name)]
    if missing:
        raise InputError(f"`{section}` must define {', '.join(missing)}: {kind} does not")
    for item in dataclasses.fields(thing):
        if item.name == THINGS[section][0]:
            raise InputError(f"`{section}`: {kind} must not have an option `{item.name}`, which names the thing itself")
        if not item.init or not _is_plain(getattr(thing, item.name)):
            raise InputError(
                f"`{section}.{item.name}` of {kind} must be an argument of {kind} and None, true or false, a finite "
                "number, a text or a tuple of such, so that a file can hold it"
            )
    if section == "head":
        _check_sections(kind, thing)


def _check_sections(kind: str, head: Any) -> None:
    known = ("circuit", "engine", *LOOP)
    if not isinstance(head.sections, tuple) or not set(head.sections) <= set(known):
        raise InputError(f"`sections` of {kind} must be a tuple of {', '.join(known)}, got {head.sections!r}")
    if hasattr(head, "make") and not set(LOOP) <= set(head.sections):
        raise InputError(
            f"`sections` of {kind} must hold {', '.join(LOOP)}, which the loop reads, got {head.sections!r}"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum))


def tuples(value: Any) -> Any:
    """Return `value` with tuples for its lists, which JSON and TOML have in their place."""
    return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value


def _is_record(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


@dataclass(frozen=True)
class RunConfig:
    """One run, whole: what `qwafer.training.train` takes beside the features and the seed."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which examples, which labels, which split."""
    head: Any = field(default_factory=QuantumOptions)
    """Options of the head: `QuantumOptions`, `LinearOptions`, `MlpOptions`, `QuantisedOptions`, `MixtureOptions`,
    `TreeOptions`, or a head of one's own."""
    circuit: Any = None
    """Options of the circuit (`LayeredOptions`, the default, or one's own); None for a head that runs none."""
    engine: Any = None
    """The engine that executes it (`CatalystEngine`, the default, `XlaEngine`, ...); None for a head that runs none."""
    objective: Any = field(default_factory=Bce)
    """The loss: `Bce`, `Focal`, `Asymmetric`, `Softmax`, `RocAuc`, or a loss of one's own."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Which examples make a training batch."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig())
    """The optimiser, its schedule and the loop."""

    def __post_init__(self) -> None:
        for section in THINGS:
            if section in ("head", "objective") or getattr(self, section) is not None:
                check_thing(section, getattr(self, section))
        for section in ("circuit", "engine"):
            if section in self.head.sections:
                if getattr(self, section) is None:
                    object.__setattr__(self, section, THINGS[section][1].get(DEFAULTS[section])())
            elif getattr(self, section) is not None:
                raise InputError(f"`{section}` has no effect: {self.unused(section)}; leave it out")
        if not hasattr(self.head, "make") and not hasattr(self.head, "fit"):
            raise InputError(f"`head` must define make (for the loop) or fit: {self.name('head')} has neither")
        loss = self.name("objective")
        wanted = getattr(self.head, "needs_loss", loss)
        if loss != wanted:
            raise InputError(f"`objective.loss` must be {wanted} with head {self.name('head')}, got {loss}")
        if self.sampling.balanced and self.objective.reweights:
            raise InputError(
                f"`objective.loss` = {loss} cannot be combined with sampling.balanced: both re-weight the classes, so "
                f"the {loss} effect and the prior shift could not be told apart; use one of them"
            )
        if hasattr(self.objective, "check_config"):
            self.objective.check_config(self)
        if self.objective.exclusive and self.data.task != "multilabel":
            raise InputError(
                f"`objective.loss` = {loss} needs all classes, got data.task = {self.data.task}: set it to "
                "multilabel, or use loss bce"
            )
        if self.sampling.balanced and self.data.task == "multilabel" and not self.objective.exclusive:
            raise InputError(
                "`sampling.balanced` needs a binary task (data.task = any, or a label's name) or exclusive classes "
                "(objective.loss = softmax): a batch cannot be balanced for several labels at once"
            )

    @property
    def trained_by_loop(self) -> bool:
        """Whether the loop trains the head; a contender fits itself."""
        return hasattr(self.head, "make")

    def name(self, section: str) -> str:
        """Return the name of the thing in `section`."""
        return THINGS[section][1].name_of(type(getattr(self, section)))

    def unused(self, section: str) -> str | None:
        """Return why the head does not read `section`, as a clause; None where it does."""
        if section in ("data", "head", "objective", *self.head.sections):  # the loss says whether classes exclude
            return None
        what = "runs no circuit" if section in ("circuit", "engine") else f"does not read {section}"
        return f"head.name is {self.name('head')}, which {what}"

    def untrained_groups(self) -> dict[str, str]:
        """Return the optimiser's groups without a trained parameter, each with the reason."""
        reasons: dict[str, str] = {}
        for thing in (self.head, self.circuit):
            if hasattr(thing, "untrained_groups"):
                reasons |= thing.untrained_groups()
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration as nested plain data; None for a section that the head does not have."""
        nested: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            thing = getattr(self, item.name)
            nested[item.name] = None if thing is None else dataclasses.asdict(thing)
            if item.name in THINGS and thing is not None:
                nested[item.name] = {THINGS[item.name][0]: self.name(item.name), **nested[item.name]}
        return nested

    @classmethod
    def from_dict(cls, nested: Mapping[str, Any]) -> "RunConfig":
        """Return the configuration that `to_dict` wrote; raises InputError where it holds anything else."""
        names = [item.name for item in dataclasses.fields(cls)]
        if not isinstance(nested, Mapping) or set(nested) != set(names):
            raise InputError(
                f"this is not a configuration of this version, which has the sections {', '.join(names)}, no more and "
                "no fewer"
            )
        sections: dict[str, Any] = {}
        for name, values in nested.items():
            if values is None and name in ("circuit", "engine"):
                sections[name] = None
                continue
            try:  # JSON knows no tuples
                options = {option: tuples(value) for option, value in {**values}.items()}
                made = thing_class(name, options.pop(THINGS[name][0])) if name in THINGS else _PLAIN[name]
                sections[name] = made(**options)
            except (KeyError, TypeError) as error:
                raise InputError(f"`{name}` is not a section of a configuration of this version: {error}") from error
        return cls(**sections)


_PLAIN: dict[str, Any] = {"data": DataConfig, "sampling": SamplingConfig, "training": TrainingConfig}
