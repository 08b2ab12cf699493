"""Experiments from TOML, and overrides that are refused wherever they are unknown, mistyped or without effect."""

import dataclasses
import itertools
import typing

import pennylane as qml
import pytest

from qwafer._errors import InputError
from qwafer.config import RunConfig
from qwafer.engines import get
from qwafer.experiment import (
    DEFAULT_EXPERIMENT,
    Experiment,
    config_digest,
    find_experiment,
    load_experiment,
    parse_seeds,
    shipped_experiments,
)
from qwafer.features import FeatureSet, SourceFacts
from qwafer.heads import PARAMETER_GROUPS, LinearOptions, MlpOptions, QuantumOptions
from qwafer.models import MODELS
from qwafer.overrides import (
    Given,
    build,
    checked,
    effective_options,
    flat_config,
    known_options,
    named,
    no_effect,
    parse_assignment,
    with_options,
)

TOML = """
title = "T"
seeds = "2:5"
metric = "val.loss"
engine = "xla"
[data]
task = "any"
[training]
epochs = 3
learning_rate = 1
[arms.a]
circuit.readout = "mean_z"
[arms.b.circuit]
readout = "z_vec"
[arms.b.head]
projection = "pca"
[arms.c]
head.name = "mlp"
head.hidden = 8
"""


