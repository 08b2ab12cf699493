"""Options are validated once, each says what it means, and no combination means nothing."""

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qwafer import InputError, engines
from qwafer.circuits import CIRCUITS, LayeredOptions
from qwafer.config import THINGS, DataConfig, RunConfig, TrainingConfig
from qwafer.engines import ENGINES
from qwafer.heads import HEADS, LinearOptions, MlpOptions, QuantumOptions, TreeOptions
from qwafer.objective import LOSSES, Asymmetric, Bce, Focal, RocAuc, SamplingConfig, Softmax
from qwafer.overrides import SECTIONS, determined_by, flat_config, with_options

SHIPPED = {
    section: [registry.get(name) for name in registry.names]
    for section, registry in (("head", HEADS), ("circuit", CIRCUITS), ("engine", ENGINES), ("objective", LOSSES))
}


@pytest.mark.parametrize(
    "section", [DataConfig, SamplingConfig, TrainingConfig, RunConfig, *itertools.chain(*SHIPPED.values())]
)
def test_every_option_has_a_docstring(section):
    assert dataclasses.is_dataclass(section)
    assert section.__dataclass_params__.frozen
    for owner in section.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for node, following in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                assert isinstance(following, ast.Expr), f"{owner.__name__}.{node.target.id}"
                assert isinstance(following.value, ast.Constant), f"{owner.__name__}.{node.target.id}"


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (DataConfig, {"train_fraction": 0.95}, "must be less than 1"),
        (DataConfig, {"split_by": "lot"}, "`data.split_by` must be one of"),
        (LayeredOptions, {"ansatz": "separable", "entanglement": "ring"}, "`none` belongs"),
        (LayeredOptions, {"readout": "bloch"}, "`circuit.readout` must be one of"),
        (QuantumOptions, {"alpha_init": 0.0}, "alpha_init"),
        (MlpOptions, {"hidden": 0}, "`head.hidden` must be at least 1"),
        (TreeOptions, {"max_depth": 0}, "`head.max_depth` must be at least 1"),
        (Focal, {"focal_gamma": 0.0}, r"`objective.focal_gamma` must lie in \(0, 20\]"),
        (Bce, {"pos_weight": "much"}, "pos_weight"),
        (Asymmetric, {"asymmetric_gamma_neg": -1.0}, "asymmetric_gamma_neg"),
        (Softmax, {"label_smoothing": 1.0}, "label_smoothing"),
        (RocAuc, {"class_weights": "none"}, "`objective.class_weights` must be"),
        (SamplingConfig, {"pos_frac": 1.5}, r"`sampling.pos_frac` must lie in \(0, 1\), got 1.5"),
        (TrainingConfig, {"schedule": "one-cycle"}, "did you mean `one_cycle`"),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate"),
        (TrainingConfig, {"epochs": 0}, "`training.epochs` must be at least 1"),
        (TrainingConfig, {"val_objective": "auc"}, "`training.val_objective` must be one of"),
    ],
)
def test_bad_options_are_refused(section, options, message):
    with pytest.raises(InputError, match=message):
        section(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine.name": "xla", "engine.batching": "choi"}, "engine.name is xla, which has no such option"),
        ({"engine.name": "reference", "engine.shots": 100}, "engine.name is reference, which has no such option"),
        ({"objective.focal_gamma": 2.0}, "objective.loss is bce, which has no such option"),
        ({"head.hidden": 8}, "head.name is quantum, which has no such option"),
        ({"head.name": "mlp", "circuit.n_qubits": 3}, "head.name is mlp, which runs no circuit"),
        ({"head.name": "linear", "engine.name": "xla"}, "head.name is linear, which runs no circuit"),
        ({"head.name": "mlp", "head.max_depth": 3}, "head.name is mlp, which has no such option"),
    ],
)
def test_options_of_another_thing_cannot_be_set(options, reason):
    with pytest.raises(InputError, match=reason):
        with_options(RunConfig(), options)


def test_focal_with_balanced_batches_is_refused_with_the_reason():
    with pytest.raises(InputError, match="prior shift"):
        RunConfig(data=DataConfig(task="any"), objective=Focal(), sampling=SamplingConfig(balanced=True))


