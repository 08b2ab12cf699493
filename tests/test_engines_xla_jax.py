"""Engine xla as a citizen of JAX: precision, transformations, compilations, memory, the choice of a plan."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer.circuits import CircuitSpec
from qwafer.engines import get
from qwafer.engines.xla import cost

SPECS = {
    "schroedinger": CircuitSpec(3, 2, "rz", readout="mean_z_readout", n_outputs=3, reupload=True),
    "heisenberg": CircuitSpec(3, 2, readout="mean_z_readout"),
    "product": CircuitSpec(3, 2, ansatz="separable", reupload=True),
}


def _inputs(spec, batch, dtype=None):
    rng = np.random.default_rng(0)
    dtype = dtype or spec.dtype
    weights = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in spec.weight_shapes().items()}
    return weights, jnp.asarray(rng.normal(size=(batch, spec.n_qubits)), dtype)


def _loss(program):
    return lambda w, x: jnp.sum(jnp.sin(program(w, x)))


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


@pytest.mark.parametrize("plan", SPECS)
@pytest.mark.parametrize("derivatives", ["reverse", "any"])
def test_float32_programs_hold_no_64_bit_number_though_x64_is_on(plan, derivatives):
    assert jax.config.read("jax_enable_x64")
    spec = SPECS[plan]
    program = get("xla", plan=plan, derivatives=derivatives).program(spec, 4)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(_loss(program), (0, 1)))(*_inputs(spec, 4))
    seen = [(equation.primitive.name, v.aval.dtype) for equation in _equations(jaxpr.jaxpr) for v in equation.outvars]
    assert len(seen) > 50
    wide = {(name, str(dtype)) for name, dtype in seen if dtype in (jnp.float64, jnp.complex128)}
    assert not wide


def test_float64_angles_into_a_float32_program_are_rounded_and_come_back_as_float64_gradients():
    spec = SPECS["heisenberg"]
    weights, angles = _inputs(spec, 4, "float64")
    program = get("xla").program(spec, 4)
    assert program(weights, angles).dtype == jnp.float32
    gradient = jax.grad(_loss(program), 1)(weights, angles)
    assert gradient.dtype == jnp.float64


def test_without_x64_float32_runs_and_float64_is_refused():
    script = """
    import jax, numpy as np
    from qwafer import InputError
    from qwafer.circuits import CircuitSpec
    from qwafer.engines import get
    spec = CircuitSpec(3, 2)
    s = get("xla").program(spec, 2)({"ansatz": np.ones((2, 3, 3))}, np.ones((2, 3)))
    assert s.dtype == np.float32 and not jax.config.read("jax_enable_x64")
    try:
        get("xla").program(CircuitSpec(3, 2, dtype="float64"), 2)
    except InputError as error:
        print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "jax_enable_x64" in run.stdout


@pytest.mark.parametrize("plan", SPECS)
def test_any_derivative_agrees_with_the_hand_written_reverse_pass(plan):
    spec = SPECS[plan]
    arguments = _inputs(spec, 4)
    reverse, anything = (_loss(get("xla", plan=plan, derivatives=d).program(spec, 4)) for d in ("reverse", "any"))
    want = jax.grad(reverse, (0, 1))(*arguments)
    have = jax.grad(anything, (0, 1))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), have, want)
    tangents = jax.tree.map(jnp.ones_like, arguments)
    _, slope = jax.jvp(anything, arguments, tangents)
    np.testing.assert_allclose(slope, sum(jnp.sum(leaf) for leaf in jax.tree.leaves(want)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("plan", ["schroedinger", "heisenberg"])
def test_hessian_in_a_weight_is_the_parameter_shift_rules(plan):
    spec = CircuitSpec(2, 2, dtype="float64")
    weights, angles = _inputs(spec, 1)
    program = get("xla", plan=plan, derivatives="any").program(spec, 1)
    place = (1, 0, 1)

    def value(theta):
        return program({"ansatz": weights["ansatz"].at[place].set(theta)}, angles)[0, 0]

    theta = weights["ansatz"][place]
    second = jax.jacfwd(jax.grad(value))(theta)
    np.testing.assert_allclose(second, (value(theta + jnp.pi) - value(theta)) / 2, atol=1e-10)


@pytest.mark.parametrize("plan", SPECS)
def test_vmap_over_weights_is_a_loop_over_them(plan):
    spec = SPECS[plan]
    weights, angles = _inputs(spec, 4)
    several = jax.tree.map(lambda w: jnp.stack([w, 2 * w, -w]), weights)
    gradient = jax.grad(_loss(get("xla", plan=plan).program(spec, 4)))
    have = jax.jit(jax.vmap(gradient, (0, None)))(several, angles)
    for i in range(3):
        want = gradient(jax.tree.map(lambda w, i=i: w[i], several), angles)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=2e-5), have, want)


