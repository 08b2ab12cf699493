"""What broke when a process was used in other ways than the verbs do: own loops, threads, forks, flags, a mesh."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import equinox as eqx
import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qwafer import InputError, engines
from qwafer.circuits import CircuitSpec
from qwafer.heads import LinearOptions, MlpOptions, QuantumOptions, TrigonometricOptions, head_inputs

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
SPEC = CircuitSpec(3, 1, readout="mean_z_readout", n_outputs=2)
FEATURES = np.random.default_rng(0).normal(size=(BATCH, 5))
HEADS = {
    "pca, alpha frozen": QuantumOptions(projection="pca", alpha_train=False, alpha_init=3.0),
    "fixed, alpha per label": QuantumOptions(projection="fixed", alpha_per_label=True),
    "linear": LinearOptions(),
    "mlp": MlpOptions(hidden=4),
    "trigonometric": TrigonometricOptions(n_angles=2),
}


def made_head(name):
    options = HEADS[name]
    quantum = isinstance(options, QuantumOptions)
    head = options.make(head_inputs(FEATURES, 2, 0, SPEC if quantum else None))
    return head, engines.get("xla").program(SPEC, BATCH) if quantum else None


@pytest.mark.parametrize("name", HEADS)
def test_what_is_frozen_gets_no_gradient_and_does_not_move(name):
    head, program = made_head(name)
    features, labels = jnp.asarray(FEATURES, "float32"), jnp.asarray(FEATURES[:, :2] > 0, "float32")

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(head):
        return optax.sigmoid_binary_cross_entropy(head(features, program), labels).mean()

    found = gradient(head)
    assert head.buffers
    for which, value in found.buffers.items():
        assert not np.any(value), which
    moved = {which for which, value in found.params.items() if np.any(value)}
    assert moved == head.params.keys()
    np.testing.assert_array_equal(head(features, program), head.logits(features, program))

    optimizer = optax.adamw(0.1, weight_decay=0.1)  # decay would move a buffer whose gradient is 0
    trained, frozen = eqx.partition(head, head.trainable())
    state = optimizer.init(trained)
    for _ in range(3):
        updates, state = optimizer.update(
            eqx.filter(gradient(eqx.combine(trained, frozen)), head.trainable()), state, trained
        )
        trained = eqx.apply_updates(trained, updates)
    after = eqx.combine(trained, frozen)
    for which, value in head.buffers.items():
        np.testing.assert_array_equal(after.buffers[which], value)
    assert all(np.any(after.params[which] != value) for which, value in head.params.items())


def drawn(spec, batch=BATCH):
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=shape).astype(spec.dtype) for name, shape in spec.weight_shapes().items()}
    return weights, rng.normal(size=(batch, spec.n_inputs)).astype(spec.dtype)


def test_other_threads_trace_while_a_program_is_compiled():
    circuits = [CircuitSpec(n, 2, n_outputs=k, readout="mean_z_readout") for k in range(1, 11) for n in (2, 3)]
    engine, finished = engines.get("catalyst"), threading.Event()
    compiled, traced, calls = [], [], 0
    engines.cache_clear()

    def compile_all():
        """One program after another, at least two, until the other thread has traced beside them."""
        try:
            for circuit in circuits:
                compiled.append(engine.program(circuit, 3))
                if len(compiled) > 1 and calls > 3:
                    return
        finally:
            finished.set()

    thread = threading.Thread(target=compile_all)
    thread.start()
    while not finished.is_set():
        calls += 1

        def loss(x, shift=calls):
            looped = jax.lax.fori_loop(0, 3, lambda i, c: c * x, x)
            return jnp.sum(jnp.where(x > 0, jnp.sin(x) * shift, looped)[jnp.argsort(x)])

        assert np.isfinite(jax.jit(jax.value_and_grad(loss))(jnp.ones(calls % 7 + 1))[0])
        if calls % 4 == 0:
            circuit = CircuitSpec(2, 1, n_outputs=1 + calls // 4, readout="mean_z_readout")
            traced.append((circuit, engines.get("reference").program(circuit, 2)(*drawn(circuit, 2))))
    thread.join()
    assert calls > 3
    assert len(compiled) > 1
    for circuit, values in traced:
        expected = engines.get("xla").program(circuit, 2)(*drawn(circuit, 2))
        np.testing.assert_allclose(values, expected, atol=1e-5)
    for circuit, program in zip(circuits, compiled, strict=False):
        expected = engines.get("xla").program(circuit, 3)(*drawn(circuit, 3))
        np.testing.assert_allclose(program(*drawn(circuit, 3)), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # PennyLane's, in 32 bit
@pytest.mark.parametrize("name", ["catalyst", "xla", "reference", "auto"])
def test_64_bit_switched_off_is_noticed_at_the_call_and_compiles_float32(name):
    engine, double = engines.get(name), CircuitSpec(2, 1, dtype="float64")
    program, arrays = engine.program(double, 2), drawn(double, 2)
    assert program(*arrays).dtype == np.float64
    single = CircuitSpec(2, 1, encoding="rx")
    engines.cache_clear()
    with jax.experimental.disable_x64():
        for call in (program, jax.jit(program), jax.grad(lambda w, x: program(w, x).sum())):
            with pytest.raises(InputError, match=r"64 bit, which is switched off.*jax_enable_x64"):
                call(*arrays)
        with pytest.raises(InputError, match="64 bit, which is switched off"):
            engine.program(double, 2)
        values, gradient = jax.value_and_grad(lambda w, x: engine.program(single, 2)(w, x).sum())(*drawn(single, 2))
        assert values.dtype == gradient["ansatz"].dtype == np.float32
        assert not jax.config.jax_enable_x64
    np.testing.assert_allclose(values, engines.get("reference").program(single, 2)(*drawn(single, 2)).sum(), atol=1e-6)


def run(script, *arguments, timeout=120, **environment):
    """Return the lines that `script` prints in a process of its own."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=surroundings, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FORKED = """
