"""What broke when the engines were attacked: shapes, equal programs, memory, large angles, forward mode, caches."""

import dataclasses
import pickle
import tracemalloc
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import CapabilityError, InputError, engines
from qwafer.circuits import CircuitSpec, GateCircuit, LayeredOptions, Operation
from qwafer.circuits.gates import RX
from qwafer.circuits.statevector import values
from qwafer.config import DataConfig, RunConfig, TrainingConfig
from qwafer.engines import cache, memory
from qwafer.engines.mesh import data_parallel
from qwafer.engines.xla import XlaEngine, cost, gates, heisenberg, wiring
from qwafer.engines.xla.memory import example_states
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
    found = [float(jitted(program, WEIGHTS, X)) for program in (first, second, back)]
    assert len(traces) == 1
    assert len(set(found)) == 1


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


def test_replacing_a_field_derives_again_what_followed_from_it():
    spec = CircuitSpec(3, 2)
    separable = dataclasses.replace(spec, ansatz="separable")
    assert separable == CircuitSpec(3, 2, ansatz="separable")
    assert dataclasses.replace(separable, ansatz="basic_entangler").entanglement == "ring"
    assert dataclasses.replace(pickle.loads(pickle.dumps(spec)), ansatz="separable") == separable
    every = CircuitSpec(3, 2, readout="bloch")
    assert dataclasses.replace(every, n_qubits=4).n_outputs == 12
    assert dataclasses.replace(every, readout="mean_z") == spec
    gates = (Operation(RX, (0,), "inputs", (0,)),)
    assert dataclasses.replace(GateCircuit(2, gates, 1, readout="z"), readout="bloch").n_outputs == 6
    with pytest.raises(InputError, match="does not go with"):  # what somebody asked for stays asked for
        dataclasses.replace(CircuitSpec(3, 2, entanglement="ring"), ansatz="separable")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["softplus", "direct"])
def test_alpha_starts_at_a_finite_number(value, mode):
    with pytest.raises(InputError, match="alpha_init"):
        QuantumOptions(alpha_init=value, alpha_mode=mode)


@pytest.mark.parametrize("circuit", [{}, {"ansatz": "separable"}, {"reupload": True}, {"engine": "catalyst"}], ids=str)
def test_forward_mode_is_refused_by_every_plan_and_says_what_has_it(circuit):
    circuit = dict(circuit)
    engine = circuit.pop("engine", "xla")
    spec = CircuitSpec(3, 2, **circuit)
    program, point = made(engine, spec), arguments(spec)

    def value(weights, inputs):
        return program(weights, inputs).sum()

    for derivative in (
        lambda: jax.jvp(program, point, point),
        lambda: jax.jvp(jax.jit(program), point, point),
        lambda: jax.jit(lambda: jax.jvp(program, point, point))(),
        lambda: jax.jacfwd(value)(*point),
        lambda: jax.hessian(value, 1)(*point),
    ):
        with pytest.raises(CapabilityError, match='derivatives="any"'):
            derivative()
    assert jax.jit(jax.grad(value))(*point)["ansatz"].shape == (2, 3, 3)
    if engine == "xla":
        plain = XlaEngine(derivatives="any").program(spec, BATCH)
        assert jax.jvp(plain, point, point)[1].shape == (BATCH, 1)


