"""The catalyst engine against the reference engine, finite differences and closed forms."""

import concurrent.futures
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import CapabilityError, InputError, engines
from qwafer.circuits import ANSATZE, ENCODINGS, CircuitSpec

READOUTS = (
    ("mean_z", 1),
    ("z_vec", 1),
    ("z_vec", 3),
    ("mean_z_readout", 1),
    ("mean_z_readout", 3),
    ("z", 1),
    ("bloch", 1),
)


def problem(spec: CircuitSpec, batch: int = 3, seed: int = 0) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Weights, angles and a cotangent of the outputs."""
    rng = np.random.default_rng(seed)
    weights = {name: jnp.asarray(rng.normal(size=shape), spec.dtype) for name, shape in spec.weight_shapes().items()}
    angles = jnp.asarray(rng.normal(size=(batch, spec.n_qubits)), spec.dtype)
    return weights, angles, jnp.asarray(rng.normal(size=(batch, spec.n_outputs)), spec.dtype)


def value_and_vjp(program: Callable[..., Any], weights: Any, angles: Any, cotangent: Any) -> list[np.ndarray]:
    value, pull_back = jax.vjp(program, weights, angles)
    d_weights, d_angles = pull_back(cotangent)
    return [np.asarray(part) for part in (value, *(d_weights[name] for name in sorted(d_weights)), d_angles)]


def assert_same(actual: list[np.ndarray], expected: list[np.ndarray], values: float, gradients: float) -> None:
    for index, (have, want) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(have, want, rtol=0, atol=gradients if index else values)


def check_against_reference(spec: CircuitSpec, **options: Any) -> None:
    arguments = problem(spec)
    program = engines.get("catalyst", **options).program(spec, 3)
    reference = engines.get("reference").program(spec, 3)
    with jax.disable_jit():  # a tenth of the time: nothing of the reference is used twice
        expected = value_and_vjp(reference, *arguments)
    assert_same(value_and_vjp(program, *arguments), expected, 1e-6, 1e-5)


def check_against_differences(spec: CircuitSpec, **options: Any) -> None:
    weights, angles, cotangent = problem(spec)
    program = jax.jit(engines.get("catalyst", **options).program(spec, 3))
    _, *gradients = value_and_vjp(program, weights, angles, cotangent)
    rng = np.random.default_rng(1)
    leaves, tree = jax.tree.flatten((weights, angles))
    directions = [rng.normal(size=leaf.shape) for leaf in leaves]
    step = 1e-5

    def loss(sign: int) -> float:
        moved = [leaf + sign * step * direction for leaf, direction in zip(leaves, directions, strict=True)]
        return float(jnp.vdot(cotangent, program(*jax.tree.unflatten(tree, moved))))

    slope = sum(np.vdot(g, d) for g, d in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(slope, (loss(1) - loss(-1)) / (2 * step), rtol=1e-4, atol=1e-7)


def pairwise() -> list[tuple[str, str, str, int, bool]]:
    """Every pair of encoding, ansatz and readout, and each of them with and without re-uploading."""
    cases = []
    for index, (readout, outputs) in enumerate(READOUTS):
        for shift, encoding in enumerate(ENCODINGS):
            cases.append((encoding, tuple(ANSATZE)[(index + shift) % 3], readout, outputs, bool((index + shift) % 2)))
    return cases


@pytest.mark.parametrize(("encoding", "ansatz", "readout", "outputs", "reupload"), pairwise())
def test_values_and_gradients_of_scan(encoding: str, ansatz: str, readout: str, outputs: int, reupload: bool) -> None:
    spec = CircuitSpec(2, 2, encoding, ansatz, readout=readout, n_outputs=outputs, reupload=reupload, dtype="float64")
    check_against_reference(spec)
    check_against_differences(spec)


@pytest.mark.parametrize(("readout", "outputs"), READOUTS)
def test_choi_agrees_with_scan(readout: str, outputs: int) -> None:
    for encoding, ansatz in zip(ENCODINGS, ANSATZE, strict=True):
        spec = CircuitSpec(3, 2, encoding, ansatz, readout=readout, n_outputs=outputs, dtype="float64")
        arguments = problem(spec, batch=5)
        choi, scan = (engines.get("catalyst", batching=name).program(spec, 5) for name in ("choi", "scan"))
        assert_same(value_and_vjp(choi, *arguments), value_and_vjp(scan, *arguments), 1e-12, 1e-11)
    check_against_differences(spec, batching="choi")


@pytest.mark.slow
@pytest.mark.parametrize(("readout", "outputs"), READOUTS)
@pytest.mark.parametrize("batching", ["scan", "choi"])
def test_every_combination(batching: str, readout: str, outputs: int) -> None:
    for encoding, ansatz, reupload in itertools.product(ENCODINGS, ANSATZE, (False, True)):
        spec = CircuitSpec(3, 2, encoding, ansatz, "", readout, outputs, reupload, "float64")
        if batching == "scan" or not reupload:
            check_against_reference(spec, batching=batching)
            check_against_differences(spec, batching=batching)


@pytest.mark.parametrize(
    ("n_qubits", "n_layers", "encoding"),
    [(1, 1, "ry"), (1, 2, "rz"), (2, 0, "rx"), (2, 0, "rz"), pytest.param(4, 3, "ry", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("batching", ["scan", "choi"])
def test_small_and_empty_circuits(n_qubits: int, n_layers: int, encoding: str, batching: str) -> None:
    check_against_reference(CircuitSpec(n_qubits, n_layers, encoding, dtype="float64"), batching=batching)


@pytest.mark.parametrize("entanglement", ["linear", "all"])
def test_other_entanglements(entanglement: str) -> None:
    check_against_reference(CircuitSpec(3, 2, entanglement=entanglement, readout="bloch", dtype="float64"))


def test_one_qubit_follows_the_cosine() -> None:
    spec = CircuitSpec(1, 1, "ry", "separable", dtype="float64")
    x = jnp.linspace(-3, 3, 7)[:, None]
    program = engines.get("catalyst").program(spec, 7)
    weights = {"ansatz": jnp.asarray([[[0.0, 0.4, 0.9]]])}
    np.testing.assert_allclose(program(weights, x), jnp.cos(x + 0.4), atol=1e-12)
    slope = jax.grad(lambda x: program(weights, x).sum())(x)
    np.testing.assert_allclose(slope, -jnp.sin(x + 0.4), atol=1e-12)


def test_one_sweep_serves_a_whole_jacobian() -> None:
    spec = CircuitSpec(2, 1, readout="bloch", dtype="float64")
    weights, angles, _ = problem(spec)
    catalyst, reference = (engines.get(name).program(spec, 3) for name in ("catalyst", "reference"))
    have, want = (jax.jacrev(program, argnums=1)(weights, angles) for program in (catalyst, reference))
    np.testing.assert_allclose(have, want, atol=1e-10)


def test_large_batches_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from qwafer.engines.catalyst import scan as _catalyst_scan

    engines.cache_clear()
    spec = CircuitSpec(2, 1, readout="bloch", dtype="float64")
    weights, angles, _ = problem(spec, batch=7)
    whole = engines.get("catalyst").program(spec, 7)(weights, angles)
    engines.cache_clear()
    monkeypatch.setattr(_catalyst_scan, "CHUNK_AMPLITUDES", 12)  # three examples per call, the last one padded
    np.testing.assert_allclose(engines.get("catalyst").program(spec, 7)(weights, angles), whole, rtol=0, atol=1e-14)
    engines.cache_clear()


@pytest.mark.parametrize("batching", ["scan", "choi"])
def test_results_have_the_dtype_of_the_spec(batching: str) -> None:
    spec = CircuitSpec(2, 1, readout="z_vec", n_outputs=2)
    weights, angles, cotangent = problem(spec)
    assert angles.dtype == jnp.float32
    program = engines.get("catalyst", batching=batching).program(spec, 3)
    assert all(part.dtype == np.float32 for part in value_and_vjp(program, weights, angles, cotangent))
    exact = engines.get("reference").program(CircuitSpec(2, 1, readout="z_vec", n_outputs=2, dtype="float64"), 3)
    np.testing.assert_allclose(program(weights, angles), exact(weights, angles), atol=3e-7)


def test_jit_vmap_and_repetition_change_nothing() -> None:
    spec = CircuitSpec(2, 1, readout="mean_z_readout", n_outputs=2, dtype="float64")
    weights, angles, cotangent = problem(spec)
    program = engines.get("catalyst").program(spec, 3)

    def loss(weights: Any, angles: Any) -> Any:
        return jnp.vdot(cotangent, program(weights, angles))

    eager = jax.grad(loss, argnums=(0, 1))(weights, angles)
    jitted = jax.jit(jax.grad(loss, argnums=(0, 1)))
    for _ in range(3):
        jax.tree.map(np.testing.assert_array_equal, jitted(weights, angles), eager)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), weights)
    mapped = jax.vmap(program, in_axes=(0, None))(several, angles)
    np.testing.assert_array_equal(mapped[0], program(weights, angles))
    np.testing.assert_array_equal(mapped[1], program(jax.tree.map(lambda leaf: 2 * leaf, weights), angles))


@pytest.mark.parametrize("batching", ["scan", "choi"])
def test_threads_take_turns(batching: str) -> None:
    spec = CircuitSpec(3, 2, dtype="float64")
    program = engines.get("catalyst", batching=batching).program(spec, 16)
    weights, _, _ = problem(spec)
    inputs = [jnp.full((16, 3), 0.1 * k) for k in range(6)]
    step = jax.jit(jax.grad(lambda w, x: (program(w, x) ** 2).sum(), argnums=(0, 1)))
    expected = [step(weights, x) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            jax.tree.map(np.testing.assert_array_equal, list(pool.map(lambda x: step(weights, x), inputs)), expected)


def test_exact_programs_do_not_depend_on_the_seed() -> None:
    engines.cache_clear()
    for seed in (0, 1):
        engines.get("catalyst").program(CircuitSpec(1, 1), 2, seed=seed)
    assert engines.cache_info()["misses"] == 1


def test_not_a_number_stays_in_its_example() -> None:
    spec = CircuitSpec(2, 1, dtype="float64")
    weights, angles, _ = problem(spec)
    angles = angles.at[1, 0].set(jnp.nan)
    for batching in ("scan", "choi"):
        program = engines.get("catalyst", batching=batching).program(spec, 3)
        value = program(weights, angles)
        assert np.isnan(value[1]).all()
        assert np.isfinite(value[jnp.asarray([0, 2])]).all()
        d_weights = jax.grad(lambda w, program=program: program(w, angles).sum())(weights)["ansatz"]
        assert np.isnan(d_weights).any()


def test_inference_does_no_gradient_work() -> None:
    spec = CircuitSpec(2, 1, dtype="float64")
    weights, angles, _ = problem(spec)
    for batching in ("scan", "choi"):
        engines.cache_clear()
        engine = engines.get("catalyst", batching=batching)
        lean = engine.program(spec, 3, gradient=False)
        lean_bytes = engines.cache_info()["bytes"]
        full = engine.program(spec, 3)
        assert engines.cache_info()["bytes"] > 2 * lean_bytes  # a second program, with more in it
        np.testing.assert_array_equal(lean(weights, angles), full(weights, angles))
        assert lean.info["diff_method"] is None
        with pytest.raises(InputError, match="gradient=False"):
            jax.grad(lambda x, lean=lean: lean(weights, x).sum())(angles)


def test_inert_angles_have_no_gradient_and_no_gate() -> None:
    from qwafer.engines.catalyst.plan import gate_plan

    spec = CircuitSpec(3, 2, dtype="float64")
    assert len(gate_plan(spec, z_only=True).steps) == len(gate_plan(spec, z_only=False).steps) - 3
    weights, angles, cotangent = problem(spec)
    reference = engines.get("reference").program(spec, 3)
    with jax.disable_jit():
        _, d_ansatz, _ = value_and_vjp(reference, weights, angles, cotangent)
    np.testing.assert_allclose(d_ansatz[-1, :, 2], 0, atol=1e-12)  # the last RZ commutes with what is measured
    _, d_ansatz, _ = value_and_vjp(engines.get("catalyst").program(spec, 3), weights, angles, cotangent)
    assert not d_ansatz[-1, :, 2].any()


def test_rotations_about_one_axis_are_merged() -> None:
    from qwafer.engines.catalyst.plan import gate_plan

    spec = CircuitSpec(3, 2, "rx", "basic_entangler", reupload=True, readout="bloch")
    assert gate_plan(spec, z_only=False).n_slots == 6  # RX(x) RX(w) is one gate
    spec = CircuitSpec(3, 2, "ry", "separable", readout="bloch")
    assert gate_plan(spec, z_only=False).n_slots == 3 * 6  # RY(x), RZ RY (RZ RZ) RY RZ
    spec = CircuitSpec(3, 2, "ry", "strongly_entangling", readout="bloch")
    assert gate_plan(spec, z_only=False).n_slots == 3 * 7


def test_auto_chooses_and_says_why() -> None:
    engine = engines.get("catalyst", batching="auto")
    large = engine.program(CircuitSpec(2, 1), 256)
    assert large.info["batching"] == "choi"
    assert "ms by scan" in large.info["batching_reason"]
    again = engine.program(CircuitSpec(2, 1, reupload=True, readout="z"), 1)
    assert again.info["batching"] in ("scan", "choi")  # one layer: nothing is encoded twice
    twice = engine.program(CircuitSpec(2, 2, reupload=True), 256)
    assert twice.info["batching"] == "scan"
    assert "again" in twice.info["batching_reason"]
    assert engines.get("catalyst").program(CircuitSpec(2, 1), 256).info["batching_reason"] == "asked for"


def test_refusals_say_what_to_use() -> None:
    with pytest.raises(CapabilityError, match="use batching scan"):
        engines.get("catalyst", batching="choi").program(CircuitSpec(2, 2, reupload=True), 4)
    with pytest.raises(CapabilityError, match="use batching scan"):
        engines.get("catalyst", batching="choi").program(CircuitSpec(11, 1), 4)
    with pytest.raises(CapabilityError, match="use batching scan"):
        engines.get("catalyst", batching="choi", shots=10)
    with pytest.raises(CapabilityError, match="use parameter-shift"):
        engines.get("catalyst", shots=10, diff_method="adjoint")
    with pytest.raises(CapabilityError, match=r"use lightning\.qubit"):
        engines.get("catalyst", device="lightning.nowhere").program(CircuitSpec(1, 1), 1)
    with pytest.raises(CapabilityError, match="use engine `xla` or `reference`"):
        engines.get("catalyst", device="default.qubit", shots=10).program(CircuitSpec(1, 1), 1)
    with pytest.raises(InputError, match="memory"):
        engines.get("catalyst").program(CircuitSpec(60, 1), 1)
    with pytest.raises(InputError, match=r"`batching` must be one of.*did you mean `scan`"):
        engines.get("catalyst", batching="scam")
    program = engines.get("catalyst").program(CircuitSpec(2, 1), 4)
    with pytest.raises(InputError, match=r"`inputs` must have shape \(4, 2\), got \(3, 2\)"):
        program({"ansatz": jnp.zeros((1, 2, 3))}, jnp.zeros((3, 2)))
