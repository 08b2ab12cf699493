"""Parameter counts, names, groups and initial values: what pairing rests on."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.experimental import disable_x64

from qwafer import InputError
from qwafer.circuits import LayeredOptions
from qwafer.config import RunConfig
from qwafer.heads import PARAMETER_GROUPS, group_of
from qwafer.training import make_head
from tests.factories import head_options

FEATURES = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)


def config(head=None, **circuit):
    options = head_options(**(head or {}))
    return RunConfig(head=options, circuit=LayeredOptions(**circuit) if "circuit" in options.sections else None)


def test_the_two_known_parameter_counts_come_out():
    wide = np.random.default_rng(0).normal(size=(5, 1024)).astype(np.float32)
    mlp = make_head(config({"name": "mlp", "hidden": 256}), wide, 8, 0)
    quantum = make_head(config({"alpha_train": False}, n_qubits=4, n_layers=2, readout="z_vec"), wide, 8, 0)
    assert mlp.count()["trainable"] == 264_456
    assert quantum.count()["trainable"] == 4_164


@pytest.mark.parametrize(
    ("head", "circuit", "names"),
    [
        ({"name": "linear"}, {}, {"projection.linear.weight": (9, 3), "projection.linear.bias": (3,)}),
        (
            {"name": "mlp", "hidden": 5},
            {},
            {
                "projection.hidden.weight": (9, 5),
                "projection.hidden.bias": (5,),
                "projection.output.weight": (5, 3),
                "projection.output.bias": (3,),
            },
        ),
        (
            {},
            {"readout": "mean_z_readout"},
            {
                "projection.weight": (9, 4),
                "projection.bias": (4,),
                "circuit.ansatz": (2, 4, 3),
                "readout.angles": (3, 4, 3),
                "readout.bias": (3,),
                "alpha.raw": (),
            },
        ),
        (
            {"projection": "pca", "alpha_mode": "direct", "alpha_per_label": True},
            {"readout": "z_vec", "ansatz": "basic_entangler"},
            {"circuit.ansatz": (2, 4, 1), "readout.weights": (3, 4), "readout.bias": (3,), "alpha.value": (3,)},
        ),
        (
            {"projection": "fixed", "alpha_train": False},
            {"readout": "z_vec"},
            {"circuit.ansatz": (2, 4, 3), "readout.weights": (3, 4), "readout.bias": (3,)},
        ),
    ],
)
def test_trainable_arrays_have_names_groups_and_shapes(head, circuit, names):
    made = make_head(config(head, **circuit), FEATURES, 3, 0)
    assert {name: value.shape for name, value in made.parameters().items()} == names
    assert {group_of(name) for name in names} <= set(PARAMETER_GROUPS)
    assert made.count()["trainable"] == sum(math.prod(shape) for shape in names.values())
    assert all(value.dtype == np.float32 for value in jax.tree.leaves(made))


def test_arms_share_the_initial_value_of_every_parameter_both_have():
    plain = make_head(config(readout="mean_z"), FEATURES, 1, 7).parameters()
    rotated = make_head(config(readout="mean_z_readout"), FEATURES, 1, 7).parameters()
    assert set(plain) < set(rotated)
    for name, value in plain.items():
        assert value.tobytes() == rotated[name].tobytes(), name
    other = make_head(config(readout="mean_z"), FEATURES, 1, 8).parameters()
    assert not np.array_equal(plain["circuit.ansatz"], other["circuit.ansatz"])


def test_initial_values_do_not_depend_on_the_order_of_construction_or_on_the_engine():
    first = make_head(config(readout="z_vec"), FEATURES, 3, 5)
    make_head(config({"name": "mlp"}), FEATURES, 3, 5)
    again = make_head(dataclasses.replace(config(readout="z_vec")), FEATURES, 3, 5)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True))


def test_labels_of_a_readout_start_apart():
    for readout, name in (("mean_z_readout", "readout.angles"), ("z_vec", "readout.weights")):
        start = np.asarray(make_head(config(readout=readout), FEATURES, 2, 0).params[name])
        assert not np.allclose(start[0], start[1])


def test_z_vec_starts_around_the_mean():
    head = make_head(config({"init_scale": 0.0}, readout="z_vec"), FEATURES, 2, 0)
    np.testing.assert_allclose(head.params["readout.weights"], np.full((2, 4), 0.25))


def test_mean_z_cannot_serve_several_labels():
    with pytest.raises(InputError, match="mean_z has no weights"):
        make_head(config(readout="mean_z"), FEATURES, 2, 0)


def test_a_double_precision_circuit_makes_a_double_precision_head():
    head = make_head(config({"projection": "pca"}, dtype="float64"), FEATURES, 2, 0)
    assert {value.dtype.name for value in jax.tree.leaves(head)} == {"float64"}
    with disable_x64(), pytest.raises(InputError, match="jax_enable_x64"):
        make_head(config(dtype="float64"), FEATURES, 2, 0)


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)])
def test_unusable_features_are_refused(features):
    with pytest.raises(InputError, match="`features` must"):
        make_head(config(), features, 1, 0)
