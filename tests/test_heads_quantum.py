"""The score pipeline of the quantum head against closed forms and finite differences."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError, engines
from qwafer.circuits import LayeredOptions
from qwafer.config import RunConfig
from qwafer.engines.memory import available_memory, check_memory
from qwafer.heads import LinearOptions, MlpOptions, QuantumHead, predict_logits
from qwafer.training import make_head, make_program
from tests.factories import head_options

RNG = np.random.default_rng(1)
FEATURES = RNG.normal(2.0, 3.0, size=(30, 5)).astype(np.float32)


def config(head=None, **circuit):
    circuit = {"n_qubits": 3, "n_layers": 0, "dtype": "float64", "readout": "mean_z", **circuit}
    return RunConfig(head=head_options(**(head or {})), circuit=LayeredOptions(**circuit), engine=engines.get("xla"))


def standardized(features):
    return (features - features.mean(0)) / features.std(0)


@pytest.mark.parametrize(
    ("angle_map", "shape"),
    [("tanh", np.tanh), ("atan", lambda z: 2 / np.pi * np.arctan(z)), ("linear", lambda z: z)],
)
def test_logits_are_alpha_times_score_plus_bias(angle_map, shape):
    chosen = config({"angle_map": angle_map, "angle_scale": 1.1, "alpha_init": 2.5})
    head = make_head(chosen, FEATURES, 1, 0)
    head = head.with_parameters({**head.params, "readout.bias": jnp.asarray([0.3])})
    x = standardized(FEATURES.astype(np.float64))
    angles = 1.1 * shape(x @ np.asarray(head.params["projection.weight"]))
    # Without layers the circuit is the encoding alone, and <Z_i> = cos(angle_i).
    expected = 2.5 * (np.cos(angles).mean(axis=1) + 0.3)
    program = make_program(chosen, 1, len(FEATURES))
    np.testing.assert_allclose(head.inputs(FEATURES), angles, atol=1e-6)
    np.testing.assert_allclose(head.logits(FEATURES, program)[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(head.scores(FEATURES, program)[:, 0], np.cos(angles).mean(axis=1), atol=1e-6)


def test_each_label_has_its_own_readout_bias_and_alpha():
    chosen = config({"alpha_per_label": True, "alpha_mode": "direct"}, readout="z_vec")
    head = make_head(chosen, FEATURES, 2, 0)
    weights, alpha, bias = RNG.normal(size=(2, 3)), np.array([2.0, -3.0]), np.array([0.1, 0.7])
    head = head.with_parameters(
        {
            **head.params,
            "readout.weights": jnp.asarray(weights),
            "alpha.value": jnp.asarray(alpha),
            "readout.bias": jnp.asarray(bias),
        }
    )
    z = np.cos(np.asarray(head.inputs(FEATURES)))
    logits = head.logits(FEATURES, make_program(chosen, 2, len(FEATURES)))
    np.testing.assert_allclose(logits, alpha * (z @ weights.T + bias), atol=1e-10)


@pytest.mark.parametrize("alpha_init", [0.0011, 0.5, 4.0, 60.0])
def test_softplus_alpha_starts_at_its_initial_value_and_stays_positive(alpha_init):
    head = make_head(config({"alpha_init": alpha_init}), FEATURES, 1, 0)
    np.testing.assert_allclose(head.alpha(), [alpha_init], rtol=1e-9)
    low = head.with_parameters({**head.params, "alpha.raw": jnp.asarray(-1e4)})
    np.testing.assert_allclose(low.alpha(), [1e-3])


def test_direct_alpha_may_cross_zero_and_invert_the_ranking():
    chosen = config({"alpha_mode": "direct", "alpha_init": 1.0})
    head = make_head(chosen, FEATURES, 1, 0)
    program = make_program(chosen, 1, len(FEATURES))
    flipped = head.with_parameters({**head.params, "alpha.value": jnp.asarray(-1.0)})
    np.testing.assert_allclose(flipped.logits(FEATURES, program), -head.logits(FEATURES, program))


def test_a_frozen_alpha_is_no_parameter():
    head = make_head(config({"alpha_train": False, "alpha_init": 3.0}), FEATURES, 1, 0)
    assert not [name for name in head.parameters() if name.startswith("alpha")]
    np.testing.assert_allclose(head.alpha(), [3.0])


@pytest.mark.parametrize("head_options", [{}, {"alpha_mode": "direct", "projection": "pca", "angle_map": "atan"}])
def test_gradients_equal_finite_differences(head_options):
    chosen = config(head_options, n_qubits=2, n_layers=1, readout="mean_z_readout")
    head = make_head(chosen, FEATURES, 2, 3)
    program = make_program(chosen, 2, 4)
    x = FEATURES[:4]

    @jax.jit
    def total(params):
        return jnp.sum(jnp.sin(head.with_parameters(params).logits(x, program)))

    gradient = jax.jit(jax.grad(total))(head.params)
    step = 1e-5
    for name, value in head.params.items():
        direction = RNG.normal(size=value.shape)
        ahead, behind = (total({**head.params, name: value + sign * step * jnp.asarray(direction)}) for sign in (1, -1))
        slope = float((ahead - behind) / (2 * step))
        np.testing.assert_allclose(np.sum(np.asarray(gradient[name]) * direction), slope, atol=1e-6, err_msg=name)


def test_features_are_standardised_by_the_training_split_and_constants_survive():
    features = np.concatenate([FEATURES, np.full((30, 1), 1e4, np.float32)], axis=1)
    head = make_head(RunConfig(head=LinearOptions()), features, 1, 0)
    np.testing.assert_allclose(head.standardized(features)[:, :5], standardized(FEATURES), atol=1e-4)
    np.testing.assert_array_equal(head.standardized(features)[:, 5], np.zeros(30))
    raw = make_head(RunConfig(head=LinearOptions(normalize="raw")), features, 1, 0)
    np.testing.assert_array_equal(raw.standardized(features), features)


def test_predictions_do_not_depend_on_the_batch_size():
    chosen = config(dtype="float32")
    head = make_head(chosen, FEATURES, 1, 0)
    logits = [
        predict_logits(head, FEATURES, make_program(chosen, 1, batch, gradient=False), batch) for batch in (7, 30, 64)
    ]
    assert logits[0].shape == (30, 1)
    for other in logits[1:]:
        np.testing.assert_allclose(logits[0], other, atol=1e-6)
    assert predict_logits(head, FEATURES[:0], make_program(chosen, 1, 7, gradient=False), 7).shape == (0, 1)


def test_equal_requests_share_one_program():
    chosen = config()
    assert make_program(chosen, 1, 8) is make_program(config(), 1, 8)
    assert make_program(chosen, 1, 8) is not make_program(chosen, 1, 9)
    assert make_program(RunConfig(head=MlpOptions()), 1, 8) is None


def test_a_quantum_head_without_a_program_says_what_is_missing():
    with pytest.raises(InputError, match="make_program"):
        make_head(config(), FEATURES, 1, 0).logits(FEATURES, None)


@pytest.mark.parametrize(("n_qubits", "amount"), [(45, r"[\d.e+]+ PiB"), (200, r"2\^\d+ bytes")])
@pytest.mark.parametrize("engine", ["xla", "reference", "auto"])
def test_more_qubits_than_memory_holds_are_refused_in_one_sentence(n_qubits, amount, engine):
    chosen = dataclasses.replace(config(n_qubits=n_qubits, n_layers=2, dtype="float32"), engine=engines.get(engine))
    with pytest.raises(
        InputError, match=f"`circuit.n_qubits` = {n_qubits} needs {amount} .* available: use fewer"
    ) as e:
        make_program(chosen, 1, 4)
    assert "\n" not in str(e.value)


def test_a_circuit_that_needs_no_state_may_have_more_wires():
    chosen = config(n_qubits=45, dtype="float32")  # no layers: every wire on its own
    angles = np.linspace(0, 1, 4 * 45, dtype=np.float32).reshape(4, 45)
    scores = make_program(chosen, 1, 4)({"ansatz": jnp.zeros((0, 45, 3))}, angles)
    np.testing.assert_allclose(scores[:, 0], np.cos(angles).mean(axis=1), atol=1e-5)


def test_memory_is_what_the_kernel_and_the_container_leave(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\n")
    assert available_memory(meminfo, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert available_memory(meminfo, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory(meminfo, tmp_path) == 4000
    assert available_memory(tmp_path / "absent", tmp_path / "absent") is None
    assert check_memory(LayeredOptions(n_qubits=2).circuit(1), 1000, 1) == 1000


def test_the_gradient_flows_through_projection_and_circuit_alike():
    chosen = config(n_qubits=2, n_layers=1, dtype="float32")
    head = make_head(chosen, FEATURES, 1, 0)
    assert isinstance(head, QuantumHead)
    program = make_program(chosen, 1, 4)
    gradient = jax.grad(lambda h: jnp.sum(h.logits(FEATURES[:4], program)))(head)
    assert math.isfinite(float(sum(jnp.sum(jnp.abs(value)) for value in gradient.params.values())))
    assert float(jnp.max(jnp.abs(gradient.params["projection.weight"]))) > 1e-4
    assert gradient.params["projection.weight"].dtype == np.float32


def test_a_product_circuit_of_forty_wires_needs_no_state():
    chosen = config(n_qubits=40, ansatz="separable", readout="z_vec", dtype="float64")
    head = make_head(chosen, FEATURES, 1, 0)
    program = make_program(chosen, 1, len(FEATURES))
    assert program.info["plan"] == "product"
    assert np.isfinite(head.logits(FEATURES, program)).all()