@pytest.fixture
def write(tmp_path):
    def write_toml(text, name="e.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_toml


def load(write, body, overrides=()):
    return load_experiment(write(body), overrides)


TWO_ARMS = '[arms.a]\ncircuit.readout = "mean_z"\n[arms.b]\ncircuit.readout = "z_vec"\n'


def test_layout(write):
    experiment = load(write, TOML)
    assert experiment.name == "e"
    assert experiment.title == "T"
    assert experiment.seeds == (2, 3, 4)
    assert experiment.metric == "val.loss"
    assert experiment.baseline == "a"
    assert list(experiment.arms) == ["a", "b", "c"]
    assert all(config.training.epochs == 3 for config in experiment.arms.values())
    assert [config.engine for config in experiment.arms.values()] == [get("xla"), get("xla"), None]
    learning_rate = experiment.arms["a"].training.learning_rate
    assert learning_rate == 1.0
    assert isinstance(learning_rate, float)
    assert experiment.arms["b"].head.projection == "pca"
    assert experiment.arms["c"].head.hidden == 8
    assert experiment.changes("b") == {"circuit.readout": "z_vec", "head.projection": "pca"}


def test_set_applies_to_every_arm_and_last(write):
    experiment = load(write, TWO_ARMS, ["engine=xla", "training.epochs=7", "training.grad_clip=none"])
    for config in experiment.arms.values():
        assert (config.engine, config.training.epochs, config.training.grad_clip) == (get("xla"), 7, None)


def test_scalar_section_in_arm(write):
    body = '[arms.a]\nhead = "linear"\n[arms.b]\nhead = "mlp"\n'
    assert {arm: config.head for arm, config in load(write, body).arms.items()} == {
        "a": LinearOptions(),
        "b": MlpOptions(),
    }


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.learning_rat=1e-3", "no option `training.learning_rat`; did you mean `training.learning_rate`"),
        ("trainig.epochs=3", "did you mean `training.epochs`"),
        ("epochs=3", "did you mean `training.epochs`"),
        ("name=mlp", "did you mean `head.name` or `circuit.name` or `engine.name`?"),
        ("training=3", "`training` is a section of options"),
        ("epochs", "takes option=value"),
        ("=3", "takes option=value"),
        ("engine=xl", "did you mean `xla`"),
        ("training.epochs=2.5", "`training.epochs` must be an integer, got 2.5"),
        ("training.epochs=many", "`training.epochs` must be an integer, got 'many'"),
        ("training.epochs=true", "`training.epochs` must be an integer"),
        ("training.epochs=0", "`training.epochs` must be at least 1"),
        ("training.epochs=3\ntraining.batch_size = 4", "must be an integer"),
        ("training.learning_rate=-1", "must lie in"),
        ("training.learning_rate=nan", "must be a finite number"),
        ("training.learning_rate=none", "must be a number, got 'none'"),
        ("training.grad_clip=[1]", "must be a number or none, got"),
        ("circuit.reupload=True", "must be true or false"),
        ("sampling.pos_frac=0.3", "`sampling.pos_frac` has no effect in any arm: sampling.balanced is false"),
        ("sampling.importance_weights=false", "sampling.balanced is false"),
        ("head.hidden=3", "`head.hidden` has no effect in any arm: head.name is quantum, which has no such option"),
        ("objective.focal_gamma=0", "objective.loss is bce, which has no such option"),
        ("objective.focal_gamma=2", "objective.loss is bce, which has no such option"),
        ("head.alpha_per_label=true", "data.task is Edge-Loc, which has one label"),
        ("circuit.readout=mean_z", "the arms a and b resolve to the same configuration"),
        ("head=mlp", "`circuit.readout` has no effect in arm a: head.name is mlp, which runs no circuit"),
        ("engine.shots=0", "must be at least 1"),
    ],
)
def test_refused_overrides(write, override, sentence):
    with pytest.raises(InputError, match=None) as error:
        load(write, '[data]\ntask = "Edge-Loc"\n' + TWO_ARMS, [override])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("engine=xla", "engine.shots=10"),
            "`engine.shots` has no effect in any arm: engine.name is xla, which has no such option",
        ),
        (("objective.loss=focal", "objective.focal_gamma=0"), "`objective.focal_gamma` must lie in (0, 20]"),
        (("head=tree", "training.epochs=3"), "`training.epochs` has no effect in any arm: head.name is tree"),
        (("training.epochs=3", "training.epochs=4"), "`training.epochs` is set twice"),
        (("engine=xla", "engine.name=catalyst"), "`engine.name` is set twice"),
        (("head.alpha_train=false", "training.lr_mult_alpha=2"), "head.alpha_train is false"),
        (("head.alpha_train=false", "head.alpha_mode=direct"), "alpha keeps its initial value"),
        (("head.projection=pca", "training.weight_decay_projection=0.1"), "head.projection is pca, which is frozen"),
        (("circuit.n_layers=0", "training.lr_mult_circuit=2"), "circuit.n_layers is 0"),
        (("circuit.n_layers=1", "circuit.reupload=true"), "encoded once anyway"),
        (("data.split_by=time", "data.split_seed=1"), "which draws nothing"),
    ],
)
def test_refused_combinations(write, overrides, sentence):
    with pytest.raises(InputError) as error:
        load(write, TWO_ARMS, overrides)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("[arms.a]\nhead.nam = 'mlp'\n[arms.b]\n", "no option `head.nam` (in arm a); did you mean `head.name`"),
        ("[circuit]\nqubits = 4\n" + TWO_ARMS, "no option `circuit.qubits` (in e.toml)"),
        ("seed = 3\n" + TWO_ARMS, "there is no key `seed`; did you mean `seeds`"),
        ("title = 3\n" + TWO_ARMS, "`title` must be a text"),
        ("seeds = 0\n" + TWO_ARMS, "between 1 and 10000"),
        ("seeds = [1, 1]\n" + TWO_ARMS, "must not repeat"),
        ("seeds = [-1]\n" + TWO_ARMS, "integers from 0 on"),
        ("baseline = 'c'\n" + TWO_ARMS, "`baseline` must be one of the arms a, b"),
        ("[arms.a]\n", "at least two arms"),
        ("arms = 3\n", "one table per arm"),
        ("[arms]\na = 3\n", "one table per arm"),
        ("[arms.a]\n[arms.b]\n", "the arms a and b resolve to the same configuration"),
        (
            "[arms.a]\nhead.hidden = 3\n[arms.b]\nhead='mlp'\n",
            "`head.hidden` has no effect in arm a: head.name is quantum, which has no such option",
        ),
        ("head = 3\n" + TWO_ARMS, "`head.name` must be a name, got 3"),
        ("[training]\nepochs = '3'\n" + TWO_ARMS, "`training.epochs` must be an integer, got '3' (in e.toml)"),
        ("[head]\nhidden = 3\n" + TWO_ARMS, "`head.hidden` has no effect in any arm of e.toml"),
        ("[arms.'../a']\nhead = 'mlp'\n[arms.b]\n", "the name of an arm must be"),
        ("[arms.a", "is not valid TOML"),
        ("engine = 'xla'\n'engine.name' = 'xla'\n" + TWO_ARMS, "there is no key `engine.name`"),
        (
            "[arms.a]\n'head.name' = 'mlp'\nhead.name = 'linear'\n[arms.b]\n",
            "twice (in arm a), to 'mlp' and to 'linear'",
        ),
    ],
)
def test_refused_files(write, body, sentence):
    with pytest.raises(InputError) as error:
        load(write, body)
    assert sentence in str(error.value)


def test_an_option_may_be_without_effect_in_some_arms(write):
    body = "[head]\nhidden = 3\n[arms.a]\nhead = 'mlp'\n[arms.b]\n"
    assert load(write, body).arms["a"].head.hidden == 3
    assert load(write, body, ["head.dropout=0.5"]).arms["a"].head.dropout == 0.5