@pytest.mark.parametrize("scale", [1e3, 1e8, 3e38])
@pytest.mark.parametrize("options", [{"ansatz": "separable"}, {}, {"reupload": True}], ids=str)
def test_large_angles_mean_what_they_mean_in_the_definition(scale, options):
    spec = CircuitSpec(3, 3, readout="mean_z_readout", **options)
    rng = np.random.default_rng(0)
    weights = {k: rng.uniform(-scale, scale, size).astype("float32") for k, size in spec.weight_shapes().items()}
    x = rng.uniform(-scale, scale, (64, 3)).astype("float32")
    want = values(spec, weights, x)
    program = made("xla", spec, 64)
    np.testing.assert_allclose(program(weights, x), want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(jax.vmap(program, (None, 0))(weights, x[None])[0], want, rtol=0, atol=2e-6)


def test_the_turns_that_come_off_an_angle_leave_its_derivative():
    spec = CircuitSpec(2, 2, readout="mean_z_readout")
    program = made("xla", spec, 1)

    def value(t):
        return program({k: jnp.full(size, t) for k, size in spec.weight_shapes().items()}, jnp.full((1, 2), t))[0, 0]

    near, far = (jax.grad(value)(jnp.asarray(turn, "float32")) for turn in (0.7, 0.7 + 8 * np.pi))
    assert abs(near) > 0.05
    np.testing.assert_allclose(far, near, rtol=0, atol=1e-4)


def test_coefficients_of_a_readout_are_not_angles():
    spec = CircuitSpec(3, 2, readout="z_vec")
    weights, x = arguments(spec)
    program = made("xla", spec)
    once, often = program(weights, x), program({**weights, "readout": 100 * weights["readout"]}, x)
    np.testing.assert_allclose(often, 100 * once, rtol=1e-4, atol=1e-4)


def test_clearing_the_cache_forgets_tables_and_functions():
    engines.cache_clear()
    program = XlaEngine(plan="heisenberg").program(CircuitSpec(5, 3), BATCH)
    program(*arguments(CircuitSpec(5, 3)))
    assert cache.TABLES.info()["bytes"] > cache.JIT_BYTES
    assert make_program(config(), 2, 4) is make_program(config(), 2, 4)
    kept = make_program(config(), 2, 4)
    engines.cache_clear()
    assert cache.TABLES.info()["resident"] == 0
    assert make_program(config(), 2, 4) is not kept
    assert make_program(config(), 2, 4) == kept


def test_tables_are_bounded_by_their_bytes(monkeypatch):
    monkeypatch.setattr(cache, "TABLES", cache.ProgramCache(limit_bytes=1 << 20))
    for layer in range(1, 7):
        heisenberg.conjugation(7, ((0, layer),))  # 10 bytes for each of 4^7 strings: 160 KiB
    heisenberg.conjugation(7, ((1, 2),))
    info = cache.TABLES.info()
    assert info["resident"] == 6
    assert info["bytes"] <= 1 << 20
    before = info["hits"]
    heisenberg.conjugation(7, ((1, 2),))
    assert cache.TABLES.info()["hits"] == before + 1


@pytest.mark.parametrize(
    ("engine", "spec", "batch"),
    [
        ("xla", CircuitSpec(26, 2), 1),
        ("xla", CircuitSpec(28, 2), 16),
        ("xla", CircuitSpec(10, 60, readout="bloch"), 1 << 16),  # a program of the plan heisenberg
        ("reference", CircuitSpec(20, 2), 4),
        ("reference", CircuitSpec(35, 2), 1),
        ("catalyst", CircuitSpec(28, 2), 1),
        ("xla", CircuitSpec(1000, 2, ansatz="separable", readout="z"), 1 << 16),
    ],
)
def test_what_does_not_fit_is_refused_with_the_number(engine, spec, batch, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    with pytest.raises(
        InputError, match=r"needs [\d.e+]+ (G|T|P)iB for a batch of .*1 GiB of memory are available: use"
    ):
        made(engine, spec, batch)


def test_chunks_shrink_where_sixteen_examples_are_too_many():
    for n, least in ((12, 16), (22, 1), (26, 1)):
        choice = cost.choose(CircuitSpec(n, 4), 64, True, "schroedinger")
        size = -(-64 // choice.chunks)
        assert size >= least
        states = size * 8 * 2**n * example_states(CircuitSpec(n, 4), True, choice.recompute)
        assert size == 1 or states <= 1.1 * cost.WORKING_BYTES
    assert cost.choose(CircuitSpec(26, 4), 64, True, "schroedinger").chunks == 64


def test_the_mean_of_the_signs_needs_no_table_of_them():
    want = wiring.signs(7).mean(1, dtype=np.float64)
    p = wiring.permutation(7, ((0, 3), (3, 5)))
    np.testing.assert_allclose(gates.mean_signs(wiring.identity(7), np.float32), want, rtol=2e-7)
    np.testing.assert_allclose(gates.mean_signs(p, np.float32), want[p.table()], rtol=2e-7)
    tracemalloc.start()
    jax.make_jaxpr(lambda: gates.mean_signs(wiring.identity(16), np.float32))()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**16  # (2^16, 16) numbers of 8 bytes are 128 of them


def test_z_values_are_those_of_the_signs():
    from qwafer.engines.catalyst.choi import signs
    from qwafer.engines.catalyst.scan import z_values

    probabilities = np.random.default_rng(0).random((5, 32))
    np.testing.assert_allclose(z_values(probabilities), probabilities @ signs(5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_qubits", [40, 1100])
def test_a_head_of_many_separate_wires(n_qubits):
    chosen = config(n_qubits=n_qubits, ansatz="separable")
    features = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    for engine in ("xla", "auto"):
        program = make_program(dataclasses.replace(chosen, engine=engines.get(engine)), 2, 4)
        head = make_head(chosen, features, 2, 0)
        assert np.isfinite(head.logits(features[:4], program)).all()
    assert head.effective() is None