def test_balanced_batches_need_a_binary_task():
    with pytest.raises(InputError, match="binary task"):
        RunConfig(sampling=SamplingConfig(balanced=True))


def test_the_whole_configuration_is_plain_data():
    plain = RunConfig().to_dict()
    assert list(plain) == [field.name for field in dataclasses.fields(RunConfig)] == list(SECTIONS)
    assert plain["circuit"]["n_qubits"] == 4
    assert plain["head"]["name"] == "quantum"
    assert plain["objective"]["loss"] == "bce"
    assert plain == json.loads(json.dumps(plain))
    assert LayeredOptions().circuit(3).n_outputs == 3


@pytest.mark.parametrize("head", [LinearOptions(), MlpOptions(), TreeOptions()])
def test_a_head_without_circuit_has_none(head):
    config = RunConfig(head=head)
    assert config.circuit is None
    assert config.engine is None
    plain = config.to_dict()
    assert plain["circuit"] is None
    assert plain["engine"] is None
    assert RunConfig.from_dict(plain) == config
    for section, thing in (("circuit", LayeredOptions()), ("engine", engines.get("xla"))):
        with pytest.raises(InputError, match=f"`{section}` has no effect: head.name is .*, which runs no circuit"):
            RunConfig(head=head, **{section: thing})
    assert config.trained_by_loop == (not isinstance(head, TreeOptions))


def things(section):
    """Things of a section with some options set: each shipped one, and values that are not the defaults."""
    others = {
        "head": [QuantumOptions(alpha_train=False, projection="pca"), MlpOptions(hidden=3, dropout=0.25)],
        "circuit": [
            LayeredOptions(ansatz="separable", n_layers=1),
            LayeredOptions(entanglement="all", dtype="float64"),
        ],
        "engine": [engines.get(shots=10), engines.get("xla", chunk=4, recompute=False)],
        "objective": [Bce(pos_weight="1,2.5"), Focal(focal_gamma=0.1), Softmax(class_weights="balanced")],
    }
    return [*(cls() for cls in SHIPPED[section]), *others[section]]


@settings(deadline=None, max_examples=80)
@given(
    head=st.sampled_from(things("head")),
    circuit=st.sampled_from(things("circuit")),
    engine=st.sampled_from(things("engine")),
    objective=st.sampled_from(things("objective")),
    training=st.builds(
        TrainingConfig,
        epochs=st.integers(1, 99),
        learning_rate=st.floats(1e-9, 10),
        ema_decay=st.none() | st.floats(0.1, 0.9),
        early_stopping=st.none() | st.integers(1, 9),
    ),
    limit=st.none() | st.integers(10, 99),
)
def test_every_configuration_survives_its_plain_data(head, circuit, engine, objective, training, limit):
    parts = {"circuit": circuit, "engine": engine} if "circuit" in head.sections else {}
    objective = LOSSES.get(head.needs_loss)() if hasattr(head, "needs_loss") else objective
    assume(not hasattr(objective, "check_config") or getattr(head, "has_features", False))
    config = RunConfig(data=DataConfig(limit=limit), head=head, objective=objective, training=training, **parts)
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert (
        with_options(RunConfig(), {k: v for k, v in flat_config(config).items() if k in flat_config(again)}) == config
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.pop("head"), "has the sections data, head"),
        (lambda plain: plain["head"].pop("name"), "'name'"),
        (lambda plain: plain["head"].update(hidden=3), "hidden"),
        (lambda plain: plain["training"].update(val_objective="auc"), "`training.val_objective` must be one of"),
        (lambda plain: plain["training"].update(epochs="3"), "`training.epochs` must be an integer"),
        (lambda plain: plain["head"].update(name="qantum"), "did you mean `quantum`"),
        (lambda plain: plain.update(head={"name": "linear"}), "`circuit` has no effect"),
        (lambda plain: plain.update(sampling=None), "`sampling` is not a section"),
        (lambda plain: plain.update(head=None), "`head` is not a section"),
        (lambda plain: plain.update(circuit="layered"), "`circuit` is not a section"),
        (lambda plain: plain.update(extra={}), "no more and no fewer"),
    ],
)
def test_plain_data_of_anything_else_are_refused(change, message):
    plain = RunConfig().to_dict()
    change(plain)
    with pytest.raises(InputError) as error:
        RunConfig.from_dict(plain)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("plain", [None, [], "quantum", 3])