def test_arms_that_differ_without_effect_are_equal():
    base = RunConfig()
    pairs = [
        ({"circuit.entanglement": "ring"}, {"circuit.entanglement": "native"}),
        ({"training.weight_decay": 0.1}, {f"training.weight_decay_{group}": 0.1 for group in PARAMETER_GROUPS}),
        ({"sampling.pos_frac": 0.2}, {}),
    ]
    for first, second in pairs:
        configs = [with_options(base, options) for options in (first, second)]
        with pytest.raises(InputError, match="resolve to the same configuration"):
            Experiment("e", dict(zip("ab", configs, strict=True)), "a", (0,))
    for options in ({"head.name": "linear", "circuit.n_qubits": 3}, {"head.hidden": 3}):
        with pytest.raises(InputError, match="has no effect"):  # what would differ cannot be set
            with_options(base, options)
    different = [with_options(base, {"circuit.entanglement": name}) for name in ("ring", "linear")]
    assert Experiment("e", dict(zip("ab", different, strict=True)), "a", (0,)).changes("b") == {
        "circuit.entanglement": "linear"
    }


def test_options_of_the_data_without_effect(write, tmp_path, rng_features):
    rng_features.save(tmp_path / "f.npz")
    features, maps = f"data.source={tmp_path / 'f.npz'}", "data.source=maps.npz"
    for override, reason in ((features, "the synthetic generator does not run"), (maps, "generator does not run")):
        for option in ("data.n_maps=20", "data.seed=3"):
            with pytest.raises(InputError, match=reason):
                load(write, TWO_ARMS, [override, option])
    with pytest.raises(InputError, match="holds features already"):
        load(write, TWO_ARMS, [features, "data.backbone=other"])
    assert load(write, TWO_ARMS, [maps, "data.backbone=other"]).arms["a"].data.backbone == "other"
    assert load(write, TWO_ARMS, ["data.n_maps=20", "data.seed=3"]).arms["b"].data.n_maps == 20
    dataclasses.replace(rng_features, split=_parts(len(rng_features))).save(tmp_path / "g.npz")
    with pytest.raises(InputError, match="brings its own split"):
        load(write, TWO_ARMS, [f"data.source={tmp_path / 'g.npz'}", "data.train_fraction=0.5"])


def _parts(n):
    import numpy as np

    return np.array((["train", "val", "test"] * n)[:n])


@pytest.fixture
def rng_features():
    import numpy as np

    rng = np.random.default_rng(0)
    return FeatureSet(
        features=rng.standard_normal((30, 3)).astype(np.float32),
        labels=rng.integers(0, 2, (30, 1)).astype(np.uint8),
        label_names=("a",),
        content_ids=np.array([str(i) for i in range(30)]),
        provenance={},
    )


def body(weights, x):
    """Four wires: what is encoded, then a rotation of each."""
    qml.AngleEmbedding(x, wires=range(4))
    qml.AngleEmbedding(weights["theta"], wires=range(4), rotation="Y")


def test_every_option_has_an_effect_somewhere():
    """No rule may call an option ineffective everywhere, and none may fail on any head."""
    configs = [
        with_options(RunConfig(), options)
        for options in (
            {},
            {"head.name": "linear"},
            {"head.name": "mlp"},
            {"head.name": "tree"},
            {"head.name": "trigonometric"},
            {"engine.name": "xla"},
            {"data.task": "any", "sampling.balanced": True},
            {"objective.loss": "softmax", "sampling.balanced": True},
            {"objective.loss": "focal", "objective.focal_gamma": 2.0},
            {"objective.loss": "asymmetric", "objective.pos_weight": "effective"},
            {"objective.loss": "softmax"},
            {"objective.loss": "roc_auc"},
            {"head.name": "quantised", "head.calibration": "percentile"},
            {"head.name": "quantised", "head.precision": "qesc"},
            {"head.name": "mixture"},
            {"head.name": "wafercnn"},
            {"head.name": "waferresnet"},
            {"head.name": "trm", "head.mixer": "attention"},
            {"training.schedule": "plateau"},
            {"objective.loss": "distilled", "objective.teacher": "t.npz"},
            {"head.name": "mobilenet", "objective.loss": "distilled_labels", "objective.teacher_features": "f.npz"},
            {"head.name": "efficientnet"},
            {"head.name": "trm", "objective.loss": "mixed", "objective.other": "f.npz"},
            {"data.split_by": "fold"},
            {"circuit.name": "function", "circuit.function": f"{__file__}:body", "circuit.weights": "theta=4"},
            *(model.options(9) for model in MODELS.values()),
            {"head.name": "boltzmann", "head.visible": "full"},
            {"head.name": "lora"},
            {"head.name": "lora", "head.budget": 4253},
        )
    ]
    facts = SourceFacts("synthetic")
    names = known_options()
    for name in names:
        assert any(no_effect(config, name, facts) is None for config in configs), name
    sources = (facts, SourceFacts("maps"), SourceFacts("table"), SourceFacts("features", brings_split=True))
    for config, known in itertools.product(configs, sources):
        effective = effective_options(config, known)
        for name in names:
            reason = no_effect(config, name, known)
            assert reason is None or reason[0].islower(), (name, reason)
            assert (name in effective) <= (reason is None), name