import os, signal, numpy as np
from qwafer import CapabilityError, engines
from qwafer.circuits import CircuitSpec
spec = CircuitSpec(2, 1)
arrays = {"ansatz": np.ones((1, 2, 3), "float32")}, np.ones((3, 2), "float32")
def child(*steps):
    pid = os.fork()
    if pid:
        print(os.waitpid(pid, 0)[1], flush=True)
        return
    signal.alarm(60)
    for step in steps:
        try:
            step()
            print("ran", flush=True)
        except CapabilityError as error:
            print(error, flush=True)
    os._exit(0)
child(lambda: engines.get("catalyst").program(spec, 3)(*arrays))  # nothing has run yet
program = engines.get("xla").program(spec, 3)
program(*arrays)
child(lambda: program(*arrays), lambda: engines.get("catalyst").program(CircuitSpec(1, 1), 3))
program(*arrays)
"""


def test_a_forked_process_is_told_to_spawn():
    first, rc, *refused, last = run(FORKED)
    assert (first, rc, last) == ("ran", "0", "0")
    assert len(refused) == 2
    assert all("forked from one that has run programs" in line and '"spawn"' in line for line in refused)


FORKED_LIBRARY = """
import os, signal, numpy as np
from qwafer import CapabilityError, FeatureSet, train
from qwafer.config import RunConfig, TrainingConfig, DataConfig
from qwafer.heads import LinearOptions
rng = np.random.default_rng(0)
data = FeatureSet.from_arrays(rng.normal(size=(60, 3)), rng.integers(0, 2, 60))
options = TrainingConfig(epochs=1, max_doublings=0, batch_size=16)
config = RunConfig(head=LinearOptions(), training=options, data=DataConfig(task="multilabel"))
result = train(config, data, 0)
def child(step):
    pid = os.fork()
    if pid:
        print(os.waitpid(pid, 0)[1], flush=True)
        return
    signal.alarm(60)
    try:
        step()
        print("ran", flush=True)
    except CapabilityError as error:
        print(error, flush=True)
    os._exit(0)
child(lambda: train(config, data, 1))
child(lambda: result.predictor.logits(data))
"""


def test_training_and_prediction_in_a_forked_process_are_told_to_spawn():
    first, rc, second, last = run(FORKED_LIBRARY)
    assert (rc, last) == ("0", "0")
    assert all("forked from one that has run programs" in line for line in (first, second))


DISPATCH = """
import sys, warnings, jax, qwafer
from qwafer.circuits import CircuitSpec
if sys.argv[1] == "late":
    jax.numpy.ones(1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for n in (1, 2):
        qwafer.engines.get("catalyst").program(CircuitSpec(n, 1), 2, gradient=False)
print(jax.config.read("jax_cpu_enable_async_dispatch"))
print(sum("qwafer.configure_jax() before" in str(warning.message) for warning in caught))
"""


@pytest.mark.parametrize(("how", "said"), [("fresh", "False 0"), ("late", "True 1")])
def test_asynchronous_dispatch_is_off_or_warned_of(how, said, tmp_path):
    assert " ".join(run(DISPATCH, how, QWAFER_CACHE=str(tmp_path), QWAFER_XLA_CACHE="off")) == said


MESH = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from qwafer import CapabilityError, engines
from qwafer.circuits import CircuitSpec
from qwafer.engines.mesh import data_parallel
spec, devices = CircuitSpec(2, 1, readout="z_vec"), jax.devices()
rng = np.random.default_rng(0)
w = {name: rng.normal(size=shape).astype("float32") for name, shape in spec.weight_shapes().items()}
x = rng.normal(size=(4, 2)).astype("float32")
for derivatives in ("reverse", "any"):
    engine = engines.get("xla", derivatives=derivatives)
    one, many = engine.program(spec, 4), data_parallel(engine, spec, 4)
    def derivative(program, w, x):
        return jax.grad(lambda w, x: (program(w, x) ** 2).sum(), (0, 1))(w, x)
    want = jax.tree.leaves((one(w, x), derivative(one, w, x)))
    for place in (devices[0], devices[1]):
        for put in ((w, jax.device_put(x, place)), (jax.device_put(w, place), x), jax.device_put((w, x), place)):
            for have, expected in zip(jax.tree.leaves((many(*put), derivative(many, *put))), want, strict=True):
                np.testing.assert_allclose(have, expected, atol=1e-6)
            assert len(many(*put).sharding.device_set) == 2
    inside = jax.jit(lambda w, x: derivative(many, w, x))
    mesh = jax.make_mesh((2,), ("batch",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
    for put in ((w, x), (jax.device_put(w, whole), jax.device_put(x, split))):
        for have, expected in zip(jax.tree.leaves(inside(*put)), want[1:], strict=True):
            np.testing.assert_allclose(have, expected, atol=1e-6)
    hessians = []
    for program in (one, many):
        try:
            hessians.append(jax.hessian(lambda x: (program(w, x) ** 2).sum())(x))
        except CapabilityError as error:
            assert 'derivatives="any"' in str(error)
            hessians.append(np.zeros(()))
    np.testing.assert_allclose(*hessians, atol=1e-5)
    print(derivatives, hessians[0].ndim)
"""


@pytest.mark.slow
def test_a_mesh_takes_arrays_from_any_device():
    flags = "--xla_force_host_platform_device_count=2"
    assert run(MESH, XLA_FLAGS=flags, JAX_PLATFORMS="cpu") == ["reverse 0", "any 4"]