def test_what_is_not_a_table_is_not_a_configuration(plain):
    with pytest.raises(InputError, match="not a configuration"):
        RunConfig.from_dict(plain)


SOURCE = ("data.source", "data.reader", "data.n_maps", "data.seed")
SPLIT = tuple(
    f"data.{name}" for name in ("limit", "split_seed", "split_by", "train_fraction", "val_fraction", "n_folds")
)
BATCHES = ("training.batch_size", "training.epochs", "training.fixed_num_batches")
DETERMINED_BY = {
    "data": (*SOURCE, "data.backbone", "data.task", "data.limit", "data.split_seed", "data.n_folds"),
    "split": (*SOURCE, *SPLIT),
    "batches": (
        *SOURCE,
        *SPLIT,
        *(f"sampling.{name}" for name in ("balanced", "pos_frac", "class_shares", "importance_weights")),
        *BATCHES,
    ),
}
QUANTUM = {
    "circuit.ansatz": ("circuit.n_qubits", "circuit.n_layers", "circuit.ansatz", "circuit.dtype", "head.init_scale"),
    "projection.weight": (*SOURCE, "data.backbone", "circuit.n_qubits", "circuit.dtype"),
    "projection.bias": (*SOURCE, "data.backbone", "circuit.n_qubits", "circuit.dtype"),
    "readout.bias": ("data.source", "data.reader", "data.task", "circuit.dtype"),
    "readout.angles": (
        "data.source",
        "data.reader",
        "data.task",
        "circuit.n_qubits",
        "circuit.dtype",
        "head.init_scale",
    ),
    "readout.weights": (
        "data.source",
        "data.reader",
        "data.task",
        "circuit.n_qubits",
        "circuit.dtype",
        "head.init_scale",
    ),
    **dict.fromkeys(
        ("alpha.raw", "alpha.value"),
        (
            "data.source",
            "data.reader",
            "data.task",
            "head.alpha_init",
            "head.alpha_mode",
            "head.alpha_per_label",
            "circuit.dtype",
        ),
    ),
}
MLP = {
    "projection.hidden.weight": (*SOURCE, "data.backbone", "head.hidden"),
    "projection.hidden.bias": (*SOURCE, "data.backbone", "head.hidden"),
    "projection.output.weight": ("data.source", "data.reader", "data.task", "head.hidden"),
}
LINEAR = {"projection.linear.weight": (*SOURCE, "data.backbone", "data.task")}


@pytest.mark.parametrize(
    ("config", "initial"),
    [
        (RunConfig(), QUANTUM),
        (RunConfig(engine=engines.get("xla"), objective=Focal()), QUANTUM),
        (RunConfig(head=MlpOptions()), MLP),
        (RunConfig(head=LinearOptions()), LINEAR),
    ],
)
def test_what_determines_the_digests_of_a_run(config, initial):
    for what, options in DETERMINED_BY.items():
        assert set(determined_by(what, config)) == set(options), what
    for name, options in initial.items():
        assert set(determined_by(f"initial {name}", config)) == set(options), name
        assert set(determined_by(f"initial {name}[2, 4, 3]", config)) == set(options), name
    known = set(flat_config(config))
    for what in (*DETERMINED_BY, *(f"initial {name}" for name in initial)):
        assert set(determined_by(what, config)) <= known, what
    assert determined_by("initial nothing.known", config) == ()


def test_balanced_batches_follow_the_task():
    config = RunConfig(data=DataConfig(task="any"), sampling=SamplingConfig(balanced=True))
    assert set(determined_by("batches", config)) == {*DETERMINED_BY["batches"], "data.task"}
    assert set(determined_by("split", config)) == set(DETERMINED_BY["split"])


def test_a_contender_draws_no_batches():
    config = RunConfig(head=TreeOptions())
    assert set(determined_by("split", config)) == set(DETERMINED_BY["split"])
    assert not any(name.startswith(("training.", "sampling.")) for name in determined_by("batches", config))


def test_names_come_back_from_the_things():
    for section, classes in SHIPPED.items():
        registry = THINGS[section][1]
        assert [registry.name_of(cls) for cls in classes] == list(registry.names)
