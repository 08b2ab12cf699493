"""Heads, circuits, engines and losses of one's own: by name from TOML, from `--set` and from Python."""

import dataclasses
import importlib
import json
import shutil
import textwrap

import numpy as np
import pytest

from qwafer import InputError
from qwafer._registry import load_attribute
from qwafer.config import RunConfig, TrainingConfig
from qwafer.experiment import load_experiment
from qwafer.features import FeatureSet, SourceFacts
from qwafer.heads import MlpOptions
from qwafer.overrides import determined_by, effective_options, with_options
from qwafer.training import train

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from qwafer.circuits import CircuitSpec
from qwafer.engines.reference import ReferenceEngine
from qwafer.heads import MlpOptions


@dataclass(frozen=True)
class Wide:
    widths: tuple[int, ...] = (4,)
    hidden: str = "some"
    rate: float | None = None
    sections: ClassVar[tuple[str, ...]] = ("objective", "sampling", "training")

    def make(self, inputs):
        return MlpOptions(hidden=sum(self.widths)).make(inputs)


@dataclass(frozen=True)
class Ladder:
    rungs: int = 1
    dtype: str = "float64"

    def circuit(self, n_outputs):
        return CircuitSpec(2, self.rungs, readout="z_vec", n_outputs=n_outputs, dtype=self.dtype)


@dataclass(frozen=True)
class Patient:
    nap: float = 0.0
    name: ClassVar[str] = "patient"

    def program(self, spec, batch, *, gradient=True, seed=0):
        return ReferenceEngine().program(spec, batch, gradient=gradient, seed=seed)

    def why_not(self, circuit):
        return None


@dataclass(frozen=True)
class Brier:
    sharpness: float = 1.0
    exclusive: ClassVar[bool] = False
    reweights: ClassVar[bool] = False

    def constants(self, train_labels):
        return {}

    def value(self, logits, labels, weights, constants):
        from jax.nn import sigmoid

        each = ((sigmoid(self.sharpness * logits) - labels) ** 2).mean(axis=1)
        return (weights * each).sum() / weights.sum()


class Plain:
    pass


@dataclass
class Thawed:
    sections = ()

    def fit(self, prepared, seed):
        return None


@dataclass(frozen=True)
class Idle:
    """Neither made nor fitted."""

    sections: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Homeless:
    """Does not say what it reads."""

    def fit(self, prepared, seed):
        return None


@dataclass(frozen=True)
class Named:
    name: str = "x"
    sections: ClassVar[tuple[str, ...]] = ()

    def fit(self, prepared, seed):
        return None


@dataclass(frozen=True)
class Puzzling:
    shape: "Nowhere" = None
    sections: ClassVar[tuple[str, ...]] = ()

    def fit(self, prepared, seed):
        return None


@dataclass(frozen=True)
class Strict:
    depth: int = 1
    sections: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if self.depth < 1:
            raise ValueError("too shallow")

    def fit(self, prepared, seed):
        return None
