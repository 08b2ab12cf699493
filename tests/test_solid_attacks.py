"""What is left to attack: every array of every public callable, mutated; random circuits over all plans and engines.

A mutated argument may give a result only where shapes still fit each other and its numbers mean what they say; anything
else must be refused in one sentence. No NumPy or JAX error, no warning, and no plausible number from arrays that do not
belong together.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qwafer
from qwafer import CapabilityError, InputError, backbones, comparison, data, engines, evaluation, heads, model, objective
from qwafer import features as features_module
from qwafer import probes, training
from qwafer.circuits import CircuitSpec, LayeredOptions
from qwafer.config import RunConfig
from qwafer.objective import SamplingConfig
from tests.factories import feature_set, head_options, loss_options, training_options, wafer_maps

N, M, K, D = 12, 9, 3, 6
RNG = np.random.default_rng(0)
LOGITS, OTHER = RNG.normal(size=(2, N, K))
LABELS = (np.arange(N)[:, None] // 2**np.arange(K) % 2).astype(np.uint8)
CLASSES = np.arange(N) % K
ONE_HOT = np.eye(K, dtype=np.uint8)[CLASSES]
PROBABILITIES = 1 / (1 + np.exp(-LOGITS))
PREDICTIONS = (LOGITS > 0).astype(np.int64)
X = RNG.normal(size=(N, D)).astype(np.float32)
MAPS = wafer_maps(N, 2, shape=(8, 7)).maps * np.pad(np.ones((6, 5), np.uint8), 1)
IDS = np.array([f"{i:016x}" for i in range(N)])
LOTS = np.array([f"lot {i // 3}" for i in range(N)])
TIMES = np.arange(N, dtype=np.float64)
SPEC = CircuitSpec(2, 2, readout="z_vec", n_outputs=K)


@dataclass(frozen=True)
class Target:
    """A callable with valid arrays, and what they must have in common."""

    call: Callable[..., Any]
    arrays: dict[str, Any]
    """A valid value of every array argument."""
    forms: tuple[tuple[tuple[str, ...], ...], ...]
    """Alternatives; each has the dimensions of every array, a name or a number each; equal names are equal lengths."""
    optional: frozenset[str]
    """Arguments that may be None."""
    marks: frozenset[str]
    """Arguments of which NaN is accepted, and seen in the result; of others it is refused."""


TARGETS: dict[str, Target] = {}


def target(name: str, call: Callable[..., Any], forms: str, *, optional: str = "", marks: str = "", **arrays: Any) -> None:
    """Add the target `name`; `forms` as "N K, K; N, ()"."""
    parsed = tuple(
        tuple(tuple(part.replace("()", "").split()) for part in form.split(",")) for form in forms.split(";")
    )
    assert all(len(form) == len(arrays) for form in parsed), name
    TARGETS[name] = Target(call, arrays, parsed, frozenset(optional.split()), frozenset(marks.split()))


def traced(value: Any) -> Any:
    """Return numbers as arrays of JAX, which losses take; anything else as it is."""
    usual = isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and not np.ma.is_masked(value)
    return jnp.asarray(value) if usual else value


def as_traced(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arrays: call(**{name: traced(value) for name, value in arrays.items()})


def fits(forms: Any, shapes: list[tuple[int, ...]]) -> bool:
    """Return whether the shapes fit one of the forms."""
    for form in forms:
        lengths: dict[str, int] = {}
        if [len(dims) for dims in form] == [len(shape) for shape in shapes] and all(
            length == (int(dim) if dim.isdigit() else lengths.setdefault(dim, length))
            for dims, shape in zip(form, shapes, strict=True)
            for dim, length in zip(dims, shape, strict=True)
        ):
            return True
    return False


COLUMNS = "N, N; N K, N K"
for name in ("roc_auc", "average_precision", "separation", "bce_loss"):
    first = "scores" if name in ("roc_auc", "average_precision") else "logits"
    target(f"evaluation.{name}", getattr(evaluation, name), COLUMNS, marks=first, **{first: LOGITS, "labels": LABELS})
for name in ("brier", "expected_calibration_error", "reliability_curve"):
    target(f"evaluation.{name}", getattr(evaluation, name), COLUMNS, marks="probabilities", probabilities=PROBABILITIES, labels=LABELS)
for name in ("confusion", "precision", "recall", "f1", "balanced_accuracy", "exact_match_ratio"):
    target(f"evaluation.{name}", getattr(evaluation, name), COLUMNS, predictions=PREDICTIONS, labels=LABELS)
target("evaluation.predict", evaluation.predict, "N, (); N K, (); N K, K; N, 1", logits=LOGITS, thresholds=np.zeros(K))
evaluate = functools.partial(evaluation.evaluate, label_names=("a", "b", "c"))
target("evaluation.evaluate", evaluate, "N 3, N 3, 3", optional="thresholds", marks="logits", logits=LOGITS, labels=LABELS, thresholds=np.zeros(K))
FEW = {"n_resamples": 20}
BOTH = "N K, N K; N K, N"
bca = functools.partial(evaluation.bca_metrics, **FEW)
per_class = functools.partial(evaluation.bca_class_metric, metric="roc_auc", **FEW)
differences = functools.partial(evaluation.bca_metric_differences, **FEW)
target("evaluation.bca_metrics", bca, "N K, N K, K", optional="thresholds", marks="logits", logits=LOGITS, labels=LABELS, thresholds=np.zeros(K))
target("evaluation.bca_class_metric", per_class, "N K, N K", marks="logits", logits=LOGITS, labels=LABELS)
target("evaluation.bca_metric_differences", differences, "N K, N K, N K, K, K", optional="thresholds_a thresholds_b", marks="logits_a logits_b", logits_a=LOGITS, logits_b=OTHER, labels=LABELS, thresholds_a=np.zeros(K), thresholds_b=np.zeros(K))
CALIBRATION = evaluation.fit_calibration(LOGITS, LABELS)
SOFT = evaluation.fit_calibration(LOGITS, ONE_HOT, exclusive=True)
target("evaluation.fit_calibration", evaluation.fit_calibration, "N K, N K", marks="logits", logits=LOGITS, labels=LABELS)
target("evaluation.fit_calibration[platt]", functools.partial(evaluation.fit_calibration, method="platt"), "N K, N K", marks="logits", logits=LOGITS, labels=LABELS)
target("evaluation.compare_calibration", functools.partial(evaluation.compare_calibration, CALIBRATION), "N 3, N 3", marks="logits", logits=LOGITS, labels=LABELS)
target("evaluation.compare_calibration[exclusive]", functools.partial(evaluation.compare_calibration, SOFT), "N 3, N 3; N 3, N", marks="logits", logits=LOGITS, labels=ONE_HOT)
target("evaluation.Calibration.apply", CALIBRATION.apply, "N 3", marks="logits", logits=LOGITS)
target("evaluation.tune_thresholds", evaluation.tune_thresholds, "N K, N K", marks="logits", logits=LOGITS, labels=LABELS)
target("evaluation.tune_thresholds[cost]", functools.partial(evaluation.tune_thresholds, method="cost"), "N K, N K, 2 2; N K, N K, K 2 2", marks="logits", logits=LOGITS, labels=LABELS, cost_matrix=np.array([[0.0, 1.0], [5.0, 0.0]]))
target("evaluation.Thresholds.predict", evaluation.tune_thresholds(LOGITS, LABELS).predict, "N 3", logits=LOGITS)
for labels in (ONE_HOT, CLASSES):
    kind = f"exclusive, {labels.ndim}-D"
    target(f"evaluation.evaluate[{kind}]", functools.partial(evaluate, exclusive=True), "N 3, N 3; N 3, N", marks="logits", logits=LOGITS, labels=labels)
    target(f"evaluation.bca_metrics[{kind}]", functools.partial(bca, exclusive=True), BOTH, marks="logits", logits=LOGITS, labels=labels)
    target(f"evaluation.bca_class_metric[{kind}]", functools.partial(per_class, exclusive=True), BOTH, marks="logits", logits=LOGITS, labels=labels)
    target(f"evaluation.bca_metric_differences[{kind}]", functools.partial(differences, exclusive=True), "N K, N K, N K; N K, N K, N", marks="logits_a logits_b", logits_a=LOGITS, logits_b=OTHER, labels=labels)
    target(f"evaluation.fit_calibration[{kind}]", functools.partial(evaluation.fit_calibration, exclusive=True), BOTH, marks="logits", logits=LOGITS, labels=labels)

L32 = LOGITS.astype(np.float32)
Y32 = LABELS.astype(np.float32)
W32 = np.ones(K, np.float32)
ROWS = np.ones(N, np.float32)
LOSS = {"logits": L32, "labels": Y32}
target("objective.binary_cross_entropy", as_traced(objective.binary_cross_entropy), "B K, B K, K", marks="logits labels pos_weight", **LOSS, pos_weight=W32)
target("objective.focal", as_traced(functools.partial(objective.focal, gamma=2.0)), "B K, B K, K", marks="logits labels pos_weight", **LOSS, pos_weight=W32)
target("objective.asymmetric", as_traced(functools.partial(objective.asymmetric, gamma_pos=0.0, gamma_neg=4.0, clip=0.05)), "B K, B K, K", marks="logits labels pos_weight", **LOSS, pos_weight=W32)
target("objective.softmax_cross_entropy", as_traced(objective.softmax_cross_entropy), "B K, B K", marks="logits labels", logits=L32, labels=ONE_HOT.astype("f"))
target("objective.pairwise_logistic", as_traced(objective.pairwise_logistic), "B K, B K, B", marks="logits labels weights", **LOSS, weights=ROWS)
for name in ("bce", "focal", "asymmetric", "softmax", "roc_auc"):
    made = objective.make_objective(loss_options(name), ONE_HOT)
    target(f"objective.Objective.__call__[{name}]", as_traced(made), "B 3, B 3, B", marks="logits labels weights", logits=L32, labels=ONE_HOT.astype("f"), weights=ROWS)
    if name != "roc_auc":
        target(f"objective.Objective.per_example[{name}]", as_traced(made.per_example), "B 3, B 3", marks="logits labels", logits=L32, labels=ONE_HOT.astype("f"))
target("objective.make_objective", lambda train_labels: dict(objective.make_objective(loss_options("bce", pos_weight="balanced"), train_labels).constants), "M K", train_labels=LABELS)
target("objective.class_prior", objective.class_prior, "M K", labels=LABELS)
for name in ("class_weights", "example_weights", "positive_weights"):
    target(f"objective.{name}", functools.partial(getattr(objective, name), "balanced"), "M K", labels=LABELS)
target("objective.effective_number", functools.partial(objective.effective_number, beta=0.99), "n", counts=np.array([3.0, 5, 7]))
target("objective.make_sampler", lambda labels: objective.make_sampler(SamplingConfig(), labels, batch_size=4, seed=0).epoch(1), "M K", labels=LABELS)
target("objective.make_sampler[balanced]", lambda labels: objective.make_sampler(SamplingConfig(balanced=True), labels, batch_size=4, seed=0).epoch(1), "M 1", labels=LABELS[:, :1])

target("comparison.pseudomedian", comparison.pseudomedian, "n", values=LOGITS[:, 0])
target("comparison.sign_flip_p", comparison.sign_flip_p, "n", differences=LOGITS[:7, 0])
target("comparison.holm", comparison.holm, "n", p_values=PROBABILITIES[:, 0])

for by, column in (("content", {}), ("group", {"groups": LOTS}), ("time", {"times": TIMES})):
    shapes = "N K, N" + ", N" * len(column)
    target(f"data.make_split[{by}]", functools.partial(data.make_split, seed=0, by=by), shapes, labels=LABELS, content_ids=IDS, **column)
    if by != "time":
        target(f"data.make_fold[{by}]", functools.partial(data.make_fold, seed=0, n_folds=3, by=by), shapes, labels=LABELS, content_ids=IDS, **column)
target("data.content_ids", data.content_ids, "N H W", maps=MAPS)
target("data.WaferMaps.from_arrays", data.WaferMaps.from_arrays, "N H W, N K, N, N; N H W, N, N, N", optional="labels groups times", maps=MAPS, labels=LABELS, groups=LOTS, times=TIMES)
wafers = functools.partial(data.WaferMaps, label_names=("a", "b", "c"), source="a test", sha256="0" * 64)
target("data.WaferMaps", wafers, "N H W, N 3, N, N, N", optional="groups times", maps=MAPS, labels=LABELS, content_ids=IDS, groups=LOTS, times=TIMES)
target("data.WaferMaps.take", data.WaferMaps.from_arrays(MAPS, LABELS).take, "M", indices=np.array([1, 0, 3]))

made = functools.partial(qwafer.FeatureSet, label_names=("a", "b", "c"), provenance={})
columns = {"content_ids": IDS, "groups": LOTS, "times": TIMES, "split": np.array(["train", "val", "test"] * 4)}
target("features.FeatureSet", made, "N D, N 3, N, N, N, N", optional="groups times split", features=X, labels=LABELS, **columns)
target("features.FeatureSet.from_arrays", qwafer.FeatureSet.from_arrays, "N D, N K, N, N, N, N; N D, N, N, N, N, N", optional="labels content_ids groups times split", features=X, labels=LABELS, **columns)
target("features.FeatureSet.take", qwafer.FeatureSet.from_arrays(X, LABELS).take, "M", indices=np.array([1, 0, 3]))

STATES = RNG.normal(size=(2, 20, 4)) + 1j * RNG.normal(size=(2, 20, 4))
STATES /= np.linalg.norm(STATES, axis=-1, keepdims=True)
FISHERS = np.stack([np.eye(K) * (i + 1.0) for i in range(4)])
target("probes.effective_dimension", functools.partial(probes.effective_dimension, n_data=1000), "S P P", fishers=FISHERS)
target("probes.expressibility", probes.expressibility, "S dim, S dim", first=STATES[0], second=STATES[1])
target("probes.meyer_wallach", probes.meyer_wallach, "4; S 4; S T 4; S 1; S 2; 1; 2", state=STATES[0])
target("probes.linear_equality", probes.linear_equality, "N K, N D, M K, M D", marks="scores features fit_scores fit_features", scores=LOGITS, features=X[:, :2], fit_scores=OTHER[:M], fit_features=X[:M, :2] + 0.1)
target("probes.output_rank", probes.output_rank, "N K P, G G", optional="gram", marks="jacobian gram", jacobian=RNG.normal(size=(N, K, 5)), gram=np.eye(4))
target("probes.score_range", probes.score_range, "N K", marks="scores", scores=PROBABILITIES)
target("probes.score_sign", probes.score_sign, "N K, N K, E K; N K, N K, E 1; N K, N K, E; N K, N K, E 0; N K, N K, 0", marks="logits alpha", logits=LOGITS, labels=LABELS, alpha=np.ones((5, K)))
target("probes.score_spread", probes.score_spread, "N K, N K, K", optional="thresholds", marks="logits", logits=LOGITS, labels=LABELS, thresholds=np.zeros(K))
target("probes.threshold_fragility", lambda a, b, c, d: probes.threshold_fragility({"logits": a, "labels": b}, {"logits": c, "labels": d}, n_resamples=5), "M K, M K, N K, N K", marks="a c", a=OTHER[:M], b=LABELS[:M], c=LOGITS, d=LABELS)


def probed(**arrays: Any) -> Any:
    ids = arrays["content_ids"]
    whole = {"features": X, "labels": LABELS, "content_ids": IDS, "groups": LOTS, "times": TIMES}
    split = data.make_split(LABELS, IDS, seed=0)
    return probes.probe_data(probes.ProbedData(split=split, **{**whole, **arrays}))


target("probes.ProbedData", probed, "12 D, 12 K, 12, 12, 12", optional="groups times", marks="features", features=X, labels=LABELS, content_ids=IDS, groups=LOTS, times=TIMES)
WEIGHTS = {group: RNG.normal(size=shape) for group, shape in SPEC.weight_shapes().items()}

CONFIG = RunConfig(circuit=LayeredOptions(n_qubits=2, n_layers=1, readout="z_vec"), engine=engines.get("xla"), training=training_options(epochs=1, batch_size=4))
CONFIG = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, task="multilabel"))
CLASSICAL = dataclasses.replace(CONFIG, head=head_options("linear"), circuit=None, engine=None)


def config_of(name: str, **options: Any) -> RunConfig:
    if name == "quantum":
        return dataclasses.replace(CONFIG, head=head_options(name, **options))
    return dataclasses.replace(CLASSICAL, head=head_options(name, **options))


for name in ("linear", "mlp", "trigonometric", "quantum"):
    for standardize in (True, False):
        config = config_of(name, standardize=standardize)
        head = training.make_head(config, X, K, 0)
        program = training.make_program(config, K, N)
        kind = f"{name}{'' if standardize else ', as they are'}"
        target(f"heads.Head.__call__[{kind}]", functools.partial(lambda features, head, program: head(features, program), head=head, program=program), f"{N if name == 'quantum' else 'B'} {D}", marks="features", features=X)
        target(f"heads.predict_logits[{kind}]", functools.partial(lambda features, head, program: heads.predict_logits(head, features, program, N), head=head, program=program), f"N {D}", marks="features", features=X)
        target(f"training.make_head[{kind}]", functools.partial(lambda features, config: training.make_head(config, features, K, 0).count(), config=config), "M D", features=X)
target("training.make_head[pca]", lambda features: training.make_head(config_of("quantum", projection="pca"), features, K, 0).buffers, "M D", features=X)
target("heads.head_inputs", lambda features: heads.head_inputs(features, K, 0).standardized(), "M D", features=X)
target("heads.principal_axes", functools.partial(heads.principal_axes, n_wires=2), "M D", features=X)
target("heads.trigonometric_features", heads.trigonometric_features, "B n", marks="angles", angles=X[:, :2])


@functools.cache
def run_of(name: str) -> Any:
    return training.train(config_of(name), feature_set(60, D, K), 0)


for name in ("linear", "quantum", "tree"):
    for method in ("logits", "probabilities"):
        target(f"training.Predictor.{method}[{name}]", functools.partial(lambda features, name, method: getattr(run_of(name).predictor, method)(features), name=name, method=method), f"N {D}", features=X)
target("heads.FittedTree.logits", lambda features: run_of("tree").predictor.head.logits(features), f"N {D}", features=X)


def trained(**arrays: Any) -> Any:
    whole = feature_set(60, D, K)
    kept = {**{field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}, **arrays}
    return training.train(CLASSICAL, qwafer.FeatureSet(**kept), 0).test.macro


FEATURES = feature_set(60, D, K)
target("training.train", trained, "60 D, 60 3, 60", features=FEATURES.features, labels=FEATURES.labels, content_ids=FEATURES.content_ids)

for name in ("xla", "reference"):
    program = engines.get(name).program(SPEC, 4)
    call = functools.partial(lambda inputs, ansatz, readout, program: program({"ansatz": ansatz, "readout": readout}, inputs), program=program)
    target(f"engines.Program.__call__[{name}]", call, "4 2, 2 2 3, 3 2", marks="inputs ansatz readout", inputs=X[:4, :2], ansatz=WEIGHTS["ansatz"].astype("f"), readout=WEIGHTS["readout"].astype("f"))


@functools.cache
def network() -> Any:
    return backbones.load("wafercnn", random_weights=0)




@functools.cache
def whole_model() -> Any:
    maps = wafer_maps(60, 2, shape=(8, 7))
    maps = dataclasses.replace(maps, maps=maps.maps * MAPS[:1].clip(0, 0) + maps.maps * np.pad(np.ones((6, 5), np.uint8), 1))
    sets = backbones.features_from_maps(maps, SPATIAL)
    return model.Model.from_run(training.train(CLASSICAL, sets, 0), SPATIAL)


target("model.Model.predict", lambda maps: whole_model().predict(maps), "N H W", maps=MAPS)


def masked(array: np.ndarray) -> Any:
    mask = np.zeros(array.shape, bool)
    mask.flat[0] = True
    return np.ma.MaskedArray(array, mask)


def changed(array: np.ndarray, value: Any) -> np.ndarray:
    """Return the array with `value` in its middle."""
    array = np.array(array, copy=True)
    array.flat[array.size // 2] = value
    return array


def ragged(array: np.ndarray) -> Any:
    rows = list(array)
    return [*rows[:-1], rows[-1][:-1] if np.ndim(rows[-1]) else [rows[-1]]]


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fc"


MUTATIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "first axis dropped": lambda a: a[0],
    "last axis dropped": lambda a: a[..., 0],
    "axis in front": lambda a: a[None],
    "axis behind": lambda a: a[..., None],
    "a row fewer": lambda a: a[:-1],
    "a row more": lambda a: np.concatenate([a, a[-1:]]),
    "one row": lambda a: a[:1],
    "a column fewer": lambda a: a[..., :-1],
    "a column more": lambda a: np.concatenate([a, a[..., -1:]], axis=-1),
    "one column": lambda a: a[..., :1],
    "no rows": lambda a: a[:0],
    "no columns": lambda a: a[..., :0],
    "transposed": lambda a: np.moveaxis(a, 0, -1),
    "flat": lambda a: a.reshape(-1),
    "object": lambda a: a.astype(object),
    "str": lambda a: a.astype(str),
    "bytes": lambda a: a.astype(str).astype(bytes),
    "bool": lambda a: a.astype(bool),
    "complex": lambda a: a.astype(complex) + 1j,
    "uint8": lambda a: a.astype(np.uint8),
    "int64": lambda a: a.astype(np.int64),
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "NaN": lambda a: changed(a.astype(np.result_type(a, np.float32)), np.nan),
    "inf": lambda a: changed(a.astype(np.result_type(a, np.float32)), np.inf),
    "minus inf": lambda a: changed(a.astype(np.result_type(a, np.float32)), -np.inf),
    "huge": lambda a: changed(a, 1e300 if a.dtype.itemsize > 4 and is_float(a) else 1e38 if is_float(a) else np.iinfo(a.dtype).max),
    "negative": lambda a: changed(a.astype(np.result_type(a, np.int8)), -1),
    "a half": lambda a: changed(a.astype(np.result_type(a, np.float32)), 0.5),
    "scalar": lambda a: a.flat[0].item(),
    "list": lambda a: a.tolist(),
    "ragged": ragged,
    "None": lambda a: None,
    "a text": lambda a: "x",
    "a mapping": lambda a: {"a": a},
    "masked": masked,
    "reversed view": lambda a: np.ascontiguousarray(a[::-1])[::-1],
}


def mutated(array: np.ndarray, mutation: str) -> tuple[bool, Any]:
    """Return (whether the mutation applies, the mutated array)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return True, MUTATIONS[mutation](array)
    except (TypeError, ValueError, IndexError, OverflowError, np.exceptions.AxisError):
        return False, None


def leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers and texts of a result."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def same(one: Any, other: Any, rtol: float = 1e-3) -> bool:
    a, b = list(leaves(one)), list(leaves(other))
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if isinstance(x, str) or x is None or np.asarray(x).dtype.kind in "UO":
            if isinstance(x, str) and any(c.isdigit() for c in x):
                continue
            if not np.array_equal(np.asarray(x), np.asarray(y)):
                return False
        elif np.shape(x) != np.shape(y) or not np.allclose(np.asarray(x, complex), np.asarray(y, complex), rtol=rtol, atol=rtol / 10, equal_nan=True):
            return False
    return True


def shows(result: Any) -> bool:
    """Return whether a NaN that went in is seen in the result."""
    said = ("finite", "not defined")
    return any(
        any(word in leaf for word in said) if isinstance(leaf, str) else np.asarray(leaf).dtype.kind in "fc" and bool(np.isnan(leaf).any())
        for leaf in leaves(result)
    )


def finding(name: str, argument: str, mutation: str) -> str | None:
    """Return what is wrong with how a target takes a mutated argument; None if nothing is."""
    found = TARGETS[name]
    base = found.arrays[argument]
    applies, value = mutated(base, mutation)
    if not applies or (base.dtype.kind == "U" and "NaN" in mutation) or (argument == "maps" and mutation == "ragged"):
        return None  # "nan" is a text as any other; maps may differ in shape
    arrays = {**found.arrays, argument: value}

    def called(given: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):  # as in a process of a user's own
            return jax.block_until_ready(found.call(**given))

    try:
        result = called(arrays)
    except (InputError, CapabilityError) as error:
        text = str(error)
        return None if text and "\n" not in text else f"says {text!r:.200}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''!s:.150}"
    if value is None:
        return None if argument in found.optional else "takes None"
    try:
        shapes = [np.shape(value) if key == argument else np.shape(found.arrays[key]) for key in arrays]
    except ValueError:
        return "takes ragged rows"
    if not fits(found.forms, shapes):
        return f"takes shapes {shapes}: {str(result)[:80]}"
    kind = np.asarray(value).dtype.kind
    if np.ma.is_masked(value):
        return "takes masked entries"
    if kind == "c" and base.dtype.kind != "c":
        return f"takes complex numbers: {str(result)[:80]}"
    if kind in "OSU" and base.dtype.kind not in "U" and not same(result, called(found.arrays)):
        return f"takes {np.asarray(value).dtype}: {str(result)[:80]}"
    if mutation == "NaN":
        if argument not in found.marks:
            return f"takes NaN: {str(result)[:80]}"
        return None if shows(result) else f"hides NaN: {str(result)[:200]}"
    if mutation in ("bool", "uint8", "int64", "float16", "float64", "list", "reversed view") and base.dtype.kind not in "U":
        plain = np.asarray(value).astype(base.dtype)
        try:
            wanted = called({**found.arrays, argument: plain})
        except InputError as error:
            return f"takes {mutation}, and not the same numbers as {base.dtype} ({error})"
        return None if same(result, wanted, 3e-2 if mutation == "float16" else 1e-3) else f"other numbers from {mutation}: {str(result)[:90]} / {str(wanted)[:90]}"
    return None
