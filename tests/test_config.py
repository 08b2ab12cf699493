"""Options are validated once, each says what it means, and no combination means nothing."""

import ast
import dataclasses
import inspect
import itertools
import textwrap

import pytest

from qwafer import InputError, config
from qwafer.config import (
    CircuitConfig,
    DataConfig,
    EngineConfig,
    HeadConfig,
    ObjectiveConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)

SECTIONS = [DataConfig, CircuitConfig, EngineConfig, HeadConfig, ObjectiveConfig, SamplingConfig, TrainingConfig]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_has_a_docstring(section):
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0].body
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(following, ast.Expr), f"{section.__name__}.{node.target.id}"
            assert isinstance(following.value, ast.Constant), f"{section.__name__}.{node.target.id}"


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (DataConfig, {"train_fraction": 0.95}, "must be less than 1"),
        (DataConfig, {"split_by": "lot"}, "`data.split_by` must be one of"),
        (CircuitConfig, {"ansatz": "separable", "entanglement": "ring"}, "`none` belongs"),
        (EngineConfig, {"name": "xla", "batching": "choi"}, "no effect on engine xla"),
        (EngineConfig, {"name": "reference", "shots": 100}, "no effect on engine reference"),
        (HeadConfig, {"alpha_init": 0.0}, "alpha_init"),
        (ObjectiveConfig, {"focal_gamma": 2.0}, "must be positive with loss focal and 0"),
        (ObjectiveConfig, {"loss": "focal"}, "must be positive with loss focal"),
        (ObjectiveConfig, {"pos_weight": "much"}, "pos_weight"),
        (SamplingConfig, {"pos_frac": 1.5}, r"`sampling.pos_frac` must lie in \(0, 1\), got 1.5"),
        (TrainingConfig, {"schedule": "one-cycle"}, "did you mean `one_cycle`"),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate"),
        (TrainingConfig, {"epochs": 0}, "`training.epochs` must be at least 1"),
    ],
)
def test_bad_options_are_refused(section, options, message):
    with pytest.raises(InputError, match=message):
        section(**options)


def test_focal_with_balanced_batches_is_refused_with_the_reason():
    with pytest.raises(InputError, match="prior shift"):
        RunConfig(
            data=DataConfig(task="any"),
            objective=ObjectiveConfig(loss="focal", focal_gamma=2.0),
            sampling=SamplingConfig(balanced=True),
        )


def test_balanced_batches_need_a_binary_task():
    with pytest.raises(InputError, match="binary task"):
        RunConfig(sampling=SamplingConfig(balanced=True))


def test_the_whole_configuration_is_plain_data():
    plain = RunConfig().to_dict()
    assert set(plain) == {field.name for field in dataclasses.fields(RunConfig)}
    assert plain["circuit"]["n_qubits"] == 4
    assert CircuitConfig().spec(3).n_outputs == 3


def test_engine_options_hold_only_what_is_set():
    assert EngineConfig().options() == {}
    assert EngineConfig(batching="choi", shots=10).options() == {"batching": "choi", "shots": 10}
    assert set(config.ENGINES) == {"auto", "catalyst", "xla", "reference"}