def test_equal_programs_share_one_compilation():
    spec = CircuitSpec(3, 3, "rx", dtype="float64")
    weights, angles = _inputs(spec, 4)
    first, second = (get("xla").program(spec, 4) for _ in range(2))
    first(weights, angles)
    second(weights, 2 * angles)
    assert first._forward is second._forward
    assert first._forward._cache_size() == 1


@pytest.mark.slow
def test_memory_follows_the_chunk_not_the_batch():
    spec, chunk = CircuitSpec(9, 4), 16

    def scratch(**options):
        program = get("xla", plan="schroedinger", **options).program(spec, 256)
        step = jax.jit(jax.value_and_grad(_loss(program), (0, 1)))
        return step.lower(*_inputs(spec, 256)).compile().memory_analysis().temp_size_in_bytes

    chunked = scratch(chunk=chunk)
    assert chunked < scratch(chunk=256) / 6
    # Three blocks a step, three steps: the operands that the reverse pass need not keep when it computes them again.
    kept = 3 * 3 * chunk * 8 * 2**9
    assert chunked - scratch(chunk=chunk, recompute=True) > 0.6 * kept


def test_recomputing_is_chosen_where_the_states_of_a_chunk_are_too_many():
    small, large = (cost.choose(CircuitSpec(n, 6), 64, True) for n in (12, 20))
    assert not small.recompute
    assert large.recompute
    assert not cost.choose(CircuitSpec(20, 6), 64, False).recompute


@pytest.mark.parametrize(
    ("spec", "batch", "plan"),
    [
        (CircuitSpec(8, 6), 4096, "heisenberg"),
        (CircuitSpec(8, 6, reupload=True), 4096, "schroedinger"),
        (CircuitSpec(4, 2, reupload=True), 256, "schroedinger"),
        (CircuitSpec(4, 4, reupload=True), 256, "gates"),
        (CircuitSpec(4, 6, ansatz="separable", reupload=True), 256, "product"),
        (CircuitSpec(12, 6), 256, "schroedinger"),
        (CircuitSpec(10, 2), 16, "schroedinger"),
        (CircuitSpec(8, 6, ansatz="separable"), 64, "product"),
        (CircuitSpec(8, 0), 64, "product"),
    ],
)
def test_the_model_chooses(spec, batch, plan):
    choice = cost.choose(spec, batch, True)
    assert choice.plan == plan
    assert choice.expected_us[plan] == min(choice.expected_us.values())
    assert all(name in choice.reason for name in cost.PLANS if name != plan)


def test_a_small_circuit_that_encodes_again_is_run_by_its_gates():
    spec = CircuitSpec(4, 4, reupload=True)
    program = get("xla").program(spec, 16)
    assert program.info["plan"] == "gates"
    assert "schroedinger" in program.info["reason"]
    assert get("xla").program(spec, 16, gradient=False).info["plan"] == "schroedinger"
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype("float32") for name, shape in spec.weight_shapes().items()}
    inputs = rng.normal(size=(16, spec.n_inputs)).astype("float32")
    found = [np.asarray(get("xla", plan=plan).program(spec, 16)(weights, inputs)) for plan in ("auto", "schroedinger")]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_info_is_plain_data_with_the_work_it_counts():
    import json

    for plan, spec in SPECS.items():
        info = get("xla", plan=plan).program(spec, 4).info
        assert json.loads(json.dumps(info)) == info
        assert info["plan"] == plan
        assert info["reason"] == "asked for"
        forward = get("xla", plan=plan).program(spec, 4, gradient=False).info
        assert info["flops"] > forward["flops"] > 0
