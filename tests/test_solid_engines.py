"""What broke when the engines were attacked: shapes, equal programs, memory, large angles, forward mode, caches."""

import dataclasses
import pickle
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.circuits import CircuitSpec, GateCircuit, LayeredOptions, Operation
from qwafer.circuits.gates import RX
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.engines.mesh import data_parallel
from qwafer.engines.xla import XlaEngine
from qwafer.experiment import parse_seeds
from qwafer.heads.options import MlpOptions, QuantumOptions
from qwafer.training import make_head, make_program

ENGINES = ("xla", "reference", "catalyst", "auto", "mesh")
SPEC = CircuitSpec(3, 2, readout="mean_z_readout", n_outputs=2)
BATCH = 4


def made(name, spec=SPEC, batch=BATCH, **options):
    if name == "mesh":
        return data_parallel(engines.get("xla"), spec, batch, 1)
    return engines.get(name).program(spec, batch, **options)


def arguments(spec=SPEC, batch=BATCH, dtype=None):
    rng = np.random.default_rng(0)
    dtype = dtype or spec.dtype
    weights = {name: rng.normal(size=shape).astype(dtype) for name, shape in spec.weight_shapes().items()}
    return weights, rng.normal(size=(batch, spec.n_inputs)).astype(dtype)


WEIGHTS, X = arguments()
WRONG = {
    "an ansatz that would broadcast": ({**WEIGHTS, "ansatz": WEIGHTS["ansatz"][:1]}, X, r"ansatz.* \(2, 3, 3\), got"),
    "a column of angles": (WEIGHTS, X[:, :1], r"`inputs` must have shape \(4, 3\), got \(4, 1\)"),
    "another batch": (WEIGHTS, X[:3], r"`inputs` must have shape \(4, 3\), got \(3, 3\)"),
    "one example": (WEIGHTS, X[0], r"`inputs` must have shape \(4, 3\), got \(3,\)"),
    "an output too few": ({**WEIGHTS, "readout": WEIGHTS["readout"][:1]}, X, r"readout.* \(2, 3, 3\), got"),
    "an output too many": ({**WEIGHTS, "readout": np.ones((3, 3, 3), "float32")}, X, r"readout.* \(2, 3, 3\), got"),
    "a weight missing": ({"ansatz": WEIGHTS["ansatz"]}, X, "must hold ansatz, readout; readout is missing"),
    "a weight too many": ({**WEIGHTS, "bias": X}, X, "must hold ansatz, readout; bias is not among them"),
    "weights as a list": (list(WEIGHTS.values()), X, "must be a mapping of names to arrays, got list"),
    "a list as a weight": ({**WEIGHTS, "ansatz": WEIGHTS["ansatz"].tolist()}, X, "must be an array.*got list"),
    "inputs as a list": (WEIGHTS, X.tolist(), "`inputs` must be an array.*got list"),
    "complex inputs": (WEIGHTS, X + 0j, "`inputs` must hold real numbers, got complex64"),
    "truth values": (WEIGHTS, X > 0, "`inputs` must hold real numbers, got bool"),
    "texts": (WEIGHTS, X.astype(str), "`inputs` must hold real numbers"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_refuses_what_does_not_fit_its_circuit(engine):
    program = made(engine)
    for what, (weights, inputs, message) in WRONG.items():
        with pytest.raises(InputError, match=message) as error:
            program(weights, inputs)
        assert "\n" not in str(error.value), what
    with pytest.raises(InputError, match="must have shape"):
        jax.eval_shape(jax.jit(program), WEIGHTS, X[:3])


@pytest.mark.parametrize("engine", ENGINES)
def test_any_mapping_and_whole_numbers_are_taken(engine):
    program = made(engine)
    reordered = MappingProxyType(dict(reversed(WEIGHTS.items())))
    np.testing.assert_array_equal(program(reordered, X), program(WEIGHTS, X))
    whole = np.arange(BATCH * 3).reshape(BATCH, 3)
    np.testing.assert_array_equal(program(WEIGHTS, whole), program(WEIGHTS, whole.astype("float32")))


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_requests_give_equal_programs_that_are_traced_once(engine):
    first, second = made(engine), made(engine)
    back = pickle.loads(pickle.dumps(first))
    assert first == second == back
    assert hash(first) == hash(second) == hash(back)
    assert back.info == first.info
    traces = []

    def step(program, weights, inputs):
        traces.append(program)
        return jnp.sum(program(weights, inputs))

    jitted = jax.jit(step, static_argnums=0)
    values = [float(jitted(program, WEIGHTS, X)) for program in (first, second, back)]
    assert len(traces) == 1
    assert len(set(values)) == 1


def test_programs_of_other_requests_differ():
    base = made("xla")
    others = [
        made("xla", dataclasses.replace(SPEC, n_layers=3)),
        made("xla", batch=5),
        made("xla", gradient=False),
        XlaEngine(chunk=2).program(SPEC, BATCH),
        made("auto"),
        made("mesh"),
    ]
    assert all(base != other for other in others)
    assert len({base, *others}) == 7
    assert made("xla", seed=1) == base  # exact results do not depend on it
    noisy = engines.get("catalyst", shots=10)
    assert noisy.program(SPEC, 1, seed=1) != noisy.program(SPEC, 1, seed=2)


def test_a_program_made_by_hand_is_equal_to_itself_alone():
    found = made("xla")
    own = engines.Program(lambda weights, inputs: found(weights, inputs), SPEC, BATCH, {})
    assert own == own
    assert own != found
    assert own != engines.Program(own._forward, SPEC, BATCH, {})
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(own)


def config(engine="xla", **options):
    return RunConfig(circuit=LayeredOptions(**{"n_qubits": 3, "n_layers": 2, **options}), engine=engines.get(engine))


def test_a_head_refuses_the_program_of_another_circuit():
    features = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    head = make_head(config(), features, 2, 0)
    assert head.logits(features[:4], make_program(config(), 2, 4)).shape == (4, 2)
    for other, message in (
        (config(encoding="rx"), "encoding = rx where the head's has ry"),
        (config(entanglement="linear"), "entanglement = linear where the head's has ring"),
    ):
        with pytest.raises(InputError, match=message):
            head.logits(features[:4], make_program(other, 2, 4))


def test_numpy_integers_are_integers():
    four = np.int64(4)
    gates = (Operation(RX, (0,), "inputs", (0,)),)
    for record, field in (
        (CircuitSpec(four, four), "n_layers"),
        (LayeredOptions(n_qubits=four), "n_qubits"),
        (GateCircuit(four, gates, four), "n_inputs"),
        (XlaEngine(chunk=four), "chunk"),
        (engines.get("catalyst", shots=four), "shots"),
        (MlpOptions(hidden=four), "hidden"),
        (TrainingConfig(epochs=four, batch_size=np.uint8(4)), "batch_size"),
        (DataConfig(n_folds=four), "n_folds"),
    ):
        assert type(getattr(record, field)) is int, record
        assert getattr(record, field) == 4
    assert type(QuantumOptions(alpha_init=np.float32(3)).alpha_init) is float
    for engine in ENGINES:
        assert type(made(engine, batch=four).batch) is int
    assert parse_seeds(np.arange(3)) == parse_seeds(np.int64(3)) == (0, 1, 2)
    assert {type(seed) for seed in parse_seeds(np.arange(3))} == {int}
    with pytest.raises(TypeError, match="must be an integer"):
        CircuitSpec(np.float64(4), 1)
    with pytest.raises(TypeError, match="must be an integer"):
        CircuitSpec(np.True_, 1)