'''


@pytest.fixture(params=["module", "file"])
def place(request, tmp_path, monkeypatch):
    """The part before the colon of a name: an importable module, or the path of a file."""
    name = f"own_things_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return name if request.param == "module" else str(tmp_path / f"{name}.py")


def sentence(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, :2] > 0.2).astype(np.uint8)
    return FeatureSet(x, y, ("a", "b"), np.array([f"m{i}" for i in range(60)]), {})


def test_from_python_through_plain_data_to_a_run(place):
    wide, ladder, patient, brier = (load_attribute(f"{place}:{n}") for n in ("Wide", "Ladder", "Patient", "Brier"))
    training = TrainingConfig(epochs=1, max_doublings=0, batch_size=20)
    classical = RunConfig(head=wide(widths=(2, 3)), objective=brier(sharpness=2.0), training=training)
    quantum = RunConfig(circuit=ladder(), engine=patient(nap=0.5), objective=brier(), training=training)
    for config in (classical, quantum):
        plain = json.loads(json.dumps(config.to_dict()))
        assert plain["objective"]["loss"] == f"{place}:Brier"
        assert RunConfig.from_dict(plain) == config
        result = train(config, features(), seed=1)
        ran = RunConfig.from_dict(result.config)
        assert ran.data.source == "given"  # features were given, whatever the configuration says
        assert dataclasses.replace(ran, data=config.data) == config
        assert result.epochs_run == 1
    assert classical.to_dict()["head"] == {
        "name": f"{place}:Wide",
        "widths": (2, 3),
        "hidden": "some",
        "rate": None,
    }
    assert quantum.to_dict()["circuit"] == {"name": f"{place}:Ladder", "rungs": 1, "dtype": "float64"}
    assert quantum.to_dict()["engine"] == {"name": f"{place}:Patient", "nap": 0.5}


def test_from_toml(place, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text(
        textwrap.dedent(f"""
        engine = "{place}:Patient"
        objective.loss = "{place}:Brier"
        objective.sharpness = 3
        [arms.a]
        head.name = "{place}:Wide"
        head.widths = [5, 6]
        [arms.b.circuit]
        name = "{place}:Ladder"
        rungs = 2
        """)
    )
    experiment = load_experiment(path)
    a, b = experiment.arms["a"], experiment.arms["b"]
    assert (a.name("head"), a.head.widths, a.circuit) == (f"{place}:Wide", (5, 6), None)
    assert (b.name("circuit"), b.circuit.rungs, b.name("engine")) == (f"{place}:Ladder", 2, f"{place}:Patient")
    assert a.objective == b.objective
    assert a.objective.sharpness == 3.0
    assert isinstance(a.objective.sharpness, float)
    assert experiment.changes("b")["circuit.rungs"] == 2
    assert "head.widths" not in experiment.changes("b")
    assert load_experiment(path).digest() == experiment.digest()
    assert load_experiment(path, ["objective.sharpness=4"]).digest() != experiment.digest()


def test_an_option_may_be_set_in_another_place_than_the_name(place, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text(f'head = "{place}:Wide"\n[arms.a]\nhead.hidden = "few"\n[arms.b]\nhead.rate = 0.5\n')
    experiment = load_experiment(path, ["head.widths=[1, 2]"])
    assert experiment.arms["a"].head.hidden == "few"  # a text here, a number in the network of one hidden layer
    assert [config.head.widths for config in experiment.arms.values()] == [(1, 2), (1, 2)]
    assert experiment.changes("b") == {"head.hidden": "some", "head.rate": 0.5}
    path.write_text(f'[head]\nhidden = 3\n[arms.a]\nhead.name = "{place}:Wide"\n[arms.b]\nhead.name = "mlp"\n')
    arms = load_experiment(path).arms
    assert (arms["a"].head.hidden, arms["b"].head) == ("3", MlpOptions(hidden=3))


def test_from_the_command_line(place, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text("[arms.a]\ntraining.epochs = 3\n[arms.b]\ntraining.epochs = 4\n")
    overrides = [f"circuit={place}:Ladder", "circuit.rungs=3", f"engine={place}:Patient", "engine.nap=1"]
    for config in load_experiment(path, overrides).arms.values():
        assert (config.circuit.rungs, config.engine.nap) == (3, 1.0)
    overrides = [f"head={place}:Wide", "head.widths=[7]", "head.rate=none", f"objective.loss={place}:Brier"]
    for config in load_experiment(path, overrides).arms.values():
        assert (config.head.widths, config.head.rate, config.name("objective")) == ((7,), None, f"{place}:Brier")
    config = with_options(RunConfig(), {"head": f"{place}:Wide", "head.widths": [8]})
    assert config.head.widths == (8,)
    assert with_options(config, {"head.hidden": "few"}).head.widths == (8,)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["head={}:Wider"], "has no attribute Wider; did you mean `Wide`?"),
        (["head={}:Plain"], "must be a frozen dataclass of options"),
        (["head={}:Thawed"], "must be a frozen dataclass of options"),
        (["head={}:MODULE_OF_NOTHING"], "has no attribute"),
        (["head={}:dataclass"], "must be a frozen dataclass of options"),
        (["head={}:Idle"], "must define make (for the loop) or fit"),
        (["head={}:Homeless"], "`head` must define sections: Homeless does not"),
        (["head={}:Brier"], "`head` must define sections: Brier does not"),
        (["objective.loss={}:Ladder"], "`objective` must define exclusive, reweights, constants, value"),
        (["engine={}:Ladder"], "`engine` must define program"),
        (["circuit={}:Patient"], "`circuit` must define circuit"),
        (["head={}:Named"], "must not have an option `name`"),
        (["head={}:Puzzling"], "the types of the options of Puzzling cannot be told"),
        (["head={}:Strict", "head.depth=0"], "`head` cannot be made: too shallow"),
        (["head={}:Strict", "head.depth=1.5"], "`head.depth` must be an integer, got 1.5"),
        (["head={}:Strict", "head.depth=deep"], "`head.depth` must be an integer, got 'deep'"),
        (["head={}:Wide", "head.rate=fast"], "`head.rate` must be a number or none, got 'fast'"),
        (["head={}:Wide", "head.widthss=3"], "there is no option `head.widthss`; did you mean `head.widths`?"),
        (["head={}:Wide", "head.dropout=0.5"], "which has no such option"),
        (["head={}:Wide", "circuit.n_qubits=3"], "Wide, which runs no circuit"),
        (["circuit={}:Ladder", "circuit.n_qubits=3"], "Ladder, which has no such option"),
        (["engine={}:Patient", "engine.nap=true"], "`engine.nap` must be a number, got True"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(place, overrides, words, tmp_path):
    path = tmp_path / "e.toml"
    path.write_text("[arms.a]\ndata.limit = 30\n[arms.b]\ndata.limit = 40\n")
    with pytest.raises(InputError) as error:
        load_experiment(path, [text.format(place) for text in overrides])
    assert words in sentence(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('no\\nlicence')", "cannot be imported: RuntimeError: no licence"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError: No module named"),
        ("def f(:", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_that_fails_at_import_is_one_sentence_every_time(body, words, tmp_path):
    (tmp_path / "broken.py").write_text(body)
    for _ in range(2):
        with pytest.raises(InputError) as error:
            with_options(RunConfig(), {"head.name": f"{tmp_path / 'broken.py'}:Head"})
        assert words in sentence(error)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module:Head", "`head.name` = no.such.module:Head cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:Head", "nowhere.py: give the path of a Python file"),
        (":Head", "cannot be imported"),
        ("json:", "has no attribute"),
        ("qwantum", "did you mean `quantum`?"),
    ],
)
def test_names_that_lead_nowhere(name, words):
    with pytest.raises(InputError) as error:
        with_options(RunConfig(), {"head.name": name})
    assert words in sentence(error)


@pytest.mark.parametrize("section", ["head", "circuit", "engine", "objective"])
@pytest.mark.parametrize("thing", ["mlp", MlpOptions, 3])
def test_what_is_not_an_instance_is_refused_in_python(section, thing):
    with pytest.raises(InputError, match=f"`{section}` must be an instance of a frozen dataclass of options"):
        RunConfig(**{section: thing})


def test_an_option_of_some_arms_head_is_refused_in_the_arm_that_lacks_it(place, tmp_path):
    path = tmp_path / "e.toml"
    arms = f'[arms.a]\nhead.name = "{place}:Wide"\n[arms.b]\nhead.name = "linear"\n'
    path.write_text("[head]\nwidths = [3]\n" + arms)
    assert load_experiment(path).arms["a"].head.widths == (3,)  # in the base: it has an effect in one arm
    assert load_experiment(path, ["head.widths=[4]"]).arms["a"].head.widths == (4,)
    path.write_text(arms + "head.widths = [3]\n")
    with pytest.raises(InputError) as error:
        load_experiment(path)
    assert sentence(error) == ("`head.widths` has no effect in arm b: head.name is linear, which has no such option")


def test_what_declares_nothing_is_determined_by_all_of_its_options_and_the_data(place):
    config = with_options(RunConfig(), {"head": f"{place}:Wide"})
    found = determined_by("initial projection.hidden.weight[4, 4]", config)
    assert {"head.name", "head.widths", "head.hidden", "head.rate", "data.source", "data.task"} <= set(found)
    assert not any(name.startswith("training.") for name in found)
    assert determined_by("batches", config) == determined_by("batches", RunConfig())
    circuit = with_options(RunConfig(), {"circuit": f"{place}:Ladder"})
    found = determined_by("initial circuit.ansatz", circuit)
    assert set(found) == {"head.init_scale", "circuit.name", "circuit.rungs", "circuit.dtype"}
    facts = SourceFacts("synthetic")
    assert {"circuit.name", "circuit.rungs"} <= set(effective_options(circuit, facts))


def test_an_experiment_does_not_look_at_its_features_again(tmp_path):
    data = features()
    data.save(tmp_path / "f.npz")
    given = FeatureSet(
        *(data.features, data.labels, data.label_names, data.content_ids, {}),
        split=np.array(["train", "val", "test"] * 20),
    )
    given.save(tmp_path / "g.npz")
    (tmp_path / "e.toml").write_text("[arms.a]\ntraining.epochs = 3\n[arms.b]\n")
    for name in ("f", "g"):
        path = tmp_path / f"{name}.npz"
        experiment = load_experiment(tmp_path / "e.toml", [f"data.source={path}"])
        before = experiment.digest(), experiment.changes("b"), experiment.effective("a")
        assert "data.backbone" not in before[2]
        assert ("data.train_fraction" in before[2]) == (name == "f")
        shutil.move(path, tmp_path / "elsewhere.npz")
        moved = load_experiment(tmp_path / "e.toml", [f"data.source={tmp_path / 'elsewhere.npz'}"])
        assert (moved.digest(), moved.changes("b")) == before[:2]
        assert (experiment.digest(), experiment.changes("b"), experiment.effective("a")) == before
        (tmp_path / "elsewhere.npz").unlink()
        assert (experiment.digest(), experiment.changes("b"), experiment.effective("a")) == before


OWN = """
from dataclasses import dataclass
from typing import ClassVar, Literal
from qwafer.heads import LOOP
from qwafer.heads import LinearOptions as Base


@dataclass(frozen=True)
class mlp(Base):
    pairs: tuple[tuple[int, int], ...] = ((0, 1), (1, 2))
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Rotated(Base):
    sections: ClassVar = ("circuit", "engine", *LOOP)


@dataclass(frozen=True)
class Short(Base):
    sections: ClassVar = ("objective", "trainning")


@dataclass(frozen=True)
class Endless(Base):
    limit: float = float("inf")
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "e.toml").write_text("[circuit]\nn_layers = 1\n[arms.linear]\nhead = 'linear'\n[arms.quantum]\n")
    return tmp_path / "own.py"


def test_a_head_that_joins_has_the_options_of_the_base_and_of_the_command_line(own):
    options = ["engine=xla", "circuit.n_qubits=3", "head.max_depth=2"]
    heads = ["linear", f"{own}:Rotated", "tree", f"{own}:mlp", "mlp"]
    experiment = load_experiment(own.with_name("e.toml"), options, heads)
    arms = experiment.arms
    assert list(arms)[:3] == ["linear", "Rotated", "tree"]
    assert (arms["Rotated"].circuit.n_qubits, arms["Rotated"].circuit.n_layers) == (3, 1)
    assert arms["Rotated"].name("engine") == "xla"
    assert arms["tree"].head.max_depth == 2
    # Two heads of one name are two arms.
    assert len(arms) == 5
    assert [arms[arm].name("head") for arm in list(arms)[3:]] == [f"{own}:mlp", "mlp"]


def test_options_of_nested_tuples_and_of_choices(own):
    path, heads = own.with_name("e.toml"), ["linear", f"{own}:mlp"]
    experiment = load_experiment(path, ["head.pairs=[[0, 2]]", "head.mode=b"], heads)
    (config,) = (config for arm, config in experiment.arms.items() if arm != "linear")
    assert (config.head.pairs, config.head.mode) == (((0, 2),), "b")
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for option in ("head.pairs=5", "head.pairs=none", "head.pairs=[[0]]", "head.pairs=[[0, true]]", "head.mode=c"):
        with pytest.raises(InputError, match=f"`{option.partition('=')[0]}` must be"):
            load_experiment(path, [option], heads)


def test_what_no_file_can_hold_and_sections_that_do_not_exist_are_refused(own):
    with pytest.raises(InputError, match=r"`sections` of Short must be a tuple of circuit, engine"):
        RunConfig(head=load_attribute(f"{own}:Short")())
    with pytest.raises(InputError, match=r"`head.limit` of Endless must be an argument"):
        RunConfig(head=load_attribute(f"{own}:Endless")())


def test_the_loss_says_for_every_head_whether_classes_exclude_one_another(own):
    (own.with_name("s.toml")).write_text(
        "[arms.bce]\nhead = 'tests.stranger.contender:NearestMean'\n"
        "[arms.softmax]\nhead = 'tests.stranger.contender:NearestMean'\nobjective = 'softmax'\n"
    )
    assert load_experiment(own.with_name("s.toml")).changes("softmax") == {"objective.loss": "softmax"}