def value_of(text):
    name, given = parse_assignment(text)
    config, _ = build(named([(name, given)], known_options()))
    return flat_config(config)[name]


def test_values_keep_type_and_digits():
    assert parse_assignment("training.learning_rate = 1e-3") == ("training.learning_rate", Given(1e-3, "1e-3"))
    assert value_of("training.learning_rate=1") == 1.0
    assert isinstance(value_of("training.learning_rate=1"), float)
    assert value_of("objective.pos_weight=2.50") == "2.50"
    assert value_of("data.task=none") == "none"
    assert value_of("data.task=5") == "5"
    assert value_of("data.source=a=b.npz") == "a=b.npz"
    assert value_of('data.task="Edge-Loc"') == "Edge-Loc"
    assert value_of("training.ema_decay=none") is None
    assert value_of("objective.pos_weight=none") is None
    assert checked("objective.pos_weight", str | None, Given(3)) == "3"
    for kind in (float | None, typing.Optional[float]):  # noqa: UP045
        assert checked("head.x", kind, Given("none")) is None
        with pytest.raises(InputError, match=r"`head\.x` must be a number or none, got 'a'"):
            checked("head.x", kind, Given("a"))


def test_options_round_trip():
    config = with_options(RunConfig(), {"training.epochs": 3, "head.projection": "pca", "training.ema_decay": 0.9})
    assert with_options(RunConfig(), flat_config(config)) == config
    assert config.head == QuantumOptions(projection="pca")
    assert "head.hidden" not in effective_options(config, SourceFacts("synthetic"))
    assert with_options(config, {"engine": "xla"}).engine == get("xla")
    with pytest.raises(InputError, match=r"did you mean `training\.epochs`"):
        with_options(config, {"training.epoch": 3})


@pytest.mark.parametrize(
    ("text", "seeds"),
    [(3, (0, 1, 2)), ("3", (0, 1, 2)), ("3:6", (3, 4, 5)), ("1,5,9", (1, 5, 9)), ("7,", (7,)), ([4, 2], (4, 2))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["a", "-1", "3:1", "1,1", "1.5", True, None, "0", ""])
def test_refused_seeds(text):
    with pytest.raises(InputError, match="seeds"):
        parse_seeds(text)


def test_digest_counts_what_defines_the_runs():
    base = load_experiment(DEFAULT_EXPERIMENT)
    assert load_experiment(DEFAULT_EXPERIMENT).digest() == base.digest()
    for same in ({"seeds": (5,)}, {"title": "x"}, {"name": "x"}):
        assert dataclasses.replace(base, **same).digest() == base.digest()
    assert load_experiment(DEFAULT_EXPERIMENT, ["training.epochs=99"]).digest() != base.digest()
    assert dataclasses.replace(base, metric="val.loss").digest() != base.digest()
    assert dataclasses.replace(base, baseline=list(base.arms)[1]).digest() != base.digest()
    moved = [with_options(RunConfig(), {"data.source": source}) for source in ("a.npz", "b.npz")]
    assert config_digest(moved[0]) == config_digest(moved[1]) != config_digest(RunConfig())


def test_shipped_experiments_load():
    names = [path.stem for path in shipped_experiments()]
    assert DEFAULT_EXPERIMENT in names
    for name in names:
        experiment = load_experiment(name)
        assert experiment.title
        assert experiment.expected


def test_experiments_that_a_wheel_installed(monkeypatch, tmp_path):
    """Without a checkout around the package the files are those that the wheel's record names."""
    import importlib.metadata

    from qwafer import experiment as module

    installed = tmp_path / "share" / "qwafer" / "experiments" / "mine.toml"
    installed.parent.mkdir(parents=True)
    installed.write_text(TWO_ARMS)

    class Recorded(importlib.metadata.PackagePath):
        def locate(self):
            return installed

    monkeypatch.setattr(module, "__file__", str(tmp_path / "lib" / "qwafer" / "experiment.py"))
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [Recorded("../share/qwafer/experiments/mine.toml")])
    assert shipped_experiments() == [installed.resolve()]
    assert find_experiment("mine") == installed.resolve()


def test_unknown_experiments():
    with pytest.raises(InputError, match=f"no experiment 'nothing'.*{DEFAULT_EXPERIMENT}"):
        load_experiment("nothing")
    with pytest.raises(InputError, match=r"nothing.toml does not exist"):
        load_experiment("nothing.toml")
